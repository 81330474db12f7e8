/** Locks of a remote file system: two clients of one server in memory, callers that lose interest, and links that are lost. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { CancelSource } from "../../src/base/signals.ts";
import { RemoteLocks } from "../../src/client/remote-locks.ts";
import { RemoteOpen } from "../../src/client/remote-open.ts";
import { NO_ATTR } from "../../src/vfs/attr.ts";
import { type FileSystem, type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import type { LockOwner } from "../../src/vfs/lock.ts";
import { settle } from "../support/fake-clock.ts";
import { ctx } from "../support/link-drive.ts";
import { type Locking, lock, open, outcome } from "../support/locking.ts";
import { type ReturningDrive, returningDrive } from "../support/returning-drive.ts";

const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;

/** A client that can be cut off and comes back, and another one. */
async function twoClients(): Promise<{ drive: ReturningDrive; mine: Locking; theirs: Locking }> {
  const drive = await returningDrive();
  const mine = await open(drive.remote);
  const theirs = await open((await drive.connect()).remote, mine.id);
  return { drive, mine, theirs };
}

async function refused(errno: string, promise: Promise<unknown>): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof FsError && error.errno === errno);
}

test("locks of one client are in the way of another, and say whose they are only at home", async () => {
  const { mine, theirs } = await twoClients();
  const attr = await mine.setlk(lock("write", 10, 19));
  assert.equal(attr.sizeBytes, 0);
  await refused("EAGAIN", theirs.setlk(lock("read", 15, 30)));
  assert.equal(await theirs.find(lock("read")), "write 10-19");
  const { fileSystem, handle } = mine;
  const getlk = fileSystem.getlk as NonNullable<FileSystem["getlk"]>;
  assert.equal((await getlk.call(fileSystem, ctx, handle, lock("read", 0, -1, 2)))?.pid, 101);
  assert.equal((await getlk.call(theirs.fileSystem, ctx, theirs.handle, lock("read")))?.pid, 0);
  await mine.setlk(lock("unlock", 0, 14));
  assert.equal(await theirs.find(lock("write")), "write 15-19");
  await mine.setlk(lock("unlock"));
  await theirs.setlk(lock("write"));
});

test("who waits occupies nothing: thousands of other requests are served, and hundreds may wait", async () => {
  const { drive, mine, theirs } = await twoClients();
  await mine.setlk(lock("write"));
  const waiting = Array.from({ length: 500 }, (_, index) => outcome(theirs.setlk(lock("write", 0, 9, index), true)));
  await settle();
  assert.equal(drive.remote.status().requestsOutstanding, 0);
  const { fileSystem, id } = theirs;
  await Promise.all(Array.from({ length: 1000 }, () => fileSystem.getattr(ctx, id)));
  assert.ok(waiting.every(({ value }) => value === "pending"));
  await mine.setlk(lock("unlock"));
  for (let index = 0; index < waiting.length; index += 1) {
    await settle();
    assert.equal(waiting[index]?.value, "locked");
    assert.equal(waiting[index + 1]?.value ?? "pending", "pending", "one after the other");
    await theirs.setlk(lock("unlock", 0, -1, index));
  }
});

test("a caller that loses interest while it waits is let go at once, and its place too", async () => {
  const { mine, theirs } = await twoClients();
  await mine.setlk(lock("write", 0, 9));
  const signal = new CancelSource();
  const waiting = theirs.setlk(lock("write", 0, 9), true, signal);
  await settle();
  signal.abort();
  await assert.rejects(waiting, { name: "AbortError" });
  await mine.setlk(lock("unlock"));
  await settle();
  await mine.setlk(lock("write", 0, 9));
});

test("a lock that comes for a caller that has gone leaves its owner what he had before", async () => {
  for (const isWaiting of [true, false]) {
    const { drive, mine, theirs } = await twoClients();
    await mine.setlk(lock("read", 0, 4));
    const link = drive.connections[0];
    assert.ok(link !== undefined);
    link.server.faults.isStalled = true;
    const signal = new CancelSource();
    const gone = mine.setlk(lock("write", 0, 9), isWaiting, signal);
    await settle();
    assert.equal(await theirs.find(lock("write")), "write 0-9", "the server has granted it");
    signal.abort();
    await assert.rejects(gone, { name: "AbortError" });
    // The same owner's next request waits until it is known what became of the first.
    const next = outcome(mine.setlk(lock("write", 20, 29)));
    const closed = outcome(mine.fileSystem.flush(ctx, mine.handle, 9n as LockOwner));
    await settle();
    assert.equal(next.value, "pending");
    assert.equal(closed.value, "locked", "another owner's close does not");
    link.server.faults.isStalled = false;
    link.server.kick();
    await settle();
    assert.equal(next.value, "locked");
    assert.equal(await theirs.find(lock("write", 0, 9)), "read 0-4");
    assert.equal(await theirs.find(lock("write", 5, -1)), "write 20-29");
  }
});

