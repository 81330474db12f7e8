import assert from "node:assert/strict";
import { mkdirSync, renameSync, rmdirSync, rmSync, statfsSync, unlinkSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { type Entry, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { asRoot, mode, n, READ_WRITE, refused, type ScratchDisk, scratchDisk } from "../support/scratch-disk.ts";

/** A tree of `width` directories in each of `depth` levels, breadth first, each with a file `f` that holds the directory's id. */
async function tree(scratch: ScratchDisk, depth: number, width: number): Promise<Entry[]> {
  let level: NodeId[] = [scratch.root];
  const files: Entry[] = [];
  for (let at = 0; at < depth; at++) {
    const next: NodeId[] = [];
    for (const parent of level)
      for (let index = 0; index < width; index++) {
        const { id } = await scratch.disk.mkdir(asRoot, parent, n(`d${index}`), mode(0o755));
        const file = await scratch.disk.create(asRoot, id, n("f"), READ_WRITE, mode(0o644));
        await scratch.disk.write(asRoot, file.opened.handle, 0, Buffer.from(id, "latin1"));
        await scratch.disk.release(asRoot, file.opened.handle);
        files.push({ id: file.entry.id, attr: file.entry.attr });
        next.push(id);
      }
    level = next;
  }
  return files;
}

test("no id is used again, however fast files come and go", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const seen = new Set<NodeId>();
  const inodes = new Set<number>();
  for (let index = 0; index < 3000; index++) {
    const { entry, opened } = await disk.create(asRoot, root, n("f"), READ_WRITE | OpenFlag.EXCL, mode(0o644));
    await disk.release(asRoot, opened.handle);
    await disk.unlink(asRoot, root, n("f"));
    assert.ok(!seen.has(entry.id));
    seen.add(entry.id);
    inodes.add(entry.attr.inoLow);
  }
  // What makes it a test: the disk does use inode numbers again, of which others on it take some.
  assert.ok(inodes.size < 2900, `${inodes.size} inode numbers`);
});

test("with a budget of few descriptors every node of a large tree is found again", async () => {
  await using scratch = await scratchDisk({ limits: { nodeDescriptorsMax: 3 } });
  const { disk } = scratch;
  const files = await tree(scratch, 4, 3);
  assert.ok(disk.counters().nodeDescriptors <= 4);
  await Promise.all(
    files.map(async ({ id }) => {
      const { handle } = await disk.open(asRoot, id, OpenFlag.READ);
      assert.equal((await scratch.content(handle)).length, 16);
      await disk.release(asRoot, handle);
    }),
  );
  // And through their directories, by the ids the files hold.
  for (const { id } of files.slice(-5)) {
    const { handle } = await disk.open(asRoot, id, OpenFlag.READ);
    const directory = (await scratch.content(handle)).toString("latin1") as NodeId;
    await disk.release(asRoot, handle);
    assert.equal((await disk.lookup(asRoot, directory, n("f"))).id, id);
  }
});

test("a node whose descriptor was closed is found after it was moved, here and beside the disk", async () => {
  await using scratch = await scratchDisk({ limits: { nodeDescriptorsMax: 1 } });
  const { disk, root } = scratch;
  const file = await scratch.file("f", "x");
  const first = await scratch.directory("a");
  const second = await scratch.directory("b");
  await disk.rename(asRoot, root, n("f"), first, n("g"), 0);
  await disk.rename(asRoot, root, n("a"), second, n("c"), 0);
  assert.equal((await disk.getattr(asRoot, file)).sizeBytes, 1);
  renameSync(scratch.at("b", "c", "g"), scratch.at("h"));
  await scratch.directory("other");
  assert.equal((await disk.getattr(asRoot, file)).sizeBytes, 1);
});

test("an id stays stale when another file has taken the name and the number", async () => {
  await using scratch = await scratchDisk({ limits: { nodeDescriptorsMax: 1 } });
  const { disk } = scratch;
  const old = await scratch.file("f", "old");
  await scratch.directory("evicts");
  unlinkSync(scratch.at("f"));
  writeFileSync(scratch.at("f"), "new");
  await refused("ESTALE", disk.open(asRoot, old, OpenFlag.READ));
  await refused("ESTALE", disk.getattr(asRoot, old));
  await refused("ESTALE", disk.setattr(asRoot, old, { mode: 0 }));
  assert.notEqual((await disk.lookup(asRoot, scratch.root, n("f"))).id, old);
});

test("what was deleted beside the disk is stale, also while its descriptor is held", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const file = await scratch.file("f");
  const directory = await scratch.directory("d");
  unlinkSync(scratch.at("f"));
  rmdirSync(scratch.at("d"));
  await refused("ESTALE", disk.getattr(asRoot, file));
  await refused("ESTALE", disk.getattr(asRoot, directory));
  await refused("ESTALE", disk.opendir(asRoot, directory));
  await refused("ESTALE", disk.getxattr(asRoot, file, n("user.x")));
});

