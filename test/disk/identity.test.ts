import assert from "node:assert/strict";
import { readFileSync, statSync } from "node:fs";
import { test } from "node:test";
import { S_IFBLK, S_IFCHR, S_IFIFO } from "../../src/vfs/attr.ts";
import { OpenFlag } from "../../src/vfs/file-system.ts";
import { as, asRoot, mode, n, READ_WRITE, refused, scratchDisk } from "../support/scratch-disk.ts";

const alice = as(1000, 1000, [2000]);
const bob = as(1001, 1001);

/** The bytes of an access control list. @see linux/posix_acl_xattr.h */
function acl(...entries: [tag: number, permissions: number, id: number][]): Buffer {
  const bytes = Buffer.alloc(4 + 8 * entries.length);
  bytes.writeUInt32LE(2, 0);
  entries.forEach(([tag, permissions, id], index) => {
    bytes.writeUInt16LE(tag, 4 + 8 * index);
    bytes.writeUInt16LE(permissions, 6 + 8 * index);
    bytes.writeUInt32LE(id, 8 + 8 * index);
  });
  return bytes;
}
const ACL = { USER_OBJ: 1, USER: 2, GROUP_OBJ: 4, GROUP: 8, MASK: 16, OTHER: 32, NOBODY: 0xffffffff } as const;

test("what is made belongs to its caller's user and group, or to the directory's group where that is set", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const { attr } = await disk.mkdir(alice, root, n("d"), mode(0o777, 0o022));
  assert.deepEqual([attr.uid, attr.gid, attr.mode & 0o7777], [1000, 1000, 0o755]);
  const shared = await disk.mkdir(asRoot, root, n("shared"), mode(0o777));
  await disk.setattr(asRoot, shared.id, { gid: 3000, mode: 0o2777 });
  assert.equal((await disk.mkdir(alice, shared.id, n("x"), mode(0o755))).attr.gid, 3000);
  assert.equal((await disk.symlink(bob, root, n("l"), Buffer.from("x"))).attr.uid, 1001);
  const fifo = await disk.mknod(bob, root, n("f"), { ...mode(S_IFIFO | 0o666, 0o077), rdevMajor: 0, rdevMinor: 0 });
  assert.deepEqual([fifo.attr.uid, fifo.attr.mode & 0o777], [1001, 0o600]);
});

test("reading, writing and searching are allowed by the caller's user, group and supplementary groups", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const file = await scratch.file("f", "secret", 0o640);
  await refused("EACCES", disk.open(alice, file, OpenFlag.READ));
  await disk.setattr(asRoot, file, { gid: 2000 });
  const opened = await disk.open(alice, file, OpenFlag.READ);
  await disk.release(alice, opened.handle);
  await refused("EACCES", disk.open(alice, file, OpenFlag.WRITE));
  await refused("EACCES", disk.open(bob, file, OpenFlag.READ));
  await refused("EACCES", disk.open(as(0xfffe), file, OpenFlag.READ));
  await refused("EACCES", disk.setattr(bob, file, { sizeBytes: 0 }));

  const closed = await scratch.directory("closed", 0o750);
  await disk.mkdir(asRoot, closed, n("in"), mode(0o777));
  for (const request of [
    () => disk.lookup(bob, closed, n("in")),
    () => disk.lookup(bob, closed, n("none")),
    () => disk.opendir(bob, closed),
    () => disk.rmdir(bob, closed, n("in")),
    () => disk.mkdir(bob, closed, n("new"), mode(0o755)),
    () => disk.rename(bob, closed, n("in"), root, n("out"), 0),
    () => disk.link(bob, file, closed, n("l")),
    () => disk.tmpfile(bob, closed, READ_WRITE, mode(0o600)),
    () => disk.create(bob, closed, n("c"), READ_WRITE, mode(0o600)),
  ])
    await assert.rejects(request(), /^FsError: (EACCES|EPERM)/);
  await disk.setattr(asRoot, closed, { gid: 2000 });
  assert.ok(await disk.lookup(alice, closed, n("in")));
});

