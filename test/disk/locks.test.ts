/** Locks a disk takes against programs beside it. */
import assert from "node:assert/strict";
import { chmodSync } from "node:fs";
import { test } from "node:test";
import { type HandleId, OpenFlag } from "../../src/vfs/file-system.ts";
import { LOCK_END, type LockKind, type NodeLock, WHOLE_FILE } from "../../src/vfs/lock.ts";
import { command } from "../support/child.ts";
import { startLocker } from "../support/locker.ts";
import {
  asRoot,
  descriptorsBelow,
  READ_WRITE,
  refused,
  type ScratchDisk,
  scratchDisk,
} from "../support/scratch-disk.ts";

const lock = (type: NodeLock["type"], start = 0, end = -1, kind: LockKind = "posix"): NodeLock => ({
  kind,
  type,
  startBytes: BigInt(start),
  endBytes: end < 0 ? LOCK_END : BigInt(end),
});

async function opened(scratch: ScratchDisk, flags = READ_WRITE): Promise<HandleId> {
  const id = await scratch.file("f", "some text");
  return (await scratch.disk.open(asRoot, id, flags)).handle;
}

test("ranges are locked against programs beside the disk, in their own types, split and given up", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await opened(scratch);
  await using beside = await startLocker(scratch.path);
  await beside.tell("open 0 f rw");
  const attr = await disk.lockNode?.(asRoot, handle, lock("write", 10, 19));
  assert.equal(attr?.sizeBytes, 9);
  await disk.lockNode?.(asRoot, handle, lock("read", 30, 39));
  await disk.lockNode?.(asRoot, handle, lock("unlock", 12, 14));
  assert.equal(await beside.tell("find 0 posix write 0 0"), "write 10 2 -1");
  assert.equal(await beside.tell("find 0 posix write 12 3"), "free");
  assert.equal(await beside.tell("lock 0 posix read 15 5"), "EAGAIN");
  assert.equal(await beside.tell("lock 0 posix read 30 5"), "ok");
  assert.equal(await beside.tell("lock 0 posix write 35 5"), "EAGAIN");
  assert.equal(await beside.tell("flock 0 ex"), "ok", "of the other kind nothing is locked");
  await disk.lockNode?.(asRoot, handle, { ...WHOLE_FILE, kind: "posix", type: "unlock" });
  assert.equal(await beside.tell("lock 0 posix write 0 0"), "ok");
  await disk.release(asRoot, handle);
});

test("what a program beside has locked is found and not taken, and can be had when it is given up", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await opened(scratch);
  await using beside = await startLocker(scratch.path);
  await beside.tell("open 0 f rw");
  await beside.tell("lock 0 posix write 5 0");
  await beside.tell("flock 0 sh");
  await refused("EAGAIN", disk.lockNode?.(asRoot, handle, lock("read", 0, 5)) as Promise<unknown>);
  assert.deepEqual(await disk.findNodeLock?.(asRoot, handle, lock("read")), lock("write", 5));
  assert.equal(await disk.findNodeLock?.(asRoot, handle, lock("write", 0, 4)), undefined);
  await disk.lockNode?.(asRoot, handle, lock("write", 0, 4));
  assert.equal(await disk.findNodeLock?.(asRoot, handle, lock("write", 0, 4)), undefined, "its own do not count");
  await disk.lockNode?.(asRoot, handle, lock("read", 0, -1, "flock"));
  await refused("EAGAIN", disk.lockNode?.(asRoot, handle, lock("write", 0, -1, "flock")) as Promise<unknown>);
  await beside.tell("flock 0 un");
  assert.equal(
    await beside.tell("flock 0 ex"),
    "EAGAIN",
    "what there was before the exchange that failed is there again",
  );
  await disk.lockNode?.(asRoot, handle, lock("write", 0, -1, "flock"));
  assert.equal(await beside.tell("flock 0 sh"), "EAGAIN");
  await disk.release(asRoot, handle);
  assert.equal(await beside.tell("flock 0 ex"), "ok", "the last release ends it");
});

