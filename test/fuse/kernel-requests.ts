/**
 * One request of each opcode as Linux 6.18 sends it (bodies taken from /dev/fuse while programs ran, ids changed), the calls it must become and the reply
 * that must go back. Node 1 is the root "root", node 2 "node-x"; 0x33 is an open file and an open directory.
 */

import { ERRNO } from "../../src/base/errno.ts";
import type { OpcodeName } from "../../src/fuse/abi.ts";
import { LOCK_END } from "../../src/vfs/lock.ts";
import type { Call } from "./recording-fs.ts";

export interface KernelRequestCase {
  readonly name: OpcodeName;
  /** Says which of several. */
  readonly label?: string;
  readonly node?: number;
  readonly body: string;
  readonly calls: readonly Call[];
  /** Hex of the reply's body; absent: no reply. */
  readonly reply?: string;
  readonly errno?: number;
}

/** `struct fuse_attr` of SAMPLE_ATTR. */
const ATTR = `
  14131211 24232221  ino
  05000000 01000000  size
  31000000 00000000  blocks
  feffffff ffffffff  atime, before 1970
  44434241 00000000  mtime
  54535251 00000000  ctime
  0a000000 0b000000 0c000000  their nanoseconds
  a4810000  mode 0100644
  71000000 81000000 91000000  nlink uid gid
  b2a1100b  rdev: the kernel's 32 bits
  00100000 00000000  blksize, flags`;

const ENTRY = `
  02000000 00000000  nodeid
  4d000000 00000000  generation
  02000000 00000000  entry_valid 2.25 s
  01000000 00000000  attr_valid 1.5 s
  80b2e60e 0065cd1d  their nanoseconds
  ${ATTR}`;

const ATTR_OUT = `
  01000000 00000000  attr_valid
  0065cd1d 00000000  nanoseconds, dummy
  ${ATTR}`;

const OPEN_KEEP = "33000000 00000000  fh\n 02000000 00000000  open_flags KEEP_CACHE, backing_id";
const FH = "33000000 00000000  fh";
const LOCK_OWNER = "06c8ffff b24eb7ac  owner";
const LOCK = { kind: "posix", owner: 0xacb7_4eb2_ffff_c806n, pid: 0x1092 };
const COUNT_64 = "64000000 00000000";

export const NAME_REQUESTS: readonly KernelRequestCase[] = [
  {
    name: "LOOKUP",
    node: 1,
    body: "66696c65 00  file",
    calls: [["lookup", "root", "file"]],
    reply: ENTRY,
  },
  { name: "READLINK", body: "", calls: [["readlink", "node-x"]], reply: "2e2e2f74 61726765 74  ../target" },
  {
    name: "SYMLINK",
    body: "6c696e6b 00  link\n 2e2e2f74 00  ../t",
    calls: [["symlink", "node-x", "link", "../t"]],
    reply: ENTRY,
  },
  {
    name: "MKNOD",
    body: "b6210000 45053012 12000000 00000000  mode rdev umask padding\n 6e6f6465 00  node",
    calls: [["mknod", "node-x", "node", { mode: 0o20666, umask: 0o22, rdevMajor: 5, rdevMinor: 0x12345 }]],
    reply: ENTRY,
  },
  {
    name: "MKDIR",
    node: 1,
    body: "e8010000 12000000  mode umask\n 64697200  dir",
    calls: [["mkdir", "root", "dir", { mode: 0o750, umask: 0o22 }]],
    reply: ENTRY,
  },
  { name: "UNLINK", body: "66696c65 00  file", calls: [["unlink", "node-x", "file"]], reply: "" },
  { name: "RMDIR", node: 1, body: "64697200  dir", calls: [["rmdir", "root", "dir"]], reply: "" },
  {
    name: "RENAME",
    body: "01000000 00000000  newdir\n 68617264 00  hard\n 72656e61 6d656400  renamed",
    calls: [["rename", "node-x", "hard", "root", "renamed", 0]],
    reply: "",
  },
  {
    name: "RENAME2",
    node: 1,
    body: "02000000 00000000 01000000 00000000  newdir flags padding\n 61 00  a\n ff 00  a byte that is no text",
    calls: [["rename", "root", "a", "node-x", "\xff", 1]],
    reply: "",
  },
  {
    name: "LINK",
    node: 1,
    body: "02000000 00000000  oldnodeid\n 68617264 00  hard",
    calls: [["link", "node-x", "root", "hard"]],
    reply: ENTRY,
  },
  {
    name: "CREATE",
    node: 1,
    body: "c2800000 a0810000 12000000 00000000  flags mode umask open_flags\n 66696c65 00  file",
    calls: [["create", "root", "file", 1 | 2 | 16, { mode: 0o640, umask: 0o22 }]],
    reply: `${ENTRY}\n${OPEN_KEEP}`,
  },
  {
    name: "TMPFILE",
    node: 1,
    body: "02804100 80810000 12000000 00000000  flags mode umask open_flags\n 2f00  /",
    calls: [["tmpfile", "root", 1 | 2, { mode: 0o600, umask: 0o22 }]],
    reply: `${ENTRY}\n${OPEN_KEEP}`,
  },
];

