/** Joined writes: few when the disk is slow, none waits for another, and each section is answered with what became of it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { WriteJoiner } from "../../src/server/write-joiner.ts";
import {
  type Caller,
  type FileSystem,
  type HandleId,
  OpenFlag,
  type RequestContext,
  WRITEV_BUFFERS_MAX,
} from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, linkDrive, named } from "../support/link-drive.ts";
import { VectorFs } from "../support/vector-fs.ts";

const SECTION = 10;
const HANDLE = 5 as HandleId;
const root: Caller = { uid: 0, gid: 0, groups: [1, 2], pid: 1 };

interface Put {
  readonly offsetBytes: number;
  readonly bytes: number;
  readonly buffers: number;
  readonly ctx: RequestContext;
  readonly killSuidgid: boolean;
}

/** A disk of one file: each write waits to be let go, and ends at the first byte that cannot be written. */
class SlowDisk {
  readonly content = Buffer.alloc(1000);
  readonly puts: Put[] = [];
  readonly waiting: (() => void)[] = [];
  /** Writes from here to there meet `errno`; those before it come short. */
  bad: { from: number; to: number } | undefined;
  /** Whether a write that comes to the bad part fails as a whole rather than coming short. */
  failsWhole = false;
  /** What a write that could write nothing at all says; undefined: that it wrote 0 bytes. */
  errno: "ENOSPC" | undefined = "ENOSPC";

  readonly fileSystem = {
    write: (ctx, _handle, offsetBytes, data, options) => this.#put(ctx, offsetBytes, [data], options?.killSuidgid),
    writev: (ctx, _handle, offsetBytes, buffers, options) => this.#put(ctx, offsetBytes, buffers, options?.killSuidgid),
  } as Pick<FileSystem, "write" | "writev"> as FileSystem;

  async #put(ctx: RequestContext, offsetBytes: number, buffers: readonly Buffer[], kill = false): Promise<number> {
    const data = Buffer.concat(buffers);
    this.puts.push({ offsetBytes, bytes: data.length, buffers: buffers.length, ctx, killSuidgid: kill });
    await new Promise<void>((resolve) => this.waiting.push(resolve));
    assert.ok(Buffer.concat(buffers).equals(data), "the data stays as it is until the write has ended");
    let end = data.length;
    if (this.bad !== undefined && offsetBytes < this.bad.to && offsetBytes + data.length > this.bad.from) {
      end = Math.max(this.bad.from - offsetBytes, 0);
      if (end === 0 || this.failsWhole) {
        if (this.errno !== undefined) throw new FsError(this.errno, "write");
        end = 0;
      }
    }
    data.copy(this.content, offsetBytes, 0, end);
    return end;
  }

  /** Lets go the oldest write, and whatever follows from that happen. */
  async pass(): Promise<void> {
    this.waiting.shift()?.();
    await settle();
  }

  async passAll(): Promise<void> {
    while (this.waiting.length > 0) await this.pass();
  }
}

/** A request whose caller waits for it. */
function wanted(context: Partial<RequestContext> = {}) {
  const whole = {
    caller: root,
    isCanceled: false,
    onCancel: undefined as (() => void) | undefined,
    ...context,
    cancel() {
      whole.isCanceled = true;
      whole.onCancel?.();
    },
  };
  return whole;
}

function joined(disk: SlowDisk, flags = OpenFlag.WRITE as number) {
  const counters = { writes: 0, writtenSections: 0 };
  const joiner = new WriteJoiner({ fileSystem: disk.fileSystem, handle: HANDLE, flags, counters });
  /** The outcome of each section, by its number: bytes, or an errno. */
  const outcomes: (number | string)[] = [];
  const put = (index: number, context: Partial<RequestContext> = {}, killSuidgid = false) => {
    const data = Buffer.alloc(SECTION, index + 1);
    const whole = wanted(context);
    joiner.write(whole, index * SECTION, data, killSuidgid).then(
      (bytes) => {
        outcomes[index] = bytes;
        // Given back: whoever still writes it writes this.
        data.fill(0xee);
      },
      (error: FsError) => {
        outcomes[index] = error.errno;
        data.fill(0xee);
      },
    );
    return whole;
  };
  return { joiner, counters, outcomes, put };
}

