/**
 * A storm in memory, the same for the same seed: several callers at once, and a link that is cut, stalled, half-opened, delayed and split at random.
 *
 * Each caller works in a directory of its own and knows by a model what must come of every operation: on a local file system it would come of it. No operation may fail
 * otherwise, or give anything else; afterwards the contents are the model's, and nothing is held on either side. Time is a fake clock that passes as long as
 * nothing else happens. NETDRIVE_TEST_SEED chooses another first seed.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { seededRandom } from "../../scripts/bench/link-schedule.ts";
import { FsError } from "../../src/base/errors.ts";
import { LastKnownFileSystem } from "../../src/cache/last-known.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import { type FileSystem, type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { ctx, named } from "../support/link-drive.ts";
import { type Connection, type ReturningDrive, returningDrive } from "../support/returning-drive.ts";
import { seeded } from "../support/seed.ts";

const NEW_FILE = { mode: 0o100644, umask: 0 };
const NEW_DIRECTORY = { mode: 0o755, umask: 0 };
const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;
const SECTION = 4096;
const CALLERS = 4;
const STEPS = 80;
const NAMES = ["a", "b", "c", "d", "e"];
const BYTES_MAX = 20_000;
const RUNS = 24;
const QUIET_ROUNDS = 25;
/** A harm every so many rounds of the event loop, on the average. */
const HARM_EVERY = 60;
/** Of every line: otherwise everything would be done before it can be harmed. */
const DELAY_MS_MAX = 10;

/** What one caller knows of a file. */
interface ModelFile {
  id: NodeId;
  data: Buffer;
  nlink: number;
  mode: number;
  attributes: Map<string, string>;
}

interface ModelOpen {
  readonly file: ModelFile;
  readonly handle: HandleId;
  readonly isAppending: boolean;
}

type Random = () => number;

/** One caller: does one thing after the other in its own directory, and knows what must come of it. */
class Caller {
  readonly #fileSystem: FileSystem;
  readonly #directory: NodeId;
  readonly #random: Random;
  readonly #names = new Map<string, ModelFile>();
  readonly #opens: ModelOpen[] = [];
  #step = 0;

  constructor(fileSystem: FileSystem, directory: NodeId, random: Random) {
    this.#fileSystem = fileSystem;
    this.#directory = directory;
    this.#random = random;
  }

