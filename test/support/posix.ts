/**
 * The system calls a conformance case is written with: once, against this interface.
 *
 * Two drivers implement it: `syscall-posix.ts` makes real system calls in worker processes (plain directory, kernel mounts), `walker.ts`
 * walks a `FileSystem` node by node as the kernel would (disk, remote). Both fail with FsError, whose errno is what a program would see.
 *
 * Paths are latin1 strings, one char a byte, relative to the directory of the case. There is no working directory.
 */
import { constants } from "node:fs";
import type { Attr, TimeSpec } from "../../src/vfs/attr.ts";
import type { StatFs } from "../../src/vfs/file-system.ts";

/** Flags of `open`, as this machine numbers them. */
export const O = {
  RDONLY: constants.O_RDONLY,
  WRONLY: constants.O_WRONLY,
  RDWR: constants.O_RDWR,
  ACCMODE: 3,
  CREAT: constants.O_CREAT,
  EXCL: constants.O_EXCL,
  TRUNC: constants.O_TRUNC,
  APPEND: constants.O_APPEND,
  NONBLOCK: constants.O_NONBLOCK,
  DSYNC: constants.O_DSYNC,
  SYNC: constants.O_SYNC,
  DIRECT: constants.O_DIRECT,
  DIRECTORY: constants.O_DIRECTORY,
  NOFOLLOW: constants.O_NOFOLLOW,
  NOATIME: constants.O_NOATIME,
  PATH: 0o10000000,
  TMPFILE: 0o20000000 | constants.O_DIRECTORY,
} as const;

/** `whence` of `lseek`. */
export const Seek = { SET: 0, CUR: 1, END: 2, DATA: 3, HOLE: 4 } as const;

/** Who makes the calls. Files opened by one identity are closed and used by the same one. */
export interface Identity {
  uid: number;
  gid: number;
  /** Supplementary groups; none if absent. */
  groups?: readonly number[];
  /** 0o022 if absent. */
  umask?: number;
  /** Tells processes of the same user apart, for cases about several processes; 0 if absent. */
  process?: number;
}

/** The user the suite runs as, and two that own nothing. */
export const ROOT: Identity = { uid: 0, gid: 0 };
export const ALICE: Identity = { uid: 61001, gid: 62001 };
export const BOB: Identity = { uid: 61002, gid: 62002 };

/** An open file of one identity. */
export type Fd = number;

/** What utimensat(2) sets: a time, the present, or nothing. */
export type SetTime = TimeSpec | "now" | "omit";

/** One entry as getdents64(2) returns it. */
export interface DirectoryEntry {
  name: string;
  /** DT_*. */
  type: number;
  /** Continue after this entry. */
  cookie: bigint;
  ino: bigint;
}

/** The calls. Each fails with FsError. Offsets and lengths are bytes. */
export interface Calls {
  open(path: string, flags: number, mode?: number): Promise<Fd>;
  close(fd: Fd): Promise<void>;
  /** At the file position. */
  read(fd: Fd, lengthBytes: number): Promise<Buffer>;
  /** At the file position; all bytes, or the number written. */
  write(fd: Fd, data: Buffer): Promise<number>;
  pread(fd: Fd, lengthBytes: number, offsetBytes: number): Promise<Buffer>;
  pwrite(fd: Fd, data: Buffer, offsetBytes: number): Promise<number>;
  lseek(fd: Fd, offsetBytes: number, whence: number): Promise<number>;
  fsync(fd: Fd): Promise<void>;
  fdatasync(fd: Fd): Promise<void>;
  ftruncate(fd: Fd, sizeBytes: number): Promise<void>;
  fallocate(fd: Fd, mode: number, offsetBytes: number, lengthBytes: number): Promise<void>;
  copyFileRange(
    from: { fd: Fd; offsetBytes: number },
    to: { fd: Fd; offsetBytes: number },
    lengthBytes: number,
  ): Promise<number>;
  /** One getdents64(2) after `cookie` (0n: from the start); empty at the end. '.' and '..' are included. */
  getdents(fd: Fd, cookie: bigint, maxBytes: number): Promise<DirectoryEntry[]>;

  stat(path: string): Promise<Attr>;
  lstat(path: string): Promise<Attr>;
  fstat(fd: Fd): Promise<Attr>;
  statfs(path: string): Promise<StatFs>;
  access(path: string, mask: number): Promise<void>;
  chmod(path: string, mode: number): Promise<void>;
  fchmod(fd: Fd, mode: number): Promise<void>;
  /** -1 leaves an id as it is. */
  chown(path: string, uid: number, gid: number): Promise<void>;
  lchown(path: string, uid: number, gid: number): Promise<void>;
  fchown(fd: Fd, uid: number, gid: number): Promise<void>;
  truncate(path: string, sizeBytes: number): Promise<void>;
  utimens(path: string, atime: SetTime, mtime: SetTime): Promise<void>;
  lutimens(path: string, atime: SetTime, mtime: SetTime): Promise<void>;
  futimens(fd: Fd, atime: SetTime, mtime: SetTime): Promise<void>;

  mkdir(path: string, mode?: number): Promise<void>;
  rmdir(path: string): Promise<void>;
  mknod(path: string, mode: number, major?: number, minor?: number): Promise<void>;
  unlink(path: string): Promise<void>;
  /** Does not follow a symbolic link at the end of `from`. */
  link(from: string, to: string): Promise<void>;
  /** linkat(2) with AT_EMPTY_PATH: a name for an open file. */
  linkFd(fd: Fd, to: string): Promise<void>;
  symlink(target: string, path: string): Promise<void>;
  readlink(path: string): Promise<string>;
  /** renameat2(2), `flags` of RenameFlag. */
  rename(from: string, to: string, flags?: number): Promise<void>;

  getxattr(path: string, name: string): Promise<Buffer>;
  lgetxattr(path: string, name: string): Promise<Buffer>;
  /** Names in no particular order. */
  listxattr(path: string): Promise<string[]>;
  setxattr(path: string, name: string, value: Buffer, flags?: number): Promise<void>;
  lsetxattr(path: string, name: string, value: Buffer, flags?: number): Promise<void>;
  removexattr(path: string, name: string): Promise<void>;
}

/** Calls of one identity below one directory, and the way to others. Calls of one identity's process take effect in order. */
export interface Posix extends Calls {
  readonly identity: Identity;
  /** The same directory, used by someone else. */
  as(identity: Identity): Posix;
  /** A directory below this one; it must exist when it is used. */
  below(path: string): Posix;
}
