/** The locks of a share: sessions, opens and waits, above a disk that other programs lock as well, on a clock that stands still. */
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import type { ErrnoName } from "../../../src/base/errno.ts";
import { FsError } from "../../../src/base/errors.ts";
import { createLog } from "../../../src/base/log.ts";
import type { LockOpen } from "../../../src/server/locks/node-locks.ts";
import { type LockSession, ShareLocks } from "../../../src/server/locks/share-locks.ts";
import type { Attr } from "../../../src/vfs/attr.ts";
import { type FileSystem, type HandleId, type NodeId, OpenFlag } from "../../../src/vfs/file-system.ts";
import {
  conflicts,
  type HeldType,
  LOCK_END,
  type Lock,
  type LockKind,
  type LockOwner,
  type NodeLock,
} from "../../../src/vfs/lock.ts";
import { LockRanges } from "../../../src/vfs/lock-ranges.ts";
import { attrOf } from "../../support/attr.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";

const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;

/** The disk's side: what the server holds there, and what programs beside it do. */
class FakeDisk {
  readonly held = new LockRanges<string>();
  beside: (NodeLock & { type: HeldType })[] = [];
  flock: NodeLock["type"] = "unlock";
  fails: ErrnoName | undefined;
  calls = 0;
  readonly fileSystem = {
    getattr: async () => attrOf({}),
    lockNode: async (_ctx: unknown, _handle: HandleId, lock: NodeLock): Promise<Attr> => {
      this.calls += 1;
      await settleOnce();
      if (this.fails !== undefined) throw new FsError(this.fails, "lockNode");
      const { type } = lock;
      if (
        type !== "unlock" &&
        this.beside.some((other) => other.kind === lock.kind && conflicts(other, { ...lock, type }))
      ) {
        throw new FsError("EAGAIN", "lockNode");
      }
      if (lock.kind === "flock") this.flock = type;
      else if (type === "unlock") this.held.clear(lock);
      else this.held.set(lock, type, "server");
      return attrOf({ sizeBytes: this.calls });
    },
    findNodeLock: async (_ctx: unknown, _handle: HandleId, lock: NodeLock) =>
      this.beside.find((other) => other.kind === lock.kind && conflicts(other, lock as never)),
  } as unknown as FileSystem;
}

const settleOnce = () => new Promise((resolve) => setImmediate(resolve));

class FakeSession implements LockSession {
  isAway = false;
  readonly told: [number, "reserved" | ErrnoName][] = [];

  lockReady(waitId: number, outcome: Attr | ErrnoName): void {
    this.told.push([waitId, typeof outcome === "string" ? outcome : "reserved"]);
  }
}

let disk: FakeDisk;
let clock: FakeClock;
let locks: ShareLocks;
let given: Set<LockOpen>;
let lines: string[];

beforeEach(() => {
  disk = new FakeDisk();
  clock = new FakeClock();
  given = new Set();
  lines = [];
  locks = new ShareLocks({
    fileSystem: disk.fileSystem,
    clock,
    log: createLog({ level: "warn", clock, sink: (line) => lines.push(line) }),
    limits: { locksPerSessionMax: 20, lockWaitsPerSessionMax: 300 },
    giveUp: (open) => given.has(open),
  });
});

const openOf = (node = "n", flags: number = READ_WRITE) => ({
  node: node as NodeId,
  inner: 1 as HandleId,
  flags,
  handles: 1,
});

function lock(type: Lock["type"], start = 0, end = -1, owner = 1, kind: LockKind = "posix"): Lock {
  const endBytes = end < 0 ? LOCK_END : BigInt(end);
  return { kind, type, startBytes: BigInt(start), endBytes, owner: BigInt(owner) as LockOwner, pid: 100 + owner };
}

async function refused(errno: ErrnoName, promise: Promise<unknown>): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof FsError && error.errno === errno);
}

async function close(open: { handles: number } & LockOpen): Promise<void> {
  open.handles = 0;
  await locks.release(open, Promise.resolve());
}

/** Nothing may be left of a share whose opens are closed. */
function checkEmpty(): void {
  const { locks: count, waits, nodes, lockers } = locks.figures;
  assert.deepEqual({ count, waits, nodes, lockers }, { count: 0, waits: 0, nodes: 0, lockers: 0 });
  assert.equal(disk.held.size, 0);
  assert.equal(disk.flock, "unlock");
  assert.equal(clock.pendingCount, 0);
  assert.deepEqual(lines, []);
}

