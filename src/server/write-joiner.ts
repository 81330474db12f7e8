/**
 * Writes of one open: adjacent sections that arrive while others are being written go to the file system as one write.
 *
 * There is no timer. A section waits for neighbours only while it continues what is being written and RUNS_AT_ONCE writes or more are under way:
 * until there are as many as one write takes, or one of those ends. So a quick disk sees sections as they come, a slow one sees few large
 * writes, and writes here and there in a file wait for none.
 * Not joined are opens whose writes depend on each other's order (append) or must be on the disk one by one (SYNC, DSYNC), and file systems
 * that gain nothing. INVARIANT: every section is answered with what became of its own bytes, whatever happened to others of its run.
 *
 * Queue: what is held is bounded by the limits of its RunMerge; a section beyond is written by itself at once.
 */
import { FsError } from "../base/errors.ts";
import { RunMerge, type WriteRun } from "../sections/run-merge.ts";
import {
  type Caller,
  type FileSystem,
  type HandleId,
  OpenFlag,
  type OpenFlags,
  type RequestContext,
  WRITEV_BUFFERS_MAX,
} from "../vfs/file-system.ts";

/** With two the disk is never idle while the next run gathers. */
const RUNS_AT_ONCE = 2;
const LIMITS = {
  runBytesMax: 4 * 1024 * 1024,
  runSectionsMax: WRITEV_BUFFERS_MAX,
  // Finding what a run must wait for costs their square and more; a client chooses how they overlap.
  runsMax: 64,
  heldBytesMax: 64 * 1024 * 1024,
} as const;
const NEVER_JOINED = OpenFlag.APPEND | OpenFlag.SYNC | OpenFlag.DSYNC;

/** A request whose caller may lose interest. */
export interface WriteContext extends RequestContext {
  readonly isCanceled: boolean;
  /** Called when it has; set by whoever holds the request at the moment. */
  onCancel: (() => void) | undefined;
}

export interface WriteCounters {
  /** Calls of the file system. */
  writes: number;
  /** Sections that came to be written. */
  writtenSections: number;
}

interface Section {
  readonly ctx: WriteContext;
  readonly offsetBytes: number;
  /** The request's until it settles. */
  readonly data: Buffer;
  readonly killSuidgid: boolean;
  readonly resolve: (writtenBytes: number) => void;
  readonly reject: (error: unknown) => void;
}

export class WriteJoiner {
  readonly #fileSystem: FileSystem;
  readonly #handle: HandleId;
  readonly #counters: WriteCounters;
  /** Undefined: nothing is joined here. */
  readonly #merge: RunMerge<Section> | undefined;
  /** For whom everything in #merge is written. */
  #caller: Caller | undefined;
  #runsWriting = 0;

  constructor(parts: { fileSystem: FileSystem; handle: HandleId; flags: OpenFlags; counters: WriteCounters }) {
    this.#fileSystem = parts.fileSystem;
    this.#handle = parts.handle;
    this.#counters = parts.counters;
    const isJoining = parts.fileSystem.writev !== undefined && (parts.flags & NEVER_JOINED) === 0;
    this.#merge = isJoining ? new RunMerge(LIMITS) : undefined;
  }

