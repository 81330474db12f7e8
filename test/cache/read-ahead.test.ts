/** What is read ahead comes before it is asked for, and never lies. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { silentLog } from "../../src/base/log.ts";
import type { Name } from "../../src/base/name.ts";
import { CachedFileSystem } from "../../src/cache/cached.ts";
import { FRESH_MS } from "../../src/cache/open-reader.ts";
import { type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { CTX, HeldFile } from "./held-file.ts";

const SECTION = 1024;
const WHOLE = 64 * SECTION;

async function setUp(
  options: {
    lineBytes?: number;
    kernelReadAheadBytes?: number;
    readAheadBytesMax?: number;
    attrTimeoutMs?: number;
  } = {},
) {
  const file = new HeldFile();
  file.content = Buffer.alloc(WHOLE);
  for (let at = 0; at < WHOLE; at += 4) file.content.writeUInt32LE(at, at);
  const clock = new FakeClock();
  const cached = new CachedFileSystem(file, {
    sectionBytes: SECTION,
    writeBehindBytesMax: 4 * SECTION,
    readAheadBytesMax: options.readAheadBytesMax ?? 32 * SECTION,
    kernelReadAheadBytes: () => options.kernelReadAheadBytes ?? 0,
    lineBytes: () => options.lineBytes ?? 256 * SECTION,
    attrTimeoutMs: options.attrTimeoutMs ?? 1000,
    clock,
    log: silentLog,
  });
  const { handle } = await cached.open(CTX, file.id, OpenFlag.READ | OpenFlag.WRITE);
  const read = async (offsetBytes: number, lengthBytes: number) => {
    const target = Buffer.alloc(lengthBytes);
    const count = await cached.read(CTX, handle, offsetBytes, target);
    return target.subarray(0, count);
  };
  return { file, clock, cached, handle, read };
}

/** Reads [offset, offset + length) with everything that is asked for let go, and checks it. */
async function readNow(made: Awaited<ReturnType<typeof setUp>>, offsetBytes: number, lengthBytes: number) {
  const reading = made.read(offsetBytes, lengthBytes);
  await made.file.releaseAll();
  assert.ok((await reading).equals(made.file.content.subarray(offsetBytes, offsetBytes + lengthBytes)));
}

