/** Requests about locks that make no sense, and what mandatory locks forbid to every other kind of request. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import type { Open } from "../../src/server/open.ts";
import { Keeper } from "../../src/server/state/keeper.ts";
import { LOCKS_PER_OPEN_MAX, locksRecord, partsOfKey } from "../../src/server/state/records.ts";
import { FallocateMode, type FileSystem, type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { LOCK_END, type LockOwner } from "../../src/vfs/lock.ts";
import { settle } from "../support/fake-clock.ts";
import { ctx, linkDrive, named, type Peer } from "../support/link-drive.ts";
import { MemoryStore } from "../support/memory-store.ts";

const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;
const NEW_FILE = { mode: 0o644, umask: 0 };

async function refused(promise: Promise<unknown>, errno = "EAGAIN"): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof FsError && error.errno === errno);
}

test("locks that cannot be are refused, and waits nobody knows are ignored", async () => {
  const drive = linkDrive();
  const peer = drive.peer();
  await peer.setUp();
  const { caller } = ctx;
  const root = (await (await drive.connect()).remote.fileSystem.root(ctx)).id;
  let tag = 0;
  const ask = async (...[name, fields, header]: Parameters<typeof peer.send>) => {
    tag += 0x10000;
    peer.send(name, fields, { ...header, tag });
    await settle();
    return { text: peer.frames.at(-1) ?? "", handle: peer.headers.at(-1)?.handle ?? 0 };
  };
  const made = { caller, parent: root, name: named("f"), flags: READ_WRITE, ...NEW_FILE };
  const file = (await ask("create", made)).handle;
  const directory = (await ask("opendir", { caller, id: root })).handle;
  const right = { caller, kind: 0, type: 2, owner: 1n, startBytes: 0n, endBytes: LOCK_END, pid: 1, waitId: 0 };
  const lock = async (change: Partial<typeof right>, handle = file) =>
    (await ask("setlk", { ...right, ...change }, { handle })).text;
  for (const change of [{ kind: 2 }, { type: 3 }, { startBytes: 5n, endBytes: 4n }, { endBytes: LOCK_END + 1n }]) {
    assert.match(await lock(change), /EINVAL$/);
  }
  assert.match(await lock({}, directory), /EISDIR$/);
  assert.match(await lock({}, 999), /EBADF$/);
  assert.match(await lock({}), /waits=false/);
  assert.match((await ask("cancelLock", { waitId: 77 })).text, /^cancelLock reply tag=\d+$/);
  assert.equal(peer.isClosed, false);
});

/** Two peers with one file open, and what each can ask. */
async function twoPeers(options: Parameters<typeof linkDrive>[0] = {}) {
  const drive = linkDrive(options);
  const { caller } = ctx;
  const join = async () => {
    const peer = drive.peer();
    await peer.setUp();
    let tag = 0;
    const ask = async (...[name, fields, header]: Parameters<typeof peer.send>) => {
      tag += 0x10000;
      peer.send(name, fields, { ...header, tag });
      await settle();
    };
    const root = (await (await drive.connect()).remote.fileSystem.root(ctx)).id;
    await ask("create", { caller, parent: root, name: named("f"), flags: READ_WRITE, ...NEW_FILE });
    const handle = peer.headers.at(-1)?.handle ?? 0;
    const lock = async (type: 0 | 1 | 2, { waitId = 0, start = 0, end = -1, kind = 0 } = {}) => {
      const endBytes = end < 0 ? LOCK_END : BigInt(end);
      const range = { startBytes: BigInt(start), endBytes };
      await ask("setlk", { caller, kind, type, owner: 1n, ...range, pid: 1, waitId }, { handle });
    };
    const said = (pattern: RegExp) => peer.frames.filter((frame) => pattern.test(frame)).length;
    return { drive, peer, ask, lock, said, handle };
  };
  return [await join(), await join()] as const;
}

