import assert from "node:assert/strict";
import { setMaxListeners } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import { createDisk } from "../../src/disk/disk.ts";
import { SLOTS_MAX } from "../../src/sys/disk-engine.ts";
import { type HandleId, OpenFlag, type RequestContext } from "../../src/vfs/file-system.ts";
import { asRoot, descriptorsBelow, mode, n, READ_WRITE, refused, scratchDisk } from "../support/scratch-disk.ts";
import { makeTemp } from "../support/temp.ts";

function abortable(): { ctx: RequestContext; abort: () => void } {
  const controller = new AbortController();
  setMaxListeners(0, controller.signal);
  return { ctx: { ...asRoot, signal: controller.signal }, abort: () => controller.abort() };
}

/** How many failed with `errno`; anything else that failed is an error of the test. */
async function countRefused(errno: string, requests: Promise<unknown>[]): Promise<number> {
  const settled = await Promise.allSettled(requests);
  const reasons = settled.flatMap((one) => (one.status === "rejected" ? [one.reason as unknown] : []));
  for (const reason of reasons) assert.ok(reason instanceof FsError && reason.errno === errno, String(reason));
  return reasons.length;
}

test("opens are bounded, and room made by a release is used", async () => {
  await using scratch = await scratchDisk({ limits: { handlesMax: 3 } });
  const { disk, root } = scratch;
  const id = await scratch.file("f");
  const handles: HandleId[] = [];
  for (let index = 0; index < 3; index++) handles.push((await disk.open(asRoot, id, OpenFlag.READ)).handle);
  await refused("ENFILE", disk.open(asRoot, id, OpenFlag.READ));
  await refused("ENFILE", disk.opendir(asRoot, root));
  await refused("ENFILE", disk.create(asRoot, root, n("new"), READ_WRITE, mode(0o644)));
  await refused("ENFILE", disk.tmpfile(asRoot, root, READ_WRITE, mode(0o644)));
  assert.deepEqual(readdirSync(scratch.path), ["f"]);
  await disk.release(asRoot, handles.pop() as HandleId);
  handles.push(await disk.opendir(asRoot, root));
  for (const handle of handles) await disk.release(asRoot, handle);
  assert.equal(disk.counters().handles, 0);
});

test("a disk that was closed takes no share of the process's descriptors", async () => {
  await using scratch = await scratchDisk();
  const closed = await Promise.all(Array.from({ length: 60 }, () => scratchDisk()));
  for (const other of closed) await other[Symbol.asyncDispose]();
  const id = await scratch.file("f");
  // A quarter of 20,000 descriptors is 5,000 opens; shared with the 60, it would be 81.
  const opens = await Promise.all(Array.from({ length: 200 }, () => scratch.disk.open(asRoot, id, OpenFlag.READ)));
  for (const { handle } of opens) await scratch.disk.release(asRoot, handle);
  assert.equal(closed.length, 60);
});

test("requests beyond the bound are refused, the others are answered", async () => {
  await using scratch = await scratchDisk();
  // Nothing is answered until the event loop has its turn.
  const requests = Array.from({ length: SLOTS_MAX + 10 }, () => scratch.disk.access(asRoot, scratch.root, 4));
  assert.equal(scratch.disk.counters().pending, SLOTS_MAX);
  assert.equal(await countRefused("ENOBUFS", requests), 10);
  assert.equal(scratch.disk.counters().pending, 0);
});

test("an aborted request that has not begun is never run", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const { ctx, abort } = abortable();
  const data = (await disk.create(asRoot, root, n("data"), READ_WRITE, mode(0o644))).opened.handle;
  await disk.fallocate(asRoot, data, 0, 0, 32 << 20);
  const from = { handle: data, offsetBytes: 0 };
  // Copies take their time, and only some of the workers take them.
  const copies = Array.from({ length: 40 }, (_, index) =>
    disk.copyFileRange(ctx, from, { handle: data, offsetBytes: (index + 1) << 25 }, 32 << 20),
  );
  abort();
  const aborted = await countRefused("EINTR", copies);
  assert.ok(aborted >= 30, `${aborted}`);
  await refused("EINTR", disk.mkdir(ctx, root, n("d"), mode(0o755)));
  await refused("EINTR", disk.lookup(ctx, root, n("data")));
  assert.ok(!existsSync(scratch.at("d")));
  await disk.release(ctx, data);
  assert.equal(disk.counters().pending, 0);
});

test("what an aborted request had opened already is closed", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const { ctx, abort } = abortable();
  const made = disk.create(ctx, root, n("f"), READ_WRITE, mode(0o644));
  // The event loop stands still, so that the answer cannot come before the abort.
  while (!existsSync(scratch.at("f")));
  abort();
  await refused("EINTR", made);
  // A change that was made is answered as made.
  const second = abortable();
  const directory = disk.mkdir(second.ctx, root, n("d"), mode(0o755));
  while (!existsSync(scratch.at("d")));
  second.abort();
  assert.ok((await directory).id);
  while (disk.counters().closing > 0) await disk.statfs(asRoot, root);
  assert.equal(disk.counters().handles, 0);
});

test("thousands of opens at the same time, half of them aborted, leave nothing open", async () => {
  await using scratch = await scratchDisk({ limits: { nodeDescriptorsMax: 16 } });
  const { disk, root } = scratch;
  for (let round = 0; round < 5; round++) {
    const { ctx, abort } = abortable();
    const requests = Array.from({ length: 1000 }, async (_, index) => {
      const request = index % 2 ? ctx : asRoot;
      const { opened } = await disk.create(
        request,
        root,
        n(`f${index % 50}`),
        READ_WRITE | OpenFlag.TRUNC,
        mode(0o644),
      );
      await disk.write(request, opened.handle, 0, Buffer.from("x")).finally(() => disk.release(request, opened.handle));
    });
    abort();
    await countRefused("EINTR", requests);
  }
  while (disk.counters().closing > 0) await disk.statfs(asRoot, root);
  const { handles, pending, nodeDescriptors } = disk.counters();
  assert.deepEqual([handles, pending], [0, 0]);
  assert.ok(nodeDescriptors <= 17);
  // The root's three, and those of nodes.
  assert.ok(descriptorsBelow(scratch.path).length <= 2 + 17);
});

test("close waits for what is under way, closes what is open, and refuses what comes after", async () => {
  await using temp = makeTemp("disk");
  const disk = await createDisk({ directory: temp.path, applyCredentials: true, log: silentLog });
  const { id: root } = await disk.root(asRoot);
  for (let index = 0; index < 20; index++) await disk.create(asRoot, root, n(`f${index}`), READ_WRITE, mode(0o644));
  const late = Array.from({ length: 100 }, (_, index) => disk.mkdir(asRoot, root, n(`d${index}`), mode(0o755)));
  const closed = disk.close();
  await refused("EBADF", disk.lookup(asRoot, root, n("f0")));
  await refused("EBADF", disk.mkdir(asRoot, root, n("x"), mode(0o755)));
  await Promise.all([closed, disk.close()]);
  assert.equal(await countRefused("EINTR", late), 0);
  await refused("EBADF", disk.getattr(asRoot, root));
  assert.deepEqual(descriptorsBelow(temp.path), []);
  assert.equal(readdirSync(temp.path).length, 120);
});

test("a directory that cannot be served is refused with the reason", async () => {
  await using temp = makeTemp("disk");
  const options = { applyCredentials: false, log: silentLog };
  await refused("ENOENT", createDisk({ ...options, directory: `${temp.path}/none` }));
  await refused("ENOTDIR", createDisk({ ...options, directory: process.execPath }));
});
