/**
 * Which handler serves which opcode. Opcodes without a handler are answered with ENOSYS, from which the kernel learns not to ask again.
 */
import { FsError } from "../base/errors.ts";
import { Opcode, type OpcodeName } from "./abi.ts";
import * as attrs from "./serve-attrs.ts";
import * as dirs from "./serve-dirs.ts";
import * as files from "./serve-files.ts";
import * as locks from "./serve-locks.ts";
import * as names from "./serve-names.ts";
import type { Handler } from "./session.ts";

const BY_NAME: Partial<Record<OpcodeName, Handler>> = {
  LOOKUP: names.lookup,
  READLINK: names.readlink,
  SYMLINK: names.symlink,
  MKNOD: names.mknod,
  MKDIR: names.mkdir,
  UNLINK: names.unlink,
  RMDIR: names.rmdir,
  RENAME: names.rename,
  RENAME2: names.rename2,
  LINK: names.link,
  CREATE: names.create,
  TMPFILE: names.tmpfile,
  OPEN: files.open,
  READ: files.read,
  WRITE: files.write,
  FLUSH: files.flush,
  FSYNC: files.fsync,
  RELEASE: files.release,
  FALLOCATE: files.fallocate,
  LSEEK: files.lseek,
  COPY_FILE_RANGE: files.copyFileRange,
  COPY_FILE_RANGE_64: files.copyFileRange64,
  GETLK: locks.getlk,
  SETLK: locks.setlk,
  SETLKW: locks.setlkw,
  OPENDIR: dirs.opendir,
  READDIR: dirs.readdir,
  READDIRPLUS: dirs.readdirplus,
  FSYNCDIR: dirs.fsyncdir,
  RELEASEDIR: dirs.releasedir,
  GETATTR: attrs.getattr,
  STATX: attrs.statx,
  SETATTR: attrs.setattr,
  ACCESS: attrs.access,
  GETXATTR: attrs.getxattr,
  LISTXATTR: attrs.listxattr,
  SETXATTR: attrs.setxattr,
  REMOVEXATTR: attrs.removexattr,
  STATFS: attrs.statfs,
  SYNCFS: attrs.syncfs,
  // There are none of ours; ENOSYS would be shown to the program as it is.
  IOCTL: () => {
    throw new FsError("ENOTTY", "ioctl");
  },
};

/** By opcode number. */
export const HANDLERS: readonly (Handler | undefined)[] = (() => {
  const table: (Handler | undefined)[] = [];
  for (const [name, handler] of Object.entries(BY_NAME)) table[Opcode[name as OpcodeName]] = handler;
  return table;
})();
