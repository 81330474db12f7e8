/**
 * Handlers of requests about names in directories.
 */
import { FsError } from "../base/errors.ts";
import { type Entry, type NewNode, type Opened, OpenFlag, type OpenFlags } from "../vfs/file-system.ts";
import { ENTRY_OUT_BYTES, OPEN_KILL_SUIDGID, OPEN_OUT_BYTES } from "./abi.ts";
import { putOpen } from "./encode.ts";
import { FileHandle } from "./file-handle.ts";
import { decodeOpenFlags } from "./open-flags.ts";
import { PageState } from "./page-state.ts";
import type { KernelRequest } from "./request.ts";
import { openReply, releaseFile } from "./serve-files.ts";
import type { Handler, Session } from "./session.ts";

const MODE_BITS = 0o7777;

export const lookup: Handler = async (session, request) => {
  const name = session.name(request, request.body);
  const { negativeValid } = session;
  if (negativeValid === undefined) {
    session.sendEntry(request, await session.fileSystem.lookup(request, request.node.id, name));
    return;
  }
  try {
    session.sendEntry(request, await session.fileSystem.lookup(request, request.node.id, name));
  } catch (thrown) {
    if (!(thrown instanceof FsError) || thrown.errno !== "ENOENT") throw thrown;
    // Node 0 says "not there, and you may believe it for so long".
    const { view, scratch, device } = session;
    device.pool.fill(0, scratch, scratch + ENTRY_OUT_BYTES);
    view.setUint32(scratch + 16, negativeValid.sec, true);
    view.setUint32(scratch + 32, negativeValid.nsec, true);
    session.send(request, ENTRY_OUT_BYTES);
  }
};

/** The request has changed names in its directory. */
function namesChanged(session: Session, request: KernelRequest): void {
  const untilMs = session.clock.monotonicMs() + session.attrTimeoutMs;
  session.nodes.namesChanged(request.node, request.startedAt, request.directoryAttr, untilMs);
}

export const readlink: Handler = async (session, request) => {
  session.sendBuffer(request, await session.fileSystem.readlink(request, request.node.id));
};

export const symlink: Handler = async (session, request) => {
  const name = session.name(request, request.body);
  const target = session.name(request, request.body + name.length + 1);
  const { node } = request;
  const entry = await session.fileSystem.symlink(request, node.id, name, Buffer.from(target, "latin1"));
  namesChanged(session, request);
  session.sendEntry(request, entry);
};

export const mknod: Handler = async (session, request) => {
  const { body, node } = request;
  const device = session.u32(body + 4);
  const made = {
    mode: session.u32(body),
    umask: session.u32(body + 8),
    rdevMajor: (device >>> 8) & 0xfff,
    rdevMinor: (device & 0xff) | ((device >>> 12) & 0xfff00),
  };
  const name = session.name(request, body + 16);
  const entry = await session.fileSystem.mknod(request, node.id, name, made);
  namesChanged(session, request);
  session.sendEntry(request, entry);
};

export const mkdir: Handler = async (session, request) => {
  const { body, node } = request;
  const made: NewNode = { mode: session.u32(body) & MODE_BITS, umask: session.u32(body + 4) };
  const name = session.name(request, body + 8);
  const entry = await session.fileSystem.mkdir(request, node.id, name, made);
  namesChanged(session, request);
  session.sendEntry(request, entry);
};

export const unlink: Handler = async (session, request) => {
  const name = session.name(request, request.body);
  await session.fileSystem.unlink(request, request.node.id, name);
  namesChanged(session, request);
  session.linksChangedAt = session.nodes.now;
  session.send(request, 0);
};

export const rmdir: Handler = async (session, request) => {
  const name = session.name(request, request.body);
  await session.fileSystem.rmdir(request, request.node.id, name);
  namesChanged(session, request);
  session.linksChangedAt = session.nodes.now;
  session.send(request, 0);
};

async function renameAt(session: Session, request: KernelRequest, names: number, flags: number): Promise<void> {
  const { node } = request;
  const newParent = session.nodeOf(session.u53(request.body));
  const name = session.name(request, names);
  const newName = session.name(request, names + name.length + 1);
  await session.fileSystem.rename(request, node.id, name, newParent.id, newName, flags);
  session.namesChanged(node);
  session.namesChanged(newParent);
  session.send(request, 0);
}

export const rename: Handler = (session, request) => renameAt(session, request, request.body + 8, 0);
export const rename2: Handler = (session, request) =>
  renameAt(session, request, request.body + 16, session.u32(request.body + 8));

export const link: Handler = async (session, request) => {
  const { body, node } = request;
  const linked = session.nodeOf(session.u53(body));
  const name = session.name(request, body + 8);
  const entry = await session.fileSystem.link(request, linked.id, node.id, name);
  namesChanged(session, request);
  session.linksChangedAt = session.nodes.now;
  session.nodes.changed(linked);
  session.sendEntry(request, entry);
};

/** The body CREATE and TMPFILE share. */
function createBody(session: Session, request: KernelRequest): { flags: OpenFlags; made: NewNode } {
  const { body } = request;
  const kill = (session.u32(body + 12) & OPEN_KILL_SUIDGID) !== 0 ? OpenFlag.KILL_SUIDGID : 0;
  return {
    flags: decodeOpenFlags(session.u32(body)) | kill,
    made: { mode: session.u32(body + 4) & MODE_BITS, umask: session.u32(body + 8) },
  };
}

/** Sends entry and open in one reply. */
function sendCreated(
  session: Session,
  request: KernelRequest,
  made: { entry: Entry; opened: Opened },
  flags: OpenFlags,
): void {
  const { entry, opened } = made;
  // The row must live while the handle does: it has a reference of its own until the kernel has one.
  const row = session.nodes.enter(entry.id);
  if (row.lookups === 1) row.bareUntilMs = session.clock.monotonicMs() + session.attrTimeoutMs;
  session.nodes.changed(row);
  row.pages ??= new PageState();
  const keep = row.pages.opened(opened.attr);
  const file = new FileHandle(opened.handle, row, flags, request.caller);
  session.files.set(opened.handle, file);
  putOpen(session.view, session.scratch + ENTRY_OUT_BYTES, opened.handle, openReply(session, keep, flags));
  if (!session.sendEntry(request, entry, OPEN_OUT_BYTES)) {
    row.pages.lost();
    releaseFile(session, request, file);
  }
  session.forget(row.nodeid, 1);
}

export const create: Handler = async (session, request) => {
  const { flags, made } = createBody(session, request);
  const name = session.name(request, request.body + 16);
  const { node } = request;
  const result = await session.fileSystem.create(request, node.id, name, flags, made);
  namesChanged(session, request);
  sendCreated(session, request, result, flags);
};

export const tmpfile: Handler = async (session, request) => {
  const { flags, made } = createBody(session, request);
  sendCreated(session, request, await session.fileSystem.tmpfile(request, request.node.id, flags, made), flags);
};
