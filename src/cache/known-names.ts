/**
 * Directories all of whose names are known, so that a name that is not there need not be asked for: programs that unpack, install or look for
 * files in many places ask for little else.
 *
 * Where several names were missed shortly after each other, the directory is opened with a lease and read, ahead of what the program asks next. As long as the lease lasts nobody
 * else gives names in it. What is known is a superset of the names there: what this mount gives is added before it is asked for, and nothing is taken out. It is
 * for callers of the same identity only: what others may search is for the server to say.
 *
 * INVARIANT: a directory is `known` only while its lease is; whoever ends the lease calls `forget` before he says so.
 */
import type { Clock, Timer } from "../base/clock.ts";
import { isEntryName, NAME_BYTES_MAX, type Name } from "../base/name.ts";
import { decodeDirents } from "../vfs/dirent-page.ts";
import {
  type Caller,
  type FileSystem,
  type HandleId,
  type NodeId,
  type RequestContext,
  RequestPriority,
} from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";

/** A directory is read when so many names were missed in it, each within MISS_MS of the one before. */
const MISSES_MIN = 3;
const MISS_MS = 2000;
/** Directories that are known or looked at together. */
const DIRECTORIES_MAX = 64;
/** Directories with more names are not read. */
const NAMES_MAX = 16_384;
/** Names of all directories; those used longest ago are given back. */
const NAMES_TOTAL_MAX = 131_072;
const PAGE_BYTES = 64 * 1024;
/** A directory in which nothing is missed for so long is given back. */
const IDLE_MS = 10_000;
/** After a lease was lost or not granted, so long passes before another is asked for; twice as long each time. */
const PAUSE_MS = 1000;
const PAUSE_MS_MAX = 60_000;

interface Directory {
  readonly caller: Caller;
  misses: number;
  lastMissMs: number;
  /** Not read before. */
  pausedUntilMs: number;
  pauseMs: number;
  /** Names this mount has given since reading began, and with them, when it has ended, all that are there. Undefined: neither. */
  names: Set<Name> | undefined;
  isKnown: boolean;
  /** As soon as there is one. */
  handle: HandleId | undefined;
}

export class KnownNames {
  readonly #fileSystem: FileSystem;
  readonly #clock: Clock;
  /** Those used last are last. */
  readonly #directories = new Map<NodeId, Directory>();
  #look: Timer | undefined;

  /** Reads from `fileSystem`, which is not owned. */
  constructor(fileSystem: FileSystem, clock: Clock) {
    this.#fileSystem = fileSystem;
    this.#clock = clock;
  }

