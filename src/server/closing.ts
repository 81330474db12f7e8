/**
 * Closes opens that have no handle any more, for all sessions: after the requests on them, and what nobody can wait for when the answers of this turn of the
 * event loop have left.
 *
 * Sessions end without waiting for it; a server that ends does (`idle`).
 */
import { DENY_FLAGS, type RequestContext } from "../vfs/file-system.ts";
import type { Open } from "./open.ts";

export class Closings {
  readonly #onClose: (open: Open) => void;
  #count = 0;
  #waiting: (() => void)[] = [];

  /** `onClose`: is told of each open, first of all. */
  constructor(onClose: (open: Open) => void = () => {}) {
    this.#onClose = onClose;
  }

  /**
   * Gives up what the open keeps from others, and closes it.
   *
   * At once, unless requests on it are under way: they are what others are kept from, and whoever comes next is to see all they did.
   *
   * @returns whether somebody may have waited for that.
   * @throws FsError what the file system says.
   */
  async close(ctx: RequestContext, open: Open): Promise<boolean> {
    const { modes, leases, locks, fileSystem } = open.owner.share;
    this.#count += 1;
    this.#onClose(open);
    try {
      const giveUp = () => {
        modes.delete(open);
        leases.closed(open);
      };
      const idle = open.isIdle ? undefined : open.idle().then(giveUp);
      if (idle === undefined) giveUp();
      // Before anybody behind this request can ask for what it gives up.
      const unlocked = locks.release(open, idle);
      const isAwaited = unlocked !== undefined || (open.flags & DENY_FLAGS) !== 0;
      if (!isAwaited) await new Promise(setImmediate);
      await unlocked;
      await idle;
      if (open.kind === "file") await fileSystem.release(ctx, open.inner);
      else await fileSystem.releasedir(ctx, open.inner);
      return isAwaited;
    } finally {
      this.#count -= 1;
      if (this.#count === 0) this.#wake();
    }
  }

  /** Settles when nothing is being closed. */
  idle(): Promise<void> {
    if (this.#count === 0) return Promise.resolve();
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }
}