test("an unlock whose caller has gone is an unlock all the same", async () => {
  const { drive, mine, theirs } = await twoClients();
  await mine.setlk(lock("write"));
  const link = drive.connections[0];
  assert.ok(link !== undefined);
  link.server.faults.isStalled = true;
  const signal = new CancelSource();
  const gone = mine.setlk(lock("unlock", 0, 9), false, signal);
  await settle();
  signal.abort();
  await assert.rejects(gone, { name: "AbortError" });
  link.server.faults.isStalled = false;
  link.server.kick();
  await settle();
  assert.equal(await theirs.find(lock("write")), "write 10-");
});

test("a descriptor that is closed takes all fcntl locks of its owner on the file along, and nothing else", async () => {
  const { drive, mine, theirs } = await twoClients();
  const again = await open(drive.remote, mine.id);
  await mine.setlk(lock("write", 0, 9, 1));
  await mine.setlk(lock("write", 10, 19, 2));
  await mine.setlk(lock("read", 0, -1, 1, "flock"));
  await again.fileSystem.flush(ctx, again.handle, 1n as LockOwner);
  assert.equal(await theirs.find(lock("write")), "write 10-19");
  await refused("EAGAIN", theirs.setlk(lock("write", 0, -1, 1, "flock")));
  const { sentBytes } = drive.remote.status().channels[0] as { sentBytes: number };
  await again.fileSystem.flush(ctx, again.handle, 1n as LockOwner);
  await again.fileSystem.flush(ctx, again.handle, 3n as LockOwner);
  await mine.setlk(lock("unlock", 0, -1, 3));
  const { sentBytes: after } = drive.remote.status().channels[0] as { sentBytes: number };
  assert.equal(after, sentBytes, "who has no locks costs nothing");
});

test("what an open has locked is gone when its release has settled", async () => {
  const { drive, mine, theirs } = await twoClients();
  const again = await open(drive.remote, mine.id);
  await again.setlk(lock("write", 0, -1, 1, "flock"));
  await again.setlk(lock("write", 0, 9));
  await mine.setlk(lock("write", 20, 29));
  await again.fileSystem.release(ctx, again.handle);
  await theirs.setlk(lock("write", 0, -1, 1, "flock"));
  assert.equal(await theirs.find(lock("write")), "write 20-29");
  await refused("EBADF", again.setlk(lock("write")));
});

test("a flock that is exchanged for a stronger one is given up while that is waited for", async () => {
  const { mine, theirs } = await twoClients();
  await mine.setlk(lock("read", 0, -1, 1, "flock"));
  await theirs.setlk(lock("read", 0, -1, 1, "flock"));
  const waiting = outcome(mine.setlk(lock("write", 0, -1, 1, "flock"), true));
  await settle();
  await theirs.setlk(lock("write", 0, -1, 1, "flock"), true);
  assert.equal(waiting.value, "pending");
  await theirs.setlk(lock("unlock", 0, -1, 1, "flock"));
  await settle();
  assert.equal(waiting.value, "locked");
});

test("a deadlock is told to the one who makes it, and one that comes about later to one who waits", async () => {
  const { mine, theirs } = await twoClients();
  await mine.setlk(lock("write", 0, 0));
  await theirs.setlk(lock("write", 1, 1));
  const waiting = outcome(mine.setlk(lock("write", 1, 1), true));
  await settle();
  await refused("EDEADLK", theirs.setlk(lock("write", 0, 0), true));
  assert.equal(waiting.value, "pending");
});

