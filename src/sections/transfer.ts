/**
 * One large read or write on its way in sections: what to send next, what is still outstanding, and how it ends.
 *
 * It owns no buffer, no credit, no timer and no connection; a driver sends what `nextToSend` names, tells what happened, and looks at `state`.
 * Answers come in any order; second, late and unwanted ones change nothing.
 *
 *     planned    nothing was sent.                                  -> sending, done (empty range), failed, cancelled
 *     sending    there is a section to send.                        -> draining, done, failed, cancelled
 *     draining   nothing to send, some in flight. With `verdict`    -> sending (a section goes again), done, failed, cancelled
 *                the end is decided and only the buffer is awaited.
 *     done       every section up to the end has succeeded.
 *     failed     as a whole, by the first error.
 *     cancelled
 *
 * The first error stops the sending at once, and `draining.verdict` tells it at once; but the last three states are entered only when nothing is in
 * flight any more, because until then the transport may read from or write into the request's buffer. To end sooner the driver
 * withdraws sections from the transport and says so (`withdrawn`, `linkLost`).
 *
 * A retried write is safe only where the earlier attempt cannot be executed after a later request of the same range: on the same
 * channel (which keeps the order), or on a new one after the old one is dead on both sides.
 */
import assert from "node:assert/strict";
import type { ErrnoName } from "../base/errno.ts";
import { CloseCode, ProtocolError } from "../base/errors.ts";
import { SectionBitmap } from "./section-bitmap.ts";
import type { SectionPlan } from "./section-plan.ts";

/** How a transfer ends if not well. */
export type TransferVerdict = { readonly t: "failed"; readonly errno: ErrnoName } | { readonly t: "cancelled" };

export type TransferState =
  | { readonly t: "planned" }
  | { readonly t: "sending" }
  | { readonly t: "draining"; readonly verdict: TransferVerdict | undefined }
  | { readonly t: "done"; readonly bytes: number }
  | TransferVerdict;

export type TransferKind = "read" | "write";

const NEVER_SENT = -1;
const SENDING: TransferState = { t: "sending" };
const DRAINING: TransferState = { t: "draining", verdict: undefined };
const CANCELLED: TransferVerdict = { t: "cancelled" };

export class Transfer {
  readonly #attemptsMax: number;
  #plan: SectionPlan;
  #kind: TransferKind;
  #state: TransferState = { t: "planned" };
  #verdict: TransferVerdict | undefined;
  // INVARIANT: exactly the sections below the end that have not succeeded; the resume list.
  readonly #outstanding = new SectionBitmap(0);
  // INVARIANT: what is to be sent, and what was sent and not settled; no section is in both. Without a verdict, outstanding ones are in one.
  readonly #unsent = new SectionBitmap(0);
  readonly #inFlight = new SectionBitmap(0);
  /** The driver's name of the last request of each section. */
  #tickets = new Float64Array(0);
  #strikes = new Uint8Array(0);
  /** Where to look for the next unsent section; there is none below it. */
  #cursor = 0;
  // INVARIANT: bytes of the range that count: all, unless a short answer has shown where the file or the disk ends.
  #endBytes = 0;

  /** `attemptsMax`: a section is tried this often before its timeout or refusal fails the whole; a lost link does not count. */
  constructor(plan: SectionPlan, kind: TransferKind, attemptsMax: number) {
    assert(attemptsMax >= 1 && attemptsMax <= 255, "attempts");
    this.#attemptsMax = attemptsMax;
    this.#plan = plan;
    this.#kind = kind;
    this.#begin();
  }

  /**
   * Starts over with another range, keeping the memory; only when settled, and when the driver will not pass on answers to the
   * earlier range any more.
   */
  begin(plan: SectionPlan, kind: TransferKind): void {
    assert(this.settled, "a transfer is used again when it has ended");
    this.#plan = plan;
    this.#kind = kind;
    this.#begin();
  }

  get plan(): SectionPlan {
    return this.#plan;
  }

  get state(): TransferState {
    return this.#state;
  }

  /** Whether it has ended, and the buffer is nobody's but the caller's. */
  get settled(): boolean {
    return this.#state.t === "done" || this.#state.t === "failed" || this.#state.t === "cancelled";
  }

  /** Sections that were sent and are not settled. */
  get inFlight(): number {
    return this.#inFlight.outstanding;
  }

  /** The sections that still have to succeed: what a resumed session sends again. A live view; read or encode it, do not change it. */
  get outstanding(): SectionBitmap {
    return this.#outstanding;
  }

