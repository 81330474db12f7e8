/**
 * A link that breaks at every frame and inside every frame, between a client that comes back and its server, both in memory.
 *
 * The scenario uses every operation of the protocol. It is run once over a sound link, which says where frames begin and end in each direction of each
 * connection; then once for each of these places, and places inside the frames, with the link cut there. Each time every result and all contents are as over the
 * sound link, whatever changes something was done exactly once, and in the end nothing is held on either side.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Remote } from "../../src/client/remote.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import { type FileSystem, type HandleId, type NodeId, OpenFlag, RenameFlag } from "../../src/vfs/file-system.ts";
import { messages } from "../../src/wire/codec.ts";
import { HEADER_BYTES } from "../../src/wire/limits.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { ctx, named } from "../support/link-drive.ts";
import { type Connection, type ReturningDrive, returningDrive } from "../support/returning-drive.ts";

const SECTION = 4096;
const NEW_FILE = { mode: 0o100644, umask: 0 };
const NEW_DIRECTORY = { mode: 0o755, umask: 0 };
const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;
const DATA = Buffer.from(Array.from({ length: 3 * SECTION + 100 }, (_, at) => (at * 7) & 255));
const IDLE_ROUNDS = 30;

/** Everything that must not be done twice, and how often each was done. */
function counting(behind: FileSystem): { fileSystem: FileSystem; counts: Record<string, number> } {
  const counts: Record<string, number> = {};
  const once = new Set<string>(
    Object.values(messages)
      .filter(({ row }) => row.replay === "once")
      .map(({ name }) => name),
  );
  once.add("releasedir");
  const fileSystem = new Proxy(behind, {
    get: (target, name: string) => {
      const method = (target as unknown as Record<string, unknown>)[name];
      if (typeof method !== "function") return method;
      return (...args: unknown[]) => {
        if (once.has(name)) counts[name] = (counts[name] ?? 0) + 1;
        return method.apply(target, args);
      };
    },
  });
  return { fileSystem, counts };
}

/** Uses every operation; whatever it gets is in what it returns. */
async function scenario({ fileSystem, queryKey }: Pick<Remote, "fileSystem" | "queryKey">): Promise<unknown[]> {
  const seen: unknown[] = [];
  const { id: root } = await fileSystem.root(ctx);
  const { id: directory } = await fileSystem.mkdir(ctx, root, named("d"), NEW_DIRECTORY);
  const { entry, opened } = await fileSystem.create(ctx, directory, named("f"), READ_WRITE, NEW_FILE);
  await writeAndRead(fileSystem, opened.handle, entry.id, seen);
  await copyAndAppend(fileSystem, directory, opened.handle, seen);
  seen.push((await queryKey(ctx, opened.handle)).openId > 0);
  await nameThings(fileSystem, directory, entry.id, seen);
  await fileSystem.release(ctx, opened.handle);
  fileSystem.forget([entry.id]);
  await fileSystem.unlink(ctx, directory, named("g"));
  await fileSystem.mkdir(ctx, directory, named("e"), NEW_DIRECTORY);
  await fileSystem.rmdir(ctx, directory, named("e"));
  await assert.rejects(fileSystem.rmdir(ctx, directory, named("e")), { errno: "ENOENT" });
  seen.push((await fileSystem.statfs(ctx, root)).blockBytes);
  await fileSystem.syncfs(ctx, root);
  return seen;
}

async function writeAndRead(fileSystem: FileSystem, handle: HandleId, id: NodeId, seen: unknown[]): Promise<void> {
  seen.push(await fileSystem.write(ctx, handle, 0, DATA));
  const target = Buffer.alloc(DATA.length);
  const [read, attr] = await Promise.all([
    fileSystem.read(ctx, handle, 0, target),
    fileSystem.getattr(ctx, id, handle),
  ]);
  seen.push(read, attr.sizeBytes, target.equals(DATA));
  await fileSystem.fsync(ctx, handle, false);
  await fileSystem.flush(ctx, handle);
  await fileSystem.fallocate(ctx, handle, 0, 0, DATA.length + 50);
  seen.push(await fileSystem.lseek(ctx, handle, 10, "hole"));
  seen.push((await fileSystem.setattr(ctx, id, { sizeBytes: DATA.length + 10 })).sizeBytes);
}