test("an unlock takes back what is reserved for its owner, and the wish begins again when it is asked for again", async () => {
  const [mine, theirs] = await twoPeers();
  await mine.lock(2);
  await theirs.lock(2, { waitId: 7, start: 10, end: 19 });
  await mine.lock(0);
  assert.equal(theirs.said(/^lockReady .*waitId=7 errno=0/), 1);
  await mine.lock(2);
  assert.match(mine.peer.frames.at(-1) ?? "", /EAGAIN$/);
  await theirs.lock(0, { start: 10, end: 18 });
  await mine.lock(2);
  assert.match(mine.peer.frames.at(-1) ?? "", /EAGAIN$/, "it is reserved as a whole");
  await theirs.lock(0, { start: 5, end: 19 });
  await mine.lock(2);
  assert.match(mine.peer.frames.at(-1) ?? "", /waits=false/);
  await theirs.lock(2, { waitId: 7, start: 10, end: 19 });
  assert.match(theirs.peer.frames.at(-1) ?? "", /waits=true/);
  await theirs.ask("cancelLock", { waitId: 7 });
  await mine.lock(0);
  assert.equal(theirs.said(/^lockReady/), 1);
});

test("what is reserved is down before its client is told, and that it is not before a cancel is answered", async () => {
  const store = new HeldStore();
  const memory = { store, records: new Map(), life: undefined, hostBootId: "" };
  const [mine, theirs] = await twoPeers({ memory });
  await mine.lock(2);
  await theirs.lock(2, { waitId: 7 });
  const before = store.lockRecords;
  store.isHeld = true;
  await mine.lock(0);
  assert.equal(theirs.said(/^lockReady/), 0);
  store.letGo();
  await settle();
  assert.equal(theirs.said(/^lockReady .*errno=0/), 1);
  assert.deepEqual([before.length, store.lockRecords.length], [1, 1]);
  assert.notDeepEqual(store.lockRecords, before, "of the other open");
  store.isHeld = true;
  await theirs.ask("cancelLock", { waitId: 7 });
  assert.equal(theirs.said(/^cancelLock reply/), 0);
  assert.deepEqual(store.lockRecords, []);
  store.letGo();
  await settle();
  assert.equal(theirs.said(/^cancelLock reply/), 1);
});

const SECTION = 65_536;
const FEW_BYTES = { sessionBytesReserved: 2 * SECTION, sessionBytesMax: 6 * SECTION, sectionBytesMax: SECTION };

/** What a client can do with a handle so that its request does not end. */
const NEVER_ENDING: Record<string, (io: Peer, handle: number) => void> = {
  "that the client is sending still": (io, handle) => {
    io.link.faults.stallAtByte = io.channel.sentBytes + 5000;
    const write = { caller: ctx.caller, offsetBytes: 0, killSuidgid: false };
    io.send("write", write, { tag: 0, handle }, Buffer.alloc(SECTION));
  },
  "whose client takes nothing": (io, handle) => {
    io.link.pause();
    const read = { caller: ctx.caller, offsetBytes: 0, lengthBytes: SECTION };
    for (let tag = 0; tag < 40; tag += 1) io.send("read", read, { tag, handle });
  },
};

for (const [what, begin] of Object.entries(NEVER_ENDING)) {
  test(`an open is closed, and its locks are free, whatever becomes of a request on it ${what}`, async () => {
    const [mine, theirs] = await twoPeers({ limits: FEW_BYTES });
    const { drive, handle } = mine;
    const { sessionId, sessionKey } = mine.peer;
    const io = drive.peer();
    await io.setUp({ channelKind: 2, sessionId, credits: 64 }, sessionKey);
    const write = { caller: ctx.caller, offsetBytes: 0, killSuidgid: false };
    io.send("write", write, { tag: 0x10000, handle }, Buffer.alloc(SECTION));
    await settle();
    await mine.lock(1);
    await mine.lock(1, { kind: 1 });
    begin(io, handle);
    await settle();
    await mine.ask("release", { caller: ctx.caller }, { handle });
    assert.equal(mine.said(/^release reply/), 1);
    for (const kind of [0, 1]) {
      await theirs.lock(2, { kind });
      assert.match(theirs.peer.frames.at(-1) ?? "", /waits=false/);
    }
    io.link.resume();
    io.link.faults.stallAtByte = Number.POSITIVE_INFINITY;
    io.link.kick();
    for (let round = 0; round < 60; round += 1) await settle();
    assert.match(io.frames.at(-1) ?? "", /EBADF$/);
    assert.deepEqual([io.isClosed, drive.server.counters().bufferBytes], [false, 0]);
  });
}

