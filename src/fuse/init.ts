/**
 * INIT: what we ask of the kernel and why. Pure: the request's fields in, the reply's fields out.
 *
 * Deliberately not asked for: WRITEBACK_CACHE (the kernel would acknowledge writes we never saw), AUTO_INVAL_DATA (it drops pages after our
 * own writes too; page-state.ts decides at open instead), EXPLICIT_INVAL_DATA (a file that grew elsewhere would show zeros in the
 * page that was its last), EXPORT_SUPPORT ('.' and '..' are not looked up), splice and NO_OPEN*. POSIX_LOCKS and FLOCK_LOCKS only where the
 * FileSystem has locks: without them the kernel keeps locks itself, among the programs of this mount.
 */
import { FUSE_MAJOR, FUSE_MINOR, FUSE_MINOR_MIN, INIT_OUT_BYTES, InitFlag } from "./abi.ts";

export interface InitRequest {
  major: number;
  minor: number;
  maxReadAheadBytes: number;
  flags: number;
}

export interface InitOptions {
  maxWriteBytes: number;
  /** Requests of the kernel's own (read-ahead, direct I/O) that it may have under way. */
  backgroundMax: number;
  posixAcl: boolean;
  /** Locks are asked of us. */
  locks: boolean;
}

export interface InitReply {
  minor: number;
  maxReadAheadBytes: number;
  flags: number;
  backgroundMax: number;
  congestionThreshold: number;
  maxWriteBytes: number;
  maxPages: number;
}

const PAGE_BYTES = 4096;

const WANTED =
  InitFlag.ASYNC_READ |
  InitFlag.ATOMIC_O_TRUNC |
  InitFlag.BIG_WRITES |
  InitFlag.DONT_MASK |
  InitFlag.DO_READDIRPLUS |
  InitFlag.READDIRPLUS_AUTO |
  InitFlag.ASYNC_DIO |
  InitFlag.PARALLEL_DIROPS |
  InitFlag.ABORT_ERROR |
  InitFlag.MAX_PAGES |
  InitFlag.CACHE_SYMLINKS |
  InitFlag.HANDLE_KILLPRIV_V2 |
  InitFlag.SETXATTR_EXT |
  InitFlag.INIT_EXT;

/** What to answer: a reply, "again" if the kernel must first come down to our major version, or why it is too old for us. */
export function negotiate(request: InitRequest, options: InitOptions): InitReply | "again" | { tooOld: string } {
  if (request.major > FUSE_MAJOR) return "again";
  if (request.major < FUSE_MAJOR || request.minor < FUSE_MINOR_MIN) {
    return {
      tooOld: `the kernel speaks FUSE ${request.major}.${request.minor}; ${FUSE_MAJOR}.${FUSE_MINOR_MIN} (Linux 5.4) is the oldest that will do`,
    };
  }
  const acl = options.posixAcl ? InitFlag.POSIX_ACL : 0;
  const locks = options.locks ? InitFlag.POSIX_LOCKS | InitFlag.FLOCK_LOCKS : 0;
  const wanted = WANTED | acl | locks;
  return {
    minor: Math.min(request.minor, FUSE_MINOR),
    maxReadAheadBytes: request.maxReadAheadBytes,
    flags: request.flags & wanted,
    backgroundMax: options.backgroundMax,
    congestionThreshold: Math.max(1, Math.floor((options.backgroundMax * 3) / 4)),
    maxWriteBytes: options.maxWriteBytes,
    maxPages: options.maxWriteBytes / PAGE_BYTES,
  };
}

/** `struct fuse_init_out`, INIT_OUT_BYTES. */
export function putInit(view: DataView, at: number, reply: InitReply): void {
  for (let offset = 0; offset < INIT_OUT_BYTES; offset += 4) view.setUint32(at + offset, 0, true);
  view.setUint32(at, FUSE_MAJOR, true);
  view.setUint32(at + 4, reply.minor, true);
  view.setUint32(at + 8, reply.maxReadAheadBytes, true);
  view.setUint32(at + 12, reply.flags, true);
  view.setUint16(at + 16, reply.backgroundMax, true);
  view.setUint16(at + 18, reply.congestionThreshold, true);
  view.setUint32(at + 20, reply.maxWriteBytes, true);
  // Times are exact to the nanosecond.
  view.setUint32(at + 24, 1, true);
  view.setUint16(at + 28, reply.maxPages, true);
}
