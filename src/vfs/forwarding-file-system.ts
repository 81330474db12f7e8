/**
 * A FileSystem that passes every request on to another one: the base of decorators, which override what they change.
 */
import type { Name } from "../base/name.ts";
import type { Attr } from "./attr.ts";
import type {
  AttrChange,
  Entry,
  FileSystem,
  HandleId,
  NewNode,
  NodeId,
  Opened,
  OpenFlags,
  RequestContext,
  StatFs,
  WriteOptions,
} from "./file-system.ts";
import type { LockOwner } from "./lock.ts";
import type { Recovery } from "./recovery.ts";

export class ForwardingFileSystem implements FileSystem {
  protected readonly inner: FileSystem;
  /** There exactly if the inner one has it. A decorator that overrides `write` must override this as well. */
  readonly writev: FileSystem["writev"];
  /** There exactly if the inner one has them, as well. */
  readonly getlk: FileSystem["getlk"];
  readonly setlk: FileSystem["setlk"];
  readonly lockNode: FileSystem["lockNode"];
  readonly findNodeLock: FileSystem["findNodeLock"];

  constructor(inner: FileSystem) {
    this.inner = inner;
    this.writev = inner.writev?.bind(inner);
    this.getlk = inner.getlk?.bind(inner);
    this.setlk = inner.setlk?.bind(inner);
    this.lockNode = inner.lockNode?.bind(inner);
    this.findNodeLock = inner.findNodeLock?.bind(inner);
  }

  get isFlushless(): boolean {
    return this.inner.isFlushless === true;
  }

  get recovery(): Recovery | undefined {
    return this.inner.recovery;
  }

  /** A decorator that holds writes back must override this. */
  get canFollowWrites(): boolean {
    return this.inner.canFollowWrites === true;
  }

  root(ctx: RequestContext): Promise<Entry> {
    return this.inner.root(ctx);
  }

  lookup(ctx: RequestContext, parent: NodeId, name: Name): Promise<Entry> {
    return this.inner.lookup(ctx, parent, name);
  }

  forget(ids: readonly NodeId[]): void {
    this.inner.forget(ids);
  }

  getattr(ctx: RequestContext, id: NodeId, handle?: HandleId): Promise<Attr> {
    return this.inner.getattr(ctx, id, handle);
  }

  setattr(ctx: RequestContext, id: NodeId, change: AttrChange, handle?: HandleId): Promise<Attr> {
    return this.inner.setattr(ctx, id, change, handle);
  }

  access(ctx: RequestContext, id: NodeId, mask: number): Promise<void> {
    return this.inner.access(ctx, id, mask);
  }

  readlink(ctx: RequestContext, id: NodeId): Promise<Buffer> {
    return this.inner.readlink(ctx, id);
  }

  symlink(ctx: RequestContext, parent: NodeId, name: Name, target: Buffer): Promise<Entry> {
    return this.inner.symlink(ctx, parent, name, target);
  }

  mknod(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    node: NewNode & { rdevMajor: number; rdevMinor: number },
  ): Promise<Entry> {
    return this.inner.mknod(ctx, parent, name, node);
  }

  mkdir(ctx: RequestContext, parent: NodeId, name: Name, node: NewNode): Promise<Entry> {
    return this.inner.mkdir(ctx, parent, name, node);
  }

  unlink(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    return this.inner.unlink(ctx, parent, name);
  }

  rmdir(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    return this.inner.rmdir(ctx, parent, name);
  }

  link(ctx: RequestContext, id: NodeId, parent: NodeId, name: Name): Promise<Entry> {
    return this.inner.link(ctx, id, parent, name);
  }

  rename(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    newParent: NodeId,
    newName: Name,
    flags: number,
  ): Promise<void> {
    return this.inner.rename(ctx, parent, name, newParent, newName, flags);
  }

