/**
 * A FileSystem in memory: a reference model for tests, and something to mount while measuring the driver alone.
 *
 * Complete and simple, not fast and not safe: no permission checks (a mount may ask the kernel for them), every id is a counter. It counts what is
 * open, so that tests can see leaks.
 */
import { FsError } from "../../src/base/errors.ts";
import type { Name } from "../../src/base/name.ts";
import { isEntryName, NAME_BYTES_MAX } from "../../src/base/name.ts";
import { type Attr, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG } from "../../src/vfs/attr.ts";
import { encodeDirent } from "../../src/vfs/dirent-page.ts";
import {
  type AttrChange,
  type Entry,
  FallocateMode,
  type FileSystem,
  type HandleId,
  type NewNode,
  type NodeId,
  type Opened,
  OpenFlag,
  type OpenFlags,
  RenameFlag,
  type RequestContext,
  XattrFlag,
} from "../../src/vfs/file-system.ts";

export interface MemoryNode {
  readonly id: NodeId;
  readonly attr: Attr;
  data: Buffer;
  parent: MemoryNode | undefined;
  readonly entries: Map<Name, MemoryNode>;
  readonly xattrs: Map<Name, Buffer>;
}

interface Open {
  readonly node: MemoryNode;
  readonly flags: OpenFlags;
}

const ROOT_INO = 1;

export class MemoryFs implements FileSystem {
  protected readonly nodes = new Map<NodeId, MemoryNode>();
  protected readonly opens = new Map<HandleId, Open>();
  protected readonly top: MemoryNode;
  #nextIno = ROOT_INO;
  #nextHandle = 1;
  #clockNsec = 0;
  /** Ids given to `forget`, in order. */
  readonly forgotten: NodeId[] = [];

  constructor() {
    this.top = this.#make({ caller: { uid: 0, gid: 0, groups: [], pid: 0 } }, { mode: S_IFDIR | 0o755, umask: 0 });
    this.top.parent = this.top;
    this.top.attr.nlink = 2;
  }

  get openCount(): number {
    return this.opens.size;
  }

  /** A clock that never stands still: two changes never have the same time. */
  #now(): { sec: number; nsec: number } {
    this.#clockNsec++;
    return { sec: 1_700_000_000 + Math.floor(this.#clockNsec / 1e9), nsec: this.#clockNsec % 1e9 };
  }

  #make(ctx: RequestContext, made: NewNode): MemoryNode {
    const ino = this.#nextIno++;
    const { sec, nsec } = this.#now();
    const isDir = (made.mode & S_IFMT) === S_IFDIR;
    const node: MemoryNode = {
      id: `m${ino}` as NodeId,
      attr: {
        inoLow: ino >>> 0,
        inoHigh: 0,
        sizeBytes: 0,
        blocks: 0,
        atimeSec: sec,
        mtimeSec: sec,
        ctimeSec: sec,
        btimeSec: sec,
        atimeNsec: nsec,
        mtimeNsec: nsec,
        ctimeNsec: nsec,
        btimeNsec: nsec,
        mode: made.mode & ~made.umask,
        nlink: isDir ? 2 : 1,
        uid: ctx.caller.uid,
        gid: ctx.caller.gid,
        rdevMajor: 0,
        rdevMinor: 0,
        blksize: 4096,
      },
      data: Buffer.alloc(0),
      parent: undefined,
      entries: new Map(),
      xattrs: new Map(),
    };
    this.nodes.set(node.id, node);
    return node;
  }