test("the same owner through two opens is one, owners of two sessions with one number are two", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [first, second, other] = [openOf(), openOf(), openOf()];
  await locks.setlk(mine, first, lock("write", 0, 9), 0);
  await locks.setlk(mine, second, lock("write", 5, 14), 0);
  await refused("EAGAIN", locks.setlk(theirs, other, lock("read", 14, 14), 0));
  await locks.setlk(theirs, other, lock("read", 15, 15), 0);
  assert.deepEqual(await locks.getlk(theirs, other, lock("write", 7)), { ...lock("write", 5, 14), owner: 1n, pid: 0 });
  assert.deepEqual(await locks.getlk(mine, first, lock("write", 7, 20, 2)), {
    ...lock("write", 5, 14),
    owner: 2n,
    pid: 101,
  });
  assert.equal(await locks.getlk(mine, first, lock("write", 7, 14)), undefined);
  await close(first);
  assert.deepEqual(
    locks.locksOf(second).map(({ startBytes, endBytes, owner }) => [startBytes, endBytes, owner]),
    [[5n, 14n, 1n]],
  );
  await close(second);
  await close(other);
  checkEmpty();
});

test("a lock is held on the disk before anybody is told of it, and as long as anybody has it", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [first, second] = [openOf(), openOf()];
  await locks.setlk(mine, first, lock("read", 0, 9), 0);
  await locks.setlk(theirs, second, lock("read", 5, 14), 0);
  const types = () => disk.held.all.map(({ startBytes, endBytes, type }) => `${type} ${startBytes}-${endBytes}`);
  assert.deepEqual(types(), ["read 0-14"]);
  await locks.setlk(mine, first, lock("unlock"), 0);
  assert.deepEqual(types(), ["read 5-14"]);
  await locks.setlk(theirs, second, lock("write", 0, 7), 0);
  assert.deepEqual(types(), ["write 0-7", "read 8-14"]);
  await locks.setlk(theirs, second, lock("read", 0, 3), 0);
  assert.deepEqual(types(), ["read 0-3", "write 4-7", "read 8-14"]);
  await locks.setlk(theirs, second, lock("unlock", 2, 5), 0);
  assert.deepEqual(types(), ["read 0-1", "write 6-7", "read 8-14"]);
  await close(second);
  await close(first);
  checkEmpty();
});

test("who waits is told when the lock is reserved for it, and has it when it asks again, as often as it likes", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [first, second, third] = [openOf(), openOf(), openOf()];
  await locks.setlk(mine, first, lock("write"), 0);
  assert.equal(await locks.setlk(theirs, second, lock("write"), 7), undefined);
  assert.equal(await locks.setlk(theirs, second, lock("write"), 7), undefined, "it keeps its place");
  assert.deepEqual(theirs.told, []);
  await locks.setlk(mine, first, lock("unlock"), 0);
  assert.deepEqual(theirs.told, [[7, "reserved"]]);
  await refused("EAGAIN", locks.setlk(mine, third, lock("read", 3, 3), 0));
  assert.notEqual(await locks.setlk(theirs, second, lock("write"), 7), undefined);
  assert.notEqual(await locks.setlk(theirs, second, lock("write"), 7), undefined);
  await refused("EAGAIN", locks.setlk(mine, third, lock("read", 3, 3), 0));
  await close(second);
  await close(first);
  checkEmpty();
});

test("a reserved lock that nobody wants any more goes to the next, and leaves what its owner had", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [first, second] = [openOf(), openOf()];
  await locks.setlk(mine, first, lock("read", 0, 9), 0);
  await locks.setlk(theirs, second, lock("read", 0, 4), 0);
  assert.equal(await locks.setlk(theirs, second, lock("write", 0, 9), 1), undefined);
  assert.equal(await locks.setlk(theirs, second, lock("write", 8, 9, 2), 2), undefined);
  await locks.setlk(mine, first, lock("unlock"), 0);
  assert.deepEqual(theirs.told, [[1, "reserved"]]);
  await locks.cancelWait(theirs, 1);
  await locks.cancelWait(theirs, 1);
  assert.deepEqual(theirs.told, [
    [1, "reserved"],
    [2, "reserved"],
  ]);
  assert.deepEqual(
    disk.held.all.map(({ startBytes, endBytes, type }) => [startBytes, endBytes, type]),
    [
      [0n, 4n, "read"],
      [8n, 9n, "write"],
    ],
  );
  await close(second);
  await close(first);
  checkEmpty();
});

