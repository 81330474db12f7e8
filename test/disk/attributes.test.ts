import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { lstatSync, symlinkSync } from "node:fs";
import { test } from "node:test";
import type { Name } from "../../src/base/name.ts";
import { lstat, setxattr, statfs } from "../../src/sys/syscalls.ts";
import { S_IFIFO, S_IFLNK, S_IFREG } from "../../src/vfs/attr.ts";
import { XattrFlag } from "../../src/vfs/file-system.ts";
import { as, asRoot, mode, n, READ_WRITE, refused, scratchDisk } from "../support/scratch-disk.ts";

test("attributes are all that statx(2) says", async () => {
  await using scratch = await scratchDisk();
  await scratch.file("f", "x".repeat(5000), 0o751);
  symlinkSync("target", scratch.at("l"));
  for (const name of ["f", "l"]) {
    const { attr } = await scratch.disk.lookup(asRoot, scratch.root, n(name));
    assert.deepEqual(attr, lstat(scratch.at(name)));
    assert.ok(attr.btimeSec > 0 && attr.blksize > 0);
  }
});

test("setattr changes what is given, in one request, and answers what is now", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const id = await scratch.file("f", "0123456789", 0o4755);
  const change = {
    uid: 7,
    gid: 8,
    mode: 0o6711,
    sizeBytes: 4,
    atime: { sec: -1, nsec: 999_999_999 },
    mtime: { sec: 4_000_000_000, nsec: 1 },
  };
  const attr = await disk.setattr(asRoot, id, change);
  // chown clears the bits, and chmod, which comes after it, sets them.
  assert.deepEqual([attr.uid, attr.gid, attr.mode, attr.sizeBytes], [7, 8, S_IFREG | 0o6711, 4]);
  assert.deepEqual([attr.atimeSec, attr.atimeNsec, attr.mtimeSec, attr.mtimeNsec], [-1, 999_999_999, 4_000_000_000, 1]);
  assert.deepEqual(await disk.getattr(asRoot, id), attr);
  const again = await disk.setattr(asRoot, id, {});
  assert.deepEqual(again, attr);
  const onlyGroup = await disk.setattr(asRoot, id, { gid: 9 });
  assert.deepEqual([onlyGroup.uid, onlyGroup.gid, onlyGroup.mtimeSec], [7, 9, 4_000_000_000]);
  const now = await disk.setattr(asRoot, id, { mtime: "now" });
  assert.ok(Math.abs(now.mtimeSec - now.ctimeSec) <= 1);
  assert.equal(now.atimeSec, -1);
  await refused("EINVAL", disk.setattr(asRoot, id, { mtime: { sec: 0, nsec: 1_000_000_000 } }));
});

test("the owner and times of a symbolic link are its own; its mode cannot be changed, and it is not followed", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  await scratch.file("target", "x");
  const { id } = await disk.symlink(asRoot, root, n("l"), Buffer.from("target"));
  const attr = await disk.setattr(asRoot, id, {
    uid: 5,
    gid: 6,
    mtime: { sec: 1, nsec: 2 },
    atime: { sec: 3, nsec: 4 },
  });
  assert.deepEqual([attr.uid, attr.gid, attr.mtimeSec, attr.atimeNsec], [5, 6, 1, 4]);
  assert.equal(attr.mode, S_IFLNK | 0o777);
  await refused("EOPNOTSUPP", disk.setattr(asRoot, id, { mode: 0o600 }));
  await refused("EINVAL", disk.setattr(asRoot, id, { sizeBytes: 0 }));
  const target = lstatSync(scratch.at("target"));
  assert.deepEqual([target.uid, target.size], [0, 1]);
});

test("only regular files have a size to set", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  await refused("EISDIR", disk.setattr(asRoot, root, { sizeBytes: 0 }));
  const fifo = await disk.mknod(asRoot, root, n("p"), { ...mode(S_IFIFO | 0o666), rdevMajor: 0, rdevMinor: 0 });
  await refused("EINVAL", disk.setattr(asRoot, fifo.id, { sizeBytes: 0 }));
  assert.equal((await disk.setattr(asRoot, fifo.id, { mode: 0o600, uid: 3 })).uid, 3);
});

