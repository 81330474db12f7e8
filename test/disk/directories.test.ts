import assert from "node:assert/strict";
import { mkdirSync, readdirSync, rmSync, statSync, symlinkSync, unlinkSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { type Dirent, decodeDirents, encodeDirent } from "../../src/vfs/dirent-page.ts";
import type { HandleId, NodeId, RequestContext } from "../../src/vfs/file-system.ts";
import { as, asRoot, mode, n, refused, type ScratchDisk, scratchDisk } from "../support/scratch-disk.ts";

async function listAll(
  scratch: ScratchDisk,
  handle: HandleId,
  pageBytes: number,
  withEntries: boolean,
  ctx: RequestContext = asRoot,
): Promise<Dirent[]> {
  const entries: Dirent[] = [];
  let cookie = 0n;
  for (;;) {
    const page = await scratch.disk.readdir(ctx, handle, cookie, pageBytes, withEntries);
    assert.ok(page.length <= pageBytes);
    if (page.length === 0) return entries;
    entries.push(...decodeDirents(page));
    cookie = entries.at(-1)?.cookie ?? 0n;
  }
}

async function list(scratch: ScratchDisk, id: NodeId, pageBytes = 65536, withEntries = true): Promise<Dirent[]> {
  const handle = await scratch.disk.opendir(asRoot, id);
  const entries = await listAll(scratch, handle, pageBytes, withEntries);
  await scratch.disk.releasedir(asRoot, handle);
  return entries;
}

test("a page is what encodeDirent would have made of its entries", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  for (let index = 1; index < 256; index += 7) await scratch.file("n".repeat(index));
  symlinkSync("x", scratch.at("link"));
  mkdirSync(scratch.at("dir"));
  const handle = await disk.opendir(asRoot, root);
  for (const withEntries of [true, false]) {
    const page = await disk.readdir(asRoot, handle, 0n, 65536, withEntries);
    const entries = [...decodeDirents(page)];
    const again = Buffer.alloc(page.length);
    let offset = 0;
    for (const entry of entries) offset = encodeDirent(again, offset, entry);
    assert.equal(offset, page.length);
    assert.ok(again.equals(page));
    for (const entry of entries) {
      const dots = entry.name === "." || entry.name === "..";
      assert.equal(entry.entry !== undefined, withEntries && !dots);
      if (entry.entry !== undefined) assert.deepEqual(entry.entry, await disk.lookup(asRoot, root, entry.name));
    }
  }
  await disk.releasedir(asRoot, handle);
});

test("every entry is listed once, with pages of any size, and cookies lead back to any place", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  for (let index = 0; index < 1500; index++) writeFileSync(scratch.at(`file-${index}`), "");
  const expected = new Set([".", "..", ...readdirSync(scratch.path)]);
  for (const pageBytes of [500, 4096, 65536, 1 << 20, 1 << 30]) {
    const names = (await list(scratch, root, pageBytes)).map((entry) => entry.name as string);
    assert.equal(names.length, expected.size);
    assert.deepEqual(new Set(names), expected);
  }
  const handle = await disk.opendir(asRoot, root);
  const all = await listAll(scratch, handle, 8192, false);
  for (const at of [1490, 3, 700, 0, 701, 700]) {
    const page = await disk.readdir(asRoot, handle, all[at]?.cookie ?? 0n, 400, false);
    const names = [...decodeDirents(page)].map((entry) => entry.name);
    assert.deepEqual(
      names,
      all.slice(at + 1, at + 1 + names.length).map((entry) => entry.name),
    );
  }
  await disk.releasedir(asRoot, handle);
});

test("reads of one handle at the same time do not disturb each other", async () => {
  await using scratch = await scratchDisk();
  for (let index = 0; index < 300; index++) writeFileSync(scratch.at(`file-${index}`), "");
  const handle = await scratch.disk.opendir(asRoot, scratch.root);
  const runs = await Promise.all([2000, 3000, 5000, 65536].map((bytes) => listAll(scratch, handle, bytes, true)));
  for (const run of runs) assert.equal(run.length, 302);
  const many = Array.from({ length: 100 }, () => scratch.disk.readdir(asRoot, handle, 0n, 4096, false));
  const settled = await Promise.allSettled(many);
  assert.equal(settled.filter(({ status }) => status === "fulfilled").length, 65);
  for (const one of settled) if (one.status === "rejected") assert.match(String(one.reason), /ENOBUFS/);
  await scratch.disk.releasedir(asRoot, handle);
});

test("neither '.' nor '..' of the share's root tells anything of what is above it", async () => {
  await using scratch = await scratchDisk();
  const sub = await scratch.directory("sub");
  const inode = statSync(scratch.path).ino;
  const dots = (entries: Dirent[]) =>
    Object.fromEntries(entries.filter(({ name }) => /^\.+$/.test(name)).map((entry) => [entry.name, entry.inoLow]));
  assert.deepEqual(dots(await list(scratch, scratch.root)), { ".": inode, "..": inode });
  assert.deepEqual(dots(await list(scratch, sub)), { ".": statSync(scratch.at("sub")).ino, "..": inode });
});

