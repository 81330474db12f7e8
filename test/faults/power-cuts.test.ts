/**
 * With durability `power` a server's machine loses its power at every step of everything it does: what was answered is there, each request is applied exactly
 * once when its client has sent it again, and no reply says what is not so.
 *
 * Files and records are on a disk that drops whatever was not synced, names included (test/support/strict-fs.ts), all of it, some of it or none; what dies may also be the process
 * alone. Clients come back by themselves and must get for every call what they would have got without. Data that is written plainly is fsync's: programs that are told
 * EIO begin again.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { seededRandom } from "../../scripts/bench/link-schedule.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import {
  type FileSystem,
  type HandleId,
  type NodeId,
  OpenFlag,
  RenameFlag,
  XattrFlag,
} from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { changeEverything, DEVICE, DIRECTORY, MODE, READ_WRITE } from "../support/every-change.ts";
import { ctx, named } from "../support/link-drive.ts";
import { type Machine, type MortalServer, mortalServer } from "../support/mortal-server.ts";
import { appendBoth, makeInside, outcomeOf, RACES, race } from "../support/races.ts";
import { seeded } from "../support/seed.ts";

const n = named;
const APPEND = OpenFlag.WRITE | OpenFlag.APPEND;

/** As a program that means it writes a file. */
async function writeSynced(fs: FileSystem, handle: HandleId, text: string): Promise<void> {
  do await fs.write(ctx, handle, 0, Buffer.from(text));
  while ((await outcomeOf(fs.fsync(ctx, handle, false))) === "EIO");
}

/** All that is below a directory. */
async function tree(fs: FileSystem, id: NodeId, path = ""): Promise<string[]> {
  const handle = await fs.opendir(ctx, id);
  const page = await fs.readdir(ctx, handle, 0n, 1 << 20, true);
  await fs.releasedir(ctx, handle);
  const found: string[] = [];
  for (const { name, entry } of decodeDirents(page)) {
    if (entry === undefined) continue;
    const { attr } = entry;
    const xattrs = (await fs.listxattr(ctx, entry.id)).toString();
    found.push(`${path}/${name} ${attr.mode.toString(8)} ${attr.nlink} ${attr.sizeBytes} ${xattrs}`);
    if (attr.mode >> 12 === 4) found.push(...(await tree(fs, entry.id, `${path}/${name}`)));
  }
  return found.sort();
}

async function contentOf(fs: FileSystem, directory: NodeId, name: string): Promise<string> {
  const { id } = await fs.lookup(ctx, directory, n(name));
  const { handle } = await fs.open(ctx, id, OpenFlag.READ);
  const target = Buffer.alloc(10_000);
  const bytes = await fs.read(ctx, handle, 0, target);
  await fs.release(ctx, handle);
  return target.subarray(0, bytes).toString();
}

/** Every request whose reply is kept. */
async function scenario(fs: FileSystem): Promise<void> {
  await changeEverything(fs, (handle, text) => writeSynced(fs, handle, text));
  const { id: root } = await fs.root(ctx);
  const { id: d } = await fs.lookup(ctx, root, n("d"));
  // Unlinked while it is open: it goes on.
  const { opened } = await fs.create(ctx, d, n("open"), READ_WRITE, MODE);
  await writeSynced(fs, opened.handle, "kept");
  await fs.unlink(ctx, d, n("open"));
  const target = Buffer.alloc(10);
  assert.equal(await fs.read(ctx, opened.handle, 0, target), 4);
  await fs.release(ctx, opened.handle);
}

const EXPECTED = ["/d 40755 2 0 ", "/d/s 120777 1 6 ", "/h 100600 1 3 user.x\0", "/log 100644 1 15 "];

/** Runs with these deaths; afterwards the power is cut once more, and what was answered is there. */
async function run(deaths: number[], machine: Machine, work: (server: MortalServer) => Promise<void>, what: string) {
  const server = await mortalServer(deaths, undefined, machine);
  try {
    await server.during(work(server));
  } catch (cause) {
    throw new Error(`${what}, deaths at steps ${deaths.join(", ")}:\n${server.lines.slice(-12).join("\n")}`, { cause });
  }
  return server;
}