test("owners are judged by the owner's bits alone, and nobody by the groups of the process", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const directory = await disk.mkdir(alice, root, n("d"), mode(0o777));
  await disk.mkdir(alice, directory.id, n("in"), mode(0o755));
  const { entry, opened } = await disk.create(alice, root, n("f"), READ_WRITE, mode(0o666));
  await disk.release(alice, opened.handle);
  // The process is root, and of group 0; so are these, and alice is not.
  for (const change of [
    { uid: 1000, gid: 0, mode: 0o077 },
    { uid: 1001, gid: 0, mode: 0o770 },
    { uid: 1001, gid: 2000, mode: 0o707 },
  ]) {
    await disk.setattr(asRoot, directory.id, change);
    await disk.setattr(asRoot, entry.id, change);
    await refused("EACCES", disk.lookup(alice, directory.id, n("in")));
    await refused("EACCES", disk.opendir(alice, directory.id));
    await refused("EACCES", disk.open(alice, entry.id, OpenFlag.READ));
    await refused("EACCES", disk.access(alice, entry.id, 4));
  }
  for (const change of [
    { uid: 1000, gid: 0, mode: 0o700 },
    { uid: 1001, gid: 2000, mode: 0o070 },
    { uid: 1001, gid: 0, mode: 0o007 },
  ]) {
    await disk.setattr(asRoot, directory.id, change);
    await disk.setattr(asRoot, entry.id, change);
    await disk.lookup(alice, directory.id, n("in"));
    await disk.releasedir(alice, await disk.opendir(alice, directory.id));
    await disk.release(alice, (await disk.open(alice, entry.id, READ_WRITE)).handle);
    await disk.access(alice, entry.id, 7);
  }
});

test("requests of many users at the same time keep to their own identity, on all threads", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const users = [0, 1000, 1001, 1002, 65534];
  const made = await Promise.all(
    Array.from({ length: 500 }, async (_, index) => {
      const uid = users[index % users.length] as number;
      const ctx = as(uid, uid + 1, index % 3 === 0 ? [uid + 2, 7] : []);
      const { entry, opened } = await disk.create(
        ctx,
        root,
        n(`f${index}`),
        READ_WRITE,
        mode(0o600, index % 2 ? 0 : 0o400),
      );
      await disk.release(ctx, opened.handle);
      const again = disk.open(ctx, entry.id, OpenFlag.READ).then(
        ({ handle }) => disk.release(ctx, handle).then(() => "opened"),
        (error: Error) => error.message,
      );
      const denied = await disk.open(as(4000), entry.id, OpenFlag.READ).catch((error: Error) => error.message);
      return { uid, attr: entry.attr, index, denied, again: await again };
    }),
  );
  for (const { uid, attr, index, denied, again } of made) {
    assert.deepEqual([attr.uid, attr.gid, attr.mode & 0o777], [uid, uid + 1, index % 2 ? 0o600 : 0o200]);
    assert.equal(denied, "EACCES: open");
    assert.equal(again, uid === 0 || index % 2 ? "opened" : "EACCES: open");
  }
  // This thread is root again, and so is every other that Node has.
  assert.match(readFileSync("/proc/thread-self/status", "utf8"), /^Uid:\t0\t0\t0\t0$/m);
  assert.match(readFileSync("/proc/thread-self/status", "utf8"), /^Gid:\t0\t0\t0\t0$/m);
});

test("an identity that cannot be taken is refused, not replaced", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  for (const ctx of [as(0xffffffff), as(1000, 0xffffffff), as(-1), as(1.5), as(Number.NaN), as(1000, 1000, [-1])]) {
    await refused("EPERM", disk.lookup(ctx, root, n("x")));
    await refused("EPERM", disk.mkdir(ctx, root, n("x"), mode(0o755)));
    await refused("EPERM", disk.root(ctx));
  }
  const many = as(
    1000,
    1000,
    Array.from({ length: 65537 }, (_, index) => index),
  );
  await refused("EPERM", disk.mkdir(many, root, n("x"), mode(0o755)));
  const most = as(
    1000,
    1000,
    Array.from({ length: 65536 }, (_, index) => index),
  );
  assert.equal((await disk.mkdir(most, root, n("x"), mode(0o755))).attr.uid, 1000);
});

test("more identities than are kept still are themselves", async () => {
  await using scratch = await scratchDisk();
  const requests = Array.from({ length: 1000 }, (_, index) =>
    scratch.disk.mkdir(as(1000 + index), scratch.root, n(`d${index}`), mode(0o755)),
  );
  const made = await Promise.all(requests);
  assert.deepEqual(
    made.map(({ attr }) => attr.uid),
    Array.from({ length: 1000 }, (_, index) => 1000 + index),
  );
});