export const FILE_REQUESTS: readonly KernelRequestCase[] = [
  {
    name: "OPEN",
    body: "00800000 00000000  flags O_LARGEFILE, open_flags",
    calls: [["open", "node-x", 1]],
    reply: OPEN_KEEP,
  },
  {
    name: "OPEN",
    label: "to truncate, append and execute at once, without keeping set-id bits",
    body: "21960000 01000000  flags, open_flags KILL_SUIDGID",
    calls: [["open", "node-x", 2 | 4 | 8 | 64 | 512 | 1024]],
    reply: OPEN_KEEP,
  },
  {
    name: "READ",
    body: `${FH}
      00100000 02000000  offset
      05000000 00000000  size, read_flags
      00000000 00000000  lock_owner
      00800000 00000000  flags, padding`,
    calls: [["read", 0x33, 0x2_0000_1000, "\0\0\0\0\0"]],
    reply: "64617461 21  data!",
  },
  {
    name: "WRITE",
    body: `${FH}
      34120000 01000000  offset
      05000000 04000000  size, write_flags KILL_SUIDGID
      00000000 00000000  lock_owner
      02800000 00000000  flags, padding
      68656c6c 6f  hello`,
    calls: [["write", 0x33, 0x1_0000_1234, "hello", { killSuidgid: true }]],
    reply: "05000000 00000000  size, padding",
  },
  {
    name: "FLUSH",
    body: `${FH}\n 00000000 00000000  unused, padding\n 06c8ffff b24eb7ac  lock_owner`,
    calls: [["flush", 0x33, undefined]],
    reply: "",
  },
  {
    name: "GETLK",
    body: `${FH}\n ${LOCK_OWNER}
      0a000000 00000000 13000000 00000000  from 10 to 19
      00000000 92100000  F_RDLCK, pid
      00000000 00000000  lk_flags, padding`,
    calls: [["getlk", 0x33, { ...LOCK, type: "read", startBytes: 10n, endBytes: 19n }]],
    reply: "05000000 00000000 ffffffff ffffff7f  from 5 to the end\n 01000000 63000000  F_WRLCK, pid",
  },
  {
    name: "SETLK",
    label: "to unlock",
    body: `${FH}\n ${LOCK_OWNER}
      00000000 00000000 ffffffff ffffff7f  from 0 to the end
      02000000 00000000  F_UNLCK, pid
      00000000 00000000  lk_flags, padding`,
    calls: [["setlk", 0x33, { ...LOCK, type: "unlock", startBytes: 0n, endBytes: LOCK_END, pid: 0 }, false]],
    reply: "",
  },
  {
    name: "SETLKW",
    label: "for flock, to unlock",
    body: `${FH}\n ${LOCK_OWNER}
      00000000 00000000 ffffffff ffffff7f  from 0 to the end
      02000000 00000000  F_UNLCK, pid
      01000000 00000000  lk_flags FLOCK, padding`,
    calls: [
      ["setlk", 0x33, { ...LOCK, kind: "flock", type: "unlock", startBytes: 0n, endBytes: LOCK_END, pid: 0 }, true],
    ],
    reply: "",
  },
  { name: "FSYNC", body: `${FH}\n 01000000 00000000  data only`, calls: [["fsync", 0x33, true]], reply: "" },
  {
    name: "RELEASE",
    body: `${FH}\n 02800000 00000000  flags, release_flags\n 00000000 00000000  lock_owner`,
    calls: [["release", 0x33]],
    reply: "",
  },
  {
    name: "FALLOCATE",
    body: `${FH}\n 00100000 00000000 00200000 00000000  offset length\n 03000000 00000000  mode`,
    calls: [["fallocate", 0x33, 3, 4096, 8192]],
    reply: "",
  },
  {
    name: "LSEEK",
    body: `${FH}\n 05000000 00000000 04000000 00000000  offset whence`,
    calls: [["lseek", 0x33, 5, "hole"]],
    reply: "07000000 01000000",
  },
  ...(["COPY_FILE_RANGE", "COPY_FILE_RANGE_64"] as const).map((name) => ({
    name,
    body: `${FH}
      00100000 00000000  off_in
      02000000 00000000 33000000 00000000  nodeid_out fh_out
      05000000 00000000  off_out
      64000000 00000000 00000000 00000000  len flags`,
    calls: [["copyFileRange", { handle: 0x33, offsetBytes: 4096 }, { handle: 0x33, offsetBytes: 5 }, 100]] as Call[],
    reply: COUNT_64,
  })),
  { name: "IOCTL", body: `${FH}\n${"00".repeat(24)}`, calls: [], errno: ERRNO.ENOTTY },
  { name: "POLL", body: `${FH}\n${"00".repeat(16)}`, calls: [], errno: ERRNO.ENOSYS },
  { name: "BMAP", body: "00".repeat(16), calls: [], errno: ERRNO.ENOSYS },
];

