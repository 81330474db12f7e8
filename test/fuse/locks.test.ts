/**
 * Locks between the kernel and the FileSystem: what is asked, what is dropped when a lock is had, and what a close gives up.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ERRNO } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import { Notify, Opcode, OpenReply } from "../../src/fuse/abi.ts";
import { NO_ATTR } from "../../src/vfs/attr.ts";
import type { FileSystem, RequestContext } from "../../src/vfs/file-system.ts";
import { LOCK_END, type Lock } from "../../src/vfs/lock.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { hex, requestBytes } from "./fake-device.ts";
import { type Fixture, startSession } from "./fixture.ts";
import { MemoryFs } from "./memory-fs.ts";
import { type Call, recordingFs, SAMPLE_ATTR } from "./recording-fs.ts";

const FH = "33000000 00000000";
const ALIVE = "Name:\tx\nGroups:\t\nSigPnd:\t0000000000010000\nShdPnd:\t0\nSigBlk:\t0\nSigIgn:\t0\nSigCgt:\t0\n";
const READ = 0;
const WRITE = 1;
const UNLOCK = 2;

/** A request for a lock of the whole file, by the owner 7. */
function lockBody(type: number, flock = false): Buffer {
  return hex(`
    ${FH}  fh
    07000000 00000080  owner
    00000000 00000000 ffffffff ffffff7f  the whole file
    0${type}000000 01020000  type, pid
    0${flock ? 1 : 0}000000 00000000  lk_flags, padding`);
}

const flushBody = (owner: string) => hex(`${FH}  fh\n 00000000 00000000  unused\n ${owner}  lock_owner`);
const RELEASE = hex(`${FH}  fh\n 02000000 01000000  flags, release_flags\n 00000000 00000000  lock_owner`);

interface Locking extends Fixture {
  readonly calls: Call[];
  /** What comes next of these methods of the file system. */
  readonly answers: Record<string, (ctx: RequestContext, ...args: unknown[]) => unknown>;
}

/** A session with node 2 open as 0x33, with these flags of open(2). */
async function locking(options: { flags?: string; clock?: FakeClock; status?: string } = {}): Promise<Locking> {
  const { fileSystem, calls } = recordingFs();
  const answers: Locking["answers"] = {};
  const held = new Proxy(fileSystem, {
    get: (target, name: string) => {
      const method = Reflect.get(target, name);
      const answer = answers[name];
      if (answer === undefined) return method;
      return (ctx: RequestContext, ...args: unknown[]) => {
        void (method as (...all: unknown[]) => unknown)(ctx, ...args);
        return answer(ctx, ...args);
      };
    },
  }) as FileSystem;
  const { flags = "02800000", ...rest } = options;
  const fixture = await startSession(held, rest);
  const { device } = fixture;
  await device.ask(requestBytes(Opcode.LOOKUP, hex("66 00  f")));
  await device.ask(requestBytes(Opcode.OPEN, hex(`${flags} 00000000  flags`), { node: 2 }));
  calls.length = 0;
  device.replies.length = 0;
  return { ...fixture, calls, answers };
}

const ask = ({ device }: Locking, opcode: number, body: Buffer) => device.ask(requestBytes(opcode, body, { node: 2 }));
const attrNotices = ({ device }: Locking) => device.replies.filter(({ unique }) => unique === 0).length;

test("owners keep all their bits, and a flock is told from a range", async () => {
  const fixture = await locking();
  const lock: Lock = {
    kind: "posix",
    type: "write",
    owner: 0x8000_0000_0000_0007n as never,
    startBytes: 0n,
    endBytes: LOCK_END,
    pid: 0x201,
  };
  assert.equal((await ask(fixture, Opcode.SETLK, lockBody(WRITE))).errno, 0);
  assert.equal((await ask(fixture, Opcode.SETLKW, lockBody(READ, true))).errno, 0);
  assert.deepEqual(fixture.calls, [
    ["setlk", 0x33, lock, false],
    ["setlk", 0x33, { ...lock, kind: "flock", type: "read" }, true],
  ]);
  assert.equal((await ask(fixture, Opcode.SETLK, lockBody(3))).errno, ERRNO.EINVAL);
});

test("nothing in the way is said as an unlock, and what fails says why", async () => {
  const fixture = await locking();
  fixture.answers["getlk"] = async () => undefined;
  const { body } = await ask(fixture, Opcode.GETLK, lockBody(WRITE));
  assert.equal(body.readUInt32LE(16), UNLOCK);
  fixture.answers["setlk"] = () => Promise.reject(new FsError("EDEADLK", "setlk"));
  assert.equal((await ask(fixture, Opcode.SETLKW, lockBody(WRITE))).errno, ERRNO.EDEADLK);
});

test("with a lock the kernel asks for attributes anew, and keeps its pages if they are those of the file", async () => {
  const fixture = await locking();
  await ask(fixture, Opcode.SETLK, lockBody(WRITE));
  assert.equal(attrNotices(fixture), 1);
  assert.deepEqual(fixture.device.notices, []);
  await ask(fixture, Opcode.SETLK, lockBody(UNLOCK));
  assert.equal(attrNotices(fixture), 1, "who unlocks believes what he believed");
});

