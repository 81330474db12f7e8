/**
 * Attributes of a node, and their fixed-layout record.
 *
 * The record (ATTR_BYTES, little-endian) is what the disk side's addon writes, the wire carries and pages of directory entries
 * hold, so an attribute is never re-encoded between them. Layout, byte offsets:
 *
 *     0 ino u64   8 size u64   16 blocks u64   24 atime s i64   32 mtime s i64   40 ctime s i64   48 btime s i64
 *     56 atime ns u32   60 mtime ns u32   64 ctime ns u32   68 btime ns u32   72 mode u32   76 nlink u32
 *     80 uid u32   84 gid u32   88 rdev major u32   92 rdev minor u32   96 blksize u32   100 reserved u32 (0)
 */

/** A point in time as the kernel keeps it. `sec` may be negative; `nsec` is 0..999,999,999. */
export interface TimeSpec {
  readonly sec: number;
  readonly nsec: number;
}

/**
 * What statx(2) says of a node. `mode` holds type and permission bits (S_IFMT | 07777). The inode number is two u32 halves, because
 * it may use all 64 bits and is only ever passed on. `blocks` counts 512 bytes. `btime` is 0 where the disk does not keep it.
 */
export interface Attr {
  inoLow: number;
  inoHigh: number;
  sizeBytes: number;
  blocks: number;
  atimeSec: number;
  mtimeSec: number;
  ctimeSec: number;
  btimeSec: number;
  atimeNsec: number;
  mtimeNsec: number;
  ctimeNsec: number;
  btimeNsec: number;
  mode: number;
  nlink: number;
  uid: number;
  gid: number;
  rdevMajor: number;
  rdevMinor: number;
  blksize: number;
}

export const ATTR_BYTES = 104;

/** Stands where attributes could not be had: no node has this mode. */
export const NO_ATTR: Attr = {
  inoLow: 0,
  inoHigh: 0,
  sizeBytes: 0,
  blocks: 0,
  atimeSec: 0,
  mtimeSec: 0,
  ctimeSec: 0,
  btimeSec: 0,
  atimeNsec: 0,
  mtimeNsec: 0,
  ctimeNsec: 0,
  btimeNsec: 0,
  mode: 0,
  nlink: 0,
  uid: 0,
  gid: 0,
  rdevMajor: 0,
  rdevMinor: 0,
  blksize: 0,
};

/** File types in `mode`. @see inode(7) */
export const S_IFMT = 0o170000;
export const S_IFSOCK = 0o140000;
export const S_IFLNK = 0o120000;
export const S_IFREG = 0o100000;
export const S_IFBLK = 0o060000;
export const S_IFDIR = 0o040000;
export const S_IFCHR = 0o020000;
export const S_IFIFO = 0o010000;

const TWO_32 = 2 ** 32;

/** An i64 as a number; exact within +-2^53, which covers every time and every size up to 8 PiB. */
function getI64(view: DataView, offset: number): number {
  return view.getInt32(offset + 4, true) * TWO_32 + view.getUint32(offset, true);
}

function setI64(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value >>> 0, true);
  view.setInt32(offset + 4, Math.floor(value / TWO_32), true);
}

/** Reads the record at `offset`; the caller has checked that ATTR_BYTES are there. */
export function decodeAttr(view: DataView, offset: number): Attr {
  return {
    inoLow: view.getUint32(offset, true),
    inoHigh: view.getUint32(offset + 4, true),
    sizeBytes: getI64(view, offset + 8),
    blocks: getI64(view, offset + 16),
    atimeSec: getI64(view, offset + 24),
    mtimeSec: getI64(view, offset + 32),
    ctimeSec: getI64(view, offset + 40),
    btimeSec: getI64(view, offset + 48),
    atimeNsec: view.getUint32(offset + 56, true),
    mtimeNsec: view.getUint32(offset + 60, true),
    ctimeNsec: view.getUint32(offset + 64, true),
    btimeNsec: view.getUint32(offset + 68, true),
    mode: view.getUint32(offset + 72, true),
    nlink: view.getUint32(offset + 76, true),
    uid: view.getUint32(offset + 80, true),
    gid: view.getUint32(offset + 84, true),
    rdevMajor: view.getUint32(offset + 88, true),
    rdevMinor: view.getUint32(offset + 92, true),
    blksize: view.getUint32(offset + 96, true),
  };
}

/** Writes the record at `offset`; ATTR_BYTES must be there. */
export function encodeAttr(view: DataView, offset: number, attr: Attr): void {
  view.setUint32(offset, attr.inoLow, true);
  view.setUint32(offset + 4, attr.inoHigh, true);
  setI64(view, offset + 8, attr.sizeBytes);
  setI64(view, offset + 16, attr.blocks);
  setI64(view, offset + 24, attr.atimeSec);
  setI64(view, offset + 32, attr.mtimeSec);
  setI64(view, offset + 40, attr.ctimeSec);
  setI64(view, offset + 48, attr.btimeSec);
  view.setUint32(offset + 56, attr.atimeNsec, true);
  view.setUint32(offset + 60, attr.mtimeNsec, true);
  view.setUint32(offset + 64, attr.ctimeNsec, true);
  view.setUint32(offset + 68, attr.btimeNsec, true);
  view.setUint32(offset + 72, attr.mode, true);
  view.setUint32(offset + 76, attr.nlink, true);
  view.setUint32(offset + 80, attr.uid, true);
  view.setUint32(offset + 84, attr.gid, true);
  view.setUint32(offset + 88, attr.rdevMajor, true);
  view.setUint32(offset + 92, attr.rdevMinor, true);
  view.setUint32(offset + 96, attr.blksize, true);
  view.setUint32(offset + 100, 0, true);
}
