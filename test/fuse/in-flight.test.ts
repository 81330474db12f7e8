/**
 * Requests while they are served: interrupts, slots, references, and replies that do not arrive.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ERRNO } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import { Opcode } from "../../src/fuse/abi.ts";
import { INTERRUPT_GRACE_MS, LOOK_MS } from "../../src/fuse/interrupts.ts";
import { IN_FLIGHT_MAX } from "../../src/fuse/session.ts";
import type { FileSystem, RequestContext } from "../../src/vfs/file-system.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { hex, requestBytes } from "./fake-device.ts";
import { startSession } from "./fixture.ts";
import { recordingFs } from "./recording-fs.ts";

const DYING = "Name:\tx\nGroups:\t\nSigPnd:\t0000000000000100\nShdPnd:\t0\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n";
const ALIVE = "Name:\tx\nGroups:\t\nSigPnd:\t0000000000010000\nShdPnd:\t0\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n";
const FH = hex("33000000 00000000");

/** A file system whose `method` waits until the test lets it go. */
function waiting(method: string) {
  const { fileSystem, calls } = recordingFs();
  const held: {
    ctx: RequestContext;
    args: unknown[];
    resolve: (value: unknown) => void;
    reject: (error: unknown) => void;
  }[] = [];
  const slow = new Proxy(fileSystem, {
    get: (target, name) =>
      name === method
        ? (ctx: RequestContext, ...args: unknown[]) =>
            new Promise((resolve, reject) => {
              held.push({ ctx, args, resolve, reject });
              ctx.signal?.addEventListener("abort", () => reject(ctx.signal?.reason));
            })
        : Reflect.get(target, name),
  }) as FileSystem;
  return { fileSystem: slow, calls, held };
}

const interruptOf = (unique: number) => {
  const body = Buffer.alloc(8);
  body.writeBigUInt64LE(BigInt(unique));
  return requestBytes(Opcode.INTERRUPT, body, { unique: unique + 1, node: 0 });
};

test("an interrupt aborts the request of a dying thread at once, and its answer is EINTR", async () => {
  const { fileSystem } = waiting("statfs");
  const { device } = await startSession(fileSystem, { status: DYING });
  const answer = device.ask(requestBytes(Opcode.STATFS, Buffer.alloc(0), { unique: 1000 }));
  device.inject(interruptOf(1000));
  assert.equal((await answer).errno, ERRNO.EINTR);
  assert.equal(device.replies.length, 1, "the interrupt itself is not answered");
});

test("for a signal that kills nobody the request gets a moment, and then is aborted", async () => {
  const clock = new FakeClock();
  const { fileSystem, held } = waiting("statfs");
  const { device } = await startSession(fileSystem, { status: ALIVE, clock });
  const answer = device.ask(requestBytes(Opcode.STATFS, Buffer.alloc(0), { unique: 1000 }));
  device.inject(interruptOf(1000));
  device.inject(interruptOf(1000));
  clock.advance(INTERRUPT_GRACE_MS - 1);
  assert.equal(held[0]?.ctx.signal?.aborted, false);
  clock.advance(1);
  assert.equal((await answer).errno, ERRNO.EINTR);
  clock.advance(LOOK_MS);
  assert.equal(clock.pendingCount, 0);
});

test("a request that takes long is aborted without an interrupt when its thread is being killed", async () => {
  const clock = new FakeClock();
  const { fileSystem, held } = waiting("statfs");
  const statuses = new Map([
    [1, DYING],
    [2, ALIVE],
  ]);
  const looked: number[] = [];
  const readStatus = (tid: number, target: Buffer) => {
    looked.push(tid);
    const status = statuses.get(tid);
    return status === undefined ? -3 : target.write(status);
  };
  const { device, session } = await startSession(fileSystem, { readStatus, clock });
  const ask = (unique: number, pid: number) =>
    device.ask(requestBytes(Opcode.STATFS, Buffer.alloc(0), { unique, pid }));
  // The kernel's own requests have pid 0; of thread 3 nothing is left.
  const answers = [ask(1000, 1), ask(1002, 2), ask(1004, 0), ask(1006, 3), ask(1008, 2)];
  clock.advance(LOOK_MS);
  assert.deepEqual(looked, [], "what has just come is not looked at");
  clock.advance(LOOK_MS);
  assert.deepEqual(looked, [1, 2, 3], "each thread once");
  assert.equal((await answers[0])?.errno, ERRNO.EINTR);
  assert.equal(session.counters().inFlight, 4);
  statuses.set(2, DYING);
  clock.advance(LOOK_MS);
  assert.deepEqual([(await answers[1])?.errno, (await answers[4])?.errno], [ERRNO.EINTR, ERRNO.EINTR]);
  for (const call of held) call.reject(new FsError("EIO", "statfs"));
  await Promise.all(answers);
  clock.advance(LOOK_MS);
  assert.equal(clock.pendingCount, 0);
});