/** Whether section `index` is on the disk. */
function isThere(disk: SlowDisk, index: number): boolean {
  return disk.content.subarray(index * SECTION, (index + 1) * SECTION).every((byte) => byte === index + 1);
}

test("a slow disk sees few large writes of a pipelined one, and everything is where it belongs", async () => {
  const gate = new GatedFs(new VectorFs(new MemoryFs()));
  const drive = linkDrive({ fileSystem: gate.fileSystem });
  const { remote } = await drive.connect({ sectionBytes: 65_536 });
  const { id } = await remote.fileSystem.root(ctx);
  const { opened } = await remote.fileSystem.create(ctx, id, named("f"), 3, { mode: 0o100644, umask: 0 });
  const data = Buffer.from(Uint32Array.from({ length: 1 << 20 }, (_, index) => index * 2654435761).buffer);
  for (const name of ["write", "writev"]) gate.gates.add(name);
  // The line turns out to be long: all that is on its way is answered at once, 100 ms later. So much is on its way from then on.
  const finding = remote.fileSystem.write(ctx, opened.handle, 0, Buffer.alloc(8 * data.length));
  for (await settle(); gate.held.length > 0; await settle()) {
    drive.clock.advance(100);
    for (const call of [...gate.held]) call.pass();
  }
  await finding;
  const before = drive.server.counters();
  gate.calls.length = 0;
  const writing = remote.fileSystem.write(ctx, opened.handle, 0, data);
  await settle();
  assert.deepEqual(
    gate.held.slice(0, 3).map(({ name }) => name),
    ["write", "write", "writev"],
    "the first ones wait for nothing",
  );
  while (gate.held.length > 0) {
    gate.held[0]?.pass();
    drive.clock.advance(1);
    await settle();
  }
  assert.equal(await writing, data.length);
  const { writes, writtenSections } = drive.server.counters();
  assert.equal(writtenSections - before.writtenSections, 64);
  assert.equal(writes - before.writes, gate.calls.filter((name) => name.startsWith("write")).length);
  assert.ok(writes - before.writes <= 12, `${writes - before.writes} writes`);
  gate.open();
  const target = Buffer.alloc(data.length);
  assert.equal(await remote.fileSystem.read(ctx, opened.handle, 0, target), data.length);
  assert.ok(target.equals(data));
  await remote.close();
  await settle();
  assert.equal(drive.server.counters().bufferBytes, 0);
});

test("what gathers while others are written is one write, of as many buffers as one may have", async () => {
  const disk = new SlowDisk();
  const { put, outcomes, counters } = joined(disk);
  for (let index = 0; index < 20; index += 1) put(index);
  // A full run waits for nothing either; what is left of the stream does, while two writes or more are under way.
  for (const passed of [0, 1, 2]) {
    assert.equal(disk.puts.length, 4, `after ${passed}`);
    await disk.pass();
  }
  assert.deepEqual(
    disk.puts.map(({ offsetBytes, buffers }) => [offsetBytes, buffers]),
    [
      [0, 1],
      [10, 1],
      [20, WRITEV_BUFFERS_MAX],
      [100, WRITEV_BUFFERS_MAX],
      [180, 2],
    ],
  );
  await disk.passAll();
  assert.deepEqual(outcomes, new Array(20).fill(SECTION));
  assert.ok(outcomes.every((_, index) => isThere(disk, index)));
  assert.deepEqual(counters, { writes: 5, writtenSections: 20 });
});

for (const failsWhole of [false, true]) {
  test(`an error at section k of n is that section's alone, when the joined write ${failsWhole ? "fails" : "comes short"}`, async () => {
    for (let bad = 2; bad < 10; bad += 1) {
      const disk = new SlowDisk();
      disk.failsWhole = failsWhole;
      disk.bad = { from: bad * SECTION, to: (bad + 1) * SECTION };
      const { put, outcomes } = joined(disk);
      for (let index = 0; index < 10; index += 1) put(index);
      await disk.passAll();
      for (let index = 0; index < 10; index += 1) {
        assert.equal(outcomes[index], index === bad ? "ENOSPC" : SECTION, `section ${index} of bad ${bad}`);
        assert.equal(isThere(disk, index), index !== bad);
      }
    }
  });
}

