import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { linkSync, lstatSync, readdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import type { Name } from "../../src/base/name.ts";
import {
  type Attr,
  S_IFBLK,
  S_IFCHR,
  S_IFDIR,
  S_IFIFO,
  S_IFLNK,
  S_IFMT,
  S_IFREG,
  S_IFSOCK,
} from "../../src/vfs/attr.ts";
import { type NodeId, OpenFlag, RenameFlag } from "../../src/vfs/file-system.ts";
import { WHOLE_FILE } from "../../src/vfs/lock.ts";
import { startLocker } from "../support/locker.ts";
import { as, asRoot, mode, n, READ_WRITE, refused, scratchDisk } from "../support/scratch-disk.ts";

test("the root is a directory with the same id every time", async () => {
  await using scratch = await scratchDisk();
  const { id, attr } = await scratch.disk.root(as(1000));
  assert.equal(id, scratch.root);
  assert.equal(attr.mode & S_IFMT, S_IFDIR);
  assert.equal(attr.inoLow, statSync(scratch.path).ino);
  assert.deepEqual(await scratch.disk.getattr(asRoot, id), (await scratch.disk.root(asRoot)).attr);
});

test("a lookup answers id and attributes of what is there, or ENOENT", async () => {
  await using scratch = await scratchDisk();
  writeFileSync(scratch.at("a"), "12345");
  const { id, attr } = await scratch.disk.lookup(asRoot, scratch.root, n("a"));
  assert.deepEqual([attr.sizeBytes, attr.nlink, attr.mode & S_IFMT], [5, 1, S_IFREG]);
  assert.equal(id.length, 16);
  await refused("ENOENT", scratch.disk.lookup(asRoot, scratch.root, n("b")));
  await refused("ENOTDIR", scratch.disk.lookup(asRoot, id, n("b")));
});

/**
 * Goal: a name that always leads to something is always found.
 *
 * Method: another process replaces the file by rename as fast as it can, while the name is looked up. Looking takes two steps, and what had the name at
 * the first has none at the second many times in this test.
 */
test("a name is found whenever it is looked up, however often what it leads to is replaced", async (t) => {
  await using scratch = await scratchDisk();
  writeFileSync(scratch.at("f"), "");
  const program = `
    const { renameSync, writeFileSync } = require("node:fs");
    const [next, f] = process.argv.slice(1);
    for (;;) { writeFileSync(next, ""); renameSync(next, f); }`;
  const args = ["-e", program, scratch.at("next"), scratch.at("f")];
  const replacer = spawn(process.execPath, args, { stdio: ["ignore", "inherit", "inherit"] });
  t.after(() => replacer.kill("SIGKILL"));
  const seen = new Set<NodeId>();
  while (seen.size < 200) {
    const found = Array.from({ length: 16 }, () => scratch.disk.lookup(asRoot, scratch.root, n("f")));
    for (const { id } of await Promise.all(found)) seen.add(id);
    await new Promise((resolve) => setImmediate(resolve));
  }
  const ended = once(replacer, "exit");
  replacer.kill("SIGKILL");
  await ended;
});

test("names that are no entry names are refused by every operation", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const file = await scratch.file("file");
  const bad: [string, "EINVAL" | "ENAMETOOLONG"][] = [
    ["", "EINVAL"],
    [".", "EINVAL"],
    ["..", "EINVAL"],
    ["a/b", "EINVAL"],
    ["/", "EINVAL"],
    ["a\0b", "EINVAL"],
    ["\u0100", "EINVAL"],
    ["x".repeat(256), "ENAMETOOLONG"],
  ];
  for (const [text, errno] of bad) {
    const name = text as Name;
    await refused(errno, disk.lookup(asRoot, root, name));
    await refused(errno, disk.mkdir(asRoot, root, name, mode(0o755)));
    await refused(errno, disk.mknod(asRoot, root, name, { ...mode(S_IFIFO | 0o644), rdevMajor: 0, rdevMinor: 0 }));
    await refused(errno, disk.symlink(asRoot, root, name, Buffer.from("t")));
    await refused(errno, disk.create(asRoot, root, name, READ_WRITE, mode(0o644)));
    await refused(errno, disk.link(asRoot, file, root, name));
    await refused(errno, disk.rename(asRoot, root, name, root, n("b"), 0));
    await refused(errno, disk.rename(asRoot, root, n("file"), root, name, 0));
    await refused(errno, disk.unlink(asRoot, root, name));
    await refused(errno, disk.rmdir(asRoot, root, name));
  }
  assert.deepEqual(readdirSync(scratch.path), ["file"]);
});

