/** Nodes found again by another process: a disk that was closed and opened anew stands for a server that was killed. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import fc from "fast-check";
import { FsError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import { createDisk, type Disk, type DiskOptions } from "../../src/disk/disk.ts";
import { type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { NODE_RECORD_BYTES_MAX } from "../../src/vfs/recovery.ts";
import { shell } from "../support/child.ts";
import { as, asRoot, mode, n, READ_WRITE, refused, type ScratchDisk, scratchDisk } from "../support/scratch-disk.ts";
import { seeded } from "../support/seed.ts";
import { makeTemp } from "../support/temp.ts";

/** A new disk over the same directory. */
async function another(path: string, options: Partial<DiskOptions> = {}): Promise<Disk & AsyncDisposable> {
  const disk = await createDisk({ directory: path, applyCredentials: true, log: silentLog, ...options });
  return Object.assign(disk, { [Symbol.asyncDispose]: () => disk.close() });
}

/** Opens a file and describes it. */
async function described(scratch: ScratchDisk, id: NodeId, flags: number = OpenFlag.READ): Promise<Buffer> {
  const { handle } = await scratch.disk.open(asRoot, id, flags);
  const record = scratch.disk.recovery?.describe(handle) as Buffer;
  await scratch.disk.release(asRoot, handle);
  return record;
}

const recovery = (disk: Disk) => disk.recovery as NonNullable<Disk["recovery"]>;

/** A file in three directories, by their ids. */
async function deepFile(scratch: ScratchDisk): Promise<{ id: NodeId; directories: NodeId[] }> {
  const { disk, root } = scratch;
  const directories: NodeId[] = [];
  for (const name of ["a", "b", "c"]) {
    directories.push((await disk.mkdir(asRoot, directories.at(-1) ?? root, n(name), mode(0o755))).id);
  }
  const { entry, opened } = await disk.create(asRoot, directories[2] as NodeId, n("f"), READ_WRITE, mode(0o644));
  await disk.write(asRoot, opened.handle, 0, Buffer.from("deep"));
  await disk.release(asRoot, opened.handle);
  return { id: entry.id, directories };
}

async function contentOf(disk: Disk, id: NodeId): Promise<string> {
  const { handle, attr } = await disk.open(asRoot, id, OpenFlag.READ);
  const target = Buffer.alloc(attr.sizeBytes);
  await disk.read(asRoot, handle, 0, target);
  await disk.release(asRoot, handle);
  return target.toString();
}

for (const options of [{}, { withoutOpenat2: true }]) {
  test(`files and directories are found where they were, under their ids ${JSON.stringify(options)}`, async () => {
    await using scratch = await scratchDisk();
    const { disk, root } = scratch;
    const top = await scratch.file("top", "1");
    const odd = await scratch.file("line\nbreak \\ (deleted)", "2");
    const long = await scratch.file("n".repeat(255), "3");
    const deep = await deepFile(scratch);
    const records = new Map<NodeId, Buffer>();
    for (const id of [top, odd, long, deep.id]) records.set(id, await described(scratch, id));
    for (const id of [root, ...deep.directories]) {
      const handle = await disk.opendir(asRoot, id);
      records.set(id, recovery(disk).describe(handle));
      await disk.releasedir(asRoot, handle);
    }
    await using next = await another(scratch.path, options);
    for (const [id, record] of records) {
      assert.ok(record.length <= NODE_RECORD_BYTES_MAX);
      assert.equal((await recovery(next).recall(as(1000), record)).id, id);
      assert.deepEqual(recovery(disk).describeNode(id), record);
    }
    assert.equal(await contentOf(next, deep.id), "deep");
    assert.deepEqual(await next.lookup(asRoot, deep.directories[2] as NodeId, n("f")), {
      id: deep.id,
      attr: await next.getattr(asRoot, deep.id),
    });
    await refused("ESTALE", (async () => recovery(disk).describeNode("x" as NodeId))());
    await refused("ESTALE", (async () => recovery(next).describeNode("no such node 16" as NodeId))());
    await refused("EBADF", (async () => recovery(disk).describe(12_345 as HandleId))());
  });
}

