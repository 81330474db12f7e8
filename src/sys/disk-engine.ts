/**
 * The addon's disk as slots and promises.
 *
 * A request is written into a slot (memory that both sides see), submitted, and its reply is read from the slot before that is free again.
 * What cannot block is answered at once; the rest runs on the addon's worker threads and is completed in batches. It knows numbers,
 * not files: `src/disk/disk.ts` says what they mean.
 *
 * INVARIANT: a slot is in exactly one place: free, being filled, or pending.
 */
import { errnoName } from "../base/errno.ts";
import { FsError } from "../base/errors.ts";
import type { CancelSignal } from "../base/signals.ts";
import { loadAddon } from "./addon.ts";

/** Requests at the same time, queued or running; more are refused with ENOBUFS. */
export const SLOTS_MAX = 4096;

/** In the order of kOperations in native/disk.cc. */
export const OPERATION = {
  root: 0,
  lookup: 1,
  getattr: 2,
  setattr: 3,
  access: 4,
  readlink: 5,
  symlink: 6,
  mknod: 7,
  mkdir: 8,
  unlink: 9,
  rmdir: 10,
  link: 11,
  rename: 12,
  open: 13,
  create: 14,
  tmpfile: 15,
  read: 16,
  write: 17,
  flush: 18,
  fsync: 19,
  release: 20,
  fallocate: 21,
  lseek: 22,
  copyFileRange: 23,
  opendir: 24,
  readdir: 25,
  getxattr: 26,
  listxattr: 27,
  setxattr: 28,
  removexattr: 29,
  statfs: 30,
  syncfs: 31,
  close: 32,
  sweep: 33,
  lockNode: 34,
  findNodeLock: 35,
  recall: 36,
  sweepKept: 37,
  syncNode: 38,
} as const;
export type OperationName = keyof typeof OPERATION;

/** Byte offsets in a slot: struct Slot of native/disk.h, which is compared when an engine is made. */
export const SLOT = {
  operation: 0,
  credential: 4,
  handle: 8,
  target_handle: 12,
  offset: 16,
  target_offset: 24,
  length: 32,
  flags: 40,
  mode: 44,
  umask: 48,
  valid: 52,
  uid: 56,
  gid: 60,
  atime_s: 64,
  mtime_s: 72,
  atime_ns: 80,
  mtime_ns: 84,
  rdev_major: 88,
  rdev_minor: 92,
  cookie: 96,
  id: 104,
  target_id: 120,
  name_bytes: 136,
  target_name_bytes: 140,
  name: 144,
  target_name: 400,
  attr: 656,
  reply_id: 760,
  reply_handle: 776,
  statfs: 784,
  lock_start: 848,
  lock_end: 856,
  directory: 864,
  size: 1024,
} as const;

/** Which fields `setattr` applies: SetattrBit of native/disk.h. */
export const SETATTR = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  ATIME_NOW: 1 << 6,
  MTIME_NOW: 1 << 7,
  KILL_SUIDGID: 1 << 8,
} as const;

export const NODE_KEY_BYTES = 16;

/** Not an errno: the request is on its way, or, of an attempt, would have to wait. */
export const PENDING = -4096;

/** Operations whose reply carries an open: of no use, and closed, if the caller is gone. */
const OPENS = new Set<number>([OPERATION.open, OPERATION.create, OPERATION.tmpfile, OPERATION.opendir]);

interface NativeEngine {
  local: boolean;
  slots: ArrayBuffer;
  completions: ArrayBuffer;
  submit(slot: number, ...data: Buffer[]): number;
  attempt(slot: number): number;
  cancel(slot: number): number;
  credential(uid?: number, gid?: number, groups?: Buffer): number;
  forget(ids: Buffer): void;
  discard(handle: number): void;
  describe(of: number | Buffer, to: Buffer): number;
  exactNames(handle: number): number;
  counters(): number[];
  close(): void;
}

interface DiskAddon {
  slotLayout: Record<string, number>;
  createDiskEngine(
    directory: Buffer,
    applyCredentials: number,
    slots: number,
    nodes: number,
    nodeDescriptors: number,
    handles: number,
    withoutOpenat2: number,
    keepUnlinked: number,
    completed: (count: number) => void,
  ): NativeEngine | number;
}

/** Reads the reply of a successful request out of its slot; `result` is what the operation returned. */
export type Decode<T> = (engine: DiskEngine, slot: number, result: number) => T;

/** What a request reads into or writes: a buffer, or 1..8 one after the other. */
export type SlotData = Buffer | readonly Buffer[];

