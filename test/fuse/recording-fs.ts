/**
 * A FileSystem that notes what it is asked and answers the same to everybody: for tests of decoding and encoding.
 */
import type { Attr } from "../../src/vfs/attr.ts";
import { encodeDirent } from "../../src/vfs/dirent-page.ts";
import type { FileSystem, HandleId, NodeId } from "../../src/vfs/file-system.ts";
import { LOCK_END, type Lock } from "../../src/vfs/lock.ts";

/** Every field has a value of its own, so that two that change places are noticed. */
export const SAMPLE_ATTR: Attr = {
  inoLow: 0x11121314,
  inoHigh: 0x21222324,
  sizeBytes: 0x1_0000_0005,
  blocks: 0x31,
  atimeSec: -2,
  mtimeSec: 0x41424344,
  ctimeSec: 0x51525354,
  btimeSec: 0x61626364,
  atimeNsec: 0x0a,
  mtimeNsec: 0x0b,
  ctimeNsec: 0x0c,
  btimeNsec: 0x0d,
  mode: 0o100644,
  nlink: 0x71,
  uid: 0x81,
  gid: 0x91,
  rdevMajor: 0xa1,
  rdevMinor: 0xb1b2,
  blksize: 0x1000,
};

const ID = "node-x" as NodeId;
const HANDLE = 0x33 as HandleId;
const entry = () => ({ id: ID, attr: { ...SAMPLE_ATTR } });
const opened = () => ({ handle: HANDLE, attr: { ...SAMPLE_ATTR } });

function page(): Buffer {
  const bytes = Buffer.alloc(4096);
  const dirent = { name: "ab" as never, type: 8, cookie: 0x0102030405060708n, inoLow: 0x14, inoHigh: 0x15 };
  return bytes.subarray(0, encodeDirent(bytes, 0, { ...dirent, entry: entry() }));
}

const ANSWERS: Record<string, (...args: unknown[]) => unknown> = {
  root: () => ({ id: "root" as NodeId, attr: { ...SAMPLE_ATTR, mode: 0o40755 } }),
  lookup: entry,
  getattr: () => ({ ...SAMPLE_ATTR }),
  setattr: () => ({ ...SAMPLE_ATTR }),
  readlink: () => Buffer.from("../target"),
  symlink: entry,
  mknod: entry,
  mkdir: entry,
  link: entry,
  open: opened,
  create: () => ({ entry: entry(), opened: opened() }),
  tmpfile: () => ({ entry: entry(), opened: opened() }),
  read: (_ctx, _handle, _offset, target) => (target as Buffer).write("data!"),
  write: (_ctx, _handle, _offset, data) => (data as Buffer).length,
  lseek: () => 0x1_0000_0007,
  copyFileRange: () => 0x64,
  getlk: (_ctx, _handle, lock) => ({ ...(lock as Lock), type: "write", startBytes: 5n, endBytes: LOCK_END, pid: 0x63 }),
  setlk: () => ({ ...SAMPLE_ATTR }),
  opendir: () => HANDLE,
  readdir: page,
  getxattr: () => Buffer.from("value"),
  listxattr: () => Buffer.from("user.a\0user.b\0"),
  statfs: () => ({
    blockBytes: 0x1000,
    fragmentBytes: 0x200,
    blocks: 0x11,
    blocksFree: 0x12,
    blocksAvailable: 0x13,
    files: 0x14,
    filesFree: 0x15,
    nameBytesMax: 0xff,
  }),
};

/** What one call was: the method and its arguments, without the context; buffers as text. */
export type Call = readonly [string, ...unknown[]];

export function recordingFs(): { fileSystem: FileSystem; calls: Call[]; callers: unknown[] } {
  const calls: Call[] = [];
  const callers: unknown[] = [];
  const plain = (value: unknown) =>
    Buffer.isBuffer(value) ? (value.length > 64 ? `<${value.length} bytes>` : value.toString("latin1")) : value;
  const fileSystem = new Proxy({} as FileSystem, {
    get(_target, method) {
      if (method === "then") return undefined;
      return (...args: unknown[]) => {
        if (method === "forget") {
          calls.push(["forget", args[0]]);
          return undefined;
        }
        callers.push((args[0] as { caller: unknown }).caller);
        calls.push([String(method), ...args.slice(1).map(plain)]);
        return Promise.resolve(ANSWERS[String(method)]?.(...args));
      };
    },
  });
  return { fileSystem, calls, callers };
}
