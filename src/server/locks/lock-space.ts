/**
 * The locks of one kind on one node: what is held, what is reserved, and who waits, in order. Pure; nothing here waits or calls anybody.
 *
 * A **locker** is who holds: a lock owner of one session (fcntl) or an open (flock). A lock somebody waited for is **reserved** when it becomes free, and
 * held when its locker asks again; until then it is in the way of others as if it were held, and can be given back without a trace.
 * Who waits goes in order: not past an earlier one whose wish conflicts with his, unless that one waits for him (then each would wait for the other).
 *
 * INVARIANT: no two lockers have conflicting ranges, held or reserved.
 */
import { conflicts, type HeldType, type LockRange } from "../../vfs/lock.ts";
import { type LockPiece, LockRanges, unionOf } from "../../vfs/lock-ranges.ts";

/** Steps of a search for who waits for whom; beyond, the search is given up. */
const STEPS_MAX = 10_000;

export interface LockerOptions {
  /** How many locks the lockers of one session have together. */
  readonly tally?: { count: number };
  readonly isAway?: () => boolean;
  /** It has and wants nothing any more; perhaps not for the first time. */
  readonly onIdle?: () => void;
}

/** One who can hold locks; compared by identity. `O` is an open. */
export class Locker<O> {
  /** What is waited for, or reserved. */
  readonly waiters = new Set<Waiter<O>>();
  /** Ranges it has in all spaces, and wishes that are reserved. */
  count = 0;
  /** The process that locked last, at its client. */
  pid = 0;
  readonly #options: LockerOptions;
  #requests = 0;

  constructor(options: LockerOptions = {}) {
    this.#options = options;
  }

  /** Nobody is there to take a lock. */
  get isAway(): boolean {
    return this.#options.isAway?.() ?? false;
  }

