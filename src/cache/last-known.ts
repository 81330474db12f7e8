/**
 * lastKnown(FileSystem): while the server is away, names, attributes and free space are answered as they were known last, at once.
 *
 * While it is there nothing is answered from here. What was never asked before waits, like everything else that needs the server. It remembers a bounded
 * number of names and attributes, those used last, and what this mount changes itself.
 *
 * Of a file that is open with a lease, attributes are answered from here at any time: what was told with the open or since, until this mount changes the file, somebody says that
 * others have, or the lease is over.
 *
 * A name that is not in a directory whose names are all known under a lease (known-names.ts) is not asked for either.
 *
 * INVARIANT: attributes from before a change that this mount has made are not known any more: nobody sees what he did himself undone.
 */
import { LRUCache } from "lru-cache";
import type { Clock } from "../base/clock.ts";
import { ConnectionError, FsError } from "../base/errors.ts";
import type { Name } from "../base/name.ts";
import type { CancelSignal } from "../base/signals.ts";
import type { Attr } from "../vfs/attr.ts";
import { decodeDirents } from "../vfs/dirent-page.ts";
import type {
  AttrChange,
  Caller,
  Entry,
  FileSystem,
  HandleId,
  NewNode,
  NodeId,
  Opened,
  OpenFlags,
  RequestContext,
  RequestPriority,
  StatFs,
  WriteOptions,
} from "../vfs/file-system.ts";
import { OpenFlag, RenameFlag } from "../vfs/file-system.ts";
import { ForwardingFileSystem } from "../vfs/forwarding-file-system.ts";
import { Lease } from "../vfs/lease.ts";
import { KnownNames } from "./known-names.ts";

const NAMES_MAX = 16_384;
const ATTRS_MAX = 16_384;
const ACCESS_MAX = 4096;

/** The same request, but of somebody who does not wait for a server that is away. */
class Impatient implements RequestContext {
  readonly isImpatient = true;
  readonly #ctx: RequestContext;

  constructor(ctx: RequestContext) {
    this.#ctx = ctx;
  }

  get caller(): Caller {
    return this.#ctx.caller;
  }

  get signal(): CancelSignal | undefined {
    return this.#ctx.signal;
  }

  get priority(): RequestPriority | undefined {
    return this.#ctx.priority;
  }
}

/** A node that is open with a lease. */
interface Leased {
  opens: number;
  /** When the latest was granted, counted in changes: what was asked before may be older. */
  since: number;
  /** As it is on the server; undefined: not known. */
  attr: Attr | undefined;
  /** When that was asked for, at the earliest, counted in changes. */
  attrSince: number;
}

/** Without a stack and a path it is the same for all. */
const ABSENT = new FsError("ENOENT", "lookup");

export class LastKnownFileSystem extends ForwardingFileSystem {
  readonly #names = new LRUCache<string, NodeId>({ max: NAMES_MAX });
  readonly #attrs = new LRUCache<NodeId, Attr>({ max: ATTRS_MAX });
  /** When each was granted, counted in changes. */
  readonly #granted = new LRUCache<string, number>({ max: ACCESS_MAX });
  /** When this mount last changed a node, counted in changes. */
  readonly #changed = new LRUCache<NodeId, number>({ max: ATTRS_MAX });
  #changes = 0;
  readonly #opens = new Map<HandleId, NodeId>();
  readonly #leased = new Map<NodeId, Leased>();
  /** When this mount last took a name away and did not know whose: any file may be another since. Counted in changes. */
  #strayRemoval = 0;
  /** The name that was last found not to be there: the kernel looks for a name before it lets a file be moved there. */
  #missed: string | undefined;
  /** When the leases of a node were last lost, counted in changes. */
  readonly #lost = new LRUCache<NodeId, number>({ max: ATTRS_MAX });
  readonly #known: KnownNames;
  #root: Entry | undefined;
  #space: StatFs | undefined;

  constructor(inner: FileSystem, clock: Clock) {
    super(inner);
    this.#known = new KnownNames(inner, clock);
  }

  /** Others have changed the node: what is known of it is of before. */
  changedByOthers(id: NodeId): void {
    this.#change(id);
  }

  /** There is no lease of the node any more. */
  leaseLost(id: NodeId): void {
    this.#changes += 1;
    this.#lost.set(id, this.#changes);
    this.#leased.delete(id);
    this.#known.forget(id);
  }

