/**
 * The locks of one kind on one node, with the disk below: one request after the other, each held on the disk first and in the space then.
 *
 * So nobody is told of a lock that a program on the server's machine could break. Such a program tells nobody when it unlocks: a wish that only
 * the disk refuses is tried again, after 50 ms at first and 1 s in the end.
 */
import type { Clock, Timer } from "../../base/clock.ts";
import type { ErrnoName } from "../../base/errno.ts";
import { FsError, toErrno } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { type Attr, NO_ATTR } from "../../vfs/attr.ts";
import type { FileSystem, HandleId, NodeId, OpenFlags, RequestContext } from "../../vfs/file-system.ts";
import { type LockKind, type LockRange, type NodeLock, WHOLE_FILE } from "../../vfs/lock.ts";
import { type Locker, LockSpace, type Waiter, type Wish } from "./lock-space.ts";
import { Turns } from "./turns.ts";

/** How long a wish rests that a program beside the server stands in the way of. */
export const RETRY_MS_MIN = 50;
export const RETRY_MS_MAX = 1000;
/** What a file system says that cannot lock at all. */
const LOCKLESS: ReadonlySet<ErrnoName> = new Set(["ENOLCK", "ENOSYS", "EOPNOTSUPP"]);
/** The server locks for itself. */
export const OWN_CONTEXT: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };

/** What locks need to know of an open. */
export interface LockOpen {
  readonly node: NodeId;
  /** The open of the share's file system. */
  readonly inner: HandleId;
  readonly flags: OpenFlags;
  /** 0: closed, or about to be. */
  readonly handles: number;
}

/** What the locks of all nodes of a share have in common. */
export interface LockSurroundings {
  readonly fileSystem: FileSystem;
  readonly clock: Clock;
  readonly log: Log;
  /** What was waited for is reserved, or has come to nothing. */
  readonly ready: (waiter: Waiter<LockOpen>, outcome: Attr | ErrnoName) => void;
  /** What was reserved has been given up by its owner: the wish is over. */
  readonly over: (waiter: Waiter<LockOpen>) => void;
  /** Somebody began to wait: whom he waits for must not wait for him. */
  readonly waits: (waiter: Waiter<LockOpen>) => void;
  /** Somebody wants what an open has whose client is away; true: the open is given up, its locks may be dropped. */
  readonly giveUp: (open: LockOpen) => boolean;
  /** Settles when nothing is under way that a lock forbids which is held by now. @returns whether anything was. */
  readonly accessesEnd: (node: NodeId, held: Wish<LockOpen>) => Promise<boolean>;
  /** Nothing is held, waited for or under way here any more. */
  readonly idle: (nodeLocks: NodeLocks) => void;
}

export class NodeLocks {
  readonly kind: LockKind;
  readonly node: NodeId;
  readonly space = new LockSpace<LockOpen>();
  readonly #around: LockSurroundings;
  readonly #turns = new Turns();
  #retry: Timer | undefined;
  #retryMs = RETRY_MS_MIN;

  constructor(kind: LockKind, node: NodeId, around: LockSurroundings) {
    this.kind = kind;
    this.node = node;
    this.#around = around;
  }

  /**
   * Locks, or begins to wait as `waiter`.
   *
   * @returns attributes as of a moment at which it was held; undefined: `waiter` waits.
   * @throws FsError EAGAIN somebody else has it; EDEADLK; EBADF the open is closed; what the disk says.
   */
  lock(wish: Wish<LockOpen>, waiter: Waiter<LockOpen> | undefined): Promise<Attr | undefined> {
    return this.#turn(() => this.#lock(wish, waiter));
  }

