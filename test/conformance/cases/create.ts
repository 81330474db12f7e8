/**
 * New nodes: modes, umask, set-group-id directories, default ACLs, mknod of every kind, and what makes them fail.
 */
import assert from "node:assert/strict";
import { S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFMT, S_IFREG, S_IFSOCK } from "../../../src/vfs/attr.ts";
import { ALICE, BOB, O, type Posix, ROOT } from "../../support/posix.ts";
import { type Cases, fails, outcome, permissions, put, same } from "../case.ts";

const ACL_TAG = { USER_OBJ: 1, USER: 2, GROUP_OBJ: 4, MASK: 0x10, OTHER: 0x20 } as const;

/** An ACL in the kernel's form: version 2, then tag, permissions, id. @see linux/posix_acl_xattr.h */
export function acl(rows: readonly (readonly [keyof typeof ACL_TAG, number, number?])[]): Buffer {
  const bytes = Buffer.alloc(4 + rows.length * 8);
  bytes.writeUInt32LE(2, 0);
  rows.forEach(([tag, bits, id], index) => {
    bytes.writeUInt16LE(ACL_TAG[tag], 4 + index * 8);
    bytes.writeUInt16LE(bits, 6 + index * 8);
    bytes.writeUInt32LE(id ?? 0xffffffff, 8 + index * 8);
  });
  return bytes;
}

/** Makes a node of every kind and returns type, mode and owner of each. */
async function makeAll(posix: Posix, mode: number): Promise<Record<string, string>> {
  await posix.mkdir("dir", mode);
  await posix.close(await posix.open("file", O.WRONLY | O.CREAT, mode));
  await posix.mknod("reg", S_IFREG | mode);
  await posix.mknod("fifo", S_IFIFO | mode);
  await posix.mknod("socket", S_IFSOCK | mode);
  await posix.symlink("target", "link");
  const all = ["dir", "file", "reg", "fifo", "socket", "link"];
  const rows = all.map(async (name) => {
    const attr = await posix.lstat(name);
    return [name, `${attr.mode.toString(8)} ${attr.uid}:${attr.gid} ${attr.nlink}`] as const;
  });
  return Object.fromEntries(await Promise.all(rows));
}