/** The last cut, after everything. */
function cutNow(server: MortalServer): void {
  server.die();
  server.files.cut(() => false);
}

async function alone(server: MortalServer): Promise<void> {
  const remote = await server.connect();
  await scenario(remote.fileSystem);
  await remote.close();
  cutNow(server);
  const { files } = server;
  const { id: root } = await files.root();
  assert.deepEqual(await tree(files, root), EXPECTED);
  assert.equal(await contentOf(files, root, "log"), "same\nsame\nsame\n");
  assert.equal(await contentOf(files, root, "h"), "new");
}

async function atEveryStep(work: (server: MortalServer) => Promise<void>, machine: () => Machine, what: string) {
  for (let step = 1; ; step += 1) {
    const server = await run([step], machine(), work, what);
    // The last one is the test's own.
    if (server.steps < step) return step;
  }
}

/** How much of what was not synced is there after a cut. */
const LEFT: Record<string, () => boolean> = { nothing: () => false, everything: () => true };

for (const [left, survives] of Object.entries(LEFT)) {
  test(`the power goes at any step, and of what was not synced ${left} is left: everything was done once`, async (t) => {
    const steps = await atEveryStep(alone, () => ({ isCut: () => true, survives }), left);
    t.diagnostic(`${steps} steps`);
    assert.ok(steps > 150);
  });
}

test("nor does it matter if some of it is left, or if it is the process that dies first, or again", async (t) => {
  const { seed, numRuns } = seeded(t, 300);
  const random = seededRandom(seed);
  for (let at = 0; at < numRuns; at += 1) {
    const deaths = [Math.ceil(random() * 200)];
    while (random() < 0.7) deaths.push((deaths.at(-1) as number) + Math.ceil(random() ** 3 * 100));
    const machine = { isCut: () => random() < 0.6, survives: () => random() < 0.5 };
    await run(deaths, machine, alone, `run ${at}`);
  }
});

for (const kind of RACES) {
  test(`two clients that want the same, ${kind}: one gets it, whenever the power goes`, async () => {
    for (const [left, survives] of Object.entries(LEFT)) {
      await atEveryStep(
        (server) => race(server, kind),
        () => ({ isCut: () => true, survives }),
        left,
      );
    }
  });
}

const TOGETHER: Record<string, (server: MortalServer) => Promise<void>> = {
  "two clients append the same to one file: all of it is there, once": appendBoth,
  "a name in a directory that is only being made is there when it was answered": makeInside,
};

for (const [title, work] of Object.entries(TOGETHER)) {
  test(title, async () => {
    for (const [left, survives] of Object.entries(LEFT)) {
      for (const isCut of [true, false]) await atEveryStep(work, () => ({ isCut: () => isCut, survives }), left);
    }
  });
}

test("a request whose effect cannot be synced fails, and leaves nothing open", async () => {
  const server = await mortalServer([], undefined, { isCut: () => true, survives: () => false });
  await server.during(
    (async () => {
      const { fileSystem: fs, close } = await server.connect();
      const { id: root } = await fs.root(ctx);
      server.files.failing = 2;
      assert.equal(await outcomeOf(fs.mkdir(ctx, root, n("d"), DIRECTORY)), "EIO");
      assert.equal(await outcomeOf(fs.create(ctx, root, n("f"), READ_WRITE, MODE)), "EIO");
      await fs.mkdir(ctx, root, n("e"), DIRECTORY);
      await close();
    })(),
  );
  assert.equal(server.files.openCount, 0);
});

const KINDS = ["mkdir", "mknod", "symlink", "create", "link", "unlink", "rmdir", "rename", "exchange", "xattr", "mode"];

