/**
 * Handlers of requests about open files.
 */

import { FsError } from "../base/errors.ts";
import { type HandleId, type Opened, OpenFlag, type OpenFlags } from "../vfs/file-system.ts";
import type { LockOwner } from "../vfs/lock.ts";
import {
  FLUSH_OWNER,
  FSYNC_DATA_ONLY,
  OPEN_KILL_SUIDGID,
  OPEN_OUT_BYTES,
  OpenReply,
  SEEK_DATA,
  SEEK_HOLE,
  WRITE_CACHE,
  WRITE_KILL_SUIDGID,
} from "./abi.ts";
import { putOpen, putU53 } from "./encode.ts";
import { FileHandle } from "./file-handle.ts";
import type { NodeRow } from "./node-table.ts";
import { storeContent } from "./notify.ts";
import { decodeOpenFlags } from "./open-flags.ts";
import { PageState } from "./page-state.ts";
import type { KernelRequest } from "./request.ts";
import type { Handler, Session } from "./session.ts";

const KILL = { killSuidgid: true } as const;
/** Less is copied: that costs less than a slot. */
const LENT_BYTES_MIN = 128 * 1024;

export const open: Handler = async (session, request) => {
  const { body, node } = request;
  const kill = (session.u32(body + 4) & OPEN_KILL_SUIDGID) !== 0 ? OpenFlag.KILL_SUIDGID : 0;
  const flags = decodeOpenFlags(session.u32(body)) | kill;
  const opened = await session.fileSystem.open(request, node.id, flags);
  if ((flags & OpenFlag.TRUNC) !== 0) session.nodes.changed(node);
  const keep = pagesMayStay(session, node, opened);
  const file = new FileHandle(opened.handle, node, flags, request.caller);
  session.files.set(opened.handle, file);
  putOpen(session.view, session.scratch, opened.handle, openReply(session, keep, flags));
  if (!session.send(request, OPEN_OUT_BYTES)) {
    node.pages?.lost();
    releaseFile(session, request, file);
  }
};

/** A file was opened: whether the pages the kernel has of it are right. It is given those of a small file that it has none of. */
function pagesMayStay(session: Session, node: NodeRow, { attr, content }: Opened): boolean {
  const isFirst = node.pages === undefined;
  node.pages ??= new PageState();
  const mayStay = node.pages.opened(attr);
  if (!isFirst || content === undefined || !node.pages.areOf(attr)) return mayStay;
  if (!storeContent(session, node, content)) return false;
  session.bytesRead += content.length;
  return true;
}

/** Flags of the reply to an open. Without locks of ours, the close of a file nobody writes to is of no interest. */
export function openReply(session: Session, keep: boolean, flags: OpenFlags): number {
  const isUnheard = (flags & OpenFlag.WRITE) === 0 && !session.hasLocks;
  return (keep ? OpenReply.KEEP_CACHE : 0) | (isUnheard ? OpenReply.NOFLUSH : 0);
}

export const read: Handler = async (session, request) => {
  const { body } = request;
  const file = session.fileOf(body);
  const offset = session.u53(body + 8);
  const bytes = session.u32(body + 16);
  if (bytes > session.device.dataBytesMax) throw session.malformed(request);
  if (offset > Number.MAX_SAFE_INTEGER - bytes) {
    // Beyond every file: the end.
    session.send(request, 0);
    return;
  }
  if (session.room.claim(request, bytes)) {
    const start = session.device.dataOffset(request.slot);
    const target = session.device.pool.subarray(start, start + bytes);
    const got = await session.fileSystem.read(request, file.handle, offset, target);
    session.bytesRead += got;
    session.sendSlot(request, got);
    return;
  }
  const target = session.room.take(bytes);
  try {
    const got = await session.fileSystem.read(request, file.handle, offset, target);
    session.bytesRead += got;
    session.sendBuffer(request, target.subarray(0, got));
  } finally {
    session.room.free(bytes);
  }
};

export const write: Handler = async (session, request) => {
  const { body } = request;
  const file = session.fileOf(body);
  const offset = session.size(body + 8, "EFBIG");
  const bytes = session.u32(body + 16);
  const flags = session.u32(body + 20);
  const start = body + 40;
  if (request.end - start !== bytes) throw session.malformed(request);
  if (offset + bytes > Number.MAX_SAFE_INTEGER) throw new FsError("EFBIG", "write beyond 2^53");
  let data = session.device.pool.subarray(start, request.end);
  const inSlot = session.room.claim(request, bytes);
  if (!inSlot) {
    const copy = session.room.take(bytes);
    data.copy(copy);
    data = copy;
  }
  const isPage = (flags & WRITE_CACHE) !== 0;
  // The kernel makes EIO of a short direct write, and does not see that a part of its pages was not written.
  const isWhole = isPage || (decodeOpenFlags(session.u32(body + 32)) & OpenFlag.DIRECT) !== 0;
  const killSuidgid = (flags & WRITE_KILL_SUIDGID) !== 0;
  const options =
    inSlot && bytes >= LENT_BYTES_MIN
      ? { killSuidgid, lend: () => session.room.lend(request) }
      : killSuidgid
        ? KILL
        : undefined;
  session.writeStarts(file.node);
  let written = -1;
  try {
    const handle = isPage && file.isAppending ? await file.forPages(session.fileSystem) : file.handle;
    const put = (from: number) =>
      session.fileSystem.write(request, handle, offset + from, data.subarray(from), options);
    written = isWhole ? await putWhole(bytes, put) : await put(0);
  } finally {
    session.writeEnds(file.node, offset, written, file.isAppending && !isPage);
    if (!inSlot) session.room.free(bytes);
  }
  session.bytesWritten += written;
  sendCount(session, request, written);
};

