/**
 * The calls of the protocol as calls of the share's file system: one handler a message, exhaustive by type.
 *
 * What a client may not do whatever the file system says (write to a read-only share, use a handle it does not have) is refused here.
 */
import { CloseCode, FsError, ProtocolError } from "../base/errors.ts";
import type { Name } from "../base/name.ts";
import { type Attr, NO_ATTR } from "../vfs/attr.ts";
import { type HandleId, type NodeId, OpenFlag, type OpenFlags } from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";
import {
  OPEN_CONTENT_BYTES_MAX,
  payloadBytesMax,
  SYMLINK_BYTES_MAX,
  XATTR_LIST_BYTES_MAX,
  XATTR_VALUE_BYTES_MAX,
} from "../wire/limits.ts";
import type { CallName, Handlers } from "../wire/messages.ts";
import { attachOpen } from "./attach.ts";
import { noteAttributes, noteData, noteWritten, notingName } from "./change-notes.ts";
import {
  appendUnlessLocked,
  createUnlessLocked,
  lockHandlers,
  resizeUnlessLocked,
  unlessLocked,
} from "./lock-requests.ts";
import { Open } from "./open.ts";
import { resumeOpens } from "./resume.ts";
import type { ServedRequest } from "./served-request.ts";
import { withoutModes } from "./share-modes.ts";
import { AppendedSearches } from "./state/appended.ts";
import type { Appended } from "./state/intents.ts";
import type { ServerState } from "./state.ts";
import { WriteJoiner } from "./write-joiner.ts";

const NOTHING = Buffer.alloc(0);
const KNOWN_OPEN_FLAGS = Object.values(OpenFlag).reduce((all, flag) => all | flag, 0);
/** Who may only read may not keep others from writing either. */
const CHANGING_OPEN_FLAGS =
  OpenFlag.WRITE | OpenFlag.APPEND | OpenFlag.TRUNC | OpenFlag.DENY_READ | OpenFlag.DENY_WRITE;
const ACCESS_BITS = 7;
const W_OK = 2;

type Context = ServedRequest;

/** Checks what the table of messages cannot say. @throws ProtocolError LIMIT, MALFORMED. */
export function checkCall(
  name: CallName,
  asked: Record<string, unknown>,
  payloadBytes: number,
  sectionBytes: number,
): void {
  if (name === "read") bound(name, "length", asked["lengthBytes"] as number, 0, sectionBytes);
  else if (name === "write") bound(name, "length", payloadBytes, 0, sectionBytes);
  else if (name === "open") {
    bound(name, "content", asked["contentBytesMax"] as number, 0, OPEN_CONTENT_BYTES_MAX);
  } else if (name === "readdir") {
    bound(name, "page", asked["bytesMax"] as number, 0, payloadBytesMax(sectionBytes));
  } else if (name === "symlink") bound(name, "target", payloadBytes, 1, SYMLINK_BYTES_MAX);
  else if (name === "setxattr") bound(name, "value", payloadBytes, 0, XATTR_VALUE_BYTES_MAX);
}

function bound(name: string, what: string, value: number, min: number, max: number): void {
  if (value < min || value > max) throw new ProtocolError(CloseCode.LIMIT, `${name}: ${what} of ${value} bytes`);
}

/** Refuses what changes a read-only share. @throws FsError EROFS. */
export function checkWritable(request: ServedRequest): void {
  if (!request.session.readOnly) return;
  const { name, row } = request.message;
  const { flags, mask } = request.asked as { flags?: number; mask?: number };
  const changes =
    row.changes === true ||
    (name === "open" && ((flags ?? 0) & CHANGING_OPEN_FLAGS) !== 0) ||
    (name === "access" && ((mask ?? 0) & W_OK) !== 0);
  if (changes) throw new FsError("EROFS", name);
}

function checkedFlags(flags: number): OpenFlags {
  if ((flags & ~KNOWN_OPEN_FLAGS) !== 0) throw new FsError("EINVAL", "open");
  return flags;
}

/**
 * A payload the file system makes itself: counted against the session's memory, by a pooled buffer that is lent and not used, from before it is
 * made until it has left. It must be small enough, whatever the file system returned.
 */