async function copyAndAppend(fileSystem: FileSystem, directory: NodeId, handle: HandleId, seen: unknown[]) {
  const flags = READ_WRITE | OpenFlag.APPEND;
  const { entry, opened } = await fileSystem.create(ctx, directory, named("log"), flags, NEW_FILE);
  for (const text of ["one ", "two ", "three "])
    seen.push(await fileSystem.write(ctx, opened.handle, 0, Buffer.from(text)));
  seen.push(await fileSystem.write(ctx, opened.handle, 0, DATA));
  await fileSystem.release(ctx, opened.handle);
  const copy = await fileSystem.tmpfile(ctx, directory, READ_WRITE, NEW_FILE);
  const source = { handle, offsetBytes: 5 };
  seen.push(await fileSystem.copyFileRange(ctx, source, { handle: copy.opened.handle, offsetBytes: 0 }, 100));
  await fileSystem.release(ctx, copy.opened.handle);
  const again = await fileSystem.open(ctx, entry.id, OpenFlag.READ);
  const target = Buffer.alloc(20);
  seen.push(await fileSystem.read(ctx, again.handle, 0, target), String(target.subarray(0, 14)));
  await fileSystem.release(ctx, again.handle);
}

async function nameThings(fileSystem: FileSystem, directory: NodeId, id: NodeId, seen: unknown[]): Promise<void> {
  await fileSystem.setxattr(ctx, id, named("user.a"), Buffer.from("value"), 0);
  seen.push(String(await fileSystem.getxattr(ctx, id, named("user.a"))), String(await fileSystem.listxattr(ctx, id)));
  await fileSystem.removexattr(ctx, id, named("user.a"));
  await assert.rejects(fileSystem.removexattr(ctx, id, named("user.a")), { errno: "ENODATA" });
  const link = await fileSystem.symlink(ctx, directory, named("s"), Buffer.from("target"));
  seen.push(String(await fileSystem.readlink(ctx, link.id)));
  await fileSystem.mknod(ctx, directory, named("p"), { mode: 0o010600, umask: 0, rdevMajor: 0, rdevMinor: 0 });
  seen.push((await fileSystem.link(ctx, id, directory, named("h"))).attr.nlink);
  await assert.rejects(fileSystem.link(ctx, id, directory, named("h")), { errno: "EEXIST" });
  await fileSystem.rename(ctx, directory, named("f"), directory, named("g"), RenameFlag.NOREPLACE);
  await assert.rejects(fileSystem.lookup(ctx, directory, named("f")), { errno: "ENOENT" });
  await fileSystem.access(ctx, id, 4);
  const listing = await fileSystem.opendir(ctx, directory);
  const page = await fileSystem.readdir(ctx, listing, 0n, 4096, true);
  seen.push([...decodeDirents(page)].map(({ name }) => name));
  await fileSystem.fsyncdir(ctx, listing, false);
  await fileSystem.releasedir(ctx, listing);
}

/** All that is in a file system, as text. */
async function contentsOf(fileSystem: MemoryFs, id?: NodeId, path = ""): Promise<string[]> {
  const directory = id ?? (await fileSystem.root()).id;
  const lines: string[] = [];
  const listing = await fileSystem.opendir(ctx, directory);
  for (const { name, entry } of decodeDirents(await fileSystem.readdir(ctx, listing, 0n, 65_536, true))) {
    if (entry === undefined) continue;
    const { mode, nlink, sizeBytes } = entry.attr;
    let text = "";
    if ((mode & 0o170000) === 0o100000) {
      const data = Buffer.alloc(sizeBytes);
      const { handle } = await fileSystem.open(ctx, entry.id, OpenFlag.READ);
      await fileSystem.read(ctx, handle, 0, data);
      await fileSystem.release(ctx, handle);
      text = data.toString("base64");
    }
    lines.push(`${path}/${name} ${mode.toString(8)} ${nlink} ${sizeBytes} ${text}`);
    if ((mode & 0o170000) === 0o040000) lines.push(...(await contentsOf(fileSystem, entry.id, `${path}/${name}`)));
  }
  await fileSystem.releasedir(ctx, listing);
  return lines;
}

interface Outcome {
  readonly seen: unknown[];
  readonly counts: Record<string, number>;
  readonly contents: string[];
  readonly connections: readonly Connection[];
}

/** Where to cut: a direction of a connection, counted from 0 as they are made. */
interface Cut {
  readonly connection: number;
  readonly from: "client" | "server";
  readonly atByte: number;
}

/** Runs the scenario to its end, while time passes only as long as nothing else happens. */
async function finish<T>(drive: ReturningDrive, run: Promise<T>): Promise<T> {
  let isOver = false;
  const over = () => {
    isOver = true;
  };
  run.then(over, over);
  for (let heard = -1, idle = 0; !isOver; ) {
    await new Promise<void>((resolve) => setImmediate(resolve));
    const { receivedBytes, sentBytes } = drive.server.counters();
    idle = heard === receivedBytes + sentBytes ? idle + 1 : 0;
    heard = receivedBytes + sentBytes;
    if (idle < IDLE_ROUNDS) continue;
    drive.clock.advance(100);
    idle = 0;
    assert.ok(drive.clock.monotonicMs() < 600_000, "the scenario hangs");
  }
  return run;
}