  /** How many are known. */
  get count(): number {
    let count = 0;
    for (const { isKnown } of this.#directories.values()) if (isKnown) count += 1;
    return count;
  }

  /** Whether it is known that nobody has this name. */
  isAbsent({ caller }: RequestContext, parent: NodeId, name: Name): boolean {
    const directory = this.#directories.get(parent);
    if (directory?.isKnown !== true || directory.names?.has(name) !== false || !isSame(caller, directory.caller))
      return false;
    // What cannot be a name has an error of its own.
    if (name.length > NAME_BYTES_MAX || !isEntryName(name)) return false;
    directory.lastMissMs = this.#clock.monotonicMs();
    this.#use(parent, directory);
    return true;
  }

  /** The server has said that nobody has a name in this directory. */
  missed({ caller }: RequestContext, parent: NodeId): void {
    if (this.#fileSystem.opendirLeased === undefined) return;
    const nowMs = this.#clock.monotonicMs();
    let directory = this.#directories.get(parent);
    if (directory === undefined || !isSame(caller, directory.caller)) {
      if (directory !== undefined) this.#drop(parent, directory);
      directory = newDirectory(caller);
    }
    this.#use(parent, directory);
    directory.misses = nowMs - directory.lastMissMs < MISS_MS ? directory.misses + 1 : 1;
    directory.lastMissMs = nowMs;
    this.#makeRoom();
    this.#look ??= this.#clock.every(IDLE_MS, () => this.#giveBackIdle());
    if (directory.misses < MISSES_MIN || directory.names !== undefined || nowMs < directory.pausedUntilMs) return;
    directory.names = new Set();
    // It never rejects.
    void this.#read(parent, directory);
  }

  /** This mount is about to give a name. */
  named(parent: NodeId, name: Name): void {
    const directory = this.#directories.get(parent);
    if (directory?.names === undefined) return;
    directory.names.add(name);
    if (directory.names.size > NAMES_MAX) this.#pause(directory);
  }

  /** Nothing is known of the directory any more. */
  forget(id: NodeId): void {
    const directory = this.#directories.get(id);
    if (directory?.names !== undefined) this.#pause(directory);
  }

  /** Nothing is known of any: the server is away. */
  forgetAll(): void {
    for (const [id, directory] of [...this.#directories]) this.#drop(id, directory);
  }

  close(): void {
    this.forgetAll();
    this.#look?.stop();
  }

  /** Reads all names of a directory. Gives up for a while if there is no lease, or that is lost meanwhile. */
  async #read(id: NodeId, directory: Directory): Promise<void> {
    const { names } = directory;
    const ctx: RequestContext = { caller: directory.caller, priority: RequestPriority.READ_AHEAD, isImpatient: true };
    try {
      const opened = await this.#fileSystem.opendirLeased?.(ctx, id);
      if (opened === undefined || directory.names !== names || opened.lease === Lease.NONE) {
        if (opened !== undefined) this.#release(directory, opened.handle);
        if (directory.names === names) this.#pause(directory);
        return;
      }
      directory.handle = opened.handle;
      const isWhole = await this.#readAll(ctx, opened.handle, names);
      if (directory.names !== names) return;
      if (isWhole) directory.isKnown = true;
      else this.#pause(directory);
    } catch {
      // What cannot be read is asked for, as before.
      if (directory.names === names) this.#pause(directory);
    }
  }

  /** @returns false: there are too many. */
  async #readAll(ctx: RequestContext, handle: HandleId, names: Set<Name> | undefined): Promise<boolean> {
    for (let cookie = 0n; names !== undefined && names.size <= NAMES_MAX; ) {
      const page = await this.#fileSystem.readdir(ctx, handle, cookie, PAGE_BYTES, false);
      if (page.length === 0) return true;
      for (const dirent of decodeDirents(page)) {
        names.add(dirent.name);
        cookie = dirent.cookie;
      }
    }
    return false;
  }

  #pause(directory: Directory): void {
    this.#stop(directory);
    directory.misses = 0;
    directory.pausedUntilMs = this.#clock.monotonicMs() + directory.pauseMs;
    directory.pauseMs = Math.min(2 * directory.pauseMs, PAUSE_MS_MAX);
  }

  #drop(id: NodeId, directory: Directory): void {
    this.#directories.delete(id);
    this.#stop(directory);
  }

  /** Nothing is believed any more, and the directory is not held open. */
  #stop(directory: Directory): void {
    directory.names = undefined;
    directory.isKnown = false;
    const { handle } = directory;
    directory.handle = undefined;
    if (handle !== undefined) this.#release(directory, handle);
  }

  #release({ caller }: Directory, handle: HandleId): void {
    this.#fileSystem.releasedir({ caller }, handle).catch(() => {
      // The session is over, and everything it had with it.
    });
  }

  #use(id: NodeId, directory: Directory): void {
    this.#directories.delete(id);
    this.#directories.set(id, directory);
  }

  #makeRoom(): void {
    let total = 0;
    for (const { names } of this.#directories.values()) total += names?.size ?? 0;
    for (const [id, directory] of this.#directories) {
      if (this.#directories.size <= DIRECTORIES_MAX && total <= NAMES_TOTAL_MAX) return;
      total -= directory.names?.size ?? 0;
      this.#drop(id, directory);
    }
  }

  #giveBackIdle(): void {
    const sinceMs = this.#clock.monotonicMs() - IDLE_MS;
    for (const [id, directory] of [...this.#directories]) {
      if (directory.lastMissMs <= sinceMs && this.#clock.monotonicMs() >= directory.pausedUntilMs)
        this.#drop(id, directory);
    }
    if (this.#directories.size > 0) return;
    this.#look?.stop();
    this.#look = undefined;
  }
}

function newDirectory(caller: Caller): Directory {
  return {
    caller,
    misses: 0,
    lastMissMs: Number.NEGATIVE_INFINITY,
    pausedUntilMs: Number.NEGATIVE_INFINITY,
    pauseMs: PAUSE_MS,
    names: undefined,
    isKnown: false,
    handle: undefined,
  };
}

function isSame(one: Caller, other: Caller): boolean {
  if (one.uid !== other.uid || one.gid !== other.gid || one.groups.length !== other.groups.length) return false;
  return one.groups.every((group, index) => group === other.groups[index]);
}