test("a disk that is full in the middle of section k takes all before it, a part of it and none behind", async () => {
  for (let full = 20; full < 100; full += 3) {
    const disk = new SlowDisk();
    disk.bad = { from: full, to: 1000 };
    const { put, outcomes } = joined(disk);
    for (let index = 0; index < 10; index += 1) put(index);
    await disk.passAll();
    outcomes.forEach((outcome, index) => {
      const left = full - index * SECTION;
      assert.equal(
        outcome,
        left >= SECTION ? SECTION : left > 0 ? left : "ENOSPC",
        `section ${index}, full at ${full}`,
      );
    });
    assert.equal(outcomes.length, 10);
  }
});

test("no bytes written is no success, whatever the file system calls it", async () => {
  const disk = new SlowDisk();
  disk.errno = undefined;
  disk.bad = { from: 0, to: 1000 };
  const { put, outcomes } = joined(disk);
  for (let index = 0; index < 5; index += 1) put(index);
  await disk.passAll();
  assert.deepEqual(outcomes, new Array(5).fill("EIO"));
});

test("an error through a drive is the error of the whole write, at every section", async () => {
  for (let bad = 0; bad < 12; bad += 1) {
    const memory = new MemoryFs();
    const vector = new VectorFs(memory);
    const at = bad * 65_536;
    const refuse = (offsetBytes: number, bytes: number) => offsetBytes <= at && at < offsetBytes + bytes;
    const { write, writev } = vector;
    vector.write = async (context, handle, offsetBytes, data, options) => {
      if (refuse(offsetBytes, data.length)) throw new FsError("EDQUOT", "write");
      return write.call(vector, context, handle, offsetBytes, data, options);
    };
    const fileSystem = Object.assign(vector, {
      writev: (async (context, handle, offsetBytes, buffers, options) => {
        if (refuse(offsetBytes, Buffer.concat(buffers).length)) throw new FsError("EDQUOT", "write");
        return writev(context, handle, offsetBytes, buffers, options);
      }) satisfies FileSystem["writev"],
    });
    const gate = new GatedFs(fileSystem);
    const { remote } = await linkDrive({ fileSystem: gate.fileSystem }).connect({ sectionBytes: 65_536 });
    const { id } = await remote.fileSystem.root(ctx);
    const { opened } = await remote.fileSystem.create(ctx, id, named("f"), 3, { mode: 0o100644, umask: 0 });
    for (const name of ["write", "writev"]) gate.gates.add(name);
    const failed = assert.rejects(remote.fileSystem.write(ctx, opened.handle, 0, Buffer.alloc(12 * 65_536)), {
      errno: "EDQUOT",
    });
    await settle();
    gate.open();
    await failed;
    await remote.close();
  }
});

test("opens that append or are synchronous, other users, and file systems without writev are not joined", async () => {
  for (const flag of [OpenFlag.APPEND, OpenFlag.SYNC, OpenFlag.DSYNC]) {
    const disk = new SlowDisk();
    const { put } = joined(disk, OpenFlag.WRITE | flag);
    for (let index = 0; index < 5; index += 1) put(index);
    assert.equal(disk.puts.length, 5);
    await disk.passAll();
  }
  const plain = new SlowDisk();
  delete plain.fileSystem.writev;
  const without = joined(plain);
  for (let index = 0; index < 5; index += 1) without.put(index);
  assert.equal(plain.puts.length, 5);
  await plain.passAll();
  const disk = new SlowDisk();
  const { put, outcomes } = joined(disk);
  for (let index = 0; index < 4; index += 1) put(index);
  const others: Caller[] = [
    { ...root, uid: 1 },
    { ...root, gid: 1 },
    { ...root, groups: [1] },
    { ...root, groups: [1, 3] },
  ];
  for (const [index, caller] of others.entries()) put(5 + index, { caller });
  assert.equal(disk.puts.length, 2 + others.length);
  put(4, { caller: { ...root, groups: [1, 2], pid: 99 } });
  assert.equal(disk.puts.length, 2 + others.length, "another process of the same user is no other user");
  await disk.passAll();
  disk.puts.forEach(({ ctx: { caller }, offsetBytes }) => {
    const own = others[offsetBytes / SECTION - 5] ?? root;
    assert.deepEqual({ ...caller, pid: 0 }, { ...own, pid: 0 });
  });
  assert.deepEqual(outcomes, new Array(9).fill(SECTION));
});

