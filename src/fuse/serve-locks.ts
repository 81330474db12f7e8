/**
 * Handlers of requests about locks, which come only if the FileSystem has locks (INIT).
 *
 * A lock is a point where this mount must see what others have written: the kernel asks for the attributes anew, and drops its pages unless the file is
 * as they are. With locks of ours the kernel itself gives up nothing when a descriptor is closed: FLUSH and RELEASE do (serve-files.ts).
 */
import { FsError } from "../base/errors.ts";
import { raceSignal } from "../base/signals.ts";
import type { Attr } from "../vfs/attr.ts";
import type { Lock, LockOwner } from "../vfs/lock.ts";
import { LK_FLOCK, LK_IN, LK_OUT_BYTES, LK_TYPES } from "./abi.ts";
import type { NodeRow } from "./node-table.ts";
import { dropPages, forgetAttrs } from "./notify.ts";
import type { KernelRequest } from "./request.ts";
import type { Handler, Session } from "./session.ts";

function lockOf(session: Session, { body }: KernelRequest): Lock {
  const { view } = session;
  const type = LK_TYPES[session.u32(body + LK_IN.TYPE)];
  if (type === undefined) throw new FsError("EINVAL", "lock");
  return {
    kind: (session.u32(body + LK_IN.FLAGS) & LK_FLOCK) === 0 ? "posix" : "flock",
    type,
    owner: view.getBigUint64(body + LK_IN.OWNER, true) as LockOwner,
    startBytes: view.getBigUint64(body + LK_IN.START, true),
    endBytes: view.getBigUint64(body + LK_IN.END, true),
    pid: session.u32(body + LK_IN.PID),
  };
}

export const getlk: Handler = async (session, request) => {
  const { fileSystem, view, scratch } = session;
  const file = session.fileOf(request.body + LK_IN.FH);
  const found = await fileSystem.getlk?.(request, file.handle, lockOf(session, request));
  view.setBigUint64(scratch, found?.startBytes ?? 0n, true);
  view.setBigUint64(scratch + 8, found?.endBytes ?? 0n, true);
  view.setUint32(scratch + 16, LK_TYPES.indexOf(found?.type ?? "unlock"), true);
  view.setUint32(scratch + 20, found?.pid ?? 0, true);
  session.send(request, LK_OUT_BYTES);
};

export const setlk: Handler = (session, request) => lock(session, request, false);
export const setlkw: Handler = (session, request) => lock(session, request, true);

async function lock(session: Session, request: KernelRequest, wait: boolean): Promise<void> {
  const { fileSystem } = session;
  const file = session.fileOf(request.body + LK_IN.FH);
  const wish = lockOf(session, request);
  if (fileSystem.setlk === undefined) throw new FsError("ENOSYS", "setlk");
  const { node, handle } = file;
  file.hasLocked = true;
  node.hasLocked = true;
  // What a file has that was closed a moment ago is given up when its release has ended, which nobody waits for.
  if (node.unlocking !== undefined && wish.type !== "unlock") await raceSignal(node.unlocking, request.signal);
  const attr = await fileSystem.setlk(request, handle, wish, wait);
  if (wish.type !== "unlock") await refresh(session, node, attr);
  session.send(request, 0);
}

/** The kernel believes nothing about the node that is older than `attr`. */
async function refresh(session: Session, node: NodeRow, attr: Attr): Promise<void> {
  const { pages } = node;
  if (pages === undefined || pages.areOf(attr)) {
    forgetAttrs(session, node);
    return;
  }
  const token = pages.dropped();
  if (await dropPages(session, node)) pages.refilled(token, attr);
}
