import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { closeSync, fstatSync, openSync, readFileSync, statSync, truncateSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { silentLog } from "../../src/base/log.ts";
import { createDisk } from "../../src/disk/disk.ts";
import { dropPages } from "../../src/sys/syscalls.ts";
import { FallocateMode, type HandleId, OpenFlag, WRITEV_BUFFERS_MAX } from "../../src/vfs/file-system.ts";
import { asRoot, mode, n, READ_WRITE, refused, type ScratchDisk, scratchDisk } from "../support/scratch-disk.ts";
import { makeTemp } from "../support/temp.ts";

async function openNew(scratch: ScratchDisk, flags = READ_WRITE): Promise<HandleId> {
  const { opened } = await scratch.disk.create(asRoot, scratch.root, n("f"), flags, mode(0o644));
  return opened.handle;
}

/** Bytes that differ from place to place, so that a piece in the wrong place is seen. */
function pattern(bytes: number): Buffer {
  return Buffer.from(Uint32Array.from({ length: bytes / 4 }, (_, index) => index * 2654435761).buffer);
}

test("what was written is read, and reading is short only at the end", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await openNew(scratch);
  const data = pattern(3 << 20);
  assert.equal(await disk.write(asRoot, handle, 5, data), data.length);
  const target = Buffer.alloc(data.length + 10);
  assert.equal(await disk.read(asRoot, handle, 5, target), data.length);
  assert.ok(target.subarray(0, data.length).equals(data));
  assert.equal(await disk.read(asRoot, handle, 0, target.subarray(0, 5)), 5);
  assert.deepEqual(target.subarray(0, 5), Buffer.alloc(5));
  assert.equal(await disk.read(asRoot, handle, data.length + 5, target), 0);
  assert.equal(await disk.read(asRoot, handle, data.length, target), 5);
  assert.equal(await disk.read(asRoot, handle, 2 ** 62, target), 0);
  assert.equal(await disk.read(asRoot, handle, 0, Buffer.alloc(0)), 0);
  assert.equal(await disk.write(asRoot, handle, 0, Buffer.alloc(0)), 0);
  await disk.release(asRoot, handle);
});

/** Cuts `data` at these places. */
function cut(data: Buffer, ...places: number[]): Buffer[] {
  return [0, ...places].map((place, index) => data.subarray(place, places[index] ?? data.length));
}

test("several buffers are written one after the other, empty ones among them", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await openNew(scratch);
  const data = pattern(1 << 20);
  const writev = disk.writev?.bind(disk);
  assert.ok(writev !== undefined);
  const pieces = cut(data, 0, 1, 4096, 5000, 5000, 70_000, 70_001);
  assert.equal(pieces.length, WRITEV_BUFFERS_MAX);
  assert.equal(await writev(asRoot, handle, 3, pieces), data.length);
  assert.ok(readFileSync(scratch.at("f")).subarray(3).equals(data));
  assert.equal(await writev(asRoot, handle, 1, [Buffer.from("one")]), 3);
  assert.equal(await writev(asRoot, handle, 0, [Buffer.alloc(0), Buffer.alloc(0)]), 0);
  assert.ok(readFileSync(scratch.at("f")).subarray(4).equals(data.subarray(1)));
  await refused("EINVAL", writev(asRoot, handle, 0, []));
  await refused("EINVAL", writev(asRoot, handle, 0, new Array(WRITEV_BUFFERS_MAX + 1).fill(Buffer.alloc(1))));
  await refused("EFBIG", writev(asRoot, handle, 2 ** 62, cut(data, 10)));
  await disk.release(asRoot, handle);
  await refused("EBADF", writev(asRoot, handle, 0, pieces));
});

test("several buffers are one system call", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await openNew(scratch);
  const pieces = cut(Buffer.alloc(800, 7), 100, 200, 300, 400, 500, 600, 700);
  const calls = () => Number(/syscw: (\d+)/.exec(readFileSync("/proc/self/io", "latin1"))?.[1]);
  const before = calls();
  for (let round = 0; round < 100; round += 1) await disk.writev?.(asRoot, handle, round * 800, pieces);
  // Waking the JavaScript thread is a write as well, of an eventfd.
  assert.ok(calls() - before < 100 * 4, `${calls() - before} write calls`);
  assert.equal(statSync(scratch.at("f")).size, 80_000);
  await disk.release(asRoot, handle);
});