async function counted(ctx: Context, bytesMax: number, make: () => Promise<Buffer>): Promise<Buffer> {
  const { buffers } = ctx.session;
  const claim = buffers.tryTake(bytesMax) ?? (await ctx.takeBuffer(bytesMax));
  ctx.releaseReply = () => buffers.give(claim);
  ctx.throwIfCanceled();
  const payload = await make();
  if (payload.length > bytesMax) throw new FsError("ERANGE", ctx.message.name);
  return payload;
}

/** Runs `make` with room for an open, and gives the open a handle. An open that comes too late for its session is closed again. */
async function makeOpen<T extends Attr | undefined>(
  state: ServerState,
  ctx: Context,
  { kind, flags, lease }: { kind: Open["kind"]; flags: OpenFlags; lease: Lease },
  make: () => Promise<{ inner: HandleId; node: NodeId; result: T }>,
): Promise<{ handle: number; open: Open; result: T }> {
  const { session } = ctx;
  session.reserveOpen();
  let made: { inner: HandleId; node: NodeId; result: T };
  try {
    made = await make();
  } catch (error) {
    session.openFailed();
    throw error;
  }
  const open = new Open({
    id: state.nextOpenId(),
    owner: session,
    kind,
    node: made.node,
    inner: made.inner,
    flags,
    openedAtMs: state.clock.realtimeMs(),
    pid: ctx.caller.pid,
  });
  session.share.leases.grant(open, lease, made.result);
  const handle = session.opened(open);
  try {
    if (kind === "file") session.share.modes.enter(open, session.label);
  } catch (error) {
    await session.releaseHandle(ctx, handle);
    throw error;
  }
  if (session.isEnded) {
    await session.releaseHandle(ctx, handle);
    throw new FsError("EINTR", ctx.message.name);
  }
  return { handle, open, result: made.result };
}

/** Before a file is opened, or changed without being open: those who have it open must let this happen. @throws FsError EBUSY. */
function admit(ctx: Context, node: NodeId, flags: OpenFlags): void {
  const { share, label } = ctx.session;
  share.modes.admit(node, flags, label);
}

/** The same where the file is not known yet, or not there. */
async function admitNamed(ctx: Context, parent: NodeId, name: Name, flags: OpenFlags): Promise<void> {
  const named = await ctx.fs.lookup(ctx, parent, name).catch(() => undefined);
  if (named !== undefined) admit(ctx, named.id, flags);
}

/** All bytes of a file just opened, if they are few and can be had without waiting for memory; else none. */
async function contentOf(ctx: Context, open: Open, sizeBytes: number, bytesMax: number): Promise<Buffer> {
  if (sizeBytes === 0 || sizeBytes > bytesMax || (open.flags & OpenFlag.READ) === 0) return NOTHING;
  const { buffers } = ctx.session;
  const buffer = buffers.tryTake(sizeBytes);
  if (buffer === undefined) return NOTHING;
  ctx.releaseReply = () => buffers.give(buffer);
  try {
    const content = buffer.subarray(0, sizeBytes);
    const read = () => ctx.fs.read(ctx, open.inner, 0, content);
    return (await unlessLocked(ctx, open, "read", 0, sizeBytes, read)) === sizeBytes ? content : NOTHING;
  } catch {
    // The read that the client will make meets the error itself.
    return NOTHING;
  }
}

/** The reply to a request that has changed names in `directory`: with its attributes, so that the client need not ask for them next. Never throws. */
async function withDirectory<T extends object>(
  ctx: Context,
  directory: NodeId,
  reply: T,
): Promise<T & { directory: Attr }> {
  return { ...reply, directory: ctx.changedAttrOf(directory) ?? (await attrOf(ctx, directory)) };
}

async function attrOf(ctx: Context, node: NodeId): Promise<Attr> {
  return ctx.fs.getattr(ctx, node).catch(() => NO_ATTR);
}

/** All handlers of a server. */
export function createHandlers(state: ServerState): Handlers<Context> {
  return {
    ...nodeHandlers(),
    ...nameHandlers(),
    ...openHandlers(state),
    ...dataHandlers(state),
    ...directoryHandlers(state),
    ...lockHandlers(state.keeper),
  };
}