test("the opens of one file share its locks: none conflicts with another, and closing one takes nothing away", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const id = await scratch.file("f", "some text");
  const first = (await disk.open(asRoot, id, READ_WRITE)).handle;
  const second = (await disk.open(asRoot, id, OpenFlag.READ)).handle;
  await using beside = await startLocker(scratch.path);
  await beside.tell("open 0 f rw");
  await disk.lockNode?.(asRoot, first, lock("write", 0, 9));
  await disk.lockNode?.(asRoot, second, lock("read", 0, 9));
  await disk.lockNode?.(asRoot, first, lock("write", 20, 29));
  await disk.release(asRoot, first);
  assert.equal(await beside.tell("lock 0 posix write 5 1"), "EAGAIN");
  assert.equal(await beside.tell("lock 0 posix read 25 1"), "EAGAIN");
  await disk.release(asRoot, second);
  assert.equal(await beside.tell("lock 0 posix write 0 0"), "ok");
});

test("shared locks alone need no right to write; an exclusive one takes them along", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await opened(scratch);
  await disk.lockNode?.(asRoot, handle, lock("read", 0, 9));
  await disk.lockNode?.(asRoot, handle, lock("read", 100, -1));
  await using beside = await startLocker(scratch.path);
  await beside.tell("open 0 f rw");
  const before = descriptorsBelow(scratch.path).length;
  await disk.lockNode?.(asRoot, handle, lock("write", 20, 29));
  assert.equal(descriptorsBelow(scratch.path).length, before);
  for (const [start, type] of [
    [5, "read"],
    [25, "write"],
    [4096, "read"],
  ] as const) {
    assert.match(await beside.tell(`find 0 posix write ${start} 1`), new RegExp(`^${type} `));
  }
  await disk.release(asRoot, handle);
});

test("a file whose mode forbids it by now is locked through the open there is", async () => {
  await using scratch = await scratchDisk({ applyCredentials: false });
  const { disk } = scratch;
  const handle = await opened(scratch);
  chmodSync(scratch.at("f"), 0);
  await disk.lockNode?.(asRoot, handle, lock("write"));
  await disk.lockNode?.(asRoot, handle, lock("write", 0, -1, "flock"));
  await disk.release(asRoot, handle);
});

test("what was locked through the open there is, is free when it is unlocked, though the open stays", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await opened(scratch);
  // Not even root may open it for writing from here on, other than to append.
  await command("chattr", ["+a", scratch.at("f")]);
  await using _ = { [Symbol.asyncDispose]: async () => void (await command("chattr", ["-a", scratch.at("f")])) };
  await using beside = await startLocker(scratch.path);
  await beside.tell("open 0 f r");
  await disk.lockNode?.(asRoot, handle, lock("write", 10, 19));
  assert.equal(await beside.tell("lock 0 posix read 0 0"), "EAGAIN");
  await disk.lockNode?.(asRoot, handle, { ...WHOLE_FILE, kind: "posix", type: "unlock" });
  assert.equal(await beside.tell("lock 0 posix read 0 0"), "ok");
  await disk.release(asRoot, handle);
});

test("locks that cannot be are refused", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const handle = await opened(scratch, OpenFlag.READ);
  await refused("EINVAL", disk.lockNode?.(asRoot, handle, lock("read", 5, 4)) as Promise<unknown>);
  await refused("EINVAL", disk.findNodeLock?.(asRoot, handle, lock("unlock")) as Promise<unknown>);
  const beyond = { ...lock("read"), endBytes: LOCK_END + 1n };
  await refused("EINVAL", disk.lockNode?.(asRoot, handle, beyond) as Promise<unknown>);
  await refused("EBADF", disk.lockNode?.(asRoot, 0x7ff as HandleId, lock("read")) as Promise<unknown>);
  await disk.lockNode?.(asRoot, handle, lock("unlock", 3, 4));
  await disk.release(asRoot, handle);
});
