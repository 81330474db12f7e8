/**
 * Write-behind: buffered writes are acknowledged when they are in memory here, within a bounded window a mount.
 *
 * Full sections leave at once; a part of one waits for more until it has rested for PARTIAL_REST_MS, or somebody needs the node's data to be on the
 * server (`drain`). Sections of one node are written at the same time, overlapping ones never. An error belongs to the node: every open that can
 * write to it reports it once, at its next write, fsync or flush, and it is logged here. It does not know who caches reads.
 */
import type { Clock, Timer } from "../base/clock.ts";
import type { ErrnoName } from "../base/errno.ts";
import { FsError, toErrno } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { type CancelSignal, raceSignal } from "../base/signals.ts";
import {
  type Caller,
  type FileSystem,
  type HandleId,
  type NodeId,
  type RequestContext,
  RequestPriority,
  type WriteOptions,
} from "../vfs/file-system.ts";
import { DirtyLog, type DirtySection } from "./dirty-log.ts";
import { SectionMemory } from "./section-memory.ts";

/** How long a part of a section waits for more. Long enough for a program that writes line by line, short for people who watch the other side. */
export const PARTIAL_REST_MS = 50;
/** Sections of the whole mount that are being written at the same time. */
const SECTIONS_IN_FLIGHT_MAX = 128;
/** Sections a node may hold: what scattered small writes can pile up before they wait. */
const NODE_SECTIONS_MAX = 1024;

export interface WriteBehindOptions {
  readonly sectionBytes: number;
  /** Bytes that may be acknowledged and not yet on the server, of the whole mount. */
  readonly bytesMax: number;
  readonly clock: Clock;
  readonly log: Log;
  /** Keeps acknowledged bytes that the server will not take any more, elsewhere. The data is borrowed for the call. */
  readonly keepLost?: ((id: NodeId, offsetBytes: number, data: Buffer) => void) | undefined;
}

/** Errors that say nothing against the data: it is not the application's to write it again. */
const NOT_TAKEN: ReadonlySet<ErrnoName> = new Set(["ESTALE", "EHOSTDOWN", "ETIMEDOUT", "EPROTO", "EIO"]);

/** The unsent writes of one node. Made by the first buffered write, dropped when all is sent. */
interface DirtyNode {
  readonly id: NodeId;
  readonly data: DirtyLog;
  /** Through which open, and on whose behalf, what is left is written: those of the latest write. */
  handle: HandleId;
  caller: Caller;
  /** Whether the writers may not keep set-user-id bits. */
  killSuidgid: boolean;
  /** Sections that failed or were not written whole by their first request. */
  faults: number;
  /** Those who wait until every section up to a number is settled; parts of sections do not rest meanwhile. */
  drainers: { readonly sequence: number; readonly done: () => void }[];
  rest: Timer | undefined;
  /** Nothing was written since that ended: a part of a section that could not leave then leaves as soon as it can. */
  isRested: boolean;
}

/** What write-behind needs to know of an open to report errors. */
export interface WriterOpen {
  readonly id: NodeId;
  readonly handle: HandleId;
  /** The first error of a buffered write that this open has not reported yet. */
  error: ErrnoName | undefined;
}

export class WriteBehind {
  readonly #inner: FileSystem;
  readonly #options: WriteBehindOptions;
  readonly #memory: SectionMemory;
  readonly #nodes = new Map<NodeId, DirtyNode>();
  /** Opens that can write, by node; they are told of errors. */
  readonly #writers = new Map<NodeId, Set<WriterOpen>>();
  // INVARIANT: the bytes of all nodes' data, in flight included.
  #bytes = 0;
  #inFlight = 0;
  /** Writes waiting for room, in order; as many as the kernel has writes outstanding. */
  #roomWaiters: (() => void)[] = [];