  /** The server may have taken leases back, and cannot say so. */
  serverAway(): void {
    this.#known.forgetAll();
  }

  override async close(): Promise<void> {
    this.#known.close();
    await this.inner.close();
  }

  override root(ctx: RequestContext): Promise<Entry> {
    return this.#ask(
      ctx,
      (asking) => this.inner.root(asking),
      (root, since) => {
        this.#root = root;
        this.#learn(root.id, root.attr, since);
      },
      () => this.#root,
    );
  }

  override lookup(ctx: RequestContext, parent: NodeId, name: Name): Promise<Entry> {
    if (this.#known.isAbsent(ctx, parent, name)) {
      this.#missed = keyOf(parent, name);
      return Promise.reject(ABSENT);
    }
    return this.#ask(
      ctx,
      (asking) => this.inner.lookup(asking, parent, name),
      (entry, since) => this.#enter(parent, name, entry, since),
      () => this.#entryOf(parent, name),
      (error) => {
        if (!(error instanceof FsError && error.errno === "ENOENT")) return;
        this.#missed = keyOf(parent, name);
        this.#known.missed(ctx, parent);
      },
    );
  }

  override async getattr(ctx: RequestContext, id: NodeId, handle?: HandleId): Promise<Attr> {
    if (ctx.followsWrites === true) {
      // Of a file with writes on their way nothing is known.
      const since = this.#changes;
      const attr = await this.inner.getattr(ctx, id, handle);
      this.#learnAsked(id, attr, since);
      return attr;
    }
    const leased = this.#leased.get(id);
    if (leased?.attr !== undefined && leased.attrSince >= this.#strayRemoval) return leased.attr;
    return this.#ask(
      ctx,
      (asking) => this.inner.getattr(asking, id, handle),
      (attr, since) => this.#learnAsked(id, attr, since),
      () => this.#attrs.get(id),
    );
  }

  override statfs(ctx: RequestContext, id: NodeId): Promise<StatFs> {
    return this.#ask(
      ctx,
      (asking) => this.inner.statfs(asking, id),
      (space) => {
        this.#space = space;
      },
      () => this.#space,
    );
  }

  override async access(ctx: RequestContext, id: NodeId, mask: number): Promise<void> {
    const { uid, gid } = ctx.caller;
    const key = `${id} ${mask} ${uid} ${gid}`;
    await this.#ask(
      ctx,
      (asking) => this.inner.access(asking, id, mask).then(() => true as const),
      (_granted, since) => void this.#granted.set(key, since),
      () => this.#isUnchanged(id, this.#granted.get(key)) || undefined,
    );
  }

  override async setattr(ctx: RequestContext, id: NodeId, change: AttrChange, handle?: HandleId): Promise<Attr> {
    const since = this.#change(id);
    // Who may search a directory may be another now.
    this.#known.forget(id);
    const attr = await this.inner.setattr(ctx, id, change, handle);
    this.#learnAsked(id, attr, since);
    return attr;
  }

  override async symlink(ctx: RequestContext, parent: NodeId, name: Name, target: Buffer): Promise<Entry> {
    return this.#entered(parent, name, () => this.inner.symlink(ctx, parent, name, target));
  }

  override async mknod(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    node: NewNode & { rdevMajor: number; rdevMinor: number },
  ): Promise<Entry> {
    return this.#entered(parent, name, () => this.inner.mknod(ctx, parent, name, node));
  }

  override async mkdir(ctx: RequestContext, parent: NodeId, name: Name, node: NewNode): Promise<Entry> {
    return this.#entered(parent, name, () => this.inner.mkdir(ctx, parent, name, node));
  }

  override async link(ctx: RequestContext, id: NodeId, parent: NodeId, name: Name): Promise<Entry> {
    return this.#changing(id, () => this.#entered(parent, name, () => this.inner.link(ctx, id, parent, name)));
  }

  override async create(ctx: RequestContext, parent: NodeId, name: Name, flags: OpenFlags, node: NewNode) {
    const since = this.#changes;
    this.#known.named(parent, name);
    const created = await this.inner.create(ctx, parent, name, flags, node);
    this.#opened(created.entry.id, created.opened, since);
    this.#change(parent);
    this.#enter(parent, name, created.entry, since);
    return created;
  }

  override async tmpfile(ctx: RequestContext, parent: NodeId, flags: OpenFlags, node: NewNode) {
    const since = this.#changes;
    const created = await this.inner.tmpfile(ctx, parent, flags, node);
    this.#opened(created.entry.id, created.opened, since);
    return created;
  }

  override async open(ctx: RequestContext, id: NodeId, flags: OpenFlags): Promise<Opened> {
    const open = () => this.inner.open(ctx, id, flags);
    const since = this.#changes;
    const opened = await ((flags & OpenFlag.TRUNC) === 0 ? open() : this.#changing(id, open));
    this.#opened(id, opened, since);
    return opened;
  }

  override release(ctx: RequestContext, handle: HandleId): Promise<void> {
    const id = this.#opens.get(handle);
    this.#opens.delete(handle);
    const leased = id === undefined ? undefined : this.#leased.get(id);
    if (id !== undefined && leased !== undefined) {
      leased.opens -= 1;
      // Others may have been opened without: then it is believed a little less.
      if (leased.opens === 0) this.#leased.delete(id);
    }
    return this.inner.release(ctx, handle);
  }

  override write(
    ctx: RequestContext,
    handle: HandleId,
    offsetBytes: number,
    data: Buffer,
    options?: WriteOptions,
  ): Promise<number> {
    return this.#changing(this.#opens.get(handle), () => this.inner.write(ctx, handle, offsetBytes, data, options));
  }

  /** Disks give a file its blocks as late as now. */
  override async fsync(ctx: RequestContext, handle: HandleId, dataOnly: boolean): Promise<void> {
    await this.inner.fsync(ctx, handle, dataOnly);
    const id = this.#opens.get(handle);
    const leased = id === undefined ? undefined : this.#leased.get(id);
    if (leased === undefined) return;
    this.#changes += 1;
    leased.since = this.#changes;
    leased.attr = undefined;
  }

  override fallocate(ctx: RequestContext, handle: HandleId, mode: number, offsetBytes: number, lengthBytes: number) {
    const act = () => this.inner.fallocate(ctx, handle, mode, offsetBytes, lengthBytes);
    return this.#changing(this.#opens.get(handle), act);
  }

  override copyFileRange(
    ctx: RequestContext,
    source: { handle: HandleId; offsetBytes: number },
    target: { handle: HandleId; offsetBytes: number },
    lengthBytes: number,
  ): Promise<number> {
    const act = () => this.inner.copyFileRange(ctx, source, target, lengthBytes);
    return this.#changing(this.#opens.get(target.handle), act);
  }

  override setxattr(ctx: RequestContext, id: NodeId, name: Name, value: Buffer, flags: number): Promise<void> {
    // It may be an access control list.
    this.#known.forget(id);
    return this.#changing(id, () => this.inner.setxattr(ctx, id, name, value, flags));
  }

  override removexattr(ctx: RequestContext, id: NodeId, name: Name): Promise<void> {
    this.#known.forget(id);
    return this.#changing(id, () => this.inner.removexattr(ctx, id, name));
  }

  override async unlink(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    await this.inner.unlink(ctx, parent, name);
    this.#removed(parent, name);
  }

  override async rmdir(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    await this.inner.rmdir(ctx, parent, name);
    this.#removed(parent, name, true);
  }

  override async rename(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    newParent: NodeId,
    newName: Name,
    flags: number,
  ): Promise<void> {
    const id = this.#names.get(keyOf(parent, name));
    const isNew = flags === RenameFlag.NOREPLACE || this.#missed === keyOf(newParent, newName);
    this.#known.named(newParent, newName);
    await this.inner.rename(ctx, parent, name, newParent, newName, flags);
    this.#removed(parent, name);
    this.#removed(newParent, newName, isNew);
    if (id !== undefined && flags === 0) this.#names.set(keyOf(newParent, newName), id);
  }

  override async readdir(
    ctx: RequestContext,
    handle: HandleId,
    cookie: bigint,
    maxBytes: number,
    withEntries: boolean,
  ): Promise<Buffer> {
    const since = this.#changes;
    const page = await this.inner.readdir(ctx, handle, cookie, maxBytes, withEntries);
    if (withEntries) {
      // Names that come with entries are not looked for by themselves.
      this.#missed = undefined;
      for (const { entry } of decodeDirents(page)) if (entry !== undefined) this.#learn(entry.id, entry.attr, since);
    }
    return page;
  }

  /** Asks the server; when it is away, tells what is known, or waits for it if nothing is. */
  async #ask<T>(
    ctx: RequestContext,
    ask: (ctx: RequestContext) => Promise<T>,
    remember: (answer: T, since: number) => void,
    known: () => T | undefined,
    failed?: (error: unknown) => void,
  ): Promise<T> {
    let answer: T;
    let since = this.#changes;
    try {
      answer = await ask(new Impatient(ctx));
    } catch (error) {
      if (!(error instanceof ConnectionError)) {
        failed?.(error);
        throw error;
      }
      const last = known();
      if (last !== undefined) return last;
      since = this.#changes;
      answer = await ask(ctx);
    }
    remember(answer, since);
    return answer;
  }

  /** A node is changed, or has been: what is known of it is of before. @returns for `#learn`: now. */
  #change(id: NodeId): number {
    this.#changes += 1;
    this.#changed.set(id, this.#changes);
    this.#attrs.delete(id);
    const leased = this.#leased.get(id);
    if (leased !== undefined) leased.attr = undefined;
    return this.#changes;
  }

  /** A file was opened that was asked for at `since`. */
  #opened(id: NodeId, { handle, attr, lease }: Opened, since: number): void {
    this.#opens.set(handle, id);
    if (lease === undefined || lease === Lease.NONE) return;
    // Both may have been told at once: then we hear of the loss before we hear of the open.
    if ((this.#lost.get(id) ?? 0) > since) return;
    const known = this.#changes === since || this.#isUnchanged(id, since) ? attr : undefined;
    this.#changes += 1;
    const leased = this.#leased.get(id);
    if (leased === undefined) this.#leased.set(id, { opens: 1, since: this.#changes, attr: known, attrSince: since });
    else {
      leased.opens += 1;
      leased.since = this.#changes;
      leased.attr = known;
      leased.attrSince = since;
    }
  }

  /** As `#learn`, of what the server was asked for by itself, which it remembers as long as there is a lease. */
  #learnAsked(id: NodeId, attr: Attr, since: number): void {
    this.#learn(id, attr, since);
    const leased = this.#leased.get(id);
    if (leased === undefined || leased.since > since || !this.#isUnchanged(id, since)) return;
    leased.attr = attr;
    leased.attrSince = since;
  }

  async #changing<T>(id: NodeId | undefined, act: () => Promise<T>): Promise<T> {
    if (id === undefined) return act();
    this.#change(id);
    try {
      return await act();
    } finally {
      this.#change(id);
    }
  }

  /** Attributes that were asked for at `since` are known, if the node was not changed in the meantime. */
  #learn(id: NodeId, attr: Attr, since: number): void {
    if (this.#isUnchanged(id, since)) this.#attrs.set(id, attr);
  }

  /** Whether what was asked of a node at `since` is not of before a change. */
  #isUnchanged(id: NodeId, since: number | undefined): boolean {
    return since !== undefined && (this.#changed.get(id) ?? 0) <= since;
  }

  /** A name was taken away; whatever had it, and the directory, are not what they were. `isNoFile`: no file had it. */
  #removed(parent: NodeId, name: Name, isNoFile = false): void {
    const key = keyOf(parent, name);
    const id = this.#names.get(key);
    this.#names.delete(key);
    this.#change(parent);
    if (id !== undefined) this.#change(id);
    else if (!isNoFile) this.#strayRemoval = this.#changes;
  }

  async #entered(parent: NodeId, name: Name, make: () => Promise<Entry>): Promise<Entry> {
    const since = this.#changes;
    this.#known.named(parent, name);
    const entry = await make();
    this.#change(parent);
    this.#enter(parent, name, entry, since);
    return entry;
  }

  #enter(parent: NodeId, name: Name, { id, attr }: Entry, since: number): void {
    this.#names.set(keyOf(parent, name), id);
    this.#learn(id, attr, since);
  }

  #entryOf(parent: NodeId, name: Name): Entry | undefined {
    const id = this.#names.get(keyOf(parent, name));
    const attr = id === undefined ? undefined : this.#attrs.get(id);
    return id === undefined || attr === undefined ? undefined : { id, attr };
  }
}

function keyOf(parent: NodeId, name: Name): string {
  return `${parent}/${name}`;
}
