/**
 * Reading directories: completeness, cookies, changes while reading, 10,000 entries; and statfs.
 */
import assert from "node:assert/strict";
import { S_IFDIR } from "../../../src/vfs/attr.ts";
import { O, type Posix } from "../../support/posix.ts";
import { type Cases, entries, fails, inode, names, put, same, withFd } from "../case.ts";

const DT = { FIFO: 1, CHR: 2, DIR: 4, REG: 8, LNK: 10, SOCK: 12 } as const;
const real = (all: { name: string }[]) => all.map(({ name }) => name).filter((name) => name !== "." && name !== "..");

async function fill(posix: Posix, count: number): Promise<string[]> {
  const made = Array.from({ length: count }, (_, i) => `entry-${String(i).padStart(5, "0")}`);
  await Promise.all(made.map((name) => posix.mknod(name, 0o100644)));
  return made;
}

export const directoryCases: Cases = {
  "entries carry name, type and inode, '.' and '..' too": async ({ posix }) => {
    await put(posix, "file");
    await posix.mkdir("dir");
    await posix.symlink("x", "link");
    await posix.mknod("fifo", 0o010644);
    await posix.mknod("socket", 0o140644);
    await posix.mknod("device", 0o020644, 1, 3);
    const found = new Map((await entries(posix, ".")).map((entry) => [entry.name, entry]));
    assert.deepEqual([...found.keys()].sort(), [".", "..", "device", "dir", "fifo", "file", "link", "socket"]);
    const types = Object.fromEntries([...found].map(([name, { type }]) => [name, type]));
    assert.deepEqual(types, {
      ".": DT.DIR,
      "..": DT.DIR,
      device: DT.CHR,
      dir: DT.DIR,
      fifo: DT.FIFO,
      file: DT.REG,
      link: DT.LNK,
      socket: DT.SOCK,
    });
    for (const [name, { ino }] of found) assert.equal(ino, inode(await posix.lstat(name)), name);
  },

  "an empty directory has '.' and '..'": async ({ posix }) => {
    await posix.mkdir("d");
    assert.deepEqual((await entries(posix, "d")).map(({ name }) => name).sort(), [".", ".."]);
  },

  "10,000 entries are each read once, in small pages and in large ones": async ({ posix }) => {
    const made = await fill(posix, 10_000);
    for (const pageBytes of [1024, 32_768]) {
      const found = real(await entries(posix, ".", pageBytes));
      assert.equal(found.length, 10_000);
      assert.deepEqual(found.sort(), made);
    }
    assert.equal((await posix.stat(".")).mode & S_IFDIR, S_IFDIR);
  },

  "a cookie goes on exactly after its entry, in any order": async ({ posix }) => {
    await fill(posix, 300);
    await withFd(posix, ".", O.RDONLY | O.DIRECTORY, async (fd) => {
      const all = await entries(posix, ".");
      for (const index of [250, 3, 120, 299, 0, 301]) {
        const cookie = all[index]?.cookie as bigint;
        const rest = await posix.getdents(fd, cookie, 32_768);
        assert.equal(rest[0]?.name, all[index + 1]?.name, `after entry ${index}`);
      }
      assert.deepEqual((await posix.getdents(fd, 0n, 4096))[0]?.name, all[0]?.name);
    });
  },

  "what is neither added nor removed while reading is seen exactly once": async ({ posix }) => {
    const stay = await fill(posix, 500);
    for (let i = 0; i < 200; i++) await posix.mknod(`gone-${i}`, 0o100644);
    await withFd(posix, ".", O.RDONLY | O.DIRECTORY, async (fd) => {
      const seen: string[] = [];
      let cookie = 0n;
      for (let round = 0; ; round++) {
        const page = await posix.getdents(fd, cookie, 2048);
        if (page.length === 0) break;
        cookie = page.at(-1)?.cookie ?? 0n;
        seen.push(...real(page));
        for (let i = 0; i < 10 && round * 10 + i < 200; i++) {
          await posix.unlink(`gone-${round * 10 + i}`);
          await posix.mknod(`new-${round * 10 + i}`, 0o100644);
        }
      }
      const kept = seen.filter((name) => name.startsWith("entry-"));
      assert.deepEqual(kept.sort(), stay);
      assert.equal(new Set(seen).size, seen.length);
    });
  },

  "a directory can be emptied while it is read": async ({ posix }) => {
    await posix.mkdir("d");
    await fill(posix.below("d"), 1500);
    await withFd(posix, "d", O.RDONLY | O.DIRECTORY, async (fd) => {
      let cookie = 0n;
      for (;;) {
        const page = await posix.getdents(fd, cookie, 4096);
        if (page.length === 0) break;
        cookie = page.at(-1)?.cookie ?? 0n;
        await Promise.all(real(page).map((name) => posix.unlink(`d/${name}`)));
      }
    });
    await posix.rmdir("d");
  },

  "starting over shows what was made since": async ({ posix }) => {
    await put(posix, "a");
    await withFd(posix, ".", O.RDONLY | O.DIRECTORY, async (fd) => {
      assert.deepEqual(real(await posix.getdents(fd, 0n, 4096)), ["a"]);
      await put(posix, "b");
      await posix.unlink("a");
      assert.deepEqual(real(await posix.getdents(fd, 0n, 4096)), ["b"]);
    });
  },

  "getdents of anything but a directory is ENOTDIR": async ({ posix }) => {
    await put(posix, "f");
    await withFd(posix, "f", O.RDONLY, (fd) => fails("ENOTDIR", posix.getdents(fd, 0n, 4096)));
  },

  "a change in one process is seen by another at once": async ({ posix }) => {
    const other = posix.as({ ...posix.identity, process: 1 });
    for (let i = 0; i < 20; i++) {
      await fails("ENOENT", other.stat(`f${i}`));
      await put(posix, `f${i}`, "x");
      assert.equal((await other.stat(`f${i}`)).sizeBytes, 1);
      assert.equal((await names(other, ".")).length, i + 1);
      await posix.chmod(`f${i}`, 0o600);
      assert.equal((await other.stat(`f${i}`)).mode & 0o777, 0o600);
    }
    for (let i = 0; i < 20; i++) {
      await other.unlink(`f${i}`);
      await fails("ENOENT", posix.stat(`f${i}`));
    }
  },

  "statfs tells of the disk below": async (t) => {
    const answer = await t.posix.statfs(".");
    const plain = await t.truth.statfs(".");
    assert.equal(answer.nameBytesMax, 255);
    assert.equal(answer.blocks * answer.fragmentBytes, plain.blocks * plain.fragmentBytes);
    assert.equal(answer.files, plain.files);
    const difference = answer.blocksFree * answer.fragmentBytes - plain.blocksFree * plain.fragmentBytes;
    assert.ok(Math.abs(difference) < plain.blocks * plain.fragmentBytes * 0.1);
    assert.ok(answer.blocksAvailable <= answer.blocksFree);
    await put(t.posix, "f");
    assert.equal((await t.posix.statfs("f")).blocks, answer.blocks);
    await fails("ENOENT", t.posix.statfs("missing"));
  },

  "the link count of a directory is 2 and its subdirectories": async (t) => {
    await same(t, "nlink", async (posix) => {
      await posix.mkdir("d");
      const counts = [];
      for (let i = 0; i < 5; i++) {
        await posix.mkdir(`d/${i}`);
        counts.push((await posix.stat("d")).nlink);
      }
      await posix.rename("d/0", "moved");
      counts.push((await posix.stat("d")).nlink);
      return counts;
    });
  },
};