/** One request that must not run twice, on names of one worker; what it is follows from the numbers. */
async function act(fs: FileSystem, [d, e]: readonly [NodeId, NodeId], prefix: string, random: () => number) {
  const name = () => n(`${prefix}${Math.floor(random() * 3)}`);
  const directory = () => (random() < 0.7 ? d : e);
  const kind = KINDS[Math.floor(random() * KINDS.length)];
  const [parent, at, newParent, to] = [directory(), name(), directory(), name()];
  const target = Buffer.from(`target ${random()}`);
  if (kind === "mkdir") return fs.mkdir(ctx, parent, at, DIRECTORY);
  if (kind === "mknod") return fs.mknod(ctx, parent, at, DEVICE);
  if (kind === "symlink") return fs.symlink(ctx, parent, at, target);
  if (kind === "unlink") return fs.unlink(ctx, parent, at);
  if (kind === "rmdir") return fs.rmdir(ctx, parent, at);
  if (kind === "rename") return fs.rename(ctx, parent, at, newParent, to, 0);
  if (kind === "exchange") return fs.rename(ctx, parent, at, newParent, to, RenameFlag.EXCHANGE);
  if (kind === "create") {
    const { opened } = await fs.create(ctx, parent, at, READ_WRITE | OpenFlag.EXCL, MODE);
    return fs.release(ctx, opened.handle);
  }
  const { id } = await fs.lookup(ctx, parent, at);
  if (kind === "link") return fs.link(ctx, id, newParent, to);
  if (kind === "mode") return fs.setattr(ctx, id, { mode: Math.floor(random() * 0o1000) });
  return fs.setxattr(ctx, id, n("user.x"), target, XattrFlag.CREATE);
}

const WORKERS = 3;
const ACTS = 25;

/** Does the same acts here and on a file system that nothing happens to: each must come out the same. */
async function worker(fs: FileSystem, truth: FileSystem, at: number, seed: number, start: readonly [NodeId, NodeId]) {
  const [random, again] = [seededRandom(seed + at), seededRandom(seed + at)];
  const { id: root } = await truth.root(ctx);
  const [d, e] = await Promise.all(["d", "e"].map((name) => truth.lookup(ctx, root, n(name))));
  const places = [d?.id as NodeId, e?.id as NodeId] as const;
  const log = await fs.create(ctx, start[0], n(`log${at}`), APPEND, MODE);
  for (let count = 0; count < ACTS; count += 1) {
    const outcome = await outcomeOf(act(fs, start, `${at}-`, random));
    assert.equal(outcome, await outcomeOf(act(truth, places, `${at}-`, again)), `worker ${at}, act ${count}`);
    await fs.write(ctx, log.opened.handle, 0, Buffer.from(`line ${count}\n`));
  }
  await fs.release(ctx, log.opened.handle);
}

async function workers(server: MortalServer, seed: number): Promise<void> {
  const remote = await server.connect();
  const { fileSystem: fs } = remote;
  const { id: root } = await fs.root(ctx);
  const d = await fs.mkdir(ctx, root, n("d"), DIRECTORY);
  const e = await fs.mkdir(ctx, root, n("e"), DIRECTORY);
  const truth = new MemoryFs();
  const { id: top } = await truth.root();
  for (const name of ["d", "e"]) await truth.mkdir(ctx, top, n(name), DIRECTORY);
  const all = Array.from({ length: WORKERS }, (_, at) => worker(fs, truth, at, seed, [d.id, e.id]));
  await Promise.all(all);
  await remote.close();
  cutNow(server);
  const { files } = server;
  const lines = Array.from({ length: ACTS }, (_, count) => `line ${count}\n`).join("");
  for (let at = 0; at < WORKERS; at += 1) {
    assert.equal(await contentOf(files, d.id, `log${at}`), lines);
    await files.unlink(ctx, d.id, n(`log${at}`));
  }
  assert.deepEqual(await tree(files, root), await tree(truth, top));
}

test("what several do at once in two directories comes out as where the power never goes", async (t) => {
  const { seed, numRuns } = seeded(t, 100);
  const random = seededRandom(seed);
  let deaths = 0;
  for (let at = 0; at < numRuns; at += 1) {
    const deathsAt = [Math.ceil(random() * 200)];
    for (let more = 0; more < 8; more += 1) deathsAt.push((deathsAt.at(-1) as number) + Math.ceil(random() ** 2 * 400));
    const chance = random();
    const machine = { isCut: () => random() < 0.7, survives: () => random() < chance };
    const server = await run(deathsAt, machine, (server) => workers(server, seed + at * WORKERS), `run ${at}`);
    deaths += server.deaths - 1;
  }
  t.diagnostic(`${deaths} deaths`);
});
