/**
 * The state store in a folder: a journal in front of a LevelDB table.
 *
 * A batch is down when it is in the journal. When the journal's file has grown, what is left of its changes moves into the table in small pieces,
 * and a new file begins; so what lives shortly - most opens - never reaches the table. At start the table is brought up to date and all records are
 * handed over. Not a database: it reads only then.
 *
 *     FOLDER/level/         LevelDB: the records, each with its checksum; record "": the format and the last journal file that is in the table
 *     FOLDER/journal-N      one or two files, N counts up without gap
 *     FOLDER.damaged-TIME   stores that could not be used
 *
 * INVARIANT: the table plus the journal's files, in their order, are all records.
 * INVARIANT: one process has the folder, by LevelDB's lock.
 */
import { strict as assert } from "node:assert";
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, unlinkSync } from "node:fs";
import { rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { crc32 } from "node:zlib";
import { type BatchOperation, ClassicLevel } from "classic-level";
import type { Clock } from "../../base/clock.ts";
import { FsError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { syncFolder } from "../../sys/sync-folder.ts";
import { BatchFrame, JournalFile, journalPath, NetChanges, replayJournal } from "./journal.ts";
import type { Durability, StateFigures, StateKey, StateStore } from "./state-store.ts";

type Table = ClassicLevel<Buffer, Buffer>;

const FORMAT = 6;
const FORMAT_BYTES = 8;
/** LevelDB allows no empty key: a byte that no key of ours is alone. */
const FORMAT_KEY = Buffer.from([0]);
const CHECKSUM_BYTES = 4;
/** From this size on a journal file's changes move into the table. */
const FILE_BYTES = 1 << 20;
/** Beyond this size changes wait until the table has taken the file before: bounds memory and the time a start takes. */
const FILE_BYTES_MAX = 16 << 20;
/** How long a change that nobody waits for waits for others. */
const LATE_MS = 10;
/** Changes put into the table at a time, so that the event loop is not held up. */
const PIECE_CHANGES = 128;
/** Stores set aside that are kept. */
const SET_ASIDE_MAX = 4;

export interface LevelStoreOptions {
  /** Made, with mode 0700, if it is not there; its parent must be. */
  folder: string;
  durability: Durability;
  clock: Clock;
  log: Log;
  /** For tests. */
  fileBytes?: number;
  fileBytesMax?: number;
}

/** What is wrong with a store that cannot be used. */
class Damage extends Error {}

/**
 * Opens the store of a folder and reads all its records. One that is damaged, or of another version, is set aside, with a line in the log.
 *
 * @throws FsError EBUSY another process has it; what the system says if the folder cannot be made.
 */
export async function openLevelStore(
  options: LevelStoreOptions,
): Promise<{ store: StateStore; records: Map<StateKey, Buffer> }> {
  const { folder, log } = options;
  mkdirSync(folder, { recursive: true });
  // Session keys are in it.
  chmodSync(folder, 0o700);
  try {
    return await openUsable(options);
  } catch (thrown) {
    const reason = reasonOf(thrown);
    if (reason === undefined) throw thrown;
    const aside = await setAside(options);
    log.error(`the state in ${folder} cannot be used and is now ${aside}; this start knows no session: ${reason}`);
    mkdirSync(folder, { mode: 0o700 });
    return openUsable(options);
  }
}

/** Why a store is to be set aside; undefined if that would not help. */
function reasonOf(thrown: unknown): string | undefined {
  if (thrown instanceof Damage) return thrown.message;
  const { code, message } = thrown as { code?: string; message: string };
  return code?.startsWith("LEVEL_") === true ? message : undefined;
}

async function openUsable(options: LevelStoreOptions): ReturnType<typeof openLevelStore> {
  const { folder } = options;
  const table: Table = new ClassicLevel(tablePath(folder), {
    keyEncoding: "buffer",
    valueEncoding: "buffer",
    compression: false,
  });
  try {
    await table.open();
  } catch (thrown) {
    const cause = (thrown as Error).cause as { code?: string; message: string } | undefined;
    if (cause?.code === "LEVEL_LOCKED") throw new FsError("EBUSY", "state", folder, { cause });
    throw cause ?? thrown;
  }
  try {
    // LevelDB does not sync the name of the file that says where its files are.
    if (options.durability === "power") await syncFolder(tablePath(folder));
    const last = await recover(table, options);
    const records = await readAll(table);
    if (options.durability === "power") await Promise.all([folder, dirname(folder)].map(syncFolder));
    return { store: new LevelStore(table, last + 1, options), records };
  } catch (thrown) {
    await table.close();
    throw thrown;
  }
}

function tablePath(folder: string): string {
  return join(folder, "level");
}

/** The numbers of the journal's files, ascending. */
function journalNumbers(folder: string): number[] {
  const numbers = readdirSync(folder).flatMap((name) => {
    const found = /^journal-(\d{1,15})$/.exec(name);
    return found === null ? [] : [Number(found[1])];
  });
  return numbers.sort((a, b) => a - b);
}

/** Moves what the journal has into the table. @returns the number of the last file that is in it. */
async function recover(table: Table, { folder, durability }: LevelStoreOptions): Promise<number> {
  const merged = await readFormat(table);
  let last = merged;
  for (const number of journalNumbers(folder)) {
    if (number > merged) {
      if (number !== last + 1) throw new Damage(`journal file ${last + 1} is missing`);
      const changes = new NetChanges();
      const end = replayJournal(readFileSync(journalPath(folder, number)), number, changes);
      if (end === "damaged") throw new Damage(`journal file ${number} is damaged`);
      // An end that got lost with the machine's power: what came after it is not used either.
      await merge(table, changes, number, { folder, durability });
      last = number;
      if (end === "short") break;
    }
  }
  for (const number of journalNumbers(folder)) unlinkSync(journalPath(folder, number));
  return last;
}

/** The last journal file that is in the table. */
async function readFormat(table: Table): Promise<number> {
  const value = await table.get(FORMAT_KEY);
  if (value === undefined) {
    for await (const _key of table.keys({ limit: 1 })) throw new Damage("the table has no format");
    return 0;
  }
  const content = contentOf("\0", value);
  const format = content.readUInt32LE(0);
  if (format !== FORMAT || content.length !== FORMAT_BYTES) throw new Damage(`its format is ${format}`);
  return content.readUInt32LE(4);
}

async function readAll(table: Table): Promise<Map<StateKey, Buffer>> {
  const records = new Map<StateKey, Buffer>();
  for await (const [bytes, value] of table.iterator()) {
    if (bytes.equals(FORMAT_KEY)) continue;
    const key = bytes.toString("latin1");
    records.set(key, contentOf(key, value));
  }
  return records;
}

/** A value as the table has it: with a checksum of key and value in front. */
function withChecksum(key: StateKey, value: Buffer): Buffer {
  const checked = Buffer.allocUnsafe(CHECKSUM_BYTES + value.length);
  checked.writeUInt32LE(crc32(value, crc32(Buffer.from(key, "latin1"))), 0);
  value.copy(checked, CHECKSUM_BYTES);
  return checked;
}

function contentOf(key: StateKey, checked: Buffer): Buffer {
  const value = checked.subarray(CHECKSUM_BYTES);
  const isGood = checked.length >= CHECKSUM_BYTES && withChecksum(key, value).equals(checked);
  if (!isGood) throw new Damage(`record ${Buffer.from(key, "latin1").toString("hex")} is damaged`);
  return value;
}

/** Puts the changes of journal file `number` into the table. When it returns they are on the disk, and the file is not needed any more. */
async function merge(
  table: Table,
  changes: NetChanges,
  number: number,
  { folder, durability }: Pick<LevelStoreOptions, "folder" | "durability">,
): Promise<void> {
  let piece: BatchOperation<Table, Buffer, Buffer>[] = [];
  for (const [key, value] of changes.entries()) {
    const bytes = Buffer.from(key, "latin1");
    piece.push(
      value === undefined ? { type: "del", key: bytes } : { type: "put", key: bytes, value: withChecksum(key, value) },
    );
    if (piece.length < PIECE_CHANGES) continue;
    // LevelDB may begin another log between two pieces, and the sync of the last one is of the last log alone.
    await table.batch(piece, { sync: durability === "power" });
    piece = [];
  }
  const format = Buffer.alloc(FORMAT_BYTES);
  format.writeUInt32LE(FORMAT, 0);
  format.writeUInt32LE(number, 4);
  piece.push({ type: "put", key: FORMAT_KEY, value: withChecksum("\0", format) });
  await table.batch(piece, { sync: true });
  // LevelDB syncs what is in a new log, and not its name.
  if (durability === "power") await syncFolder(tablePath(folder));
}

/** Renames the folder; removes the oldest ones set aside before. @returns its new name. */
async function setAside({ folder, clock }: LevelStoreOptions): Promise<string> {
  const parent = dirname(folder);
  const prefix = `${basename(folder)}.damaged-`;
  const time = new Date(clock.realtimeMs()).toISOString().replaceAll(/[:.]/g, "");
  const before = readdirSync(parent).filter((name) => name.startsWith(prefix));
  for (const name of before.sort().slice(0, -(SET_ASIDE_MAX - 1))) {
    await rm(join(parent, name), { recursive: true, force: true });
  }
  let aside = join(parent, prefix + time);
  for (let again = 1; before.includes(basename(aside)); again += 1) aside = join(parent, `${prefix}${time}-${again}`);
  renameSync(folder, aside);
  return aside;
}

class LevelStore implements StateStore {
  readonly #table: Table;
  readonly #options: LevelStoreOptions;
  readonly #fileBytes: number;
  readonly #fileBytesMax: number;
  readonly #frame = new BatchFrame();
  #file: JournalFile;
  /** What the present file changes, the batch being collected included. */
  #changes = new NetChanges();
  /** Who waits for the batch being collected. */
  #waiting: (() => void)[] = [];
  /** Who waits for batches that are in the journal, until they are as durable as wanted and there is room for more. */
  #held: (() => void)[] = [];
  /** Files with batches that are not on the disk; with durability `power`. */
  readonly #unsynced = new Set<JournalFile>();
  #syncing: Promise<void> | undefined;
  #merging: Promise<void> | undefined;
  #givingUp: Promise<void> | undefined;
  /** A commit comes at the end of this turn; one comes after it, if there is something to commit then. */
  #isDue = false;
  #isLateDue = false;
  #isClosed = false;
  readonly #figures = { changes: 0, batches: 0, batchBytes: 0 };

  /** Owns the table. `number`: of the first journal file. */
  constructor(table: Table, number: number, options: LevelStoreOptions) {
    this.#table = table;
    this.#options = options;
    this.#fileBytes = options.fileBytes ?? FILE_BYTES;
    this.#fileBytesMax = options.fileBytesMax ?? FILE_BYTES_MAX;
    this.#file = new JournalFile(options.folder, number);
  }

  add(key: StateKey, value: Buffer): void {
    if (!this.#begin()) return;
    this.#frame.add(key, value);
    this.#changes.add(key, value);
  }

  put(key: StateKey, value: Buffer): void {
    if (!this.#begin()) return;
    this.#frame.put(key, value);
    this.#changes.put(key, value);
  }

  delete(key: StateKey): void {
    if (!this.#begin(false)) return;
    this.#frame.delete(key);
    this.#changes.delete(key);
  }

  afterCommit(done: () => void): void {
    if (!this.#frame.isEmpty) {
      this.#waiting.push(done);
      this.#commitAtEnd();
    } else if (this.#isDown) {
      done();
    } else {
      this.#held.push(done);
      this.#advance();
    }
  }

  figures(): StateFigures {
    return { ...this.#figures, isGivenUp: this.#givingUp !== undefined };
  }

  async close(): Promise<void> {
    assert(!this.#isClosed, "closed once");
    this.#isClosed = true;
    await new Promise<void>((resolve) => this.afterCommit(resolve));
    await this.#merging;
    if (this.#givingUp === undefined) {
      // Fails as any other: the store is given up then.
      await this.#mergeFile(this.#file, this.#changes);
    }
    await this.#givingUp;
    if (this.#givingUp === undefined) await this.#table.close();
  }

  /** A change begins, and sees to it that the batch goes down: one that nobody waits for when those who wait have been told. */
  #begin(isWaitedFor = true): boolean {
    assert(!this.#isClosed, "an open store");
    if (this.#givingUp !== undefined) return false;
    if (isWaitedFor) this.#commitAtEnd();
    else if (!this.#isLateDue) {
      this.#isLateDue = true;
      this.#options.clock.after(LATE_MS, this.#commitLate);
    }
    this.#figures.changes += 1;
    return true;
  }

  /** Behind everything that needs no event to go on: what that changes is in the batch as well. */
  #commitAtEnd(): void {
    if (this.#isDue) return;
    this.#isDue = true;
    queueMicrotask(() => process.nextTick(this.#commit));
  }

  readonly #commitLate = (): void => {
    this.#isLateDue = false;
    if (!this.#frame.isEmpty && !this.#isDue) this.#commit();
  };

  /** Whether nothing waits for the disk, the batch being collected aside. */
  get #isDown(): boolean {
    if (this.#givingUp !== undefined) return true;
    return this.#held.length === 0 && this.#syncing === undefined && this.#unsynced.size === 0;
  }

  readonly #commit = (): void => {
    this.#isDue = false;
    const frame = this.#frame.take();
    this.#held.push(...this.#waiting);
    this.#waiting = [];
    if (this.#givingUp !== undefined) {
      this.#release();
      return;
    }
    this.#figures.batches += 1;
    this.#figures.batchBytes += frame.length;
    try {
      this.#file.append(frame);
    } catch (error) {
      this.#giveUp(error);
      return;
    }
    if (this.#options.durability === "power") this.#unsynced.add(this.#file);
    this.#advance();
  };

  /** Does what can be done now: begins the next file, tells those who wait, starts a sync. */
  #advance(): void {
    if (this.#givingUp !== undefined) return;
    if (this.#file.bytes >= this.#fileBytes && this.#merging === undefined && !this.#isClosed) {
      const [file, changes] = [this.#file, this.#changes];
      try {
        this.#file = new JournalFile(this.#options.folder, file.number + 1);
      } catch (error) {
        this.#giveUp(error);
        return;
      }
      this.#changes = new NetChanges();
      this.#merging = this.#mergeFile(file, changes);
    }
    if (this.#file.bytes >= this.#fileBytesMax && this.#merging !== undefined) return;
    if (this.#options.durability === "process") this.#release();
    else if (this.#held.length > 0) this.#syncing ??= this.#sync();
  }

  #release(): void {
    const held = this.#held;
    this.#held = [];
    for (const done of held) done();
  }

  /** Makes everything that is held durable. Never rejects. */
  async #sync(): Promise<void> {
    const held = this.#held;
    this.#held = [];
    const files = [...this.#unsynced];
    this.#unsynced.clear();
    try {
      await Promise.all(files.map((file) => file.sync()));
    } catch (error) {
      this.#giveUp(error);
    }
    this.#syncing = undefined;
    for (const done of held) done();
    this.#advance();
  }

  /** Moves a file's changes into the table and removes it. Never rejects. */
  async #mergeFile(file: JournalFile, changes: NetChanges): Promise<void> {
    try {
      await merge(this.#table, changes, file.number, this.#options);
      this.#unsynced.delete(file);
      file.remove();
    } catch (error) {
      file.close();
      this.#giveUp(error);
    }
    this.#merging = undefined;
    this.#advance();
  }

  /** The disk has failed: what is kept could not be believed any more. */
  #giveUp(error: unknown): void {
    if (this.#givingUp !== undefined) return;
    this.#givingUp = this.#leave(error);
    this.#release();
  }

  /** Never rejects. */
  async #leave(error: unknown): Promise<void> {
    const { folder, log } = this.#options;
    log.error(`the state in ${folder} cannot be written; a restarted server will know no session`, error);
    try {
      await Promise.all([this.#syncing, this.#merging]);
      this.#file.close();
      await this.#table.close();
      log.warn(`the state that could not be written is now ${await setAside(this.#options)}`);
    } catch (cause) {
      log.error(`the state in ${folder} could not be set aside: remove it before the next start`, cause);
    }
  }
}
