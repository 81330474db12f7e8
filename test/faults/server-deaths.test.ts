/**
 * A server that dies at every step of everything it does, and the next one: each request is applied exactly once.
 *
 * For N = 1, 2, ... the server dies at its Nth step, until a run passes without; then with a second death some steps after the first. Clients come back by themselves,
 * and must get for every call what they would have got without.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { CancelSource } from "../../src/base/signals.ts";
import type { Remote } from "../../src/client/remote.ts";
import { identify } from "../../src/server/state/restore.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import { type FileSystem, type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { type Lock, type LockOwner, WHOLE_FILE } from "../../src/vfs/lock.ts";
import { changeEverything, MODE, READ_WRITE } from "../support/every-change.ts";
import { ctx, named } from "../support/link-drive.ts";
import { MemoryStore } from "../support/memory-store.ts";
import { type MortalServer, mortalServer } from "../support/mortal-server.ts";
import { appendBoth, outcomeOf, RACES, race } from "../support/races.ts";

const n = named;

async function scenario({ fileSystem: fs }: Remote): Promise<void> {
  await changeEverything(fs, async (handle, text) => {
    assert.equal(await fs.write(ctx, handle, 0, Buffer.from(text)), text.length);
    await fs.fsync(ctx, handle, false);
  });
}

/** All names below a directory, with what they lead to. */
async function tree(fs: FileSystem, id: NodeId, path = ""): Promise<string[]> {
  const handle = await fs.opendir(ctx, id);
  const page = await fs.readdir(ctx, handle, 0n, 65_536, true);
  await fs.releasedir(ctx, handle);
  const found: string[] = [];
  for (const { name, entry } of decodeDirents(page)) {
    if (entry === undefined) continue;
    const { attr } = entry;
    found.push(`${path}/${name} ${(attr.mode >> 12).toString(8)} ${attr.nlink} ${attr.sizeBytes}`);
    if (attr.mode >> 12 === 4) found.push(...(await tree(fs, entry.id, `${path}/${name}`)));
  }
  return found.sort();
}

async function contentOf(fs: FileSystem, name: string): Promise<string> {
  const { id: root } = await fs.root(ctx);
  const { id } = await fs.lookup(ctx, root, n(name));
  const { handle } = await fs.open(ctx, id, OpenFlag.READ);
  const target = Buffer.alloc(100);
  const bytes = await fs.read(ctx, handle, 0, target);
  await fs.release(ctx, handle);
  return target.subarray(0, bytes).toString();
}

/** Opens, and handles by attaching, that are kept when the server has done all it was asked for. */
async function openRecords({ records }: MortalServer, ...remotes: readonly Remote[]): Promise<string[]> {
  for (const { fileSystem: fs } of remotes) {
    const { id: root } = await fs.root(ctx);
    // Not ahead of the releases.
    await fs.syncfs(ctx, root);
  }
  return [...records.keys()].filter((key) => "oa".includes(key[0] as string));
}

const EXPECTED = ["/d 4 2 0", "/d/s 12 1 6", "/h 10 1 3", "/log 10 1 15"];

/** Runs with these deaths and checks what is there afterwards. */
async function run(deaths: number[], work: (server: MortalServer) => Promise<void>): Promise<MortalServer> {
  const server = await mortalServer(deaths);
  try {
    await server.during(work(server));
  } catch (error) {
    throw new Error(`deaths at steps ${deaths.join(" and ")}:\n${server.lines.slice(-12).join("\n")}`, {
      cause: error,
    });
  }
  return server;
}

async function alone(server: MortalServer): Promise<void> {
  const remote = await server.connect();
  await scenario(remote);
  const { files } = server;
  const { id: root } = await files.root();
  assert.deepEqual(await tree(files, root), EXPECTED);
  assert.deepEqual(await contentOf(files, "log"), "same\nsame\nsame\n");
  assert.deepEqual(await contentOf(files, "h"), "new");
  const { id } = await files.lookup(ctx, root, n("h"));
  assert.equal((await files.listxattr(ctx, id)).toString(), "user.x\0");
  assert.deepEqual(await openRecords(server, remote), [], "what nobody has a handle of");
  await remote.close();
}

async function atEveryStep(work: (server: MortalServer) => Promise<void>, gap: number | undefined): Promise<number> {
  for (let step = 1; ; step += 1) {
    const server = await run(gap === undefined ? [step] : [step, step + gap], work);
    if (server.deaths === 0) return step;
  }
}

test("a server that dies at any step has done everything once, when the next one has answered", async (t) => {
  const steps = await atEveryStep(alone, undefined);
  t.diagnostic(`${steps} steps`);
  assert.ok(steps > 100);
});