  #node(id: NodeId): MemoryNode {
    const node = this.nodes.get(id);
    if (node === undefined) throw new FsError("ESTALE", "node");
    return node;
  }

  #dir(id: NodeId): MemoryNode {
    const node = this.#node(id);
    if ((node.attr.mode & S_IFMT) !== S_IFDIR) throw new FsError("ENOTDIR", "node");
    return node;
  }

  #open(handle: HandleId): Open {
    const open = this.opens.get(handle);
    if (open === undefined) throw new FsError("EBADF", "handle");
    return open;
  }

  #opened(node: MemoryNode, flags: OpenFlags): Opened {
    const handle = this.#nextHandle++ as HandleId;
    this.opens.set(handle, { node, flags });
    return { handle, attr: { ...node.attr } };
  }

  #changed(node: MemoryNode, data: boolean): void {
    const { sec, nsec } = this.#now();
    node.attr.ctimeSec = sec;
    node.attr.ctimeNsec = nsec;
    if (data) {
      node.attr.mtimeSec = sec;
      node.attr.mtimeNsec = nsec;
    }
  }

  #resize(node: MemoryNode, sizeBytes: number): void {
    const grown = Buffer.alloc(sizeBytes);
    node.data.subarray(0, node.attr.sizeBytes).copy(grown);
    node.data = grown;
    this.#setSize(node, sizeBytes);
  }

  #setSize(node: MemoryNode, sizeBytes: number): void {
    node.attr.sizeBytes = sizeBytes;
    node.attr.blocks = Math.ceil(sizeBytes / 512);
    this.#changed(node, true);
  }

  #child(parent: MemoryNode, name: Name): MemoryNode {
    const child = parent.entries.get(name);
    if (child === undefined) throw new FsError("ENOENT", "lookup");
    return child;
  }

  #enter(parentId: NodeId, name: Name, node: MemoryNode): Entry {
    const parent = this.#dir(parentId);
    if (name.length > NAME_BYTES_MAX) throw new FsError("ENAMETOOLONG", "name");
    if (!isEntryName(name)) throw new FsError("EINVAL", "name");
    if (parent.entries.has(name)) throw new FsError("EEXIST", "name");
    parent.entries.set(name, node);
    node.parent = parent;
    if ((node.attr.mode & S_IFMT) === S_IFDIR) parent.attr.nlink++;
    this.#changed(parent, true);
    return this.#entry(node);
  }

  #entry(node: MemoryNode): Entry {
    return { id: node.id, attr: { ...node.attr } };
  }

  #remove(parent: MemoryNode, name: Name): void {
    const child = this.#child(parent, name);
    parent.entries.delete(name);
    if ((child.attr.mode & S_IFMT) === S_IFDIR) {
      parent.attr.nlink--;
      child.attr.nlink = 0;
    } else {
      child.attr.nlink--;
    }
    this.#changed(child, false);
    this.#changed(parent, true);
    this.#sweep(child);
  }

  /** A node without name and without open is gone. */
  #sweep(node: MemoryNode): void {
    if (node.attr.nlink > 0) return;
    for (const open of this.opens.values()) if (open.node === node) return;
    this.nodes.delete(node.id);
  }

  async root(): Promise<Entry> {
    return this.#entry(this.top);
  }

  async lookup(_ctx: RequestContext, parent: NodeId, name: Name): Promise<Entry> {
    if (name.length > NAME_BYTES_MAX) throw new FsError("ENAMETOOLONG", "lookup");
    return this.#entry(this.#child(this.#dir(parent), name));
  }

  forget(ids: readonly NodeId[]): void {
    this.forgotten.push(...ids);
  }

  async getattr(_ctx: RequestContext, id: NodeId, handle?: HandleId): Promise<Attr> {
    return { ...(handle === undefined ? this.#node(id) : this.#open(handle).node).attr };
  }

  async setattr(_ctx: RequestContext, id: NodeId, change: AttrChange): Promise<Attr> {
    const node = this.#node(id);
    const { attr } = node;
    if (change.sizeBytes !== undefined) this.#resize(node, change.sizeBytes);
    if (change.mode !== undefined) attr.mode = (attr.mode & S_IFMT) | change.mode;
    if (change.uid !== undefined) attr.uid = change.uid;
    if (change.gid !== undefined) attr.gid = change.gid;
    this.#changed(node, false);
    if (change.atime !== undefined) {
      const { sec, nsec } = change.atime === "now" ? this.#now() : change.atime;
      attr.atimeSec = sec;
      attr.atimeNsec = nsec;
    }
    if (change.mtime !== undefined) {
      const { sec, nsec } = change.mtime === "now" ? this.#now() : change.mtime;
      attr.mtimeSec = sec;
      attr.mtimeNsec = nsec;
    }
    return { ...attr };
  }

  async access(_ctx: RequestContext, id: NodeId): Promise<void> {
    this.#node(id);
  }

  async readlink(_ctx: RequestContext, id: NodeId): Promise<Buffer> {
    return this.#node(id).data;
  }

  async symlink(ctx: RequestContext, parent: NodeId, name: Name, target: Buffer): Promise<Entry> {
    const node = this.#make(ctx, { mode: S_IFLNK | 0o777, umask: 0 });
    node.data = Buffer.from(target);
    node.attr.sizeBytes = target.length;
    return this.#enter(parent, name, node);
  }

  async mknod(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    made: NewNode & { rdevMajor: number; rdevMinor: number },
  ): Promise<Entry> {
    const node = this.#make(ctx, made);
    node.attr.rdevMajor = made.rdevMajor;
    node.attr.rdevMinor = made.rdevMinor;
    return this.#enter(parent, name, node);
  }

  async mkdir(ctx: RequestContext, parent: NodeId, name: Name, made: NewNode): Promise<Entry> {
    return this.#enter(parent, name, this.#make(ctx, { mode: S_IFDIR | made.mode, umask: made.umask }));
  }

  async unlink(_ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    const directory = this.#dir(parent);
    if ((this.#child(directory, name).attr.mode & S_IFMT) === S_IFDIR) throw new FsError("EISDIR", "unlink");
    this.#remove(directory, name);
  }

  async rmdir(_ctx: RequestContext, parent: NodeId, name: Name): Promise<void> {
    const directory = this.#dir(parent);
    const child = this.#child(directory, name);
    if ((child.attr.mode & S_IFMT) !== S_IFDIR) throw new FsError("ENOTDIR", "rmdir");
    if (child.entries.size > 0) throw new FsError("ENOTEMPTY", "rmdir");
    this.#remove(directory, name);
  }

  async link(_ctx: RequestContext, id: NodeId, parent: NodeId, name: Name): Promise<Entry> {
    const node = this.#node(id);
    if ((node.attr.mode & S_IFMT) === S_IFDIR) throw new FsError("EPERM", "link");
    this.#enter(parent, name, node);
    node.attr.nlink++;
    this.#changed(node, false);
    return this.#entry(node);
  }

  async rename(
    _ctx: RequestContext,
    parent: NodeId,
    name: Name,
    newParent: NodeId,
    newName: Name,
    flags: number,
  ): Promise<void> {
    const from = this.#dir(parent);
    const to = this.#dir(newParent);
    const node = this.#child(from, name);
    const there = to.entries.get(newName);
    if ((flags & RenameFlag.NOREPLACE) !== 0 && there !== undefined) throw new FsError("EEXIST", "rename");
    if ((flags & RenameFlag.EXCHANGE) !== 0) {
      if (there === undefined) throw new FsError("ENOENT", "rename");
      from.entries.set(name, there);
      to.entries.set(newName, node);
      there.parent = from;
      if ((there.attr.mode & S_IFMT) === S_IFDIR) {
        to.attr.nlink--;
        from.attr.nlink++;
      }
    } else {
      if (there === node) return;
      if (there !== undefined) {
        if (there.entries.size > 0) throw new FsError("ENOTEMPTY", "rename");
        this.#remove(to, newName);
      }
      from.entries.delete(name);
      to.entries.set(newName, node);
    }
    if ((node.attr.mode & S_IFMT) === S_IFDIR) {
      from.attr.nlink--;
      to.attr.nlink++;
    }
    node.parent = to;
    this.#changed(node, false);
    this.#changed(from, true);
    this.#changed(to, true);
  }

  async open(_ctx: RequestContext, id: NodeId, flags: OpenFlags): Promise<Opened> {
    const node = this.#node(id);
    if ((flags & OpenFlag.TRUNC) !== 0) this.#resize(node, 0);
    return this.#opened(node, flags);
  }

  async create(ctx: RequestContext, parent: NodeId, name: Name, flags: OpenFlags, made: NewNode) {
    const there = this.#dir(parent).entries.get(name);
    if (there !== undefined) {
      if ((flags & OpenFlag.EXCL) !== 0) throw new FsError("EEXIST", "create");
      if ((flags & OpenFlag.TRUNC) !== 0) this.#resize(there, 0);
      return { entry: this.#entry(there), opened: this.#opened(there, flags) };
    }
    const node = this.#make(ctx, { mode: S_IFREG | made.mode, umask: made.umask });
    const entry = this.#enter(parent, name, node);
    return { entry, opened: this.#opened(node, flags) };
  }

  async tmpfile(ctx: RequestContext, parent: NodeId, flags: OpenFlags, made: NewNode) {
    this.#dir(parent);
    const node = this.#make(ctx, { mode: S_IFREG | made.mode, umask: made.umask });
    node.attr.nlink = 0;
    return { entry: this.#entry(node), opened: this.#opened(node, flags) };
  }

  async read(_ctx: RequestContext, handle: HandleId, offsetBytes: number, target: Buffer): Promise<number> {
    const { node } = this.#open(handle);
    if (offsetBytes >= node.attr.sizeBytes) return 0;
    return node.data.copy(target, 0, offsetBytes, Math.min(node.attr.sizeBytes, offsetBytes + target.length));
  }

  async write(_ctx: RequestContext, handle: HandleId, offsetBytes: number, data: Buffer): Promise<number> {
    const { node, flags } = this.#open(handle);
    const at = (flags & OpenFlag.APPEND) !== 0 ? node.attr.sizeBytes : offsetBytes;
    const end = at + data.length;
    if (end > 2 ** 31) throw new FsError("EFBIG", "write");
    if (end > node.data.length) {
      const grown = Buffer.alloc(Math.max(end, node.data.length * 2));
      node.data.subarray(0, node.attr.sizeBytes).copy(grown);
      node.data = grown;
    }
    data.copy(node.data, at);
    this.#setSize(node, Math.max(node.attr.sizeBytes, end));
    return data.length;
  }

  async flush(_ctx: RequestContext, handle: HandleId): Promise<void> {
    this.#open(handle);
  }

  async fsync(_ctx: RequestContext, handle: HandleId): Promise<void> {
    this.#open(handle);
  }

  async release(_ctx: RequestContext, handle: HandleId): Promise<void> {
    const { node } = this.#open(handle);
    this.opens.delete(handle);
    this.#sweep(node);
  }

  async fallocate(_ctx: RequestContext, handle: HandleId, mode: number, offsetBytes: number, lengthBytes: number) {
    const { node } = this.#open(handle);
    const end = offsetBytes + lengthBytes;
    if ((mode & FallocateMode.PUNCH_HOLE) !== 0) {
      node.data.fill(0, offsetBytes, Math.min(end, node.attr.sizeBytes));
      this.#changed(node, true);
    } else if (mode === 0) {
      if (end > node.attr.sizeBytes) this.#resize(node, end);
    } else if (mode !== FallocateMode.KEEP_SIZE) {
      throw new FsError("EOPNOTSUPP", "fallocate");
    }
  }

  async lseek(_ctx: RequestContext, handle: HandleId, offsetBytes: number, whence: "data" | "hole"): Promise<number> {
    const { sizeBytes } = this.#open(handle).node.attr;
    if (offsetBytes >= sizeBytes) throw new FsError("ENXIO", "lseek");
    return whence === "data" ? offsetBytes : sizeBytes;
  }

  async copyFileRange(
    ctx: RequestContext,
    source: { handle: HandleId; offsetBytes: number },
    target: { handle: HandleId; offsetBytes: number },
    lengthBytes: number,
  ): Promise<number> {
    const { data, attr } = this.#open(source.handle).node;
    const end = Math.min(attr.sizeBytes, source.offsetBytes + lengthBytes);
    if (end <= source.offsetBytes) return 0;
    const bytes = Buffer.from(data.subarray(source.offsetBytes, end));
    return this.write(ctx, target.handle, target.offsetBytes, bytes);
  }

  async opendir(_ctx: RequestContext, id: NodeId): Promise<HandleId> {
    return this.#opened(this.#dir(id), 0).handle;
  }

  async readdir(
    _ctx: RequestContext,
    handle: HandleId,
    cookie: bigint,
    maxBytes: number,
    withEntries: boolean,
  ): Promise<Buffer> {
    const { node } = this.#open(handle);
    const all: [Name, MemoryNode, boolean][] = [
      ["." as Name, node, false],
      [".." as Name, node.parent ?? node, false],
    ];
    for (const [name, child] of node.entries) all.push([name, child, withEntries]);
    const page = Buffer.alloc(maxBytes);
    let at = 0;
    for (let i = Number(cookie); i < all.length; i++) {
      const [name, child, withEntry] = all[i] as [Name, MemoryNode, boolean];
      const { inoLow, inoHigh, mode } = child.attr;
      const dirent = { name, type: (mode & S_IFMT) >> 12, cookie: BigInt(i + 1), inoLow, inoHigh };
      const after = encodeDirent(page, at, withEntry ? { ...dirent, entry: this.#entry(child) } : dirent);
      if (after < 0) break;
      at = after;
    }
    return page.subarray(0, at);
  }

  async fsyncdir(_ctx: RequestContext, handle: HandleId): Promise<void> {
    this.#open(handle);
  }

  async releasedir(ctx: RequestContext, handle: HandleId): Promise<void> {
    await this.release(ctx, handle);
  }

  async getxattr(_ctx: RequestContext, id: NodeId, name: Name): Promise<Buffer> {
    const value = this.#node(id).xattrs.get(name);
    if (value === undefined) throw new FsError("ENODATA", "getxattr");
    return value;
  }

  async listxattr(_ctx: RequestContext, id: NodeId): Promise<Buffer> {
    return Buffer.from([...this.#node(id).xattrs.keys()].map((name) => `${name}\0`).join(""), "latin1");
  }

  async setxattr(_ctx: RequestContext, id: NodeId, name: Name, value: Buffer, flags: number): Promise<void> {
    const { xattrs } = this.#node(id);
    if (flags === XattrFlag.CREATE && xattrs.has(name)) throw new FsError("EEXIST", "setxattr");
    if (flags === XattrFlag.REPLACE && !xattrs.has(name)) throw new FsError("ENODATA", "setxattr");
    xattrs.set(name, Buffer.from(value));
    this.#changed(this.#node(id), false);
  }

  async removexattr(_ctx: RequestContext, id: NodeId, name: Name): Promise<void> {
    if (!this.#node(id).xattrs.delete(name)) throw new FsError("ENODATA", "removexattr");
  }

  async statfs() {
    return {
      blockBytes: 4096,
      fragmentBytes: 4096,
      blocks: 1_000_000,
      blocksFree: 900_000,
      blocksAvailable: 800_000,
      files: 1_000_000,
      filesFree: 1_000_000 - this.nodes.size,
      nameBytesMax: 255,
    };
  }

  async syncfs(): Promise<void> {}

  async close(): Promise<void> {
    this.opens.clear();
  }
}