test("if the file has changed since, the pages are dropped before the lock is had", async () => {
  const fixture = await locking();
  const { device } = fixture;
  fixture.answers["setlk"] = async () => ({ ...SAMPLE_ATTR, mtimeNsec: 5 });
  await ask(fixture, Opcode.SETLK, lockBody(READ));
  const [notice] = device.notices;
  assert.equal(device.notices.length, 1);
  assert.equal(notice?.readInt32LE(4), Notify.INVAL_INODE);
  assert.equal(notice?.subarray(16).toString("hex"), `0200000000000000${"00".repeat(16)}`);
  await ask(fixture, Opcode.SETLK, lockBody(READ));
  assert.equal(device.notices.length, 1, "they are those of the file now");
  await ask(fixture, Opcode.WRITE, hex(`${FH} ${"00".repeat(8)} 01000000 ${"00".repeat(20)} 41  one byte`));
  await ask(fixture, Opcode.SETLK, lockBody(READ));
  assert.equal(device.notices.length, 2, "what was written meanwhile may not be all that was");
});

test("a file that was closed and opened while its pages were dropped is not believed to have them", async () => {
  const fixture = await locking();
  const { device } = fixture;
  device.refuseNotices = ERRNO.EIO;
  fixture.answers["setlk"] = async () => ({ ...SAMPLE_ATTR, mtimeNsec: 5 });
  await ask(fixture, Opcode.SETLK, lockBody(READ));
  assert.equal(attrNotices(fixture), 1, "at least the attributes are asked for");
  await ask(fixture, Opcode.SETLK, lockBody(READ));
  assert.equal(device.notices.length, 2);
  fixture.answers["setlk"] = async () => NO_ATTR;
  device.refuseNotices = ERRNO.ENOENT;
  await ask(fixture, Opcode.SETLK, lockBody(READ));
  await ask(fixture, Opcode.SETLK, lockBody(READ));
  assert.equal(device.notices.length, 4, "what is not known is not believed");
});

test("any signal disturbs who waits for a lock, at once; who only asks for one gets a moment", async () => {
  const clock = new FakeClock();
  const fixture = await locking({ clock, status: ALIVE });
  const { device, answers } = fixture;
  answers["setlk"] = (ctx) =>
    new Promise((_, reject) => ctx.signal?.addEventListener("abort", () => reject(ctx.signal?.reason)));
  const interrupt = (unique: number) => {
    const body = Buffer.alloc(8);
    body.writeBigUInt64LE(BigInt(unique));
    device.inject(requestBytes(Opcode.INTERRUPT, body, { unique: unique + 1, node: 0 }));
  };
  const waiting = device.ask(requestBytes(Opcode.SETLKW, lockBody(WRITE), { node: 2, unique: 1000 }));
  await settle();
  interrupt(1000);
  assert.equal((await waiting).errno, ERRNO.EINTR);
  const asking = device.ask(requestBytes(Opcode.SETLK, lockBody(WRITE), { node: 2, unique: 1002 }));
  await settle();
  interrupt(1002);
  await settle();
  assert.equal(device.replies.at(-1)?.unique, 1000);
  clock.advance(2000);
  assert.equal((await asking).errno, ERRNO.EINTR);
});

test("a close says whose descriptor it was once the file was locked, also through a file nobody writes to", async () => {
  for (const [flags, before] of [
    ["00800000", []],
    ["02800000", [["flush", 0x33, undefined]]],
  ] as const) {
    const fixture = await locking({ flags });
    assert.equal((await ask(fixture, Opcode.FLUSH, flushBody("07000000 00000080"))).errno, 0);
    assert.deepEqual(fixture.calls, before);
    await ask(fixture, Opcode.SETLK, lockBody(READ));
    fixture.calls.length = 0;
    await ask(fixture, Opcode.FLUSH, flushBody("07000000 00000080"));
    assert.deepEqual(fixture.calls, [["flush", 0x33, 0x8000_0000_0000_0007n]]);
  }
});

test("what a closed file has locked is waited for by who locks it next", async () => {
  const fixture = await locking();
  const { device, answers, calls } = fixture;
  await ask(fixture, Opcode.SETLK, lockBody(WRITE, true));
  let release = () => {};
  answers["release"] = () =>
    new Promise<void>((resolve) => {
      release = resolve;
    });
  assert.equal((await ask(fixture, Opcode.RELEASE, RELEASE)).errno, 0, "nobody waits for a release");
  answers["open"] = async () => ({ handle: 0x34, attr: SAMPLE_ATTR });
  await ask(fixture, Opcode.OPEN, hex("02800000 00000000  flags"));
  calls.length = 0;
  const body = lockBody(WRITE, true);
  body.writeUInt8(0x34, 0);
  const locked = device.ask(requestBytes(Opcode.SETLK, body, { node: 2 }));
  await settle();
  assert.deepEqual(calls, []);
  release();
  assert.equal((await locked).errno, 0);
});

test("where the FileSystem has no locks the kernel keeps them, and does not tell of closes nobody is interested in", async () => {
  const { device } = await startSession(new MemoryFs());
  const init = hex("07000000 2d000000 00000200 ffffffff 00000000  major minor max_readahead flags flags2");
  const { body } = await device.ask(requestBytes(Opcode.INIT, Buffer.concat([init, Buffer.alloc(44)]), { node: 0 }));
  assert.equal(body.readUInt32LE(12) & ((1 << 1) | (1 << 10)), 0);
  const created = await device.ask(requestBytes(Opcode.CREATE, hex("00800000 a4810000 00000000 00000000 66 00  f")));
  assert.equal(created.body.readUInt32LE(128 + 8) & OpenReply.NOFLUSH, OpenReply.NOFLUSH);
});