test("extended attributes are set, read, listed and removed on files, directories and links", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const file = await scratch.file("f");
  const directory = await scratch.directory("d");
  const link = (await disk.symlink(asRoot, root, n("l"), Buffer.from("f"))).id;
  for (const [id, name] of [
    [file, "user.a"],
    [directory, "user.a"],
    [link, "trusted.a"],
  ] as const) {
    await refused("ENODATA", disk.getxattr(asRoot, id, n(name)));
    await refused("ENODATA", disk.setxattr(asRoot, id, n(name), Buffer.from("v"), XattrFlag.REPLACE));
    await disk.setxattr(asRoot, id, n(name), Buffer.from("v"), XattrFlag.CREATE);
    await refused("EEXIST", disk.setxattr(asRoot, id, n(name), Buffer.from("v"), XattrFlag.CREATE));
    await disk.setxattr(asRoot, id, n(name), Buffer.from([0, 255, 0]), 0);
    assert.deepEqual([...(await disk.getxattr(asRoot, id, n(name)))], [0, 255, 0]);
    await disk.setxattr(asRoot, id, n(name), Buffer.alloc(0), 0);
    assert.equal((await disk.getxattr(asRoot, id, n(name))).length, 0);
    assert.equal((await disk.listxattr(asRoot, id)).toString(), `${name}\0`);
    await disk.removexattr(asRoot, id, n(name));
    await refused("ENODATA", disk.removexattr(asRoot, id, n(name)));
    assert.equal((await disk.listxattr(asRoot, id)).length, 0);
  }
  await refused("EPERM", disk.setxattr(asRoot, link, n("user.a"), Buffer.from("v"), 0));
  await refused("EACCES", disk.setxattr(as(1000), file, n("user.a"), Buffer.from("v"), 0));
  await refused("EOPNOTSUPP", disk.setxattr(asRoot, file, n("nothing.a"), Buffer.from("v"), 0));
});

test("names and values of extended attributes are bounded", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const id = await scratch.file("f");
  for (const name of ["", "x".repeat(256)] as Name[]) {
    await refused("ERANGE", disk.getxattr(asRoot, id, name));
    await refused("ERANGE", disk.setxattr(asRoot, id, name, Buffer.from("v"), 0));
    await refused("ERANGE", disk.removexattr(asRoot, id, name));
  }
  await refused("EINVAL", disk.getxattr(asRoot, id, "user.\0" as Name));
  await refused("E2BIG", disk.setxattr(asRoot, id, n("user.big"), Buffer.alloc(65537), 0));
  await assert.rejects(disk.setxattr(asRoot, id, n("user.big"), Buffer.alloc(65536), 0), /ENOSPC|E2BIG/);
  const longest = `user.${"\xff/".repeat(125)}` as Name;
  await disk.setxattr(asRoot, id, longest, Buffer.alloc(3000, 1), 0);
  assert.equal((await disk.getxattr(asRoot, id, longest)).length, 3000);
});

test("a long list of extended attributes comes whole", async () => {
  await using scratch = await scratchDisk();
  const id = await scratch.file("f");
  const names = Array.from({ length: 60 }, (_, index) => `user.${"n".repeat(30)}${index}`);
  for (const name of names) setxattr(scratch.at("f"), name, Buffer.alloc(0));
  const listed = (await scratch.disk.listxattr(asRoot, id)).toString().split("\0");
  assert.deepEqual(new Set(listed), new Set([...names, ""]));
});

test("access control lists are extended attributes that change the mode", async () => {
  await using scratch = await scratchDisk();
  const id = await scratch.file("f", "", 0o640);
  execFileSync("setfacl", ["-m", "u:1000:rw", scratch.at("f")]);
  const list = await scratch.disk.getxattr(asRoot, id, n("system.posix_acl_access"));
  assert.equal(list.readUInt32LE(0), 2);
  assert.equal((await scratch.disk.getattr(asRoot, id)).mode & 0o777, 0o660);
  await scratch.disk.release(as(1000), (await scratch.disk.open(as(1000), id, READ_WRITE)).handle);
  await scratch.disk.removexattr(asRoot, id, n("system.posix_acl_access"));
  await refused("EACCES", scratch.disk.open(as(1000), id, READ_WRITE));
  await scratch.disk.setxattr(asRoot, id, n("system.posix_acl_access"), list, 0);
  assert.match(execFileSync("getfacl", ["-cnp", scratch.at("f")], { encoding: "utf8" }), /user:1000:rw-/);
  await refused("EINVAL", scratch.disk.setxattr(asRoot, id, n("system.posix_acl_access"), list.subarray(0, 11), 0));
});

test("statfs says what the file system's own says", async () => {
  await using scratch = await scratchDisk();
  const { blocksFree: _, blocksAvailable: __, filesFree: ___, ...fixed } = statfs(scratch.path);
  const answer = await scratch.disk.statfs(asRoot, scratch.root);
  const { blocksFree, blocksAvailable, filesFree, ...same } = answer;
  assert.deepEqual(same, fixed);
  assert.ok(blocksFree >= blocksAvailable && filesFree > 0);
});