test("a request that is answered in that moment is answered as usual, once, and nothing is left of the interrupt", async () => {
  const clock = new FakeClock();
  const { fileSystem, held } = waiting("getattr");
  const { device, session } = await startSession(fileSystem, { status: ALIVE, clock });
  const answer = device.ask(requestBytes(Opcode.GETATTR, Buffer.alloc(16), { unique: 1000 }));
  device.inject(interruptOf(1000));
  held[0]?.reject(new FsError("EACCES", "getattr"));
  assert.equal((await answer).errno, ERRNO.EACCES);
  clock.advance(LOOK_MS);
  assert.equal(clock.pendingCount, 0);
  assert.deepEqual([device.replies.length, session.counters().inFlight], [1, 0]);
});

test("a thread that cannot be looked at counts as dying", async () => {
  const { fileSystem } = waiting("statfs");
  const { device } = await startSession(fileSystem);
  const answer = device.ask(requestBytes(Opcode.STATFS, Buffer.alloc(0), { unique: 1000, pid: 0 }));
  device.inject(interruptOf(1000));
  assert.equal((await answer).errno, ERRNO.EINTR);
});

test("an interrupt whose request is not here yet is asked for again", async () => {
  const { fileSystem } = recordingFs();
  const { device } = await startSession(fileSystem);
  device.inject(interruptOf(1000));
  assert.deepEqual(
    device.replies.map(({ unique, errno }) => [unique, errno]),
    [[1001, ERRNO.EAGAIN]],
  );
});

test("a signal asked for after the abort is aborted already", async () => {
  const { fileSystem, held } = waiting("getattr");
  const plain = new Proxy(fileSystem, {
    get: (target, name) =>
      name === "statfs"
        ? (ctx: RequestContext) => new Promise(() => held.push({ ctx } as never))
        : Reflect.get(target, name),
  });
  const { device } = await startSession(plain, { status: DYING });
  device.inject(requestBytes(Opcode.STATFS, Buffer.alloc(0), { unique: 1000 }));
  device.inject(interruptOf(1000));
  assert.equal(held[0]?.ctx.signal?.aborted, true);
});

async function withOpenFile(fileSystem: FileSystem, slots?: number) {
  const fixture = await startSession(fileSystem, slots === undefined ? {} : { slots });
  await fixture.device.ask(requestBytes(Opcode.LOOKUP, Buffer.from("x\0")));
  await fixture.device.ask(requestBytes(Opcode.OPEN, hex("02800000 00000000"), { node: 2 }));
  return fixture;
}

const writeBody = (data: Buffer) => {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(data.length);
  return Buffer.concat([FH, Buffer.alloc(8), size, Buffer.alloc(20), data]);
};
const readBody = (bytes: number) => {
  const size = Buffer.alloc(4);
  size.writeUInt32LE(bytes);
  return Buffer.concat([FH, Buffer.alloc(8), size, Buffer.alloc(20)]);
};

test("the slot of a write stays with it until the write has settled, without a copy", async () => {
  const { fileSystem, held } = waiting("write");
  const { device } = await withOpenFile(fileSystem);
  const answer = device.ask(requestBytes(Opcode.WRITE, writeBody(Buffer.from("precious")), { node: 2 }));
  assert.equal(device.freeSlots, device.slotCount - 1);
  const data = held[0]?.args[2] as Buffer;
  assert.equal(data.buffer, device.pool.buffer);
  for (let i = 0; i < 20; i++) await device.ask(requestBytes(Opcode.STATFS, Buffer.alloc(0)));
  assert.equal(data.toString(), "precious");
  held[0]?.resolve(8);
  assert.equal((await answer).body.readUInt32LE(0), 8);
  assert.equal(device.freeSlots, device.slotCount);
});

/** As write-behind does: each write is answered at once, and its data kept as long as it may. */
function borrowing() {
  const { fileSystem } = recordingFs();
  const kept: { data: Buffer; giveBack: () => void }[] = [];
  const write: FileSystem["write"] = async (_ctx, _handle, _at, data, options) => {
    const giveBack = options?.lend?.();
    if (giveBack !== undefined) kept.push({ data, giveBack });
    return data.length;
  };
  const get = (target: FileSystem, name: string | symbol) => (name === "write" ? write : Reflect.get(target, name));
  return { fileSystem: new Proxy(fileSystem, { get }), kept };
}

