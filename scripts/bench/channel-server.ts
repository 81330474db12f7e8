/**
 * A server with a FileSystem that does nothing, in a process of its own: what is measured against it is the protocol.
 *
 * Says its port to its parent, and its CPU time whenever it is asked; ends with the parent.
 */
import { systemClock } from "../../src/base/clock.ts";
import { FsError } from "../../src/base/errors.ts";
import { createLog } from "../../src/base/log.ts";
import { startServer } from "../../src/server/server.ts";
import { type Attr, S_IFREG } from "../../src/vfs/attr.ts";
import type { FileSystem, HandleId, NodeId } from "../../src/vfs/file-system.ts";

const attr: Attr = {
  inoLow: 1,
  inoHigh: 0,
  sizeBytes: 2 ** 40,
  blocks: 8,
  atimeSec: 1,
  mtimeSec: 1,
  ctimeSec: 1,
  btimeSec: 1,
  atimeNsec: 0,
  mtimeNsec: 0,
  ctimeNsec: 0,
  btimeNsec: 0,
  mode: S_IFREG | 0o644,
  nlink: 1,
  uid: 0,
  gid: 0,
  rdevMajor: 0,
  rdevMinor: 0,
  blksize: 4096,
};

const answers: Partial<FileSystem> = {
  root: async () => ({ id: "root" as NodeId, attr }),
  getattr: async () => attr,
  lookup: async (_ctx, _parent, name) => {
    if (name.startsWith("missing")) throw new FsError("ENOENT", "lookup");
    return { id: "file" as NodeId, attr };
  },
  open: async () => ({ handle: 1 as HandleId, attr }),
  read: async (_ctx, _handle, _offset, target) => target.length,
  write: async (_ctx, _handle, _offset, data) => data.length,
  release: async () => {},
};

const server = await startServer({
  shares: new Map([["share", { fileSystem: answers as FileSystem, readOnly: false }]]),
  token: Buffer.from(process.argv[2] ?? ""),
  squash: "root",
  listen: { host: "127.0.0.1", port: 0 },
  log: createLog({ level: "warn", clock: systemClock }),
  clock: systemClock,
});
process.send?.(server.address.port);
process.on("message", () => process.send?.(process.cpuUsage()));
process.on("disconnect", () => process.exit());