  addToCount(difference: number): void {
    this.count += difference;
    if (this.#options.tally !== undefined) this.#options.tally.count += difference;
    this.checkIdle();
  }

  /** A request of this locker begins; `endRequest` must follow. */
  beginRequest(): void {
    this.#requests += 1;
  }

  endRequest(): void {
    this.#requests -= 1;
    this.checkIdle();
  }

  checkIdle(): void {
    if (this.count === 0 && this.waiters.size === 0 && this.#requests === 0) this.#options.onIdle?.();
  }
}

/** A lock asked for. */
export interface Wish<O> extends LockRange {
  readonly locker: Locker<O>;
  /** The open it is asked for through. */
  readonly through: O;
  readonly type: HeldType;
}

/** A wish that waits, or is reserved. */
export interface Waiter<O> extends Wish<O> {
  readonly space: LockSpace<O>;
}

/** A range that somebody has. */
export interface Held<O> extends LockRange {
  readonly locker: Locker<O>;
  readonly through: O;
  readonly type: HeldType;
}

export class LockSpace<O> {
  readonly #held = new Map<Locker<O>, LockRanges<O>>();
  readonly #reserved = new Set<Waiter<O>>();
  /** In the order of their coming. */
  #waiters: Waiter<O>[] = [];

  get isEmpty(): boolean {
    return this.#held.size === 0 && this.#reserved.size === 0 && this.#waiters.length === 0;
  }

  /** In the order of their coming; not to be kept across a change. */
  get waiters(): readonly Waiter<O>[] {
    return this.#waiters;
  }

  /** Everything held and reserved. */
  *held(): Generator<Held<O>> {
    for (const [locker, ranges] of this.#held) for (const range of ranges.all) yield { ...range, locker };
    yield* this.#reserved;
  }

  rangesOf(locker: Locker<O>): LockRanges<O> | undefined {
    return this.#held.get(locker);
  }

  /** The first range of each other locker that `wish` cannot be held beside. */
  *obstacles(wish: Wish<O>): Generator<Held<O>> {
    for (const [locker, ranges] of this.#held) {
      const range = locker === wish.locker ? undefined : ranges.conflictWith(wish);
      if (range !== undefined) yield { ...range, locker };
    }
    for (const reserved of this.#reserved) {
      if (reserved.locker !== wish.locker && conflicts(reserved, wish)) yield reserved;
    }
  }

  obstacle(wish: Wish<O>): Held<O> | undefined {
    const { value } = this.obstacles(wish).next();
    return value ?? undefined;
  }

  /** Whether a wish has to let somebody go first who waits already: anybody, or who came before `wish` if that waits itself. */
  isBehind(wish: Wish<O>): boolean {
    for (const { locker } of this.waitersBefore(wish)) {
      // Who is away is passed over, and keeps his place.
      if (!locker.isAway && !waitsFor([locker], wish.locker, "order")) return true;
    }
    return false;
  }

  /** Whose wishes conflict with this one and came before it. */
  *waitersBefore(wish: Wish<O>): Generator<Waiter<O>> {
    for (const waiter of this.#waiters) {
      if (waiter === wish) return;
      if (waiter.locker !== wish.locker && conflicts(waiter, wish)) yield waiter;
    }
  }

  /** Whether waiting for this would be waiting for oneself. */
  isDeadlock(wish: Wish<O>): boolean {
    const blockers = [...this.obstacles(wish)].map(({ locker }) => locker);
    return waitsFor(blockers, wish.locker, "held");
  }

  /** Holds what is free for this locker; merged with what he has. */
  hold(wish: Wish<O>): void {
    this.#change(wish.locker, (ranges) => ranges.set(wish, wish.type, wish.through));
  }

  unlock(locker: Locker<O>, range: LockRange): void {
    if (this.#held.has(locker)) this.#change(locker, (ranges) => ranges.clear(range));
  }

  wait(waiter: Waiter<O>): void {
    this.#waiters.push(waiter);
    waiter.locker.waiters.add(waiter);
  }

  /** What was waited for is free for this locker: nobody else gets it. */
  reserve(waiter: Waiter<O>): void {
    this.#waiters = this.#waiters.filter((other) => other !== waiter);
    this.#reserved.add(waiter);
    waiter.locker.addToCount(1);
  }

  isReserved(waiter: Waiter<O>): boolean {
    return this.#reserved.has(waiter);
  }

  /** What is reserved for a locker and lies in a range, all of it. */
  reservedWithin(locker: Locker<O>, { startBytes, endBytes }: LockRange): Waiter<O>[] {
    return [...locker.waiters].filter(
      (waiter) => this.#reserved.has(waiter) && waiter.startBytes >= startBytes && waiter.endBytes <= endBytes,
    );
  }

  /** Waits no more, and has nothing reserved. @returns whether anything was reserved. */
  dismiss(waiter: Waiter<O>): boolean {
    waiter.locker.waiters.delete(waiter);
    if (this.#reserved.delete(waiter)) {
      waiter.locker.addToCount(-1);
      return true;
    }
    this.#waiters = this.#waiters.filter((other) => other !== waiter);
    waiter.locker.checkIdle();
    return false;
  }

  /** Gives up what is held, reserved or waited for through an open. @returns the ranges that were held or reserved. */
  dropThrough(through: O): LockRange[] {
    const gone: LockRange[] = [];
    for (const locker of [...this.#held.keys()]) {
      this.#change(locker, (ranges) => gone.push(...ranges.clearThrough(through)));
    }
    for (const waiter of [...this.#waiters, ...this.#reserved]) {
      if (waiter.through === through && this.dismiss(waiter)) gone.push(waiter);
    }
    return gone;
  }

  /** How a stretch is locked by all together. */
  pieces(within: LockRange): LockPiece[] {
    return unionOf(this.held(), within);
  }

  /** Throws where the INVARIANT does not hold; for tests. */
  checkInvariants(): void {
    for (const ranges of this.#held.values()) {
      ranges.checkInvariants();
      if (ranges.size === 0) throw new Error("a locker without ranges is kept");
    }
    const all = [...this.held()];
    for (const a of all) {
      for (const b of all) {
        if (a.locker !== b.locker && conflicts(a, b)) throw new Error("conflicting locks are held");
      }
    }
  }

  #change(locker: Locker<O>, act: (ranges: LockRanges<O>) => void): void {
    const ranges = this.#held.get(locker) ?? new LockRanges<O>();
    const before = ranges.size;
    act(ranges);
    locker.addToCount(ranges.size - before);
    if (ranges.size === 0) this.#held.delete(locker);
    else this.#held.set(locker, ranges);
  }
}

/** For whom a wish waits: those who hold what it needs, and with "order" those who came before it, too. */
function* blockersOf<O>(waiter: Waiter<O>, edges: "held" | "order"): Generator<Locker<O>> {
  if (waiter.space.isReserved(waiter)) return;
  for (const { locker } of waiter.space.obstacles(waiter)) yield locker;
  if (edges === "order") for (const { locker } of waiter.space.waitersBefore(waiter)) yield locker;
}

/** Everybody whom `starts` wait for, through any number of others, themselves included. Undefined if the search takes too long. */
export function reachedFrom<O>(starts: Iterable<Locker<O>>, edges: "held" | "order"): Set<Locker<O>> | undefined {
  const reached = new Set<Locker<O>>(starts);
  let steps = 0;
  for (const locker of reached) {
    for (const waiter of locker.waiters) {
      for (const blocker of blockersOf(waiter, edges)) {
        reached.add(blocker);
        steps += 1;
        if (steps > STEPS_MAX) return undefined;
      }
    }
  }
  return reached;
}

/**
 * Whether one of `starts` waits for `target`, through any number of others.
 *
 * A search that takes too long finds no deadlock, as the kernel's own gives up; and it lets nobody stand behind another.
 */
function waitsFor<O>(starts: Iterable<Locker<O>>, target: Locker<O>, edges: "held" | "order"): boolean {
  // For one who has nothing and stands nowhere nobody waits; that is nearly everybody.
  if (target.count === 0 && target.waiters.size === 0) return false;
  return reachedFrom(starts, edges)?.has(target) ?? edges === "order";
}
