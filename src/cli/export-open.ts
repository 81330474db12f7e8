/**
 * The drive's part of `netdrive handle export`: finds the open that a program holds on a file, or opens the file itself, and gives out its keys.
 *
 * An open of the drive's own is kept for KEEP_MS, in which whoever has the ticket must attach.
 */
import type { Clock } from "../base/clock.ts";
import { FsError } from "../base/errors.ts";
import { isEntryName } from "../base/name.ts";
import type { OpenTicket } from "../client/attach.ts";
import type { OpenFile, Remote } from "../client/remote.ts";
import { type Attr, S_IFMT, S_IFREG } from "../vfs/attr.ts";
import { type Entry, type FileSystem, type HandleId, OpenFlag, type RequestContext } from "../vfs/file-system.ts";
import type { ExportRequest } from "./export-socket.ts";

const KEEP_MS = 600_000;
/** Files that are looked at to find one that has no name. */
const LOOKED_AT_MAX = 4096;
const ACCESS_FLAGS = OpenFlag.READ | OpenFlag.WRITE;

export interface ExportFrom {
  readonly remote: Remote;
  /** What the mount uses: it knows what is not on the server yet. */
  readonly drive: FileSystem;
  readonly clock: Clock;
}

/** @throws FsError ENOENT the file is not of this drive; EISDIR, EINVAL it is no file; what opening it says. */
export async function exportOpen(from: ExportFrom, request: ExportRequest): Promise<OpenTicket> {
  const { remote, drive } = from;
  const ctx = ownContext();
  const entry = await walk(remote, ctx, request);
  const held = entry === undefined ? await findByNumber(remote, ctx, request.ino) : strongest(remote, entry);
  if (held === undefined && entry === undefined) throw new FsError("ENOENT", "export");
  if (held !== undefined) {
    // What was written by it so far must be there for whoever attaches.
    await drive.getattr(ctx, held.node, held.handle);
    return remote.ticketFor(ctx, held.handle);
  }
  return remote.ticketFor(ctx, await openFor(from, ctx, entry as Entry));
}

function ownContext(): RequestContext {
  const { getuid, getgid, getgroups } = process;
  return { caller: { uid: getuid?.() ?? 0, gid: getgid?.() ?? 0, groups: getgroups?.() ?? [], pid: process.pid } };
}

function inoOf({ inoLow, inoHigh }: Attr): string {
  return String(BigInt(inoHigh) * 2n ** 32n + BigInt(inoLow));
}

/** The file at the path, if that is still the one that is meant. */
async function walk(remote: Remote, ctx: RequestContext, { ino, names }: ExportRequest): Promise<Entry | undefined> {
  if (names.length === 0) return undefined;
  let entry = await remote.fileSystem.root(ctx);
  for (const name of names) {
    if (!isEntryName(name)) return undefined;
    const found = await remote.fileSystem.lookup(ctx, entry.id, name).catch((error: unknown) => {
      if (error instanceof FsError && (error.errno === "ENOENT" || error.errno === "ENOTDIR")) return undefined;
      throw error;
    });
    if (found === undefined) return undefined;
    entry = found;
  }
  return inoOf(entry.attr) === ino ? entry : undefined;
}

/** Of the opens of a file, the one that may do most; of several the latest. */
function strongest(remote: Remote, { id }: Pick<Entry, "id">): OpenFile | undefined {
  const rights = ({ flags }: OpenFile) =>
    ((flags & OpenFlag.WRITE) !== 0 ? 2 : 0) + ((flags & OpenFlag.READ) !== 0 ? 1 : 0);
  let best: OpenFile | undefined;
  for (const open of remote.openFiles) {
    if (open.node === id && (best === undefined || rights(open) >= rights(best))) best = open;
  }
  return best;
}

/** The open of a file that has lost its name. */
async function findByNumber(remote: Remote, ctx: RequestContext, ino: string): Promise<OpenFile | undefined> {
  const seen = new Set<string>();
  for (const { node, handle } of [...remote.openFiles].slice(0, LOOKED_AT_MAX)) {
    if (seen.has(node)) continue;
    seen.add(node);
    const attr = await remote.fileSystem.getattr(ctx, node, handle).catch(() => undefined);
    if (attr !== undefined && inoOf(attr) === ino) return strongest(remote, { id: node });
  }
  return undefined;
}

async function openFor({ remote, clock }: ExportFrom, ctx: RequestContext, { id, attr }: Entry): Promise<HandleId> {
  if ((attr.mode & S_IFMT) !== S_IFREG) throw new FsError("EINVAL", "export");
  const { fileSystem } = remote;
  const { handle } = await fileSystem.open(ctx, id, ACCESS_FLAGS).catch((error: unknown) => {
    const isForReading = error instanceof FsError && ["EACCES", "EPERM", "EROFS", "ETXTBSY"].includes(error.errno);
    if (isForReading) return fileSystem.open(ctx, id, OpenFlag.READ);
    throw error;
  });
  clock.after(KEEP_MS, () => {
    // A drive that is over meanwhile has closed it.
    fileSystem.release(ctx, handle).catch(() => {});
  });
  return handle;
}