  /** Makes a reserved lock a held one. @returns as `lock`; what is not reserved any more begins again. */
  lockAgain(waiter: Waiter<LockOpen>): Promise<Attr | undefined> {
    return this.#turn(async () => {
      if (this.space.waiters.includes(waiter)) return undefined;
      if (!this.space.isReserved(waiter)) return this.#lock(waiter, waiter);
      this.space.dismiss(waiter);
      this.space.hold(waiter);
      await this.#wake();
      return this.#attrOf(waiter.through);
    });
  }

  /** Reserves a lock that was reserved before the server was started. @throws FsError EAGAIN somebody else has it; what the disk says. */
  reserveAgain(waiter: Waiter<LockOpen>): Promise<void> {
    return this.#turn(async () => {
      const isFree = this.space.obstacle(waiter) === undefined && (await this.#holdOnDisk(waiter)) !== undefined;
      if (!isFree) throw new FsError("EAGAIN", "setlk");
      this.space.wait(waiter);
      this.space.reserve(waiter);
    });
  }

  /** Gives up a range, and what is reserved within it. `checkRoom` throws where there is none for a further range. */
  unlock(locker: Locker<LockOpen>, range: LockRange, through: LockOpen, checkRoom: () => void): Promise<void> {
    return this.#turn(async () => {
      const ranges = this.space.rangesOf(locker);
      const pieces = ranges?.pieces(range) ?? [];
      const reserved = this.space.reservedWithin(locker, range);
      if (reserved.length === 0 && ranges?.isSplitBy(range) === true) checkRoom();
      if (reserved.length === 0 && pieces.every(({ type }) => type === "unlock")) return;
      for (const waiter of reserved) {
        this.space.dismiss(waiter);
        this.#around.over(waiter);
      }
      this.space.unlock(locker, range);
      await this.#refresh([range], through);
      await this.#wake();
    });
  }

  /** Waits no more; what was reserved is free. */
  cancel(waiter: Waiter<LockOpen>): Promise<void> {
    return this.#turn(async () => {
      if (this.space.dismiss(waiter)) await this.#refresh([waiter], waiter.through);
      await this.#wake();
    });
  }

  /** Gives up everything of an open. */
  drop(open: LockOpen): Promise<void> {
    return this.#turn(async () => {
      await this.#refresh(this.space.dropThrough(open), open);
      await this.#wake();
    });
  }

  /** Looks at those who wait: something has changed that is not of this node. */
  wake(): Promise<void> {
    return this.#turn(() => this.#wake());
  }

  async #turn<T>(act: () => Promise<T>): Promise<T> {
    try {
      return await this.#turns.take(act);
    } finally {
      if (this.space.isEmpty && this.#turns.isIdle) this.#around.idle(this);
    }
  }

  async #lock(wish: Wish<LockOpen>, waiter: Waiter<LockOpen> | undefined): Promise<Attr | undefined> {
    if (wish.through.handles === 0) throw new FsError("EBADF", "setlk");
    const { space } = this;
    await this.#evict(wish);
    const isFree = space.obstacle(wish) === undefined && (waiter === undefined || !space.isBehind(wish));
    const attr = isFree ? await this.#holdOnDisk(wish) : undefined;
    if (attr !== undefined) {
      space.hold(wish);
      this.#checkDeadlocks(wish.locker);
      const settled = await this.#settled(wish, attr);
      await this.#wake();
      return settled;
    }
    if (waiter === undefined) throw new FsError("EAGAIN", "setlk");
    if (this.kind === "posix" && space.isDeadlock(wish)) throw new FsError("EDEADLK", "setlk");
    if (this.kind === "flock" && space.rangesOf(wish.locker) !== undefined) {
      // As flock(2) has it: two that share a lock and both want it alone would wait for each other.
      space.unlock(wish.locker, WHOLE_FILE);
      await this.#refresh([WHOLE_FILE], wish.through);
    }
    space.wait(waiter);
    this.#around.waits(waiter);
    await this.#wake();
    return undefined;
  }

  /**
   * Reserves what has become free, in the order of waiting.
   *
   * After any change, a new lock included: it may have taken the place of a stronger one.
   */
  async #wake(): Promise<void> {
    const { space } = this;
    let isRefused = false;
    for (const waiter of [...space.waiters]) {
      // One may have been dismissed for another's sake.
      if (waiter.locker.isAway || !space.waiters.includes(waiter)) continue;
      await this.#evict(waiter);
      if (space.obstacle(waiter) !== undefined || space.isBehind(waiter)) continue;
      try {
        const attr = await this.#holdOnDisk(waiter);
        if (attr === undefined) isRefused = true;
        else {
          space.reserve(waiter);
          this.#checkDeadlocks(waiter.locker);
          this.#around.ready(waiter, await this.#settled(waiter, attr));
        }
      } catch (error) {
        space.dismiss(waiter);
        this.#around.ready(waiter, this.#errnoOf(error));
      }
    }
    if (isRefused) this.#tryLater();
    else {
      this.#retry?.stop();
      this.#retry = undefined;
      this.#retryMs = RETRY_MS_MIN;
    }
  }

  /** The attributes when everything has ended that the lock, which is held now, would not have let begin. */
  async #settled(held: Wish<LockOpen>, attr: Attr): Promise<Attr> {
    return (await this.#around.accessesEnd(this.node, held)) ? this.#attrOf(held.through) : attr;
  }

  /** It is locked already; so not to know them is no reason to fail. */
  #attrOf(open: LockOpen): Promise<Attr> {
    return this.#around.fileSystem.getattr(OWN_CONTEXT, this.node, open.inner).catch(() => NO_ATTR);
  }

  #tryLater(): void {
    this.#retry ??= this.#around.clock.after(this.#retryMs, () => {
      this.#retry = undefined;
      this.#retryMs = Math.min(2 * this.#retryMs, RETRY_MS_MAX);
      // #wake tells of every failure itself.
      void this.wake();
    });
  }

  /** One who has a new lock and waits for others besides may be waited for by them now. */
  #checkDeadlocks(locker: Locker<LockOpen>): void {
    if (this.kind !== "posix" || locker.waiters.size === 0) return;
    for (const waiter of [...this.space.waiters]) {
      if (!this.space.isDeadlock(waiter)) continue;
      this.space.dismiss(waiter);
      this.#around.ready(waiter, "EDEADLK");
    }
  }

  /** Takes away what is in the way of a wish and belongs to nobody any more. */
  async #evict(wish: Wish<LockOpen>): Promise<void> {
    for (const { locker, through } of [...this.space.obstacles(wish)]) {
      if (locker.isAway && this.#around.giveUp(through)) {
        await this.#refresh(this.space.dropThrough(through), wish.through);
      }
    }
  }

  /** Locks out programs beside the server. @returns undefined: one of them has it. */
  async #holdOnDisk({ type, startBytes, endBytes, through }: Wish<LockOpen>): Promise<Attr | undefined> {
    const { fileSystem } = this.#around;
    try {
      if (fileSystem.lockNode !== undefined) {
        const lock: NodeLock = { kind: this.kind, type, startBytes, endBytes };
        return await fileSystem.lockNode(OWN_CONTEXT, through.inner, lock);
      }
    } catch (error) {
      const errno = this.#errnoOf(error);
      if (errno === "EAGAIN" || errno === "EACCES") return undefined;
      if (!LOCKLESS.has(errno)) throw error;
      this.#around.log.debug(`programs on this machine are not locked out: ${errno}`);
    }
    return fileSystem.getattr(OWN_CONTEXT, this.node, through.inner);
  }

  /** Makes the disk hold what the space does, in these ranges, which are less than before. */
  async #refresh(ranges: readonly LockRange[], through: LockOpen): Promise<void> {
    const { fileSystem, log } = this.#around;
    if (fileSystem.lockNode === undefined || ranges.length === 0) return;
    const isNothingHeld = this.space.held().next().done === true;
    for (const range of isNothingHeld ? [WHOLE_FILE] : ranges) {
      for (const piece of this.space.pieces(range)) {
        try {
          await fileSystem.lockNode(OWN_CONTEXT, through.inner, { ...piece, kind: this.kind });
        } catch (error) {
          if (!LOCKLESS.has(this.#errnoOf(error))) log.warn("a lock on the disk could not be changed", error);
        }
      }
    }
  }

  #errnoOf(error: unknown): ErrnoName {
    return toErrno(error, (bug) => this.#around.log.error("locking failed unexpectedly", bug));
  }
}
