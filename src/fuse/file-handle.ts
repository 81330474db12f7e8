/**
 * An open file as the kernel sees it: the FileSystem's handle and what we must remember beside it.
 */
import type { Caller, FileSystem, HandleId } from "../vfs/file-system.ts";
import { OpenFlag, type OpenFlags } from "../vfs/file-system.ts";
import type { NodeRow } from "./node-table.ts";

export class FileHandle {
  readonly handle: HandleId;
  readonly node: NodeRow;
  readonly flags: OpenFlags;
  readonly caller: Caller;
  /** Something was locked through it, or tried to. */
  hasLocked = false;
  /** A second open for pages written back from shared memory, see `forPages`. */
  #pagesHandle: HandleId | undefined;
  #opening: Promise<HandleId> | undefined;
  #released = false;

  constructor(handle: HandleId, node: NodeRow, flags: OpenFlags, caller: Caller) {
    this.handle = handle;
    this.node = node;
    this.flags = flags;
    this.caller = caller;
  }

  get isAppending(): boolean {
    return (this.flags & OpenFlag.APPEND) !== 0;
  }

  /**
   * The handle through which pages of a shared mapping are written back, at their place.
   *
   * The kernel takes any open that was mapped, also one that appends; through that the page would land at the end of the file.
   */
  forPages(fileSystem: FileSystem): HandleId | Promise<HandleId> {
    if (!this.isAppending) return this.handle;
    this.#opening ??= this.#openForPages(fileSystem).catch((error: unknown) => {
      // What is in the way now need not be there when the next page is written back.
      this.#opening = undefined;
      throw error;
    });
    return this.#opening;
  }

  async #openForPages(fileSystem: FileSystem): Promise<HandleId> {
    const ctx = { caller: this.caller };
    const { handle } = await fileSystem.open(ctx, this.node.id, OpenFlag.WRITE);
    if (this.#released)
      void fileSystem.release(ctx, handle).catch(() => {}); // Nobody is left to hear of it.
    else this.#pagesHandle = handle;
    return handle;
  }

  /** Everything to release; to be called once, when the last use is over. */
  handles(): HandleId[] {
    this.#released = true;
    return this.#pagesHandle === undefined ? [this.handle] : [this.handle, this.#pagesHandle];
  }
}