test("a full disk takes as much of several buffers as fits, wherever that ends", async () => {
  const temp = makeTemp("full");
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=64k", "none", temp.path]);
  try {
    const disk = await createDisk({ directory: temp.path, applyCredentials: true, log: silentLog });
    const { id } = await disk.root(asRoot);
    const { opened } = await disk.create(asRoot, id, n("f"), READ_WRITE, mode(0o644));
    const data = pattern(100_000);
    for (const places of [[10_000], [65_535], [65_536], [65_537], [1000, 40_000, 65_536, 65_540, 90_000]]) {
      assert.equal(await disk.writev?.(asRoot, opened.handle, 0, cut(data, ...places)), 65_536);
      assert.ok(readFileSync(join(temp.path, "f")).equals(data.subarray(0, 65_536)));
      await refused("ENOSPC", disk.writev?.(asRoot, opened.handle, 65_536, cut(data, ...places)) as Promise<number>);
      await disk.setattr(asRoot, id, { sizeBytes: 0 }, opened.handle);
    }
    await disk.release(asRoot, opened.handle);
    await disk.close();
  } finally {
    execFileSync("umount", ["-l", temp.path]);
    await temp.remove();
  }
});

test("what is not in the page cache is read as well, by the workers", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await openNew(scratch);
  const data = pattern(8 << 20);
  await disk.write(asRoot, handle, 0, data);
  await disk.fsync(asRoot, handle, false);
  const beside = openSync(scratch.at("f"), "r");
  dropPages(beside);
  closeSync(beside);
  const reads = Array.from({ length: 64 }, async (_, index) => {
    const target = Buffer.alloc(131072);
    assert.equal(await disk.read(asRoot, handle, index * 131072, target), 131072);
    assert.ok(target.equals(data.subarray(index * 131072, (index + 1) * 131072)));
  });
  await Promise.all(reads);
  await disk.release(asRoot, handle);
});

test("opens to append write at the end, wherever they are told to", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  await scratch.file("f", "12345");
  const one = await openNew(scratch, READ_WRITE | OpenFlag.APPEND);
  const two = await openNew(scratch, OpenFlag.WRITE | OpenFlag.APPEND);
  const writes = Array.from({ length: 100 }, (_, index) =>
    disk.write(asRoot, index % 2 ? one : two, 0, Buffer.from(String(index).padStart(4))),
  );
  await Promise.all(writes);
  const content = readFileSync(scratch.at("f"), "latin1");
  assert.equal(content.length, 405);
  assert.deepEqual(
    new Set(content.slice(5).match(/.{4}/g)),
    new Set(Array.from({ length: 100 }, (_, index) => String(index).padStart(4))),
  );
  for (const handle of [one, two]) await disk.release(asRoot, handle);
});

test("access to an open is what it was opened for", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const id = await scratch.file("f", "abc");
  const reads = (await disk.open(asRoot, id, OpenFlag.READ)).handle;
  const writes = (await disk.open(asRoot, id, OpenFlag.WRITE)).handle;
  const target = Buffer.alloc(3);
  await refused("EBADF", disk.write(asRoot, reads, 0, target));
  await refused("EBADF", disk.read(asRoot, writes, 0, target));
  await refused("EINVAL", disk.setattr(asRoot, id, { sizeBytes: 0 }, reads));
  await refused("EBADF", disk.fallocate(asRoot, reads, 0, 0, 10));
  await refused(
    "EBADF",
    disk.copyFileRange(asRoot, { handle: writes, offsetBytes: 0 }, { handle: reads, offsetBytes: 0 }, 1),
  );
  for (const handle of [reads, writes]) await disk.release(asRoot, handle);
  const directory = await disk.opendir(asRoot, scratch.root);
  await refused("EISDIR", disk.read(asRoot, directory, 0, target));
  await refused("EBADF", disk.write(asRoot, directory, 0, target));
  await disk.fsyncdir(asRoot, directory, false);
  await disk.releasedir(asRoot, directory);
});

test("released and made-up handles are bad in every operation", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const handle = await openNew(scratch);
  await disk.release(asRoot, handle);
  for (const bad of [handle, 0, 1, 0xffffffff, -1, 1.5, Number.NaN] as HandleId[]) {
    const target = { handle: bad, offsetBytes: 0 };
    await refused("EBADF", disk.read(asRoot, bad, 0, Buffer.alloc(1)));
    await refused("EBADF", disk.write(asRoot, bad, 0, Buffer.alloc(1)));
    await refused("EBADF", disk.flush(asRoot, bad));
    await refused("EBADF", disk.fsync(asRoot, bad, true));
    await refused("EBADF", disk.fallocate(asRoot, bad, 0, 0, 1));
    await refused("EBADF", disk.lseek(asRoot, bad, 0, "data"));
    await refused("EBADF", disk.copyFileRange(asRoot, target, target, 1));
    await refused("EBADF", disk.readdir(asRoot, bad, 0n, 4096, true));
    await refused("EBADF", disk.fsyncdir(asRoot, bad, true));
    await refused("EBADF", disk.release(asRoot, bad));
    await refused("EBADF", disk.releasedir(asRoot, bad));
  }
  await refused("EBADF", disk.getattr(asRoot, root, handle));
  await refused("EBADF", disk.setattr(asRoot, root, { mode: 0 }, handle));
});

