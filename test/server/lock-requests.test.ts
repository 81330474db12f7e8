/** Requests about locks that make no sense, and what mandatory locks forbid to every other kind of request. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { FallocateMode, type FileSystem, type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { LOCK_END, type LockOwner } from "../../src/vfs/lock.ts";
import { settle } from "../support/fake-clock.ts";
import { ctx, linkDrive, named } from "../support/link-drive.ts";

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
