/**
 * Handlers of requests about attributes, extended attributes and the file system as a whole.
 */
import { FsError } from "../base/errors.ts";
import type { Attr, TimeSpec } from "../vfs/attr.ts";
import type { AttrChange, HandleId } from "../vfs/file-system.ts";
import { ATTR_OUT_BYTES, GETATTR_FH, SetattrValid, STATFS_OUT_BYTES, STATX_OUT_BYTES, XATTR_BYTES_MAX } from "./abi.ts";
import { putAttr, putStatfs, putStatx, validityOf } from "./encode.ts";
import { forgetAttrs } from "./notify.ts";
import type { KernelRequest } from "./request.ts";
import type { Handler, Session } from "./session.ts";

const ACCESS_ACL = "system.posix_acl_access";
const MODE_BITS = 0o7777;
const TWO_32 = 2 ** 32;

/** The handle GETATTR and STATX name, if they do. */
function handleIn(session: Session, request: KernelRequest): HandleId | undefined {
  const { body } = request;
  // A directory's handle is of no help.
  return (session.u32(body) & GETATTR_FH) !== 0 ? session.files.get(session.u53(body + 8))?.handle : undefined;
}

function sendAttr(session: Session, request: KernelRequest, attr: Attr): void {
  putAttr(session.view, session.scratch, attr, session.attrValid);
  session.send(request, ATTR_OUT_BYTES);
}

export const getattr: Handler = async (session, request) => {
  const { node } = request;
  if (node.attr !== undefined) {
    // The kernel drops what it knows of a directory with every change of its names, and asks before it walks through it again.
    const kept = session.nodes.takeAttr(node, session.clock.monotonicMs());
    if (kept !== undefined) {
      putAttr(session.view, session.scratch, kept.attr, validityOf(kept.validMs));
      session.send(request, ATTR_OUT_BYTES);
      return;
    }
  }
  const handle = handleIn(session, request);
  sendAttr(session, request, await session.fileSystem.getattr(request, request.node.id, handle));
};

export const statx: Handler = async (session, request) => {
  const handle = handleIn(session, request);
  const attr = await session.fileSystem.getattr(request, request.node.id, handle);
  putStatx(session.view, session.scratch, attr, session.attrValid);
  session.send(request, STATX_OUT_BYTES);
};

/** Seconds are signed; times before 1970 are. */
function time(session: Session, secondsAt: number, nsecAt: number): TimeSpec {
  const sec = session.view.getInt32(secondsAt + 4, true) * TWO_32 + session.u32(secondsAt);
  return { sec, nsec: session.u32(nsecAt) };
}

function changeOf(session: Session, body: number, valid: number): AttrChange {
  const change: AttrChange = {};
  if ((valid & SetattrValid.MODE) !== 0) change.mode = session.u32(body + 68) & MODE_BITS;
  if ((valid & SetattrValid.UID) !== 0) change.uid = session.u32(body + 76);
  if ((valid & SetattrValid.GID) !== 0) change.gid = session.u32(body + 80);
  if ((valid & SetattrValid.SIZE) !== 0) change.sizeBytes = session.size(body + 16, "EFBIG");
  if ((valid & SetattrValid.ATIME_NOW) !== 0) change.atime = "now";
  else if ((valid & SetattrValid.ATIME) !== 0) change.atime = time(session, body + 32, body + 56);
  if ((valid & SetattrValid.MTIME_NOW) !== 0) change.mtime = "now";
  else if ((valid & SetattrValid.MTIME) !== 0) change.mtime = time(session, body + 40, body + 60);
  if ((valid & SetattrValid.KILL_SUIDGID) !== 0) change.killSuidgid = true;
  return change;
}

/**
 * The kernel asks for no change when chown(2) names neither owner nor group, and before an fallocate(2) that has to clear set-id bits: it keeps the
 * bits to itself, because clearing them is the server's work. Who may not do it to the file changes nothing, and fallocate goes on.
 */
