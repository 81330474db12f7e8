/**
 * System calls as they are: synchronous, by descriptor and path, FsError with the exact errno.
 *
 * FOR TESTS ONLY: the conformance suite's "plain directory" and "kernel mount" targets use them, in a child process (they block the
 * thread, and must never run on our own mount in the process that serves it). The drive itself uses `disk-engine.ts`. Paths are Buffers or latin1 strings
 * (one char a byte). Nothing is checked beforehand: what the kernel says is what the caller gets.
 */
import { errnoName } from "../base/errno.ts";
import { FsError } from "../base/errors.ts";
import { ATTR_BYTES, type Attr, decodeAttr, type TimeSpec } from "../vfs/attr.ts";
import type { StatFs } from "../vfs/file-system.ts";
import { loadAddon } from "./addon.ts";

/** A path, or an xattr name, as bytes: a Buffer or a latin1 string, without NUL. */
export type BytePath = string | Buffer;

interface PlainAddon {
  plain: Record<string, (...args: unknown[]) => number>;
}

let plain: PlainAddon["plain"] | undefined;

/** Makes the call `name` and returns what it returns; a negative answer is thrown. */
function call(name: string, ...args: unknown[]): number {
  plain ??= loadAddon<PlainAddon>().plain;
  const result = (plain[name] as (...args: unknown[]) => number)(...args);
  if (result < 0) throw new FsError(errnoName(-result), name);
  return result;
}

/** open(2) flags, x86-64 and arm64 where they agree; others are taken from Node's constants. */
export const AT_FDCWD = -100;
export const AT_SYMLINK_NOFOLLOW = 0x100;
export const AT_REMOVEDIR = 0x200;
export const AT_EACCESS = 0x200;
export const AT_SYMLINK_FOLLOW = 0x400;
export const AT_EMPTY_PATH = 0x1000;
export const SEEK_SET = 0;
export const SEEK_CUR = 1;
export const SEEK_END = 2;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;
/** For `utimensat`: the nanoseconds that say "now" and "leave". */
export const UTIME_NOW = 0x3fffffff;
export const UTIME_OMIT = 0x3ffffffe;
/** O_PATH and O_TMPFILE, which Node does not name. */
export const O_PATH = 0o10000000;
export const O_TMPFILE = 0o20000000 | (process.arch === "arm64" ? 0o40000 : 0o200000);

/** openat(2) with raw flags. @returns the descriptor. */
export function openat(directory: number, path: BytePath, flags: number, mode = 0): number {
  return call("openat", directory, path, flags, mode);
}

export function open(path: BytePath, flags: number, mode = 0): number {
  return call("openat", AT_FDCWD, path, flags, mode);
}

export function close(descriptor: number): void {
  call("close", descriptor);
}

/** One pread(2) into `target`; possibly short. */
export function pread(descriptor: number, target: Buffer, offsetBytes: number): number {
  return call("pread", descriptor, target, offsetBytes);
}

/** One pwrite(2); possibly short. */
export function pwrite(descriptor: number, data: Buffer, offsetBytes: number): number {
  return call("pwrite", descriptor, data, offsetBytes);
}

/** One write(2) where the descriptor stands. */
export function write(descriptor: number, data: Buffer): number {
  return call("write", descriptor, data);
}

/** statx(2) with nanoseconds; `flags` of AT_*: 0 follows a symbolic link. */
export function statx(directory: number, path: BytePath, flags: number): Attr {
  const record = Buffer.alloc(ATTR_BYTES);
  call("statx", directory, path, flags, record);
  return decodeAttr(new DataView(record.buffer, record.byteOffset, record.length), 0);
}

export function stat(path: BytePath): Attr {
  return statx(AT_FDCWD, path, 0);
}

export function lstat(path: BytePath): Attr {
  return statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW);
}

export function fstat(descriptor: number): Attr {
  return statx(descriptor, "", AT_EMPTY_PATH);
}

