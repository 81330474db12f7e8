/**
 * Tells of changes that requests make: those who have handles of the open they are made through, and, for their verdicts, those who are away with the
 * same files open. While there is nobody, it does nothing.
 */
import type { Name } from "../base/name.ts";
import type { NodeId } from "../vfs/file-system.ts";
import { TO_THE_END } from "./node-changes.ts";
import type { Open } from "./open.ts";
import type { ServedRequest } from "./served-request.ts";

/** Bytes of the file have changed; without a range all of them. */
export function noteData(ctx: ServedRequest, node: NodeId, offsetBytes = 0, lengthBytes = TO_THE_END): void {
  const { absentOpens, leases } = ctx.session.share;
  leases.changed(ctx.session, node);
  if (absentOpens.isEmpty) return;
  absentOpens.note(node, ctx.session, { offsetBytes, lengthBytes }, ctx.session.label);
}

/** The same, through an open: whoever else has handles of it is told; who is away, by the verdict. */
export function noteWritten(ctx: ServedRequest, open: Open, offsetBytes?: number, lengthBytes?: number): void {
  if (open.holders.length > 1) {
    for (const holder of open.holders)
      if (holder !== ctx.session && holder.absences.isToldOf(open)) holder.told.changed(open.node);
  }
  noteData(ctx, open.node, offsetBytes, lengthBytes);
}

/** Something about the file has changed, but not its bytes. */
export async function noteAttributes(ctx: ServedRequest, node: NodeId): Promise<void> {
  const { absentOpens, leases } = ctx.session.share;
  leases.changed(ctx.session, node);
  if (absentOpens.isEmpty || !absentOpens.has(node)) return;
  // A file that cannot be looked at any more is looked at again when its client is back.
  const attr = await ctx.fs.getattr(ctx, node).catch(() => undefined);
  if (attr !== undefined) absentOpens.noteAttributes(node, attr);
}

/** Runs a request that gives or takes a node its name, which shows in its ctime. */
export async function notingName<T>(ctx: ServedRequest, parent: NodeId, name: Name, act: () => Promise<T>): Promise<T> {
  if (ctx.session.share.absentOpens.isEmpty) return act();
  const named = await ctx.fs.lookup(ctx, parent, name).catch(() => undefined);
  const result = await act();
  if (named !== undefined) await noteAttributes(ctx, named.id);
  return result;
}
