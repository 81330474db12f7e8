/**
 * The FileSystem contract over a channel: each method is a call, large reads and writes are many.
 *
 * It keeps no cache. Arguments that cannot be put on the wire are refused here; everything else is the server's to judge. What comes back is
 * checked before it is believed: a reply that makes no sense ends the channel (ProtocolError).
 */
import { FsError } from "../base/errors.ts";
import type { Name } from "../base/name.ts";
import { raceSignal } from "../base/signals.ts";
import type { Attr } from "../vfs/attr.ts";
import { checkDirents } from "../vfs/dirent-page.ts";
import {
  type AttrChange,
  DENY_FLAGS,
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
  type StatFs,
} from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";
import type { Lock, LockOwner } from "../vfs/lock.ts";
import {
  OPEN_CONTENT_BYTES_MAX,
  payloadBytesMax,
  SYMLINK_BYTES_MAX,
  XATTR_LIST_BYTES_MAX,
  XATTR_VALUE_BYTES_MAX,
} from "../wire/limits.ts";
import type { Reply, Request } from "../wire/messages.ts";
import { checkName, checkOffset, checkXattrName } from "./argument-checks.ts";
import type { Fields, Result } from "./call.ts";
import { ForgetQueue } from "./forget-queue.ts";
import { NodeCalls } from "./node-calls.ts";
import { NodeNames } from "./node-names.ts";
import { readData, writeData } from "./open-data.ts";
import { RemoteOpens } from "./open-table.ts";
import { RemoteLocks } from "./remote-locks.ts";
import { type OpenKeys, RemoteOpen } from "./remote-open.ts";
import { asAttr, asEntry, asPayload, nonsense, nothing } from "./results.ts";
import type { SectionCarrier } from "./section-call.ts";
import type { SessionChannels } from "./session-channels.ts";

const CHANGING_OPEN_FLAGS = OpenFlag.WRITE | OpenFlag.APPEND | OpenFlag.TRUNC;
/** Of these only READ: the open is for reading a file as it is. */
const WHOLE_READ_FLAGS = OpenFlag.READ | CHANGING_OPEN_FLAGS | OpenFlag.DIRECT;
/** Of the client itself. */
const NOBODYS: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };

type Keys = Pick<Reply<"open">, "openId" | "resumeKey" | "serviceBlob" | "challenge">;