interface Pending {
  readonly name: OperationName;
  /** Kept alive for the addon. */
  readonly data: SlotData | undefined;
  readonly decode: Decode<unknown>;
  readonly resolve: (value: unknown) => void;
  readonly reject: (error: FsError) => void;
  readonly signal: CancelSignal | undefined;
  readonly onAbort: (() => void) | undefined;
  aborted: boolean;
}

export interface EngineOptions {
  directory: string;
  applyCredentials: boolean;
  nodesMax: number;
  /** 0: as many as the process's limit allows. */
  nodeDescriptorsMax: number;
  /** 0: as many as the process's limit allows. */
  handlesMax: number;
  /** Do without openat2(2), as where it is missing. */
  withoutOpenat2: boolean;
  /** Files that are open keep existing for the next process when their last name goes. */
  keepsUnlinked: boolean;
}

/** What is open and under way, for leak tests and status. */
export interface EngineCounters {
  nodes: number;
  nodeDescriptors: number;
  handles: number;
  /** Descriptors that are being closed by workers. */
  closing: number;
  /** How many ever were handed over to them. */
  handedOver: number;
  /** Requests queued or running. */
  pending: number;
}

export class DiskEngine {
  /** The memory of all slots, in three views. Field f of slot s: `bytes[s * SLOT.size + SLOT.f]`. */
  readonly u32: Uint32Array;
  readonly f64: Float64Array;
  readonly bytes: Buffer;
  readonly view: DataView;
  /** The file system is of this machine: close(2) has no error of an earlier write to report. */
  readonly isLocal: boolean;
  readonly #native: NativeEngine;
  readonly #completions: Float64Array;
  readonly #free: number[] = [];
  readonly #pending = new Array<Pending | undefined>(SLOTS_MAX).fill(undefined);
  #pendingCount = 0;
  #onIdle: (() => void) | undefined;
  #closed: Promise<void> | undefined;

  /** @throws FsError what opening the directory says; EPERM identities are to be applied and the process is not root. */
  constructor(options: EngineOptions) {
    const addon = loadAddon<DiskAddon>();
    for (const [field, offset] of Object.entries(SLOT))
      if (addon.slotLayout[field] !== offset) throw new Error(`netdrive: the addon is of another build (${field})`);
    const native = addon.createDiskEngine(
      Buffer.from(options.directory, "utf8"),
      options.applyCredentials ? 1 : 0,
      SLOTS_MAX,
      options.nodesMax,
      options.nodeDescriptorsMax,
      options.handlesMax,
      options.withoutOpenat2 ? 1 : 0,
      options.keepsUnlinked ? 1 : 0,
      (count) => this.#completed(count),
    );
    if (typeof native === "number") throw new FsError(errnoName(-native), "serve", options.directory);
    this.#native = native;
    this.isLocal = native.local;
    this.#completions = new Float64Array(native.completions);
    this.u32 = new Uint32Array(native.slots);
    this.f64 = new Float64Array(native.slots);
    this.bytes = Buffer.from(native.slots);
    this.view = new DataView(native.slots);
    for (let slot = SLOTS_MAX - 1; slot >= 0; slot--) this.#free.push(slot);
  }

  /** A free slot, or -1. */
  take(): number {
    return this.#free.pop() ?? -1;
  }

  /** Gives a slot back that was not run. */
  give(slot: number): void {
    this.#free.push(slot);
  }

  /**
   * Runs the filled slot; `data` belongs to the addon until the promise settles.
   *
   * @throws FsError what the system call said; EINTR `signal` aborted before the request ran, or it opened something nobody waits
   * for; EBADF after `close`.
   */
  run<T>(
    name: OperationName,
    slot: number,
    decode: Decode<T>,
    data?: SlotData,
    signal?: CancelSignal | undefined,
  ): Promise<T> {
    if (signal?.aborted || this.#closed !== undefined) {
      this.#free.push(slot);
      return Promise.reject(new FsError(signal?.aborted ? "EINTR" : "EBADF", name));
    }
    return this.#submit(name, slot, decode, data, signal);
  }

