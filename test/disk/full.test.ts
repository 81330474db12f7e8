/** A disk without room: what was removed is room for who comes next, also when it is only being let go of, and nobody becomes somebody else by waiting. */
import assert from "node:assert/strict";
import { after, test } from "node:test";
import type { HandleId, RequestContext } from "../../src/vfs/file-system.ts";
import { as, asRoot, mode, n, READ_WRITE, refused, type ScratchDisk, scratchDisk } from "../support/scratch-disk.ts";
import { smallExt4, smallTmpfs } from "../support/small-disk.ts";
import { makeTemp } from "../support/temp.ts";

const MIB = 1 << 20;
const memory = await smallTmpfs(64 * MIB);
after(() => memory[Symbol.asyncDispose]());
process.env["TMPDIR"] = memory.path;

const alice = as(1000);

/** Makes a file that takes all the room there is for its owner. */
async function fill({ disk, root }: ScratchDisk, owner: RequestContext, name: string): Promise<void> {
  const { opened } = await disk.create(owner, root, n(name), READ_WRITE, mode(0o644));
  let at = 0;
  for (const block of [Buffer.alloc(MIB, 1), Buffer.alloc(4096, 1)]) {
    for (let put = block.length; put === block.length; at += put) {
      put = await disk.write(owner, opened.handle, at, block).catch(() => 0);
    }
  }
  await refused("ENOSPC", disk.write(owner, opened.handle, 2 * at, Buffer.alloc(4096)));
  await disk.release(owner, opened.handle);
}

for (const [what, bytes] of [
  ["small write on the event loop's thread", 4096],
  ["large write on a worker", 4 * MIB],
] as const) {
  test(`what was removed a moment ago is room for a ${what}`, async () => {
    await using scratch = await scratchDisk();
    const { disk, root } = scratch;
    const { opened } = await disk.create(alice, root, n("next"), READ_WRITE, mode(0o644));
    for (let round = 0; round < 20; round++) {
      await fill(scratch, asRoot, "big");
      await disk.unlink(asRoot, root, n("big"));
      assert.equal(await disk.write(alice, opened.handle, 0, Buffer.alloc(bytes, round)), bytes);
      await disk.unlink(asRoot, root, n("next")).catch(() => undefined);
    }
    await disk.release(alice, opened.handle);
  });
}

test("who waits for room has no more of it than before: what is reserved for root stays so", async () => {
  const folder = makeTemp("reserve");
  const ext4 = await smallExt4(folder.path, 64 * MIB, "-b", "4096", "-m", "40");
  const before = process.env["TMPDIR"];
  process.env["TMPDIR"] = ext4.path;
  try {
    await using scratch = await scratchDisk({ keepsUnlinked: true });
    const { disk, root } = scratch;
    const names = Array.from({ length: 16 }, (_, index) => `f${index}`);
    const handles: HandleId[] = [];
    for (const name of names) {
      const { opened } = await disk.create(alice, root, n(name), READ_WRITE, mode(0o644));
      handles.push(opened.handle);
    }
    const removed: HandleId[] = [];
    for (const name of names) {
      const { opened } = await disk.create(alice, root, n(`removed-${name}`), READ_WRITE, mode(0o644));
      await disk.write(alice, opened.handle, 0, Buffer.alloc(4096));
      await disk.unlink(alice, root, n(`removed-${name}`));
      removed.push(opened.handle);
    }
    await fill(scratch, alice, "big");
    const { blocksFree, blocksAvailable } = await disk.statfs(alice, root);
    assert.ok(blocksAvailable < 64 && blocksFree > 4096, `${blocksAvailable} of ${blocksFree}`);
    // Workers run what is asked for before they remove what was kept: so those who write are those who do it, as root.
    const writes = handles.flatMap((handle, index) => [
      disk.release(alice, removed[index] as HandleId),
      disk.write(alice, handle, 0, Buffer.alloc(MIB)).catch(() => 0),
    ]);
    const put = (await Promise.all(writes)).reduce<number>((sum, bytes) => sum + (bytes ?? 0), 0);
    assert.ok(put <= 17 * 4096 + 64 * 4096, `${put} bytes`);
    for (const handle of handles) await disk.release(alice, handle);
  } finally {
    process.env["TMPDIR"] = before;
    await ext4[Symbol.asyncDispose]();
    await folder.remove();
  }
});