export function rename(from: BytePath, to: BytePath, flags = 0): void {
  call("renameat2", AT_FDCWD, from, AT_FDCWD, to, flags);
}

/** linkat(2); `flags` 0 links a symbolic link itself. */
export function linkat(fromDirectory: number, from: BytePath, toDirectory: number, to: BytePath, flags: number): void {
  call("linkat", fromDirectory, from, toDirectory, to, flags);
}

export function link(from: BytePath, to: BytePath): void {
  call("linkat", AT_FDCWD, from, AT_FDCWD, to, 0);
}

export function symlink(target: BytePath, path: BytePath): void {
  call("symlinkat", target, AT_FDCWD, path);
}

export function readlink(path: BytePath): Buffer {
  const target = Buffer.alloc(4096);
  return target.subarray(0, call("readlinkat", AT_FDCWD, path, target));
}

/** mknod(2); `mode` holds the type. The umask of the process applies. */
export function mknod(path: BytePath, mode: number, rdevMajor = 0, rdevMinor = 0): void {
  call("mknodat", AT_FDCWD, path, mode, rdevMajor, rdevMinor);
}

export function mkdir(path: BytePath, mode: number): void {
  call("mkdirat", AT_FDCWD, path, mode);
}

export function unlink(path: BytePath): void {
  call("unlinkat", AT_FDCWD, path, 0);
}

export function rmdir(path: BytePath): void {
  call("unlinkat", AT_FDCWD, path, AT_REMOVEDIR);
}

/** The largest xattr value and list Linux has. @see XATTR_SIZE_MAX in linux/limits.h */
const XATTR_BYTES_MAX = 65536;

/** lgetxattr(2): a symbolic link is not followed. */
export function getxattr(path: BytePath, name: BytePath): Buffer {
  const target = Buffer.alloc(XATTR_BYTES_MAX);
  return Buffer.from(target.subarray(0, call("lgetxattr", path, name, target)));
}

export function setxattr(path: BytePath, name: BytePath, value: Buffer, flags = 0): void {
  call("lsetxattr", path, name, value, flags);
}

/** llistxattr(2): all names, each followed by NUL. */
export function listxattr(path: BytePath): Buffer {
  const target = Buffer.alloc(XATTR_BYTES_MAX);
  return Buffer.from(target.subarray(0, call("llistxattr", path, target)));
}

export function removexattr(path: BytePath, name: BytePath): void {
  call("lremovexattr", path, name);
}

/** fallocate(2); `mode` of FallocateMode. */
export function fallocate(descriptor: number, mode: number, offsetBytes: number, lengthBytes: number): void {
  call("fallocate", descriptor, mode, offsetBytes, lengthBytes);
}

/** lseek(2); `whence` of SEEK_*. */
export function lseek(descriptor: number, offsetBytes: number, whence: number): number {
  return call("lseek", descriptor, offsetBytes, whence);
}

/** One copy_file_range(2); possibly short. */
export function copyFileRange(
  source: number,
  sourceOffsetBytes: number,
  target: number,
  targetOffsetBytes: number,
  lengthBytes: number,
): number {
  return call("copyFileRange", source, sourceOffsetBytes, target, targetOffsetBytes, lengthBytes);
}

export type SetTime = TimeSpec | "now" | "omit";

function timeParts(time: SetTime): [sec: number, nsec: number] {
  if (time === "now") return [0, UTIME_NOW];
  if (time === "omit") return [0, UTIME_OMIT];
  return [time.sec, time.nsec];
}

/** utimensat(2); `flags` AT_SYMLINK_NOFOLLOW or 0. */
export function utimens(path: BytePath, atime: SetTime, mtime: SetTime, flags = 0): void {
  call("utimensat", AT_FDCWD, path, ...timeParts(atime), ...timeParts(mtime), flags);
}

export function futimens(descriptor: number, atime: SetTime, mtime: SetTime): void {
  call("utimensat", descriptor, "", ...timeParts(atime), ...timeParts(mtime), 0);
}