const SETATTR_ALL = `
  bf000000 00000000  valid: mode uid gid size atime mtime, and ATIME_NOW
  00000000 00000000  fh
  00000000 01000000  size
  00000000 00000000  lock_owner
  01000000 00000000  atime
  fbffffff ffffffff  mtime -5 s
  00000000 00000000  ctime
  02000000 ffc99a3b 00000000  nanoseconds
  b8890000 00000000  mode 0104670
  07000000 08000000 00000000  uid gid`;

export const ATTR_REQUESTS: readonly KernelRequestCase[] = [
  {
    name: "GETATTR",
    body: "00000000 00000000 00000000 00000000  flags dummy fh",
    calls: [["getattr", "node-x", undefined]],
    reply: ATTR_OUT,
  },
  {
    name: "GETATTR",
    label: "of an open file",
    body: `01000000 00000000  flags\n ${FH}`,
    calls: [["getattr", "node-x", 0x33]],
    reply: ATTR_OUT,
  },
  {
    name: "SETATTR",
    body: SETATTR_ALL,
    calls: [
      [
        "setattr",
        "node-x",
        { mode: 0o4670, uid: 7, gid: 8, sizeBytes: 2 ** 32, atime: "now", mtime: { sec: -5, nsec: 999_999_999 } },
        undefined,
      ],
    ],
    reply: ATTR_OUT,
  },
  {
    name: "SETATTR",
    label: "as ftruncate(2), clearing set-id bits",
    body: `48080000 00000000  valid: size fh kill_suidgid\n ${FH}\n 03000000 00000000  size\n${"00".repeat(64)}`,
    calls: [["setattr", "node-x", { sizeBytes: 3, killSuidgid: true }, 0x33]],
    reply: ATTR_OUT,
  },
  {
    name: "STATX",
    body: "00000000 00000000 00000000 00000000 00000000 ff0f0000  flags reserved fh sx_flags sx_mask",
    calls: [["getattr", "node-x", undefined]],
    reply: `
      01000000 00000000 0065cd1d  attr_valid
      ${"00".repeat(20)}  flags, spare
      ff0f0000 00100000  mask with BTIME, blksize
      00000000 00000000  attributes
      71000000 81000000 91000000 a4810000  nlink uid gid mode
      14131211 24232221  ino
      05000000 01000000 31000000 00000000  size blocks
      00000000 00000000  attributes_mask
      feffffff ffffffff 0a000000 00000000  atime
      64636261 00000000 0d000000 00000000  btime
      54535251 00000000 0c000000 00000000  ctime
      44434241 00000000 0b000000 00000000  mtime
      a1000000 b2b10000  rdev
      00000000 00000000  dev
      ${"00".repeat(112)}  spare`,
  },
  { name: "ACCESS", body: "04000000 00000000  mask", calls: [["access", "node-x", 4]], reply: "" },
  {
    name: "SETXATTR",
    body: `05000000 01000000 00000000 00000000  size flags setxattr_flags padding
      75736572 2e6100  user.a
      76616c75 65  value`,
    calls: [["setxattr", "node-x", "user.a", "value", 1]],
    reply: "",
  },
  {
    name: "GETXATTR",
    body: "40000000 00000000  size\n 75736572 2e6100  user.a",
    calls: [["getxattr", "node-x", "user.a"]],
    reply: "76616c75 65  value",
  },
  {
    name: "GETXATTR",
    label: "asking for the size",
    body: "00000000 00000000  size\n 75736572 2e6100  user.a",
    calls: [["getxattr", "node-x", "user.a"]],
    reply: "05000000 00000000",
  },
  {
    name: "GETXATTR",
    label: "with too little room",
    body: "04000000 00000000  size\n 75736572 2e6100  user.a",
    calls: [["getxattr", "node-x", "user.a"]],
    errno: ERRNO.ERANGE,
  },
  {
    name: "LISTXATTR",
    body: "00010000 00000000  size",
    calls: [["listxattr", "node-x"]],
    reply: "75736572 2e6100 75736572 2e6200",
  },
  {
    name: "REMOVEXATTR",
    body: "75736572 2e6100  user.a",
    calls: [["removexattr", "node-x", "user.a"]],
    reply: "",
  },
  {
    name: "STATFS",
    node: 1,
    body: "",
    calls: [["statfs", "root"]],
    reply: `
      11000000 00000000 12000000 00000000 13000000 00000000  blocks bfree bavail
      14000000 00000000 15000000 00000000  files ffree
      00100000 ff000000 00020000  bsize namelen frsize
      ${"00".repeat(28)}`,
  },
  { name: "SYNCFS", node: 1, body: "00".repeat(8), calls: [["syncfs", "root"]], reply: "" },
];

