/**
 * Hard links, symbolic links, unlink and rmdir.
 */
import assert from "node:assert/strict";
import { ALICE, BOB, O } from "../../support/posix.ts";
import { type Cases, fails, getText, inode, names, outcome, put, same, timeNs, withFd } from "../case.ts";

export const linkCases: Cases = {
  "hard links share inode, attributes and content": async ({ posix }) => {
    await put(posix, "a", "one");
    await posix.mkdir("d");
    await posix.link("a", "d/b");
    const [a, b] = [await posix.stat("a"), await posix.stat("d/b")];
    assert.equal(inode(a), inode(b));
    assert.deepEqual([a.nlink, b.nlink], [2, 2]);
    await posix.chmod("d/b", 0o600);
    await put(posix, "d/b", "two", 0o600);
    assert.equal(await getText(posix, "a"), "two");
    assert.equal((await posix.stat("a")).mode & 0o777, 0o600);
    await posix.unlink("a");
    assert.equal((await posix.stat("d/b")).nlink, 1);
    assert.equal(await getText(posix, "d/b"), "two");
  },

  "link fails as it should": async ({ posix }) => {
    await put(posix, "f");
    await posix.mkdir("d");
    await fails("EPERM", posix.link("d", "x"));
    await fails("ENOENT", posix.link("missing", "x"));
    await fails("EEXIST", posix.link("f", "d"));
    await fails("ENOTDIR", posix.link("f/", "x"));
    await fails("ENOENT", posix.link("f", "x/"));
    await fails("ENAMETOOLONG", posix.link("f", "n".repeat(256)));
  },

  "a hard link to a symbolic link is a link to the link": async ({ posix }) => {
    await posix.symlink("nowhere", "l");
    await posix.link("l", "m");
    assert.equal(await posix.readlink("m"), "nowhere");
    assert.equal((await posix.lstat("l")).nlink, 2);
  },

  "special files can be linked and removed": async ({ posix }) => {
    await posix.mknod("fifo", 0o010644);
    await posix.link("fifo", "fifo2");
    assert.equal((await posix.stat("fifo2")).nlink, 2);
    await posix.unlink("fifo");
    await posix.unlink("fifo2");
    assert.deepEqual(await names(posix, "."), []);
  },

  "200 links to one file": async ({ posix }) => {
    await put(posix, "f", "x");
    await Promise.all(Array.from({ length: 200 }, (_, i) => posix.link("f", `l${i}`)));
    assert.equal((await posix.stat("l199")).nlink, 201);
    await Promise.all(Array.from({ length: 200 }, (_, i) => posix.unlink(`l${i}`)));
    assert.equal((await posix.stat("f")).nlink, 1);
  },

  "a symbolic link keeps any target, of any bytes and up to 4095 of them": async ({ posix }) => {
    const targets = [
      "x",
      "/absolute/../path",
      "..",
      "a//b/./c",
      "sp ace\n\t",
      "\xff\xfe\x80",
      "t".repeat(255),
      "u/".repeat(2047),
    ];
    for (const [index, target] of [...targets, "v".repeat(4095)].entries()) {
      await posix.symlink(target, `l${index}`);
      assert.equal(await posix.readlink(`l${index}`), target);
      const attr = await posix.lstat(`l${index}`);
      assert.deepEqual([attr.sizeBytes, attr.mode], [target.length, 0o120777]);
    }
    await fails("ENAMETOOLONG", posix.symlink("w".repeat(4096), "x"));
    await fails("ENOENT", posix.symlink("", "x"));
  },

  "links are followed through directories, '..' and more links": async ({ posix }) => {
    await posix.mkdir("a");
    await posix.mkdir("a/b");
    await put(posix, "a/f", "found");
    await posix.symlink("a/b", "to-b");
    await posix.symlink("to-b/../f", "to-f");
    await posix.symlink("../f", "a/b/up");
    for (const path of ["to-f", "to-b/up", "to-b/../f", "a/b/../b/up"])
      assert.equal(await getText(posix, path), "found");
  },

  "loops are ELOOP, dangling links ENOENT, for every call that follows": async ({ posix }) => {
    await posix.symlink("loop2", "loop1");
    await posix.symlink("loop1", "loop2");
    await posix.symlink("nowhere", "dangling");
    for (const [path, errno] of [
      ["loop1", "ELOOP"],
      ["dangling", "ENOENT"],
    ] as const) {
      await fails(errno, posix.stat(path));
      await fails(errno, posix.open(path, O.RDONLY));
      await fails(errno, posix.chmod(path, 0o600));
      await fails(errno, posix.chown(path, 1, 1));
      await fails(errno, posix.truncate(path, 0));
      await fails(errno, posix.access(path, 4));
      await fails(errno, posix.utimens(path, "now", "now"));
      await fails(errno, posix.getxattr(path, "user.x"));
      await fails(errno, posix.stat(`${path}/x`));
      await fails(errno, posix.mkdir(`${path}/x`));
    }
  },

  "a chain of 40 links is followed, of 41 is ELOOP": async ({ posix }) => {
    await put(posix, "l0", "end");
    for (let i = 1; i <= 41; i++) await posix.symlink(`l${i - 1}`, `l${i}`);
    assert.equal(await getText(posix, "l40"), "end");
    await fails("ELOOP", posix.stat("l41"));
  },

  "lchown changes the link, chown its target": async ({ posix }) => {
    await put(posix, "f");
    await posix.symlink("f", "l");
    await posix.lchown("l", ALICE.uid, ALICE.gid);
    await posix.chown("l", BOB.uid, BOB.gid);
    assert.deepEqual([(await posix.lstat("l")).uid, (await posix.stat("f")).uid], [ALICE.uid, BOB.uid]);
  },

  "lutimens changes the times of the link": async ({ posix }) => {
    await put(posix, "f");
    await posix.symlink("f", "l");
    const before = timeNs(await posix.stat("f"), "mtime");
    await posix.lutimens("l", { sec: 5, nsec: 6 }, { sec: 7, nsec: 8 });
    const attr = await posix.lstat("l");
    assert.deepEqual([timeNs(attr, "atime"), timeNs(attr, "mtime")], [5_000_000_006n, 7_000_000_008n]);
    assert.equal(timeNs(await posix.stat("f"), "mtime"), before);
  },

  "readlink of anything else is EINVAL": async ({ posix }) => {
    await put(posix, "f");
    await fails("EINVAL", posix.readlink("f"));
    await fails("EINVAL", posix.readlink("."));
    await fails("ENOENT", posix.readlink("missing"));
  },

  "unlink fails as it should": async (t) => {
    await same(t, "unlink", async (posix) => {
      await put(posix, "f");
      await posix.mkdir("d");
      await posix.symlink("d", "l");
      const results = [];
      for (const path of ["d", "d/", "f/", "f/x", "missing", "l/", ".", "..", "n".repeat(256)]) {
        results.push([path, await outcome(posix.unlink(path))]);
      }
      await posix.unlink("l");
      return [results, await names(posix, ".")];
    });
  },

  "rmdir fails as it should": async (t) => {
    await same(t, "rmdir", async (posix) => {
      await put(posix, "f");
      await posix.mkdir("d");
      await put(posix, "d/in");
      await posix.mkdir("e");
      await posix.symlink("e", "l");
      const results = [];
      for (const path of ["d", "f", "f/", "missing", "l", "l/", "d/.", "d/..", "n".repeat(256), "e"]) {
        results.push([path, await outcome(posix.rmdir(path))]);
      }
      return [results, await names(posix, ".")];
    });
  },

  "removing needs write permission on the directory, not on the file": async ({ posix }) => {
    await posix.mkdir("open");
    await posix.chmod("open", 0o777);
    await posix.mkdir("shut");
    for (const dir of ["open", "shut"]) {
      await put(posix, `${dir}/f`, "x", 0o000);
      await posix.mkdir(`${dir}/d`, 0o700);
    }
    const own = posix.as(ALICE);
    await own.unlink("open/f");
    await own.rmdir("open/d");
    await fails("EACCES", own.unlink("shut/f"));
    await fails("EACCES", own.rmdir("shut/d"));
  },

  "in a sticky directory only owners remove": async ({ posix }) => {
    await posix.mkdir("s");
    await posix.chmod("s", 0o1777);
    for (const who of [ALICE, BOB]) {
      const own = posix.as(who);
      await own.close(await own.open(`s/f${who.uid}`, O.WRONLY | O.CREAT, 0o666));
      await own.mkdir(`s/d${who.uid}`);
    }
    await fails("EPERM", posix.as(ALICE).unlink(`s/f${BOB.uid}`));
    await fails("EPERM", posix.as(ALICE).rmdir(`s/d${BOB.uid}`));
    await posix.as(ALICE).unlink(`s/f${ALICE.uid}`);
    await posix.as(ALICE).rmdir(`s/d${ALICE.uid}`);
    await posix.chown("s", ALICE.uid, ALICE.gid);
    await posix.as(ALICE).unlink(`s/f${BOB.uid}`);
  },

  "a directory removed while open is empty and takes no names": async ({ posix }) => {
    await posix.mkdir("d");
    await withFd(posix, "d", O.RDONLY | O.DIRECTORY, async (fd) => {
      await posix.rmdir("d");
      assert.equal((await posix.fstat(fd)).nlink, 0);
      const left = (await outcome(posix.getdents(fd, 0n, 4096))) as { value?: { name: string }[] };
      // The kernel may say ENOENT for a dead directory, or that it is empty.
      const found = (left.value ?? []).map(({ name }) => name).filter((name) => name !== "." && name !== "..");
      assert.deepEqual(found, []);
    });
    await fails("ENOENT", posix.mkdir("d/x"));
  },
};