/** @param watch  told of each connection before its first byte. */
async function run(
  cuts: readonly Cut[],
  watch: (connection: Connection, index: number) => void = () => {},
): Promise<Outcome> {
  const share = new MemoryFs();
  const { fileSystem, counts } = counting(share);
  const client = { sectionBytes: SECTION, credits: 8, leases: true };
  const drive = await returningDrive({
    fileSystem,
    client,
    onConnection: (connection, index) => {
      for (const { connection: wanted, from, atByte } of cuts)
        if (wanted === index) connection[from].faults.cutAtByte = atByte;
      watch(connection, index);
    },
  });
  const seen = await finish(drive, scenario(drive.remote));
  await finish(drive, drive.remote.close());
  drive.clock.advance(2_000_000);
  await finish(drive, new Promise<void>((resolve) => setImmediate(resolve)));
  const { channels, sessions, handles, bufferBytes } = drive.server.counters();
  assert.deepEqual(
    { channels, sessions, handles, bufferBytes, opens: share.openCount, timers: drive.clock.pendingCount },
    { channels: 0, sessions: 0, handles: 0, bufferBytes: 0, opens: 0, timers: 0 },
  );
  return { seen, counts: { ...counts }, contents: await contentsOf(share), connections: drive.connections };
}

/** Keeps what is written on each way of a connection. */
function recorder(): { watch: (connection: Connection, index: number) => void; sent: Map<string, Buffer[]> } {
  const sent = new Map<string, Buffer[]>();
  const watch = (connection: Connection, index: number) => {
    for (const from of ["client", "server"] as const) {
      const pieces: Buffer[] = [];
      sent.set(`${index} ${from}`, pieces);
      const link = connection[from];
      const write = link.write.bind(link);
      link.write = (chunks, done) => {
        for (const chunk of chunks) pieces.push(Buffer.from(chunk));
        write(chunks, done);
      };
    }
  };
  return { watch, sent };
}

/** Places in a stream of frames: each boundary, and in each frame the header's middle and end, the middle, and the last byte. */
function placesOf(stream: Buffer): number[] {
  const places = new Set<number>();
  for (let at = 0; at < stream.length; ) {
    const bytes = HEADER_BYTES + stream.readUInt32LE(at);
    for (const place of [1, 11, HEADER_BYTES, Math.floor(bytes / 2), bytes - 1, bytes])
      places.add(at + Math.min(place, bytes));
    at += bytes;
  }
  return [...places].sort((a, b) => a - b);
}

/** Runs with these cuts and compares with the run over a sound link. */
async function compare(sound: Outcome, cuts: readonly Cut[]): Promise<Outcome> {
  const label = JSON.stringify(cuts);
  const outcome = await run(cuts).catch((error: unknown) => {
    throw new Error(`${label}: ${error instanceof Error ? error.stack : String(error)}`);
  });
  assert.deepEqual(outcome.seen, sound.seen, label);
  assert.deepEqual(outcome.contents, sound.contents, label);
  assert.deepEqual(outcome.counts, sound.counts, label);
  return outcome;
}

// The first two connections are control and io; a cut before both are there ends connecting, as it should.
for (const [connection, kind] of ["control", "io"].entries()) {
  for (const from of ["client", "server"] as const) {
    test(`what the ${from} sends on the ${kind} connection may end anywhere: nothing is lost, nothing is done twice`, async () => {
      const { watch, sent } = recorder();
      let setUpBytes = 0;
      const sound = await run([], (link, index) => {
        watch(link, index);
        // All that came on control before the io connection was made is set-up.
        if (index === 1) setUpBytes = Buffer.concat(sent.get(`0 ${from}`) ?? []).length;
      });
      const places = placesOf(Buffer.concat(sent.get(`${connection} ${from}`) ?? []));
      let cuts = 0;
      let returns = 0;
      for (const atByte of places) {
        if (atByte <= (connection === 0 ? setUpBytes : 400)) continue;
        const { connections } = await compare(sound, [{ connection, from, atByte }]);
        cuts += 1;
        if (connections.length > sound.connections.length) returns += 1;
      }
      // Only what comes with the goodbye is not worth coming back for.
      assert.ok(returns > cuts - 12, `${cuts} cuts, ${returns} returns`);
      assert.ok(cuts > 20, `${cuts} cuts`);
    });
  }
}

for (const from of ["client", "server"] as const) {
  test(`the way back may break anywhere in what the ${from} sends, too`, async () => {
    const sound = await run([]);
    const first: Cut = { connection: 0, from: "server", atByte: 2400 };
    const broken = recorder();
    await run([first], broken.watch);
    const places = placesOf(Buffer.concat(broken.sent.get(`2 ${from}`) ?? []));
    for (const atByte of places) await compare(sound, [first, { connection: 2, from, atByte }]);
    assert.ok(places.length > 20, `${places.length} cuts`);
  });
}
