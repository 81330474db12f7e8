/**
 * The kernel's FUSE protocol as we use it: one row an opcode, and the constants around them.
 *
 * Our own table, because the header a system ships is often years behind its kernel. Numbers are those of linux/fuse.h, protocol 7.45;
 * `since` is the minor version that brought an opcode. All structures are little-endian here: every architecture we serve is.
 * Sizes are bytes; `bodyBytes` is the fixed part after the header, `names` counts the NUL-terminated strings after it.
 */

export const FUSE_MAJOR = 7;
/** The newest minor version this table covers, and the oldest we talk to (Linux 5.4). */
export const FUSE_MINOR = 45;
export const FUSE_MINOR_MIN = 31;

export const ROOT_NODE = 1;
export const IN_HEADER_BYTES = 40;
export const OUT_HEADER_BYTES = 16;

/** Names of `struct fuse_in_header` fields, as offsets. */
export const IN_HEADER = {
  LENGTH: 0,
  OPCODE: 4,
  UNIQUE: 8,
  NODE: 16,
  UID: 24,
  GID: 28,
  PID: 32,
  EXTENSIONS: 36,
} as const;

export const Opcode = {
  LOOKUP: 1,
  FORGET: 2,
  GETATTR: 3,
  SETATTR: 4,
  READLINK: 5,
  SYMLINK: 6,
  MKNOD: 8,
  MKDIR: 9,
  UNLINK: 10,
  RMDIR: 11,
  RENAME: 12,
  LINK: 13,
  OPEN: 14,
  READ: 15,
  WRITE: 16,
  STATFS: 17,
  RELEASE: 18,
  FSYNC: 20,
  SETXATTR: 21,
  GETXATTR: 22,
  LISTXATTR: 23,
  REMOVEXATTR: 24,
  FLUSH: 25,
  INIT: 26,
  OPENDIR: 27,
  READDIR: 28,
  RELEASEDIR: 29,
  FSYNCDIR: 30,
  GETLK: 31,
  SETLK: 32,
  SETLKW: 33,
  ACCESS: 34,
  CREATE: 35,
  INTERRUPT: 36,
  BMAP: 37,
  DESTROY: 38,
  IOCTL: 39,
  POLL: 40,
  NOTIFY_REPLY: 41,
  BATCH_FORGET: 42,
  FALLOCATE: 43,
  READDIRPLUS: 44,
  RENAME2: 45,
  LSEEK: 46,
  COPY_FILE_RANGE: 47,
  SYNCFS: 50,
  TMPFILE: 51,
  STATX: 52,
  COPY_FILE_RANGE_64: 53,
} as const;
export type OpcodeName = keyof typeof Opcode;

export interface OpcodeRow {
  readonly name: OpcodeName | "UNKNOWN";
  readonly opcode: number;
  /** Minor version of protocol 7 that brought it; 0 for those that were always there. */
  readonly since: number;
  readonly bodyBytes: number;
  readonly names: 0 | 1 | 2;
  /** False: the kernel waits for no answer, and refuses one. */
  readonly answered: boolean;
}

const row = (name: OpcodeName, since: number, bodyBytes: number, names: 0 | 1 | 2 = 0, answered = true): OpcodeRow => ({
  name,
  opcode: Opcode[name],
  since,
  bodyBytes,
  names,
  answered,
});

export const OPCODE_ROWS: readonly OpcodeRow[] = [
  row("LOOKUP", 0, 0, 1),
  row("FORGET", 0, 8, 0, false),
  row("GETATTR", 9, 16),
  row("SETATTR", 0, 88),
  row("READLINK", 0, 0),
  row("SYMLINK", 0, 0, 2),
  row("MKNOD", 12, 16, 1),
  row("MKDIR", 12, 8, 1),
  row("UNLINK", 0, 0, 1),
  row("RMDIR", 0, 0, 1),
  row("RENAME", 0, 8, 2),
  row("LINK", 0, 8, 1),
  row("OPEN", 0, 8),
  row("READ", 9, 40),
  row("WRITE", 9, 40),
  row("STATFS", 0, 0),
  row("RELEASE", 8, 24),
  row("FSYNC", 0, 16),
  row("SETXATTR", 0, 8, 1),
  row("GETXATTR", 0, 8, 1),
  row("LISTXATTR", 0, 8),
  row("REMOVEXATTR", 0, 0, 1),
  row("FLUSH", 7, 24),
  row("INIT", 0, 16),
  row("OPENDIR", 0, 8),
  row("READDIR", 9, 40),
  row("RELEASEDIR", 8, 24),
  row("FSYNCDIR", 0, 16),
  row("ACCESS", 0, 8),
  row("CREATE", 12, 16, 1),
  row("INTERRUPT", 0, 8, 0, false),
  row("GETLK", 7, 48),
  row("SETLK", 7, 48),
  row("SETLKW", 7, 48),
  row("BMAP", 0, 16),
  row("DESTROY", 0, 0),
  row("IOCTL", 11, 32),
  row("POLL", 11, 24),
  row("NOTIFY_REPLY", 15, 0, 0, false),
  row("BATCH_FORGET", 16, 8, 0, false),
  row("FALLOCATE", 19, 32),
  row("READDIRPLUS", 21, 40),
  row("RENAME2", 23, 16, 2),
  row("LSEEK", 24, 24),
  row("COPY_FILE_RANGE", 28, 56),
  row("SYNCFS", 34, 8),
  row("TMPFILE", 37, 16, 1),
  row("STATX", 39, 24),
  row("COPY_FILE_RANGE_64", 45, 56),
];

