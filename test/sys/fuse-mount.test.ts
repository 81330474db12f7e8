import assert from "node:assert/strict";
import { closeSync, mkdirSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { loadAddon } from "../../src/sys/addon.ts";
import { findMount, lockMountPoint, readProcessStatus, unmountPath } from "../../src/sys/fuse-mount.ts";
import { shell } from "../support/child.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("mounts");
after(() => temp.remove());

test("a mount is found by its exact path, whatever characters are in it", async () => {
  const path = join(temp.path, "a b\tc\\d\ne ü");
  mkdirSync(path);
  assert.equal(await findMount(path), undefined);
  await shell(`mount -t tmpfs 'so me' "$P"`, { env: { ...process.env, P: path } });
  try {
    const mounted = await findMount(path);
    assert.deepEqual([mounted?.type, mounted?.source, mounted?.path], ["tmpfs", "so me", path]);
    assert.equal(await findMount(temp.path), undefined);
  } finally {
    await unmountPath(path);
  }
  assert.equal(await findMount(path), undefined);
});

test("of mounts on top of each other the topmost is found", async () => {
  const path = join(temp.path, "twice");
  mkdirSync(path);
  await shell(`mount -t tmpfs first ${path}; mount -t tmpfs second ${path}`);
  assert.equal((await findMount(path))?.source, "second");
  await unmountPath(path);
  assert.equal((await findMount(path))?.source, "first");
  await unmountPath(path);
});

test("unmounting what is not mounted is EINVAL, what is in use EBUSY unless it is detached", async () => {
  const path = join(temp.path, "busy");
  mkdirSync(path);
  await assert.rejects(unmountPath(path), { errno: "EINVAL" });
  await assert.rejects(unmountPath(join(temp.path, "missing")), { errno: "ENOENT" });
  await shell(`mount -t tmpfs busy ${path}`);
  process.chdir(path);
  try {
    await assert.rejects(unmountPath(path), { errno: "EBUSY" });
    await unmountPath(path, { detach: true });
    assert.equal(await findMount(path), undefined);
  } finally {
    process.chdir("/");
  }
});

test("a mount point is locked by one at a time, and what cannot be locked by nobody", async () => {
  const path = join(temp.path, "locked");
  mkdirSync(path);
  const lock = await lockMountPoint(path);
  await assert.rejects(lockMountPoint(path), { errno: "EBUSY" });
  await lock?.close();
  await (await lockMountPoint(path))?.close();
  assert.notEqual(lock, undefined);
  assert.equal(await lockMountPoint(join(temp.path, "missing")), undefined);
});

test("the status of a thread is read, and of none that is not there", () => {
  const target = Buffer.alloc(16_384);
  const bytes = readProcessStatus(process.pid, target);
  assert.match(target.toString("latin1", 0, bytes), new RegExp(`\nPid:\t${process.pid}\n`));
  assert.ok(readProcessStatus(2 ** 31 - 1, target) < 0);
});

test("a descriptor is received only from who sends one, and nobody is waited for", () => {
  const native = loadAddon<{
    fuseSocketPair(): [number, number];
    fuseReceiveDescriptor(socket: number): number;
    fuseCloseDescriptor(fd: number): number;
    fuseMount(...args: unknown[]): number;
  }>();
  const [ours, theirs] = native.fuseSocketPair();
  assert.equal(native.fuseReceiveDescriptor(ours), -11, "EAGAIN");
  closeSync(theirs);
  assert.equal(native.fuseReceiveDescriptor(ours), -71, "EPROTO: it was closed without one");
  assert.equal(native.fuseCloseDescriptor(ours), 0);
  assert.equal(native.fuseCloseDescriptor(99_999), -9, "EBADF");
  assert.throws(() => native.fuseMount("a\0b", "/", "x", 0, ""), /without NUL/);
  assert.throws(() => native.fuseMount("x".repeat(5000), "/", "x", 0, ""), /less than 4 KiB/);
});