test("names are bytes, and may have 255 of them", async () => {
  await using scratch = await scratchDisk();
  for (const name of ["\xff\xfe\x80", "x".repeat(255), "\x01\n", "\\", " "]) {
    const made = await scratch.disk.mkdir(asRoot, scratch.root, name as Name, mode(0o755));
    assert.equal((await scratch.disk.lookup(asRoot, scratch.root, name as Name)).id, made.id);
  }
  const names = readdirSync(scratch.path, { encoding: "buffer" }).map((name) => name.toString("latin1"));
  assert.ok(names.includes("\xff\xfe\x80"));
});

test("ids that name nothing are stale, whatever their shape", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  for (const id of ["", "x", "y".repeat(16), "z".repeat(64)] as NodeId[]) {
    await refused("ESTALE", disk.getattr(asRoot, id));
    await refused("ESTALE", disk.lookup(asRoot, id, n("a")));
    await refused("ESTALE", disk.open(asRoot, id, OpenFlag.READ));
    await refused("ESTALE", disk.rename(asRoot, root, n("a"), id, n("b"), 0));
    await refused("ESTALE", disk.link(asRoot, id, root, n("b")));
  }
  disk.forget(["" as NodeId, "y".repeat(16) as NodeId]);
});

test("every kind of node is made", async () => {
  await using scratch = await scratchDisk();
  const kinds = { reg: S_IFREG, fifo: S_IFIFO, sock: S_IFSOCK, chr: S_IFCHR, blk: S_IFBLK };
  for (const [name, type] of Object.entries(kinds)) {
    const device =
      type === S_IFCHR || type === S_IFBLK ? { rdevMajor: 7, rdevMinor: 300 } : { rdevMajor: 0, rdevMinor: 0 };
    const { attr } = await scratch.disk.mknod(asRoot, scratch.root, n(name), { ...mode(type | 0o640), ...device });
    assert.equal(attr.mode, type | 0o640);
    assert.deepEqual([attr.rdevMajor, attr.rdevMinor], [device.rdevMajor, device.rdevMinor]);
    assert.equal(lstatSync(scratch.at(name)).mode, type | 0o640);
  }
  const again = { ...mode(S_IFREG | 0o640), rdevMajor: 0, rdevMinor: 0 };
  await refused("EEXIST", scratch.disk.mknod(asRoot, scratch.root, n("fifo"), again));
});

test("a symbolic link is stored and read as it is, up to 4095 bytes", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  for (const target of ["../..//x", "\xff\x01", "a".repeat(59), "b".repeat(60), "c".repeat(4095)]) {
    const name = n(`l${target.length}`);
    const { id, attr } = await disk.symlink(asRoot, root, name, Buffer.from(target, "latin1"));
    assert.deepEqual([attr.mode & S_IFMT, attr.sizeBytes], [S_IFLNK, target.length]);
    assert.equal((await disk.readlink(asRoot, id)).toString("latin1"), target);
  }
  await refused("ENAMETOOLONG", disk.symlink(asRoot, root, n("x"), Buffer.alloc(4096, "x")));
  await refused("ENOENT", disk.symlink(asRoot, root, n("x"), Buffer.alloc(0)));
  await refused("EINVAL", disk.symlink(asRoot, root, n("x"), Buffer.from("a\0b")));
  await refused("EEXIST", disk.symlink(asRoot, root, n("l59"), Buffer.from("a")));
  await refused("EINVAL", disk.readlink(asRoot, root));
});

test("hard links share one id, of symbolic links as well", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const id = await scratch.file("a");
  const linked = await disk.link(asRoot, id, root, n("b"));
  assert.equal(linked.id, id);
  assert.equal(linked.attr.nlink, 2);
  const soft = await disk.symlink(asRoot, root, n("s"), Buffer.from("nowhere"));
  assert.equal((await disk.link(asRoot, soft.id, root, n("s2"))).id, soft.id);
  assert.ok(lstatSync(scratch.at("s2")).isSymbolicLink());
  await refused("EEXIST", disk.link(asRoot, id, root, n("s")));
  await refused("EPERM", disk.link(asRoot, await scratch.directory("d"), root, n("e")));
  await disk.unlink(asRoot, root, n("a"));
  assert.equal((await disk.getattr(asRoot, id)).nlink, 1);
  linkSync(scratch.at("b"), scratch.at("c"));
  assert.equal((await disk.lookup(asRoot, root, n("c"))).id, id);
});

