/**
 * Credits: the right to have one request outstanding, and with it some bytes on their way.
 *
 * The server grants how many credits and bytes there are at most; within that the byte window follows the line's measured
 * bandwidth-delay product (bandwidth-estimate.ts). Transfers take one credit a section, and wait in line when there is none.
 * A credit is a small integer, so that taking and returning one allocates nothing. No timer and no Promise is in here.
 *
 * Order: a waiter of a higher priority goes first; within a priority first come, first served, one credit a turn, so that transfers that
 * line up again after each section share the window evenly. Nobody passes a waiter of the same or a higher priority, also
 * not where a smaller request would still fit: that would starve the large one.
 *
 * A request that hangs in the server keeps its credit, but does not hold up the line: when a request sent well after it is answered, it
 * counts no longer as on its way; and when nothing is answered for long, one request more is let go, to find that out.
 *
 * Queue: the line of waiters is bounded by `waitersMax`; beyond it `wait` refuses, and the caller fails its request (ENOBUFS).
 */
import assert from "node:assert/strict";
import { RequestPriority } from "../vfs/file-system.ts";
import { BandwidthEstimate, type LineFigures } from "./bandwidth-estimate.ts";

/** The most credits a session can hold, whatever the server grants. */
export const CREDITS_MAX = 4096;

/** All but FOREGROUND leave this share of the window free, which a foreground request then finds. */
const RESERVE_SHARE = 8;
const PRIORITIES = 3;

/** A request is overtaken when one sent so much later is answered. Channels and disks reorder by less. */
const OVERTAKEN_MS = 100;
/** Nothing was answered for this long and for so many round trips: the window may be full of requests that hang. */
const STALL_MS_MIN = 1000;
const STALL_ROUND_TRIPS = 8;

const FREE = 0;
const HELD = 1;
/** Held since before the line was forgotten: its answer says nothing about the new line. */
const HELD_STALE = 2;

/**
 * A place in the line, made once by its transfer and used again for each section.
 *
 * `onCredit` is called from inside `release`, `abandon`, `grant` or `cancel` of another one, with a credit that the waiter then owns; it may call the window
 * again, and must not throw.
 */
export class CreditWaiter {
  readonly priority: RequestPriority;
  readonly onCredit: (credit: number, nowMs: number) => void;
  /** Bytes of the request it waits for; set before `wait`, untouched while waiting. */
  bytes = 0;
  /** The line's own: neighbours and whether it stands in line. Nobody else touches them. */
  next: CreditWaiter | undefined;
  previous: CreditWaiter | undefined;
  waiting = false;

  constructor(priority: RequestPriority, onCredit: (credit: number, nowMs: number) => void) {
    this.priority = priority;
    this.onCredit = onCredit;
  }
}

/** What the window looks like now, for status pages. */
export interface CreditFigures extends LineFigures {
  readonly creditsLimit: number;
  readonly creditsHeld: number;
  readonly bytesLimit: number;
  readonly inFlightBytes: number;
  readonly waiters: number;
}

export class CreditWindow {
  readonly #estimate: BandwidthEstimate;
  readonly #waitersMax: number;
  readonly #bytesMin: number;
  readonly #creditsMax: number;
  readonly #state: Uint8Array;
  readonly #bytes: Float64Array;
  readonly #sentMs: Float64Array;
  /** Whether the bytes of a held credit still count as on their way. */
  readonly #onLine: Uint8Array;
  /** Those credits in the order of sending: neighbours, -1 at the ends. */
  readonly #later: Int16Array;
  readonly #earlier: Int16Array;
  #oldest = -1;
  #latest = -1;
  /** Stack of free credits, the top at #freeCount - 1. */
  readonly #free: Uint16Array;
  readonly #heads: (CreditWaiter | undefined)[] = new Array(PRIORITIES).fill(undefined);
  readonly #tails: (CreditWaiter | undefined)[] = new Array(PRIORITIES).fill(undefined);
  // INVARIANT: every credit is either in the stack or held, never both: #freeCount + held = #creditsMax.
  #freeCount: number;
  #creditsLimit: number;
  #bytesLimit: number;
  // INVARIANT: the bytes of all held credits, and of those that are not overtaken.
  #inFlightBytes = 0;
  #onLineBytes = 0;
  /** When a credit was last taken or its request answered. */
  #progressMs = 0;
  // INVARIANT: at most waitersMax; while any waits and no call is under way, the first in line has no room.
  #waiters = 0;
  #pumping = false;