export function chmod(path: BytePath, mode: number): void {
  call("fchmodat", AT_FDCWD, path, mode);
}

export function chown(path: BytePath, uid: number, gid: number): void {
  call("fchownat", AT_FDCWD, path, uid, gid, 0);
}

export function lchown(path: BytePath, uid: number, gid: number): void {
  call("fchownat", AT_FDCWD, path, uid, gid, AT_SYMLINK_NOFOLLOW);
}

export function truncate(path: BytePath, sizeBytes: number): void {
  call("truncate", path, sizeBytes);
}

export function ftruncate(descriptor: number, sizeBytes: number): void {
  call("ftruncate", descriptor, sizeBytes);
}

export function fsync(descriptor: number, dataOnly = false): void {
  call("fsync", descriptor, dataOnly ? 1 : 0);
}

export function syncfs(descriptor: number): void {
  call("syncfs", descriptor);
}

/** Takes a file's clean pages out of the page cache: the next read comes from the disk. */
export function dropPages(descriptor: number): void {
  call("dropPages", descriptor);
}

/** access(2), with the real identity as access(2) does. `mask` of R_OK 4, W_OK 2, X_OK 1. */
export function access(path: BytePath, mask: number): void {
  call("faccessat", AT_FDCWD, path, mask, 0);
}

/** Sets the umask of the process and returns the one before. */
export function umask(mask: number): number {
  return call("umask", mask);
}

/** Takes another identity for good: the whole process, real, effective and saved. */
export function setIdentity(identity: { uid: number; gid: number; groups: readonly number[] }): void {
  call("setIdentity", identity.uid, identity.gid, Buffer.from(Uint32Array.from(identity.groups).buffer));
}

/** Reads `target` bytes at `offsetBytes` (a multiple of the page size) through a mapping. */
export function readMapped(descriptor: number, target: Buffer, offsetBytes: number, shared: boolean): void {
  call("mmap", descriptor, target, offsetBytes, 0, shared ? 1 : 2);
}

/** Writes `data` at `offsetBytes` (a multiple of the page size) through a shared mapping and syncs it; the file is long enough. */
export function writeMapped(descriptor: number, data: Buffer, offsetBytes: number): void {
  call("mmap", descriptor, data, offsetBytes, 1, 1);
}

/** An entry as getdents64(2) has it. */
export interface PlainDirent {
  name: string;
  type: number;
  /** To go on after this entry, with `seekDirectory`. */
  cookie: bigint;
  ino: bigint;
}

/** One getdents64(2) of at most `maxBytes` raw bytes; empty at the end. */
export function getdents(descriptor: number, maxBytes = 32768): PlainDirent[] {
  const raw = Buffer.alloc(maxBytes);
  const end = call("getdents", descriptor, raw);
  const entries: PlainDirent[] = [];
  for (let at = 0; at < end; at += raw.readUInt16LE(at + 16)) {
    const nameEnd = raw.indexOf(0, at + 19);
    entries.push({
      name: raw.toString("latin1", at + 19, nameEnd),
      type: raw.readUInt8(at + 18),
      cookie: raw.readBigUInt64LE(at + 8),
      ino: raw.readBigUInt64LE(at),
    });
  }
  return entries;
}

/** Goes on after the entry that carried `cookie`; 0n is the start. */
export function seekDirectory(descriptor: number, cookie: bigint): void {
  call("seekDirectory", descriptor, Number(cookie & 0xffffffffn), Number(cookie >> 32n));
}

export function statfs(path: BytePath): StatFs {
  const target = Buffer.alloc(64);
  call("statfs", path, target);
  const at = (index: number) => target.readDoubleLE(8 * index);
  return {
    blockBytes: at(0),
    fragmentBytes: at(1),
    blocks: at(2),
    blocksFree: at(3),
    blocksAvailable: at(4),
    files: at(5),
    filesFree: at(6),
    nameBytesMax: at(7),
  };
}