test("unlink and rmdir take what they are for, and say what is wrong otherwise", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const file = await scratch.file("f");
  const dir = await scratch.directory("d");
  await disk.mkdir(asRoot, dir, n("x"), mode(0o755));
  await refused("EISDIR", disk.unlink(asRoot, root, n("d")));
  await refused("ENOTDIR", disk.rmdir(asRoot, root, n("f")));
  await refused("ENOTEMPTY", disk.rmdir(asRoot, root, n("d")));
  await refused("ENOENT", disk.unlink(asRoot, root, n("none")));
  await refused("ENOENT", disk.rmdir(asRoot, root, n("none")));
  await disk.rmdir(asRoot, dir, n("x"));
  await disk.rmdir(asRoot, root, n("d"));
  await disk.unlink(asRoot, root, n("f"));
  await refused("ESTALE", disk.getattr(asRoot, file));
  await refused("ESTALE", disk.getattr(asRoot, dir));
  assert.deepEqual(readdirSync(scratch.path), []);
});

test("rename moves, replaces, exchanges and refuses as renameat2(2) does", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const a = await scratch.file("a", "a");
  const b = await scratch.file("b", "b");
  const d = await scratch.directory("d");
  await refused("EEXIST", disk.rename(asRoot, root, n("a"), root, n("b"), RenameFlag.NOREPLACE));
  await disk.rename(asRoot, root, n("a"), root, n("b"), RenameFlag.EXCHANGE);
  assert.equal(readFileSync(scratch.at("a"), "utf8"), "b");
  assert.equal((await disk.lookup(asRoot, root, n("b"))).id, a);
  await disk.rename(asRoot, root, n("b"), d, n("c"), 0);
  assert.equal((await disk.lookup(asRoot, d, n("c"))).id, a);
  await disk.rename(asRoot, d, n("c"), root, n("a"), 0);
  await refused("ESTALE", disk.getattr(asRoot, b));
  assert.equal((await disk.getattr(asRoot, a)).nlink, 1);
  await refused("ENOENT", disk.rename(asRoot, root, n("none"), root, n("x"), 0));
  await refused("ENOENT", disk.rename(asRoot, root, n("a"), root, n("x"), RenameFlag.EXCHANGE));
  await refused("EISDIR", disk.rename(asRoot, root, n("a"), root, n("d"), 0));
  await refused("ENOTDIR", disk.rename(asRoot, root, n("d"), root, n("a"), 0));
  await refused("EINVAL", disk.rename(asRoot, root, n("d"), d, n("d"), 0));
  await refused("EINVAL", disk.rename(asRoot, root, n("a"), root, n("d"), 3));
  await refused("EINVAL", disk.rename(asRoot, root, n("a"), root, n("d"), 0x100));
  await disk.rename(asRoot, root, n("a"), root, n("w"), RenameFlag.WHITEOUT);
  assert.deepEqual([lstatSync(scratch.at("a")).isCharacterDevice(), lstatSync(scratch.at("a")).rdev], [true, 0]);
});

test("create opens what is there, makes what is not, and says what else is there", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const first = await disk.create(asRoot, root, n("a"), READ_WRITE | OpenFlag.EXCL, mode(0o644));
  await disk.write(asRoot, first.opened.handle, 0, Buffer.from("abc"));
  const again = await disk.create(asRoot, root, n("a"), OpenFlag.READ, mode(0o600));
  assert.equal(again.entry.id, first.entry.id);
  assert.deepEqual([again.entry.attr.sizeBytes, again.entry.attr.mode], [3, S_IFREG | 0o644]);
  const truncated = await disk.create(asRoot, root, n("a"), READ_WRITE | OpenFlag.TRUNC, mode(0o600));
  assert.deepEqual([truncated.entry.attr.sizeBytes, truncated.opened.attr.sizeBytes], [0, 0]);
  await refused("EEXIST", disk.create(asRoot, root, n("a"), READ_WRITE | OpenFlag.EXCL, mode(0o644)));
  symlinkSync("a", scratch.at("l"));
  await scratch.directory("d");
  await refused("ELOOP", disk.create(asRoot, root, n("l"), READ_WRITE, mode(0o644)));
  await refused("EEXIST", disk.create(asRoot, root, n("l"), READ_WRITE | OpenFlag.EXCL, mode(0o644)));
  await refused("EISDIR", disk.create(asRoot, root, n("d"), READ_WRITE, mode(0o644)));
  await refused("ENOTDIR", disk.create(asRoot, first.entry.id, n("x"), READ_WRITE, mode(0o644)));
  // A new file that its own mode does not let its maker write.
  const readOnly = await disk.create(as(1000), root, n("ro"), READ_WRITE, mode(0o444));
  assert.equal(await disk.write(as(1000), readOnly.opened.handle, 0, Buffer.from("x")), 1);
  for (const { opened } of [first, again, truncated, readOnly]) await disk.release(asRoot, opened.handle);
  assert.equal(disk.counters().handles, 0);
});