test("a file that was renamed, or whose directory was, is found, also after it was described", async () => {
  await using scratch = await scratchDisk();
  const { id } = await deepFile(scratch);
  const record = await described(scratch, id);
  const moves: [from: string, to: string, file: string][] = [
    ["a/b/c/f", "a/b/c/g", "a/b/c/g"],
    ["a/b/c/g", "moved", "moved"],
    ["moved", "a/b/moved", "a/b/moved"],
    ["a/b", "b", "b/moved"],
    ["b", "a/x", "a/x/moved"],
  ];
  for (const [from, to, file] of moves) {
    renameSync(scratch.at(from), scratch.at(to));
    await using next = await another(scratch.path);
    const entry = await recovery(next).recall(asRoot, record);
    assert.equal(entry.id, id, `${from} to ${to}`);
    assert.equal(await contentOf(next, id), "deep");
    // With a new record it need not be searched for.
    const { handle } = await next.open(asRoot, id, OpenFlag.READ);
    const again = recovery(next).describe(handle);
    assert.ok(again.includes(file));
    await next.release(asRoot, handle);
  }
});

test("a file that was moved is found also when the kernel has forgotten where to", async () => {
  await using temp = makeTemp();
  const image = join(temp.path, "image");
  const mounted = join(temp.path, "mounted");
  mkdirSync(mounted);
  const again = () => shell(`umount '${mounted}'; mount -o loop '${image}' '${mounted}'`);
  await shell(`truncate -s 16M '${image}' && mkfs.ext4 -q '${image}' && mount -o loop '${image}' '${mounted}'`);
  try {
    mkdirSync(join(mounted, "share/a/b"), { recursive: true });
    writeFileSync(join(mounted, "share/a/b/f"), "moved");
    writeFileSync(join(mounted, "share/out"), "out");
    const share = join(mounted, "share");
    const records: Buffer[] = [];
    {
      await using disk = await another(share);
      const { id: root } = await disk.root(asRoot);
      const { id: a } = await disk.lookup(asRoot, root, n("a"));
      const { id: b } = await disk.lookup(asRoot, a, n("b"));
      for (const [parent, name] of [
        [b, "f"],
        [root, "out"],
      ] as const) {
        const { id } = await disk.lookup(asRoot, parent, n(name));
        const { handle } = await disk.open(asRoot, id, OpenFlag.READ);
        records.push(recovery(disk).describe(handle));
      }
    }
    mkdirSync(join(share, "x/y"), { recursive: true });
    renameSync(join(share, "a/b/f"), join(share, "x/y/g"));
    renameSync(join(share, "out"), join(mounted, "out"));
    await again();
    await using disk = await another(share);
    const { id } = await recovery(disk).recall(asRoot, records[0] as Buffer);
    assert.equal(await contentOf(disk, id), "moved");
    await refused("ESTALE", recovery(disk).recall(asRoot, records[1] as Buffer));
  } finally {
    await shell(`umount '${mounted}'`);
  }
});

test("what is deleted, replaced, or no longer below the directory is not found", async () => {
  await using scratch = await scratchDisk();
  await using outside = makeTemp();
  const deleted = await described(scratch, await scratch.file("deleted", "1"));
  const replaced = await described(scratch, await scratch.file("replaced", "2"));
  const left = await described(scratch, await scratch.file("left", "3"));
  const { id, directories } = await deepFile(scratch);
  const inside = await described(scratch, id);
  unlinkSync(scratch.at("deleted"));
  writeFileSync(scratch.at("new"), "other");
  renameSync(scratch.at("new"), scratch.at("replaced"));
  renameSync(scratch.at("left"), join(outside.path, "left"));
  renameSync(scratch.at("a"), join(outside.path, "a"));
  mkdirSync(scratch.at("a"));
  await using next = await another(scratch.path);
  await refused("ESTALE", recovery(next).recall(asRoot, deleted));
  await refused("ESTALE", recovery(next).recall(asRoot, replaced));
  await refused("ESTALE", recovery(next).recall(asRoot, left));
  await refused("ESTALE", recovery(next).recall(asRoot, inside));
  for (const gone of [id, ...directories]) await refused("ESTALE", next.getattr(asRoot, gone));
});