test("a program beside the server is waited for by trying again, ever less often, and not for longer than needed", async () => {
  const mine = new FakeSession();
  const open = openOf();
  disk.beside = [{ kind: "posix", type: "write", startBytes: 5n, endBytes: 5n }];
  await refused("EAGAIN", locks.setlk(mine, open, lock("read"), 0));
  await locks.setlk(mine, open, lock("write", 0, 4), 0);
  assert.deepEqual(await locks.getlk(mine, open, lock("read")), { ...lock("write", 5, 5), pid: 0 });
  assert.equal(await locks.setlk(mine, open, lock("read"), 3), undefined);
  const tries: number[] = [];
  for (let ms = 0; ms < 4000; ms += 10) {
    const { calls } = disk;
    clock.advance(10);
    await settleOnce();
    await settleOnce();
    await settleOnce();
    if (disk.calls > calls) tries.push(ms + 10);
  }
  assert.deepEqual(tries, [50, 150, 350, 750, 1550, 2550, 3550]);
  disk.beside = [];
  clock.advance(1000);
  await settle();
  assert.deepEqual(mine.told, [[3, "reserved"]]);
  assert.equal(clock.pendingCount, 0);
  await close(open);
  checkEmpty();
});

test("a disk that cannot lock keeps nobody from locking; one that fails says so", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [first, second] = [openOf(), openOf()];
  disk.fails = "ENOLCK";
  await locks.setlk(mine, first, lock("write"), 0);
  await refused("EAGAIN", locks.setlk(theirs, second, lock("write"), 0));
  await locks.setlk(mine, first, lock("unlock"), 0);
  disk.fails = "EIO";
  await refused("EIO", locks.setlk(mine, first, lock("write"), 0));
  disk.fails = undefined;
  await locks.setlk(mine, first, lock("write"), 0);
  assert.equal(await locks.setlk(theirs, second, lock("write", 0, 3), 1), undefined);
  disk.fails = "EIO";
  await locks.setlk(mine, first, lock("unlock"), 0);
  assert.deepEqual(theirs.told, [[1, "EIO"]]);
  assert.equal(lines.length, 1);
  disk.fails = undefined;
  disk.held.clear(lock("write"));
  lines.length = 0;
  await close(first);
  checkEmpty();
});

test("two that would wait for each other for ever are told, across files", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [a, b] = [
    [openOf("a"), openOf("b")],
    [openOf("a"), openOf("b")],
  ] as const;
  await locks.setlk(mine, a[0], lock("write"), 0);
  await locks.setlk(theirs, b[1], lock("write"), 0);
  assert.equal(await locks.setlk(mine, a[1], lock("write"), 1), undefined);
  await refused("EDEADLK", locks.setlk(theirs, b[0], lock("read"), 1));
  assert.deepEqual(locks.figures.waits, 1);
  await locks.setlk(theirs, b[1], lock("unlock"), 0);
  assert.deepEqual(mine.told, [[1, "reserved"]]);
  for (const open of [...a, ...b]) await close(open);
  checkEmpty();
});

test("a flock belongs to its open; two that share one and both want it alone do not wait for each other", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [first, second] = [openOf(), openOf("n", OpenFlag.READ)];
  await locks.setlk(mine, first, lock("read", 0, -1, 1, "flock"), 0);
  await locks.setlk(theirs, second, lock("read", 0, -1, 1, "flock"), 0);
  await refused("EAGAIN", locks.setlk(mine, first, lock("write", 0, -1, 1, "flock"), 0));
  assert.equal(await locks.setlk(mine, first, lock("write", 0, -1, 1, "flock"), 1), undefined);
  assert.notEqual(await locks.setlk(theirs, second, lock("write", 0, -1, 1, "flock"), 1), undefined);
  await locks
    .setlk(theirs, second, lock("write", 0, 9, 1), 0)
    .catch((error: FsError) => assert.equal(error.errno, "EBADF"));
  await locks.setlk(mine, first, lock("write", 0, 9, 1), 0);
  assert.equal(disk.flock, "write");
  await close(second);
  assert.deepEqual(mine.told, [[1, "reserved"]]);
  await close(first);
  checkEmpty();
});

test("a closed open's locks go when its last requests have ended, and nobody's requests wait for that", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [first, second] = [openOf(), openOf()];
  await locks.setlk(mine, first, lock("write"), 0);
  let end = () => {};
  const idle = new Promise<void>((resolve) => {
    end = resolve;
  });
  first.handles = 0;
  const released = locks.release(first, idle);
  await refused("EAGAIN", locks.setlk(theirs, second, lock("write"), 0));
  assert.equal(await locks.setlk(theirs, second, lock("write"), 1), undefined);
  await locks.setlk(theirs, second, lock("unlock"), 0);
  assert.deepEqual(theirs.told, []);
  end();
  await released;
  assert.deepEqual(theirs.told, [[1, "reserved"]]);
  await refused("EAGAIN", locks.setlk(mine, openOf(), lock("write"), 0));
  assert.notEqual(await locks.setlk(theirs, second, lock("write"), 1), undefined);
  await refused("EBADF", locks.setlk(mine, first, lock("write", 0, 0), 0));
  await close(second);
  checkEmpty();
});