  constructor(inner: FileSystem, options: WriteBehindOptions) {
    this.#inner = inner;
    this.#options = options;
    const { sectionBytes, bytesMax, clock } = options;
    this.#memory = new SectionMemory(sectionBytes, Math.ceil(bytesMax / sectionBytes), clock);
  }

  /** Bytes acknowledged and not yet on the server. */
  get dirtyBytes(): number {
    return this.#bytes;
  }

  get hasDirtyNodes(): boolean {
    return this.#nodes.size > 0;
  }

  isDirty(id: NodeId): boolean {
    return this.#nodes.has(id);
  }

  overlaps(id: NodeId, offsetBytes: number, lengthBytes: number): boolean {
    return this.#nodes.get(id)?.data.overlaps(offsetBytes, lengthBytes) ?? false;
  }

  /** Whether there are unsent bytes at `offsetBytes` or anywhere behind it. */
  reaches(id: NodeId, offsetBytes: number): boolean {
    return this.overlaps(id, offsetBytes, Number.POSITIVE_INFINITY);
  }

  /** An open that can write begins; it is told of errors until `removeWriter`. */
  addWriter(open: WriterOpen): void {
    const writers = this.#writers.get(open.id);
    if (writers === undefined) this.#writers.set(open.id, new Set([open]));
    else writers.add(open);
  }

  removeWriter(open: WriterOpen): void {
    const writers = this.#writers.get(open.id);
    writers?.delete(open);
    if (writers?.size === 0) this.#writers.delete(open.id);
  }

  /** Throws the error this open has to report, once. */
  reportError(open: WriterOpen, op: string): void {
    const { error } = open;
    if (error === undefined) return;
    open.error = undefined;
    throw new FsError(error, op);
  }