test("writing, truncating and chown clear set-user-id and set-group-id, but not for root's own writes", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const id = await scratch.file("f", "x", 0o777);
  const bits = async () => (await disk.getattr(asRoot, id)).mode & 0o7777;
  const { handle } = await disk.open(alice, id, OpenFlag.WRITE);
  const root = await disk.open(asRoot, id, OpenFlag.WRITE);
  const clearing = {
    write: () => disk.write(alice, handle, 0, Buffer.from("y")),
    truncate: () => disk.setattr(alice, id, { sizeBytes: 0 }),
    ftruncate: () => disk.setattr(alice, id, { sizeBytes: 2 }, handle),
    fallocate: () => disk.fallocate(alice, handle, 0, 0, 4096),
    chown: () => disk.setattr(asRoot, id, { uid: 0 }),
    "write for a caller who may not keep them": () =>
      disk.write(asRoot, root.handle, 0, Buffer.from("y"), { killSuidgid: true }),
    "truncate for a caller who may not keep them": () => disk.setattr(asRoot, id, { sizeBytes: 0, killSuidgid: true }),
    "change for a caller who may not keep them": () => disk.setattr(asRoot, id, { mtime: "now", killSuidgid: true }),
    "open for a caller who may not keep them": async () => {
      const flags = OpenFlag.WRITE | OpenFlag.TRUNC | OpenFlag.KILL_SUIDGID;
      await disk.release(asRoot, (await disk.open(asRoot, id, flags)).handle);
    },
  };
  for (const [name, act] of Object.entries(clearing)) {
    await disk.setattr(asRoot, id, { mode: 0o6777 });
    await act();
    assert.equal(await bits(), 0o777, name);
  }
  await disk.setattr(asRoot, id, { mode: 0o6777 });
  await disk.write(asRoot, root.handle, 0, Buffer.from("z"));
  await disk.setattr(asRoot, id, { sizeBytes: 9 });
  assert.equal(await bits(), 0o6777);
  await disk.release(alice, handle);
  await disk.release(asRoot, root.handle);
});

test("chmod and chown follow the kernel's rules for owners, groups and others", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const { entry, opened } = await disk.create(alice, root, n("f"), READ_WRITE, mode(0o644));
  await disk.release(alice, opened.handle);
  await refused("EPERM", disk.setattr(bob, entry.id, { mode: 0o777 }));
  await refused("EPERM", disk.setattr(alice, entry.id, { uid: 1001 }));
  await refused("EPERM", disk.setattr(alice, entry.id, { gid: 1001 }));
  assert.equal((await disk.setattr(alice, entry.id, { gid: 2000 })).gid, 2000);
  assert.equal((await disk.setattr(alice, entry.id, { mode: 0o2775 })).mode & 0o7777, 0o2775);
  await disk.setattr(asRoot, entry.id, { gid: 3000 });
  // Not a member of the group: the set-group-id bit is not given.
  assert.equal((await disk.setattr(alice, entry.id, { mode: 0o2775 })).mode & 0o7777, 0o775);
  await refused("EPERM", disk.setattr(bob, entry.id, { mtime: { sec: 1, nsec: 0 } }));
  await refused("EACCES", disk.setattr(bob, entry.id, { atime: "now", mtime: "now" }));
  await disk.setattr(alice, entry.id, { mode: 0o666 });
  await disk.setattr(bob, entry.id, { atime: "now", mtime: "now" });
  await refused("EPERM", disk.setattr(bob, entry.id, { mtime: "now" }));
});

test("in a sticky directory only owners remove and rename", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const sticky = await scratch.directory("sticky", 0o777);
  await disk.setattr(asRoot, sticky, { mode: 0o1777 });
  await disk.mkdir(alice, sticky, n("a"), mode(0o777));
  await refused("EPERM", disk.rmdir(bob, sticky, n("a")));
  await refused("EPERM", disk.rename(bob, sticky, n("a"), sticky, n("b"), 0));
  await disk.rename(alice, sticky, n("a"), sticky, n("b"), 0);
  await disk.rmdir(alice, sticky, n("b"));
});