test("an absent session keeps what it has, gets nothing meanwhile, and loses it only if it is given up", async () => {
  const [absent, present] = [new FakeSession(), new FakeSession()];
  const [first, second, third, fourth] = [openOf(), openOf(), openOf(), openOf()];
  await locks.setlk(absent, first, lock("write", 0, 9), 0);
  await locks.setlk(present, second, lock("write", 10, 19), 0);
  assert.equal(await locks.setlk(absent, third, lock("write", 10, 19), 1), undefined);
  absent.isAway = true;
  await refused("EAGAIN", locks.setlk(present, second, lock("write", 0, 0, 2), 0));
  assert.equal(await locks.setlk(present, fourth, lock("write", 10, 19, 2), 1), undefined);
  await locks.setlk(present, second, lock("unlock", 10, 19), 0);
  assert.deepEqual([absent.told, present.told], [[], [[1, "reserved"]]]);
  await locks.cancelWait(present, 1);
  absent.isAway = false;
  locks.reconsider(absent);
  await settle();
  assert.deepEqual(absent.told, [[1, "reserved"]]);
  absent.isAway = true;
  assert.equal(await locks.setlk(present, second, lock("write", 0, 3), 2), undefined);
  given.add(first);
  locks.reconsider(absent);
  await settle();
  assert.deepEqual(present.told.at(-1), [2, "reserved"]);
  assert.deepEqual(locks.locksOf(first), []);
  assert.equal(locks.locksOf(third).length, 1);
  for (const open of [first, second, third, fourth]) await close(open);
  checkEmpty();
});

test("a session that ends waits for nothing any more", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [first, second, third] = [openOf(), openOf(), openOf()];
  await locks.setlk(mine, first, lock("write"), 0);
  assert.equal(await locks.setlk(theirs, second, lock("write"), 1), undefined);
  assert.equal(await locks.setlk(mine, third, lock("write", 0, -1, 2), 1), undefined);
  await locks.endSession(theirs);
  await locks.setlk(mine, first, lock("unlock"), 0);
  assert.deepEqual([mine.told, theirs.told], [[[1, "reserved"]], []]);
  for (const open of [first, second, third]) await close(open);
  checkEmpty();
});

test("what was locked before a restart can be locked again, unless somebody beside has it", async () => {
  const session = new FakeSession();
  const open = openOf();
  await locks.setlk(session, open, lock("write", 0, 9), 0);
  await locks.setlk(session, open, lock("read", 20, 29, 2), 0);
  await locks.setlk(session, open, lock("read", 0, -1, 3, "flock"), 0);
  const kept = locks.locksOf(open);
  assert.equal(kept.length, 3);
  await close(open);
  checkEmpty();
  disk.beside = [{ kind: "posix", type: "write", startBytes: 25n, endBytes: 25n }];
  const again = openOf();
  assert.deepEqual(await locks.restore(session, again, kept), [{ ...lock("read", 20, 29, 2), waitId: 0 }]);
  assert.deepEqual(
    locks.locksOf(again),
    kept.filter(({ startBytes }) => startBytes !== 20n),
  );
  await close(again);
  checkEmpty();
});

test("what was reserved before a restart is reserved again, for the wish it was reserved for", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [first, second] = [openOf(), openOf()];
  await locks.setlk(mine, first, lock("write"), 0);
  assert.equal(await locks.setlk(theirs, second, lock("write", 0, 9), 7), undefined);
  assert.equal(await locks.setlk(theirs, second, lock("write", 10, 19), 8), undefined);
  await locks.setlk(mine, first, lock("unlock"), 0);
  const kept = locks.locksOf(second);
  assert.deepEqual(
    kept.map(({ waitId }) => waitId),
    [7, 8],
  );
  await close(first);
  await close(second);
  checkEmpty();
  const [again, other] = [openOf(), openOf()];
  assert.deepEqual(await locks.restore(theirs, again, kept), []);
  assert.deepEqual(locks.locksOf(again), kept);
  await refused("EAGAIN", locks.setlk(mine, other, lock("write", 0, 9), 0));
  assert.equal(await locks.cancelWait(theirs, 7), again);
  await locks.setlk(mine, other, lock("write", 0, 9), 0);
  assert.notEqual(await locks.setlk(theirs, again, lock("write", 10, 19), 8), undefined);
  assert.deepEqual(locks.locksOf(again), [{ ...lock("write", 10, 19), waitId: 0 }]);
  await close(again);
  disk.beside = [{ kind: "posix", type: "write", startBytes: 5n, endBytes: 5n }];
  await close(other);
  const late = openOf();
  assert.deepEqual(await locks.restore(theirs, late, kept), [kept[0]]);
  await close(late);
  checkEmpty();
});