function nodeHandlers() {
  return {
    root: (ctx) => ctx.fs.root(ctx),
    lookup: (ctx, { parent, name }) => ctx.fs.lookup(ctx, parent, name),
    async getattr(ctx, { id }) {
      const attr = await ctx.fs.getattr(ctx, id, ctx.open?.inner);
      ctx.session.share.leases.toldAttr(ctx.session, id, attr);
      return { attr };
    },
    async setattr(ctx, { id, change }) {
      if (change.sizeBytes !== undefined && ctx.open === undefined) admit(ctx, id, OpenFlag.WRITE);
      const setattr = () => ctx.fs.setattr(ctx, id, change, ctx.open?.inner);
      const attr = await resizeUnlessLocked(ctx, id, change.sizeBytes, setattr);
      const { absentOpens, leases } = ctx.session.share;
      if (change.sizeBytes === undefined) absentOpens.noteAttributes(id, attr);
      else if (ctx.open === undefined) noteData(ctx, id, change.sizeBytes);
      else noteWritten(ctx, ctx.open, change.sizeBytes);
      leases.toldAttr(ctx.session, id, attr);
      return { attr };
    },
    async access(ctx, { id, mask }) {
      if ((mask & ~ACCESS_BITS) !== 0) throw new FsError("EINVAL", "access");
      await ctx.fs.access(ctx, id, mask);
      return {};
    },
    readlink: async (ctx, { id }) => ({
      payload: await counted(ctx, SYMLINK_BYTES_MAX, () => ctx.fs.readlink(ctx, id)),
    }),
    getxattr: async (ctx, { id, name }) => ({
      payload: await counted(ctx, XATTR_VALUE_BYTES_MAX, () => ctx.fs.getxattr(ctx, id, name)),
    }),
    listxattr: async (ctx, { id }) => ({
      payload: await counted(ctx, XATTR_LIST_BYTES_MAX, () => ctx.fs.listxattr(ctx, id)),
    }),
    async setxattr(ctx, { id, name, flags, payload }) {
      await ctx.fs.setxattr(ctx, id, name, payload, flags);
      await noteAttributes(ctx, id);
      return {};
    },
    async removexattr(ctx, { id, name }) {
      await ctx.fs.removexattr(ctx, id, name);
      await noteAttributes(ctx, id);
      return {};
    },
    statfs: (ctx, { id }) => ctx.fs.statfs(ctx, id),
    async syncfs(ctx, { id }) {
      await ctx.fs.syncfs(ctx, id);
      return {};
    },
  } satisfies Partial<Handlers<Context>>;
}

function nameHandlers() {
  return {
    async symlink(ctx, { parent, name, payload }) {
      if (payload.includes(0)) throw new FsError("EINVAL", "symlink");
      return withDirectory(ctx, parent, await ctx.fs.symlink(ctx, parent, name, payload));
    },
    async mknod(ctx, { parent, name, mode, umask, rdevMajor, rdevMinor }) {
      const node = { mode, umask, rdevMajor, rdevMinor };
      return withDirectory(ctx, parent, await ctx.fs.mknod(ctx, parent, name, node));
    },
    mkdir: async (ctx, { parent, name, mode, umask }) =>
      withDirectory(ctx, parent, await ctx.fs.mkdir(ctx, parent, name, { mode, umask })),
    async unlink(ctx, { parent, name }) {
      await notingName(ctx, parent, name, () => ctx.fs.unlink(ctx, parent, name));
      return withDirectory(ctx, parent, {});
    },
    async rmdir(ctx, { parent, name }) {
      await ctx.fs.rmdir(ctx, parent, name);
      return withDirectory(ctx, parent, {});
    },
    async link(ctx, { id, parent, name }) {
      const entry = await ctx.fs.link(ctx, id, parent, name);
      const { absentOpens, leases } = ctx.session.share;
      absentOpens.noteAttributes(id, entry.attr);
      leases.changed(ctx.session, id);
      return withDirectory(ctx, parent, entry);
    },
    async rename(ctx, { parent, name, newParent, newName, flags }) {
      const rename = () => ctx.fs.rename(ctx, parent, name, newParent, newName, flags);
      await notingName(ctx, parent, name, () => notingName(ctx, newParent, newName, rename));
      return {};
    },
  } satisfies Partial<Handlers<Context>>;
}

