/**
 * The bodies of replies, written into a view at an offset. Pure: every function writes all bytes of its structure.
 *
 * Layouts are those of linux/fuse.h, little-endian; the caller has checked that there is room.
 */
import type { Attr } from "../vfs/attr.ts";
import type { StatFs } from "../vfs/file-system.ts";

const TWO_32 = 2 ** 32;
/** STATX_BASIC_STATS and STATX_BTIME of linux/stat.h. */
const STATX_BASIC = 0x7ff;
const STATX_BTIME = 0x800;

/** How long the kernel may use something, split as it wants it. */
export interface Validity {
  readonly sec: number;
  readonly nsec: number;
}

export function validityOf(timeoutMs: number): Validity {
  const sec = Math.floor(timeoutMs / 1000);
  return { sec, nsec: Math.round((timeoutMs - sec * 1000) * 1e6) };
}

/** A number of either sign as 64 bits, two's complement. */
function putI64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setInt32(at + 4, Math.floor(value / TWO_32), true);
}

/** The kernel's 32-bit device number: 12 bits of major, 20 of minor. */
export function encodeDevice(major: number, minor: number): number {
  return ((minor & 0xff) | ((major & 0xfff) << 8) | ((minor & 0xfff00) << 12)) >>> 0;
}

/** `struct fuse_attr`, 88 bytes. */
export function putFuseAttr(view: DataView, at: number, attr: Attr): void {
  view.setUint32(at, attr.inoLow, true);
  view.setUint32(at + 4, attr.inoHigh, true);
  putI64(view, at + 8, attr.sizeBytes);
  putI64(view, at + 16, attr.blocks);
  putI64(view, at + 24, attr.atimeSec);
  putI64(view, at + 32, attr.mtimeSec);
  putI64(view, at + 40, attr.ctimeSec);
  view.setUint32(at + 48, attr.atimeNsec, true);
  view.setUint32(at + 52, attr.mtimeNsec, true);
  view.setUint32(at + 56, attr.ctimeNsec, true);
  view.setUint32(at + 60, attr.mode, true);
  view.setUint32(at + 64, attr.nlink, true);
  view.setUint32(at + 68, attr.uid, true);
  view.setUint32(at + 72, attr.gid, true);
  view.setUint32(at + 76, encodeDevice(attr.rdevMajor, attr.rdevMinor), true);
  view.setUint32(at + 80, attr.blksize, true);
  view.setUint32(at + 84, 0, true);
}

/** `struct fuse_entry_out`, ENTRY_OUT_BYTES. */
export function putEntry(
  view: DataView,
  at: number,
  node: { nodeid: number; generation: number },
  attr: Attr,
  entryValid: Validity,
  attrValid: Validity,
): void {
  putI64(view, at, node.nodeid);
  putI64(view, at + 8, node.generation);
  putI64(view, at + 16, entryValid.sec);
  putI64(view, at + 24, attrValid.sec);
  view.setUint32(at + 32, entryValid.nsec, true);
  view.setUint32(at + 36, attrValid.nsec, true);
  putFuseAttr(view, at + 40, attr);
}

/** `struct fuse_attr_out`, ATTR_OUT_BYTES. */
export function putAttr(view: DataView, at: number, attr: Attr, valid: Validity): void {
  putI64(view, at, valid.sec);
  view.setUint32(at + 8, valid.nsec, true);
  view.setUint32(at + 12, 0, true);
  putFuseAttr(view, at + 16, attr);
}

/** `struct fuse_open_out`, OPEN_OUT_BYTES. */
export function putOpen(view: DataView, at: number, handle: number, flags: number): void {
  putI64(view, at, handle);
  view.setUint32(at + 8, flags, true);
  view.setUint32(at + 12, 0, true);
}

/** `struct fuse_statfs_out`, STATFS_OUT_BYTES. */
export function putStatfs(view: DataView, at: number, stat: StatFs): void {
  putI64(view, at, stat.blocks);
  putI64(view, at + 8, stat.blocksFree);
  putI64(view, at + 16, stat.blocksAvailable);
  putI64(view, at + 24, stat.files);
  putI64(view, at + 32, stat.filesFree);
  view.setUint32(at + 40, stat.blockBytes, true);
  view.setUint32(at + 44, stat.nameBytesMax, true);
  view.setUint32(at + 48, stat.fragmentBytes, true);
  for (let offset = 52; offset < 80; offset += 4) view.setUint32(at + offset, 0, true);
}

function putStatxTime(view: DataView, at: number, sec: number, nsec: number): void {
  putI64(view, at, sec);
  view.setUint32(at + 8, nsec, true);
  view.setUint32(at + 12, 0, true);
}

/** `struct fuse_statx_out`, STATX_OUT_BYTES. A birth time of 0 means that the disk keeps none. */
export function putStatx(view: DataView, at: number, attr: Attr, valid: Validity): void {
  const hasBirth = attr.btimeSec !== 0 || attr.btimeNsec !== 0;
  putI64(view, at, valid.sec);
  view.setUint32(at + 8, valid.nsec, true);
  for (let offset = 12; offset < 32; offset += 4) view.setUint32(at + offset, 0, true);
  const stat = at + 32;
  view.setUint32(stat, hasBirth ? STATX_BASIC | STATX_BTIME : STATX_BASIC, true);
  view.setUint32(stat + 4, attr.blksize, true);
  putI64(view, stat + 8, 0);
  view.setUint32(stat + 16, attr.nlink, true);
  view.setUint32(stat + 20, attr.uid, true);
  view.setUint32(stat + 24, attr.gid, true);
  view.setUint32(stat + 28, attr.mode & 0xffff, true);
  view.setUint32(stat + 32, attr.inoLow, true);
  view.setUint32(stat + 36, attr.inoHigh, true);
  putI64(view, stat + 40, attr.sizeBytes);
  putI64(view, stat + 48, attr.blocks);
  putI64(view, stat + 56, 0);
  putStatxTime(view, stat + 64, attr.atimeSec, attr.atimeNsec);
  putStatxTime(view, stat + 80, attr.btimeSec, attr.btimeNsec);
  putStatxTime(view, stat + 96, attr.ctimeSec, attr.ctimeNsec);
  putStatxTime(view, stat + 112, attr.mtimeSec, attr.mtimeNsec);
  view.setUint32(stat + 128, attr.rdevMajor, true);
  view.setUint32(stat + 132, attr.rdevMinor, true);
  for (let offset = 136; offset < 256; offset += 4) view.setUint32(stat + offset, 0, true);
}

/** Any number below 2^53 as u64. */
export function putU53(view: DataView, at: number, value: number): void {
  putI64(view, at, value);
}
