/**
 * Handlers of requests about open directories.
 */
import { FSYNC_DATA_ONLY, OPEN_OUT_BYTES } from "./abi.ts";
import { DirHandle } from "./dir-handle.ts";
import { putOpen } from "./encode.ts";
import type { KernelRequest } from "./request.ts";
import type { Handler, Session } from "./session.ts";

export const opendir: Handler = async (session, request) => {
  const { node } = request;
  const dir = new DirHandle(await session.fileSystem.opendir(request, node.id), node);
  session.dirs.set(dir.handle, dir);
  putOpen(session.view, session.scratch, dir.handle, 0);
  if (!session.send(request, OPEN_OUT_BYTES)) releaseDir(session, request, dir);
};

function readDir(session: Session, request: KernelRequest, plus: boolean): Promise<void> {
  const { body } = request;
  const dir = session.dirOf(body);
  const cookie = session.view.getBigUint64(body + 8, true);
  return dir.read(session, request, cookie, session.u32(body + 16), plus);
}

export const readdir: Handler = (session, request) => readDir(session, request, false);
export const readdirplus: Handler = (session, request) => readDir(session, request, true);

export const fsyncdir: Handler = async (session, request) => {
  const { body } = request;
  const { handle } = session.dirOf(body);
  await session.fileSystem.fsyncdir(request, handle, (session.u32(body + 8) & FSYNC_DATA_ONLY) !== 0);
  session.send(request, 0);
};

export const releasedir: Handler = (session, request) => {
  const dir = session.dirOf(request.body);
  session.send(request, 0);
  releaseDir(session, request, dir);
};

function releaseDir(session: Session, request: KernelRequest, dir: DirHandle): void {
  session.dirs.delete(dir.handle);
  dir.release(session);
  session.fileSystem
    .releasedir(request, dir.handle)
    .catch((cause: unknown) => session.log.warn(`release of a directory failed: ${String(cause)}`));
}
