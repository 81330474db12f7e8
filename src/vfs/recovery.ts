/**
 * What a FileSystem can offer a server that wants to open its files again after its process has died.
 *
 * A record of a node is opaque bytes of the implementation, good in every later process that serves the same directory.
 */
import type { Name } from "../base/name.ts";
import type { Entry, HandleId, NodeId, Opened, OpenFlags, RequestContext } from "./file-system.ts";

/** The most bytes of a record: a path may be in it. */
export const NODE_RECORD_BYTES_MAX = 8192;

export interface Recovery {
  /**
   * A record of an open's node, as of now. Does not wait for anything.
   *
   * @throws FsError EBADF unknown handle.
   */
  describe(handle: HandleId): Buffer;

  /** The same of a node that was named to somebody. @throws FsError ESTALE it is not known. */
  describeNode(id: NodeId): Buffer;

  /** Who has the name `name` in a directory, if that can be told without waiting; undefined: it cannot, and `lookup` tells. Not as any caller: permissions do not matter. */
  peek(parent: NodeId, name: Name): Entry | "nobody" | undefined;

  /**
   * Finds the node of a record, also if it was renamed meanwhile as far as this process has the right to.
   *
   * @throws FsError ENOENT nothing is there; ESTALE it is gone, or something else is there; EINVAL no record of this implementation.
   */
  recall(ctx: RequestContext, record: Buffer): Promise<Entry>;

  /**
   * Opens a file as it was opened before, whoever may open it now: the right to was checked then. Never truncates.
   *
   * @throws FsError as `open`.
   */
  reopen(ctx: RequestContext, id: NodeId, flags: OpenFlags): Promise<Opened>;

  /**
   * Returns when what was done to the node before is on the disk: to a directory's names, whoever has made them, to a file's data and attributes. Names on
   * the disk lead to whole nodes, and a rename is there whole or not at all.
   *
   * @throws FsError EIO the disk has failed.
   */
  syncNode(ctx: RequestContext, id: NodeId): Promise<void>;

  /** Lets go of what was kept for opens, by this process or an earlier one, that nobody has now. */
  sweep(ctx: RequestContext): Promise<void>;
}