test("a run clears set-id bits if one of its sections asks for it", async () => {
  const disk = new SlowDisk();
  const { put } = joined(disk);
  for (let index = 0; index < 6; index += 1) put(index, {}, index === 4);
  await disk.passAll();
  assert.deepEqual(
    disk.puts.map(({ buffers, killSuidgid }) => [buffers, killSuidgid]),
    [
      [1, false],
      [1, false],
      [4, true],
    ],
  );
});

test("a gathered section that nobody wants any more is answered at once and left out, and its neighbours are written", async () => {
  for (const gone of [2, 3, 5]) {
    const disk = new SlowDisk();
    const { put, outcomes } = joined(disk);
    const contexts = [0, 1, 2, 3, 4, 5].map((index) => put(index));
    contexts[gone]?.cancel();
    await settle();
    assert.equal(outcomes[gone], "EINTR", "also while nothing moves on the disk");
    assert.equal(disk.puts.length, 2);
    await disk.passAll();
    assert.deepEqual(
      outcomes,
      [0, 1, 2, 3, 4, 5].map((index) => (index === gone ? "EINTR" : SECTION)),
    );
    assert.ok([0, 1, 2, 3, 4, 5].every((index) => isThere(disk, index) === (index !== gone)));
  }
});

test("sections that are all canceled while they are gathered leave nothing to be written, and what comes then is", async () => {
  const disk = new SlowDisk();
  const { put, outcomes } = joined(disk);
  const contexts = [0, 1, 2, 3, 4, 5].map((index) => put(index));
  for (const context of contexts) context.cancel();
  await settle();
  assert.deepEqual(outcomes.slice(2), new Array(4).fill("EINTR"));
  put(2);
  await disk.passAll();
  assert.equal(disk.puts.length, 3);
  assert.deepEqual(outcomes, [SECTION, SECTION, SECTION, "EINTR", "EINTR", "EINTR"]);
});

test("a section canceled before it comes to be gathered is not written", async () => {
  const disk = new SlowDisk();
  const { joiner } = joined(disk);
  const context = wanted();
  context.cancel();
  await assert.rejects(joiner.write(context, 0, Buffer.alloc(SECTION), false), { errno: "EINTR" });
  assert.equal(disk.puts.length, 0);
});

test("who loses interest while a joined write runs gets its result, and so do the others", async () => {
  const disk = new SlowDisk();
  const { put, outcomes } = joined(disk);
  const controller = new AbortController();
  const contexts = [0, 1, 2, 3, 4].map((index) => put(index, { signal: controller.signal }));
  await disk.pass();
  assert.equal(disk.puts.at(-1)?.buffers, 3);
  assert.equal(disk.puts.at(-1)?.ctx.signal, undefined);
  controller.abort();
  for (const context of contexts) context.cancel();
  await disk.passAll();
  assert.deepEqual(outcomes, new Array(5).fill(SECTION));
});

test("sections that overlap are written in the order they came", async () => {
  const disk = new SlowDisk();
  const { joiner } = joined(disk);
  const context = wanted();
  const all = [1, 2, 3, 4].map((fill) => joiner.write(context, 0, Buffer.alloc(SECTION, fill), false));
  assert.equal(disk.puts.length, 1);
  await disk.passAll();
  assert.deepEqual(await Promise.all(all), new Array(4).fill(SECTION));
  assert.equal(disk.content[0], 4);
});

test("sections that continue nothing wait for nothing", async () => {
  const disk = new SlowDisk();
  const { joiner } = joined(disk);
  const context = wanted();
  const all = Array.from({ length: 90 }, (_, index) => joiner.write(context, index * 11, Buffer.alloc(SECTION), false));
  assert.equal(disk.puts.length, 90);
  await disk.passAll();
  assert.deepEqual(await Promise.all(all), new Array(90).fill(SECTION));
});