/** Goes on after a short write, so that what is left meets its own error. */
async function putWhole(bytes: number, put: (from: number) => Promise<number>): Promise<number> {
  let written = await put(0);
  while (written > 0 && written < bytes) {
    const more = await put(written);
    if (more === 0) throw new FsError("EIO", "write");
    written += more;
  }
  return written;
}

/** `struct fuse_write_out`. */
function sendCount(session: Session, request: KernelRequest, count: number): void {
  session.view.setUint32(session.scratch, count, true);
  session.view.setUint32(session.scratch + 4, 0, true);
  session.send(request, 8);
}

/** Does what ends when the writes of a file have; after larger ones its attributes are asked for at the same time, so that its pages may stay. */
async function settleFile(
  session: Session,
  request: KernelRequest,
  file: FileHandle,
  act: () => Promise<void>,
): Promise<void> {
  const { node, handle } = file;
  const token = node.pages?.adoptable();
  if (token === undefined) return act();
  const [, attr] = await Promise.all([
    act(),
    // Without an answer the pages are just not kept.
    session.fileSystem.getattr(request, node.id, handle).catch(() => undefined),
  ]);
  if (attr !== undefined) node.pages?.adopt(token, attr);
}

export const flush: Handler = async (session, request) => {
  const file = session.fileOf(request.body);
  const { hasLocked } = file.node;
  if (hasLocked || (file.flags & OpenFlag.WRITE) !== 0) {
    const owner = session.view.getBigUint64(request.body + FLUSH_OWNER, true) as LockOwner;
    const closer = hasLocked ? owner : undefined;
    await settleFile(session, request, file, () => session.fileSystem.flush(request, file.handle, closer));
  }
  session.send(request, 0);
};

export const fsync: Handler = async (session, request) => {
  const { body } = request;
  const file = session.fileOf(body);
  const dataOnly = (session.u32(body + 8) & FSYNC_DATA_ONLY) !== 0;
  try {
    await settleFile(session, request, file, () => session.fileSystem.fsync(request, file.handle, dataOnly));
  } catch (error) {
    // The kernel's pages may have what was written and is nowhere else.
    file.node.pages?.lost();
    throw error;
  }
  session.send(request, 0);
};

/** Nobody waits for a release: it is answered before it is done. */
export const release: Handler = (session, request) => {
  const file = session.fileOf(request.body);
  session.send(request, 0);
  releaseFile(session, request, file);
};

export function releaseFile(session: Session, request: KernelRequest, file: FileHandle): void {
  session.files.delete(file.handle);
  const released = file
    .handles()
    .map((handle) =>
      session.fileSystem
        .release(request, handle)
        .catch((cause: unknown) => session.log.warn(`release of a file failed: ${String(cause)}`)),
    );
  if (!file.hasLocked) return;
  const { node } = file;
  const unlocking = Promise.all([node.unlocking, ...released]).then(() => {
    if (node.unlocking === unlocking) node.unlocking = undefined;
  });
  node.unlocking = unlocking;
}

export const fallocate: Handler = async (session, request) => {
  const { body } = request;
  const file = session.fileOf(body);
  const offset = session.size(body + 8, "EFBIG");
  const length = session.size(body + 16, "EFBIG");
  const mode = session.u32(body + 24);
  session.writeStarts(file.node);
  try {
    await session.fileSystem.fallocate(request, file.handle, mode, offset, length);
  } finally {
    session.writeEnds(file.node, offset, -1, false);
  }
  session.send(request, 0);
};

export const lseek: Handler = async (session, request) => {
  const { body } = request;
  const file = session.fileOf(body);
  // A negative offset, or one no file can have, is beyond the end.
  const offset = session.size(body + 8, "ENXIO");
  const whence = session.u32(body + 16);
  if (whence !== SEEK_DATA && whence !== SEEK_HOLE) throw new FsError("EINVAL", "lseek");
  const what = whence === SEEK_DATA ? "data" : "hole";
  putU53(session.view, session.scratch, await session.fileSystem.lseek(request, file.handle, offset, what));
  session.send(request, 8);
};

async function copy(session: Session, request: KernelRequest, lengthMax: number): Promise<number> {
  const { body } = request;
  const from = session.fileOf(body);
  const to = session.fileOf(body + 24);
  const source: { handle: HandleId; offsetBytes: number } = {
    handle: from.handle,
    offsetBytes: session.size(body + 8, "EOVERFLOW"),
  };
  const target = { handle: to.handle, offsetBytes: session.size(body + 32, "EFBIG") };
  const length = Math.min(session.u53(body + 40), lengthMax);
  session.writeStarts(to.node);
  let copied = -1;
  try {
    copied = await session.fileSystem.copyFileRange(request, source, target, length);
  } finally {
    session.writeEnds(to.node, target.offsetBytes, copied, false);
  }
  return copied;
}

/** The reply has 32 bits for the count. */
const COPY_BYTES_MAX = 0x7ffff000;

export const copyFileRange: Handler = async (session, request) => {
  sendCount(session, request, await copy(session, request, COPY_BYTES_MAX));
};

export const copyFileRange64: Handler = async (session, request) => {
  const copied = await copy(session, request, Number.MAX_SAFE_INTEGER);
  putU53(session.view, session.scratch, copied);
  session.send(request, 8);
};
