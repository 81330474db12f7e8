/**
 * cached(FileSystem): write-behind and read-ahead around another FileSystem.
 *
 * What the kernel's own caches do well (names, attributes, pages) stays with the kernel. Here is what they cannot know: that the line is
 * long. INVARIANT: nobody can tell the difference except by time. Whatever could observe a node's unsent writes waits until they are on
 * the server (overlapping reads, attributes, truncation, every other kind of change), and attributes of such a node that come along with
 * other replies are fetched anew, or left out of listings.
 */
import type { Clock } from "../base/clock.ts";
import type { ErrnoName } from "../base/errno.ts";
import type { Log } from "../base/log.ts";
import type { Name } from "../base/name.ts";
import { CancelSource } from "../base/signals.ts";
import type { Attr } from "../vfs/attr.ts";
import { withoutEntries } from "../vfs/dirent-page.ts";
import {
  type AttrChange,
  type Entry,
  type FileSystem,
  type HandleId,
  type NewNode,
  type NodeId,
  type Opened,
  OpenFlag,
  type OpenFlags,
  RenameFlag,
  type RequestContext,
  RequestPriority,
  type WriteOptions,
} from "../vfs/file-system.ts";
import { ForwardingFileSystem } from "../vfs/forwarding-file-system.ts";
import type { Lock, LockOwner } from "../vfs/lock.ts";
import type { OpenReader } from "./open-reader.ts";
import { ReadAhead } from "./read-ahead.ts";
import { WriteBehind } from "./write-behind.ts";

export interface CacheOptions {
  /** The session's section size: what is sent by one request. */
  readonly sectionBytes: number;
  /** Most bytes acknowledged to applications and not yet on the server, of the whole mount. 0: every write goes through. */
  readonly writeBehindBytesMax: number;
  /** Most bytes read ahead and not yet asked for, of the whole mount. 0: nothing is read ahead. */
  readonly readAheadBytesMax: number;
  /** What fills the line (bandwidth times round trip), bytes, as measured now. */
  readonly lineBytes: () => number;
  /** What the kernel reads ahead by itself, bytes. */
  readonly kernelReadAheadBytes: () => number;
  /** How long the kernel believes attributes. */
  readonly attrTimeoutMs: number;
  readonly clock: Clock;
  readonly log: Log;
  /** As WriteBehindOptions.keepLost. */
  readonly keepLost?: ((id: NodeId, offsetBytes: number, data: Buffer) => void) | undefined;
}

/** An open file as the cache sees it. */
interface CachedOpen {
  readonly id: NodeId;
  readonly handle: HandleId;
  readonly flags: OpenFlags;
  /** An error of a buffered write that was not reported yet. */
  error: ErrnoName | undefined;
  readonly reader: OpenReader | undefined;
}

/** How long the end of a drive waits for unsent writes. */
const CLOSE_DRAIN_MS = 10_000;
const WRITES_THROUGH = OpenFlag.SYNC | OpenFlag.DSYNC | OpenFlag.DIRECT | OpenFlag.APPEND;

export class CachedFileSystem extends ForwardingFileSystem {
  /** Not offered: it would go past the unsent writes. */
  override readonly writev = undefined;
  readonly #options: CacheOptions;
  readonly #opens = new Map<HandleId, CachedOpen>();
  readonly #writes: WriteBehind;
  readonly #reads: ReadAhead;

  override readonly setlk: FileSystem["setlk"];

