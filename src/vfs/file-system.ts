/**
 * The one contract of netdrive: a file system of nodes.
 *
 * `disk` implements it over a directory, `remote` over a session, `cached` decorates it, `server` serves any of it and `fuse` gives any
 * of it to the kernel. It is node-based (parent + name): there is no path in it, symbolic links are stored and returned and never
 * followed, and '.' and '..' are never asked for.
 *
 * All methods may be called at the same time, on the same node and the same handle; an implementation orders what must be ordered.
 * Every failure is an FsError (or ConnectionError when the link is gone). Every name is checked by its implementation
 * (EINVAL, ENAMETOOLONG); it may come from a hostile peer. Buffers passed in belong to the caller again when the promise settles.
 */
import type { Name } from "../base/name.ts";
import type { CancelSignal } from "../base/signals.ts";
import type { Attr, TimeSpec } from "./attr.ts";
import type { Lease } from "./lease.ts";
import type { Lock, LockOwner, NodeLock } from "./lock.ts";
import type { Recovery } from "./recovery.ts";

/**
 * Names a file or directory: 1..64 opaque bytes as a latin1 string, made by the implementation that owns the files.
 *
 * Two ids are equal exactly if they name the same file; hard links share one. It stays valid as long as the file exists, across a restart of
 * the server and of the client; an id of a deleted file is answered with ESTALE, never with another file.
 */
export type NodeId = string & { readonly __brand: "NodeId" };
export const NODE_ID_BYTES_MAX = 64;

/** An open of this FileSystem, from `open`, `create`, `tmpfile` or `opendir` until `release` or `releasedir`; u32, never 0. */
export type HandleId = number & { readonly __brand: "HandleId" };

/** On whose behalf a request is made. The groups are the supplementary ones. */
export interface Caller {
  readonly uid: number;
  readonly gid: number;
  readonly groups: readonly number[];
  /** Process id where the request came from; 0 if unknown (the kernel's own write-back). */
  readonly pid: number;
}

/** Who goes first where requests wait in line: what an application waits for, before what is done ahead of it. */
export const RequestPriority = { FOREGROUND: 0, WRITE_BEHIND: 1, READ_AHEAD: 2 } as const;
export type RequestPriority = (typeof RequestPriority)[keyof typeof RequestPriority];

/** Travels with every request. `signal` aborts when the caller no longer wants the answer; the request then fails with EINTR. */
export interface RequestContext {
  readonly caller: Caller;
  readonly signal?: CancelSignal | undefined;
  /**
   * Told, before a request that changes names in a directory settles, the directory's attributes as of some moment after the change, where they
   * came along: the caller is most likely asked for them next. An implementation need not.
   */
  directoryChanged?(id: NodeId, attr: Attr): void;
  /** FOREGROUND if absent. */
  readonly priority?: RequestPriority | undefined;
  /** Fails with ConnectionError when the server is away, instead of waiting for it. An implementation need not know it. */
  readonly isImpatient?: boolean;
  /**
   * Of `fsync` and `getattr`, where the FileSystem can: the request takes effect after all writes of the node that were begun before it, with the same
   * priority and each no longer than a section, although they have not been answered. It says nothing of a write that fails or comes short.
   */
  readonly followsWrites?: boolean;
}

/** How a file is opened: bits of our own, because the O_* numbers differ between architectures. They cross the wire: append only. */
export const OpenFlag = {
  READ: 1 << 0,
  WRITE: 1 << 1,
  APPEND: 1 << 2,
  TRUNC: 1 << 3,
  /** With `create` and `tmpfile`: fail with EEXIST / no later linkat. */
  EXCL: 1 << 4,
  /** Data reaches the disk before a write is acknowledged. */
  SYNC: 1 << 5,
  DSYNC: 1 << 6,
  /** The application asked for unbuffered I/O: no cache may answer. */
  DIRECT: 1 << 7,
  NOATIME: 1 << 8,
  /** Open for execution (FMODE_EXEC): permission to execute counts, as well as or instead of permission to read. */
  EXEC: 1 << 9,
  /** Truncation or writing must clear set-user-id and set-group-id: the caller may not keep them. */
  KILL_SUIDGID: 1 << 10,
  /** Share mode: nobody else has the file open for reading, or for writing, as long as this open is there. Kept by servers; a disk knows nothing of it. */
  DENY_READ: 1 << 11,
  DENY_WRITE: 1 << 12,
} as const;
/** An open with one of these is in others' way. */
export const DENY_FLAGS = OpenFlag.DENY_READ | OpenFlag.DENY_WRITE;
/** A bit set of OpenFlag. */
export type OpenFlags = number;