test("positions that are none are refused, and those beyond every disk get the kernel's answer", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const handle = await openNew(scratch);
  const byte = Buffer.alloc(1);
  for (const bad of [-1, 1.5, Number.NaN, Number.POSITIVE_INFINITY]) {
    await refused("EINVAL", disk.read(asRoot, handle, bad, byte));
    await refused("EINVAL", disk.write(asRoot, handle, bad, byte));
    await refused("EINVAL", disk.lseek(asRoot, handle, bad, "hole"));
    await refused("EINVAL", disk.fallocate(asRoot, handle, 0, 0, bad));
    await refused("EINVAL", disk.setattr(asRoot, root, { sizeBytes: bad }, handle));
  }
  await refused("EFBIG", disk.write(asRoot, handle, 2 ** 62, byte));
  await refused("EFBIG", disk.setattr(asRoot, root, { sizeBytes: 2 ** 62 }, handle));
  await refused("EFBIG", disk.fallocate(asRoot, handle, 0, 2 ** 62, 1));
  for (const far of [2 ** 53 + 2, 2 ** 62, 2 ** 63, 2 ** 64]) {
    await refused("EFBIG", disk.setattr(asRoot, root, { sizeBytes: far }, handle));
    await refused("ENXIO", disk.lseek(asRoot, handle, far, "data"));
    await refused("ENXIO", disk.lseek(asRoot, handle, far, "hole"));
  }
  await disk.release(asRoot, handle);
});

test("files larger than 4 GiB have holes, which are found", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await openNew(scratch);
  const far = 5 * 2 ** 30;
  await disk.write(asRoot, handle, far, Buffer.from("end"));
  await disk.write(asRoot, handle, 0, Buffer.alloc(4096, 1));
  assert.equal((await disk.getattr(asRoot, scratch.root, handle)).sizeBytes, far + 3);
  assert.ok((await disk.getattr(asRoot, scratch.root, handle)).blocks < 1000);
  assert.equal(await disk.lseek(asRoot, handle, 0, "data"), 0);
  assert.equal(await disk.lseek(asRoot, handle, 0, "hole"), 4096);
  assert.equal(await disk.lseek(asRoot, handle, 4096, "data"), far);
  assert.equal(await disk.lseek(asRoot, handle, far, "hole"), far + 3);
  await refused("ENXIO", disk.lseek(asRoot, handle, far + 3, "data"));
  const target = Buffer.alloc(3);
  await disk.read(asRoot, handle, far, target);
  assert.equal(target.toString(), "end");
  await disk.release(asRoot, handle);
});

test("fallocate does all that the disk can, and says what it cannot", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await openNew(scratch);
  const size = async () => (await disk.getattr(asRoot, scratch.root, handle)).sizeBytes;
  await disk.fallocate(asRoot, handle, FallocateMode.KEEP_SIZE, 0, 65536);
  assert.equal(await size(), 0);
  await disk.fallocate(asRoot, handle, 0, 0, 65536);
  assert.equal(await size(), 65536);
  await disk.write(asRoot, handle, 0, Buffer.alloc(65536, 7));
  await disk.fallocate(asRoot, handle, FallocateMode.PUNCH_HOLE | FallocateMode.KEEP_SIZE, 4096, 4096);
  await disk.fallocate(asRoot, handle, FallocateMode.ZERO_RANGE, 100, 100);
  await disk.fallocate(asRoot, handle, FallocateMode.COLLAPSE_RANGE, 8192, 4096);
  await disk.fallocate(asRoot, handle, FallocateMode.INSERT_RANGE, 0, 4096);
  assert.equal(await size(), 65536);
  const expected = Buffer.alloc(65536, 7).fill(0, 0, 4096).fill(0, 4196, 4296).fill(0, 8192, 12288);
  assert.ok((await scratch.content(handle)).equals(expected));
  await refused("EINVAL", disk.fallocate(asRoot, handle, 0, 0, 0));
  await refused("EOPNOTSUPP", disk.fallocate(asRoot, handle, 0x400, 0, 1));
  await refused("EINVAL", disk.fallocate(asRoot, handle, FallocateMode.COLLAPSE_RANGE, 1, 4096));
  await disk.release(asRoot, handle);
});

