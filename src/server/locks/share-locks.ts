/**
 * The locks of one share: what clients ask for, who they are, and what each may have.
 *
 * What a lock means is in lock-space.ts, how it comes about in node-locks.ts. A lock belongs to the open it was made through and ends with it; it stays
 * while its client is away. Nothing a client waits for occupies a request: it is told when the lock is reserved for it (`lockReady`), and asks again.
 */
import type { Clock } from "../../base/clock.ts";
import type { ErrnoName } from "../../base/errno.ts";
import { FsError } from "../../base/errors.ts";
import type { Log } from "../../base/log.ts";
import { type Attr, NO_ATTR } from "../../vfs/attr.ts";
import { type FileSystem, type NodeId, OpenFlag } from "../../vfs/file-system.ts";
import {
  type HeldLock,
  type HeldType,
  LOCK_END,
  LOCK_KINDS,
  type Lock,
  type LockKind,
  type LockOwner,
  type LockRange,
  overlaps,
} from "../../vfs/lock.ts";
import { Locker, reachedFrom, type Waiter, type Wish } from "./lock-space.ts";
import { type LockOpen, type LockSurroundings, NodeLocks, OWN_CONTEXT } from "./node-locks.ts";

export interface LockLimits {
  /** Ranges a session has, reserved ones included, and locks it waits for. */
  readonly locksPerSessionMax: number;
  readonly lockWaitsPerSessionMax: number;
}

/** What locks need to know of a session. */
export interface LockSession {
  /** It has no connection. */
  readonly isAway: boolean;
  /** Tells the client about a lock it waits for through `open`: reserved for it (attributes as of that moment), or over with an error. */
  lockReady(waitId: number, outcome: Attr | ErrnoName, open: LockOpen): void;
}

/** Something done to a range of a file; `open` undefined: through none. */
export interface FileAccess extends LockRange {
  readonly node: NodeId;
  readonly open: LockOpen | undefined;
  readonly access: HeldType;
}

/** What is held, or is reserved for the wish `waitId` (0: held). */
export interface KeptLock extends HeldLock {
  readonly waitId: number;
}

/** What one session has and waits for. */
interface Client {
  readonly session: LockSession;
  readonly tally: { count: number };
  readonly lockers: Map<LockOwner | LockOpen, ClientLocker>;
  readonly waits: Map<number, Wait>;
}

class ClientLocker extends Locker<LockOpen> {
  readonly client: Client;
  /** As its client calls it; of a flock, the last one that did. */
  owner: LockOwner;

  constructor(client: Client, key: LockOwner | LockOpen, owner: LockOwner) {
    super({
      tally: client.tally,
      isAway: () => client.session.isAway,
      onIdle: () => client.lockers.delete(key),
    });
    this.client = client;
    this.owner = owner;
  }
}

interface Wait extends Waiter<LockOpen> {
  readonly client: Client;
  readonly waitId: number;
  readonly nodeLocks: NodeLocks;
}

export class ShareLocks {
  readonly #limits: LockLimits;
  readonly #around: LockSurroundings;
  readonly #nodes: Readonly<Record<LockKind, Map<NodeId, NodeLocks>>> = { posix: new Map(), flock: new Map() };
  readonly #clients = new Map<LockSession, Client>();
  /** What is under way where locks are mandatory. As many as there are requests. */
  readonly #accesses = new Set<{ readonly access: FileAccess; readonly done: Promise<unknown> }>();

