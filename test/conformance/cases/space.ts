/**
 * Size, holes and space: truncate, fallocate, SEEK_DATA and SEEK_HOLE, copy_file_range, files beyond 4 GiB.
 */
import assert from "node:assert/strict";
import { FallocateMode } from "../../../src/vfs/file-system.ts";
import { ALICE, type Fd, O, type Posix, Seek } from "../../support/posix.ts";
import { type Cases, fails, get, getText, outcome, put, same, withFd } from "../case.ts";

const { KEEP_SIZE, PUNCH_HOLE, COLLAPSE_RANGE, ZERO_RANGE, INSERT_RANGE } = FallocateMode;
const GIB = 2 ** 30;
const BLOCK = 4096;

/** 16 blocks, each filled with its letter. */
const letters = Buffer.concat(Array.from({ length: 16 }, (_, i) => Buffer.alloc(BLOCK, 97 + i)));

/** The content as runs of equal bytes: "a*4096 \0*4096". */
function runs(data: Buffer): string {
  const parts: string[] = [];
  for (let at = 0; at < data.length; ) {
    let end = at + 1;
    while (end < data.length && data[end] === data[at]) end++;
    parts.push(`${data[at]}*${end - at}`);
    at = end;
  }
  return parts.join(" ");
}

/** The data and hole extents of a file as SEEK_DATA and SEEK_HOLE show them. */
async function extents(posix: Posix, fd: Fd): Promise<[number, number][]> {
  const found: [number, number][] = [];
  for (let at = 0; ; ) {
    const data = await outcome(posix.lseek(fd, at, Seek.DATA));
    if ("errno" in data) {
      assert.equal(data.errno, "ENXIO");
      return found;
    }
    const start = data.value as number;
    at = await posix.lseek(fd, start, Seek.HOLE);
    found.push([start, at]);
  }
}

type FallocateRow = [label: string, mode: number, offset: number, length: number];

const FALLOCATE_ROWS: FallocateRow[] = [
  ["allocate beyond the end", 0, 14 * BLOCK, 6 * BLOCK],
  ["allocate beyond the end, keep the size", KEEP_SIZE, 14 * BLOCK, 6 * BLOCK],
  ["allocate inside", 0, BLOCK, BLOCK],
  ["punch whole blocks", PUNCH_HOLE | KEEP_SIZE, 4 * BLOCK, 4 * BLOCK],
  ["punch parts of blocks", PUNCH_HOLE | KEEP_SIZE, 4 * BLOCK + 100, BLOCK + 200],
  ["punch without KEEP_SIZE", PUNCH_HOLE, 0, BLOCK],
  ["punch beyond the end", PUNCH_HOLE | KEEP_SIZE, 20 * BLOCK, BLOCK],
  ["zero", ZERO_RANGE, 2 * BLOCK + 1, 3 * BLOCK],
  ["zero over the end", ZERO_RANGE, 15 * BLOCK, 2 * BLOCK],
  ["zero over the end, keep the size", ZERO_RANGE | KEEP_SIZE, 15 * BLOCK, 2 * BLOCK],
  ["two modes", COLLAPSE_RANGE | ZERO_RANGE, 0, BLOCK],
  ["an unknown mode", 0x1000, 0, BLOCK],
  ["no length", 0, 0, 0],
  ["negative offset", 0, -1, 10],
  ["negative length", 0, 0, -1],
  ["more than a file can be", 0, 2 ** 62, 2 ** 62],
];

const SHIFT_ROWS: FallocateRow[] = [
  ["collapse", COLLAPSE_RANGE, 4 * BLOCK, 2 * BLOCK],
  ["collapse parts of blocks", COLLAPSE_RANGE, 100, BLOCK],
  ["collapse to the end", COLLAPSE_RANGE, 12 * BLOCK, 4 * BLOCK],
  ["insert", INSERT_RANGE, 4 * BLOCK, 2 * BLOCK],
  ["insert at the end", INSERT_RANGE, 16 * BLOCK, BLOCK],
];

/** Does a row to a new file; the outcome and what became of the file. */
async function allocate(posix: Posix, path: string, [, mode, offset, length]: FallocateRow): Promise<unknown> {
  await put(posix, path, letters);
  return withFd(posix, path, O.RDWR, async (fd) => {
    const result = await outcome(posix.fallocate(fd, mode, offset, length));
    await posix.fsync(fd);
    return [result, runs(await get(posix, path)), await extents(posix, fd), (await posix.fstat(fd)).blocks];
  });
}

