/**
 * rename(2) and renameat2(2): every pair of kinds, every flag, every errno.
 */
import assert from "node:assert/strict";
import { S_IFCHR, S_IFMT } from "../../../src/vfs/attr.ts";
import { RenameFlag } from "../../../src/vfs/file-system.ts";
import { ALICE, BOB, O, type Posix } from "../../support/posix.ts";
import { type Cases, fails, get, getText, inode, outcome, put, same, tree, withFd } from "../case.ts";

const { NOREPLACE, EXCHANGE, WHITEOUT } = RenameFlag;

const KINDS: Record<string, (posix: Posix, path: string) => Promise<unknown>> = {
  missing: async () => undefined,
  file: (posix, path) => put(posix, path, path),
  "empty directory": (posix, path) => posix.mkdir(path),
  "full directory": async (posix, path) => {
    await posix.mkdir(path);
    await put(posix, `${path}/in`, "in");
  },
  link: (posix, path) => posix.symlink("file-elsewhere", path),
  fifo: (posix, path) => posix.mknod(path, 0o010644),
};

/** Renames each kind onto each kind in a fresh directory; what happened and what is there afterwards. */
async function pairTable(posix: Posix, flags: number): Promise<Record<string, unknown>> {
  const rows = Object.entries(KINDS).flatMap(([from, makeFrom]) =>
    Object.entries(KINDS).map(async ([to, makeTo], index) => {
      const dir = `${from}-${index}`;
      await posix.mkdir(dir);
      const own = posix.below(dir);
      await makeFrom(own, "from");
      await makeTo(own, "to");
      const result = await outcome(own.rename("from", "to", flags));
      return [`${from} -> ${to}`, { result, after: await tree(own) }] as const;
    }),
  );
  return Object.fromEntries(await Promise.all(rows));
}