function openHandlers(state: ServerState) {
  return {
    async open(ctx, { id, flags, contentBytesMax, lease }) {
      const kind = { kind: "file", flags: checkedFlags(flags), lease } as const;
      const { handle, open, result } = await makeOpen(state, ctx, kind, async () => {
        admit(ctx, id, flags);
        const truncates = (flags & OpenFlag.TRUNC) !== 0;
        const opened = await resizeUnlessLocked(ctx, id, truncates ? 0 : undefined, () =>
          ctx.fs.open(ctx, id, withoutModes(flags)),
        );
        if (truncates) noteData(ctx, id);
        return { inner: opened.handle, node: id, result: opened.attr };
      });
      const payload = await contentOf(ctx, open, result.sizeBytes, contentBytesMax);
      // Named one by one, here and below: V8 makes a dictionary of what is spread, and every later step pays for that.
      const { openId, resumeKey, serviceBlob, challenge } = state.keysOf(open);
      return { handle, attr: result, openId, resumeKey, serviceBlob, challenge, lease: open.lease, payload };
    },
    async create(ctx, { parent, name, flags, mode, umask, lease }) {
      const kind = { kind: "file", flags: checkedFlags(flags), lease } as const;
      const { handle, open, result } = await makeOpen(state, ctx, kind, async () => {
        if (ctx.session.share.modes.isDenied) await admitNamed(ctx, parent, name, flags);
        const truncates = (flags & OpenFlag.TRUNC) !== 0;
        const create = () => ctx.fs.create(ctx, parent, name, withoutModes(flags), { mode, umask });
        const { entry, opened } = await createUnlessLocked(ctx, { parent, name, truncates }, create);
        if (truncates) noteData(ctx, entry.id);
        return { inner: opened.handle, node: entry.id, result: opened.attr };
      });
      const { node: id, lease: granted } = open;
      const { openId, resumeKey, serviceBlob, challenge } = state.keysOf(open);
      const directory = ctx.changedAttrOf(parent) ?? (await attrOf(ctx, parent));
      return { handle, id, attr: result, openId, resumeKey, serviceBlob, challenge, lease: granted, directory };
    },
    async tmpfile(ctx, { parent, flags, mode, umask, lease }) {
      const kind = { kind: "file", flags: checkedFlags(flags), lease } as const;
      const { handle, open, result } = await makeOpen(state, ctx, kind, async () => {
        const { entry, opened } = await ctx.fs.tmpfile(ctx, parent, withoutModes(flags), { mode, umask });
        return { inner: opened.handle, node: entry.id, result: opened.attr };
      });
      return { handle, id: open.node, attr: result, ...state.keysOf(open), lease: open.lease };
    },
    queryKey: async (ctx) => state.keysOf(ctx.file()),
    attach: (ctx, claim) => attachOpen(state, ctx, claim),
    resume: async (ctx, { items }) => ({ results: await resumeOpens(state, ctx, items) }),
    async release(ctx) {
      ctx.isUnhurried = !(await ctx.session.releaseHandle(ctx, ctx.handle));
      return {};
    },
  } satisfies Partial<Handlers<Context>>;
}

