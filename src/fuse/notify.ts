/**
 * Messages to the kernel that answer no request: what it keeps in mind is not so any more.
 *
 * The kernel drops attributes at once. Pages it drops under locks that a request in flight may hold until we have answered it, so another thread tells it
 * to (native/fuse-notifier.h), and whoever waits for it must not be waited for by such a request.
 */
import { errnoNumber } from "../base/errno.ts";
import type { NodeId } from "../vfs/file-system.ts";
import { NOTIFY_INVAL_INODE_OUT_BYTES, NOTIFY_STORE_OUT_BYTES, Notify, OUT_HEADER_BYTES } from "./abi.ts";
import type { NodeRow } from "./node-table.ts";
import { PageState } from "./page-state.ts";
import type { Session } from "./session.ts";

/**
 * Gives the kernel all bytes of a file of which it has no pages, so that it need not ask for them. Whether it has taken them.
 *
 * Only before the first open of `node` is answered: a page that somebody reads already is locked until we answer that, and we would wait for it here.
 */
export function storeContent({ view, scratch, device }: Session, node: NodeRow, content: Buffer): boolean {
  const header = scratch - OUT_HEADER_BYTES;
  view.setUint32(header, OUT_HEADER_BYTES + NOTIFY_STORE_OUT_BYTES + content.length, true);
  view.setInt32(header + 4, Notify.STORE, true);
  view.setBigUint64(header + 8, 0n, true);
  view.setBigUint64(scratch, BigInt(node.nodeid), true);
  view.setBigUint64(scratch + 8, 0n, true);
  view.setUint32(scratch + 16, content.length, true);
  view.setUint32(scratch + 20, 0, true);
  return device.replyWith(header, OUT_HEADER_BYTES + NOTIFY_STORE_OUT_BYTES, content) === 0;
}

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

/** The kernel drops all pages of `node` and its attributes. Whether it has, when this settles. */
export async function dropPages(session: Session, node: NodeRow): Promise<boolean> {
  const message = Buffer.alloc(OUT_HEADER_BYTES + NOTIFY_INVAL_INODE_OUT_BYTES);
  message.writeUInt32LE(message.length, 0);
  message.writeInt32LE(Notify.INVAL_INODE, 4);
  message.writeBigUInt64LE(BigInt(node.nodeid), OUT_HEADER_BYTES);
  // Offset and length 0: from the first page to the last.
  const errno = await session.device.notifyLater(message);
  // It may not know the node any more.
  if (errno === 0 || errno === errnoNumber("ENOENT")) return true;
  session.log.debug(`the kernel keeps the pages of a file that was locked: errno ${errno}`);
  forgetAttrs(session, node);
  return false;
}

/**
 * Others have changed the node, or may now: the kernel is to have nothing of it that is older. Settles, and never rejects, when that is so; what the kernel keeps all the
 * same is not believed at the next open.
 */
export async function forgetNode(session: Session, id: NodeId): Promise<void> {
  const node = session.nodes.find(id);
  if (node === undefined) return;
  // Nor is it given bytes that came with an open whose reply is still being worked on.
  node.pages ??= new PageState();
  node.pages.dropped();
  node.dropsWanted += 1;
  if (node.dropsWanted === 1) node.dropping = dropWhileWanted(session, node);
  await node.dropping;
}

/** However often it is wanted, one drop of a node is under way, and one follows. */
async function dropWhileWanted(session: Session, node: NodeRow): Promise<void> {
  for (let wanted = 0; wanted < node.dropsWanted; ) {
    wanted = node.dropsWanted;
    await dropPages(session, node);
  }
  node.dropsWanted = 0;
  node.dropping = undefined;
}