test("where locks are mandatory, others neither change what is locked nor read what is locked exclusively", async () => {
  const session = new FakeSession();
  const [open, other] = [openOf(), openOf()];
  await locks.setlk(session, open, lock("read", 10, 19), 0);
  await locks.setlk(session, open, lock("write", 20, 29), 0);
  const node = "n" as NodeId;
  const tries = (who: LockOpen | undefined, access: HeldType, start: number, end: number) => {
    const range = { startBytes: BigInt(start), endBytes: BigInt(end) };
    return locks.unlessLocked({ node, open: who, access, ...range }, async () => "done");
  };
  assert.equal(await tries(other, "write", 0, 9), "done");
  await refused("EAGAIN", tries(other, "write", 0, 10));
  assert.equal(await tries(other, "read", 0, 19), "done");
  await refused("EAGAIN", tries(undefined, "read", 0, 20));
  assert.equal(await tries(open, "write", 0, 100), "done");
  await close(open);
  checkEmpty();
});

test("nobody is told of a lock while something is under way that it forbids", async () => {
  const session = new FakeSession();
  const [open, other] = [openOf(), openOf()];
  let end = () => {};
  const write = locks.unlessLocked(
    { node: "n" as NodeId, open: other, access: "write", startBytes: 5n, endBytes: 5n },
    () =>
      new Promise<void>((resolve) => {
        end = resolve;
      }),
  );
  let isLocked = false;
  const locked = locks.setlk(session, open, lock("write", 0, 9), 0).then(() => {
    isLocked = true;
  });
  await settle();
  assert.equal(isLocked, false);
  const again = { node: "n" as NodeId, open: other, access: "write" as const, startBytes: 9n, endBytes: 9n };
  await refused(
    "EAGAIN",
    locks.unlessLocked(again, async () => {}),
  );
  end();
  await Promise.all([write, locked]);
  await close(open);
  checkEmpty();
});

test("who has as many ranges as he may unlocks none in the middle; all he has he unlocks, and as a start finds it he gets it back", async () => {
  const session = new FakeSession();
  const open = openOf();
  await locks.setlk(session, open, lock("write", 0, 999), 0);
  for (let at = 1; at <= 19; at += 1) await locks.setlk(session, open, lock("unlock", 10 * at, 10 * at), 0);
  const full = locks.locksOf(open);
  assert.equal(full.length, 20);
  await refused("ENOLCK", locks.setlk(session, open, lock("unlock", 500, 500), 0));
  assert.deepEqual(locks.locksOf(open), full, "nothing is changed");
  await locks.setlk(session, open, lock("unlock", 900, 999), 0);
  await locks.setlk(session, open, lock("unlock", 191, 195), 0);
  const kept = locks.locksOf(open);
  await locks.setlk(session, open, lock("unlock"), 0);
  assert.deepEqual(locks.locksOf(open), []);
  // A lock in the middle of another one makes two ranges more.
  const more = [...kept, { ...lock("read", 2000, 2000), type: "read" as const, waitId: 0 }];
  assert.deepEqual(await locks.restore(session, open, more), []);
  assert.equal(locks.locksOf(open).length, 21);
  await close(open);
  checkEmpty();
});

test("a session has so many locks and waits at most; unlocking all is always possible", async () => {
  const [mine, theirs] = [new FakeSession(), new FakeSession()];
  const [open, other] = [openOf(), openOf()];
  for (let at = 0; at < 20; at += 1) await locks.setlk(mine, open, lock("write", 2 * at, 2 * at), 0);
  await refused("ENOLCK", locks.setlk(mine, open, lock("write", 100, 100), 0));
  await refused("ENOLCK", locks.setlk(mine, open, lock("write", 100, 100), 9));
  for (let at = 1; at <= 300; at += 1)
    assert.equal(await locks.setlk(theirs, other, lock("write", 0, 9, at), at), undefined);
  await refused("ENOLCK", locks.setlk(theirs, other, lock("write", 0, 9, 301), 301));
  await locks.setlk(mine, open, lock("unlock"), 0);
  assert.deepEqual(theirs.told, [[1, "reserved"]]);
  await close(other);
  await close(open);
  checkEmpty();
});