  open(ctx: RequestContext, id: NodeId, flags: OpenFlags): Promise<Opened> {
    return this.inner.open(ctx, id, flags);
  }

  create(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    flags: OpenFlags,
    node: NewNode,
  ): Promise<{ entry: Entry; opened: Opened }> {
    return this.inner.create(ctx, parent, name, flags, node);
  }

  tmpfile(
    ctx: RequestContext,
    parent: NodeId,
    flags: OpenFlags,
    node: NewNode,
  ): Promise<{ entry: Entry; opened: Opened }> {
    return this.inner.tmpfile(ctx, parent, flags, node);
  }

  read(ctx: RequestContext, handle: HandleId, offsetBytes: number, target: Buffer): Promise<number> {
    return this.inner.read(ctx, handle, offsetBytes, target);
  }

  write(
    ctx: RequestContext,
    handle: HandleId,
    offsetBytes: number,
    data: Buffer,
    options?: WriteOptions,
  ): Promise<number> {
    return this.inner.write(ctx, handle, offsetBytes, data, options);
  }

  flush(ctx: RequestContext, handle: HandleId, closer?: LockOwner): Promise<void> {
    return this.inner.flush(ctx, handle, closer);
  }

  fsync(ctx: RequestContext, handle: HandleId, dataOnly: boolean): Promise<void> {
    return this.inner.fsync(ctx, handle, dataOnly);
  }

  release(ctx: RequestContext, handle: HandleId): Promise<void> {
    return this.inner.release(ctx, handle);
  }

  fallocate(
    ctx: RequestContext,
    handle: HandleId,
    mode: number,
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<void> {
    return this.inner.fallocate(ctx, handle, mode, offsetBytes, lengthBytes);
  }

  lseek(ctx: RequestContext, handle: HandleId, offsetBytes: number, whence: "data" | "hole"): Promise<number> {
    return this.inner.lseek(ctx, handle, offsetBytes, whence);
  }

  copyFileRange(
    ctx: RequestContext,
    source: { handle: HandleId; offsetBytes: number },
    target: { handle: HandleId; offsetBytes: number },
    lengthBytes: number,
  ): Promise<number> {
    return this.inner.copyFileRange(ctx, source, target, lengthBytes);
  }

  opendir(ctx: RequestContext, id: NodeId): Promise<HandleId> {
    return this.inner.opendir(ctx, id);
  }

  readdir(
    ctx: RequestContext,
    handle: HandleId,
    cookie: bigint,
    maxBytes: number,
    withEntries: boolean,
  ): Promise<Buffer> {
    return this.inner.readdir(ctx, handle, cookie, maxBytes, withEntries);
  }

  fsyncdir(ctx: RequestContext, handle: HandleId, dataOnly: boolean): Promise<void> {
    return this.inner.fsyncdir(ctx, handle, dataOnly);
  }

  releasedir(ctx: RequestContext, handle: HandleId): Promise<void> {
    return this.inner.releasedir(ctx, handle);
  }

  getxattr(ctx: RequestContext, id: NodeId, name: Name): Promise<Buffer> {
    return this.inner.getxattr(ctx, id, name);
  }

  listxattr(ctx: RequestContext, id: NodeId): Promise<Buffer> {
    return this.inner.listxattr(ctx, id);
  }

  setxattr(ctx: RequestContext, id: NodeId, name: Name, value: Buffer, flags: number): Promise<void> {
    return this.inner.setxattr(ctx, id, name, value, flags);
  }

  removexattr(ctx: RequestContext, id: NodeId, name: Name): Promise<void> {
    return this.inner.removexattr(ctx, id, name);
  }

  statfs(ctx: RequestContext, id: NodeId): Promise<StatFs> {
    return this.inner.statfs(ctx, id);
  }

  syncfs(ctx: RequestContext, id: NodeId): Promise<void> {
    return this.inner.syncfs(ctx, id);
  }

  close(): Promise<void> {
    return this.inner.close();
  }
}