  async work(): Promise<void> {
    const steps = [
      this.#create,
      this.#write,
      this.#write,
      this.#read,
      this.#truncate,
      this.#rename,
      this.#unlink,
    ] as const;
    const more = [this.#link, this.#list, this.#attributes, this.#look, this.#close, this.#folder, this.#sync] as const;
    const all = [...steps, ...more];
    for (this.#step = 0; this.#step < STEPS; this.#step += 1) {
      const step = all[this.#below(all.length)] as () => Promise<void>;
      try {
        await step.call(this);
      } catch (error) {
        throw new Error(`step ${this.#step}, ${step.name}: ${error instanceof Error ? error.stack : String(error)}`);
      }
    }
    for (const { handle } of this.#opens) await this.#fileSystem.release(ctx, handle);
  }

  /** What must be there in the end: names, sizes, bytes. */
  get expected(): string[] {
    return [...this.#names].map(([name, file]) => describe(name, file.data, file.nlink, file.mode)).sort();
  }

  #below(limit: number): number {
    return Math.floor(this.#random() * limit);
  }

  #name(): string {
    return NAMES[this.#below(NAMES.length)] as string;
  }

  #anyOpen(): ModelOpen | undefined {
    return this.#opens[this.#below(this.#opens.length)];
  }

  /** Runs it, and checks that it fails exactly if it should. */
  async #expect<T>(errno: string | undefined, act: Promise<T>): Promise<T | undefined> {
    try {
      const value = await act;
      assert.equal(undefined, errno);
      return value;
    } catch (error) {
      if (!(error instanceof FsError) || errno === undefined) throw error;
      assert.equal(error.errno, errno);
      return undefined;
    }
  }

  async #create(): Promise<void> {
    const name = this.#name();
    const isAppending = this.#random() < 0.4;
    const isExclusive = this.#random() < 0.3;
    const flags = READ_WRITE | (isAppending ? OpenFlag.APPEND : 0) | (isExclusive ? OpenFlag.EXCL : 0);
    const there = this.#names.get(name);
    const errno = isExclusive && there !== undefined ? "EEXIST" : undefined;
    const made = await this.#expect(errno, this.#fileSystem.create(ctx, this.#directory, named(name), flags, NEW_FILE));
    if (made === undefined) return;
    const fresh = { id: made.entry.id, data: Buffer.alloc(0), nlink: 1, mode: 0o100644, attributes: new Map() };
    const file = there ?? fresh;
    assert.equal(made.entry.id, file.id);
    this.#names.set(name, file);
    this.#opens.push({ file, handle: made.opened.handle, isAppending });
  }

  async #write(): Promise<void> {
    const open = this.#anyOpen();
    if (open === undefined) return;
    const { file, handle, isAppending } = open;
    const data = Buffer.alloc(1 + this.#below(this.#random() < 0.3 ? 3 * SECTION : 200), 1 + this.#below(255));
    const at = isAppending ? file.data.length : this.#below(file.data.length + 100);
    if (at + data.length > BYTES_MAX) return;
    assert.equal(await this.#fileSystem.write(ctx, handle, isAppending ? 0 : at, data), data.length);
    const grown = Buffer.alloc(Math.max(file.data.length, at + data.length));
    file.data.copy(grown);
    data.copy(grown, at);
    file.data = grown;
  }

  async #read(): Promise<void> {
    const open = this.#anyOpen();
    if (open === undefined) return;
    const target = Buffer.alloc(1 + this.#below(2 * SECTION));
    const at = this.#below(open.file.data.length + 10);
    const bytes = await this.#fileSystem.read(ctx, open.handle, at, target);
    const expected = open.file.data.subarray(at, at + target.length);
    assert.ok(target.subarray(0, bytes).equals(expected), `${bytes} bytes read, not the ${expected.length} written`);
  }

  async #truncate(): Promise<void> {
    const open = this.#anyOpen();
    if (open === undefined) return;
    const sizeBytes = this.#below(BYTES_MAX / 2);
    const attr = await this.#fileSystem.setattr(ctx, open.file.id, { sizeBytes }, open.handle);
    assert.equal(attr.sizeBytes, sizeBytes);
    const data = Buffer.alloc(sizeBytes);
    open.file.data.copy(data);
    open.file.data = data;
  }

  async #rename(): Promise<void> {
    const [from, to] = [this.#name(), this.#name()];
    const file = this.#names.get(from);
    const rename = this.#fileSystem.rename(ctx, this.#directory, named(from), this.#directory, named(to), 0);
    await this.#expect(file === undefined ? "ENOENT" : undefined, rename);
    const there = this.#names.get(to);
    if (file === undefined || there === file) return;
    if (there !== undefined) there.nlink -= 1;
    this.#names.delete(from);
    this.#names.set(to, file);
  }

  async #unlink(): Promise<void> {
    const name = this.#name();
    const file = this.#names.get(name);
    const unlink = this.#fileSystem.unlink(ctx, this.#directory, named(name));
    await this.#expect(file === undefined ? "ENOENT" : undefined, unlink);
    if (file === undefined) return;
    file.nlink -= 1;
    this.#names.delete(name);
  }

  async #link(): Promise<void> {
    const [from, to] = [this.#name(), this.#name()];
    const file = this.#names.get(from);
    if (file === undefined) return;
    const link = this.#fileSystem.link(ctx, file.id, this.#directory, named(to));
    const made = await this.#expect(this.#names.has(to) ? "EEXIST" : undefined, link);
    if (made === undefined) return;
    file.nlink += 1;
    this.#names.set(to, file);
    assert.equal(made.attr.nlink, file.nlink);
  }

