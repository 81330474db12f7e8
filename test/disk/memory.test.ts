/**
 * A disk whose files are in memory (tmpfs), where most requests run on the event loop's own thread: they do there what they do on a worker, under the
 * same identities, and the thread has its own again behind each.
 *
 * The suites of any disk run here as well, with their temporary directories on a tmpfs.
 */
import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { after, test } from "node:test";
import { S_IFIFO } from "../../src/vfs/attr.ts";
import { type NodeId, OpenFlag, type RequestContext } from "../../src/vfs/file-system.ts";
import { as, asRoot, mode, n, READ_WRITE, refused, type ScratchDisk, scratchDisk } from "../support/scratch-disk.ts";
import { smallTmpfs } from "../support/small-disk.ts";

const memory = await smallTmpfs(256 << 20);
after(() => memory[Symbol.asyncDispose]());
process.env["TMPDIR"] = memory.path;
for (const suite of ["confinement", "directories", "disk-recovery", "identity", "kept", "locks", "names"])
  await import(`./${suite}.test.js`);

const alice = as(1000, 1000, [2000]);

/** Runs a request that must not wait for a worker. */
async function atOnce<T>({ disk }: ScratchDisk, request: () => Promise<T>): Promise<T> {
  const reply = request();
  assert.equal(disk.counters().pending, 0, request.toString());
  return reply;
}

/** Runs a request that must go to a worker. */
async function onWorker<T>({ disk }: ScratchDisk, request: () => Promise<T>): Promise<T> {
  const before = disk.counters().pending;
  const reply = request();
  assert.equal(disk.counters().pending, before + 1, request.toString());
  return reply;
}

/** What the kernel knows of the event loop's thread. */
function threadIdentity(): string[] {
  const status = readFileSync(`/proc/self/task/${process.pid}/status`, "latin1");
  return status.split("\n").filter((line) => /^(Uid|Gid|Groups|CapEff|Umask):/.test(line));
}

for (const who of [asRoot, alice, as(1000, 1000), as(1001, 3000, [5, 6, 7])]) {
  const { uid, gid, groups } = who.caller;
  test(`small requests of ${uid}:${gid}:${groups.join()} run at once, and leave the thread as it was`, async () => {
    await using scratch = await scratchDisk();
    const { disk, root } = scratch;
    const before = threadIdentity();
    const run = <T>(request: () => Promise<T>) => atOnce(scratch, request);
    const { entry, opened } = await run(() => disk.create(who, root, n("f"), READ_WRITE, mode(0o640, 0o022)));
    assert.deepEqual([entry.attr.uid, entry.attr.gid, entry.attr.mode & 0o7777], [uid, gid, 0o640]);
    await run(() => disk.write(who, opened.handle, 0, Buffer.from("0123456789")));
    await run(() => disk.fsync(who, opened.handle, false));
    await run(() => disk.setattr(who, entry.id, { mode: 0o600, mtime: { sec: 7, nsec: 8 } }));
    await run(() => disk.setxattr(who, entry.id, n("user.x"), Buffer.from("y"), 0));
    assert.equal((await run(() => disk.getxattr(who, entry.id, n("user.x")))).toString(), "y");
    await run(() => disk.listxattr(who, entry.id));
    await run(() => disk.removexattr(who, entry.id, n("user.x")));
    await run(() => disk.access(who, entry.id, 6));
    await run(() => disk.release(who, opened.handle));
    const again = await run(() => disk.open(who, entry.id, READ_WRITE | OpenFlag.TRUNC));
    assert.equal(again.attr.sizeBytes, 0);
    await run(() => disk.release(who, again.handle));
    const directory = await run(() => disk.mkdir(who, root, n("d"), mode(0o777, 0o027)));
    assert.deepEqual([directory.attr.uid, directory.attr.gid, directory.attr.mode & 0o7777], [uid, gid, 0o750]);
    await run(() => disk.symlink(who, root, n("s"), Buffer.from("x")));
    await run(() => disk.mknod(who, root, n("p"), { ...mode(S_IFIFO | 0o666, 0o077), rdevMajor: 0, rdevMinor: 0 }));
    await run(() => disk.link(who, entry.id, root, n("l")));
    await run(() => disk.rename(who, root, n("f"), directory.id, n("g"), 0));
    await run(() => disk.unlink(who, directory.id, n("g")));
    await run(() => disk.rmdir(who, root, n("d")));
    await run(() => disk.statfs(who, root));
    assert.deepEqual(threadIdentity(), before);
  });
}