export const renameCases: Cases = {
  "every kind onto every kind, without flags and with each": async (t) => {
    for (const flags of [0, NOREPLACE, EXCHANGE, NOREPLACE | EXCHANGE]) {
      await same(t, `flags ${flags}`, async (posix) => {
        await posix.mkdir(`flags-${flags}`);
        return pairTable(posix.below(`flags-${flags}`), flags);
      });
    }
  },

  "RENAME_WHITEOUT leaves a 0:0 character device": async (t) => {
    await same(t, "whiteout", async (posix) => {
      await put(posix, "a", "a");
      await posix.rename("a", "b", WHITEOUT);
      const left = await posix.lstat("a");
      return [left.mode, left.rdevMajor, left.rdevMinor, left.nlink, await getText(posix, "b")];
    });
    assert.equal((await t.posix.lstat("a")).mode & S_IFMT, S_IFCHR);
  },

  "RENAME_EXCHANGE swaps a file with a full directory": async ({ posix }) => {
    await put(posix, "f", "f");
    await posix.mkdir("d");
    await put(posix, "d/in", "in");
    const [file, directory] = [inode(await posix.stat("f")), inode(await posix.stat("d"))];
    await posix.rename("f", "d", EXCHANGE);
    assert.deepEqual([inode(await posix.stat("d")), inode(await posix.stat("f"))], [file, directory]);
    assert.equal(await getText(posix, "f/in"), "in");
    assert.equal(await getText(posix, "d"), "f");
  },

  "unknown and contradictory flags are EINVAL": async ({ posix }) => {
    await put(posix, "a");
    await put(posix, "b");
    await fails("EINVAL", posix.rename("a", "b", NOREPLACE | EXCHANGE));
    await fails("EINVAL", posix.rename("a", "b", EXCHANGE | WHITEOUT));
    await fails("EINVAL", posix.rename("a", "b", 8));
  },

  "a directory into itself or below is EINVAL, onto its parent ENOTEMPTY": async ({ posix }) => {
    await posix.mkdir("a");
    await posix.mkdir("a/b");
    await posix.mkdir("a/b/c");
    await fails("EINVAL", posix.rename("a", "a/x"));
    await fails("EINVAL", posix.rename("a", "a/b/c/x"));
    await fails("EINVAL", posix.rename("a", "a/b", EXCHANGE));
    await fails("ENOTEMPTY", posix.rename("a/b/c", "a"));
    await fails("ENOTEMPTY", posix.rename("a/b/c", "a/b"));
    await fails("EINVAL", posix.rename("a/b", "a", EXCHANGE));
  },

  "'.' and '..' cannot be renamed": async ({ posix }) => {
    await posix.mkdir("d");
    for (const [from, to] of [
      ["d/.", "x"],
      ["d/..", "x"],
      ["d", "d/."],
      ["d", "d/.."],
    ] as const) {
      await fails("EBUSY", posix.rename(from, to));
    }
  },

  "a name onto itself, or onto another link to the same file, changes nothing": async ({ posix }) => {
    await put(posix, "a", "x");
    await posix.link("a", "b");
    await posix.rename("a", "a");
    await posix.rename("a", "b");
    assert.equal((await posix.stat("a")).nlink, 2);
    assert.equal(inode(await posix.stat("a")), inode(await posix.stat("b")));
  },

  "trailing slashes are right for directories only": async ({ posix }) => {
    await put(posix, "f");
    await posix.mkdir("d");
    await fails("ENOTDIR", posix.rename("f/", "g"));
    await fails("ENOTDIR", posix.rename("f", "g/"));
    await posix.rename("d/", "e/");
    await posix.stat("e");
  },

  "a directory moved to another parent keeps its inode, and link counts follow": async ({ posix }) => {
    await posix.mkdir("a");
    await posix.mkdir("b");
    await posix.mkdir("a/d");
    await put(posix, "a/d/f", "deep");
    const id = inode(await posix.stat("a/d"));
    await posix.rename("a/d", "b/e");
    assert.equal(inode(await posix.stat("b/e")), id);
    assert.deepEqual([(await posix.stat("a")).nlink, (await posix.stat("b")).nlink], [2, 3]);
    assert.equal(await getText(posix, "b/e/f"), "deep");
    assert.equal(inode(await posix.stat("b/e/..")), inode(await posix.stat("b")));
  },

  "rename over an open file leaves the open one readable and writable": async ({ posix }) => {
    await put(posix, "old", "old content");
    await put(posix, "new", "new");
    await withFd(posix, "old", O.RDWR, async (fd) => {
      await posix.rename("new", "old");
      assert.equal((await posix.pread(fd, 100, 0)).toString(), "old content");
      await posix.pwrite(fd, Buffer.from("OLD"), 0);
      assert.equal((await posix.pread(fd, 100, 0)).toString(), "OLD content");
      assert.equal((await posix.fstat(fd)).nlink, 0);
      assert.equal(await getText(posix, "old"), "new");
    });
  },

  "an open file follows its renames": async ({ posix }) => {
    await put(posix, "a", "1");
    await posix.mkdir("d");
    await withFd(posix, "a", O.RDWR, async (fd) => {
      await posix.rename("a", "d/b");
      await posix.pwrite(fd, Buffer.from("2"), 1);
      await posix.rename("d", "e");
      await posix.pwrite(fd, Buffer.from("3"), 2);
      assert.equal(await getText(posix, "e/b"), "123");
    });
  },

  "renaming needs write permission on both directories": async ({ posix }) => {
    for (const [name, mode] of [
      ["open", 0o777],
      ["shut", 0o755],
    ] as const) {
      await posix.mkdir(name);
      await posix.chmod(name, mode);
      await put(posix, `${name}/f`);
    }
    const own = posix.as(ALICE);
    await fails("EACCES", own.rename("open/f", "shut/g"));
    await fails("EACCES", own.rename("shut/f", "open/g"));
    await own.rename("open/f", "open/g");
  },

  "in a sticky directory only owners rename and replace": async ({ posix }) => {
    await posix.mkdir("s");
    await posix.chmod("s", 0o1777);
    await put(posix, "s/alice", "a", 0o666);
    await put(posix, "s/bob", "b", 0o666);
    await posix.chown("s/alice", ALICE.uid, ALICE.gid);
    await posix.chown("s/bob", BOB.uid, BOB.gid);
    const own = posix.as(ALICE);
    await fails("EPERM", own.rename("s/bob", "s/x"));
    await fails("EPERM", own.rename("s/alice", "s/bob"));
    await fails("EPERM", own.rename("s/alice", "s/bob", EXCHANGE));
    await own.rename("s/alice", "s/mine");
  },

  "a directory of another owner cannot be moved to a new parent without write permission on it": async (t) => {
    await same(t, "dotdot", async (posix) => {
      for (const name of ["p", "q"]) {
        await posix.mkdir(name);
        await posix.chmod(name, 0o777);
      }
      await posix.mkdir("p/d");
      await posix.chmod("p/d", 0o755);
      const within = await outcome(posix.as(ALICE).rename("p/d", "p/e"));
      return [within, await outcome(posix.as(ALICE).rename("p/e", "q/e"))];
    });
  },

  "10 renames in a ring end where they began": async ({ posix }) => {
    await put(posix, "n0", "ring");
    for (let i = 0; i < 10; i++) await posix.rename(`n${i}`, `n${(i + 1) % 10}`);
    assert.equal((await get(posix, "n0")).toString(), "ring");
  },
};
