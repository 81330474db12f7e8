/** Writes are acknowledged early, and nobody can tell except by time. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { FsError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import { CachedFileSystem } from "../../src/cache/cached.ts";
import { PARTIAL_REST_MS } from "../../src/cache/write-behind.ts";
import { type HandleId, OpenFlag, RenameFlag } from "../../src/vfs/file-system.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { CTX, HeldFile } from "./held-file.ts";

const SECTION = 1024;
const WRITE = OpenFlag.READ | OpenFlag.WRITE;

function setUp(writeBehindBytesMax = 8 * SECTION) {
  const file = new HeldFile();
  const clock = new FakeClock();
  const lines: string[] = [];
  const log = { ...silentLog, error: (text: string) => void lines.push(text) };
  const limits = { sectionBytes: SECTION, writeBehindBytesMax, readAheadBytesMax: 0, kernelReadAheadBytes: () => 0 };
  const options = { ...limits, attrTimeoutMs: 1000, clock, log, lineBytes: () => 0 };
  return { file, clock, lines, cached: new CachedFileSystem(file, options) };
}

/** Whether `promise` has settled once everything that is ready has run. */
async function isSettled(promise: Promise<unknown>): Promise<boolean> {
  let settled = false;
  const mark = () => {
    settled = true;
  };
  promise.then(mark, mark);
  await new Promise((resolve) => setImmediate(resolve));
  return settled;
}

const failsWith = (errno: string) => (error: unknown) => (error as FsError).errno === errno;