  /**
   * Writes one section, as `FileSystem.write`. `data` is borrowed until the promise settles.
   *
   * @throws FsError what the file system says of this section; EINTR canceled before its write began, at once if it was only gathered.
   */
  write(ctx: WriteContext, offsetBytes: number, data: Buffer, killSuidgid: boolean): Promise<number> {
    this.#counters.writtenSections += 1;
    const merge = this.#merge;
    if (merge === undefined || data.length === 0) return this.#writeAlone(ctx, offsetBytes, data, killSuidgid);
    if (ctx.isCanceled) return Promise.reject(new FsError("EINTR", "write"));
    if (merge.idle) this.#caller = ctx.caller;
    else if (!isSameUser(this.#caller, ctx.caller)) return this.#writeAlone(ctx, offsetBytes, data, killSuidgid);
    return new Promise((resolve, reject) => {
      const section = { ctx, offsetBytes, data, killSuidgid, resolve, reject };
      if (!merge.add(offsetBytes, data, section)) {
        this.#writeAlone(ctx, offsetBytes, data, killSuidgid).then(resolve, reject);
        return;
      }
      ctx.onCancel = () => this.#withdraw(merge, section);
      this.#writeGathered(merge);
    });
  }

  /**
   * Nobody waits for a section any more. One that is only gathered is not written: what it would wait for may never end. What is left of its run stays
   * where it is, because others of it are most likely canceled as well.
   */
  #withdraw(merge: RunMerge<Section>, section: Section): void {
    if (merge.withdraw(section)) section.reject(new FsError("EINTR", "write"));
  }

  #writeGathered(merge: RunMerge<Section>): void {
    for (;;) {
      const run = merge.take(this.#runsWriting < RUNS_AT_ONCE);
      if (run === undefined) return;
      // Never rejects: sections settle on their own.
      void this.#writeRun(merge, run);
    }
  }

  async #writeRun(merge: RunMerge<Section>, run: WriteRun<Section>): Promise<void> {
    this.#runsWriting += 1;
    const isJoined = run.tokens.length > 1 && !run.tokens.some(({ ctx }) => ctx.isCanceled);
    for (const section of isJoined ? await this.#writeJoined(run) : run.tokens) {
      try {
        if (section.ctx.isCanceled) throw new FsError("EINTR", "write");
        const { ctx, offsetBytes, data, killSuidgid } = section;
        section.resolve(await this.#writeAlone(ctx, offsetBytes, data, killSuidgid));
      } catch (error) {
        section.reject(error);
      }
    }
    this.#runsWriting -= 1;
    merge.finished(run);
    this.#writeGathered(merge);
  }

  /**
   * Writes the run with one call, and settles the sections written whole.
   *
   * @returns the others, in the order of the file: written by itself each will meet its own error, or come as far as it can.
   */
  async #writeJoined(run: WriteRun<Section>): Promise<readonly Section[]> {
    const { tokens: sections } = run;
    const [first] = sections as [Section];
    const { writev } = this.#fileSystem;
    if (writev === undefined) return sections;
    this.#counters.writes += 1;
    const options = sections.some(({ killSuidgid }) => killSuidgid) ? { killSuidgid: true } : undefined;
    // Without a signal: one that loses interest does not speak for the others.
    const ctx = { caller: first.ctx.caller };
    let writtenBytes: number;
    try {
      writtenBytes = await writev.call(this.#fileSystem, ctx, this.#handle, run.offsetBytes, run.buffers, options);
    } catch {
      return sections;
    }
    if (writtenBytes === run.lengthBytes) {
      for (const section of sections) section.resolve(section.data.length);
      return [];
    }
    const rest: Section[] = [];
    run.settle(writtenBytes, (section, sectionBytes, lengthBytes) => {
      if (sectionBytes === lengthBytes) section.resolve(lengthBytes);
      else rest.push(section);
    });
    return rest;
  }

  async #writeAlone(ctx: RequestContext, offsetBytes: number, data: Buffer, killSuidgid: boolean): Promise<number> {
    this.#counters.writes += 1;
    const options = killSuidgid ? { killSuidgid } : undefined;
    const writtenBytes = await this.#fileSystem.write(ctx, this.#handle, offsetBytes, data, options);
    // Nobody could go on from there.
    if (writtenBytes === 0 && data.length > 0) throw new FsError("EIO", "write");
    return writtenBytes;
  }
}

/** Whether both have the same rights; the process may be another. */
function isSameUser(a: Caller | undefined, b: Caller): boolean {
  if (a === b) return true;
  if (a === undefined || a.uid !== b.uid || a.gid !== b.gid || a.groups.length !== b.groups.length) return false;
  return a.groups.every((group, index) => group === b.groups[index]);
}
