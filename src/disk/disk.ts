/**
 * The FileSystem contract over a directory, confined to it.
 *
 * Here requests are put into slots; the system calls are in native/disk-*.cc. It follows no symbolic link, crosses no mount
 * point and opens nothing but regular files and directories. Permissions are the kernel's: with `applyCredentials` every request
 * runs as its caller, otherwise as the process's user.
 */
import { FsError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { Name } from "../base/name.ts";
import { DiskEngine, type EngineCounters, NODE_KEY_BYTES, SETATTR, SLOT, type SlotData } from "../sys/disk-engine.ts";
import { type NameWatch, watchNames } from "../sys/name-watch.ts";
import type { Attr, TimeSpec } from "../vfs/attr.ts";
import {
  type AttrChange,
  type Entry,
  type FileSystem,
  type HandleId,
  type NewNode,
  type NodeId,
  type Opened,
  type OpenFlags,
  type RequestContext,
  type StatFs,
  WRITEV_BUFFERS_MAX,
} from "../vfs/file-system.ts";
import type { NodeLock } from "../vfs/lock.ts";
import { DiskRecovery } from "./disk-recovery.ts";
import type { SlotIndex } from "./request-slots.ts";
import {
  asAttr,
  asCount,
  asCreated,
  asEntry,
  asHandle,
  asNodeLock,
  asOpened,
  asStatFs,
  nothing,
  RequestSlots,
} from "./request-slots.ts";

/** @see XATTR_SIZE_MAX in linux/limits.h */
const XATTR_BYTES_MAX = 65536;
/** @see PATH_MAX in linux/limits.h */
const TARGET_BYTES_MAX = 4096;
/** The largest page of directory entries; more is cut to it. */
const PAGE_BYTES_MAX = 1 << 20;
/** Reads of one directory handle that wait for each other; more are refused with ENOBUFS. */
const LISTINGS_WAITING_MAX = 64;
/** Nodes kept in mind, about 250 bytes each; the longest unused are dropped, and found again when they are looked up. */
const NODES_MAX = 1 << 18;
/** Scratch buffers of XATTR_BYTES_MAX kept for reuse. */
const SCRATCH_KEPT_MAX = 8;

export interface DiskOptions {
  directory: string;
  /** The process is root and runs each request with its caller's user, group and groups; otherwise everything runs as the process's user. */
  applyCredentials: boolean;
  log: Log;
  /**
   * Files that lose their last name while they are open, and files made without one, can be recalled by the next process, through links in a folder at
   * the top of the directory that clients do not see.
   */
  keepsUnlinked?: boolean;
  /** Do without openat2(2), as happens by itself in sandboxes that lack it; for tests. */
  withoutOpenat2?: boolean;
  /** Bounds, for tests; by default what the process's limits allow. */
  limits?: { nodesMax?: number; nodeDescriptorsMax?: number; handlesMax?: number };
}

/** The file system over a directory, with counters for leak tests and status. */
export interface Disk extends FileSystem {
  counters(): EngineCounters;
  /** Lets go of files that were deleted beside the server, so that their blocks are freed; happens by itself every 10 s. */
  sweep(ctx: RequestContext): Promise<void>;
}

/**
 * Opens `directory` for serving.
 *
 * @throws FsError ENOENT, ENOTDIR, EACCES of the directory; EPERM `applyCredentials` without being root.
 */
export async function createDisk(options: DiskOptions): Promise<Disk> {
  const { directory, applyCredentials, limits = {} } = options;
  const engine = new DiskEngine({
    directory,
    applyCredentials,
    nodesMax: limits.nodesMax ?? NODES_MAX,
    nodeDescriptorsMax: limits.nodeDescriptorsMax ?? 0,
    handlesMax: limits.handlesMax ?? 0,
    withoutOpenat2: options.withoutOpenat2 ?? false,
    keepsUnlinked: options.keepsUnlinked ?? false,
  });
  options.log.debug(`serving '${directory}' ${applyCredentials ? "as the callers" : "as the process's user"}`);
  return new DiskFileSystem(new RequestSlots(engine, applyCredentials));
}

class DiskFileSystem implements Disk {
  readonly isFlushless: boolean;
  readonly recovery: DiskRecovery;
  readonly #slots: RequestSlots;
  readonly #engine: DiskEngine;
  readonly #scratch: Buffer[] = [];
  /** Directory handles that are being read, with the reads that wait. */
  readonly #listings = new Map<HandleId, (() => void)[]>();

  constructor(slots: RequestSlots) {
    this.#slots = slots;
    this.#engine = slots.engine;
    this.isFlushless = slots.engine.isLocal;
    this.recovery = new DiskRecovery(slots, this);
  }

  counters(): EngineCounters {
    return this.#engine.counters();
  }

  sweep(ctx: RequestContext): Promise<void> {
    return this.#slots.run("sweep", this.#slots.begin(ctx), nothing, undefined, ctx.signal);
  }

  root(ctx: RequestContext): Promise<Entry> {
    return this.#slots.run("root", this.#slots.begin(ctx), asEntry, undefined, ctx.signal);
  }

  lookup(ctx: RequestContext, parent: NodeId, name: Name): Promise<Entry> {
    return this.#slots.run("lookup", this.#slots.onEntry(ctx, parent, name), asEntry, undefined, ctx.signal);
  }

  forget(ids: readonly NodeId[]): void {
    const known = ids.filter((id) => id.length === NODE_KEY_BYTES);
    if (known.length > 0) this.#engine.forget(Buffer.from(known.join(""), "latin1"));
  }

  getattr(ctx: RequestContext, id: NodeId, handle?: HandleId): Promise<Attr> {
    const slot = this.#slots.onNode(ctx, id);
    if (slot >= 0) this.#slots.u32(slot, SLOT.handle, handle ?? 0);
    return this.#slots.run("getattr", slot, asAttr, undefined, ctx.signal);
  }

  setattr(ctx: RequestContext, id: NodeId, change: AttrChange, handle?: HandleId): Promise<Attr> {
    const slots = this.#slots;
    let slot = slots.onNode(ctx, id);
    slot = slots.position(slot, SLOT.length, change.sizeBytes ?? 0);
    if (slot < 0) return slots.run("setattr", slot, asAttr);
    slots.u32(slot, SLOT.handle, handle ?? 0);
    slots.u32(slot, SLOT.mode, change.mode ?? 0);
    slots.u32(slot, SLOT.uid, change.uid ?? 0);
    slots.u32(slot, SLOT.gid, change.gid ?? 0);
    const valid =
      (change.mode === undefined ? 0 : SETATTR.MODE) |
      (change.uid === undefined ? 0 : SETATTR.UID) |
      (change.gid === undefined ? 0 : SETATTR.GID) |
      (change.sizeBytes === undefined ? 0 : SETATTR.SIZE) |
      this.#time(slot, change.atime, SLOT.atime_s, SLOT.atime_ns, SETATTR.ATIME, SETATTR.ATIME_NOW) |
      this.#time(slot, change.mtime, SLOT.mtime_s, SLOT.mtime_ns, SETATTR.MTIME, SETATTR.MTIME_NOW) |
      (change.killSuidgid === true ? SETATTR.KILL_SUIDGID : 0);
    slots.u32(slot, SLOT.valid, valid);
    return slots.run("setattr", slot, asAttr, undefined, ctx.signal);
  }

  access(ctx: RequestContext, id: NodeId, mask: number): Promise<void> {
    const slot = this.#slots.onNode(ctx, id);
    if (slot >= 0) this.#slots.u32(slot, SLOT.mode, mask);
    return this.#slots.run("access", slot, nothing, undefined, ctx.signal);
  }

  readlink(ctx: RequestContext, id: NodeId): Promise<Buffer> {
    return this.#runBytes("readlink", this.#slots.onNode(ctx, id), ctx, TARGET_BYTES_MAX);
  }

  symlink(ctx: RequestContext, parent: NodeId, name: Name, target: Buffer): Promise<Entry> {
    return this.#slots.change("symlink", this.#slots.onEntry(ctx, parent, name), ctx, parent, asEntry, target);
  }

  mknod(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    node: NewNode & { rdevMajor: number; rdevMinor: number },
  ): Promise<Entry> {
    const slot = this.#newNode(this.#slots.onEntry(ctx, parent, name), node);
    if (slot >= 0) {
      this.#slots.u32(slot, SLOT.rdev_major, node.rdevMajor);
      this.#slots.u32(slot, SLOT.rdev_minor, node.rdevMinor);
    }
    return this.#slots.change("mknod", slot, ctx, parent, asEntry);
  }

  mkdir(ctx: RequestContext, parent: NodeId, name: Name, node: NewNode): Promise<Entry> {
    const slot = this.#newNode(this.#slots.onEntry(ctx, parent, name), node);
    return this.#slots.change("mkdir", slot, ctx, parent, asEntry);
  }

  unlink(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    return this.#slots.change("unlink", this.#slots.onEntry(ctx, parent, name), ctx, parent, nothing);
  }

  rmdir(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    return this.#slots.change("rmdir", this.#slots.onEntry(ctx, parent, name), ctx, parent, nothing);
  }

  link(ctx: RequestContext, id: NodeId, parent: NodeId, name: Name): Promise<Entry> {
    const slots = this.#slots;
    const slot = slots.name(slots.onNode(ctx, id), SLOT.name_bytes, SLOT.name, name);
    return slots.change("link", slots.id(slot, SLOT.target_id, parent), ctx, parent, asEntry);
  }

  rename(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    newParent: NodeId,
    newName: Name,
    flags: number,
  ): Promise<void> {
    const slots = this.#slots;
    let slot = slots.onEntry(ctx, parent, name);
    slot = slots.id(slot, SLOT.target_id, newParent);
    slot = slots.name(slot, SLOT.target_name_bytes, SLOT.target_name, newName);
    if (slot >= 0) slots.u32(slot, SLOT.flags, flags);
    return slots.run("rename", slot, nothing, undefined, ctx.signal);
  }

  open(ctx: RequestContext, id: NodeId, flags: OpenFlags): Promise<Opened> {
    const slot = this.#slots.onNode(ctx, id);
    if (slot >= 0) this.#slots.u32(slot, SLOT.flags, flags);
    return this.#slots.run("open", slot, asOpened, undefined, ctx.signal);
  }

  create(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    flags: OpenFlags,
    node: NewNode,
  ): Promise<{ entry: Entry; opened: Opened }> {
    const slot = this.#newNode(this.#slots.onEntry(ctx, parent, name), node);
    if (slot >= 0) this.#slots.u32(slot, SLOT.flags, flags);
    return this.#slots.change("create", slot, ctx, parent, asCreated);
  }

  tmpfile(
    ctx: RequestContext,
    parent: NodeId,
    flags: OpenFlags,
    node: NewNode,
  ): Promise<{ entry: Entry; opened: Opened }> {
    const slot = this.#newNode(this.#slots.onNode(ctx, parent), node);
    if (slot >= 0) this.#slots.u32(slot, SLOT.flags, flags);
    return this.#slots.run("tmpfile", slot, asCreated, undefined, ctx.signal);
  }

  read(ctx: RequestContext, handle: HandleId, offsetBytes: number, target: Buffer): Promise<number> {
    const slot = this.#slots.position(this.#slots.onHandle(ctx, handle), SLOT.offset, offsetBytes);
    return this.#slots.run("read", slot, asCount, target, ctx.signal);
  }

  write(
    ctx: RequestContext,
    handle: HandleId,
    offsetBytes: number,
    data: Buffer,
    options?: { killSuidgid?: boolean },
  ): Promise<number> {
    return this.#write(ctx, handle, offsetBytes, data, options?.killSuidgid === true);
  }

  async writev(
    ctx: RequestContext,
    handle: HandleId,
    offsetBytes: number,
    buffers: readonly Buffer[],
    options?: { killSuidgid?: boolean },
  ): Promise<number> {
    if (buffers.length === 0 || buffers.length > WRITEV_BUFFERS_MAX) throw new FsError("EINVAL", "write");
    return this.#write(ctx, handle, offsetBytes, buffers, options?.killSuidgid === true);
  }

  flush(ctx: RequestContext, handle: HandleId): Promise<void> {
    return this.#slots.run("flush", this.#slots.onHandle(ctx, handle), nothing, undefined, ctx.signal);
  }

  fsync(ctx: RequestContext, handle: HandleId, dataOnly: boolean): Promise<void> {
    const slot = this.#slots.onHandle(ctx, handle);
    if (slot >= 0) this.#slots.u32(slot, SLOT.flags, dataOnly ? 1 : 0);
    return this.#slots.run("fsync", slot, nothing, undefined, ctx.signal);
  }

  /** Not to be aborted: the handle is invalid from the call on, whoever waits. */
  release(ctx: RequestContext, handle: HandleId): Promise<void> {
    return this.#slots.run("release", this.#slots.onHandle(ctx, handle), nothing);
  }

  fallocate(
    ctx: RequestContext,
    handle: HandleId,
    mode: number,
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<void> {
    const slots = this.#slots;
    let slot = slots.position(slots.onHandle(ctx, handle), SLOT.offset, offsetBytes);
    slot = slots.position(slot, SLOT.length, lengthBytes);
    if (slot >= 0) slots.u32(slot, SLOT.mode, mode);
    return slots.run("fallocate", slot, nothing, undefined, ctx.signal);
  }

  lseek(ctx: RequestContext, handle: HandleId, offsetBytes: number, whence: "data" | "hole"): Promise<number> {
    const slot = this.#slots.position(this.#slots.onHandle(ctx, handle), SLOT.offset, offsetBytes);
    if (slot >= 0) this.#slots.u32(slot, SLOT.flags, whence === "data" ? 0 : 1);
    return this.#slots.run("lseek", slot, asCount, undefined, ctx.signal);
  }

  copyFileRange(
    ctx: RequestContext,
    source: { handle: HandleId; offsetBytes: number },
    target: { handle: HandleId; offsetBytes: number },
    lengthBytes: number,
  ): Promise<number> {
    const slots = this.#slots;
    let slot = slots.position(slots.onHandle(ctx, source.handle), SLOT.offset, source.offsetBytes);
    slot = slots.position(slot, SLOT.target_offset, target.offsetBytes);
    slot = slots.position(slot, SLOT.length, lengthBytes);
    if (slot >= 0) slots.u32(slot, SLOT.target_handle, target.handle);
    return slots.run("copyFileRange", slot, asCount, undefined, ctx.signal);
  }

  opendir(ctx: RequestContext, id: NodeId): Promise<HandleId> {
    return this.#slots.run("opendir", this.#slots.onNode(ctx, id), asHandle, undefined, ctx.signal);
  }

  watchNames(handle: HandleId, changed: (name: Name | undefined) => void): NameWatch | undefined {
    const descriptor = this.#engine.exactNames(handle);
    return descriptor === undefined ? undefined : watchNames(descriptor, changed);
  }

  async readdir(
    ctx: RequestContext,
    handle: HandleId,
    cookie: bigint,
    maxBytes: number,
    withEntries: boolean,
  ): Promise<Buffer> {
    if (!(Number.isInteger(maxBytes) && maxBytes >= 0)) throw new FsError("EINVAL", "readdir");
    await this.#listingTurn(handle);
    try {
      const slot = this.#slots.onHandle(ctx, handle);
      if (slot >= 0) {
        this.#slots.u32(slot, SLOT.flags, withEntries ? 1 : 0);
        this.#engine.view.setBigUint64(slot * SLOT.size + SLOT.cookie, BigInt.asUintN(64, cookie), true);
      }
      const page = Buffer.allocUnsafeSlow(Math.min(maxBytes, PAGE_BYTES_MAX));
      const bytes = await this.#slots.run("readdir", slot, asCount, page, ctx.signal);
      // The caller may keep it: a nearly empty page does not keep a large buffer.
      return bytes < page.length >>> 2 ? Buffer.from(page.subarray(0, bytes)) : page.subarray(0, bytes);
    } finally {
      this.#nextListing(handle);
    }
  }

  fsyncdir(ctx: RequestContext, handle: HandleId, dataOnly: boolean): Promise<void> {
    return this.fsync(ctx, handle, dataOnly);
  }

  releasedir(ctx: RequestContext, handle: HandleId): Promise<void> {
    return this.release(ctx, handle);
  }

  getxattr(ctx: RequestContext, id: NodeId, name: Name): Promise<Buffer> {
    const slot = this.#slots.xattrName(this.#slots.onNode(ctx, id), name);
    return this.#runBytes("getxattr", slot, ctx, XATTR_BYTES_MAX);
  }

  listxattr(ctx: RequestContext, id: NodeId): Promise<Buffer> {
    return this.#runBytes("listxattr", this.#slots.onNode(ctx, id), ctx, XATTR_BYTES_MAX);
  }

  setxattr(ctx: RequestContext, id: NodeId, name: Name, value: Buffer, flags: number): Promise<void> {
    let slot = this.#slots.xattrName(this.#slots.onNode(ctx, id), name);
    if (slot >= 0 && value.length > XATTR_BYTES_MAX) slot = this.#slots.refuse(slot, "E2BIG");
    if (slot >= 0) this.#slots.u32(slot, SLOT.flags, flags);
    return this.#slots.run("setxattr", slot, nothing, value, ctx.signal);
  }

  removexattr(ctx: RequestContext, id: NodeId, name: Name): Promise<void> {
    const slot = this.#slots.xattrName(this.#slots.onNode(ctx, id), name);
    return this.#slots.run("removexattr", slot, nothing, undefined, ctx.signal);
  }

  statfs(ctx: RequestContext, id: NodeId): Promise<StatFs> {
    return this.#slots.run("statfs", this.#slots.onNode(ctx, id), asStatFs, undefined, ctx.signal);
  }

  syncfs(ctx: RequestContext, id: NodeId): Promise<void> {
    return this.#slots.run("syncfs", this.#slots.onNode(ctx, id), nothing, undefined, ctx.signal);
  }

  close(): Promise<void> {
    return this.#engine.close();
  }

  lockNode(ctx: RequestContext, handle: HandleId, lock: NodeLock): Promise<Attr> {
    return this.#slots.run("lockNode", this.#slots.onLock(ctx, handle, lock), asAttr, undefined, ctx.signal);
  }

  findNodeLock(ctx: RequestContext, handle: HandleId, lock: NodeLock): Promise<NodeLock | undefined> {
    const slot = this.#slots.onLock(ctx, handle, lock);
    return this.#slots.run("findNodeLock", slot, asNodeLock, undefined, ctx.signal);
  }

  #write(
    ctx: RequestContext,
    handle: HandleId,
    offsetBytes: number,
    data: SlotData,
    killSuidgid: boolean,
  ): Promise<number> {
    const slot = this.#slots.position(this.#slots.onHandle(ctx, handle), SLOT.offset, offsetBytes);
    if (slot >= 0) this.#slots.u32(slot, SLOT.valid, killSuidgid ? SETATTR.KILL_SUIDGID : 0);
    return this.#slots.run("write", slot, asCount, data, ctx.signal);
  }

  #newNode(slot: SlotIndex, node: NewNode): SlotIndex {
    if (slot < 0) return slot;
    this.#slots.u32(slot, SLOT.mode, node.mode);
    this.#slots.u32(slot, SLOT.umask, node.umask & 0o777);
    return slot;
  }

  /** Writes one time of a setattr and returns the bits that say so. */
  #time(
    slot: SlotIndex,
    time: TimeSpec | "now" | undefined,
    secField: number,
    nsecField: number,
    set: number,
    now: number,
  ): number {
    if (time === undefined) return 0;
    if (time === "now") return now;
    this.#slots.f64(slot, secField, time.sec);
    this.#slots.u32(slot, nsecField, time.nsec);
    return set;
  }

  /** Runs a request whose reply is bytes, through a buffer of the largest size they can have. */
  async #runBytes(
    name: "readlink" | "getxattr" | "listxattr",
    slot: SlotIndex,
    ctx: RequestContext,
    bytesMax: number,
  ): Promise<Buffer> {
    const scratch = this.#scratch.pop() ?? Buffer.allocUnsafeSlow(XATTR_BYTES_MAX);
    try {
      const bytes = await this.#slots.run(name, slot, asCount, scratch.subarray(0, bytesMax), ctx.signal);
      return Buffer.from(scratch.subarray(0, bytes));
    } finally {
      if (this.#scratch.length < SCRATCH_KEPT_MAX) this.#scratch.push(scratch);
    }
  }

  /** Waits until no other read of this directory handle is under way: a stream stands at one place. */
  async #listingTurn(handle: HandleId): Promise<void> {
    const waiting = this.#listings.get(handle);
    if (waiting === undefined) {
      this.#listings.set(handle, []);
      return;
    }
    if (waiting.length >= LISTINGS_WAITING_MAX) throw new FsError("ENOBUFS", "readdir");
    await new Promise<void>((resolve) => {
      waiting.push(resolve);
    });
  }

  #nextListing(handle: HandleId): void {
    const next = this.#listings.get(handle)?.shift();
    if (next === undefined) this.#listings.delete(handle);
    else next();
  }
}
