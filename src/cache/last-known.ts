/**
 * lastKnown(FileSystem): while the server is away, names, attributes and free space are answered as they were known last, at once.
 *
 * While it is there nothing is answered from here. What was never asked before waits, like everything else that needs the server. It remembers a bounded
 * number of names and attributes, those used last, and what this mount changes itself.
 */
import { LRUCache } from "lru-cache";
import { ConnectionError } from "../base/errors.ts";
import type { Name } from "../base/name.ts";
import type { CancelSignal } from "../base/signals.ts";
import type { Attr } from "../vfs/attr.ts";
import { decodeDirents } from "../vfs/dirent-page.ts";
import type {
  AttrChange,
  Caller,
  Entry,
  HandleId,
  NewNode,
  NodeId,
  OpenFlags,
  RequestContext,
  RequestPriority,
  StatFs,
} from "../vfs/file-system.ts";
import { ForwardingFileSystem } from "../vfs/forwarding-file-system.ts";

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

export class LastKnownFileSystem extends ForwardingFileSystem {
  readonly #names = new LRUCache<string, NodeId>({ max: NAMES_MAX });
  readonly #attrs = new LRUCache<NodeId, Attr>({ max: ATTRS_MAX });
  readonly #granted = new LRUCache<string, true>({ max: ACCESS_MAX });
  #root: Entry | undefined;
  #space: StatFs | undefined;

  override root(ctx: RequestContext): Promise<Entry> {
    return this.#ask(
      ctx,
      (asking) => this.inner.root(asking),
      (root) => {
        this.#root = root;
        this.#attrs.set(root.id, root.attr);
      },
      () => this.#root,
    );
  }

  override lookup(ctx: RequestContext, parent: NodeId, name: Name): Promise<Entry> {
    return this.#ask(
      ctx,
      (asking) => this.inner.lookup(asking, parent, name),
      (entry) => this.#enter(parent, name, entry),
      () => this.#entryOf(parent, name),
    );
  }

  override async getattr(ctx: RequestContext, id: NodeId, handle?: HandleId): Promise<Attr> {
    if (ctx.followsWrites === true) {
      // Of a file with writes on their way nothing is known.
      const attr = await this.inner.getattr(ctx, id, handle);
      this.#attrs.set(id, attr);
      return attr;
    }
    return this.#ask(
      ctx,
      (asking) => this.inner.getattr(asking, id, handle),
      (attr) => void this.#attrs.set(id, attr),
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
      () => void this.#granted.set(key, true),
      () => this.#granted.get(key),
    );
  }

  override async setattr(ctx: RequestContext, id: NodeId, change: AttrChange, handle?: HandleId): Promise<Attr> {
    const attr = await this.inner.setattr(ctx, id, change, handle);
    this.#attrs.set(id, attr);
    return attr;
  }

  override async symlink(ctx: RequestContext, parent: NodeId, name: Name, target: Buffer): Promise<Entry> {
    return this.#entered(parent, name, await this.inner.symlink(ctx, parent, name, target));
  }

  override async mknod(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    node: NewNode & { rdevMajor: number; rdevMinor: number },
  ): Promise<Entry> {
    return this.#entered(parent, name, await this.inner.mknod(ctx, parent, name, node));
  }

  override async mkdir(ctx: RequestContext, parent: NodeId, name: Name, node: NewNode): Promise<Entry> {
    return this.#entered(parent, name, await this.inner.mkdir(ctx, parent, name, node));
  }

  override async link(ctx: RequestContext, id: NodeId, parent: NodeId, name: Name): Promise<Entry> {
    return this.#entered(parent, name, await this.inner.link(ctx, id, parent, name));
  }

  override async create(ctx: RequestContext, parent: NodeId, name: Name, flags: OpenFlags, node: NewNode) {
    const created = await this.inner.create(ctx, parent, name, flags, node);
    this.#enter(parent, name, created.entry);
    return created;
  }

  override async unlink(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    await this.inner.unlink(ctx, parent, name);
    this.#names.delete(keyOf(parent, name));
  }

  override async rmdir(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    await this.inner.rmdir(ctx, parent, name);
    this.#names.delete(keyOf(parent, name));
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
    await this.inner.rename(ctx, parent, name, newParent, newName, flags);
    this.#names.delete(keyOf(parent, name));
    if (id === undefined || flags !== 0) this.#names.delete(keyOf(newParent, newName));
    else this.#names.set(keyOf(newParent, newName), id);
  }

  override async readdir(
    ctx: RequestContext,
    handle: HandleId,
    cookie: bigint,
    maxBytes: number,
    withEntries: boolean,
  ): Promise<Buffer> {
    const page = await this.inner.readdir(ctx, handle, cookie, maxBytes, withEntries);
    if (withEntries) {
      for (const { entry } of decodeDirents(page)) if (entry !== undefined) this.#attrs.set(entry.id, entry.attr);
    }
    return page;
  }

  /** Asks the server; when it is away, tells what is known, or waits for it if nothing is. */
  async #ask<T>(
    ctx: RequestContext,
    ask: (ctx: RequestContext) => Promise<T>,
    remember: (answer: T) => void,
    known: () => T | undefined,
  ): Promise<T> {
    let answer: T;
    try {
      answer = await ask(new Impatient(ctx));
    } catch (error) {
      if (!(error instanceof ConnectionError)) throw error;
      const last = known();
      if (last !== undefined) return last;
      answer = await ask(ctx);
    }
    remember(answer);
    return answer;
  }

  #entered(parent: NodeId, name: Name, entry: Entry): Entry {
    this.#enter(parent, name, entry);
    return entry;
  }

  #enter(parent: NodeId, name: Name, { id, attr }: Entry): void {
    this.#names.set(keyOf(parent, name), id);
    this.#attrs.set(id, attr);
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
