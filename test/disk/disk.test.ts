import assert from "node:assert/strict";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import { nameFromText } from "../../src/base/name.ts";
import { createDisk, type Disk } from "../../src/disk/disk.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import { OpenFlag, type RequestContext } from "../../src/vfs/file-system.ts";

const asUser: RequestContext = { caller: { uid: 1000, gid: 1000, groups: [5], pid: 0 } };
const asRoot: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
let directory = "";
let disk: Disk;

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "netdrive-disk-"));
  chmodSync(directory, 0o777);
  disk = await createDisk({ directory, applyCredentials: true, log: silentLog });
});
afterEach(async () => {
  await disk.close();
  rmSync(directory, { recursive: true, force: true });
});

const n = nameFromText;

async function fails(errno: string, promise: Promise<unknown>): Promise<void> {
  await assert.rejects(promise, (error) => error instanceof FsError && error.errno === errno);
}

test("a file is made with its caller's identity and umask, written, read and found again", async () => {
  const root = await disk.root(asUser);
  const { entry, opened } = await disk.create(asUser, root.id, n("a"), OpenFlag.READ | OpenFlag.WRITE, {
    mode: 0o666,
    umask: 0o027,
  });
  assert.deepEqual([entry.attr.mode, entry.attr.uid, entry.attr.gid], [0o100640, 1000, 1000]);
  assert.equal(await disk.write(asUser, opened.handle, 0, Buffer.from("hello world")), 11);
  const target = Buffer.alloc(20);
  assert.equal(await disk.read(asUser, opened.handle, 6, target), 5);
  assert.equal(target.toString("latin1", 0, 5), "world");
  assert.equal((await disk.lookup(asUser, root.id, n("a"))).id, entry.id);
  await disk.release(asUser, opened.handle);
  await fails("EBADF", disk.read(asUser, opened.handle, 0, target));
});

test("the kernel's permission checks are the caller's", async () => {
  const root = await disk.root(asRoot);
  const sub = await disk.mkdir(asRoot, root.id, n("sub"), { mode: 0o755, umask: 0 });
  await fails("EACCES", disk.mkdir(asUser, sub.id, n("x"), { mode: 0o755, umask: 0 }));
  await fails("EACCES", disk.access(asUser, sub.id, 2));
  await disk.access(asUser, sub.id, 5);
  await fails("EPERM", disk.setattr(asUser, sub.id, { mode: 0o777 }));
});

test("a file that lost its name works through its open, and its id is stale afterwards", async () => {
  const root = await disk.root(asUser);
  const { entry, opened } = await disk.create(asUser, root.id, n("a"), OpenFlag.READ | OpenFlag.WRITE, {
    mode: 0o600,
    umask: 0,
  });
  await disk.unlink(asUser, root.id, n("a"));
  assert.equal((await disk.getattr(asUser, entry.id)).nlink, 0);
  await disk.write(asUser, opened.handle, 0, Buffer.from("x"));
  assert.equal((await disk.setattr(asUser, entry.id, { sizeBytes: 9 }, opened.handle)).sizeBytes, 9);
  await disk.release(asUser, opened.handle);
  await fails("ESTALE", disk.getattr(asUser, entry.id));
});

test("a page lists the directory with ids and attributes, and leaks nothing of its parent", async () => {
  const root = await disk.root(asUser);
  const link = await disk.symlink(asUser, root.id, n("l"), Buffer.from("/etc/passwd"));
  const handle = await disk.opendir(asUser, root.id);
  const entries = [...decodeDirents(await disk.readdir(asUser, handle, 0n, 4096, true))];
  const byName = new Map<string, (typeof entries)[number]>(entries.map((entry) => [entry.name, entry]));
  assert.equal(byName.get("..")?.inoLow, root.attr.inoLow);
  assert.deepEqual(byName.get("l")?.entry, link);
  assert.equal((await disk.readdir(asUser, handle, entries.at(-1)?.cookie ?? 0n, 4096, true)).length, 0);
  await disk.releasedir(asUser, handle);
  assert.equal((await disk.readlink(asUser, link.id)).toString(), "/etc/passwd");
  await fails("ENOTDIR", disk.lookup(asUser, link.id, n("x")));
  await fails("ELOOP", disk.open(asUser, link.id, OpenFlag.READ));
});