test("blocks of files deleted here are freed at once, and of those deleted beside the disk by the sweep", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const size = 64 << 20;
  const free = () => statfsSync(scratch.path).bfree * statfsSync(scratch.path).bsize;
  for (const beside of [false, true]) {
    const { entry, opened } = await disk.create(asRoot, root, n("big"), READ_WRITE, mode(0o644));
    await disk.fallocate(asRoot, opened.handle, 0, 0, size);
    await disk.release(asRoot, opened.handle);
    await disk.getattr(asRoot, (await disk.lookup(asRoot, root, n("big"))).id);
    const before = disk.counters().nodeDescriptors;
    const full = free();
    if (beside) unlinkSync(scratch.at("big"));
    else await disk.unlink(asRoot, root, n("big"));
    if (beside) await disk.sweep(asRoot);
    assert.equal(disk.counters().nodeDescriptors, before - 1);
    // The descriptor is closed by a worker; other tests may use the disk meanwhile, but not give back this much.
    while (disk.counters().closing > 0) await disk.statfs(asRoot, root);
    assert.ok(free() > full + size / 2);
    await refused("ESTALE", disk.getattr(asRoot, entry.id));
  }
});

test("a sweep finds all that is gone among many nodes, while they are used", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const names = Array.from({ length: 700 }, (_, index) => `f${index}`);
  for (const name of names) writeFileSync(scratch.at(name), "");
  await Promise.all(names.map((name) => disk.lookup(asRoot, root, n(name))));
  for (const name of names.slice(0, 300)) unlinkSync(scratch.at(name));
  const before = disk.counters().nodeDescriptors;
  const sweeps = [disk.sweep(asRoot), disk.sweep(asRoot)];
  const used = names.slice(300).map((name) => disk.lookup(asRoot, root, n(name)));
  await Promise.all([...sweeps, ...used]);
  await disk.sweep(asRoot);
  assert.equal(disk.counters().nodeDescriptors, before - 300);
});

test("forgotten nodes keep no descriptor, and are found again all the same", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const files = await tree(scratch, 2, 4);
  for (const { id } of files) await disk.access(asRoot, id, 0);
  const before = disk.counters().nodeDescriptors;
  disk.forget(files.map(({ id }) => id));
  assert.equal(disk.counters().nodeDescriptors, before - files.length);
  for (const { id } of files) assert.equal((await disk.getattr(asRoot, id)).sizeBytes, 16);
});

test("nodes beyond the bound are forgotten, and known again after a lookup", async () => {
  await using scratch = await scratchDisk({ limits: { nodesMax: 50 } });
  const { disk, root } = scratch;
  const ids: NodeId[] = [];
  for (let index = 0; index < 200; index++) {
    writeFileSync(scratch.at(`f${index}`), "x");
    ids.push((await disk.lookup(asRoot, root, n(`f${index}`))).id);
  }
  assert.ok(disk.counters().nodes <= 51, `${disk.counters().nodes}`);
  await refused("ESTALE", disk.getattr(asRoot, ids[0] as NodeId));
  assert.equal((await disk.lookup(asRoot, root, n("f0"))).id, ids[0]);
  assert.equal((await disk.getattr(asRoot, ids[0] as NodeId)).sizeBytes, 1);
  // Open files are never forgotten.
  const { handle } = await disk.open(asRoot, ids[0] as NodeId, OpenFlag.READ);
  for (let index = 1; index < 200; index++) await disk.lookup(asRoot, root, n(`f${index}`));
  assert.equal((await disk.getattr(asRoot, ids[0] as NodeId)).sizeBytes, 1);
  await disk.release(asRoot, handle);
});

test("a share whose directory was removed says so, and closes well", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  rmSync(scratch.path, { recursive: true });
  await refused("ESTALE", disk.root(asRoot));
  await refused("ESTALE", disk.lookup(asRoot, root, n("f")));
  await refused("ESTALE", disk.mkdir(asRoot, root, n("f"), mode(0o755)));
  await refused("ESTALE", disk.create(asRoot, root, n("f"), READ_WRITE, mode(0o644)));
  await refused("ESTALE", disk.opendir(asRoot, root));
  mkdirSync(scratch.path);
  await refused("ESTALE", disk.root(asRoot));
});

test("a directory removed while it is open answers as Linux does", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const directory = await scratch.directory("d");
  const handle = await disk.opendir(asRoot, directory);
  await disk.rmdir(asRoot, root, n("d"));
  await refused("ENOENT", disk.readdir(asRoot, handle, 0n, 4096, true));
  await refused("ENOENT", disk.lookup(asRoot, directory, n("x")));
  await refused("ENOENT", disk.mkdir(asRoot, directory, n("x"), mode(0o755)));
  assert.equal((await disk.getattr(asRoot, directory, handle)).nlink, 0);
  await disk.releasedir(asRoot, handle);
  await refused("ESTALE", disk.lookup(asRoot, directory, n("x")));
});