describe("write-behind", () => {
  it("acknowledges a buffered write before the server has it, and sends full sections at once", async () => {
    const { file, cached } = setUp();
    const { handle } = await cached.open(CTX, file.id, WRITE);
    assert.equal(await cached.write(CTX, handle, 0, Buffer.alloc(2 * SECTION + 10, 1)), 2 * SECTION + 10);
    assert.deepEqual(
      file.held.map(({ offsetBytes, lengthBytes }) => [offsetBytes, lengthBytes]),
      [
        [0, SECTION],
        [SECTION, SECTION],
      ],
    );
    assert.equal(cached.figures.dirtyBytes, 2 * SECTION + 10);
    const flushed = cached.flush(CTX, handle);
    await file.releaseAll();
    await flushed;
    assert.equal(cached.figures.dirtyBytes, 0);
    assert.ok(file.content.equals(Buffer.alloc(2 * SECTION + 10, 1)));
  });

  it("answers who writes before it sends, so that he goes on meanwhile", async () => {
    const { file, cached } = setUp();
    const { handle } = await cached.open(CTX, file.id, WRITE);
    const order: string[] = [];
    // As a channel does, which sends what was queued in a tick.
    file.began = () => process.nextTick(() => order.push("sent"));
    await new Promise<void>((resolve) => {
      setImmediate(() => {
        void cached.write(CTX, handle, 0, Buffer.alloc(SECTION)).then(() => order.push("answered"));
        setImmediate(resolve);
      });
    });
    assert.deepEqual(order, ["answered", "sent"]);
    await file.releaseAll();
  });

  it("keeps data that is lent until the server has it, or will not take it", async () => {
    for (const errno of [undefined, "ENOSPC"] as const) {
      const { file, cached } = setUp();
      const { handle } = await cached.open(CTX, file.id, WRITE);
      let loans = 0;
      const lend = () => {
        loans += 1;
        return () => {
          loans -= 1;
        };
      };
      await cached.write(CTX, handle, 0, Buffer.alloc(SECTION, 1), { lend });
      assert.equal(loans, 1);
      file.held[0]?.go(errno);
      await new Promise((resolve) => setImmediate(resolve));
      assert.equal(loans, 0);
    }
  });

  it("asks for no data that it does not keep: of an open that writes through", async () => {
    const { file, cached } = setUp();
    const { handle } = await cached.open(CTX, file.id, WRITE | OpenFlag.SYNC);
    const lend = () => assert.fail("asked for");
    const written = cached.write(CTX, handle, 0, Buffer.alloc(SECTION), { lend });
    await file.releaseAll();
    assert.equal(await written, SECTION);
  });

  it("lets a part of a section rest, and sends it when nothing follows", async () => {
    const { file, cached, clock } = setUp();
    const { handle } = await cached.open(CTX, file.id, WRITE);
    await cached.write(CTX, handle, 0, Buffer.alloc(10));
    clock.advance(PARTIAL_REST_MS - 1);
    await cached.write(CTX, handle, 10, Buffer.alloc(10));
    clock.advance(PARTIAL_REST_MS - 1);
    assert.equal(file.held.length, 0);
    clock.advance(1);
    assert.equal(file.held[0]?.lengthBytes, 20);
    await file.releaseAll();
    assert.equal(clock.pendingCount, 0);
  });

  it("sends a part that rested while it overlapped one on its way, when that is answered, unless it has grown meanwhile", async () => {
    for (const grows of [false, true]) {
      const { file, cached, clock } = setUp();
      const { handle } = await cached.open(CTX, file.id, WRITE);
      await cached.write(CTX, handle, 0, Buffer.alloc(10, 1));
      clock.advance(PARTIAL_REST_MS);
      await cached.write(CTX, handle, 0, Buffer.alloc(10, 2));
      clock.advance(PARTIAL_REST_MS);
      assert.equal(file.held.length, 1, "they overlap");
      if (grows) await cached.write(CTX, handle, 10, Buffer.alloc(10, 2));
      file.held[0]?.go();
      await new Promise((resolve) => setImmediate(resolve));
      assert.equal(file.held.length, grows ? 0 : 1);
      if (grows) clock.advance(PARTIAL_REST_MS);
      assert.equal(file.held[0]?.lengthBytes, grows ? 20 : 10);
      await file.releaseAll();
      assert.ok(file.content.equals(Buffer.alloc(grows ? 20 : 10, 2)));
      assert.equal(cached.figures.dirtyBytes, 0);
      assert.equal(clock.pendingCount, 0);
    }
  });

  it("sends a part that rested while as much was on its way as may be, when something is answered", async () => {
    const { file, cached, clock } = setUp(200 * SECTION);
    const { handle } = await cached.open(CTX, file.id, WRITE);
    await cached.write(CTX, handle, 0, Buffer.alloc(150 * SECTION + 10));
    const inFlight = file.held.length;
    assert.ok(inFlight < 150);
    clock.advance(PARTIAL_REST_MS);
    while (file.held.length === inFlight) {
      file.held[0]?.go();
      await new Promise((resolve) => setImmediate(resolve));
    }
    assert.equal(file.log.filter((op) => op === "write").length, 151);
    assert.equal(file.held.at(-1)?.lengthBytes, 10);
    await file.releaseAll();
    assert.equal(cached.figures.dirtyBytes, 0);
  });

  it("makes writers wait when the window is full, until a section is acknowledged or they are interrupted", async () => {
    const { file, cached } = setUp(2 * SECTION);
    const { handle } = await cached.open(CTX, file.id, WRITE);
    await cached.write(CTX, handle, 0, Buffer.alloc(2 * SECTION));
    const interrupt = new AbortController();
    const interrupted = cached.write({ ...CTX, signal: interrupt.signal }, handle, 2 * SECTION, Buffer.alloc(SECTION));
    const waiting = cached.write(CTX, handle, 3 * SECTION, Buffer.alloc(SECTION));
    assert.equal(await isSettled(waiting), false);
    interrupt.abort();
    await assert.rejects(interrupted, { name: "AbortError" });
    file.held[0]?.go();
    assert.equal(await waiting, SECTION);
    assert.ok(cached.figures.dirtyBytes <= 2 * SECTION);
    await file.releaseAll();
  });

  for (const op of ["fsync", "flush"] as const) {
    it(`reports the error of an acknowledged write once, at the next ${op}, and logs it`, async () => {
      const { file, cached, lines } = setUp();
      const writer = await cached.open(CTX, file.id, WRITE);
      const other = await cached.open(CTX, file.id, WRITE);
      const reader = await cached.open(CTX, file.id, OpenFlag.READ);
      await cached.write(CTX, writer.handle, 0, Buffer.alloc(SECTION));
      file.held[0]?.go("ENOSPC");
      const call = (handle: typeof writer.handle) =>
        op === "fsync" ? cached.fsync(CTX, handle, true) : cached.flush(CTX, handle);
      await assert.rejects(call(writer.handle), failsWith("ENOSPC"));
      await call(writer.handle);
      await assert.rejects(call(other.handle), failsWith("ENOSPC"));
      await call(reader.handle);
      assert.match(lines.join(), /1024 bytes at 0 .* ENOSPC/);
    });
  }

  it("reports the error of an acknowledged write at the next write", async () => {
    const { file, cached } = setUp();
    const { handle } = await cached.open(CTX, file.id, WRITE);
    await cached.write(CTX, handle, 0, Buffer.alloc(SECTION));
    file.held[0]?.go("EDQUOT");
    await new Promise((resolve) => setImmediate(resolve));
    await assert.rejects(cached.write(CTX, handle, SECTION, Buffer.alloc(1)), failsWith("EDQUOT"));
    assert.equal(await cached.write(CTX, handle, SECTION, Buffer.alloc(SECTION)), SECTION);
    await file.releaseAll();
  });

  it("shows every other request a file that has all acknowledged writes", async () => {
    const requests = {
      getattr: (cached: CachedFileSystem, file: HeldFile) => cached.getattr(CTX, file.id),
      lookup: (cached: CachedFileSystem, file: HeldFile) => cached.lookup(CTX, file.id, "f" as never),
      truncate: (cached: CachedFileSystem, file: HeldFile) => cached.setattr(CTX, file.id, { sizeBytes: 5 }),
      rename: (cached: CachedFileSystem, file: HeldFile) =>
        cached.rename(CTX, file.id, "f" as never, file.id, "g" as never, 0),
      setxattr: (cached: CachedFileSystem, file: HeldFile) =>
        cached.setxattr(CTX, file.id, "security.capability" as never, Buffer.from("x"), 0),
      removexattr: (cached: CachedFileSystem, file: HeldFile) => cached.removexattr(CTX, file.id, "user.x" as never),
      open: (cached: CachedFileSystem, file: HeldFile) => cached.open(CTX, file.id, OpenFlag.READ),
      syncfs: (cached: CachedFileSystem) => cached.close(),
    };
    for (const [name, request] of Object.entries(requests)) {
      const { file, cached } = setUp();
      const { handle } = await cached.open(CTX, file.id, WRITE);
      await cached.write(CTX, handle, 0, Buffer.alloc(100, 3));
      const answer = request(cached, file);
      assert.equal(await isSettled(answer), false, name);
      await file.releaseAll();
      await answer;
      const last = file.log.lastIndexOf("write");
      assert.ok(last >= 0 && last < file.log.length - 1, `${name} comes after the write`);
    }
  });

  it("exchanges two names when all that was written to either file is on the server", async () => {
    for (const writtenTo of ["f", "g"]) {
      const { file, cached } = setUp();
      const { handle } = await cached.open(CTX, file.id, WRITE);
      await cached.write(CTX, handle, 0, Buffer.alloc(100));
      file.names = { [writtenTo]: file.id };
      const done = cached.rename(CTX, file.id, "f" as never, file.id, "g" as never, RenameFlag.EXCHANGE);
      assert.equal(await isSettled(done), false, writtenTo);
      await file.releaseAll();
      await done;
      assert.ok(file.log.indexOf("write") < file.log.indexOf("rename"), `${file.log}`);
    }
  });

  it("lets whoever waits for unsent writes go when it is interrupted, and sends them all the same", async () => {
    type Call = (cached: CachedFileSystem, ctx: typeof CTX, file: HeldFile, handle: HandleId) => Promise<unknown>;
    const requests: Record<string, Call> = {
      getattr: (cached, ctx, file) => cached.getattr(ctx, file.id),
      lookup: (cached, ctx, file) => cached.lookup(ctx, file.id, "f" as never),
      truncate: (cached, ctx, file) => cached.setattr(ctx, file.id, { sizeBytes: 5 }),
      rename: (cached, ctx, file) => cached.rename(ctx, file.id, "f" as never, file.id, "g" as never, 0),
      setxattr: (cached, ctx, file) => cached.setxattr(ctx, file.id, "user.x" as never, Buffer.from("x"), 0),
      removexattr: (cached, ctx, file) => cached.removexattr(ctx, file.id, "user.x" as never),
      open: (cached, ctx, file) => cached.open(ctx, file.id, OpenFlag.READ),
      read: (cached, ctx, _file, handle) => cached.read(ctx, handle, 0, Buffer.alloc(10)),
      lseek: (cached, ctx, _file, handle) => cached.lseek(ctx, handle, 0, "data"),
      fsync: (cached, ctx, _file, handle) => cached.fsync(ctx, handle, false),
      flush: (cached, ctx, _file, handle) => cached.flush(ctx, handle),
      syncfs: (cached, ctx, file) => cached.syncfs(ctx, file.id),
    };
    for (const [name, request] of Object.entries(requests)) {
      const { file, cached } = setUp();
      const { handle } = await cached.open(CTX, file.id, WRITE);
      await cached.write(CTX, handle, 0, Buffer.alloc(100, 3));
      const interrupt = new AbortController();
      const interrupted = request(cached, { ...CTX, signal: interrupt.signal }, file, handle);
      assert.equal(await isSettled(interrupted), false, name);
      interrupt.abort();
      await assert.rejects(interrupted, { name: "AbortError" }, name);
      await file.releaseAll();
      assert.equal(file.content.length, 100);
      assert.equal(cached.figures.dirtyBytes, 0);
    }
  });

  it("answers a read that overlaps unsent writes with what was written", async () => {
    const { file, cached } = setUp();
    file.content = Buffer.alloc(300, 1);
    const { handle } = await cached.open(CTX, file.id, WRITE);
    await cached.write(CTX, handle, 100, Buffer.alloc(100, 2));
    const target = Buffer.alloc(300);
    const read = cached.read(CTX, handle, 0, target);
    assert.deepEqual(
      file.held.map(({ op }) => op),
      ["write"],
    );
    await file.releaseAll();
    assert.equal(await read, 300);
    assert.ok(target.equals(file.content));
    assert.equal(target[150], 2);
  });

  it("does not say that the file ends where unsent bytes lie behind", async () => {
    const { file, cached } = setUp();
    file.content = Buffer.alloc(10, 1);
    const { handle } = await cached.open(CTX, file.id, WRITE);
    await cached.write(CTX, handle, 5000, Buffer.alloc(10, 2));
    const target = Buffer.alloc(100, 9);
    const read = cached.read(CTX, handle, 0, target);
    await file.releaseAll();
    assert.equal(await read, 100);
    assert.ok(target.equals(Buffer.concat([Buffer.alloc(10, 1), Buffer.alloc(90)])));
    assert.deepEqual(file.log, ["open", "read", "write", "read"]);
  });

  it("writes through for opens that ask for it, after what is unsent of the node", async () => {
    for (const flag of [OpenFlag.SYNC, OpenFlag.DSYNC, OpenFlag.DIRECT, OpenFlag.APPEND]) {
      const { file, cached } = setUp();
      const buffered = await cached.open(CTX, file.id, WRITE);
      const through = await cached.open(CTX, file.id, WRITE | flag);
      await cached.write(CTX, buffered.handle, 0, Buffer.alloc(10, 1));
      const written = cached.write(CTX, through.handle, 5, Buffer.alloc(10, 2));
      assert.equal(await isSettled(written), false);
      assert.equal(file.held.length, 1);
      file.held[0]?.go();
      await new Promise((resolve) => setImmediate(resolve));
      assert.equal(await isSettled(written), false, "acknowledged by the server only");
      await file.releaseAll();
      assert.equal(await written, 10);
      assert.equal(file.content[5], 2);
    }
  });

  it("releases an open only when its writes are on the server", async () => {
    const { file, cached } = setUp();
    const { handle } = await cached.open(CTX, file.id, WRITE);
    await cached.write(CTX, handle, 0, Buffer.alloc(10));
    const released = cached.release(CTX, handle);
    assert.equal(await isSettled(released), false);
    await file.releaseAll();
    await released;
    assert.deepEqual(file.log, ["open", "write", "release"]);
  });

  describe("over a line that keeps the order of writes", () => {
    async function written(sections = 2) {
      const made = setUp();
      made.file.follows = true;
      const { handle } = await made.cached.open(CTX, made.file.id, WRITE);
      await made.cached.write(CTX, handle, 0, Buffer.alloc(sections * SECTION - 1, 1));
      made.file.log.length = 0;
      return { ...made, handle };
    }

    it("sends fsync and getattr behind the writes, without waiting for their answers", async () => {
      const { file, cached, handle } = await written();
      const synced = cached.fsync(CTX, handle, true);
      const attr = cached.getattr(CTX, file.id, handle);
      assert.deepEqual(file.log, ["write", "fsync behind 2", "getattr behind 2"]);
      assert.equal(await isSettled(synced), false);
      await file.releaseAll();
      await synced;
      assert.equal((await attr).sizeBytes, 2 * SECTION - 1);
      await cached.fsync(CTX, handle, true);
      assert.deepEqual(file.log.slice(3), ["fsync"], "nothing is unsent: as ever");
    });

    it("is not content with an fsync whose writes failed or came short", async () => {
      for (const outcome of ["ENOSPC", 100] as const) {
        const { file, cached, handle } = await written();
        const synced = cached.fsync(CTX, handle, true);
        const told = outcome === 100 ? synced : assert.rejects(synced, failsWith("ENOSPC"));
        file.held[1]?.go(outcome);
        assert.equal(await isSettled(synced), false);
        await file.releaseAll();
        await told;
        const rest = outcome === 100 ? ["write", "fsync"] : [];
        assert.deepEqual(file.log, ["write", "fsync behind 2", ...rest]);
        await cached.fsync(CTX, handle, true);
      }
    });

    it("tells what fsync itself fails with, and an error known before instead of asking", async () => {
      const { file, cached, handle } = await written();
      file.syncError = "EIO";
      const told = assert.rejects(cached.fsync(CTX, handle, true), failsWith("EIO"));
      await file.releaseAll();
      await told;
      const other = await cached.open(CTX, file.id, WRITE);
      await cached.write(CTX, handle, 0, Buffer.alloc(SECTION));
      file.held[0]?.go("EDQUOT");
      await assert.rejects(cached.flush(CTX, other.handle), failsWith("EDQUOT"));
      await cached.write(CTX, other.handle, 8 * SECTION, Buffer.alloc(SECTION));
      file.log.length = 0;
      await assert.rejects(cached.fsync(CTX, handle, true), failsWith("EDQUOT"));
      assert.deepEqual(file.log, []);
      await file.releaseAll();
    });

    it("does not wait for an fsync behind a write that failed for want of an answer", async () => {
      const { file, cached, handle } = await written();
      file.isStuck = true;
      const synced = cached.fsync(CTX, handle, true);
      const attr = cached.getattr(CTX, file.id, handle);
      file.held[1]?.go("ETIMEDOUT");
      file.held[0]?.go();
      await assert.rejects(synced, failsWith("ETIMEDOUT"));
      assert.equal((await attr).sizeBytes, SECTION);
      await cached.fsync(CTX, handle, true);
      assert.deepEqual(file.log, ["write", "fsync behind 2", "getattr behind 2", "getattr", "fsync"]);
    });

    it("waits where a write has to wait for one before it", async () => {
      const { file, cached, handle } = await written();
      await cached.write(CTX, handle, 10, Buffer.alloc(SECTION));
      const synced = cached.fsync(CTX, handle, true);
      assert.ok(!file.log.some((op) => op.startsWith("fsync")), `${file.log}`);
      await file.releaseAll();
      await synced;
      assert.equal(file.log.at(-1), "fsync");
    });

    it("lets a waiter be interrupted", async () => {
      const { file, cached, handle } = await written();
      const interrupt = new AbortController();
      const synced = cached.fsync({ ...CTX, signal: interrupt.signal }, handle, true);
      const told = assert.rejects(synced, { name: "AbortError" });
      interrupt.abort();
      await told;
      await file.releaseAll();
    });
  });

  it("is off with a window of 0 bytes", async () => {
    const { file, cached } = setUp(0);
    const { handle } = await cached.open(CTX, file.id, WRITE);
    const written = cached.write(CTX, handle, 0, Buffer.alloc(10));
    assert.equal(await isSettled(written), false);
    await file.releaseAll();
    assert.equal(await written, 10);
  });
});
