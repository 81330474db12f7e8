/**
 * Extended attributes and access control lists.
 */
import assert from "node:assert/strict";
import { XattrFlag } from "../../../src/vfs/file-system.ts";
import { ALICE, BOB, O, type Posix } from "../../support/posix.ts";
import { type Cases, fails, outcome, permissions, put, same, timeNs } from "../case.ts";
import { acl } from "./create.ts";

const { CREATE, REPLACE } = XattrFlag;
const NAMESPACES = ["user.", "trusted.", "security.", "system.", "unknown.", "", "user"];

/** Sets, reads, lists and removes `name` on `path` as `own`; every outcome. */
async function touch(own: Posix, path: string, name: string): Promise<unknown[]> {
  return [
    await outcome(own.getxattr(path, name)),
    await outcome(own.setxattr(path, name, Buffer.from("v"))),
    await outcome(own.getxattr(path, name)),
    await outcome(own.listxattr(path).then((names) => names.sort())),
    await outcome(own.removexattr(path, name)),
    await outcome(own.getxattr(path, name)),
  ];
}

export const xattrCases: Cases = {
  "attributes of files and directories are set, read, listed and removed": async ({ posix }) => {
    await put(posix, "f");
    await posix.mkdir("d");
    for (const path of ["f", "d"]) {
      await posix.setxattr(path, "user.a", Buffer.from("one"));
      await posix.setxattr(path, "user.\xff\xfe", Buffer.from([0, 1, 0, 255]));
      await posix.setxattr(path, "user.empty", Buffer.alloc(0));
      assert.deepEqual(await posix.getxattr(path, "user.a"), Buffer.from("one"));
      assert.deepEqual(await posix.getxattr(path, "user.\xff\xfe"), Buffer.from([0, 1, 0, 255]));
      assert.deepEqual(await posix.getxattr(path, "user.empty"), Buffer.alloc(0));
      assert.deepEqual((await posix.listxattr(path)).sort(), ["user.a", "user.empty", "user.\xff\xfe"]);
      await posix.setxattr(path, "user.a", Buffer.from("a longer value"));
      assert.deepEqual(await posix.getxattr(path, "user.a"), Buffer.from("a longer value"));
      await posix.removexattr(path, "user.a");
      await fails("ENODATA", posix.getxattr(path, "user.a"));
      await fails("ENODATA", posix.removexattr(path, "user.a"));
      assert.deepEqual((await posix.listxattr(path)).sort(), ["user.empty", "user.\xff\xfe"]);
    }
  },

  "CREATE and REPLACE do what they say": async ({ posix }) => {
    await put(posix, "f");
    await fails("ENODATA", posix.setxattr("f", "user.a", Buffer.from("1"), REPLACE));
    await posix.setxattr("f", "user.a", Buffer.from("2"), CREATE);
    await fails("EEXIST", posix.setxattr("f", "user.a", Buffer.from("3"), CREATE));
    await posix.setxattr("f", "user.a", Buffer.from("4"), REPLACE);
    assert.equal((await posix.getxattr("f", "user.a")).toString(), "4");
    await fails("EINVAL", posix.setxattr("f", "user.a", Buffer.from("5"), 4));
  },

  "every namespace for root, the owner and a stranger, on every kind of node": async (t) => {
    await same(t, "namespaces", async (posix) => {
      await put(posix, "f", "", 0o644);
      await posix.mkdir("d", 0o755);
      await posix.mkdir("sticky");
      await posix.chmod("sticky", 0o1777);
      await posix.mknod("fifo", 0o010644);
      await posix.chown("f", ALICE.uid, ALICE.gid);
      await posix.chown("d", ALICE.uid, ALICE.gid);
      const results = [];
      for (const path of ["f", "d", "sticky", "fifo"]) {
        for (const space of NAMESPACES) {
          for (const own of [posix, posix.as(ALICE), posix.as(BOB)]) {
            results.push([path, space, own.identity.uid, await touch(own, path, `${space}n`)]);
          }
        }
      }
      return results;
    });
  },

  "user attributes follow the permission bits": async ({ posix }) => {
    await put(posix, "f", "", 0o640);
    await posix.setxattr("f", "user.a", Buffer.from("1"));
    await fails("EACCES", posix.as(ALICE).getxattr("f", "user.a"));
    await posix.chmod("f", 0o644);
    assert.equal((await posix.as(ALICE).getxattr("f", "user.a")).toString(), "1");
    await fails("EACCES", posix.as(ALICE).setxattr("f", "user.a", Buffer.from("2")));
    await fails("EACCES", posix.as(ALICE).removexattr("f", "user.a"));
  },

  "trusted attributes exist for root only": async ({ posix }) => {
    await put(posix, "f", "", 0o666);
    await posix.setxattr("f", "trusted.t", Buffer.from("1"));
    await posix.setxattr("f", "user.u", Buffer.from("1"));
    assert.deepEqual((await posix.listxattr("f")).sort(), ["trusted.t", "user.u"]);
    assert.deepEqual(await posix.as(ALICE).listxattr("f"), ["user.u"]);
    await fails("ENODATA", posix.as(ALICE).getxattr("f", "trusted.t"));
    await fails("EPERM", posix.as(ALICE).setxattr("f", "trusted.t", Buffer.from("2")));
  },

  "sizes up to the limits": async (t) => {
    await same(t, "sizes", async (posix) => {
      await put(posix, "f");
      const results = [];
      for (const size of [1, 100, 1000, 3000, 4096, 65_536, 65_537]) {
        const set = await outcome(posix.setxattr("f", "user.big", Buffer.alloc(size, size & 0xff)));
        const read = await outcome(posix.getxattr("f", "user.big"));
        results.push([size, set, read]);
      }
      return results;
    });
    await fails("ERANGE", t.posix.getxattr("f", `user.${"n".repeat(251)}`));
    await fails("ERANGE", t.posix.setxattr("f", `user.${"n".repeat(251)}`, Buffer.from("x")));
    await t.posix.setxattr("f", `user.${"n".repeat(250)}`, Buffer.from("x"));
  },

  "64 attributes on one file": async (t) => {
    await same(t, "many", async (posix) => {
      await put(posix, "f");
      for (let i = 0; i < 64; i++) await posix.setxattr("f", `user.n${i}`, Buffer.from(`${i}`));
      return (await posix.listxattr("f")).sort();
    });
  },

  "links have no user attributes, and calls that follow reach the target": async (t) => {
    await same(t, "links", async (posix) => {
      await put(posix, "f");
      await posix.symlink("f", "l");
      await posix.setxattr("l", "user.a", Buffer.from("1"));
      return [
        (await posix.getxattr("f", "user.a")).toString(),
        await outcome(posix.lsetxattr("l", "user.a", Buffer.from("1"))),
        await outcome(posix.lgetxattr("l", "user.a")),
        await outcome(posix.lsetxattr("l", "trusted.a", Buffer.from("1"))),
        await outcome(posix.lgetxattr("l", "trusted.a")),
      ];
    });
  },

  "setting an attribute changes ctime, not mtime": async ({ posix }) => {
    await put(posix, "f");
    await posix.utimens("f", { sec: 1, nsec: 0 }, { sec: 2, nsec: 0 });
    const before = await posix.stat("f");
    await posix.setxattr("f", "user.a", Buffer.from("1"));
    const attr = await posix.stat("f");
    assert.equal(timeNs(attr, "mtime"), 2_000_000_000n);
    assert.ok(timeNs(attr, "ctime") >= timeNs(before, "ctime"));
  },

  "an access ACL gives and takes permissions, and shows in the mode": async ({ posix }) => {
    await put(posix, "f", "secret", 0o600);
    const value = acl([
      ["USER_OBJ", 6],
      ["USER", 4, ALICE.uid],
      ["GROUP_OBJ", 0],
      ["MASK", 6],
      ["OTHER", 0],
    ]);
    await posix.setxattr("f", "system.posix_acl_access", value);
    assert.deepEqual(await posix.getxattr("f", "system.posix_acl_access"), value);
    assert.equal(permissions(await posix.stat("f")), 0o660);
    await posix.as(ALICE).close(await posix.as(ALICE).open("f", O.RDONLY));
    await fails("EACCES", posix.as(ALICE).open("f", O.RDWR));
    await fails("EACCES", posix.as(BOB).open("f", O.RDONLY));
    // The group bits of chmod are the mask now.
    await posix.chmod("f", 0o600);
    await fails("EACCES", posix.as(ALICE).open("f", O.RDONLY));
  },

  "an ACL that is only a mode becomes the mode": async ({ posix }) => {
    await put(posix, "f", "", 0o600);
    const minimal = acl([
      ["USER_OBJ", 6],
      ["GROUP_OBJ", 4],
      ["OTHER", 4],
    ]);
    await posix.setxattr("f", "system.posix_acl_access", minimal);
    assert.equal(permissions(await posix.stat("f")), 0o644);
    await fails("ENODATA", posix.getxattr("f", "system.posix_acl_access"));
  },

  "wrong ACLs are refused": async (t) => {
    await same(t, "wrong ACLs", async (posix) => {
      await put(posix, "f", "", 0o666);
      await posix.mkdir("d");
      const good = acl([
        ["USER_OBJ", 6],
        ["GROUP_OBJ", 4],
        ["OTHER", 4],
      ]);
      return [
        await outcome(posix.setxattr("f", "system.posix_acl_access", Buffer.from("nonsense"))),
        await outcome(posix.setxattr("f", "system.posix_acl_access", good.subarray(0, 13))),
        await outcome(posix.setxattr("f", "system.posix_acl_access", acl([["USER_OBJ", 6]]))),
        await outcome(posix.setxattr("f", "system.posix_acl_default", good)),
        await outcome(posix.setxattr("d", "system.posix_acl_default", good)),
        await outcome(posix.as(ALICE).setxattr("f", "system.posix_acl_access", good)),
        await outcome(posix.as(ALICE).removexattr("d", "system.posix_acl_default")),
        await outcome(posix.getxattr("d", "system.posix_acl_default")),
        await outcome(posix.removexattr("d", "system.posix_acl_default")),
        await outcome(posix.getxattr("d", "system.posix_acl_default")),
      ];
    });
  },
};
