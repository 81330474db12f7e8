/**
 * Requests about locks, and what locks forbid to other requests where they are mandatory.
 *
 * In a share with mandatory locks nobody writes to a range that another open has locked, and nobody reads one that another open has locked exclusively: EAGAIN,
 * whatever the kind of lock. What counts is the open: all its handles may, whichever process took the lock. Nobody is told that he has a lock while
 * something is under way that it forbids.
 */
import { FsError } from "../base/errors.ts";
import type { Name } from "../base/name.ts";
import { NO_ATTR } from "../vfs/attr.ts";
import type { NodeId } from "../vfs/file-system.ts";
import { type HeldType, LOCK_END, LOCK_KINDS, LOCK_TYPES, type Lock, type LockOwner } from "../vfs/lock.ts";
import type { Handlers, Request } from "../wire/messages.ts";
import type { Open } from "./open.ts";
import type { ServedRequest } from "./served-request.ts";
import type { Keeper } from "./state/keeper.ts";

/** What locks are to those who do not ask for them. */
export type Locking = "advisory" | "mandatory";

/** @throws FsError EINVAL no such lock can be. */
function lockOf({ kind, type, owner, startBytes, endBytes, pid }: Request<"getlk">): Lock {
  const kindName = LOCK_KINDS[kind];
  const typeName = LOCK_TYPES[type];
  if (kindName === undefined || typeName === undefined || startBytes > endBytes || endBytes > LOCK_END) {
    throw new FsError("EINVAL", "lock");
  }
  return { kind: kindName, type: typeName, owner: owner as LockOwner, startBytes, endBytes, pid };
}

/** Each takes its turn before it first waits: requests on one node are served in the order they came. `keeper` is told what is locked. */
export function lockHandlers(keeper: Keeper | undefined) {
  return {
    async getlk(ctx, asked) {
      const { session } = ctx;
      const found = await session.share.locks.getlk(session, ctx.file(), lockOf(asked));
      if (found === undefined) return { type: 0, startBytes: 0n, endBytes: 0n, pid: 0 };
      const { type, startBytes, endBytes, pid } = found;
      return { type: LOCK_TYPES.indexOf(type), startBytes, endBytes, pid };
    },
    async setlk(ctx, asked) {
      const { session } = ctx;
      const open = ctx.file();
      const attr = await session.share.locks.setlk(session, open, lockOf(asked), asked.waitId);
      keeper?.locked(open);
      return { waits: attr === undefined, attr: attr ?? NO_ATTR };
    },
    async cancelLock(ctx, { waitId }) {
      const open = await ctx.session.share.locks.cancelWait(ctx.session, waitId);
      if (keeper === undefined || open === undefined) return {};
      keeper.locked(open as Open);
      // Who is told that he has nothing reserved will not come back for it.
      await new Promise<void>((resolve) => keeper.whenKept(resolve));
      return {};
    },
  } satisfies Partial<Handlers<ServedRequest>>;
}

/** Reads or changes a range through an open, if nobody else's lock forbids it. @throws FsError EAGAIN. */
export function unlessLocked<T>(
  ctx: ServedRequest,
  open: Open,
  access: HeldType,
  offsetBytes: number,
  lengthBytes: number,
  act: () => Promise<T>,
): Promise<T> {
  const { locking, locks } = ctx.session.share;
  if (locking !== "mandatory" || lengthBytes <= 0) return act();
  const range = { startBytes: BigInt(offsetBytes), endBytes: BigInt(offsetBytes + lengthBytes) - 1n };
  return locks.unlessLocked({ node: open.node, open, access, ...range }, act);
}

/** The same for a write that goes to the end of the file. */
export async function appendUnlessLocked<T>(
  ctx: ServedRequest,
  open: Open,
  lengthBytes: number,
  act: () => Promise<T>,
): Promise<T> {
  if (ctx.session.share.locking !== "mandatory") return act();
  const { sizeBytes } = await ctx.fs.getattr(ctx, open.node, open.inner);
  return unlessLocked(ctx, open, "write", sizeBytes, lengthBytes, act);
}

/** The same for a change of size: of the bytes that go, or come. `size`: undefined where the size does not change. */
export async function resizeUnlessLocked<T>(
  ctx: ServedRequest,
  node: NodeId,
  size: number | undefined,
  act: () => Promise<T>,
): Promise<T> {
  const { locking, locks } = ctx.session.share;
  if (size === undefined || locking !== "mandatory") return act();
  const before = (await ctx.fs.getattr(ctx, node, ctx.open?.inner)).sizeBytes;
  if (before === size) return act();
  const range = { startBytes: BigInt(Math.min(before, size)), endBytes: BigInt(Math.max(before, size)) - 1n };
  return locks.unlessLocked({ node, open: ctx.open, access: "write", ...range }, act);
}

/** The same for a file that is truncated when it is opened by its name. */
export async function createUnlessLocked<T>(
  ctx: ServedRequest,
  entry: { readonly parent: NodeId; readonly name: Name; readonly truncates: boolean },
  act: () => Promise<T>,
): Promise<T> {
  if (!entry.truncates || ctx.session.share.locking !== "mandatory") return act();
  const found = await ctx.fs.lookup(ctx, entry.parent, entry.name).catch(() => undefined);
  return found === undefined ? act() : resizeUnlessLocked(ctx, found.id, 0, act);
}