  async #list(): Promise<void> {
    const listing = await this.#fileSystem.opendir(ctx, this.#directory);
    const page = await this.#fileSystem.readdir(ctx, listing, 0n, 4096, this.#random() < 0.5);
    const seen = [...decodeDirents(page)].map(({ name }) => String(name)).filter((name) => !name.startsWith("."));
    await this.#fileSystem.releasedir(ctx, listing);
    assert.deepEqual(seen.sort(), [...this.#names.keys()].sort());
  }

  async #attributes(): Promise<void> {
    const file = this.#names.get(this.#name());
    if (file === undefined) return;
    const name = `user.${this.#name()}`;
    if (this.#random() < 0.5) {
      const value = `value ${this.#step}`;
      await this.#fileSystem.setxattr(ctx, file.id, named(name), Buffer.from(value), 0);
      file.attributes.set(name, value);
    } else {
      const errno = file.attributes.has(name) ? undefined : "ENODATA";
      await this.#expect(errno, this.#fileSystem.removexattr(ctx, file.id, named(name)));
      file.attributes.delete(name);
    }
    const value = file.attributes.get(name);
    const asked = this.#fileSystem.getxattr(ctx, file.id, named(name)).then(String);
    assert.equal(await this.#expect(value === undefined ? "ENODATA" : undefined, asked), value);
    const mode = 0o600 + this.#below(0o177);
    await this.#fileSystem.setattr(ctx, file.id, { mode });
    file.mode = 0o100000 | mode;
  }

  async #look(): Promise<void> {
    const name = this.#name();
    const file = this.#names.get(name);
    const lookup = this.#fileSystem.lookup(ctx, this.#directory, named(name));
    const entry = await this.#expect(file === undefined ? "ENOENT" : undefined, lookup);
    if (file === undefined || entry === undefined) return;
    const attr = await this.#fileSystem.getattr(ctx, file.id);
    const { sizeBytes, nlink, mode } = attr;
    assert.deepEqual([entry.id, sizeBytes, nlink, mode], [file.id, file.data.length, file.nlink, file.mode]);
  }

  async #close(): Promise<void> {
    const [open] = this.#opens.splice(this.#below(this.#opens.length), 1);
    if (open === undefined) return;
    await this.#fileSystem.flush(ctx, open.handle);
    await this.#fileSystem.release(ctx, open.handle);
  }

  async #folder(): Promise<void> {
    const { id } = await this.#fileSystem.mkdir(ctx, this.#directory, named("folder"), NEW_DIRECTORY);
    await this.#expect("EEXIST", this.#fileSystem.mkdir(ctx, this.#directory, named("folder"), NEW_DIRECTORY));
    await this.#fileSystem.symlink(ctx, id, named("s"), Buffer.from("target"));
    await this.#expect("ENOTEMPTY", this.#fileSystem.rmdir(ctx, this.#directory, named("folder")));
    await this.#fileSystem.unlink(ctx, id, named("s"));
    await this.#fileSystem.rmdir(ctx, this.#directory, named("folder"));
  }

  async #sync(): Promise<void> {
    const open = this.#anyOpen();
    if (open === undefined) return;
    await this.#fileSystem.fsync(ctx, open.handle, this.#random() < 0.5);
  }
}

function describe(name: string, data: Buffer, nlink: number, mode: number): string {
  return `${name} ${mode.toString(8)} ${nlink} ${data.length} ${data.toString("base64")}`;
}

/** Harms one of the connections there are, or all; what is stalled goes on some time later. */
function harm(drive: ReturningDrive, random: Random): void {
  const living = drive.connections.slice(-4);
  const some = random() < 0.5 ? living : living.slice(-1 - Math.floor(random() * 2));
  const way = random() < 0.5 ? "client" : "server";
  const kind = random();
  for (const connection of some) {
    const { faults } = connection[way];
    if (kind < 0.4) connection.client.destroy();
    else if (kind < 0.55) faults.isDropping = true;
    else if (kind < 0.7) {
      faults.isStalled = true;
      drive.clock.after(200 + random() * 2000, () => {
        faults.isStalled = false;
        connection[way].kick();
      });
    } else if (kind < 0.85) faults.delayMs = Math.floor(random() * 60);
    else faults.splitBytes = 1 + Math.floor(random() * 300);
  }
  if (random() < 0.1) {
    drive.isDown = true;
    drive.clock.after(random() * 8000, () => {
      drive.isDown = false;
    });
  }
}

/** Every line takes a while, and some break before they have carried much. */
function makeRough({ client, server }: Connection, random: Random): void {
  for (const { faults } of [client, server]) faults.delayMs = 1 + Math.floor(random() * DELAY_MS_MAX);
  if (random() < 0.3) (random() < 0.5 ? client : server).faults.cutAtByte = Math.floor(random() * 3000);
}