  #submit<T>(
    name: OperationName,
    slot: number,
    decode: Decode<T>,
    data: SlotData | undefined,
    signal: CancelSignal | undefined,
  ): Promise<T> {
    this.u32[(slot * SLOT.size) >>> 2] = OPERATION[name];
    const result = this.#submitData(slot, data);
    if (result !== PENDING) {
      const reply = result < 0 ? Promise.reject<T>(failure(name, result)) : Promise.resolve(decode(this, slot, result));
      this.#free.push(slot);
      return reply;
    }
    return new Promise<T>((resolve, reject) => {
      const onAbort = signal === undefined ? undefined : () => this.#abort(slot);
      const entry: Pending = {
        name,
        data,
        decode,
        resolve: resolve as (value: unknown) => void,
        reject,
        signal,
        onAbort,
        aborted: false,
      };
      this.#pending[slot] = entry;
      this.#pendingCount++;
      if (onAbort !== undefined) signal?.addEventListener("abort", onAbort);
    });
  }

  #submitData(slot: number, data: SlotData | undefined): number {
    if (data === undefined) return this.#native.submit(slot);
    return Buffer.isBuffer(data) ? this.#native.submit(slot, data) : this.#native.submit(slot, ...data);
  }

  /** Runs the filled slot, which stays taken, if that waits for nothing. @returns what the operation says, a negative errno, or PENDING. */
  attempt(name: "lookup", slot: number): number {
    this.u32[(slot * SLOT.size) >>> 2] = OPERATION[name];
    return this.#native.attempt(slot);
  }

  /** The number that stands for this identity in a slot. */
  credential(uid: number, gid: number, groups: readonly number[]): number {
    return this.#native.credential(uid, gid, Buffer.from(Uint32Array.from(groups).buffer));
  }

  /** Forgets all identities; requests under way keep theirs. Numbers start again at 1; 0 is the process's own. */
  clearCredentials(): void {
    this.#native.credential();
  }

  /** `ids`: NODE_KEY_BYTES each. */
  forget(ids: Buffer): void {
    this.#native.forget(ids);
  }

  /** A record of an open's node, or of a node by its key, for `recall`. @throws FsError EBADF, ESTALE; ERANGE it does not fit `scratch`. */
  describe(of: number | Buffer, scratch: Buffer): Buffer {
    const bytes = this.#native.describe(of, scratch);
    if (bytes < 0) throw new FsError(errnoName(-bytes), "describe");
    return Buffer.from(scratch.subarray(0, bytes));
  }

  /** The descriptor of an open directory where different bytes are different names; undefined: it is not known to be one. The handle's. */
  exactNames(handle: number): number | undefined {
    const fd = this.#native.exactNames(handle);
    return fd < 0 ? undefined : fd;
  }

  counters(): EngineCounters {
    const [nodes = 0, nodeDescriptors = 0, handles = 0, closing = 0, pending = 0, handedOver = 0] =
      this.#native.counters();
    return { nodes, nodeDescriptors, handles, closing, handedOver, pending };
  }

  /** Waits for all requests, then closes every descriptor. Nothing may be run from the call on. */
  close(): Promise<void> {
    this.#closed ??= this.#close();
    return this.#closed;
  }

  async #close(): Promise<void> {
    if (this.#pendingCount > 0)
      await new Promise<void>((resolve) => {
        this.#onIdle = resolve;
      });
    const slot = this.take();
    // Of the process itself: whoever had the slot last may be forgotten.
    this.u32[(slot * SLOT.size + SLOT.credential) >>> 2] = 0;
    await this.#submit("close", slot, () => undefined, undefined, undefined);
    this.#native.close();
  }

  #settled(slot: number): Pending | undefined {
    const entry = this.#pending[slot];
    if (entry === undefined) return undefined;
    this.#pending[slot] = undefined;
    this.#pendingCount--;
    if (entry.onAbort !== undefined) entry.signal?.removeEventListener("abort", entry.onAbort);
    return entry;
  }

  #abort(slot: number): void {
    const entry = this.#pending[slot];
    if (entry === undefined || entry.aborted) return;
    if (this.#native.cancel(slot) === 0) {
      // It runs, and cannot be stopped: what it opens is closed when it is done; what it changed is changed.
      entry.aborted = true;
      return;
    }
    this.#settled(slot);
    this.#free.push(slot);
    entry.reject(new FsError("EINTR", entry.name));
    this.#checkIdle();
  }

  #completed(count: number): void {
    for (let i = 0; i < count; i++) {
      const slot = this.#completions[2 * i] as number;
      const result = this.#completions[2 * i + 1] as number;
      const entry = this.#settled(slot);
      if (entry !== undefined) this.#finish(slot, entry, result);
      this.#free.push(slot);
    }
    this.#checkIdle();
  }

  #finish(slot: number, entry: Pending, result: number): void {
    if (result < 0) {
      entry.reject(failure(entry.name, result));
    } else if (entry.aborted && OPENS.has(OPERATION[entry.name])) {
      this.#native.discard(this.u32[(slot * SLOT.size + SLOT.reply_handle) >>> 2] as number);
      entry.reject(new FsError("EINTR", entry.name));
    } else {
      entry.resolve(entry.decode(this, slot, result));
    }
  }

  #checkIdle(): void {
    if (this.#pendingCount > 0) return;
    this.#onIdle?.();
    this.#onIdle = undefined;
  }
}

function failure(name: OperationName, result: number): FsError {
  return new FsError(errnoName(-result), name);
}