  /** Takes `data`, where it may, or a copy of it, and returns when there was room for it. */
  async write(
    ctx: RequestContext,
    open: WriterOpen,
    offsetBytes: number,
    data: Buffer,
    options?: WriteOptions,
  ): Promise<number> {
    while (!this.#hasRoom(open.id, data.length)) {
      for (const dirty of this.#nodes.values()) this.#pump(dirty, true);
      await raceSignal(new Promise<void>((resolve) => this.#roomWaiters.push(resolve)), ctx.signal);
    }
    const killSuidgid = options?.killSuidgid === true;
    let node = this.#nodes.get(open.id);
    if (node === undefined) {
      const log = new DirtyLog(this.#memory);
      node = {
        id: open.id,
        data: log,
        handle: open.handle,
        caller: ctx.caller,
        killSuidgid,
        faults: 0,
        drainers: [],
        rest: undefined,
        isRested: false,
      };
      this.#nodes.set(open.id, node);
    }
    // Permission was given at open, so any open that can write will do; the latest is the one least likely to be closed first.
    node.handle = open.handle;
    node.caller = ctx.caller;
    node.killSuidgid ||= killSuidgid;
    node.isRested = false;
    node.data.append(offsetBytes, data, options?.lend);
    this.#bytes += data.length;
    this.#pumpSoon(node);
    return data.length;
  }

  #hasRoom(id: NodeId, bytes: number): boolean {
    const sections = this.#nodes.get(id)?.data.count ?? 0;
    return this.#bytes === 0 || (this.#bytes + bytes <= this.#options.bytesMax && sections < NODE_SECTIONS_MAX);
  }

  /**
   * Returns when everything of the node that was acknowledged before is on the server, or has failed and will be reported.
   *
   * @throws the signal's reason when it aborts; what is unsent goes on its way all the same.
   */
  async drain(id: NodeId, signal?: CancelSignal): Promise<void> {
    const node = this.#nodes.get(id);
    if (node === undefined) return;
    const drained = new Promise<void>((done) => node.drainers.push({ sequence: node.data.latestSequence, done }));
    this.#pump(node);
    await raceSignal(drained, signal);
  }

  /**
   * Sends all of the node's unsent writes now, so that a request can follow them.
   *
   * @returns undefined if some of them must wait here. Else it settles as `drain` does; false: not each of them was written, whole, by the one request.
   */
  follow(id: NodeId, signal?: CancelSignal): Promise<boolean> | undefined {
    const node = this.#nodes.get(id);
    if (node === undefined) return undefined;
    this.#pump(node, true);
    if (!node.data.isTaken) return undefined;
    const { faults } = node;
    return this.drain(id, signal).then(() => node.faults === faults);
  }

  async drainAll(signal?: CancelSignal): Promise<void> {
    await raceSignal(Promise.all([...this.#nodes.keys()].map((id) => this.drain(id))), signal);
  }

  /**
   * Sends what may leave when all that waits for promises has gone on: who writes is answered before what he has written is encrypted and sent, and makes
   * his next write meanwhile.
   */
  #pumpSoon(node: DirtyNode): void {
    queueMicrotask(() => {
      this.#pump(node);
      this.#restart(node);
    });
  }

  /** Sends what may leave now. `parts`: also a section that could still grow. */
  #pump(node: DirtyNode, parts = node.isRested || node.drainers.length > 0): void {
    while (this.#inFlight < SECTIONS_IN_FLIGHT_MAX) {
      const section = node.data.take(parts);
      if (section === undefined) break;
      this.#inFlight += 1;
      // #send reports every failure itself.
      void this.#send(node, section);
    }
  }

  /** A part of a section leaves when nothing was written for a while. */
  #restart(node: DirtyNode): void {
    node.rest?.stop();
    node.rest = undefined;
    if (node.data.hasPart) node.rest = this.#options.clock.after(PARTIAL_REST_MS, () => this.#rested(node));
  }

  #rested(node: DirtyNode): void {
    node.isRested = true;
    this.#pump(node);
  }

  async #send(node: DirtyNode, section: DirtySection): Promise<void> {
    const { handle, killSuidgid } = node;
    const ctx = { caller: node.caller, priority: RequestPriority.WRITE_BEHIND };
    try {
      let written = 0;
      while (written < section.data.length) {
        const rest = section.data.subarray(written);
        const count = await this.#inner.write(ctx, handle, section.offsetBytes + written, rest, { killSuidgid });
        if (count <= 0) throw new FsError("EIO", "write");
        written += count;
        if (written < section.data.length) node.faults += 1;
      }
    } catch (error) {
      node.faults += 1;
      this.#failed(node, section, error);
    }
    this.#bytes -= section.acceptedBytes;
    this.#inFlight -= 1;
    node.data.settle(section);
    this.#settled(node);
    const waiters = this.#roomWaiters;
    this.#roomWaiters = [];
    for (const waiter of waiters) waiter();
    for (const dirty of this.#nodes.values()) this.#pump(dirty);
  }

  #failed(node: DirtyNode, section: DirtySection, error: unknown): void {
    const { log } = this.#options;
    const errno = toErrno(error, (unexpected) => log.error("write-behind failed unexpectedly", unexpected));
    const range = `${section.data.length} bytes at ${section.offsetBytes}`;
    log.error(
      `a buffered write of ${range} was acknowledged and failed: ${errno}; the next write, fsync or close says so`,
    );
    for (const open of this.#writers.get(node.id) ?? []) open.error ??= errno;
    if (NOT_TAKEN.has(errno)) this.#options.keepLost?.(node.id, section.offsetBytes, section.data);
  }

  /** Tells those whose sections are settled, and drops a clean node. */
  #settled(node: DirtyNode): void {
    const oldest = node.data.oldestSequence;
    const done = node.drainers.filter((drainer) => drainer.sequence < oldest);
    node.drainers = node.drainers.filter((drainer) => drainer.sequence >= oldest);
    if (node.data.isEmpty) {
      node.rest?.stop();
      this.#nodes.delete(node.id);
    }
    for (const drainer of done) drainer.done();
  }
}
