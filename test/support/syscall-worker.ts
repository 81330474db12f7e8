/**
 * A worker process of `syscall-posix.ts`: takes an identity for good, then makes the calls it is sent, in order.
 *
 * What Node has is called through Node and the rest through `src/sys/syscalls.ts`, so that our addon is not the only witness. It ends when its
 * parent goes away.
 */
import * as fs from "node:fs";
import { type ErrnoName, errnoName } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import * as sys from "../../src/sys/syscalls.ts";
import type { Attr } from "../../src/vfs/attr.ts";
import type { Calls, SetTime } from "./posix.ts";
import type { WorkerAnswer, WorkerCall } from "./syscall-posix.ts";

const bytes = (path: string): Buffer => Buffer.from(path, "latin1");
const BILLION = 1_000_000_000n;

function attrOf(stats: fs.BigIntStats): Attr {
  const seconds = (ns: bigint) => Number((ns - (((ns % BILLION) + BILLION) % BILLION)) / BILLION);
  const rest = (ns: bigint) => Number(((ns % BILLION) + BILLION) % BILLION);
  const rdev = stats.rdev;
  return {
    inoLow: Number(stats.ino & 0xffffffffn),
    inoHigh: Number(stats.ino >> 32n),
    sizeBytes: Number(stats.size),
    blocks: Number(stats.blocks),
    atimeSec: seconds(stats.atimeNs),
    mtimeSec: seconds(stats.mtimeNs),
    ctimeSec: seconds(stats.ctimeNs),
    btimeSec: seconds(stats.birthtimeNs),
    atimeNsec: rest(stats.atimeNs),
    mtimeNsec: rest(stats.mtimeNs),
    ctimeNsec: rest(stats.ctimeNs),
    btimeNsec: rest(stats.birthtimeNs),
    mode: Number(stats.mode),
    nlink: Number(stats.nlink),
    uid: Number(stats.uid),
    gid: Number(stats.gid),
    // @see gnu_dev_major in sys/sysmacros.h
    rdevMajor: Number(((rdev >> 8n) & 0xfffn) | ((rdev >> 32n) & 0xfffff000n)),
    rdevMinor: Number((rdev & 0xffn) | ((rdev >> 12n) & 0xffffff00n)),
    blksize: Number(stats.blksize),
  };
}

/** The node a path names when links are followed; the xattr calls of the addon do not follow any. */
const followed = (path: string): Buffer => fs.realpathSync.native(bytes(path), { encoding: "buffer" });