test("sections beyond what is held are written by themselves", async () => {
  const disk = new SlowDisk();
  const { joiner } = joined(disk);
  const context = wanted();
  const all = Array.from({ length: 90 }, () => joiner.write(context, 0, Buffer.alloc(SECTION), false));
  // One is written, 63 must wait for it.
  assert.equal(disk.puts.length, 90 - 63);
  await disk.passAll();
  assert.deepEqual(await Promise.all(all), new Array(90).fill(SECTION));
});

test("an empty write is one", async () => {
  const disk = new SlowDisk();
  const { joiner } = joined(disk);
  const writing = joiner.write(wanted(), 7, Buffer.alloc(0), false);
  await disk.passAll();
  assert.equal(await writing, 0);
  assert.equal(disk.puts.length, 1);
});

/** A client whose file has five writes under way: two in the disk, which does not answer, and three that gather. */
async function gathering() {
  const memory = new MemoryFs();
  const gate = new GatedFs(new VectorFs(memory));
  const drive = linkDrive({ fileSystem: gate.fileSystem, limits: { keepMsMax: 10 } });
  const peer = drive.peer();
  await peer.setUp();
  const { id: parent } = await memory.root();
  const made = { caller: root, parent, name: named("f"), flags: 3, lease: Lease.NONE, mode: 0o100644, umask: 0 };
  peer.send("create", made, { tag: 7 });
  await settle();
  const handle = peer.headers.at(-1)?.handle ?? 0;
  for (const name of ["write", "writev"]) gate.gates.add(name);
  for (let tag = 0; tag < 5; tag += 1) {
    const fields = { caller: root, offsetBytes: tag * 100, killSuidgid: false };
    peer.send("write", fields, { tag, handle }, Buffer.alloc(100, tag + 1));
  }
  await gate.holding(2);
  return { memory, gate, drive, peer, handle };
}

test("canceled sections that are only gathered give back slot and buffer while the disk hangs", async () => {
  const { memory, gate, drive, peer, handle } = await gathering();
  const { bufferBytes } = drive.server.counters();
  peer.frames.length = 0;
  for (const canceledTag of [4, 2, 3, 0]) peer.send("cancel", { canceledTag });
  await settle();
  const answers = peer.frames.map((text) => text.replace(/ handle=.* /, " "));
  assert.deepEqual(
    answers.sort(),
    [2, 3, 4].map((tag) => `write reply tag=${tag} EINTR`),
  );
  assert.equal(drive.server.counters().bufferBytes, (bufferBytes / 5) * 2);
  const fields = { caller: root, offsetBytes: 300, killSuidgid: false };
  peer.send("write", fields, { tag: 2 + (1 << 16), handle }, Buffer.alloc(100, 9));
  await settle();
  gate.open();
  await settle();
  assert.equal(drive.server.counters().bufferBytes, 0);
  const { id } = await memory.lookup(ctx, (await memory.root()).id, named("f"));
  const { handle: reading } = await memory.open(ctx, id, OpenFlag.READ);
  const content = Buffer.alloc(500);
  assert.equal(await memory.read(ctx, reading, 0, content), 400);
  assert.deepEqual(
    [0, 100, 200, 300].map((at) => content[at]),
    [1, 2, 0, 9],
  );
  peer.channel.destroy();
  await settle();
});

test("release waits for joined writes, also when the client is gone", async () => {
  for (const isGone of [false, true]) {
    const { memory, gate, drive, peer, handle } = await gathering();
    if (isGone) {
      peer.link.destroy();
      await settle();
      drive.clock.advance(10);
    } else peer.send("release", { caller: root }, { tag: 6, handle });
    await settle();
    assert.equal(memory.openCount, 1);
    gate.held[0]?.pass();
    await settle();
    // The rest was gathered when the client went, so it was not begun.
    assert.equal(gate.held.length, isGone ? 1 : 2);
    assert.equal(memory.openCount, 1);
    gate.open();
    await settle();
    assert.equal(memory.openCount, 0);
    assert.equal(drive.server.counters().bufferBytes, 0);
    if (isGone) continue;
    drive.clock.advance(2);
    await settle();
    const tail = peer.frames.slice(-3).map((text) => text.replace(/ handle=.*/, ""));
    assert.deepEqual(tail, ["write reply tag=0", "written tag=0 tags=[2 3 4 1]", "release reply tag=6"]);
    peer.channel.destroy();
    await settle();
  }
});
