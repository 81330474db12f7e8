/** Attributes for tests: zeros but for what is given. */
import type { Attr } from "../../src/vfs/attr.ts";

export function attrOf(given: Partial<Attr>): Attr {
  return {
    inoLow: 1,
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
    nlink: 1,
    uid: 0,
    gid: 0,
    rdevMajor: 0,
    rdevMinor: 0,
    blksize: 4096,
    ...given,
  };
}