test("ids from a listing are as good as looked up", async () => {
  await using scratch = await scratchDisk({ limits: { nodeDescriptorsMax: 2 } });
  const { disk, root } = scratch;
  const sub = await scratch.directory("sub");
  for (let index = 0; index < 50; index++) writeFileSync(scratch.at("sub", `f${index}`), String(index));
  const entries = (await list(scratch, sub)).filter(({ entry }) => entry !== undefined);
  assert.equal(entries.length, 50);
  await disk.rename(asRoot, root, n("sub"), root, n("moved"), 0);
  for (const { name, entry } of entries) {
    const opened = await disk.open(asRoot, entry?.id as NodeId, 1);
    assert.equal(`f${await scratch.content(opened.handle)}`, name);
    await disk.release(asRoot, opened.handle);
  }
});

test("without the right to search a directory it is listed without attributes", async () => {
  await using scratch = await scratchDisk();
  const { disk } = scratch;
  const sub = await scratch.directory("sub", 0o704);
  await disk.mkdir(asRoot, sub, n("in"), mode(0o755));
  const user = as(1000);
  const handle = await disk.opendir(user, sub);
  const entries = await listAll(scratch, handle, 4096, true, user);
  assert.deepEqual(new Set(entries.map(({ name }) => name)), new Set([".", "..", "in"]));
  assert.ok(entries.every(({ entry }) => entry === undefined));
  // The caller of each read counts, not who opened.
  assert.ok((await listAll(scratch, handle, 4096, true)).some(({ entry }) => entry !== undefined));
  await disk.releasedir(user, handle);
  await refused("EACCES", disk.opendir(user, await scratch.directory("shut", 0o711)));
});

test("a directory that changes while it is read loses no entry that stays", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  for (let index = 0; index < 400; index++) writeFileSync(scratch.at(`stays-${index}`), "");
  for (let index = 0; index < 400; index++) writeFileSync(scratch.at(`goes-${index}`), "");
  const handle = await disk.opendir(asRoot, root);
  const names: string[] = [];
  let cookie = 0n;
  for (let round = 0; ; round++) {
    const page = await disk.readdir(asRoot, handle, cookie, 4096, true);
    if (page.length === 0) break;
    for (const entry of decodeDirents(page)) {
      names.push(entry.name);
      cookie = entry.cookie;
    }
    for (let index = round * 10; index < Math.min(400, round * 10 + 10); index++) {
      unlinkSync(scratch.at(`goes-${index}`));
      writeFileSync(scratch.at(`new-${index}`), "");
    }
  }
  await disk.releasedir(asRoot, handle);
  const stayed = names.filter((name) => name.startsWith("stays-"));
  assert.equal(stayed.length, 400);
  assert.equal(new Set(stayed).size, 400);
});

test("what is no directory, or no page, is refused", async () => {
  await using scratch = await scratchDisk();
  const { disk, root } = scratch;
  const file = await scratch.file("f");
  await refused("ENOTDIR", disk.opendir(asRoot, file));
  const opened = await disk.open(asRoot, file, 1);
  await refused("ENOTDIR", disk.readdir(asRoot, opened.handle, 0n, 4096, false));
  await disk.release(asRoot, opened.handle);
  const handle = await disk.opendir(asRoot, root);
  for (const bytes of [0, 10, 31]) await refused("EINVAL", disk.readdir(asRoot, handle, 0n, bytes, false));
  for (const bytes of [-1, 0.5, Number.NaN]) await refused("EINVAL", disk.readdir(asRoot, handle, 0n, bytes, false));
  // Cookies no one gave out: any answer is good that is a page or an error.
  for (const cookie of [1n, 2n ** 63n, 2n ** 64n - 1n, -1n, 12345678901234567n])
    await disk.readdir(asRoot, handle, cookie, 4096, true).then(
      (page) => [...decodeDirents(page)],
      (error: Error) => assert.match(error.message, /EINVAL/),
    );
  assert.equal((await listAll(scratch, handle, 4096, true)).length, 3);
  await disk.releasedir(asRoot, handle);
});

test("10,000 entries are listed with attributes, and a second time the same", async () => {
  await using scratch = await scratchDisk();
  const sub = scratch.at("big");
  mkdirSync(sub);
  for (let index = 0; index < 10_000; index++) writeFileSync(scratch.at("big", `${index}`), "");
  const { id } = await scratch.disk.lookup(asRoot, scratch.root, n("big"));
  const first = await list(scratch, id, 131072);
  assert.equal(first.length, 10_002);
  assert.deepEqual(await list(scratch, id, 131072), first);
  rmSync(sub, { recursive: true });
});