test("a request that fails leaves the thread as it was, too", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const closed = await scratch.directory("closed", 0o700);
  const before = threadIdentity();
  const refusedAtOnce = (request: () => Promise<unknown>) => refused("EACCES", atOnce(scratch, request));
  await refusedAtOnce(() => disk.create(alice, closed, n("f"), READ_WRITE, mode(0o644, 0o022)));
  await refusedAtOnce(() => disk.mkdir(alice, closed, n("d"), mode(0o755, 0o022)));
  await refusedAtOnce(() => disk.unlink(alice, closed, n("f")));
  await refusedAtOnce(() => disk.access(alice, closed, 4));
  assert.deepEqual(threadIdentity(), before);
});

test("users have none of root's other capabilities on the event loop's thread either", async () => {
  await using scratch = await scratchDisk();
  const file = await scratch.file("f", "", 0o777);
  await refused(
    "EPERM",
    atOnce(scratch, () => scratch.disk.setxattr(alice, file, n("trusted.x"), Buffer.from("y"), 0)),
  );
  await atOnce(scratch, () => scratch.disk.setxattr(asRoot, file, n("trusted.x"), Buffer.from("y"), 0));
});

test("a mode that the process's umask would change is given by a worker, which has a umask of its own", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const made = await onWorker(scratch, () => disk.mkdir(alice, root, n("d"), mode(0o777, 0)));
  assert.equal(made.attr.mode & 0o7777, 0o777);
});

test("what is large, or has to wait for what is large, goes to a worker", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const { handle } = (await disk.create(asRoot, root, n("f"), READ_WRITE, mode(0o644, 0o022))).opened;
  const data = Buffer.alloc(65_537, 1);
  await onWorker(scratch, () => disk.write(asRoot, handle, 0, data));
  await atOnce(scratch, () => disk.write(asRoot, handle, 0, data.subarray(1)));
  await disk.fallocate(asRoot, handle, 0, 0, 32 << 20);
  const from = { handle, offsetBytes: 0 };
  const copy = disk.copyFileRange(asRoot, from, { handle, offsetBytes: 32 << 20 }, 32 << 20);
  await onWorker(scratch, () => disk.write(asRoot, handle, 0, Buffer.from("x")));
  await copy;
  await atOnce(scratch, () => disk.write(asRoot, handle, 0, Buffer.from("x")));
  await disk.release(asRoot, handle);
  const { id } = await disk.lookup(asRoot, root, n("f"));
  const { handle: emptied } = await onWorker(scratch, () => disk.open(asRoot, id, READ_WRITE | OpenFlag.TRUNC));
  await disk.release(asRoot, emptied);
  // A large file that nobody has named: the worker closes what was its last descriptor.
  writeFileSync(scratch.at("large"), Buffer.alloc(32 << 20));
  const { handedOver } = disk.counters();
  await atOnce(scratch, () => disk.unlink(asRoot, root, n("large")));
  assert.equal(disk.counters().handedOver, handedOver + 1);
  while (disk.counters().closing > 0) await disk.syncfs(asRoot, root);
});

test("appends go to the end at once, and a release frees what has lost its name", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const append = (ctx: RequestContext) =>
    disk.create(ctx, root, n("log"), OpenFlag.WRITE | OpenFlag.APPEND, mode(0o644, 0o022));
  const { handle } = (await append(alice)).opened;
  for (const line of ["one\n", "two\n", "three\n"])
    await atOnce(scratch, () => disk.write(alice, handle, 0, Buffer.from(line)));
  assert.equal(readFileSync(scratch.at("log"), "latin1"), "one\ntwo\nthree\n");
  await disk.unlink(alice, root, n("log"));
  const { nodes } = disk.counters();
  await atOnce(scratch, () => disk.release(alice, handle));
  assert.equal(disk.counters().nodes, nodes - 1);
  assert.throws(() => statSync(scratch.at("log")), /ENOENT/);
});

test("who has a name is told without waiting, whatever the caller may; what cannot be told is left to a look-up", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const { id } = await disk.mkdir(asRoot, root, n("private"), mode(0o700));
  const { entry, opened } = await disk.create(asRoot, id, n("f"), READ_WRITE, mode(0o600));
  await disk.release(asRoot, opened.handle);
  const peek = (parent: NodeId, name: string) => disk.recovery?.peek(parent, n(name));
  assert.deepEqual(peek(id, "f"), await disk.lookup(asRoot, id, n("f")));
  assert.equal(peek(id, "g"), "nobody");
  await disk.unlink(asRoot, id, n("f"));
  assert.equal(peek(id, "f"), "nobody");
  for (const name of [".", "a/b", "", "x".repeat(256)]) assert.equal(peek(id, name), undefined, name);
  assert.equal(peek(entry.id, "f"), undefined);
  assert.equal(peek("short" as NodeId, "f"), undefined);
});