export const createCases: Cases = {
  "mkdir, mknod and symlink apply mode, umask and owner": async (t) => {
    for (const umask of [0, 0o022, 0o077]) {
      for (const mode of [0o777, 0o755, 0o700, 0o000, 0o1777, 0o2775, 0o4755]) {
        const name = `u${umask}m${mode}`;
        await same(t, name, async (posix) => {
          await posix.mkdir(name);
          await posix.chmod(name, 0o777);
          const root = await makeAll(posix.below(name).as({ ...ROOT, umask }), mode);
          await posix.mkdir(`${name}a`);
          await posix.chmod(`${name}a`, 0o777);
          return [root, await makeAll(posix.below(`${name}a`).as({ ...ALICE, umask }), mode)];
        });
      }
    }
  },

  "a set-group-id directory gives its group, and directories inherit the bit": async (t) => {
    await same(t, "setgid", async (posix) => {
      await posix.mkdir("d");
      await posix.chown("d", 0, BOB.gid);
      await posix.chmod("d", 0o2777);
      const made = await makeAll(posix.below("d").as({ ...ALICE, umask: 0 }), 0o775);
      assert.match(made["dir"] ?? "", new RegExp(`^42775 ${ALICE.uid}:${BOB.gid}`));
      return made;
    });
  },

  "a set-group-id file made by a stranger to the group loses the bit": async (t) => {
    await same(t, "setgid file", async (posix) => {
      await posix.mkdir("d");
      await posix.chown("d", 0, BOB.gid);
      await posix.chmod("d", 0o2777);
      const own = posix.below("d").as({ ...ALICE, umask: 0 });
      await own.close(await own.open("f", O.WRONLY | O.CREAT, 0o2775));
      await own.mknod("g", S_IFREG | 0o2775);
      return [permissions(await own.stat("f")), permissions(await own.stat("g"))];
    });
  },

  "a default ACL replaces the umask": async (t) => {
    const value = acl([
      ["USER_OBJ", 7],
      ["USER", 5, BOB.uid],
      ["GROUP_OBJ", 7],
      ["MASK", 7],
      ["OTHER", 4],
    ]);
    await same(t, "default ACL", async (posix) => {
      await posix.mkdir("d");
      await posix.chmod("d", 0o777);
      await posix.setxattr("d", "system.posix_acl_default", value);
      const made = await makeAll(posix.below("d").as({ ...ALICE, umask: 0o077 }), 0o666);
      const acls = [];
      for (const name of ["d/dir", "d/file", "d/fifo"]) {
        acls.push(await posix.listxattr(name).then((names) => names.sort()));
        acls.push(await outcome(posix.getxattr(name, "system.posix_acl_access")));
      }
      return [made, acls];
    });
  },

  "mknod makes devices for root and EPERM for others": async ({ posix }) => {
    await posix.chmod(".", 0o777);
    await posix.mknod("c", S_IFCHR | 0o600, 1, 3);
    await posix.mknod("b", S_IFBLK | 0o600, 259, 70_000);
    const [c, b] = [await posix.stat("c"), await posix.stat("b")];
    assert.deepEqual([c.mode & S_IFMT, c.rdevMajor, c.rdevMinor], [S_IFCHR, 1, 3]);
    assert.deepEqual([b.mode & S_IFMT, b.rdevMajor, b.rdevMinor], [S_IFBLK, 259, 70_000]);
    await fails("EPERM", posix.as(ALICE).mknod("x", S_IFCHR | 0o600, 1, 3));
    await fails("EPERM", posix.as(ALICE).mknod("x", S_IFBLK | 0o600, 1, 3));
    await posix.as(ALICE).mknod("fifo", S_IFIFO | 0o600);
    await posix.as(ALICE).mknod("socket", S_IFSOCK | 0o600);
  },

  "mknod of a directory is EPERM, of a link EINVAL": async ({ posix }) => {
    await fails("EPERM", posix.mknod("x", S_IFDIR | 0o755));
    await fails("EINVAL", posix.mknod("x", 0o120777));
  },

  "every way to make a name fails with EEXIST where there is one": async ({ posix }) => {
    await posix.mkdir("dir");
    await put(posix, "file");
    await posix.symlink("nowhere", "dangling");
    await put(posix, "other");
    for (const name of ["dir", "file", "dangling"]) {
      await fails("EEXIST", posix.mkdir(name));
      await fails("EEXIST", posix.mknod(name, S_IFIFO | 0o644));
      await fails("EEXIST", posix.symlink("x", name));
      await fails("EEXIST", posix.link("other", name));
      await fails("EEXIST", posix.open(name, O.RDWR | O.CREAT | O.EXCL));
    }
  },

  "every way to make a name fails in a directory that may not be written": async ({ posix }) => {
    await posix.mkdir("d", 0o755);
    await put(posix, "mine");
    await posix.chown("mine", ALICE.uid, ALICE.gid);
    const own = posix.as(ALICE);
    await fails("EACCES", own.mkdir("d/x"));
    await fails("EACCES", own.mknod("d/x", S_IFIFO | 0o644));
    await fails("EACCES", own.symlink("x", "d/x"));
    await fails("EACCES", own.link("mine", "d/x"));
    await fails("EACCES", own.open("d/x", O.RDWR | O.CREAT));
    await fails("EACCES", own.open("d", O.RDWR | O.TMPFILE));
  },

  "every way to make a name fails in a directory that was removed": async ({ posix }) => {
    await put(posix, "f");
    for (const parent of ["gone", "f"]) {
      const errno = parent === "f" ? "ENOTDIR" : "ENOENT";
      await fails(errno, posix.mkdir(`${parent}/x`));
      await fails(errno, posix.mknod(`${parent}/x`, S_IFIFO | 0o644));
      await fails(errno, posix.symlink("x", `${parent}/x`));
      await fails(errno, posix.link("f", `${parent}/x`));
      await fails(errno, posix.open(`${parent}/x`, O.RDWR | O.CREAT));
      await fails(errno, posix.rename("f", `${parent}/x`));
    }
  },

  "mkdir counts links of the parent, and takes a trailing slash": async ({ posix }) => {
    const before = (await posix.stat(".")).nlink;
    await posix.mkdir("a/");
    await posix.mkdir("b");
    assert.equal((await posix.stat(".")).nlink, before + 2);
    assert.equal((await posix.stat("a")).nlink, 2);
    await posix.rmdir("b/");
    assert.equal((await posix.stat(".")).nlink, before + 1);
  },
};