describe("read-ahead", () => {
  it("sends the foreground read first, and answers the next one without asking again", async () => {
    const made = await setUp();
    const reading = made.read(0, SECTION);
    assert.equal(made.file.held[0]?.offsetBytes, 0);
    assert.ok(made.file.held.length > 1, "more was asked for");
    await made.file.releaseAll();
    await reading;
    made.file.log.length = 0;
    const next = made.read(SECTION, SECTION);
    assert.ok((await next).equals(made.file.content.subarray(SECTION, 2 * SECTION)));
    assert.ok(!made.file.held.some(({ offsetBytes }) => offsetBytes === SECTION));
    await made.file.releaseAll();
  });

  it("withdraws what is on its way when nobody will read it, and keeps what somebody waits for", async () => {
    const made = await setUp();
    const first = made.read(0, SECTION);
    const next = made.read(SECTION, SECTION);
    assert.ok(made.file.held.length > 10);
    await made.cached.release(CTX, made.handle);
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(
      made.file.held.map(({ offsetBytes }) => offsetBytes),
      [0, SECTION],
    );
    await made.file.releaseAll();
    await Promise.all([first, next]);
    assert.equal(made.cached.figures.readAheadBytes, 0);
  });

  it("reads a whole file in order, in odd sizes, within its bound", async () => {
    const made = await setUp();
    for (let at = 0; at < WHOLE; at += 700) {
      await readNow(made, at, Math.min(700, WHOLE - at));
      assert.ok(made.cached.figures.readAheadBytes <= 32 * SECTION);
    }
    await made.cached.release(CTX, made.handle);
    assert.equal(made.cached.figures.readAheadBytes, 0);
  });

  it("asks for about as many requests as there are sections", async () => {
    const made = await setUp();
    for (let at = 0; at < WHOLE; at += 128) await readNow(made, at, 128);
    const reads = made.file.log.filter((op) => op === "read").length;
    assert.ok(reads < (WHOLE / SECTION) * 1.5, `${reads} reads`);
  });

  it("does not use what was read ahead before the file was changed", async () => {
    for (const change of ["buffered write", "truncate", "fallocate"]) {
      const made = await setUp();
      await readNow(made, 0, SECTION);
      if (change === "buffered write") {
        await made.cached.write(CTX, made.handle, SECTION, Buffer.alloc(10, 0xff));
      } else if (change === "truncate") {
        await made.cached.setattr(CTX, made.file.id, { sizeBytes: SECTION + 5 });
        assert.equal(made.file.content.length, SECTION + 5);
      } else {
        made.file.fallocate = async () => void made.file.content.fill(0xaa, SECTION);
        await made.cached.fallocate(CTX, made.handle, 0, 0, WHOLE);
      }
      const target = Buffer.alloc(SECTION);
      const reading = made.cached.read(CTX, made.handle, SECTION, target);
      await made.file.releaseAll();
      const count = await reading;
      assert.ok(target.subarray(0, count).equals(made.file.content.subarray(SECTION, 2 * SECTION)), change);
    }
  });

  it("does not use a piece that was on its way when the file was changed", async () => {
    const made = await setUp();
    const first = made.read(0, SECTION);
    made.file.held[0]?.go();
    await first;
    assert.ok(made.file.held.length > 0, "pieces are on their way");
    const ahead = [...made.file.held];
    await made.cached.write(CTX, made.handle, SECTION, Buffer.alloc(SECTION, 0xff));
    for (const held of ahead) held.go();
    const reading = made.read(SECTION, SECTION);
    await made.file.releaseAll();
    assert.ok((await reading).equals(Buffer.alloc(SECTION, 0xff)));
  });

  it("does not use what is older than the kernel's caches may be", async () => {
    const made = await setUp();
    await readNow(made, 0, SECTION);
    made.file.content = Buffer.alloc(WHOLE, 9);
    made.clock.advance(FRESH_MS + 1);
    await readNow(made, SECTION, SECTION);
  });

  it("does not use what was read ahead before another open, of whatever kind, found the file changed by others", async () => {
    const opens: Record<string, (made: Awaited<ReturnType<typeof setUp>>) => Promise<unknown>> = {
      read: ({ cached, file }) => cached.open(CTX, file.id, OpenFlag.READ),
      write: ({ cached, file }) => cached.open(CTX, file.id, OpenFlag.WRITE),
      direct: ({ cached, file }) => cached.open(CTX, file.id, OpenFlag.READ | OpenFlag.DIRECT),
      create: ({ cached }) =>
        cached.create(CTX, "root" as NodeId, "name" as Name, OpenFlag.READ, { mode: 0o644, umask: 0o22 }),
    };
    for (const [kind, openAgain] of Object.entries(opens)) {
      const made = await setUp();
      await readNow(made, 0, SECTION);
      made.file.content = Buffer.alloc(WHOLE, 9);
      made.file.mtimeNsec += 1;
      await openAgain(made);
      const reading = made.read(SECTION, SECTION);
      await made.file.releaseAll();
      assert.ok((await reading).equals(Buffer.alloc(SECTION, 9)), kind);
    }
  });

  it("keeps what was read ahead when the file is opened again and nobody has changed it", async () => {
    const made = await setUp();
    await readNow(made, 0, SECTION);
    await made.cached.open(CTX, made.file.id, OpenFlag.READ);
    const reads = made.file.log.length;
    await made.read(SECTION, 128);
    assert.equal(made.file.log.length, reads);
  });

  it("answers reads of a small file from what came with its open, while it is fresh and unchanged", async () => {
    const read = async (change?: (made: Awaited<ReturnType<typeof setUp>>) => Promise<unknown> | unknown) => {
      const made = await setUp();
      made.file.content = Buffer.from("small");
      made.file.openContent = Buffer.from("small");
      const { handle } = await made.cached.open(CTX, made.file.id, OpenFlag.READ);
      await change?.(made);
      const target = Buffer.alloc(4096);
      const reading = made.cached.read(CTX, handle, 0, target);
      const asked = made.file.held.filter(({ op }) => op === "read").length;
      await made.file.releaseAll();
      const text = target.toString("utf8", 0, await reading);
      await made.cached.release(CTX, handle);
      await made.cached.release(CTX, made.handle);
      assert.equal(made.cached.figures.readAheadBytes, 0);
      return { text, asked };
    };
    assert.deepEqual(await read(), { text: "small", asked: 0 });
    assert.equal((await read(({ clock }) => clock.advance(FRESH_MS + 1))).asked, 1);
    const changed = await read(async ({ cached, handle, file }) => {
      await cached.write(CTX, handle, 0, Buffer.from("other"));
      await file.releaseAll();
    });
    assert.equal(changed.text, "other");
  });

  it("does not believe the content of an open during which the file was written", async () => {
    const made = await setUp();
    made.file.content = Buffer.from("small");
    made.file.openContent = Buffer.from("small");
    const open = made.file.open.bind(made.file);
    let answer = () => {};
    const answered = new Promise<void>((resolve) => {
      answer = resolve;
    });
    made.file.open = async (...request) => {
      const opened = await open(...request);
      await answered;
      return opened;
    };
    const opening = made.cached.open(CTX, made.file.id, OpenFlag.READ);
    await made.cached.write(CTX, made.handle, 0, Buffer.from("other"));
    const flushed = made.cached.flush(CTX, made.handle);
    await made.file.releaseAll();
    await flushed;
    answer();
    const { handle } = await opening;
    const target = Buffer.alloc(4096);
    const reading = made.cached.read(CTX, handle, 0, target);
    await made.file.releaseAll();
    assert.equal(target.toString("utf8", 0, await reading), "other");
  });

  it("leaves errors to the read that meets them", async () => {
    const made = await setUp();
    const first = made.read(0, SECTION);
    made.file.held[0]?.go();
    for (const held of [...made.file.held]) held.go("EIO");
    await first;
    const next = made.read(SECTION, SECTION);
    await new Promise((resolve) => setImmediate(resolve));
    made.file.held.find(({ offsetBytes }) => offsetBytes === SECTION)?.go("EIO");
    await assert.rejects(next, { errno: "EIO" });
    await made.file.releaseAll();
  });

  it("fails a read of which only the beginning is in memory when the rest fails: short would be the end of the file", async () => {
    for (const errno of ["EIO", "ESTALE", "EHOSTDOWN", "EINTR"] as const) {
      const made = await setUp();
      const first = made.read(0, SECTION);
      made.file.held[0]?.go();
      made.file.held.find(({ offsetBytes }) => offsetBytes === SECTION)?.go();
      for (const held of [...made.file.held]) held.go(errno);
      await first;
      const next = made.read(SECTION, 3 * SECTION);
      await new Promise((resolve) => setImmediate(resolve));
      assert.ok(!made.file.held.some(({ offsetBytes }) => offsetBytes === SECTION), "the beginning is in memory");
      made.file.held.find(({ offsetBytes }) => offsetBytes === 2 * SECTION)?.go(errno);
      await assert.rejects(next, { errno });
      await made.file.releaseAll();
    }
  });

  it("does not mind that a part fails that lies behind the end of the file", async () => {
    const made = await setUp();
    const first = made.read(0, SECTION);
    made.file.held[0]?.go();
    for (const held of [...made.file.held]) held.go(held.offsetBytes === 3 * SECTION ? undefined : "EIO");
    await first;
    made.file.content = made.file.content.subarray(0, 2 * SECTION - 1);
    const next = made.read(SECTION, 4 * SECTION);
    made.file.held.find(({ offsetBytes }) => offsetBytes === SECTION)?.go();
    for (const held of [...made.file.held]) held.go("EIO");
    assert.equal((await next).length, SECTION - 1);
  });

  describe("asks for the attributes with the end of the file", () => {
    type Change = (made: Awaited<ReturnType<typeof setUp>>) => Promise<unknown>;

    /** Reads to the end in a time, and says what the kernel's question for attributes costs then. */
    async function readToEnd(options: { tookMs: number; thenMs?: number; attrTimeoutMs?: number; change?: Change }) {
      const made = await setUp(options);
      const { file, clock, cached, handle } = made;
      for (let at = 0; at < WHOLE; at += SECTION) {
        if (at === WHOLE / 4) clock.advance(options.tookMs);
        await readNow(made, at, SECTION);
      }
      await options.change?.(made);
      clock.advance(options.thenMs ?? 0);
      const asked = () => file.log.filter((op) => op === "getattr").length;
      const before = asked();
      const attr = await cached.getattr(CTX, file.id, handle);
      const first = asked() - before;
      await cached.getattr(CTX, file.id, handle);
      return { ahead: before, first, second: asked() - before - first, sizeBytes: attr.sizeBytes };
    }

    it("if the kernel's will be old by then, and gives them once", async () => {
      const costs = await readToEnd({ tookMs: 900 });
      assert.deepEqual(costs, { ahead: 1, first: 0, second: 1, sizeBytes: WHOLE });
    });

    it("but not if they are fresh, or never believed", async () => {
      for (const options of [{ tookMs: 100 }, { tookMs: 900, attrTimeoutMs: 0 }]) {
        assert.deepEqual(await readToEnd(options), { ahead: 0, first: 1, second: 1, sizeBytes: WHOLE });
      }
    });

    it("and does not give them when they are old, or the file was changed", async () => {
      assert.deepEqual(await readToEnd({ tookMs: 900, thenMs: 251 }), {
        ahead: 1,
        first: 1,
        second: 1,
        sizeBytes: WHOLE,
      });
      const change: Change = ({ cached, file }) => cached.setattr(CTX, file.id, { sizeBytes: 10 });
      const changed = await readToEnd({ tookMs: 900, change });
      assert.deepEqual(changed, { ahead: 1, first: 1, second: 1, sizeBytes: 10 });
    });

    it("and does not give them after a change of attributes alone, also where only a name says of which file", async () => {
      const [parent, name, value] = ["root" as NodeId, "name" as Name, Buffer.from("value")];
      const changes: Record<string, Change> = {
        link: ({ cached, file }) => cached.link(CTX, file.id, parent, name),
        unlink: ({ cached }) => cached.unlink(CTX, parent, name),
        rename: ({ cached }) => cached.rename(CTX, parent, name, parent, "other" as Name, 0),
        setxattr: ({ cached, file }) => cached.setxattr(CTX, file.id, name, value, 0),
        removexattr: ({ cached, file }) => cached.removexattr(CTX, file.id, name),
      };
      for (const [op, change] of Object.entries(changes)) {
        const costs = await readToEnd({ tookMs: 900, change });
        assert.deepEqual(costs, { ahead: 1, first: 1, second: 1, sizeBytes: WHOLE }, op);
      }
    });

    it("but not while there are unsent writes, which the question would overtake", async () => {
      const made = await setUp();
      const { file, clock, cached, handle } = made;
      await readNow(made, 0, SECTION);
      clock.advance(900);
      await cached.write(CTX, handle, WHOLE, Buffer.alloc(SECTION, 7));
      for (let at = SECTION; at < WHOLE; at += SECTION) {
        const reading = made.read(at, SECTION);
        for (const held of [...file.held]) if (held.op === "read") held.go();
        await reading;
      }
      assert.ok(cached.figures.dirtyBytes > 0, "the write is unsent while the end is read ahead");
      await file.releaseAll();
      assert.equal(cached.figures.dirtyBytes, 0);
      assert.equal((await cached.getattr(CTX, file.id, handle)).sizeBytes, WHOLE + SECTION);
    });
  });

  it("reads nothing ahead that the kernel does, or that a short line needs not", async () => {
    for (const options of [
      { lineBytes: 8 * SECTION },
      { kernelReadAheadBytes: 512 * SECTION },
      { readAheadBytesMax: 0 },
    ]) {
      const made = await setUp(options);
      for (let at = 0; at < 8 * SECTION; at += SECTION) {
        const reading = made.read(at, SECTION);
        assert.equal(made.file.held.length, 1);
        await made.file.releaseAll();
        await reading;
      }
    }
  });
});