/** Stands in for opcodes that have no row. */
export const UNKNOWN_ROW: OpcodeRow = { name: "UNKNOWN", opcode: 0, since: 0, bodyBytes: 0, names: 0, answered: true };

/** Row by opcode number; undefined where we have none. */
export const OPCODES: readonly (OpcodeRow | undefined)[] = (() => {
  const table: (OpcodeRow | undefined)[] = new Array(Math.max(...OPCODE_ROWS.map(({ opcode }) => opcode)) + 1);
  for (const each of OPCODE_ROWS) {
    if (table[each.opcode] !== undefined) throw new Error(`opcode ${each.opcode} has two rows`);
    table[each.opcode] = each;
  }
  return table;
})();

/** Flags of INIT, the first 32 bits. */
export const InitFlag = {
  ASYNC_READ: 1 << 0,
  POSIX_LOCKS: 1 << 1,
  ATOMIC_O_TRUNC: 1 << 3,
  BIG_WRITES: 1 << 5,
  DONT_MASK: 1 << 6,
  FLOCK_LOCKS: 1 << 10,
  DO_READDIRPLUS: 1 << 13,
  READDIRPLUS_AUTO: 1 << 14,
  ASYNC_DIO: 1 << 15,
  PARALLEL_DIROPS: 1 << 18,
  POSIX_ACL: 1 << 20,
  ABORT_ERROR: 1 << 21,
  MAX_PAGES: 1 << 22,
  CACHE_SYMLINKS: 1 << 23,
  HANDLE_KILLPRIV_V2: 1 << 28,
  SETXATTR_EXT: 1 << 29,
  INIT_EXT: 1 << 30,
} as const;

/** `struct fuse_init_out`, since 7.23. */
export const INIT_OUT_BYTES = 64;

/** Bits of `fuse_setattr_in.valid`. */
export const SetattrValid = {
  MODE: 1 << 0,
  UID: 1 << 1,
  GID: 1 << 2,
  SIZE: 1 << 3,
  ATIME: 1 << 4,
  MTIME: 1 << 5,
  FH: 1 << 6,
  ATIME_NOW: 1 << 7,
  MTIME_NOW: 1 << 8,
  KILL_SUIDGID: 1 << 11,
} as const;

export const GETATTR_FH = 1;
export const OPEN_KILL_SUIDGID = 1;
export const WRITE_CACHE = 1 << 0;
export const WRITE_KILL_SUIDGID = 1 << 2;
export const FSYNC_DATA_ONLY = 1;

/** Flags of a reply to OPEN and CREATE. */
export const OpenReply = { KEEP_CACHE: 1 << 1, NOFLUSH: 1 << 5 } as const;

/** Codes of messages to the kernel that answer no request. */
export const Notify = { INVAL_INODE: 2, STORE: 4 } as const;
export const NOTIFY_INVAL_INODE_OUT_BYTES = 24;
export const NOTIFY_STORE_OUT_BYTES = 24;

/** `struct fuse_lk_in`, as offsets; the lock alone, from START, is also the body of a reply to GETLK. */
export const LK_IN = { FH: 0, OWNER: 8, START: 16, END: 24, TYPE: 32, PID: 36, FLAGS: 40 } as const;
export const LK_OUT_BYTES = 24;
export const LK_FLOCK = 1;
/** Types of a lock in it: F_RDLCK, F_WRLCK, F_UNLCK of asm-generic/fcntl.h. */
export const LK_TYPES = ["read", "write", "unlock"] as const;
/** Where `struct fuse_flush_in` says whose descriptor was closed. */
export const FLUSH_OWNER = 16;

export const ENTRY_OUT_BYTES = 128;
export const ATTR_OUT_BYTES = 104;
export const OPEN_OUT_BYTES = 16;
export const STATFS_OUT_BYTES = 80;
export const STATX_OUT_BYTES = 288;
/** Before the name of an entry in READDIR and READDIRPLUS replies. */
export const DIRENT_BYTES = 24;
export const DIRENTPLUS_BYTES = ENTRY_OUT_BYTES + DIRENT_BYTES;

/** The kernel refuses longer lists and values. @see XATTR_SIZE_MAX, XATTR_LIST_MAX in linux/limits.h */
export const XATTR_BYTES_MAX = 65536;

/** SEEK_* that travel; the others the kernel answers itself. */
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;