  /** The section to send next, in rising order; -1 if there is none now. Does not change anything: `sent` does. */
  nextToSend(): number {
    if (this.#verdict !== undefined) return -1;
    return this.#unsent.next(this.#cursor);
  }

  /** Whether the section is still to be sent: a short answer may have shown that it lies behind the end. */
  isToSend(index: number): boolean {
    return this.#verdict === undefined && this.#unsent.has(index);
  }

  /**
   * The section was handed to the transport. `ticket` is the driver's name for this request (its tag): an integer that is not
   * used again for this section while an answer under it may still come.
   */
  sent(index: number, ticket: number): void {
    assert(this.#verdict === undefined && this.#unsent.clear(index), "only what is to be sent is sent");
    if (index === this.#cursor) this.#cursor = index + 1;
    this.#inFlight.set(index);
    this.#tickets[index] = ticket;
    this.#settle();
  }

  /**
   * The section succeeded with `bytes`. Fewer than asked for end the transfer there: for a read the file is no longer, for
   * a write the disk is full; what lies behind does not count, whether it was sent or not.
   *
   * @returns false for an answer nobody waits for.
   * @throws ProtocolError a section that was never sent, or more bytes than asked for; the transfer is unharmed.
   */
  answered(index: number, ticket: number, bytes: number): boolean {
    this.#checkSent(index);
    const lengthBytes = this.#plan.length(index);
    if (!(Number.isInteger(bytes) && bytes >= 0 && bytes <= lengthBytes)) {
      throw new ProtocolError(CloseCode.MALFORMED, `section of ${lengthBytes} bytes answered with ${bytes}`);
    }
    if (!this.#land(index, ticket)) return false;
    const counts = this.#outstanding.clear(index);
    if (counts && bytes < lengthBytes) {
      if (this.#kind === "write" && bytes === 0) this.#decide({ t: "failed", errno: "EIO" });
      else this.#endAt(this.#plan.position(index) + bytes);
    }
    this.#settle();
    return true;
  }

  /** One status for many: `count` sections from `first` on succeeded whole, those of them that are in flight under `ticket`. @throws ProtocolError as `answered`. */
  answeredRange(first: number, count: number, ticket: number): void {
    if (!(Number.isInteger(first) && first >= 0 && count >= 0 && first + count <= this.#plan.count)) {
      throw new ProtocolError(CloseCode.MALFORMED, "status of sections that are none");
    }
    for (let index = first; index < first + count; index++) this.#checkSent(index);
    for (let index = this.#inFlight.next(first); index !== -1 && index < first + count; ) {
      if (this.#land(index, ticket)) this.#outstanding.clear(index);
      index = this.#inFlight.next(index + 1);
    }
    this.#settle();
  }

  /** The section failed, and with it the whole; an error behind the end of the file that a read has found does not count. */
  refused(index: number, ticket: number, errno: ErrnoName): boolean {
    this.#checkSent(index);
    if (!this.#land(index, ticket)) return false;
    if (this.#kind === "write" || this.#outstanding.has(index)) this.#decide({ t: "failed", errno });
    this.#settle();
    return true;
  }

  /** The server asks to send the section again; after `attemptsMax` times the whole fails with `errno`. */
  postponed(index: number, ticket: number, errno: ErrnoName): boolean {
    this.#checkSent(index);
    if (!this.#land(index, ticket)) return false;
    this.#again(index, errno);
    this.#settle();
    return true;
  }

  /**
   * The section had no answer in time, or could not even leave, and the transport no longer touches its bytes: it goes again, or the whole fails with
   * ETIMEDOUT.
   */
  timedOut(index: number): void {
    assert(this.#inFlight.clear(index) || this.isToSend(index), "only what is in flight, or is to be, times out");
    this.#again(index, "ETIMEDOUT");
    this.#settle();
  }

  /** The transport gave the section back unanswered and no longer touches its bytes: it goes again, unless the end is decided. */
  withdrawn(index: number): void {
    assert(this.#inFlight.clear(index), "only what is in flight is withdrawn");
    this.#requeue(index);
    this.#settle();
  }

  /** The connections are gone, and no transport touches the buffer: exactly what is outstanding goes again, on the next one. */
  linkLost(): void {
    for (let index = this.#inFlight.next(0); index !== -1; index = this.#inFlight.next(index + 1)) {
      this.#inFlight.clear(index);
      this.#requeue(index);
    }
    this.#settle();
  }

  /** Nobody wants it any more. Ends as cancelled when nothing is in flight. */
  cancel(): void {
    this.#decide(CANCELLED);
    this.#settle();
  }

  /** It cannot succeed any more, for a reason beside any section (the session is over). Ends so when nothing is in flight. */
  fail(errno: ErrnoName): void {
    this.#decide({ t: "failed", errno });
    this.#settle();
  }

  #begin(): void {
    const { count } = this.#plan;
    this.#verdict = undefined;
    this.#outstanding.reset(count);
    this.#unsent.reset(count);
    this.#inFlight.reset(count, "empty");
    if (count > this.#tickets.length) {
      this.#tickets = new Float64Array(count);
      this.#strikes = new Uint8Array(count);
    }
    this.#tickets.fill(NEVER_SENT, 0, count);
    this.#strikes.fill(0, 0, count);
    this.#cursor = 0;
    this.#endBytes = this.#plan.lengthBytes;
    this.#setState(count === 0 ? { t: "done", bytes: 0 } : { t: "planned" });
  }

  #checkSent(index: number): void {
    // A fraction has no ticket either.
    if (index >= this.#plan.count || (this.#tickets[index] ?? NEVER_SENT) === NEVER_SENT) {
      throw new ProtocolError(CloseCode.STATE, `answer to section ${index}, which was not sent`);
    }
  }

  /** Takes the section out of flight if `ticket` is the request in flight. */
  #land(index: number, ticket: number): boolean {
    return this.#tickets[index] === ticket && this.#inFlight.clear(index);
  }

  #again(index: number, errno: ErrnoName): void {
    if (!this.#outstanding.has(index)) return;
    const strikes = (this.#strikes[index] ?? 0) + 1;
    this.#strikes[index] = strikes;
    if (strikes >= this.#attemptsMax) this.#decide({ t: "failed", errno });
    else this.#requeue(index);
  }

  #requeue(index: number): void {
    if (this.#verdict !== undefined || !this.#outstanding.has(index)) return;
    this.#unsent.set(index);
    this.#cursor = Math.min(this.#cursor, index);
  }

  /** The first verdict stands. */
  #decide(verdict: TransferVerdict): void {
    if (this.settled || this.#verdict !== undefined) return;
    this.#verdict = verdict;
  }

  /** Nothing at `position` or behind it counts any more. It lies before the present end: what is behind that is not outstanding. */
  #endAt(position: number): void {
    this.#endBytes = position;
    const { count } = this.#plan;
    // The section that holds the end was answered; `position` on a boundary belongs to the section after it.
    const first = position === 0 ? 0 : this.#plan.indexAt(position - 1) + 1;
    this.#outstanding.clearRange(first, count - first);
    this.#unsent.clearRange(first, count - first);
  }

  /** Enters the state that the bits and the verdict call for. */
  #settle(): void {
    if (this.settled) return;
    const idle = this.#inFlight.done;
    if (this.#verdict !== undefined) {
      if (idle) this.#setState(this.#verdict);
      else if (this.#state.t !== "draining" || this.#state.verdict !== this.#verdict) {
        this.#setState({ t: "draining", verdict: this.#verdict });
      }
    } else if (this.#outstanding.done && idle) this.#setState({ t: "done", bytes: this.#endBytes });
    else if (this.#unsent.done) this.#setState(DRAINING);
    else if (!idle || this.#state.t !== "planned") this.#setState(SENDING);
  }

  #setState(state: TransferState): void {
    this.#state = state;
  }

  /** For tests: fails if an invariant does not hold. */
  checkInvariants(): void {
    for (const bitmap of [this.#outstanding, this.#unsent, this.#inFlight]) {
      bitmap.checkInvariants();
      assert.equal(bitmap.count, this.#plan.count, "a bit for each section");
    }
    for (let index = 0; index < this.#plan.count; index++) {
      const unsent = this.#unsent.has(index);
      const inFlight = this.#inFlight.has(index);
      assert(!(unsent && inFlight), "a section is not to be sent while in flight");
      if (unsent) assert(this.#outstanding.has(index) && index >= this.#cursor, "only outstanding ones are to be sent");
      if (this.#outstanding.has(index)) {
        assert(this.#plan.position(index) < this.#endBytes, "nothing behind the end is outstanding");
        if (this.#verdict === undefined) assert(unsent || inFlight, "what is outstanding goes or is on its way");
      }
      if (inFlight) assert.notEqual(this.#tickets[index], NEVER_SENT, "what is in flight was sent");
    }
    const { t } = this.#state;
    if (this.settled) assert(this.#inFlight.done, "the buffer is free at the end");
    if (t === "done") assert(this.#outstanding.done, "done means every bit is clear");
    if (t === "planned") assert(this.#inFlight.done, "planned: nothing was sent");
    if (t === "sending") assert(!this.#unsent.done, "sending: there is something to send");
    if (t === "draining") assert(!this.#inFlight.done, "draining: something is in flight");
  }
}