/** Flags of `rename`, as renameat2(2) numbers them. */
export const RenameFlag = { NOREPLACE: 1, EXCHANGE: 2, WHITEOUT: 4 } as const;

/** Modes of `fallocate`, as fallocate(2) numbers them. */
export const FallocateMode = {
  KEEP_SIZE: 0x01,
  PUNCH_HOLE: 0x02,
  COLLAPSE_RANGE: 0x08,
  ZERO_RANGE: 0x10,
  INSERT_RANGE: 0x20,
} as const;

/** Flags of `setxattr`, as setxattr(2) numbers them. */
export const XattrFlag = { CREATE: 1, REPLACE: 2 } as const;

/** What a write is asked to do besides. */
export interface WriteOptions {
  /** The writer may not keep set-user-id bits. */
  killSuidgid?: boolean;
  /**
   * Asks for the data beyond the promise, before that settles. Who gets it may use, and change, the memory until the result is called; undefined: it
   * cannot be had.
   */
  lend?: () => (() => void) | undefined;
}

/** The most buffers of one `writev`. */
export const WRITEV_BUFFERS_MAX = 8;

export interface Entry {
  id: NodeId;
  attr: Attr;
}

/** The result of opening a file. */
export interface Opened {
  handle: HandleId;
  /** Attributes as of the open. */
  attr: Attr;
  /** All bytes of a small file as of the open, where they came along; the caller's to keep. */
  content?: Buffer;
  /** What the opener may believe as long as he has it open; absent: nothing. */
  lease?: Lease;
}

/** What `setattr` changes; absent fields stay. "now" is the server's clock. */
export interface AttrChange {
  mode?: number;
  uid?: number;
  gid?: number;
  sizeBytes?: number;
  atime?: TimeSpec | "now";
  mtime?: TimeSpec | "now";
  /** Clear set-user-id and set-group-id with this change, as the kernel does for a caller without CAP_FSETID. */
  killSuidgid?: boolean;
}

/** What statfs(2) says; `files` are inodes; block counts are of `fragmentBytes`. */
export interface StatFs {
  blockBytes: number;
  fragmentBytes: number;
  blocks: number;
  blocksFree: number;
  blocksAvailable: number;
  files: number;
  filesFree: number;
  nameBytesMax: number;
}

/** How a new node is made: permission bits, and the caller's umask, which does not apply where the parent has a default ACL. */
export interface NewNode {
  mode: number;
  umask: number;
}

export interface FileSystem {
  /** True: a write that has succeeded has no error left to report, so that `flush` does nothing. Absent: it may, as on a network file system. */
  readonly isFlushless?: boolean;

  /** There where files can be opened again after the process that serves them has died. */
  readonly recovery?: Recovery | undefined;

  /** Whether requests may follow writes, see RequestContext. */
  readonly canFollowWrites?: boolean;

  /** The directory everything is below. */
  root(ctx: RequestContext): Promise<Entry>;

  /** @throws FsError ENOENT; ENOTDIR; EACCES no search permission on the parent. */
  lookup(ctx: RequestContext, parent: NodeId, name: Name): Promise<Entry>;

  /** Says that these ids will not be used again without a new lookup; a hint, never an error, no answer. */
  forget(ids: readonly NodeId[]): void;

  /** Attributes; by the open if `handle` is given (works for a file that no longer has a name). */
  getattr(ctx: RequestContext, id: NodeId, handle?: HandleId): Promise<Attr>;

  /** Changes attributes (as one system call after the other would) and returns the new ones. `handle` as in ftruncate(2). */
  setattr(ctx: RequestContext, id: NodeId, change: AttrChange, handle?: HandleId): Promise<Attr>;