test("locks are kept while the link is down, and nobody gets them", async () => {
  const { drive, mine, theirs } = await twoClients();
  await mine.setlk(lock("write", 0, 9));
  await mine.setlk(lock("write", 0, -1, 1, "flock"));
  drive.isDown = true;
  await drive.connections[0]?.client.destroy();
  await settle();
  const waiting = outcome(theirs.setlk(lock("write", 0, 9), true));
  await drive.pass(30_000);
  assert.equal(waiting.value, "pending");
  await refused("EAGAIN", theirs.setlk(lock("read", 0, -1, 1, "flock")));
  const asked = outcome(mine.setlk(lock("unlock", 0, 4)));
  drive.isDown = false;
  await drive.pass(3000, () => asked.value !== "pending");
  assert.equal(asked.value, "locked");
  assert.equal(await theirs.find(lock("write")), "write 5-9");
});

test("who waits when the link is lost has the lock when it is back, whether or not it became free meanwhile", async () => {
  for (const when of ["before", "away", "after"]) {
    const { drive, mine, theirs } = await twoClients();
    await theirs.setlk(lock("write"));
    const link = drive.connections[0];
    assert.ok(link !== undefined);
    const waiting = outcome(mine.setlk(lock("write"), true));
    await settle();
    // The word that it is free is lost with the link.
    if (when === "before") {
      link.server.faults.isDropping = true;
      await theirs.setlk(lock("unlock"));
      await settle();
    }
    drive.isDown = true;
    await drive.cut();
    if (when === "away") await theirs.setlk(lock("unlock"));
    await drive.pass(5000);
    assert.equal(waiting.value, "pending");
    drive.isDown = false;
    await drive.pass(3000, () => waiting.value !== "pending");
    if (when === "after") {
      assert.equal(waiting.value, "pending");
      await theirs.setlk(lock("unlock"));
      await settle();
    }
    assert.equal(waiting.value, "locked", when);
    await settle();
    await refused("EAGAIN", theirs.setlk(lock("write")));
  }
});

test("a request whose answer is lost with the link is not made twice, and who asks to wait learns that he does", async () => {
  const { drive, mine, theirs } = await twoClients();
  await theirs.setlk(lock("write", 0, 9));
  const link = drive.connections[0];
  assert.ok(link !== undefined);
  link.server.faults.isDropping = true;
  const locked = outcome(mine.setlk(lock("write", 10, 19)));
  const waiting = outcome(mine.setlk(lock("write", 0, 9), true));
  await settle();
  // Granted while the answer that it waits has not arrived, nor will the word that it need not any more.
  await theirs.setlk(lock("unlock"));
  await settle();
  await drive.cut();
  await drive.pass(3000, () => waiting.value !== "pending" && locked.value !== "pending");
  assert.deepEqual([locked.value, waiting.value], ["locked", "locked"]);
  assert.equal(await theirs.find(lock("write")), "write 0-19");
});

test("who comes back too late, when somebody else has wanted what he had locked, finds his open gone", async () => {
  const drive = await returningDrive({ limits: { keepMsMax: 5000 } });
  const mine = await open(drive.remote);
  const other = await open(drive.remote, mine.id);
  const theirs = await open((await drive.connect()).remote, mine.id);
  await mine.setlk(lock("write", 0, 9));
  const waiting = outcome(mine.setlk(lock("write", 0, 9, 2), true));
  drive.isDown = true;
  await drive.cut();
  await drive.pass(4000);
  await refused("EAGAIN", theirs.setlk(lock("write", 0, 9)));
  const patient = outcome(theirs.setlk(lock("write", 0, 9), true));
  await drive.pass(3000);
  assert.equal(patient.value, "locked", "when the time is over who waits already gets it");
  drive.isDown = false;
  await drive.pass(3000);
  assert.ok(waiting.value instanceof FsError && waiting.value.errno === "ESTALE");
  await refused("ESTALE", mine.setlk(lock("read", 50, 50)));
  await other.setlk(lock("read", 50, 50));
});

test("a session that says goodbye leaves its locks to others", async () => {
  const { drive, mine, theirs } = await twoClients();
  await mine.setlk(lock("write"));
  const waiting = outcome(theirs.setlk(lock("write"), true));
  await settle();
  await drive.remote.close();
  await settle();
  assert.equal(waiting.value, "locked");
});