test("the slot of a large write can be kept beyond its reply, and half of all slots at most", async () => {
  const { fileSystem, kept } = borrowing();
  const { device } = await withOpenFile(fileSystem);
  for (let i = 0; i < 2 * device.slotCount; i++) {
    const data = Buffer.alloc(128 * 1024, i);
    const answer = await device.ask(requestBytes(Opcode.WRITE, writeBody(data), { node: 2 }));
    assert.equal(answer.body.readUInt32LE(0), data.length);
  }
  assert.equal(kept.length, device.slotCount / 2);
  assert.equal(device.freeSlots, device.slotCount / 2);
  for (const [i, { data }] of kept.entries()) assert.ok(data.every((byte) => byte === i));
  for (const { giveBack } of kept) giveBack();
  assert.equal(device.freeSlots, device.slotCount);
});

test("a small write's slot is not lent, and one that is given back before the reply leaves with it", async () => {
  const { fileSystem, kept } = borrowing();
  const { device } = await withOpenFile(fileSystem);
  await device.ask(requestBytes(Opcode.WRITE, writeBody(Buffer.alloc(4096)), { node: 2 }));
  assert.equal(kept.length, 0);
  const answer = device.ask(requestBytes(Opcode.WRITE, writeBody(Buffer.alloc(128 * 1024)), { node: 2 }));
  assert.equal(device.freeSlots, device.slotCount - 1);
  kept[0]?.giveBack();
  assert.equal(device.freeSlots, device.slotCount - 1);
  await answer;
  assert.equal(device.freeSlots, device.slotCount);
});

test("a failed write gives its slot back, too", async () => {
  const { fileSystem, held } = waiting("write");
  const { device } = await withOpenFile(fileSystem);
  const answer = device.ask(requestBytes(Opcode.WRITE, writeBody(Buffer.from("x")), { node: 2 }));
  held[0]?.reject(new FsError("ENOSPC", "write"));
  assert.equal((await answer).errno, ERRNO.ENOSPC);
  assert.equal(device.freeSlots, device.slotCount);
});

test("however many writes and reads wait, slots remain for everything else, and no data is mixed up", async () => {
  const { fileSystem, held } = waiting("write");
  const reads: { target: Buffer; resolve: (bytes: number) => void }[] = [];
  const both = new Proxy(fileSystem, {
    get: (target, name) =>
      name === "read"
        ? (_ctx: unknown, _handle: unknown, _at: unknown, into: Buffer) =>
            new Promise((resolve) => reads.push({ target: into, resolve }))
        : Reflect.get(target, name),
  });
  const { device, session } = await withOpenFile(both);
  const writes = Array.from({ length: 20 }, (_, i) =>
    device.ask(requestBytes(Opcode.WRITE, writeBody(Buffer.from(`write ${i}`)), { node: 2 })),
  );
  const answers = Array.from({ length: 20 }, () => device.ask(requestBytes(Opcode.READ, readBody(100), { node: 2 })));
  assert.ok(device.freeSlots >= 4);
  assert.equal((await device.ask(requestBytes(Opcode.STATFS, Buffer.alloc(0)))).errno, 0);
  for (const [i, { args }] of held.entries()) assert.equal((args[2] as Buffer).toString(), `write ${i}`);
  for (const [i, { target, resolve }] of reads.entries()) resolve(target.write(`read ${i}`));
  for (const { resolve } of held) resolve(7);
  for (const [i, reply] of (await Promise.all(answers)).entries()) assert.equal(reply.body.toString(), `read ${i}`);
  await Promise.all(writes);
  assert.equal(device.freeSlots, device.slotCount);
  assert.equal(session.room.heapBytes, 0);
});

test("the slot of a large read stays with it until its reply has gone out", async () => {
  const { fileSystem } = recordingFs();
  const full = new Proxy(fileSystem, {
    get: (target, name) =>
      name === "read"
        ? async (_ctx: unknown, _handle: unknown, _at: unknown, into: Buffer) => into.fill("z").length
        : Reflect.get(target, name),
  });
  const { device, session } = await withOpenFile(full);
  const answer = device.ask(requestBytes(Opcode.READ, readBody(300_000), { node: 2 }));
  await new Promise(process.nextTick);
  assert.deepEqual([session.counters().inFlight, device.freeSlots], [1, device.slotCount - 1]);
  assert.equal((await answer).body.toString("latin1"), "z".repeat(300_000));
  assert.deepEqual([session.counters().inFlight, device.freeSlots], [0, device.slotCount]);
});

test("a read for more than a reply can hold is refused", async () => {
  const { fileSystem } = recordingFs();
  const { device } = await withOpenFile(fileSystem);
  const body = readBody(device.dataBytesMax + 1);
  assert.equal((await device.ask(requestBytes(Opcode.READ, body, { node: 2 }))).errno, ERRNO.EIO);
});