async function setNothing(session: Session, request: KernelRequest): Promise<void> {
  const { id } = request.node;
  session.nodes.changed(request.node);
  try {
    sendAttr(session, request, await session.fileSystem.setattr(request, id, { killSuidgid: true }));
  } catch (error) {
    if (!(error instanceof FsError && error.errno === "EPERM")) throw error;
    sendAttr(session, request, await session.fileSystem.getattr(request, id));
  }
  session.nodes.changed(request.node);
}

export const setattr: Handler = async (session, request) => {
  const { body, node } = request;
  const valid = session.u32(body);
  const change = changeOf(session, body, valid);
  const handle = (valid & SetattrValid.FH) !== 0 ? session.files.get(session.u53(body + 8))?.handle : undefined;
  if (valid === 0) return setNothing(session, request);
  const { sizeBytes } = change;
  if (sizeBytes !== undefined) node.pages?.truncated(sizeBytes);
  session.nodes.changed(node);
  const attr = await session.fileSystem.setattr(request, node.id, change, handle);
  if (sizeBytes !== undefined) node.pages?.truncated(sizeBytes);
  session.nodes.changed(node);
  sendAttr(session, request, attr);
};

export const access: Handler = async (session, request) => {
  await session.fileSystem.access(request, request.node.id, session.u32(request.body) & 7);
  session.send(request, 0);
};

/** Answers with a value, or with its size if the kernel gave no room. */
function sendValue(session: Session, request: KernelRequest, value: Buffer, room: number): void {
  if (room === 0) {
    session.view.setUint32(session.scratch, value.length, true);
    session.view.setUint32(session.scratch + 4, 0, true);
    session.send(request, 8);
  } else if (value.length > room) {
    throw new FsError("ERANGE", "extended attribute");
  } else {
    session.sendBuffer(request, value);
  }
}

/** What the kernel asks before the first write to a file, whether it has to be taken away. */
const CAPABILITIES = "security.capability";

export const getxattr: Handler = async (session, request) => {
  const room = session.u32(request.body);
  const name = session.name(request, request.body + 8);
  const { bareUntilMs } = request.node;
  if (bareUntilMs > 0 && name === CAPABILITIES && session.clock.monotonicMs() < bareUntilMs) {
    // A round trip less for every file made and written.
    session.sendErrno(request, "ENODATA");
    return;
  }
  const value = await session.fileSystem.getxattr(request, request.node.id, name);
  sendValue(session, request, value, room);
};

export const listxattr: Handler = async (session, request) => {
  const room = session.u32(request.body);
  sendValue(session, request, await session.fileSystem.listxattr(request, request.node.id), room);
};

export const setxattr: Handler = async (session, request) => {
  const { body, node } = request;
  const bytes = session.u32(body);
  const flags = session.u32(body + 4);
  // FUSE_SETXATTR_EXT adds 8 bytes. Its one flag, "clear set-group-id with this ACL", is what the server's own kernel does for the same caller.
  const nameAt = body + session.setxattrBytes;
  const name = session.name(request, nameAt);
  const valueAt = nameAt + name.length + 1;
  if (bytes > XATTR_BYTES_MAX || request.end - valueAt !== bytes) throw session.malformed(request);
  const value = Buffer.from(session.device.pool.subarray(valueAt, request.end));
  node.bareUntilMs = 0;
  await session.fileSystem.setxattr(request, node.id, name, value, flags);
  session.nodes.changed(node);
  // It changes the mode as well, which a kernel that does not check permissions itself does not think of.
  if (name === ACCESS_ACL) forgetAttrs(session, node);
  session.send(request, 0);
};

export const removexattr: Handler = async (session, request) => {
  const name = session.name(request, request.body);
  await session.fileSystem.removexattr(request, request.node.id, name);
  session.nodes.changed(request.node);
  session.send(request, 0);
};

export const statfs: Handler = async (session, request) => {
  putStatfs(session.view, session.scratch, await session.fileSystem.statfs(request, request.node.id));
  session.send(request, STATFS_OUT_BYTES);
};

export const syncfs: Handler = async (session, request) => {
  await session.fileSystem.syncfs(request, request.node.id);
  session.send(request, 0);
};