/** Each call, synchronous; see `Calls` for what they mean. */
const calls: { [K in keyof Calls]: (...args: Parameters<Calls[K]>) => Awaited<ReturnType<Calls[K]>> } = {
  open: (path, flags, mode = 0o666) => fs.openSync(bytes(path), flags, mode),
  close: (fd) => fs.closeSync(fd),
  read(fd, lengthBytes) {
    const data = Buffer.alloc(lengthBytes);
    return data.subarray(0, fs.readSync(fd, data, 0, lengthBytes, null));
  },
  write: (fd, data) => fs.writeSync(fd, data),
  pread(fd, lengthBytes, offsetBytes) {
    const data = Buffer.alloc(lengthBytes);
    return data.subarray(0, sys.pread(fd, data, offsetBytes));
  },
  pwrite: (fd, data, offsetBytes) => sys.pwrite(fd, data, offsetBytes),
  lseek: (fd, offsetBytes, whence) => sys.lseek(fd, offsetBytes, whence),
  fsync: (fd) => fs.fsyncSync(fd),
  fdatasync: (fd) => fs.fdatasyncSync(fd),
  ftruncate: (fd, sizeBytes) => sys.ftruncate(fd, sizeBytes),
  fallocate: (fd, mode, offsetBytes, lengthBytes) => sys.fallocate(fd, mode, offsetBytes, lengthBytes),
  copyFileRange: (from, to, lengthBytes) =>
    sys.copyFileRange(from.fd, from.offsetBytes, to.fd, to.offsetBytes, lengthBytes),
  getdents(fd, cookie, maxBytes) {
    sys.seekDirectory(fd, cookie);
    return sys.getdents(fd, maxBytes);
  },

  stat: (path) => attrOf(fs.statSync(bytes(path), { bigint: true })),
  lstat: (path) => attrOf(fs.lstatSync(bytes(path), { bigint: true })),
  fstat: (fd) => attrOf(fs.fstatSync(fd, { bigint: true })),
  statfs: (path) => sys.statfs(path),
  access: (path, mask) => sys.access(path, mask),
  chmod: (path, mode) => fs.chmodSync(bytes(path), mode),
  fchmod: (fd, mode) => fs.fchmodSync(fd, mode),
  chown: (path, uid, gid) => sys.chown(path, uid, gid),
  lchown: (path, uid, gid) => sys.lchown(path, uid, gid),
  fchown: (fd, uid, gid) => fs.fchownSync(fd, uid, gid),
  truncate: (path, sizeBytes) => sys.truncate(path, sizeBytes),
  utimens: (path, atime, mtime) => sys.utimens(path, atime, mtime),
  lutimens: (path, atime, mtime) => sys.utimens(path, atime, mtime, sys.AT_SYMLINK_NOFOLLOW),
  futimens: (fd, atime: SetTime, mtime: SetTime) => sys.futimens(fd, atime, mtime),

  mkdir: (path, mode = 0o777) => void fs.mkdirSync(bytes(path), mode),
  rmdir: (path) => fs.rmdirSync(bytes(path)),
  mknod: (path, mode, major = 0, minor = 0) => sys.mknod(path, mode, major, minor),
  unlink: (path) => fs.unlinkSync(bytes(path)),
  link: (from, to) => fs.linkSync(bytes(from), bytes(to)),
  linkFd: (fd, to) => sys.linkat(fd, "", sys.AT_FDCWD, to, sys.AT_EMPTY_PATH),
  symlink: (target, path) => fs.symlinkSync(bytes(target), bytes(path)),
  readlink: (path) => fs.readlinkSync(bytes(path), { encoding: "latin1" }),
  rename: (from, to, flags = 0) => sys.rename(from, to, flags),

  getxattr: (path, name) => sys.getxattr(followed(path), name),
  lgetxattr: (path, name) => sys.getxattr(path, name),
  listxattr: (path) => sys.listxattr(followed(path)).toString("latin1").split("\0").slice(0, -1),
  setxattr: (path, name, value, flags = 0) => sys.setxattr(followed(path), name, value, flags),
  lsetxattr: (path, name, value, flags = 0) => sys.setxattr(path, name, value, flags),
  removexattr: (path, name) => sys.removexattr(followed(path), name),
};

/** The errno of what Node or the addon threw; undefined for anything else. */
function errnoOf(error: unknown): ErrnoName | undefined {
  if (error instanceof FsError) return error.errno;
  const { errno, code } = error as NodeJS.ErrnoException;
  if (typeof errno !== "number" || errno >= 0 || code === undefined) return undefined;
  return errnoName(-errno);
}

function make({ method, args, umask }: WorkerCall): WorkerAnswer {
  process.umask(umask);
  try {
    return { value: (calls[method] as (...args: readonly unknown[]) => unknown)(...args) };
  } catch (error) {
    const errno = errnoOf(error);
    if (errno !== undefined) return { errno, op: method };
    return { bug: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
}

const { uid, gid, groups } = JSON.parse(process.argv[2] ?? "") as { uid: number; gid: number; groups: number[] };
if (uid !== 0) {
  process.setgroups?.(groups);
  process.setgid?.(gid);
  process.setuid?.(uid);
}
process.on("message", (batch) => void process.send?.((batch as WorkerCall[]).map(make)));