export class RemoteFileSystem implements FileSystem {
  readonly #channels: SessionChannels;
  readonly #sections: SectionCarrier;
  readonly #close: () => Promise<void>;
  readonly #readOnly: boolean;
  readonly #leases: boolean;
  readonly #names = new NodeNames();
  readonly #calls: NodeCalls;
  readonly #opens = new RemoteOpens(
    this.#names,
    (...orphan) => this.#dropHandle(...orphan),
    (open) => this.#locks.gone(open),
    (breakId) => this.#channels.notify("returnLease", { breakId }),
  );
  readonly #locks: RemoteLocks;
  readonly #forgotten: ForgetQueue;

  /** `readOnly`: refuses changes without asking the server. `leases`: files are opened with them. `close` ends the session, which is not owned. */
  constructor(sections: SectionCarrier, options: { readOnly: boolean; leases: boolean; close: () => Promise<void> }) {
    this.#channels = sections.channels;
    this.#forgotten = new ForgetQueue((ids) => this.#channels.notify("forget", { ids }));
    this.#locks = new RemoteLocks(sections.channels);
    this.#sections = sections;
    this.#readOnly = options.readOnly;
    this.#leases = options.leases;
    const { channels, answerMs } = sections;
    this.#calls = new NodeCalls(channels, this.#names, { readOnly: options.readOnly, answerMs });
    this.#close = options.close;
  }

  get isFlushless(): boolean {
    return this.#channels.agreement.isFlushless;
  }

  /** Where nodes were met. */
  get names(): Pick<NodeNames, "nameOf"> {
    return this.#names;
  }

  get canFollowWrites(): boolean {
    return this.#channels.isOneLine;
  }

  /** What is said about locks outside of replies goes there. */
  get locks(): RemoteLocks {
    return this.#locks;
  }

  /** What callers have open. */
  get opens(): RemoteOpens {
    return this.#opens;
  }

  root(ctx: RequestContext): Promise<Entry> {
    return this.#calls.call(ctx, "root", { caller: ctx.caller }, asEntry);
  }

  async lookup(ctx: RequestContext, parent: NodeId, name: Name): Promise<Entry> {
    checkName("lookup", name);
    return this.#calls.call(ctx, "lookup", { caller: ctx.caller, parent, name }, this.#entry(parent, name));
  }

  forget(ids: readonly NodeId[]): void {
    this.#names.forget(ids);
    this.#forgotten.add(ids);
  }

  async getattr(ctx: RequestContext, id: NodeId, handle?: HandleId): Promise<Attr> {
    const open = handle === undefined ? undefined : this.#find("getattr", handle);
    return this.#calls.call(ctx, "getattr", { caller: ctx.caller, id }, asAttr, open);
  }

  async setattr(ctx: RequestContext, id: NodeId, change: AttrChange, handle?: HandleId): Promise<Attr> {
    const open = handle === undefined ? undefined : this.#find("setattr", handle);
    checkOffset("setattr", change.sizeBytes ?? 0);
    return this.#calls.call(ctx, "setattr", { caller: ctx.caller, id, change }, asAttr, open);
  }

  async access(ctx: RequestContext, id: NodeId, mask: number): Promise<void> {
    return this.#calls.call(ctx, "access", { caller: ctx.caller, id, mask }, nothing);
  }

  async readlink(ctx: RequestContext, id: NodeId): Promise<Buffer> {
    const result = (_reply: Fields, payload: Buffer) => {
      if (payload.length === 0 || payload.includes(0)) throw nonsense("readlink: an impossible target");
      return payload;
    };
    return this.#calls.fetch(ctx, "readlink", { caller: ctx.caller, id }, SYMLINK_BYTES_MAX, result);
  }

  async symlink(ctx: RequestContext, parent: NodeId, name: Name, target: Buffer): Promise<Entry> {
    checkName("symlink", name);
    if (target.length === 0) throw new FsError("ENOENT", "symlink");
    if (target.length > SYMLINK_BYTES_MAX) throw new FsError("ENAMETOOLONG", "symlink");
    return this.#calls.call(
      ctx,
      "symlink",
      { caller: ctx.caller, parent, name },
      this.#entry(parent, name),
      undefined,
      target,
    );
  }

  async mknod(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    node: NewNode & { rdevMajor: number; rdevMinor: number },
  ): Promise<Entry> {
    checkName("mknod", name);
    return this.#calls.call(ctx, "mknod", { caller: ctx.caller, parent, name, ...node }, this.#entry(parent, name));
  }

  async mkdir(ctx: RequestContext, parent: NodeId, name: Name, node: NewNode): Promise<Entry> {
    checkName("mkdir", name);
    return this.#calls.call(ctx, "mkdir", { caller: ctx.caller, parent, name, ...node }, this.#entry(parent, name));
  }

  async unlink(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    checkName("unlink", name);
    return this.#calls.call(ctx, "unlink", { caller: ctx.caller, parent, name }, nothing);
  }

  async rmdir(ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    checkName("rmdir", name);
    return this.#calls.call(ctx, "rmdir", { caller: ctx.caller, parent, name }, nothing);
  }

  async link(ctx: RequestContext, id: NodeId, parent: NodeId, name: Name): Promise<Entry> {
    checkName("link", name);
    return this.#calls.call(ctx, "link", { caller: ctx.caller, id, parent, name }, this.#entry(parent, name));
  }

  async rename(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    newParent: NodeId,
    newName: Name,
    flags: number,
  ): Promise<void> {
    checkName("rename", name);
    checkName("rename", newName);
    const fields = { caller: ctx.caller, parent, name, newParent, newName, flags };
    return this.#calls.call(ctx, "rename", fields, () =>
      this.#names.moved({ parent, name }, { parent: newParent, name: newName }, flags === RenameFlag.EXCHANGE),
    );
  }

  async open(ctx: RequestContext, id: NodeId, flags: OpenFlags): Promise<Opened> {
    if (this.#readOnly && (flags & CHANGING_OPEN_FLAGS) !== 0) throw new FsError("EROFS", "open");
    const contentBytesMax = (flags & WHOLE_READ_FLAGS) === OpenFlag.READ ? OPEN_CONTENT_BYTES_MAX : 0;
    const wish = this.#wish(flags);
    const fields = { caller: ctx.caller, id, flags, contentBytesMax, lease: wish };
    return this.#calls.fetch(ctx, "open", fields, contentBytesMax, (reply, content, handle) => {
      const { attr, lease, ...keys } = reply as unknown as Reply<"open">;
      if (lease > wish) throw nonsense("open: more of a lease than asked for");
      if (content.length !== 0 && content.length !== attr.sizeBytes) throw nonsense("open: not the file's bytes");
      const open = this.#opens.add({ kind: "file", node: id, handle, flags, caller: ctx.caller, keys, lease });
      const opened = { handle: open.id, attr, lease };
      return content.length === 0 ? opened : { ...opened, content };
    });
  }

  async create(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    flags: OpenFlags,
    node: NewNode,
  ): Promise<{ entry: Entry; opened: Opened }> {
    checkName("create", name);
    return this.#calls.call(
      ctx,
      "create",
      { caller: ctx.caller, parent, name, flags, ...node, lease: this.#wish(flags) },
      this.#created(ctx, flags, { parent, name }),
    );
  }

  async tmpfile(
    ctx: RequestContext,
    parent: NodeId,
    flags: OpenFlags,
    node: NewNode,
  ): Promise<{ entry: Entry; opened: Opened }> {
    const fields = { caller: ctx.caller, parent, flags, ...node, lease: this.#wish(flags) };
    return this.#calls.call(ctx, "tmpfile", fields, this.#created(ctx, flags));
  }

  async read(ctx: RequestContext, handle: HandleId, offsetBytes: number, target: Buffer): Promise<number> {
    const open = this.#find("read", handle);
    checkOffset("read", offsetBytes);
    return target.length === 0 ? 0 : readData(this.#sections, { ctx, open, offsetBytes }, target);
  }

  async write(
    ctx: RequestContext,
    handle: HandleId,
    offsetBytes: number,
    data: Buffer,
    options?: { killSuidgid?: boolean },
  ): Promise<number> {
    const open = this.#find("write", handle);
    checkOffset("write", offsetBytes);
    if (data.length === 0) return 0;
    open.isWritten = true;
    const killSuidgid = options?.killSuidgid === true;
    return writeData(this.#sections, { ctx, open, offsetBytes }, data, killSuidgid);
  }

  async flush(ctx: RequestContext, handle: HandleId, closer?: LockOwner): Promise<void> {
    const open = this.#find("flush", handle);
    const unlocked = closer === undefined ? undefined : this.#locks.flush(ctx, open, closer);
    // It goes on if the caller does not wait for it.
    if (unlocked !== undefined) await raceSignal(unlocked, ctx.signal);
    // Without a write since, there is no error to report.
    if (!open.isWritten || this.isFlushless) return;
    await this.#calls.call(ctx, "flush", { caller: ctx.caller }, nothing, open);
    open.isWritten = false;
  }

  async fsync(ctx: RequestContext, handle: HandleId, dataOnly: boolean): Promise<void> {
    return this.#calls.call(ctx, "fsync", { caller: ctx.caller, dataOnly }, nothing, this.#find("fsync", handle));
  }

  async release(ctx: RequestContext, handle: HandleId): Promise<void> {
    const open = this.#opens.take("release", handle);
    const hasLocks = this.#locks.release(open);
    const released = new Promise<void>((resolve) => {
      const isUnhurried = !hasLocks && (open.flags & DENY_FLAGS) === 0;
      open.whenIdle(() => void this.#release(ctx, open, isUnhurried).then(resolve));
    });
    // For anything else nobody waits: what it could report, flush has reported.
    if (hasLocks) await released;
  }

  async getlk(ctx: RequestContext, handle: HandleId, lock: Lock): Promise<Lock | undefined> {
    return this.#locks.getlk(ctx, this.#find("getlk", handle), lock);
  }

  async setlk(ctx: RequestContext, handle: HandleId, lock: Lock, wait: boolean): Promise<Attr> {
    return this.#locks.setlk(ctx, this.#find("setlk", handle), lock, wait);
  }

  async fallocate(
    ctx: RequestContext,
    handle: HandleId,
    mode: number,
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<void> {
    checkOffset("fallocate", offsetBytes, lengthBytes);
    const fields = { caller: ctx.caller, mode, offsetBytes, lengthBytes };
    return this.#calls.call(ctx, "fallocate", fields, nothing, this.#find("fallocate", handle));
  }

  async lseek(ctx: RequestContext, handle: HandleId, offsetBytes: number, whence: "data" | "hole"): Promise<number> {
    checkOffset("lseek", offsetBytes);
    const fields = { caller: ctx.caller, offsetBytes, hole: whence === "hole" };
    const result = (reply: Fields) => {
      const found = reply["offsetBytes"] as number;
      if (found < offsetBytes) throw nonsense("lseek: went back");
      return found;
    };
    return this.#calls.call(ctx, "lseek", fields, result, this.#find("lseek", handle));
  }

  async copyFileRange(
    ctx: RequestContext,
    source: { handle: HandleId; offsetBytes: number },
    target: { handle: HandleId; offsetBytes: number },
    lengthBytes: number,
  ): Promise<number> {
    const from = this.#find("copyFileRange", source.handle);
    const to = this.#find("copyFileRange", target.handle);
    checkOffset("copyFileRange", source.offsetBytes, target.offsetBytes, lengthBytes);
    const fields: Request<"copyFileRange"> = {
      caller: ctx.caller,
      offsetBytes: source.offsetBytes,
      targetHandle: to.handle,
      targetOffsetBytes: target.offsetBytes,
      lengthBytes,
    };
    to.isWritten = true;
    const result = (reply: Fields) => {
      const copied = reply["copiedBytes"] as number;
      if (copied > lengthBytes) throw nonsense("copyFileRange: more than asked for");
      return copied;
    };
    to.beginCall();
    try {
      return await this.#calls.call(ctx, "copyFileRange", fields, result, from);
    } finally {
      to.endCall();
    }
  }

  async opendir(ctx: RequestContext, id: NodeId): Promise<HandleId> {
    return (await this.#opendir(ctx, id, Lease.NONE)).handle;
  }

  opendirLeased(ctx: RequestContext, id: NodeId): Promise<{ handle: HandleId; lease: Lease }> {
    return this.#opendir(ctx, id, this.#wish(OpenFlag.READ));
  }

  #opendir(ctx: RequestContext, id: NodeId, wish: Lease): Promise<{ handle: HandleId; lease: Lease }> {
    const { caller } = ctx;
    return this.#calls.call(ctx, "opendir", { caller, id, lease: wish }, (reply, _payload, handle) => {
      const { lease } = reply as unknown as Reply<"opendir">;
      if (lease > wish) throw nonsense("opendir: more of a lease than asked for");
      const open = this.#opens.add({ kind: "directory", node: id, handle, flags: OpenFlag.READ, caller, lease });
      return { handle: open.id, lease };
    });
  }

  async readdir(
    ctx: RequestContext,
    handle: HandleId,
    cookie: bigint,
    maxBytes: number,
    withEntries: boolean,
  ): Promise<Buffer> {
    const open = this.#find("readdir", handle);
    const bytesMax = Math.min(maxBytes, payloadBytesMax(this.#channels.agreement.sectionBytes));
    const fields = { caller: ctx.caller, cookie, bytesMax, withEntries };
    const result = (_reply: Fields, page: Buffer) => {
      if (withEntries) this.#names.metPage(open.node, page);
      else checkDirents(page);
      return page;
    };
    return this.#calls.fetch(ctx, "readdir", fields, bytesMax, result, open);
  }

  async fsyncdir(ctx: RequestContext, handle: HandleId, dataOnly: boolean): Promise<void> {
    return this.#calls.call(ctx, "fsyncdir", { caller: ctx.caller, dataOnly }, nothing, this.#find("fsyncdir", handle));
  }

  releasedir(ctx: RequestContext, handle: HandleId): Promise<void> {
    return this.release(ctx, handle);
  }

  async getxattr(ctx: RequestContext, id: NodeId, name: Name): Promise<Buffer> {
    checkXattrName("getxattr", name);
    return this.#calls.fetch(ctx, "getxattr", { caller: ctx.caller, id, name }, XATTR_VALUE_BYTES_MAX, asPayload);
  }

  async listxattr(ctx: RequestContext, id: NodeId): Promise<Buffer> {
    const result = (_reply: Fields, names: Buffer) => {
      if (names.length > 0 && names[names.length - 1] !== 0) throw nonsense("listxattr: names without an end");
      return names;
    };
    return this.#calls.fetch(ctx, "listxattr", { caller: ctx.caller, id }, XATTR_LIST_BYTES_MAX, result);
  }

  async setxattr(ctx: RequestContext, id: NodeId, name: Name, value: Buffer, flags: number): Promise<void> {
    checkXattrName("setxattr", name);
    if (value.length > XATTR_VALUE_BYTES_MAX) throw new FsError("E2BIG", "setxattr");
    return this.#calls.call(ctx, "setxattr", { caller: ctx.caller, id, name, flags }, nothing, undefined, value);
  }

  async removexattr(ctx: RequestContext, id: NodeId, name: Name): Promise<void> {
    checkXattrName("removexattr", name);
    return this.#calls.call(ctx, "removexattr", { caller: ctx.caller, id, name }, nothing);
  }

  async statfs(ctx: RequestContext, id: NodeId): Promise<StatFs> {
    return this.#calls.call(ctx, "statfs", { caller: ctx.caller, id }, (reply) => reply as unknown as StatFs);
  }

  async syncfs(ctx: RequestContext, id: NodeId): Promise<void> {
    return this.#calls.call(ctx, "syncfs", { caller: ctx.caller, id }, nothing);
  }

  close(): Promise<void> {
    this.#opens.close();
    return this.#close();
  }

  /**
   * Asks for the resume key of an open file once more; it comes with a fresh challenge.
   *
   * @throws FsError EBADF unknown handle; EISDIR a directory, which has none.
   */
  async queryKey(ctx: RequestContext, handle: HandleId): Promise<OpenKeys> {
    const open = this.#find("queryKey", handle);
    const keys = await this.#calls.call(ctx, "queryKey", {}, (reply) => reply as unknown as Keys, open);
    open.keys = keys;
    return keys;
  }

  /** A handle that came for a caller who had given up. */
  #dropHandle(handle: number, kind: RemoteOpen["kind"], place: string): void {
    const { caller } = NOBODYS;
    const open = new RemoteOpen({ id: 0 as HandleId, kind, node: "" as NodeId, handle, flags: 0, caller });
    open.reopenedIn = place;
    this.#opens.addReleased(open);
    void this.#release(NOBODYS, open, false);
  }

  /** The lease that helps an open with these flags. */
  #wish(flags: OpenFlags): Lease {
    if (!this.#leases || (flags & OpenFlag.DIRECT) !== 0) return Lease.NONE;
    return (flags & CHANGING_OPEN_FLAGS) === 0 ? Lease.READ : Lease.WRITE;
  }

  #find(op: string, handle: HandleId): RemoteOpen {
    return this.#opens.find(op, handle);
  }

  /** The result of a request that names a node. */
  #entry(parent: NodeId, name: Name): Result<Entry> {
    return (reply) => {
      const entry = asEntry(reply);
      this.#names.met(entry.id, parent, name);
      return entry;
    };
  }

  #created(
    ctx: RequestContext,
    flags: OpenFlags,
    place?: { parent: NodeId; name: Name },
  ): Result<{ entry: Entry; opened: Opened }> {
    return (reply, _payload, handle) => {
      const { id, attr, openId, resumeKey, serviceBlob, challenge, lease } = reply as unknown as Reply<"create">;
      if (lease > this.#wish(flags)) throw nonsense("create: more of a lease than asked for");
      const keys = { openId, resumeKey, serviceBlob, challenge };
      if (place !== undefined) this.#names.met(id, place.parent, place.name);
      const open = this.#opens.add({ kind: "file", node: id, handle, flags, caller: ctx.caller, keys, lease });
      return { entry: { id, attr }, opened: { handle: open.id, attr, lease } };
    };
  }

  /** `isUnhurried`: nobody can be waiting for it. Never rejects. */
  #release({ caller }: RequestContext, open: RemoteOpen, isUnhurried: boolean): Promise<void> {
    return this.#calls
      .release({ caller }, open, isUnhurried)
      .catch(() => {})
      .finally(() => this.#opens.ended(open));
  }
}