  /**
   * @param options.credits  granted by the server; 0 stops all sending until the next grant.
   * @param options.bytes  granted by the server for all requests on their way.
   * @param options.creditsMax  the most there will ever be, whatever is granted later: memory is set aside for them.
   * @param options.bytesMin  the byte window does not shrink below this (nor rise above `bytes` because of it).
   * @param options.roundTripMs  of the line, where it is known before the first answer.
   */
  constructor(options: {
    credits: number;
    bytes: number;
    bytesMin: number;
    waitersMax: number;
    creditsMax?: number;
    roundTripMs?: number;
  }) {
    const creditsMax = Math.min(options.creditsMax ?? CREDITS_MAX, CREDITS_MAX);
    this.#creditsMax = creditsMax;
    this.#state = new Uint8Array(creditsMax);
    this.#bytes = new Float64Array(creditsMax);
    this.#sentMs = new Float64Array(creditsMax);
    this.#onLine = new Uint8Array(creditsMax);
    this.#later = new Int16Array(creditsMax).fill(-1);
    this.#earlier = new Int16Array(creditsMax).fill(-1);
    this.#free = new Uint16Array(creditsMax);
    this.#freeCount = creditsMax;
    this.#creditsLimit = Math.min(options.credits, creditsMax);
    this.#bytesLimit = options.bytes;
    this.#bytesMin = options.bytesMin;
    this.#waitersMax = options.waitersMax;
    this.#estimate = new BandwidthEstimate({
      stampsMax: creditsMax,
      windowBytesMin: Math.min(options.bytesMin, options.bytes),
      windowBytesMax: options.bytes,
      roundTripMs: options.roundTripMs ?? 0,
    });
    // The smallest credits come first, so that few cache lines are used.
    for (let at = 0; at < creditsMax; at++) this.#free[at] = creditsMax - 1 - at;
  }

  /** Credits in use. */
  get held(): number {
    return this.#creditsMax - this.#freeCount;
  }

  get inFlightBytes(): number {
    return this.#inFlightBytes;
  }

  /** Requests that stand in line. */
  get waiterCount(): number {
    return this.#waiters;
  }

  /** When a credit was last taken or its request answered. */
  get progressMs(): number {
    return this.#progressMs;
  }

  /** Bytes that may be on their way at this moment. */
  get windowBytes(): number {
    return this.#estimate.windowBytes;
  }

  /** What fills the line, bytes: its bandwidth times its round trip, as far as is known. */
  get lineBytes(): number {
    return this.#estimate.productBytes;
  }

  get figures(): CreditFigures {
    return {
      ...this.#estimate.figures,
      creditsLimit: this.#creditsLimit,
      creditsHeld: this.held,
      bytesLimit: this.#bytesLimit,
      inFlightBytes: this.#inFlightBytes,
      waiters: this.#waiters,
    };
  }

  /**
   * Takes a credit for a request of `bytes` that is sent now.
   *
   * A request larger than the whole window is let through when nothing else is on its way, so that none waits for ever.
   *
   * @returns the credit, to be given back once by `release` or `abandon`; -1 if there is none or others are first.
   */
  tryAcquire(bytes: number, priority: RequestPriority, nowMs: number): number {
    if (this.#waiters > 0) this.#pump(nowMs);
    for (let ahead = 0; ahead <= priority; ahead++) {
      if (this.#heads[ahead] !== undefined) return this.#refuse(nowMs);
    }
    if (!this.#hasRoom(bytes, priority, nowMs)) return this.#refuse(nowMs);
    return this.#take(bytes, nowMs);
  }

  /**
   * Lines up for a credit; `onCredit` may be called before this returns.
   *
   * @returns false if the line is full; the waiter then does not stand in it.
   */
  wait(waiter: CreditWaiter, nowMs: number): boolean {
    assert(!waiter.waiting, "a waiter stands in line once");
    if (this.#waiters >= this.#waitersMax) return false;
    const tail = this.#tails[waiter.priority];
    waiter.previous = tail;
    waiter.next = undefined;
    waiter.waiting = true;
    if (tail === undefined) this.#heads[waiter.priority] = waiter;
    else tail.next = waiter;
    this.#tails[waiter.priority] = waiter;
    this.#waiters++;
    this.#pump(nowMs);
    return true;
  }

  /** Leaves the line. @returns whether it stood there; if not, its credit has been given already or it never waited. */
  cancel(waiter: CreditWaiter, nowMs: number): boolean {
    if (!waiter.waiting) return false;
    this.#remove(waiter);
    this.#pump(nowMs);
    return true;
  }

  /**
   * The request was answered (well or badly): its credit is free, and the answer's time counts for the estimate.
   *
   * @param bytes  that came through, where they are not all it was for: a read at the end of a file, an error.
   */
  release(credit: number, nowMs: number, bytes = this.#bytes[credit] ?? 0): void {
    // An overtaken one says how long it hung, nothing of the line.
    const counts = this.#state[credit] === HELD && this.#onLine[credit] === 1;
    this.#give(credit);
    this.#overtake((this.#sentMs[credit] ?? 0) - OVERTAKEN_MS);
    this.#progressMs = nowMs;
    if (counts) this.#estimate.answered(credit, bytes, nowMs);
    this.#pump(nowMs);
  }

  /** The request will have no answer (withdrawn, timed out, its connection died): its credit is free, nothing is learnt. */
  abandon(credit: number, nowMs: number): void {
    this.#give(credit);
    this.#pump(nowMs);
  }

  /** Time passes: to be called about once a second while requests are outstanding, so that waiters get on when all others hang. */
  tick(nowMs: number): void {
    this.#pump(nowMs);
  }

  /** The server grants anew. Below what is in flight, nothing more leaves until enough has been answered. */
  grant(credits: number, bytes: number, nowMs: number): void {
    this.#creditsLimit = Math.min(credits, this.#creditsMax);
    this.#bytesLimit = bytes;
    this.#estimate.setBounds(Math.min(this.#bytesMin, bytes), bytes);
    this.#pump(nowMs);
  }

  /** Forgets what was learnt about the line, because another connection takes its place, with this round trip if it is known. Credits held stay held. */
  forgetLine(roundTripMs = 0): void {
    this.#estimate.reset(roundTripMs);
    for (let credit = 0; credit < this.#creditsMax; credit++) {
      if (this.#state[credit] === HELD) this.#state[credit] = HELD_STALE;
    }
  }

  #refuse(nowMs: number): -1 {
    this.#estimate.full(nowMs);
    return -1;
  }

  #hasRoom(bytes: number, priority: RequestPriority, nowMs: number): boolean {
    const { held } = this;
    if (held === 0) return this.#creditsLimit > 0;
    const background = priority !== RequestPriority.FOREGROUND;
    const creditsReserve = background ? Math.floor(this.#creditsLimit / RESERVE_SHARE) : 0;
    if (held >= this.#creditsLimit - creditsReserve) return false;
    if (this.#inFlightBytes + bytes > this.#bytesLimit) return false;
    const window = this.#estimate.windowBytes;
    const reserve = background ? window / RESERVE_SHARE : 0;
    return this.#onLineBytes + bytes <= window - reserve || this.#isStalled(nowMs);
  }

  #isStalled(nowMs: number): boolean {
    const silentMs = nowMs - this.#progressMs;
    return silentMs >= STALL_MS_MIN && silentMs >= STALL_ROUND_TRIPS * this.#estimate.roundTripMs;
  }

  #take(bytes: number, nowMs: number): number {
    const credit = this.#free[--this.#freeCount] ?? 0;
    this.#state[credit] = HELD;
    this.#bytes[credit] = bytes;
    this.#estimate.sent(credit, this.#onLineBytes, nowMs);
    this.#inFlightBytes += bytes;
    this.#sentMs[credit] = nowMs;
    this.#progressMs = nowMs;
    this.#enterLine(credit);
    return credit;
  }

  #give(credit: number): void {
    assert(this.#state[credit] === HELD || this.#state[credit] === HELD_STALE, "a credit is given back once");
    this.#state[credit] = FREE;
    this.#inFlightBytes -= this.#bytes[credit] ?? 0;
    if (this.#onLine[credit] === 1) this.#leaveLine(credit);
    this.#free[this.#freeCount++] = credit;
  }

  #enterLine(credit: number): void {
    this.#onLineBytes += this.#bytes[credit] ?? 0;
    this.#onLine[credit] = 1;
    this.#earlier[credit] = this.#latest;
    this.#later[credit] = -1;
    if (this.#latest === -1) this.#oldest = credit;
    else this.#later[this.#latest] = credit;
    this.#latest = credit;
  }

  #leaveLine(credit: number): void {
    this.#onLineBytes -= this.#bytes[credit] ?? 0;
    this.#onLine[credit] = 0;
    const earlier = this.#earlier[credit] ?? -1;
    const later = this.#later[credit] ?? -1;
    if (earlier === -1) this.#oldest = later;
    else this.#later[earlier] = later;
    if (later === -1) this.#latest = earlier;
    else this.#earlier[later] = earlier;
  }

  /** What was sent before `sentMs` and is not answered hangs somewhere behind the line. */
  #overtake(sentMs: number): void {
    while (this.#oldest !== -1 && (this.#sentMs[this.#oldest] ?? 0) < sentMs) this.#leaveLine(this.#oldest);
  }

  #remove(waiter: CreditWaiter): void {
    const { previous, next, priority } = waiter;
    if (previous === undefined) this.#heads[priority] = next;
    else previous.next = next;
    if (next === undefined) this.#tails[priority] = previous;
    else next.previous = previous;
    waiter.previous = undefined;
    waiter.next = undefined;
    waiter.waiting = false;
    this.#waiters--;
  }

  #first(): CreditWaiter | undefined {
    if (this.#waiters === 0) return undefined;
    return this.#heads[0] ?? this.#heads[1] ?? this.#heads[2];
  }

  /** Serves the line as far as there is room. A call from inside `onCredit` leaves it to the loop that is already running. */
  #pump(nowMs: number): void {
    if (this.#pumping) return;
    this.#pumping = true;
    try {
      for (let waiter = this.#first(); waiter !== undefined; waiter = this.#first()) {
        if (!this.#hasRoom(waiter.bytes, waiter.priority, nowMs)) {
          this.#estimate.full(nowMs);
          return;
        }
        this.#remove(waiter);
        waiter.onCredit(this.#take(waiter.bytes, nowMs), nowMs);
      }
    } finally {
      this.#pumping = false;
    }
  }

  /** For tests: fails if an invariant does not hold. */
  checkInvariants(): void {
    const free = new Set(this.#free.subarray(0, this.#freeCount));
    assert.equal(free.size, this.#freeCount, "no credit is free twice");
    let bytes = 0;
    let lineBytes = 0;
    for (let credit = 0; credit < this.#creditsMax; credit++) {
      assert.equal(this.#state[credit] === FREE, free.has(credit), "a credit is free or held");
      if (this.#state[credit] === FREE) continue;
      bytes += this.#bytes[credit] ?? 0;
      if (this.#onLine[credit] === 1) lineBytes += this.#bytes[credit] ?? 0;
    }
    assert.equal(this.#inFlightBytes, bytes, "bytes of all held credits");
    assert.equal(this.#onLineBytes, lineBytes, "bytes of those on their way");
    let onLine = 0;
    let sentMs = Number.NEGATIVE_INFINITY;
    for (let credit = this.#oldest; credit !== -1; credit = this.#later[credit] ?? -1) {
      const inOrder = (this.#sentMs[credit] ?? 0) >= sentMs;
      assert(this.#state[credit] !== FREE && this.#onLine[credit] === 1 && inOrder, "the line is in order");
      sentMs = this.#sentMs[credit] ?? 0;
      onLine++;
    }
    assert.equal(
      this.#onLine.reduce((sum, each) => sum + each, 0),
      onLine,
      "who is on the line is in its order",
    );
    let waiters = 0;
    for (let priority = 0; priority < PRIORITIES; priority++) {
      let previous: CreditWaiter | undefined;
      for (let waiter = this.#heads[priority]; waiter !== undefined; waiter = waiter.next) {
        assert(waiter.waiting && waiter.priority === priority && waiter.previous === previous, "the line is whole");
        previous = waiter;
        waiters++;
      }
      assert.equal(this.#tails[priority], previous, "the line's end");
    }
    assert.equal(waiters, this.#waiters, "waiters are counted");
    assert(waiters <= this.#waitersMax, "the line is bounded");
    const first = this.#first();
    if (first !== undefined && !this.#pumping) {
      // At the time of the last progress, that is without a stall.
      const room = this.#hasRoom(first.bytes, first.priority, this.#progressMs);
      assert(!room, "nobody waits while there is room");
    }
    this.#estimate.checkInvariants();
  }
}