test("a way that leads through a symbolic link, or out of the directory, is not gone", async () => {
  await using scratch = await scratchDisk({});
  const { id } = await deepFile(scratch);
  const record = await described(scratch, id);
  renameSync(scratch.at("a"), scratch.at("real"));
  symlinkSync("real", scratch.at("a"));
  const path = Buffer.from("a/b/c/f");
  const at = record.indexOf(path);
  assert.ok(at > 0);
  const withPath = (text: string) => {
    const changed = Buffer.concat([record.subarray(0, at - 2), Buffer.alloc(2), Buffer.from(text)]);
    changed.writeUInt16LE(text.length, at - 2);
    // Without a file handle only the path is left.
    const handleBytes = changed.readUInt16LE(17);
    const bare = Buffer.concat([changed.subarray(0, 17), Buffer.alloc(2), changed.subarray(19 + handleBytes)]);
    return bare;
  };
  await using next = await another(scratch.path);
  assert.equal((await recovery(next).recall(asRoot, withPath("real/b/c/f"))).id, id);
  const up = `../${scratch.path.split("/").at(-1)}/real/b/c/f`;
  for (const wrong of [
    "a/b/c/f",
    up,
    "real/./b/c/f",
    "real/b/../b/c/f",
    "/real/b/c/f",
    "real//b/c/f",
    "real/b/c/f/",
    "x",
  ]) {
    await assert.rejects(recovery(next).recall(asRoot, withPath(wrong)), FsError, wrong);
  }
  await refused("ESTALE", recovery(next).recall(asRoot, withPath("")));
  await refused("ESTALE", recovery(next).recall(asRoot, withPath("real/b/c")));
});

test("bytes that are no record are refused", async (t) => {
  await using scratch = await scratchDisk();
  const record = await described(scratch, await scratch.file("f", "1"));
  const noise = fc.uint8Array({ maxLength: 100 }).map((array) => Buffer.from(array));
  const change = fc.record({ at: fc.nat(), to: fc.nat({ max: 255 }) });
  for (let length = 0; length < record.length; length += 1) {
    await refused("EINVAL", recovery(scratch.disk).recall(asRoot, record.subarray(0, length)));
  }
  await refused("EINVAL", recovery(scratch.disk).recall(asRoot, Buffer.concat([record, Buffer.alloc(1)])));
  await fc.assert(
    fc.asyncProperty(noise, change, async (bytes, { at, to }) => {
      const mutated = Buffer.from(record);
      mutated[at % record.length] = to;
      for (const wrong of [bytes, mutated]) {
        await recovery(scratch.disk)
          .recall(asRoot, wrong)
          .catch((error: unknown) => assert.ok(error instanceof FsError, String(error)));
      }
    }),
    seeded(t, 500),
  );
});

test("a file opens again as it was opened, whatever its mode is now, and is not truncated again", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const alice = as(1000);
  const flags = READ_WRITE | OpenFlag.TRUNC | OpenFlag.EXCL | OpenFlag.APPEND;
  const { entry, opened } = await disk.create(alice, root, n("f"), flags, mode(0o600));
  await disk.write(alice, opened.handle, 0, Buffer.from("kept"));
  const record = recovery(disk).describe(opened.handle);
  await disk.setattr(alice, entry.id, { mode: 0o400 });
  await using next = await another(scratch.path);
  const { id } = await recovery(next).recall(asRoot, record);
  await refused("EACCES", next.open(alice, id, READ_WRITE));
  const again = await recovery(next).reopen(alice, id, flags);
  assert.equal(again.attr.sizeBytes, 4);
  await next.write(alice, again.handle, 0, Buffer.from(", and more"));
  await next.release(alice, again.handle);
  await disk.release(alice, opened.handle);
  assert.equal(readFileSync(scratch.at("f"), "utf8"), "kept, and more");
  assert.equal(statSync(scratch.at("f")).mode & 0o777, 0o400);
  rmSync(scratch.at("f"));
  await refused("ESTALE", recovery(next).reopen(alice, id, flags));
});

test("every kind of node can be synced, also one that is gone, and one that its server may not read", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const { id: directory } = await disk.mkdir(asRoot, root, n("d"), mode(0o755));
  const { entry, opened } = await disk.create(asRoot, directory, n("f"), READ_WRITE, mode(0o000));
  const { id: link } = await disk.symlink(asRoot, directory, n("l"), Buffer.from("elsewhere"));
  const pipe = { ...mode(0o010644), rdevMajor: 0, rdevMinor: 0 };
  const { id: fifo } = await disk.mknod(asRoot, directory, n("p"), pipe);
  for (const id of [root, directory, entry.id, link, fifo]) await recovery(disk).syncNode(asRoot, id);
  await disk.release(asRoot, opened.handle);
  rmSync(scratch.at("d"), { recursive: true });
  for (const id of [directory, link]) await recovery(disk).syncNode(asRoot, id);
});