test("where several sessions have locked through one open more than a record holds, so much of it is kept", () => {
  const locks = Array.from({ length: LOCKS_PER_OPEN_MAX + 1 }, (_, at) => ({
    ...{ kind: "posix", type: "read", owner: 1n, pid: 1, waitId: 0 },
    ...{ startBytes: BigInt(2 * at), endBytes: BigInt(2 * at) },
  }));
  const share = { locks: { locksOf: () => locks } };
  const open = { id: 7, node: "n", handles: 1, owner: { share }, hasStoredLocks: false } as unknown as Open;
  const store = new MemoryStore();
  new Keeper(store, undefined).locked(open);
  const [record] = store.records.values();
  assert.deepEqual(locksRecord.decode(record as Buffer), locks.slice(0, -1));
});

/** A store that can be kept from bringing anything down. */
class HeldStore extends MemoryStore {
  isHeld = false;
  #waiting: (() => void)[] = [];

  get lockRecords(): string[] {
    return [...this.records.keys()].filter((key) => partsOfKey(key)?.of === "locks");
  }

  override afterCommit(done: () => void): void {
    if (this.isHeld) this.#waiting.push(done);
    else done();
  }

  letGo(): void {
    this.isHeld = false;
    for (const done of this.#waiting.splice(0)) done();
  }
}

test("a lock needs the right to read or write, and may be had on a share nobody writes to", async () => {
  const drive = linkDrive();
  const { fileSystem } = (await drive.connect()).remote;
  const root = (await fileSystem.root(ctx)).id;
  const { entry } = await fileSystem.create(ctx, root, named("f"), READ_WRITE, NEW_FILE);
  const reads = (await fileSystem.open(ctx, entry.id, OpenFlag.READ)).handle;
  const writes = (await fileSystem.open(ctx, entry.id, OpenFlag.WRITE)).handle;
  const lock = (handle: HandleId, type: "read" | "write", kind: "posix" | "flock" = "posix") =>
    setlk(fileSystem, handle, type, 0, 9, kind);
  await refused(lock(reads, "write"), "EBADF");
  await refused(lock(writes, "read"), "EBADF");
  await lock(reads, "read");
  await lock(reads, "write", "flock");
});

function setlk(
  fileSystem: FileSystem,
  handle: HandleId,
  type: "read" | "write" | "unlock",
  start = 0,
  end = -1,
  kind: "posix" | "flock" = "posix",
) {
  const endBytes = end < 0 ? LOCK_END : BigInt(end);
  const lock = { kind, type, owner: 1n as LockOwner, startBytes: BigInt(start), endBytes, pid: 1 };
  return (fileSystem.setlk as NonNullable<FileSystem["setlk"]>).call(fileSystem, ctx, handle, lock, false);
}

interface Contest {
  readonly fs: FileSystem;
  readonly root: NodeId;
  readonly id: NodeId;
  /** Who locks, and who may not. */
  readonly mine: HandleId;
  readonly theirs: HandleId;
}

/** Two opens of a file of 30 bytes in a share with mandatory locks. */
async function contest(locking: "advisory" | "mandatory" = "mandatory"): Promise<Contest> {
  const drive = linkDrive({ locking });
  const { fileSystem: fs } = (await drive.connect()).remote;
  const root = (await fs.root(ctx)).id;
  const { entry, opened } = await fs.create(ctx, root, named("f"), READ_WRITE, NEW_FILE);
  await fs.write(ctx, opened.handle, 0, Buffer.alloc(30, 97));
  const theirs = (await fs.open(ctx, entry.id, READ_WRITE)).handle;
  return { fs, root, id: entry.id, mine: opened.handle, theirs };
}

const BYTE = Buffer.from("x");

/** Everything that changes bytes 10 to 19, or the size across them, through another open or none. */
const CHANGES: readonly [what: string, change: (contest: Contest) => Promise<unknown>][] = [
  ["write", ({ fs, theirs }) => fs.write(ctx, theirs, 19, BYTE)],
  ["truncate an open file", ({ fs, id, theirs }) => fs.setattr(ctx, id, { sizeBytes: 19 }, theirs)],
  ["truncate by name", ({ fs, id }) => fs.setattr(ctx, id, { sizeBytes: 0 })],
  ["open to truncate", ({ fs, id }) => fs.open(ctx, id, OpenFlag.WRITE | OpenFlag.TRUNC)],
  ["create over it", ({ fs, root }) => fs.create(ctx, root, named("f"), OpenFlag.WRITE | OpenFlag.TRUNC, NEW_FILE)],
  ["allocate", ({ fs, theirs }) => fs.fallocate(ctx, theirs, FallocateMode.KEEP_SIZE, 0, 11)],
  [
    "copy to it",
    ({ fs, mine, theirs }) =>
      fs.copyFileRange(ctx, { handle: mine, offsetBytes: 20 }, { handle: theirs, offsetBytes: 15 }, 2),
  ],
];

for (const [what, change] of CHANGES) {
  test(`where locks are mandatory a range that another open has locked withstands: ${what}`, async () => {
    for (const type of ["read", "write"] as const) {
      for (const kind of ["posix", "flock"] as const) {
        const between = await contest();
        await setlk(between.fs, between.mine, type, 10, 19, kind);
        await refused(change(between));
        await setlk(between.fs, between.mine, "unlock", 0, -1, kind);
        await change(between);
      }
    }
    const advisory = await contest("advisory");
    await setlk(advisory.fs, advisory.mine, "write", 10, 19);
    await change(advisory);
  });
}

test("where locks are mandatory what is locked exclusively is not read by others, nor does it come along with an open", async () => {
  const { fs, id, mine, theirs } = await contest();
  await setlk(fs, mine, "write", 10, 19);
  const target = Buffer.alloc(30);
  await refused(fs.read(ctx, theirs, 0, target));
  assert.equal(await fs.read(ctx, theirs, 0, target.subarray(0, 10)), 10);
  assert.equal(await fs.read(ctx, mine, 0, target), 30);
  await refused(fs.copyFileRange(ctx, { handle: theirs, offsetBytes: 12 }, { handle: mine, offsetBytes: 0 }, 2));
  const opened = await fs.open(ctx, id, OpenFlag.READ);
  assert.equal(opened.content, undefined);
  await setlk(fs, mine, "read", 10, 19);
  assert.equal(await fs.read(ctx, theirs, 0, target), 30);
  assert.equal((await fs.open(ctx, id, OpenFlag.READ)).content?.length, 30);
});

test("where locks are mandatory what lies beside a locked range is anybody's, appended bytes and what makes the file longer included", async () => {
  const { fs, id, mine, theirs } = await contest();
  await setlk(fs, mine, "write", 10, 19);
  await fs.write(ctx, theirs, 0, Buffer.alloc(10));
  await fs.write(ctx, theirs, 20, BYTE);
  await fs.setattr(ctx, id, { sizeBytes: 40 });
  await fs.setattr(ctx, id, { sizeBytes: 40, mode: 0o600 });
  const appends = (await fs.open(ctx, id, OpenFlag.WRITE | OpenFlag.APPEND)).handle;
  await fs.write(ctx, appends, 0, BYTE);
  await setlk(fs, mine, "write", 41, 41);
  await refused(fs.write(ctx, appends, 0, BYTE));
  await fs.write(ctx, mine, 15, BYTE);
  assert.equal((await fs.getattr(ctx, id)).sizeBytes, 41);
});