test("copyFileRange copies on the disk, within a file and between files", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const data = pattern(1 << 20);
  const from = (await disk.create(asRoot, root, n("a"), READ_WRITE, mode(0o644))).opened.handle;
  const to = (await disk.create(asRoot, root, n("b"), READ_WRITE, mode(0o644))).opened.handle;
  await disk.write(asRoot, from, 0, data);
  let done = 0;
  while (done < data.length) {
    const source = { handle: from, offsetBytes: done };
    const copied = await disk.copyFileRange(asRoot, source, { handle: to, offsetBytes: 3 + done }, data.length - done);
    assert.ok(copied > 0);
    done += copied;
  }
  assert.ok((await scratch.content(to)).subarray(3).equals(data));
  const start = { handle: from, offsetBytes: 0 };
  await refused("EINVAL", disk.copyFileRange(asRoot, start, { handle: from, offsetBytes: 10 }, 100));
  assert.equal(
    await disk.copyFileRange(asRoot, { handle: from, offsetBytes: data.length }, { handle: to, offsetBytes: 0 }, 5),
    0,
  );
  for (const handle of [from, to]) await disk.release(asRoot, handle);
});

test("opening to truncate truncates, and sync flags, flush, fsync and syncfs succeed", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const id = await scratch.file("f", "content");
  const { handle, attr } = await disk.open(asRoot, id, READ_WRITE | OpenFlag.TRUNC | OpenFlag.SYNC | OpenFlag.NOATIME);
  assert.equal(attr.sizeBytes, 0);
  const second = (await disk.open(asRoot, id, OpenFlag.WRITE | OpenFlag.DSYNC | OpenFlag.DIRECT)).handle;
  await disk.write(asRoot, handle, 0, Buffer.from("x"));
  await disk.write(asRoot, second, 1, Buffer.from("y"));
  await disk.flush(asRoot, handle);
  // Temporary files are on a disk of this machine, where that has done nothing.
  assert.equal(disk.isFlushless, true);
  await disk.fsync(asRoot, handle, false);
  await disk.fsync(asRoot, handle, true);
  await disk.syncfs(asRoot, scratch.root);
  for (const open of [handle, second]) await disk.release(asRoot, open);
  assert.equal(readFileSync(scratch.at("f"), "utf8"), "xy");
});

test("a file that lost its name works through its open, with every operation on it", async () => {
  await using scratch = await scratchDisk({ limits: { nodeDescriptorsMax: 1 } });
  const { disk, root } = scratch;
  const { entry, opened } = await disk.create(asRoot, root, n("f"), READ_WRITE, mode(0o644));
  const { handle } = opened;
  // Two opens, and the node's own descriptor gone.
  const second = await disk.open(asRoot, entry.id, OpenFlag.READ);
  await disk.unlink(asRoot, root, n("f"));
  for (let index = 0; index < 4; index++) await scratch.directory(`d${index}`);
  await disk.write(asRoot, handle, 0, Buffer.from("abcdef"));
  await disk.fallocate(asRoot, handle, 0, 0, 100);
  await disk.fsync(asRoot, handle, false);
  assert.equal((await disk.setattr(asRoot, entry.id, { sizeBytes: 3, mode: 0o600 }, handle)).sizeBytes, 3);
  assert.equal((await disk.setattr(asRoot, entry.id, { uid: 5, mtime: { sec: 7, nsec: 9 } })).mtimeNsec, 9);
  assert.equal((await disk.getattr(asRoot, entry.id, second.handle)).uid, 5);
  assert.equal((await disk.getattr(asRoot, entry.id)).nlink, 0);
  await disk.setxattr(asRoot, entry.id, n("user.x"), Buffer.from("v"), 0);
  assert.equal((await disk.getxattr(asRoot, entry.id, n("user.x"))).toString(), "v");
  const third = await disk.open(asRoot, entry.id, OpenFlag.READ);
  assert.equal((await scratch.content(third.handle)).toString(), "abc");
  await refused("ENOENT", disk.link(asRoot, entry.id, root, n("again")));
  for (const open of [opened, second, third]) await disk.release(asRoot, open.handle);
  await refused("ESTALE", disk.getattr(asRoot, entry.id));
  await refused("ESTALE", disk.open(asRoot, entry.id, OpenFlag.READ));
});

test("a file changed beside the disk is seen as it is", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const id = await scratch.file("f", "0123456789");
  const { handle } = await disk.open(asRoot, id, READ_WRITE);
  truncateSync(scratch.at("f"), 4);
  assert.equal(await disk.read(asRoot, handle, 0, Buffer.alloc(10)), 4);
  assert.equal((await disk.getattr(asRoot, id)).sizeBytes, 4);
  const beside = openSync(scratch.at("f"), "r");
  await disk.setattr(asRoot, id, { sizeBytes: 8 });
  assert.equal(fstatSync(beside).size, 8);
  closeSync(beside);
  await disk.release(asRoot, handle);
  assert.equal(statSync(scratch.at("f")).size, 8);
});