test("a default access control list replaces the umask, and lists decide about access", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const dir = await scratch.directory("d", 0o777);
  const inherited = acl(
    [ACL.USER_OBJ, 7, ACL.NOBODY],
    [ACL.USER, 6, 1001],
    [ACL.GROUP_OBJ, 5, ACL.NOBODY],
    [ACL.MASK, 7, ACL.NOBODY],
    [ACL.OTHER, 0, ACL.NOBODY],
  );
  await disk.setxattr(asRoot, dir, n("system.posix_acl_default"), inherited, 0);
  const { entry, opened } = await disk.create(alice, dir, n("f"), READ_WRITE, mode(0o666, 0o077));
  await disk.release(alice, opened.handle);
  assert.equal(entry.attr.mode & 0o777, 0o660);
  const made = await disk.mkdir(alice, dir, n("sub"), mode(0o777, 0o077));
  assert.equal(made.attr.mode & 0o777, 0o770);
  assert.deepEqual(await disk.getxattr(asRoot, made.id, n("system.posix_acl_default")), inherited);
  await disk.release(bob, (await disk.open(bob, entry.id, READ_WRITE)).handle);
  await refused("EACCES", disk.open(as(1002), entry.id, OpenFlag.READ));
  assert.equal((await disk.mkdir(alice, scratch.root, n("plain"), mode(0o777, 0o077))).attr.mode & 0o777, 0o700);
});

test("access is answered for the caller", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const file = await scratch.file("f", "", 0o640);
  await refused("EACCES", disk.access(bob, file, 4));
  await disk.access(bob, file, 0);
  await disk.access(asRoot, file, 6);
  await refused("EACCES", disk.access(asRoot, file, 1));
  await refused("EINVAL", disk.access(asRoot, file, 8));
  await disk.setattr(asRoot, file, { gid: 2000 });
  await disk.access(alice, file, 4);
  await refused("EACCES", disk.access(alice, file, 2));
});

test("users have none of root's other capabilities", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const { entry, opened } = await disk.create(alice, root, n("f"), READ_WRITE, mode(0o777));
  await disk.release(alice, opened.handle);
  for (const type of [S_IFCHR, S_IFBLK])
    await refused("EPERM", disk.mknod(alice, root, n("dev"), { ...mode(type | 0o666), rdevMajor: 1, rdevMinor: 3 }));
  // File capabilities would give root's powers to whoever runs the file.
  const capability = Buffer.from("0100000201000000000000000000000000000000", "hex");
  await refused("EPERM", disk.setxattr(alice, entry.id, n("security.capability"), capability, 0));
  await refused("EPERM", disk.setxattr(alice, entry.id, n("security.other"), Buffer.from("x"), 0));
  await refused("EPERM", disk.setxattr(alice, entry.id, n("trusted.x"), Buffer.from("x"), 0));
  await disk.setxattr(asRoot, entry.id, n("trusted.x"), Buffer.from("x"), 0);
  await refused("ENODATA", disk.getxattr(alice, entry.id, n("trusted.x")));
  assert.equal((await disk.listxattr(alice, entry.id)).toString(), "");
  assert.equal((await disk.listxattr(asRoot, entry.id)).toString(), "trusted.x\0");
  // Immutable files are root's to change, too: linking and removing others' files is not alice's.
  await refused("EPERM", disk.link(alice, await scratch.file("root", "", 0o600), root, n("stolen")));
});

test("a file that may be executed but not read is opened for execution, and for nothing else", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const runs = await scratch.file("runs", "#!", 0o711);
  await refused("EACCES", disk.open(alice, runs, OpenFlag.READ));
  const { handle } = await disk.open(alice, runs, OpenFlag.READ | OpenFlag.EXEC);
  assert.equal((await scratch.content(handle)).toString(), "#!");
  await disk.release(alice, handle);
  await refused("EACCES", disk.open(alice, runs, READ_WRITE | OpenFlag.EXEC));
  await refused("EACCES", disk.open(alice, await scratch.file("data", "", 0o644), OpenFlag.READ | OpenFlag.EXEC));
});

test("without applied credentials everything is the process's", async () => {
  await using scratch = await scratchDisk({ applyCredentials: false });
  const { disk, root } = scratch;
  const { attr } = await disk.mkdir(alice, root, n("d"), mode(0o700, 0o022));
  assert.deepEqual([attr.uid, attr.gid], [0, 0]);
  await disk.lookup(as(-1), root, n("d"));
  const id = await scratch.file("f", "x", 0o600);
  await disk.release(bob, (await disk.open(bob, id, READ_WRITE)).handle);
  await disk.setattr(asRoot, id, { mode: 0o6777 });
  const { handle } = await disk.open(bob, id, OpenFlag.WRITE);
  await disk.write(bob, handle, 0, Buffer.from("y"), { killSuidgid: true });
  await disk.release(bob, handle);
  assert.equal(statSync(scratch.at("f")).mode & 0o7777, 0o777);
});