test("beyond a bound requests stay in the kernel, and are read on as others are answered", async () => {
  const { fileSystem, held } = waiting("statfs");
  const { device, session } = await startSession(fileSystem);
  while (device.freeSlots > 0) device.inject(requestBytes(Opcode.STATFS, Buffer.alloc(0)));
  const { inFlight } = session.counters();
  assert.ok(inFlight > IN_FLIGHT_MAX - 1 && inFlight <= IN_FLIGHT_MAX + device.slotCount, `${inFlight} in flight`);
  for (const { reject } of held) reject(new FsError("EIO", "statfs"));
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual([session.counters().inFlight, device.freeSlots], [0, device.slotCount]);
});

test("at the end a large reply under way is forgotten", async () => {
  const { fileSystem } = recordingFs();
  const full = new Proxy(fileSystem, {
    get: (target, name) =>
      name === "read"
        ? async (_ctx: unknown, _handle: unknown, _at: unknown, into: Buffer) => into.length
        : Reflect.get(target, name),
  });
  const { device, session } = await withOpenFile(full);
  device.inject(requestBytes(Opcode.READ, readBody(300_000), { node: 2 }));
  await new Promise(process.nextTick);
  device.close();
  assert.deepEqual([session.counters().inFlight, session.counters().opens], [0, 0]);
});

test("an entry whose reply does not arrive is not counted, and an open is released again", async () => {
  const { fileSystem, calls } = recordingFs();
  const { device, session } = await startSession(fileSystem);
  device.refuse = ERRNO.ENOENT;
  for (const [opcode, body] of [
    [Opcode.LOOKUP, "7800"],
    [Opcode.MKDIR, "e8010000 12000000 7800"],
    [Opcode.CREATE, "c2800000 a0810000 12000000 00000000 7800"],
    [Opcode.TMPFILE, "02804100 80810000 12000000 00000000 2f00"],
    [Opcode.OPENDIR, "00800000 00000000"],
  ] as const) {
    device.inject(requestBytes(opcode, hex(body)));
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(session.nodes.size, 1);
  assert.equal(session.counters().opens, 0);
  assert.equal(calls.filter(([method]) => method === "release").length, 2);
  assert.equal(calls.filter(([method]) => method === "releasedir").length, 1);
  session.nodes.checkInvariants();
});

test("a reply the kernel cannot read is logged, one that nobody waits for is not", async () => {
  const { fileSystem } = recordingFs();
  const { device, lines } = await startSession(fileSystem);
  for (const refusal of [ERRNO.ENOENT, ERRNO.EINVAL]) {
    device.refuse = refusal;
    device.inject(requestBytes(Opcode.STATFS, Buffer.alloc(0)));
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.equal(lines.length, 1);
  assert.match(lines[0] ?? "", /STATFS.*22/);
});

test("forgotten nodes are passed on together, after a moment or when they are many", async () => {
  const clock = new FakeClock();
  const { fileSystem, calls } = recordingFs();
  const { device, session } = await startSession(fileSystem, { clock });
  await device.ask(requestBytes(Opcode.LOOKUP, Buffer.from("x\0")));
  await device.ask(requestBytes(Opcode.LOOKUP, Buffer.from("x\0")));
  calls.length = 0;
  device.inject(requestBytes(Opcode.FORGET, hex("01000000 00000000"), { node: 2 }));
  clock.advance(1000);
  assert.deepEqual(calls, []);
  device.inject(requestBytes(Opcode.BATCH_FORGET, hex("01000000 00000000 02000000 00000000 01000000 00000000")));
  assert.equal(session.nodes.size, 1);
  clock.advance(1000);
  assert.deepEqual(calls, [["forget", ["node-x"]]]);
  assert.equal(clock.pendingCount, 0);
});

test("a file just made is known to have no capabilities, until one is set or time passes", async () => {
  const clock = new FakeClock();
  const { fileSystem, calls } = recordingFs();
  const { device } = await startSession(fileSystem, { clock });
  const getcap = requestBytes(Opcode.GETXATTR, Buffer.concat([Buffer.alloc(8), Buffer.from("security.capability\0")]), {
    node: 2,
  });
  const create = hex("c2800000 a0810000 12000000 00000000 7800");
  await device.ask(requestBytes(Opcode.CREATE, create));
  calls.length = 0;
  assert.equal((await device.ask(getcap)).errno, ERRNO.ENODATA);
  assert.deepEqual(calls, []);
  clock.advance(1500);
  await device.ask(getcap);
  assert.equal(calls.length, 1, "after the attribute timeout it is asked for");
});