const READDIR_BODY = `
  ${FH}
  00000000 00000000  offset
  00100000 00000000  size, read_flags
  00000000 00000000  lock_owner
  00800000 00000000  flags, padding`;
const DIRENT = `
  14000000 15000000  ino
  08070605 04030201  off: go on after this
  02000000 08000000  namelen type
  61620000 00000000  ab`;

export const DIR_REQUESTS: readonly KernelRequestCase[] = [
  {
    name: "OPENDIR",
    body: "00800000 00000000  flags",
    calls: [["opendir", "node-x"]],
    reply: "33000000 00000000 00000000 00000000  fh open_flags",
  },
  { name: "READDIR", body: READDIR_BODY, calls: [["readdir", 0x33, 0n, 65536, false]], reply: DIRENT },
  { name: "READDIRPLUS", body: READDIR_BODY, calls: [["readdir", 0x33, 0n, 65536, true]], reply: `${ENTRY}${DIRENT}` },
  { name: "FSYNCDIR", body: `${FH}\n 00000000 00000000  flags`, calls: [["fsyncdir", 0x33, false]], reply: "" },
  {
    name: "RELEASEDIR",
    body: `${FH}\n 00800000 00000000 00000000 00000000  flags release_flags lock_owner`,
    calls: [["releasedir", 0x33]],
    reply: "",
  },
  { name: "DESTROY", node: 1, body: "", calls: [], reply: "" },
  { name: "FORGET", body: "01000000 00000000  nlookup", calls: [] },
  { name: "BATCH_FORGET", node: 1, body: "01000000 00000000  count\n 02000000 00000000 01000000 00000000", calls: [] },
  { name: "NOTIFY_REPLY", body: "", calls: [] },
];

/** As 6.18 sends it: 7.45 with all its flags. */
export const INIT_BODY = `
  07000000 2d000000  major minor
  00000200  max_readahead
  fbffffff  flags
  ff070000  flags2
  ${"00".repeat(44)}  unused`;