/** Lets the event loop turn, harms now and then, and lets time pass when nothing happens, until `isOver`. */
async function weather(drive: ReturningDrive, random: Random, isOver: () => boolean): Promise<number> {
  let harms = 0;
  for (let heard = -1, quiet = 0; !isOver(); ) {
    await new Promise<void>((resolve) => setImmediate(resolve));
    if (random() * HARM_EVERY < 1) {
      harm(drive, random);
      harms += 1;
    }
    const { receivedBytes, sentBytes } = drive.server.counters();
    quiet = heard === receivedBytes + sentBytes ? quiet + 1 : 0;
    heard = receivedBytes + sentBytes;
    drive.clock.advance(quiet < QUIET_ROUNDS ? 1 + random() * DELAY_MS_MAX : 200);
    assert.ok(drive.clock.monotonicMs() < 3_600_000, "the storm hangs");
  }
  return harms;
}

async function contentsOf(share: MemoryFs, directory: NodeId): Promise<string[]> {
  const listing = await share.opendir(ctx, directory);
  const page = Buffer.from(await share.readdir(ctx, listing, 0n, 65_536, true));
  await share.releasedir(ctx, listing);
  const lines: string[] = [];
  for (const { name, entry } of decodeDirents(page)) {
    if (entry === undefined) continue;
    const { sizeBytes, nlink, mode } = entry.attr;
    const data = Buffer.alloc(sizeBytes);
    const { handle } = await share.open(ctx, entry.id, OpenFlag.READ);
    await share.read(ctx, handle, 0, data);
    await share.release(ctx, handle);
    lines.push(describe(String(name), data, nlink, mode));
  }
  return lines.sort();
}

/** One storm. @returns how much harm was done, and how often the session came back. */
async function run(seed: number): Promise<{ harms: number; resumes: number }> {
  const random = seededRandom(seed);
  const share = new MemoryFs();
  const client = { sectionBytes: SECTION, credits: 8, ioChannels: seed % 3, random };
  const drive = await returningDrive({ fileSystem: share, client });
  const told: unknown[] = [];
  drive.remote.events = { changed: () => told.push("changed"), gone: () => told.push("gone") };
  const fileSystem = new LastKnownFileSystem(drive.remote.fileSystem, drive.clock);
  const { id: root } = await fileSystem.root(ctx);
  const callers: { caller: Caller; directory: NodeId }[] = [];
  for (let index = 0; index < CALLERS; index += 1) {
    const { id: directory } = await fileSystem.mkdir(ctx, root, named(`caller${index}`), NEW_DIRECTORY);
    callers.push({ caller: new Caller(fileSystem, directory, seededRandom(seed * 100 + index)), directory });
  }
  drive.onConnection = (connection) => makeRough(connection, random);
  for (const connection of drive.connections) makeRough(connection, random);
  let isOver = false;
  const over = () => {
    isOver = true;
  };
  const work = Promise.all(callers.map(({ caller }) => caller.work()));
  work.then(over, over);
  const harms = await weather(drive, random, () => isOver);
  await work;
  assert.deepEqual(told, [], "nobody else has changed anything");
  const { resumes } = drive.remote.status();
  for (const { caller, directory } of callers) assert.deepEqual(await contentsOf(share, directory), caller.expected);
  await end(drive, share);
  return { harms, resumes };
}

/** Closes the drive, lets the session expire if it must, and sees that nothing is left. */
async function end(drive: ReturningDrive, share: MemoryFs): Promise<void> {
  let isClosed = false;
  const closing = drive.remote.close().finally(() => {
    isClosed = true;
  });
  await weather(
    drive,
    () => 0.5,
    () => isClosed,
  );
  await closing;
  for (let round = 0; round < 3; round += 1) {
    drive.clock.advance(2_000_000);
    for (let turn = 0; turn < QUIET_ROUNDS; turn += 1) await new Promise<void>((resolve) => setImmediate(resolve));
  }
  const { channels, sessions, handles, bufferBytes } = drive.server.counters();
  assert.deepEqual(
    { channels, sessions, handles, bufferBytes, opens: share.openCount, timers: drive.clock.pendingCount },
    { channels: 0, sessions: 0, handles: 0, bufferBytes: 0, opens: 0, timers: 0 },
  );
}

test("callers over a link that is harmed all the time see what they would see locally", async (t) => {
  const { seed, numRuns } = seeded(t, RUNS);
  let resumes = 0;
  for (let at = seed; at < seed + numRuns; at += 1) {
    const outcome = await run(at).catch((error: unknown) => {
      throw new Error(`seed ${at}: ${error instanceof Error ? error.stack : String(error)}`);
    });
    resumes += outcome.resumes;
  }
  t.diagnostic(`${resumes} resumes`);
  assert.ok(resumes > numRuns, `${resumes} resumes`);
});