test("a file that is there and leased to a program beside the disk is created and locked when that gives up the lease", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  await scratch.file("f", "text");
  await using beside = await startLocker(scratch.path);
  await beside.tell("open 0 f r");
  assert.equal(await beside.tell("lease 0 read"), "ok");
  const creating = disk.create(asRoot, root, n("f"), READ_WRITE | OpenFlag.TRUNC, mode(0o644));
  assert.equal(await beside.tell("breaking"), "ok");
  await beside.tell("lease 0 unlock");
  const { entry, opened } = await creating;
  assert.equal(entry.attr.sizeBytes, 0);
  await disk.release(asRoot, opened.handle);
  // Through an open that only reads, so that the lock needs one that writes.
  const reader = await disk.open(asRoot, entry.id, OpenFlag.READ);
  assert.equal(await beside.tell("lease 0 read"), "ok");
  const locking = disk.lockNode?.(asRoot, reader.handle, { ...WHOLE_FILE, kind: "posix", type: "write" });
  assert.equal(await beside.tell("breaking"), "ok");
  await beside.tell("lease 0 unlock");
  await locking;
  await disk.release(asRoot, reader.handle);
});

test("a temporary file has no name until it is linked, unless it was opened so that it never has", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const { entry, opened } = await disk.tmpfile(as(1000), root, READ_WRITE, mode(0o666, 0o022));
  assert.deepEqual([entry.attr.nlink, entry.attr.mode, entry.attr.uid], [0, S_IFREG | 0o644, 1000]);
  await disk.write(as(1000), opened.handle, 0, Buffer.from("later"));
  assert.equal((await disk.getattr(asRoot, entry.id)).sizeBytes, 5);
  const linked = await disk.link(as(1000), entry.id, root, n("t"));
  assert.deepEqual([linked.id, linked.attr.nlink], [entry.id, 1]);
  await disk.release(as(1000), opened.handle);
  assert.equal(readFileSync(scratch.at("t"), "utf8"), "later");
  assert.equal((await disk.lookup(asRoot, root, n("t"))).id, entry.id);

  const never = await disk.tmpfile(asRoot, root, READ_WRITE | OpenFlag.EXCL, mode(0o600));
  await refused("ENOENT", disk.link(asRoot, never.entry.id, root, n("u")));
  await disk.release(asRoot, never.opened.handle);
  await refused("ESTALE", disk.getattr(asRoot, never.entry.id));
  await refused("ENOTDIR", disk.tmpfile(asRoot, entry.id, READ_WRITE, mode(0o600)));
});

test("whatever changes names tells what became of the directory, and a request that fails tells nothing", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const told: [NodeId, Attr][] = [];
  const ctx = { ...asRoot, directoryChanged: (id: NodeId, attr: Attr) => void told.push([id, attr]) };
  const { id } = await disk.mkdir(asRoot, root, n("d"), mode(0o755));
  const device = { ...mode(S_IFIFO | 0o600), rdevMajor: 0, rdevMinor: 0 };
  const changes: Record<string, () => Promise<unknown>> = {
    create: async () => {
      const { entry, opened } = await disk.create(ctx, id, n("f"), READ_WRITE, mode(0o644));
      await disk.release(asRoot, opened.handle);
      return entry;
    },
    symlink: () => disk.symlink(ctx, id, n("s"), Buffer.from("f")),
    mknod: () => disk.mknod(ctx, id, n("p"), device),
    mkdir: () => disk.mkdir(ctx, id, n("e"), mode(0o755)),
    link: async () => disk.link(ctx, (await disk.lookup(asRoot, id, n("f"))).id, id, n("l")),
    unlink: () => disk.unlink(ctx, id, n("f")),
    rmdir: () => disk.rmdir(ctx, id, n("e")),
  };
  for (const [name, change] of Object.entries(changes)) {
    told.length = 0;
    await change();
    assert.deepEqual(told, [[id, await disk.getattr(asRoot, id)]], name);
  }
  told.length = 0;
  await refused("ENOENT", disk.unlink(ctx, id, n("f")));
  await refused("EEXIST", disk.mkdir(ctx, id, n("l"), mode(0o755)));
  assert.deepEqual(told, []);
});