function dataHandlers(state: ServerState) {
  const appends = new AppendedSearches();
  const foundOf = ({ fs, session }: Context, { node }: Open, data: Buffer, region: Appended) =>
    appends.find(fs, node, data, region, () => session.isEnded);
  return {
    async read(ctx, { offsetBytes, lengthBytes }) {
      const open = ctx.file();
      if (lengthBytes === 0) return { payload: NOTHING };
      const { buffers } = ctx.session;
      // A client that does not take its answers gets no new ones made.
      if (ctx.channel.isCongested) await ctx.aside(ctx.channel.drained());
      const buffer = buffers.tryTake(lengthBytes) ?? (await ctx.takeBuffer(lengthBytes));
      ctx.releaseReply = () => buffers.give(buffer);
      ctx.throwIfCanceled();
      const target = buffer.length === lengthBytes ? buffer : buffer.subarray(0, lengthBytes);
      const read = () => ctx.fs.read(ctx, open.inner, offsetBytes, target);
      const bytes = await unlessLocked(ctx, open, "read", offsetBytes, lengthBytes, read);
      return { payload: bytes === target.length ? target : target.subarray(0, bytes) };
    },
    async write(ctx, { offsetBytes, killSuidgid, payload }) {
      const open = ctx.file();
      const { inner: handle, flags } = open;
      open.joiner ??= new WriteJoiner({ fileSystem: ctx.fs, handle, flags, counters: state.counters });
      const doneBytes = ctx.appended === undefined ? 0 : await foundOf(ctx, open, payload, ctx.appended);
      if (doneBytes > 0 && doneBytes === payload.length) return { writtenBytes: doneBytes };
      const rest = doneBytes === 0 ? payload : payload.subarray(doneBytes);
      const { joiner } = open;
      const write = () => joiner.write(ctx, offsetBytes, rest, killSuidgid);
      if ((flags & OpenFlag.APPEND) === 0) {
        const writtenBytes = doneBytes + (await unlessLocked(ctx, open, "write", offsetBytes, rest.length, write));
        noteWritten(ctx, open, offsetBytes, writtenBytes);
        return { writtenBytes };
      }
      const writtenBytes = doneBytes + (await appendUnlessLocked(ctx, open, rest.length, write));
      // Where it went is not known here.
      noteWritten(ctx, open);
      return { writtenBytes };
    },
    async flush(ctx) {
      await ctx.fs.flush(ctx, ctx.file().inner);
      return {};
    },
    async fsync(ctx, { dataOnly }) {
      const open = ctx.file();
      if (open.mayHaveLostData) {
        open.mayHaveLostData = false;
        throw new FsError("EIO", "fsync");
      }
      await ctx.fs.fsync(ctx, open.inner, dataOnly);
      return {};
    },
    async fallocate(ctx, { mode, offsetBytes, lengthBytes }) {
      const open = ctx.file();
      const fallocate = () => ctx.fs.fallocate(ctx, open.inner, mode, offsetBytes, lengthBytes);
      await unlessLocked(ctx, open, "write", offsetBytes, lengthBytes, fallocate);
      noteWritten(ctx, open, offsetBytes, lengthBytes);
      return {};
    },
    lseek: async (ctx, { offsetBytes, hole }) => ({
      offsetBytes: await ctx.fs.lseek(ctx, ctx.file().inner, offsetBytes, hole ? "hole" : "data"),
    }),
    async copyFileRange(ctx, { offsetBytes, targetHandle, targetOffsetBytes, lengthBytes }) {
      const open = ctx.file();
      const source = { handle: open.inner, offsetBytes };
      const targetOpen = ctx.session.find(targetHandle);
      if (targetOpen?.kind !== "file") throw new FsError("EBADF", "copyFileRange");
      targetOpen.beginRequest();
      try {
        const target = { handle: targetOpen.inner, offsetBytes: targetOffsetBytes };
        const copy = () => ctx.fs.copyFileRange(ctx, source, target, lengthBytes);
        const copiedBytes = await unlessLocked(ctx, open, "read", offsetBytes, lengthBytes, () =>
          unlessLocked(ctx, targetOpen, "write", targetOffsetBytes, lengthBytes, copy),
        );
        noteWritten(ctx, targetOpen, targetOffsetBytes, copiedBytes);
        return { copiedBytes };
      } finally {
        targetOpen.endRequest();
      }
    },
  } satisfies Partial<Handlers<Context>>;
}

/** Grants a lease of a directory that was just opened, if it can be had. */
function leaseDirectory({ session }: Context, open: Open): void {
  const { leases, leasedNames, modes } = session.share;
  if (!leasedNames.begin(open)) return;
  modes.enter(open, session.label);
  leases.grant(open, Lease.READ, undefined);
  if (open.lease === Lease.NONE) leasedNames.end(open);
}

function directoryHandlers(state: ServerState) {
  return {
    async opendir(ctx, { id, lease }) {
      const directory = { kind: "directory", flags: OpenFlag.READ, lease: Lease.NONE } as const;
      const { handle, open } = await makeOpen(state, ctx, directory, async () => {
        const inner = await ctx.fs.opendir(ctx, id);
        return { inner, node: id, result: undefined };
      });
      if (lease !== Lease.NONE) leaseDirectory(ctx, open);
      return { handle, lease: open.lease };
    },
    async readdir(ctx, { cookie, bytesMax, withEntries }) {
      const { inner } = ctx.directory();
      const read = () => ctx.fs.readdir(ctx, inner, cookie, bytesMax, withEntries);
      return { payload: await counted(ctx, bytesMax, read) };
    },
    async fsyncdir(ctx, { dataOnly }) {
      const { node, inner } = ctx.directory();
      if (state.keeper?.lostNames.isNews(ctx.session, node) === true) throw new FsError("EIO", "fsyncdir");
      await ctx.fs.fsyncdir(ctx, inner, dataOnly);
      return {};
    },
  } satisfies Partial<Handlers<Context>>;
}