  /** Owns `inner`: `close` closes it. */
  constructor(inner: FileSystem, options: CacheOptions) {
    super(inner);
    const setlk = inner.setlk?.bind(inner);
    this.setlk =
      setlk && ((ctx, handle, lock, wait) => this.#locking(ctx, handle, lock, () => setlk(ctx, handle, lock, wait)));
    this.#options = options;
    this.#writes = new WriteBehind(inner, { ...options, bytesMax: options.writeBehindBytesMax });
    this.#reads = new ReadAhead(inner, {
      ...options,
      bytesMax: options.readAheadBytesMax,
      isDirty: (id, offsetBytes, lengthBytes) => this.#writes.overlaps(id, offsetBytes, lengthBytes),
    });
  }

  /** Writes are held back here. */
  override get canFollowWrites(): boolean {
    return false;
  }

  /** What was acknowledged here may still fail. */
  override get isFlushless(): boolean {
    return false;
  }

  /** Others have changed the file: nothing that was read ahead may be used. */
  changedByOthers(id: NodeId): void {
    this.#reads.invalidate(id, 0);
  }

  /** Others need the node: settles when everything that was written to it is on the server, or has failed and will be reported. */
  sendUnsent(id: NodeId): Promise<void> {
    return this.#writes.drain(id);
  }

  /** Bytes held now, for status pages. */
  get figures(): { dirtyBytes: number; readAheadBytes: number } {
    return { dirtyBytes: this.#writes.dirtyBytes, readAheadBytes: this.#reads.heldBytes };
  }

  override async lookup(ctx: RequestContext, parent: NodeId, name: Name): Promise<Entry> {
    return this.#fresh(ctx, await this.inner.lookup(ctx, parent, name));
  }

  override async getattr(ctx: RequestContext, id: NodeId, handle?: HandleId): Promise<Attr> {
    if (handle !== undefined && !this.#writes.isDirty(id)) {
      const attr = await this.#opens.get(handle)?.reader?.takeAttr(ctx.signal);
      if (attr !== undefined && !this.#writes.isDirty(id)) return attr;
    }
    return this.#afterWrites(ctx, id, (after) => this.inner.getattr(after, id, handle));
  }

  override async setattr(ctx: RequestContext, id: NodeId, change: AttrChange, handle?: HandleId): Promise<Attr> {
    return this.#changing(ctx, id, change.sizeBytes ?? 0, () => this.inner.setattr(ctx, id, change, handle));
  }

  override async link(ctx: RequestContext, id: NodeId, parent: NodeId, name: Name): Promise<Entry> {
    if (this.#writes.isDirty(id)) await this.#writes.drain(id, ctx.signal);
    return this.#changingAttrs(() => this.inner.link(ctx, id, parent, name));
  }

  override async unlink(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    return this.#changingAttrs(() => this.inner.unlink(ctx, parent, name));
  }

  /** Each write takes a file's capabilities away: those given after it are to stay. */
  override async setxattr(ctx: RequestContext, id: NodeId, name: Name, value: Buffer, flags: number): Promise<void> {
    if (this.#writes.isDirty(id)) await this.#writes.drain(id, ctx.signal);
    return this.#changingAttrs(() => this.inner.setxattr(ctx, id, name, value, flags));
  }

  override async removexattr(ctx: RequestContext, id: NodeId, name: Name): Promise<void> {
    if (this.#writes.isDirty(id)) await this.#writes.drain(id, ctx.signal);
    return this.#changingAttrs(() => this.inner.removexattr(ctx, id, name));
  }

  /** A file must not appear under its new name without data that was written before. */
  override async rename(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    newParent: NodeId,
    newName: Name,
    flags: number,
  ): Promise<void> {
    if (this.#writes.hasDirtyNodes) {
      const { id } = await this.inner.lookup(ctx, parent, name);
      await this.#writes.drain(id, ctx.signal);
      if (flags === RenameFlag.EXCHANGE) {
        const other = await this.inner.lookup(ctx, newParent, newName);
        await this.#writes.drain(other.id, ctx.signal);
      }
    }
    return this.#changingAttrs(() => this.inner.rename(ctx, parent, name, newParent, newName, flags));
  }

  override async open(ctx: RequestContext, id: NodeId, flags: OpenFlags): Promise<Opened> {
    if (this.#writes.isDirty(id)) await this.#writes.drain(id, ctx.signal);
    const open = () => this.inner.open(ctx, id, flags);
    const { changeCount } = this.#reads;
    const opened = (flags & OpenFlag.TRUNC) === 0 ? await open() : await this.#changing(ctx, id, 0, open);
    // A write that was acknowledged meanwhile may be missing in the content that came along.
    if (changeCount !== this.#reads.changeCount || this.#writes.isDirty(id)) delete opened.content;
    this.#opened(id, flags, opened);
    return opened;
  }

  override async create(ctx: RequestContext, parent: NodeId, name: Name, flags: OpenFlags, node: NewNode) {
    const created = await this.inner.create(ctx, parent, name, flags, node);
    this.#opened(created.entry.id, flags, created.opened);
    return created;
  }

  override async tmpfile(ctx: RequestContext, parent: NodeId, flags: OpenFlags, node: NewNode) {
    const created = await this.inner.tmpfile(ctx, parent, flags, node);
    this.#opened(created.entry.id, flags, created.opened);
    return created;
  }

  override async read(ctx: RequestContext, handle: HandleId, offsetBytes: number, target: Buffer): Promise<number> {
    const open = this.#opens.get(handle);
    if (open === undefined) return this.inner.read(ctx, handle, offsetBytes, target);
    const { id, reader } = open;
    if (this.#writes.overlaps(id, offsetBytes, target.length)) await this.#writes.drain(id, ctx.signal);
    const read = () =>
      reader === undefined ? this.inner.read(ctx, handle, offsetBytes, target) : reader.read(ctx, offsetBytes, target);
    const isUnsentBehind = this.#writes.reaches(id, offsetBytes);
    const count = await read();
    // A short read says that the file ends there, but the server does not know yet what was written behind.
    if (count === target.length || !(isUnsentBehind || this.#writes.reaches(id, offsetBytes))) return count;
    await this.#writes.drain(id, ctx.signal);
    return read();
  }

  override async write(
    ctx: RequestContext,
    handle: HandleId,
    offsetBytes: number,
    data: Buffer,
    options?: WriteOptions,
  ): Promise<number> {
    const open = this.#opens.get(handle);
    if (open === undefined) return this.inner.write(ctx, handle, offsetBytes, data, options);
    this.#writes.reportError(open, "write");
    // Where no file can reach, the answer is known behind and must not come late.
    const isBeyond = offsetBytes + data.length > Number.MAX_SAFE_INTEGER;
    if ((open.flags & WRITES_THROUGH) !== 0 || isBeyond || this.#options.writeBehindBytesMax === 0) {
      return this.#changing(ctx, open.id, offsetBytes + data.length, () =>
        this.inner.write(ctx, handle, offsetBytes, data, options),
      );
    }
    const written = await this.#writes.write(ctx, open, offsetBytes, data, options);
    this.#reads.invalidate(open.id, offsetBytes + written);
    return written;
  }

  override async flush(ctx: RequestContext, handle: HandleId, closer?: LockOwner): Promise<void> {
    const open = this.#opens.get(handle);
    if (open === undefined) return this.inner.flush(ctx, handle, closer);
    try {
      await this.#writes.drain(open.id, ctx.signal);
    } catch (error) {
      // Who closes does not wait any more. His locks go all the same, after what he has written.
      const unlock = () => this.inner.flush({ caller: ctx.caller }, handle, closer);
      if (closer !== undefined)
        void this.#writes
          .drain(open.id)
          .then(unlock, unlock)
          .catch(() => {});
      throw error;
    }
    try {
      this.#writes.reportError(open, "close");
    } finally {
      await this.inner.flush(ctx, handle, closer);
    }
  }

  override async fsync(ctx: RequestContext, handle: HandleId, dataOnly: boolean): Promise<void> {
    const open = this.#opens.get(handle);
    if (open === undefined) return this.inner.fsync(ctx, handle, dataOnly);
    return this.#afterWrites(ctx, open.id, async (after) => {
      this.#writes.reportError(open, "fsync");
      return this.inner.fsync(after, handle, dataOnly);
    });
  }

  override async release(ctx: RequestContext, handle: HandleId): Promise<void> {
    const open = this.#opens.get(handle);
    if (open !== undefined) {
      this.#opens.delete(handle);
      open.reader?.close();
      // Pages the kernel wrote back after the last flush may still be here.
      await this.#writes.drain(open.id);
      this.#writes.removeWriter(open);
    }
    return this.inner.release(ctx, handle);
  }

  override async fallocate(
    ctx: RequestContext,
    handle: HandleId,
    mode: number,
    offsetBytes: number,
    lengthBytes: number,
  ) {
    const act = () => this.inner.fallocate(ctx, handle, mode, offsetBytes, lengthBytes);
    const open = this.#opens.get(handle);
    return open === undefined ? act() : this.#changing(ctx, open.id, offsetBytes + lengthBytes, act);
  }

  override async lseek(ctx: RequestContext, handle: HandleId, offsetBytes: number, whence: "data" | "hole") {
    const open = this.#opens.get(handle);
    if (open !== undefined) await this.#writes.drain(open.id, ctx.signal);
    return this.inner.lseek(ctx, handle, offsetBytes, whence);
  }

  override async copyFileRange(
    ctx: RequestContext,
    source: { handle: HandleId; offsetBytes: number },
    target: { handle: HandleId; offsetBytes: number },
    lengthBytes: number,
  ): Promise<number> {
    const from = this.#opens.get(source.handle);
    if (from !== undefined) await this.#writes.drain(from.id, ctx.signal);
    const act = () => this.inner.copyFileRange(ctx, source, target, lengthBytes);
    const to = this.#opens.get(target.handle);
    return to === undefined ? act() : this.#changing(ctx, to.id, target.offsetBytes + lengthBytes, act);
  }

  override async readdir(
    ctx: RequestContext,
    handle: HandleId,
    cookie: bigint,
    maxBytes: number,
    withEntries: boolean,
  ): Promise<Buffer> {
    const page = await this.inner.readdir(ctx, handle, cookie, maxBytes, withEntries);
    // The kernel is to ask for the attributes of nodes with unsent writes.
    return withEntries && this.#writes.hasDirtyNodes ? withoutEntries(page, (id) => this.#writes.isDirty(id)) : page;
  }

  override async syncfs(ctx: RequestContext, id: NodeId): Promise<void> {
    await this.#writes.drainAll(ctx.signal);
    return this.inner.syncfs(ctx, id);
  }

  override async close(): Promise<void> {
    // Every descriptor's close has waited for its writes; a server that does not answer must not keep us for the rest.
    const { clock, log } = this.#options;
    const timer = clock.after(CLOSE_DRAIN_MS, () => waited(), { keepAlive: true });
    let waited = () => {};
    const given = new Promise<void>((resolve) => {
      waited = resolve;
    });
    await Promise.race([this.#writes.drainAll(), given]);
    timer.stop();
    const { dirtyBytes } = this.#writes;
    if (dirtyBytes > 0) log.error(`${dirtyBytes} bytes that were acknowledged have not reached the server`);
    this.#reads.close();
    await this.inner.close();
    // What is left fails now, and is kept elsewhere.
    await this.#writes.drainAll();
  }

  /** The entry with attributes that know of every write acknowledged here. */
  async #fresh(ctx: RequestContext, entry: Entry): Promise<Entry> {
    if (!this.#writes.isDirty(entry.id)) return entry;
    return { id: entry.id, attr: await this.getattr(ctx, entry.id) };
  }

  #opened(id: NodeId, flags: OpenFlags, opened: Opened): void {
    this.#reads.opened(id, opened.attr);
    const unbuffered = (flags & OpenFlag.DIRECT) !== 0;
    const reads = (flags & (OpenFlag.READ | OpenFlag.EXEC)) !== 0 && !unbuffered;
    const reader = reads ? this.#reads.open(id, opened) : undefined;
    const open: CachedOpen = { id, handle: opened.handle, flags, error: undefined, reader };
    this.#opens.set(opened.handle, open);
    if ((flags & OpenFlag.WRITE) !== 0) this.#writes.addWriter(open);
  }

  /** Acts after the node's unsent writes: behind them on the line if that can be, so that it costs no round trip more than they do. */
  async #afterWrites<T>(ctx: RequestContext, id: NodeId, act: (ctx: RequestContext) => Promise<T>): Promise<T> {
    if (!this.#writes.isDirty(id)) return act(ctx);
    const { signal } = ctx;
    const following = this.inner.canFollowWrites === true ? this.#writes.follow(id, signal) : undefined;
    if (following !== undefined) {
      const acted = await this.#behind(ctx, following, act);
      if (acted !== undefined) return acted.result;
    }
    await this.#writes.drain(id, signal);
    return act(ctx);
  }

  /** Acts behind writes that have left; undefined if one of them failed. Then the act is withdrawn: the write may have failed for want of an answer. */
  async #behind<T>(
    ctx: RequestContext,
    following: Promise<boolean>,
    act: (ctx: RequestContext) => Promise<T>,
  ): Promise<{ result: T } | undefined> {
    const { caller, signal } = ctx;
    const cancel = new CancelSource();
    const abort = () => cancel.abort();
    if (signal?.aborted === true) abort();
    signal?.addEventListener("abort", abort);
    const acting = act({ caller, signal: cancel, priority: RequestPriority.WRITE_BEHIND, followsWrites: true });
    let isBroken = false;
    const followed = following.then((isWhole) => {
      isBroken = !isWhole;
      if (isBroken) abort();
    });
    try {
      const [result] = await Promise.all([acting, followed]);
      return isBroken ? undefined : { result };
    } catch (error) {
      if (isBroken) return undefined;
      throw error;
    } finally {
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Changes a node: after its unsent writes, and nothing read ahead before the change has ended is used after it. */
  async #changing<T>(ctx: RequestContext, id: NodeId, endBytes: number, act: () => Promise<T>): Promise<T> {
    if (this.#writes.isDirty(id)) await this.#writes.drain(id, ctx.signal);
    this.#reads.invalidate(id, endBytes);
    try {
      return await act();
    } finally {
      this.#reads.invalidate(id, endBytes);
    }
  }

  /** Changes attributes, often of a node that is known by a name only: none that were asked for before it has ended are told after it. */
  async #changingAttrs<T>(act: () => Promise<T>): Promise<T> {
    try {
      return await act();
    } finally {
      this.#reads.attrsChanged();
    }
  }

  /** What was written before a lock is given up is seen by whoever has it next, and what he wrote is seen when it is had again. */
  async #locking(ctx: RequestContext, handle: HandleId, lock: Lock, act: () => Promise<Attr>): Promise<Attr> {
    const id = this.#opens.get(handle)?.id;
    if (id !== undefined) await this.#writes.drain(id, ctx.signal);
    const attr = await act();
    if (id !== undefined && lock.type !== "unlock") this.#reads.invalidate(id, 0);
    return attr;
  }
}