/** Locks over a server that answers, in any order, what a test says. */
function scripted() {
  const calls: {
    name: string;
    type: number;
    waitId: number;
    answer: (waits: boolean) => Promise<void>;
    fail: (errno: "ENOLCK") => Promise<void>;
  }[] = [];
  const call = (
    { message, fields }: { message: { name: string }; fields: { type: number; waitId: number } },
    result: (reply: unknown) => unknown,
  ) =>
    new Promise((resolve, reject) => {
      const fail = async (errno: "ENOLCK") => {
        reject(new FsError(errno, message.name));
        await settle();
      };
      const answer = async (waits: boolean) => {
        resolve(result({ waits, attr: NO_ATTR }));
        await settle();
      };
      calls.push({ name: message.name, type: fields.type, waitId: fields.waitId, answer, fail });
    });
  const locks = new RemoteLocks({ call } as never);
  const lost: NodeId[] = [];
  locks.onLost = (node) => lost.push(node);
  const node = "n" as NodeId;
  const file = { id: 1 as HandleId, kind: "file", node, handle: 1, flags: READ_WRITE, caller: ctx.caller } as const;
  return { locks, calls, lost, open: new RemoteOpen(file) };
}

test("a lock that is lost before the server has heard that it is had is said to be, not waited for, and unlocked all the same", async () => {
  const { locks, calls, lost, open: file } = scripted();
  const waiting = locks.setlk(ctx, file, lock("write"), true);
  await calls[0]?.answer(true);
  locks.ready({ waitId: 1, errno: 0, attr: NO_ATTR });
  await waiting;
  await calls[1]?.answer(true);
  assert.deepEqual(lost, ["n"]);
  assert.deepEqual([calls[2]?.name, calls[2]?.waitId], ["cancelLock", 1]);
  await calls[2]?.answer(false);
  const unlocked = locks.setlk(ctx, file, lock("unlock"), false);
  await calls[3]?.answer(false);
  await unlocked;
  await locks.setlk(ctx, file, lock("unlock"), false);
  assert.equal(calls.length, 4);
});

test("a lock that comes while its owner's unlock is on the way is known to be held, unless its open is closed", async () => {
  for (const isClosed of [false, true]) {
    const { locks, calls, lost, open: file } = scripted();
    const first = locks.setlk(ctx, file, lock("write", 0, 9), false);
    await calls[0]?.answer(false);
    await first;
    const waiting = locks.setlk(ctx, file, lock("write", 10, 19), true);
    await calls[1]?.answer(true);
    const unlocked = locks.setlk(ctx, file, lock("unlock"), false);
    locks.ready({ waitId: 1, errno: 0, attr: NO_ATTR });
    await waiting;
    if (isClosed) locks.release(file);
    // The server has had the unlock first.
    await calls[2]?.answer(false);
    await unlocked;
    await calls[3]?.answer(false);
    assert.equal(calls.length, 4);
    assert.deepEqual(lost, []);
    assert.equal(locks.release(file), !isClosed, "whether the server has a lock");
  }
});

test("a lock whose notice has overtaken the reply that it is waited for is held, and given up only by its owner", async () => {
  for (const isConfirmedFirst of [false, true]) {
    const kind = "flock";
    const { locks, calls, open: file } = scripted();
    const waiting = locks.setlk(ctx, file, lock("write", 0, -1, 1, kind), true);
    locks.ready({ waitId: 1, errno: 0, attr: NO_ATTR });
    await waiting;
    for (const call of isConfirmedFirst ? [1, 0] : [0, 1]) await calls[call]?.answer(call === 0);
    const unlocked = locks.setlk(ctx, file, lock("unlock", 0, -1, 1, kind), false);
    assert.equal(calls[2]?.type, 0, "the server is asked");
    await calls[2]?.answer(false);
    await unlocked;
  }
});

test("a lock that nobody wants any more, and that cannot be taken back for want of room, is its owner's", async () => {
  const { locks, calls, open: file } = scripted();
  const signal = new CancelSource();
  const gone = assert.rejects(locks.setlk({ ...ctx, signal }, file, lock("write", 10, 19), false));
  signal.abort();
  await gone;
  await calls[0]?.answer(false);
  assert.equal(calls[1]?.type, 0);
  await calls[1]?.fail("ENOLCK");
  const unlocked = locks.setlk(ctx, file, lock("unlock"), false);
  await settle();
  await calls[2]?.answer(false);
  await unlocked;
  assert.equal(calls.length, 3, "the server is asked");
});
