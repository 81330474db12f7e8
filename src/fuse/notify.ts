/**
 * Messages to the kernel that answer no request: what it keeps in mind is not so any more.
 *
 * The kernel drops pages only under locks that a request in flight may hold, so pages are not dropped here, only attributes, which needs none.
 */
import { NOTIFY_INVAL_INODE_OUT_BYTES, Notify, OUT_HEADER_BYTES } from "./abi.ts";
import type { NodeRow } from "./node-table.ts";
import type { Session } from "./session.ts";

/** The kernel will ask for the attributes of `node` before it uses them again. It may not know the node any more, which is as good. */
export function forgetAttrs(session: Session, node: NodeRow): void {
  const { view, scratch, device } = session;
  const header = scratch - OUT_HEADER_BYTES;
  view.setUint32(header, OUT_HEADER_BYTES + NOTIFY_INVAL_INODE_OUT_BYTES, true);
  view.setInt32(header + 4, Notify.INVAL_INODE, true);
  view.setBigUint64(header + 8, 0n, true);
  view.setBigUint64(scratch, BigInt(node.nodeid), true);
  // A negative offset means the attributes alone.
  view.setBigInt64(scratch + 8, -1n, true);
  view.setBigInt64(scratch + 16, 0n, true);
  device.reply(header, OUT_HEADER_BYTES + NOTIFY_INVAL_INODE_OUT_BYTES, -1);
}