  /** access(2) with the caller's identity: `mask` of R_OK 4, W_OK 2, X_OK 1. */
  access(ctx: RequestContext, id: NodeId, mask: number): Promise<void>;

  readlink(ctx: RequestContext, id: NodeId): Promise<Buffer>;

  /** `target`: 1..4095 bytes without NUL, stored as it is. */
  symlink(ctx: RequestContext, parent: NodeId, name: Name, target: Buffer): Promise<Entry>;

  /** `mode` holds the type: regular, fifo, socket, character or block device. */
  mknod(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    node: NewNode & { rdevMajor: number; rdevMinor: number },
  ): Promise<Entry>;
  mkdir(ctx: RequestContext, parent: NodeId, name: Name, node: NewNode): Promise<Entry>;
  unlink(ctx: RequestContext, parent: NodeId, name: Name): Promise<void>;
  rmdir(ctx: RequestContext, parent: NodeId, name: Name): Promise<void>;

  /** A new name for an existing node (also for one from `tmpfile` that has no name yet); the attributes have the new nlink. */
  link(ctx: RequestContext, id: NodeId, parent: NodeId, name: Name): Promise<Entry>;

  /** renameat2(2). `flags` of RenameFlag. */
  rename(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    newParent: NodeId,
    newName: Name,
    flags: number,
  ): Promise<void>;

  open(ctx: RequestContext, id: NodeId, flags: OpenFlags): Promise<Opened>;

  /** Opens, and makes the file if it is not there: one step, as open(2) with O_CREAT. EISDIR, ELOOP (a symbolic link is there), EEXIST (EXCL). */
  create(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    flags: OpenFlags,
    node: NewNode,
  ): Promise<{ entry: Entry; opened: Opened }>;

  /** O_TMPFILE: an open file without a name in the file system of `parent`. */
  tmpfile(
    ctx: RequestContext,
    parent: NodeId,
    flags: OpenFlags,
    node: NewNode,
  ): Promise<{ entry: Entry; opened: Opened }>;

  /**
   * Reads at `offsetBytes` into `target`.
   *
   * @returns bytes read, short only at the end of the file. The rest of `target` is unspecified.
   */
  read(ctx: RequestContext, handle: HandleId, offsetBytes: number, target: Buffer): Promise<number>;

  /**
   * Writes all of `data`, or fails having written an unspecified part of it. With APPEND opens the offset is ignored.
   *
   * @returns bytes written: short only when the disk is full or a limit is reached, at least 1.
   */
  write(
    ctx: RequestContext,
    handle: HandleId,
    offsetBytes: number,
    data: Buffer,
    options?: WriteOptions,
  ): Promise<number>;

  /**
   * Writes the bytes of 1..WRITEV_BUFFERS_MAX buffers one after the other, as one `write` of all of them would.
   *
   * Absent where it would be no better than a `write` for each.
   */
  writev?:
    | ((
        ctx: RequestContext,
        handle: HandleId,
        offsetBytes: number,
        buffers: readonly Buffer[],
        options?: { killSuidgid?: boolean },
      ) => Promise<number>)
    | undefined;

  /**
   * A descriptor of the open was closed (close(2)): reports errors of earlier writes. May come several times per open.
   *
   * With `closer`, whose descriptor it was: gives up all fcntl locks of that owner on the node, whatever open they were made through.
   */
  flush(ctx: RequestContext, handle: HandleId, closer?: LockOwner): Promise<void>;

  /** Returns when everything acknowledged before on this node is on the disk; `dataOnly` as fdatasync(2). */
  fsync(ctx: RequestContext, handle: HandleId, dataOnly: boolean): Promise<void>;

  /** The last descriptor is gone. The handle is invalid from the call on. Locks made through it are gone when this settles. */
  release(ctx: RequestContext, handle: HandleId): Promise<void>;