test("nor does it matter when the next one dies as well, soon or later", async () => {
  for (const gap of [1, 3, 8, 40]) await atEveryStep(alone, gap);
});

for (const kind of RACES) {
  test(`two clients that want the same, ${kind}: one gets it, whenever the server dies`, async () => {
    await atEveryStep((server) => race(server, kind), undefined);
  });
}

test("two clients append the same to one file: all of it is there, once, whenever the server dies", async () => {
  await atEveryStep(appendBoth, undefined);
});

/** Whether the fsync after the deaths says that data or names may be lost: once for a file written to lazily and for a directory, never for others. */
async function fsyncsAfter(deaths: number[], hostBootId: (start: number) => string): Promise<string[]> {
  const server = await mortalServer(deaths, hostBootId);
  const work = async () => {
    const { fileSystem: fs, close } = await server.connect();
    const { id: root } = await fs.root(ctx);
    const opens = [];
    for (const flags of [READ_WRITE, READ_WRITE | OpenFlag.SYNC]) {
      const { opened } = await fs.create(ctx, root, n(`f${flags}`), flags, MODE);
      await fs.write(ctx, opened.handle, 0, Buffer.from("data"));
      opens.push(opened.handle);
    }
    // The deaths come here.
    for (let count = 0; count < 40; count += 1) await fs.getattr(ctx, root);
    const outcomes: string[] = [];
    for (const handle of opens) {
      for (let again = 0; again < 2; again += 1) outcomes.push(await outcomeOf(fs.fsync(ctx, handle, false)));
    }
    const directory = await fs.opendir(ctx, root);
    for (let again = 0; again < 2; again += 1) outcomes.push(await outcomeOf(fs.fsyncdir(ctx, directory, false)));
    await fs.releasedir(ctx, directory);
    await close();
    return outcomes;
  };
  const outcomes = await server.during(work());
  assert.equal(server.deaths, deaths.length);
  return outcomes;
}

test("after a restart of the machine the next fsync says that data and names may be lost, also if the server has died once more since", async () => {
  const done = ["done", "done", "done", "done", "done", "done"];
  const lost = ["EIO", "done", "done", "done", "EIO", "done"];
  assert.deepEqual(await fsyncsAfter([60], () => "same"), done);
  assert.deepEqual(await fsyncsAfter([60], (start) => `boot ${start}`), lost);
  assert.deepEqual(await fsyncsAfter([60, 85], (start) => (start === 0 ? "first" : "second")), lost);
});

/** A client that has come in by a ticket goes on with its handle. @returns how many steps had been done when it had it. */
async function asGuest(server: MortalServer): Promise<number> {
  const first = await server.connect();
  const { id: root } = await first.fileSystem.root(ctx);
  const { entry, opened } = await first.fileSystem.create(ctx, root, n("f"), READ_WRITE, MODE);
  const ticket = await first.ticketFor(ctx, opened.handle);
  const second = await server.connect(ticket);
  const { handle } = await second.attach(ctx, ticket);
  const steps = server.steps;
  const { fileSystem: guest } = second;
  assert.equal(await guest.write(ctx, handle, 0, Buffer.from("by a guest")), 10);
  await guest.fsync(ctx, handle, false);
  assert.equal(await outcomeOf(guest.root(ctx)), "EACCES", "it is a guest still");
  await first.fileSystem.write(ctx, opened.handle, 10, Buffer.from("!"));
  assert.equal((await guest.getattr(ctx, entry.id, handle)).sizeBytes, 11);
  assert.equal(await guest.write(ctx, handle, 0, Buffer.from("By")), 2);
  await guest.release(ctx, handle);
  assert.equal(await outcomeOf(guest.getattr(ctx, entry.id, handle)), "EBADF");
  await first.fileSystem.release(ctx, opened.handle);
  assert.equal(await contentOf(first.fileSystem, "f"), "By a guest!");
  await second.close();
  await first.close();
  return steps;
}

test("who has attached to an open goes on with it, whenever the server dies, as long as whoever made it has it", async (t) => {
  const calm = await mortalServer([]);
  const begin = (await calm.during(asGuest(calm))) + 1;
  t.diagnostic(`steps ${begin} to ${calm.steps}`);
  assert.ok(calm.steps > begin + 10);
  for (let step = begin; step <= calm.steps; step += 1) {
    await run([step], async (server) => void (await asGuest(server)));
  }
  assert.equal(calm.records.size, 1, "who the server is");
});

/** Locks the whole file of an open, or gives that up. */
function setlk(fs: FileSystem, handle: HandleId, kind: Lock["kind"], type: Lock["type"], wait = false) {
  const lock = { ...WHOLE_FILE, kind, type, owner: 1n as LockOwner, pid: 1 };
  return (fs.setlk as NonNullable<FileSystem["setlk"]>).call(fs, ctx, handle, lock, wait);
}

