/**
 * Arguments that cannot be put on the wire, refused before they are; everything else is the server's to judge.
 */
import { FsError } from "../base/errors.ts";
import { isEntryName, NAME_BYTES_MAX, type Name } from "../base/name.ts";
import { NODE_ID_BYTES_MAX, type NodeId } from "../vfs/file-system.ts";

/** @throws FsError ENAMETOOLONG, EINVAL */
export function checkName(op: string, name: string): void {
  if (isEntryName(name)) return;
  throw new FsError(name.length > NAME_BYTES_MAX ? "ENAMETOOLONG" : "EINVAL", op);
}

/** @throws FsError ERANGE, EINVAL */
export function checkXattrName(op: string, name: Name): void {
  if (name.length === 0 || name.length > NAME_BYTES_MAX) throw new FsError("ERANGE", op);
  if (/[\0]|[^\0-\xff]/.test(name)) throw new FsError("EINVAL", op);
}

/** @throws FsError ESTALE: no such node can be. */
export function checkId(op: string, id: NodeId): void {
  if (id.length === 0 || id.length > NODE_ID_BYTES_MAX) throw new FsError("ESTALE", op);
}

/** EINVAL for a negative offset or length; one that no file can have, and the wire cannot say, is what the kernel calls it. */
export function checkOffset(op: string, ...offsets: number[]): void {
  if (!offsets.every((offset) => offset >= 0 && Number.isInteger(offset))) throw new FsError("EINVAL", op);
  if (offsets.every((offset) => offset <= Number.MAX_SAFE_INTEGER)) return;
  throw new FsError(op === "lseek" ? "ENXIO" : "EFBIG", op);
}