export const spaceCases: Cases = {
  "truncate shortens, and lengthens with zeros": async ({ posix }) => {
    await put(posix, "f", "0123456789");
    await posix.truncate("f", 4);
    assert.equal(await getText(posix, "f"), "0123");
    await posix.truncate("f", 8);
    assert.equal(await getText(posix, "f"), "0123\0\0\0\0");
    await withFd(posix, "f", O.RDWR, async (fd) => {
      await posix.ftruncate(fd, 2);
      assert.equal((await posix.fstat(fd)).sizeBytes, 2);
      await posix.ftruncate(fd, 10_000);
      assert.equal(runs(await posix.pread(fd, 20_000, 0)), "48*1 49*1 0*9998");
    });
  },

  "what was cut off does not come back": async ({ posix }) => {
    await put(posix, "f", letters);
    await posix.truncate("f", BLOCK + 10);
    await posix.truncate("f", 4 * BLOCK);
    assert.equal(runs(await get(posix, "f")), `97*${BLOCK} 98*10 0*${3 * BLOCK - 10}`);
  },

  "truncate fails as it should": async ({ posix }) => {
    await posix.mkdir("d");
    await put(posix, "f", "x");
    await posix.mknod("fifo", 0o010666);
    await fails("EISDIR", posix.truncate("d", 0));
    await fails("EINVAL", posix.truncate("f", -1));
    await fails("EINVAL", posix.truncate("fifo", 0));
    await fails("ENOENT", posix.truncate("missing", 0));
    await fails("ENOTDIR", posix.truncate("f/x", 0));
    await fails("EACCES", posix.as(ALICE).truncate("f", 0));
    await withFd(posix, "f", O.RDONLY, (fd) => fails("EINVAL", posix.ftruncate(fd, 0)));
  },

  "every mode of fallocate": async (t) => {
    for (const [index, row] of FALLOCATE_ROWS.entries()) {
      await same(t, row[0], (posix) => allocate(posix, `f${index}`, row));
    }
  },

  "ranges are collapsed and inserted, but not through a FUSE mount, where the kernel says EOPNOTSUPP": async (t) => {
    for (const [index, row] of SHIFT_ROWS.entries()) {
      if (!t.isFuse) await same(t, row[0], (posix) => allocate(posix, `f${index}`, row));
      else
        assert.deepEqual(await allocate(t.posix, `f${index}`, row), [
          { errno: "EOPNOTSUPP" },
          runs(letters),
          [[0, letters.length]],
          128,
        ]);
    }
    await withFd(t.posix, "f", O.RDWR | O.CREAT, (fd) =>
      fails("EOPNOTSUPP", t.posix.fallocate(fd, INSERT_RANGE | KEEP_SIZE, 0, BLOCK)),
    );
  },

  "fallocate needs a descriptor open for writing, of a file": async ({ posix }) => {
    await put(posix, "f", "x");
    await withFd(posix, "f", O.RDONLY, (fd) => fails("EBADF", posix.fallocate(fd, 0, 0, 10)));
    await withFd(posix, ".", O.RDONLY | O.DIRECTORY, (fd) => fails("EBADF", posix.fallocate(fd, 0, 0, 10)));
  },

  "holes read as zeros and are found by lseek": async (t) => {
    await same(t, "holes", async (posix) => {
      return withFd(posix, "f", O.RDWR | O.CREAT, async (fd) => {
        for (const at of [1, 10, 100]) await posix.pwrite(fd, Buffer.alloc(BLOCK, at), at * BLOCK);
        await posix.ftruncate(fd, 200 * BLOCK);
        await posix.fsync(fd);
        return [
          await extents(posix, fd),
          await posix.lseek(fd, 0, Seek.HOLE),
          await posix.lseek(fd, BLOCK + 5, Seek.DATA),
          await outcome(posix.lseek(fd, 200 * BLOCK, Seek.DATA)),
          await outcome(posix.lseek(fd, 200 * BLOCK, Seek.HOLE)),
          await outcome(posix.lseek(fd, 150 * BLOCK, Seek.DATA)),
          await outcome(posix.lseek(fd, -1, Seek.DATA)),
          runs(await get(posix, "f")),
          (await posix.fstat(fd)).blocks,
        ];
      });
    });
  },

  "lseek moves where read and write go on": async ({ posix }) => {
    await put(posix, "f", "0123456789");
    await withFd(posix, "f", O.RDWR, async (fd) => {
      assert.equal((await posix.read(fd, 3)).toString(), "012");
      assert.equal(await posix.lseek(fd, 2, Seek.CUR), 5);
      assert.equal(await posix.write(fd, Buffer.from("AB")), 2);
      assert.equal((await posix.read(fd, 100)).toString(), "789");
      assert.equal(await posix.lseek(fd, -4, Seek.END), 6);
      assert.equal((await posix.read(fd, 2)).toString(), "B7");
      await fails("EINVAL", posix.lseek(fd, -100, Seek.SET));
      await fails("EINVAL", posix.lseek(fd, 0, 9));
      assert.equal(await posix.lseek(fd, 20, Seek.SET), 20);
      assert.equal((await posix.read(fd, 10)).length, 0);
      await posix.write(fd, Buffer.from("end"));
      assert.equal((await posix.fstat(fd)).sizeBytes, 23);
    });
  },

  "copy_file_range copies, within a file and between files": async ({ posix }) => {
    await put(posix, "a", letters);
    await put(posix, "b", "");
    const [from, to] = [await posix.open("a", O.RDWR), await posix.open("b", O.RDWR)];
    const copied = await posix.copyFileRange({ fd: from, offsetBytes: 10 }, { fd: to, offsetBytes: 5 }, 3 * BLOCK);
    assert.equal(copied, 3 * BLOCK);
    const expected = Buffer.concat([Buffer.alloc(5), letters.subarray(10, 10 + 3 * BLOCK)]);
    assert.ok((await get(posix, "b")).equals(expected));
    await posix.copyFileRange({ fd: from, offsetBytes: 0 }, { fd: from, offsetBytes: 8 * BLOCK }, BLOCK);
    assert.equal((await posix.pread(from, 1, 8 * BLOCK)).toString(), "a");
    assert.equal(await posix.copyFileRange({ fd: from, offsetBytes: 16 * BLOCK }, { fd: to, offsetBytes: 0 }, 10), 0);
    assert.equal(
      await posix.copyFileRange({ fd: from, offsetBytes: 15 * BLOCK }, { fd: to, offsetBytes: 0 }, GIB),
      BLOCK,
    );
    await fails("EINVAL", posix.copyFileRange({ fd: from, offsetBytes: 0 }, { fd: from, offsetBytes: 10 }, 100));
    await posix.close(from);
    await posix.close(to);
  },

  "copy_file_range fails as it should": async (t) => {
    await same(t, "copy errors", async (posix) => {
      await put(posix, "a", "0123456789");
      await put(posix, "b", "");
      await posix.mkdir("d");
      const fds = {
        read: await posix.open("a", O.RDONLY),
        write: await posix.open("b", O.WRONLY),
        append: await posix.open("b", O.WRONLY | O.APPEND),
        directory: await posix.open("d", O.RDONLY | O.DIRECTORY),
      };
      const results = [];
      for (const [from, source] of Object.entries(fds)) {
        for (const [to, target] of Object.entries(fds)) {
          const copy = posix.copyFileRange({ fd: source, offsetBytes: 0 }, { fd: target, offsetBytes: 0 }, 4);
          results.push([from, to, await outcome(copy)]);
        }
      }
      for (const fd of Object.values(fds)) await posix.close(fd);
      return results;
    });
  },

  "a sparse file beyond 4 GiB is written and read at every power of two": async (t) => {
    await same(t, "sparse", async (posix) => {
      return withFd(posix, "f", O.RDWR | O.CREAT, async (fd) => {
        const offsets = [2 ** 31 - 2, 2 ** 31 + 5, 2 ** 32 - 2, 2 ** 32 + 5, 5 * GIB, 2 ** 40, 2 ** 43 + 1];
        for (const at of offsets) assert.equal(await posix.pwrite(fd, Buffer.from(`@${at}`), at), `@${at}`.length);
        const back = [];
        for (const at of offsets) back.push((await posix.pread(fd, 16, at)).toString());
        await posix.fsync(fd);
        const attr = await posix.fstat(fd);
        const found = await extents(posix, fd);
        await posix.ftruncate(fd, 2 ** 32 + 8);
        return [back, attr.sizeBytes, attr.blocks, found, (await posix.pread(fd, 100, 2 ** 32)).toString("latin1")];
      });
    });
  },

  "sizes no file can have are EFBIG or EINVAL": async (t) => {
    await same(t, "too big", async (posix) => {
      await put(posix, "f", "x");
      return withFd(posix, "f", O.RDWR, async (fd) => [
        await outcome(posix.ftruncate(fd, 2 ** 62)),
        await outcome(posix.truncate("f", 2 ** 62)),
        await outcome(posix.pwrite(fd, Buffer.from("x"), 2 ** 62)),
        await outcome(posix.fallocate(fd, 0, 2 ** 62, 10)),
        (await posix.fstat(fd)).sizeBytes,
      ]);
    });
  },
};