/** One client waits for what another has locked. `isEager`: the other one is the first to come back. */
async function handOver(server: MortalServer, kind: Lock["kind"], isEager: boolean): Promise<void> {
  const remotes = [await server.connect(), await server.connect()] as const;
  const [{ fileSystem: mine }, { fileSystem: theirs }] = isEager ? remotes : ([remotes[1], remotes[0]] as const);
  const { id: root } = await mine.root(ctx);
  const { entry, opened } = await mine.create(ctx, root, n("f"), READ_WRITE, MODE);
  const { handle } = await theirs.open(ctx, entry.id, READ_WRITE);
  await setlk(mine, opened.handle, kind, "write");
  const waiting = setlk(theirs, handle, kind, "write", true);
  await theirs.getattr(ctx, entry.id);
  await setlk(mine, opened.handle, kind, "unlock");
  await waiting;
  assert.equal(await outcomeOf(setlk(mine, opened.handle, kind, "write")), "EAGAIN", "one at a time");
  await setlk(theirs, handle, kind, "unlock");
  assert.equal(await outcomeOf(setlk(mine, opened.handle, kind, "write")), "done", "nothing is left behind");
  for (const remote of remotes) await remote.close();
}

test("a lock that was waited for is nobody else's while it is used, and free afterwards, whenever the server dies", async () => {
  for (const kind of ["posix", "flock"] as const) {
    for (const isEager of [true, false]) await atEveryStep((server) => handOver(server, kind, isEager), undefined);
  }
});

/** One loses interest in a lock as it becomes his. */
async function giveWay(server: MortalServer): Promise<void> {
  const [one, two] = [await server.connect(), await server.connect()];
  const [mine, theirs] = [one.fileSystem, two.fileSystem];
  const { id: root } = await mine.root(ctx);
  const { entry, opened } = await mine.create(ctx, root, n("f"), READ_WRITE, MODE);
  const { handle } = await theirs.open(ctx, entry.id, READ_WRITE);
  const signal = new CancelSource();
  await setlk(mine, opened.handle, "posix", "write");
  const lock = { ...WHOLE_FILE, kind: "posix", type: "write", owner: 1n as LockOwner, pid: 1 } as const;
  const waiting = theirs.setlk?.call(theirs, { ...ctx, signal }, handle, lock, true);
  const gone = assert.rejects(waiting as Promise<unknown>);
  await theirs.getattr(ctx, entry.id);
  const unlocked = setlk(mine, opened.handle, "posix", "unlock");
  signal.abort();
  await Promise.all([unlocked, gone]);
  // The server may die before anything else is written down about locks of this file.
  for (let count = 0; count < 4; count += 1) await mine.getattr(ctx, entry.id);
  await setlk(mine, opened.handle, "posix", "write", true);
  await one.close();
  await two.close();
}

test("nor does a lock stay behind that its waiter has lost interest in", async () => {
  await atEveryStep(giveWay, undefined);
});

/** A client attaches to another's open, if it may. @returns the steps that had been done before and after that. */
async function attachOnce(server: MortalServer): Promise<{ begin: number; end: number }> {
  const [first, second] = [await server.connect(), await server.connect()];
  const { id: root } = await first.fileSystem.root(ctx);
  const { opened } = await first.fileSystem.create(ctx, root, n("f"), READ_WRITE, MODE);
  const ticket = await first.ticketFor(ctx, opened.handle);
  const begin = server.steps + 1;
  const attached = await second.attach(ctx, ticket).catch((error: unknown) => {
    // The next start does not know the challenge any more.
    assert.ok(error instanceof FsError && error.errno === "ESTALE");
  });
  const end = server.steps;
  if (attached !== undefined) await second.fileSystem.release(ctx, attached.handle);
  await first.fileSystem.release(ctx, opened.handle);
  assert.deepEqual(await openRecords(server, first, second), [], "what nobody has a handle of");
  await second.close();
  await first.close();
  return { begin, end };
}

test("whoever gets no handle by attaching leaves none behind, whenever the server dies", async () => {
  const calm = await mortalServer([]);
  const { begin, end } = await calm.during(attachOnce(calm));
  assert.ok(end > begin + 2);
  for (let step = begin; step <= end; step += 1) {
    await run([step], async (server) => void (await attachOnce(server)));
  }
});

test("a start that dies before it has marked what may be lost leaves the boot before written down", () => {
  const first = new MemoryStore();
  const found = (hostBootId: string) => identify({ store: first, records: first.records, hostBootId });
  assert.equal(found("boot 1").isHostRestarted, false);
  for (let start = 0; start < 3; start += 1) {
    assert.equal(found("boot 2").isHostRestarted, true);
  }
});