  fallocate(
    ctx: RequestContext,
    handle: HandleId,
    mode: number,
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<void>;

  /** SEEK_DATA / SEEK_HOLE. @throws FsError ENXIO beyond the end. */
  lseek(ctx: RequestContext, handle: HandleId, offsetBytes: number, whence: "data" | "hole"): Promise<number>;

  /** Copies on the server, without the bytes coming here; returns bytes copied, possibly fewer. */
  copyFileRange(
    ctx: RequestContext,
    source: { handle: HandleId; offsetBytes: number },
    target: { handle: HandleId; offsetBytes: number },
    lengthBytes: number,
  ): Promise<number>;

  /** F_GETLK: a lock that keeps `lock` from being had; undefined: it could be had. There exactly if `setlk` is. */
  getlk?: ((ctx: RequestContext, handle: HandleId, lock: Lock) => Promise<Lock | undefined>) | undefined;

  /**
   * Locks or unlocks, as fcntl(2) and flock(2) do; `wait`: until it can be had, or `ctx.signal` aborts. Absent: there are no locks here, and whoever
   * needs some keeps them himself.
   *
   * Whoever has a lock sees what was written under it before, and what he wrote is seen by whom he leaves it to.
   *
   * @returns attributes as of a moment at which the lock was held; NO_ATTR after an unlock.
   * @throws FsError EAGAIN somebody else has it; EDEADLK; ENOLCK too many; EINTR.
   */
  setlk?: ((ctx: RequestContext, handle: HandleId, lock: Lock, wait: boolean) => Promise<Attr>) | undefined;

  /**
   * Locks a range against programs that reach the files beside this FileSystem, and for nobody in particular: a second call changes what the first
   * has set. An unlock of the whole file, or the last release, ends it. Absent: there is nobody beside, or no way to lock them out.
   *
   * @returns attributes as of a moment at which it was locked.
   * @throws FsError EAGAIN somebody beside has it; ENOLCK, EOPNOTSUPP the disk has no locks.
   */
  lockNode?: ((ctx: RequestContext, handle: HandleId, lock: NodeLock) => Promise<Attr>) | undefined;

  /** A lock of somebody beside that keeps `lockNode` from having `lock`. There exactly if `lockNode` is. */
  findNodeLock?: ((ctx: RequestContext, handle: HandleId, lock: NodeLock) => Promise<NodeLock | undefined>) | undefined;

  opendir(ctx: RequestContext, id: NodeId): Promise<HandleId>;

  /**
   * Opens a directory with as much of a read lease as can be had: as long as there is one, nobody else gives names in it. Absent: nobody knows.
   */
  opendirLeased?(ctx: RequestContext, id: NodeId): Promise<{ handle: HandleId; lease: Lease }>;

  /**
   * Tells of names that have come, gone or been moved in an open directory, whoever did it, until it is closed, which must be before the handle is. Without a
   * name: any may have, or the directory itself was changed. Absent, or undefined: it cannot be known, or different bytes may be the same name there.
   */
  watchNames?(handle: HandleId, changed: (name: Name | undefined) => void): { close(): void } | undefined;

  /**
   * Reads entries after `cookie` (0n: from the start) as a page, see dirent-page.ts; `withEntries` asks for ids and attributes.
   *
   * Every entry returned with id counts as looked up.
   *
   * @returns at most `maxBytes`; empty exactly at the end. The caller may keep it.
   */
  readdir(
    ctx: RequestContext,
    handle: HandleId,
    cookie: bigint,
    maxBytes: number,
    withEntries: boolean,
  ): Promise<Buffer>;
  fsyncdir(ctx: RequestContext, handle: HandleId, dataOnly: boolean): Promise<void>;
  releasedir(ctx: RequestContext, handle: HandleId): Promise<void>;

  /** @throws FsError ENODATA no such attribute. */
  getxattr(ctx: RequestContext, id: NodeId, name: Name): Promise<Buffer>;
  /** All names, each followed by NUL, as listxattr(2) returns them. */
  listxattr(ctx: RequestContext, id: NodeId): Promise<Buffer>;
  setxattr(ctx: RequestContext, id: NodeId, name: Name, value: Buffer, flags: number): Promise<void>;
  removexattr(ctx: RequestContext, id: NodeId, name: Name): Promise<void>;

  statfs(ctx: RequestContext, id: NodeId): Promise<StatFs>;

  /** Everything acknowledged before, of the whole file system, is on the disk when this returns. */
  syncfs(ctx: RequestContext, id: NodeId): Promise<void>;

  /** Releases everything: opens, descriptors, connections. Nothing may be called afterwards. */
  close(): Promise<void>;
}