  /**
   * `giveUp` is asked when somebody wants what an open has locked whose session is away; true: the open is given up. Its locks are dropped at once, and
   * `release` of it follows.
   */
  constructor(parts: {
    fileSystem: FileSystem;
    clock: Clock;
    log: Log;
    limits: LockLimits;
    giveUp: (open: LockOpen) => boolean;
  }) {
    const { fileSystem, clock, log, giveUp } = parts;
    this.#limits = parts.limits;
    this.#around = {
      ...{ fileSystem, clock, log, giveUp },
      ready: (waiter, outcome) => this.#ready(waiter as Wait, outcome),
      over: (waiter) => (waiter as Wait).client.waits.delete((waiter as Wait).waitId),
      waits: (waiter) => this.#wakeReached(waiter),
      idle: ({ kind, node }) => this.#nodes[kind].delete(node),
      accessesEnd: (node, held) => this.#accessesEnd(node, held),
    };
  }

  /** Of all sessions, for status and leak tests. */
  get figures(): { locks: number; waits: number; nodes: number; lockers: number } {
    const figures = { locks: 0, waits: 0, nodes: 0, lockers: 0 };
    for (const { tally, waits, lockers } of this.#clients.values()) {
      figures.locks += tally.count;
      figures.waits += waits.size;
      figures.lockers += lockers.size;
    }
    for (const kind of LOCK_KINDS) figures.nodes += this.#nodes[kind].size;
    return figures;
  }

  /**
   * Locks or unlocks. `waitId` 0: at once or not at all; otherwise the session's own number for this wish, under which it is told when the lock is reserved,
   * and under which it asks again, once or often.
   *
   * @returns attributes as of a moment at which the lock was held (NO_ATTR after an unlock); undefined: it waits.
   * @throws FsError EAGAIN, EDEADLK; ENOLCK the session has no room, also for what is left when a range is unlocked in the middle; EBADF not opened for this.
   */
  async setlk(session: LockSession, open: LockOpen, lock: Lock, waitId: number): Promise<Attr | undefined> {
    const client = this.#clientOf(session);
    const locker = this.#lockerOf(client, open, lock);
    const nodeLocks = this.#nodeLocks(lock.kind, open.node);
    locker.beginRequest();
    try {
      if (lock.type === "unlock") {
        await nodeLocks.unlock(locker, lock, open, () => this.#checkRoom(client));
        return NO_ATTR;
      }
      const wish = wishOf(locker, open, lock);
      checkAccess(open, lock);
      locker.pid = lock.pid;
      if (waitId !== 0) return await this.#lockWaiting({ ...wish, space: nodeLocks.space, client, waitId, nodeLocks });
      this.#checkRoom(client);
      return await nodeLocks.lock(wish, undefined);
    } finally {
      locker.endRequest();
    }
  }

  /** F_GETLK: a lock that keeps `lock` from being had; undefined: it could be had. */
  async getlk(session: LockSession, open: LockOpen, lock: Lock): Promise<Lock | undefined> {
    const client = this.#clientOf(session);
    const locker = this.#lockerOf(client, open, lock);
    const wish = wishOf(locker, open, lock);
    const held = this.#nodes[lock.kind].get(open.node)?.space.obstacle(wish);
    locker.checkIdle();
    if (held !== undefined) {
      const holder = held.locker as ClientLocker;
      const { type, startBytes, endBytes } = held;
      // A process of another client has a number that means somebody else here.
      return { ...lock, type, startBytes, endBytes, pid: holder.client === client ? holder.pid : 0 };
    }
    const { fileSystem } = this.#around;
    const beside = await fileSystem.findNodeLock?.(OWN_CONTEXT, open.inner, { ...lock, type: wish.type });
    return beside === undefined ? undefined : { ...lock, ...beside, pid: 0 };
  }

  /**
   * The client does not want what it asked for with this number: it waits no more, or what was reserved is free again.
   *
   * @returns the open it was to be locked through; undefined: there is no such wish.
   */
  async cancelWait(session: LockSession, waitId: number): Promise<LockOpen | undefined> {
    const client = this.#clients.get(session);
    const wait = client?.waits.get(waitId);
    if (client === undefined || wait === undefined) return undefined;
    client.waits.delete(waitId);
    await wait.nodeLocks.cancel(wait);
    return wait.through;
  }

  /**
   * The open is closed: gives up all that was locked through it, when its requests have ended (`idle`; undefined: they have).
   *
   * To be called before anybody else may get a turn, and to be waited for before the open of the file system is released. Undefined: it has no locks.
   */
  release(open: LockOpen, idle: Promise<void> | undefined): Promise<void> | undefined {
    const nodes = LOCK_KINDS.map((kind) => this.#nodes[kind].get(open.node)).filter((found) => found !== undefined);
    if (nodes.length === 0) return undefined;
    return this.#releaseFrom(nodes, open, idle);
  }

  /** The session has ended: it waits for nothing. Its locks go with its opens. */
  async endSession(session: LockSession): Promise<void> {
    const client = this.#clients.get(session);
    if (client === undefined) return;
    this.#clients.delete(session);
    await Promise.all([...client.waits.values()].map((wait) => wait.nodeLocks.cancel(wait)));
  }

  /** The session is back, or its time is over: those who wait for it, and its own waits, are looked at anew. */
  reconsider(session: LockSession): void {
    const client = this.#clients.get(session);
    if (client === undefined) return;
    for (const kind of LOCK_KINDS) {
      for (const nodeLocks of this.#nodes[kind].values()) {
        // #wake tells of every failure itself.
        if (nodeLocks.space.waiters.length > 0) void nodeLocks.wake();
      }
    }
  }

  /** What is locked through an open, and what is reserved: plain data, from which `restore` makes the same. */
  locksOf(open: LockOpen): KeptLock[] {
    const locks: KeptLock[] = [];
    for (const kind of LOCK_KINDS) {
      for (const held of this.#nodes[kind].get(open.node)?.space.held() ?? []) {
        if (held.through !== open) continue;
        const { type, startBytes, endBytes } = held;
        const { owner, pid } = held.locker as ClientLocker;
        const { waitId = 0 } = held as Partial<Wait>;
        locks.push({ kind, type, startBytes, endBytes, owner, pid, waitId });
      }
    }
    return locks;
  }

  /** Takes locks again that an open had before the server was started. @returns those somebody else has. */
  async restore(session: LockSession, open: LockOpen, locks: readonly KeptLock[]): Promise<KeptLock[]> {
    const lost: KeptLock[] = [];
    for (const lock of locks) {
      try {
        await this.#restoreOne(session, open, lock);
      } catch {
        lost.push(lock);
      }
    }
    return lost;
  }

  /**
   * Reads or changes a range, if no other open has locked any of it: against reading only what is locked exclusively counts. Locks that would forbid it wait
   * for its end.
   *
   * @throws FsError EAGAIN.
   */
  async unlessLocked<T>(access: FileAccess, act: () => Promise<T>): Promise<T> {
    for (const kind of LOCK_KINDS) {
      for (const held of this.#nodes[kind].get(access.node)?.space.held() ?? []) {
        if (isForbidden(access, held)) throw new FsError("EAGAIN", access.access);
      }
    }
    const done = act();
    const current = { access, done };
    this.#accesses.add(current);
    try {
      return await done;
    } finally {
      this.#accesses.delete(current);
    }
  }

  /** Settles when nothing is under way that a lock forbids, whatever became of it. @returns whether anything was. */
  async #accessesEnd(node: NodeId, held: Wish<LockOpen>): Promise<boolean> {
    const ends: Promise<unknown>[] = [];
    for (const { access, done } of this.#accesses) {
      if (access.node === node && isForbidden(access, held)) ends.push(done);
    }
    if (ends.length > 0) await Promise.allSettled(ends);
    return ends.length > 0;
  }

  /** There was room for it. */
  async #restoreOne(session: LockSession, open: LockOpen, lock: KeptLock): Promise<void> {
    const client = this.#clientOf(session);
    const locker = this.#lockerOf(client, open, lock);
    const nodeLocks = this.#nodeLocks(lock.kind, open.node);
    const { waitId } = lock;
    const wait = { ...wishOf(locker, open, lock), space: nodeLocks.space, client, waitId, nodeLocks };
    checkAccess(open, lock);
    locker.beginRequest();
    locker.pid = lock.pid;
    try {
      if (waitId === 0) await nodeLocks.lock(wait, undefined);
      else {
        await nodeLocks.reserveAgain(wait);
        client.waits.set(waitId, wait);
      }
    } finally {
      locker.endRequest();
    }
  }

  async #lockWaiting(wait: Wait): Promise<Attr | undefined> {
    const { client, waitId, nodeLocks } = wait;
    const asked = client.waits.get(waitId);
    if (asked !== undefined) {
      if (!isSameWish(asked, wait)) throw new FsError("EINVAL", "setlk");
    } else {
      if (client.waits.size >= this.#limits.lockWaitsPerSessionMax) throw new FsError("ENOLCK", "setlk");
      this.#checkRoom(client);
      client.waits.set(waitId, wait);
    }
    try {
      const attr = await (asked === undefined ? nodeLocks.lock(wait, wait) : nodeLocks.lockAgain(asked));
      if (attr !== undefined) client.waits.delete(waitId);
      // What was over meanwhile has begun again.
      else if (asked !== undefined) client.waits.set(waitId, asked);
      return attr;
    } catch (error) {
      client.waits.delete(waitId);
      throw error;
    }
  }

  async #releaseFrom(nodes: readonly NodeLocks[], open: LockOpen, idle: Promise<void> | undefined): Promise<void> {
    // What others ask for meanwhile is answered: the locks are held still.
    if (idle !== undefined) await idle;
    await Promise.all(nodes.map((nodeLocks) => nodeLocks.drop(open)));
    for (const { waits } of this.#clients.values()) {
      for (const [waitId, { through }] of waits) if (through === open) waits.delete(waitId);
    }
  }

  #ready({ client, waitId, through }: Wait, outcome: Attr | ErrnoName): void {
    if (typeof outcome === "string") client.waits.delete(waitId);
    client.session.lockReady(waitId, outcome, through);
  }

  /** Who waits now may be waited for by those he waits for: they need not stand behind each other any more. */
  #wakeReached(waiter: Waiter<LockOpen>): void {
    // Nobody waits for one who has nothing.
    if (waiter.locker.count === 0) return;
    const reached = reachedFrom([waiter.locker], "order");
    const spaces = reached && new Set([...reached].flatMap(({ waiters }) => [...waiters].map(({ space }) => space)));
    for (const kind of LOCK_KINDS) {
      for (const nodeLocks of this.#nodes[kind].values()) {
        // #wake tells of every failure itself.
        if (spaces?.has(nodeLocks.space) ?? true) void nodeLocks.wake();
      }
    }
  }

  #checkRoom({ tally }: Client): void {
    if (tally.count >= this.#limits.locksPerSessionMax) throw new FsError("ENOLCK", "setlk");
  }

  #clientOf(session: LockSession): Client {
    let client = this.#clients.get(session);
    if (client === undefined) {
      client = { session, tally: { count: 0 }, lockers: new Map(), waits: new Map() };
      this.#clients.set(session, client);
    }
    return client;
  }

  #lockerOf(client: Client, open: LockOpen, { kind, owner }: Lock): ClientLocker {
    const key = kind === "flock" ? open : owner;
    let locker = client.lockers.get(key);
    if (locker === undefined) {
      locker = new ClientLocker(client, key, owner);
      client.lockers.set(key, locker);
    }
    return locker;
  }

  #nodeLocks(kind: LockKind, node: NodeId): NodeLocks {
    let nodeLocks = this.#nodes[kind].get(node);
    if (nodeLocks === undefined) {
      nodeLocks = new NodeLocks(kind, node, this.#around);
      this.#nodes[kind].set(node, nodeLocks);
    }
    return nodeLocks;
  }
}

function wishOf(locker: ClientLocker, through: LockOpen, { type, startBytes, endBytes }: Lock): Wish<LockOpen> {
  if (type === "unlock" || startBytes > endBytes || endBytes > LOCK_END) throw new FsError("EINVAL", "lock");
  return { locker, through, type, startBytes, endBytes };
}

function isForbidden(access: FileAccess, held: Wish<LockOpen>): boolean {
  if (held.through === access.open || !overlaps(held, access)) return false;
  return access.access === "write" || held.type === "write";
}

/** As fcntl(2) has it; flock(2) asks for nothing. */
function checkAccess({ flags }: LockOpen, { kind, type }: Lock): void {
  const needed = type === "write" ? OpenFlag.WRITE : OpenFlag.READ;
  if (kind === "posix" && (flags & needed) === 0) throw new FsError("EBADF", "setlk");
}

function isSameWish(a: Wait, b: Wait): boolean {
  const { locker, through, type, startBytes, endBytes } = a;
  return (
    locker === b.locker &&
    through === b.through &&
    type === b.type &&
    startBytes === b.startBytes &&
    endBytes === b.endBytes
  );
}
