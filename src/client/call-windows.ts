/**
 * The credits of one channel, shared out between sections, which are paced by bytes, and everything else, so that neither waits for the other.
 *
 * A credit is a slot of the channel's slot table: the first `plainSlots` are for everything else, the others for sections. The last plain one is kept for calls that bring
 * a session back: all others may be held by calls that have no answer, and get none before the session is back.
 */
import { type CreditFigures, CreditWindow } from "../sections/credit-window.ts";
import { type Call, isDataCall } from "./call.ts";
import type { Agreement } from "./set-up.ts";

/** Share of the credits that is not for sections. */
const PLAIN_SHARE = 0.5;
const PLAIN_CREDITS_MAX = 64;
/** Calls that wait for a credit; beyond, a call fails with ENOBUFS. */
const WAITERS_MAX = 65_536;
/** A call without payload counts as this much on the line. */
const PLAIN_BYTES = 256;
/** Sections that are under way whatever the line's product seems to be. */
const SECTIONS_MIN = 4;

export interface CallChannelFigures {
  readonly isOpen: boolean;
  readonly cipher: string;
  readonly calls: CreditFigures;
  readonly sections: CreditFigures;
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

export class CallWindows {
  readonly #plain: CreditWindow;
  readonly #reserve = new CreditWindow({
    credits: 1,
    creditsMax: 1,
    bytes: PLAIN_BYTES,
    bytesMin: PLAIN_BYTES,
    waitersMax: WAITERS_MAX,
  });
  readonly #data: CreditWindow;
  readonly #plainSlots: number;

  /**
   * @param line.isPipelined  false, for comparison: one section at a time, and nothing else until it has been answered.
   * @param line.roundTripMs  of the line, as known so far; 0: it is not.
   */
  constructor(
    { credits, bytesMax, sectionBytes }: Agreement,
    { isPipelined, roundTripMs }: { isPipelined: boolean; roundTripMs: number },
  ) {
    this.#plainSlots = Math.min(PLAIN_CREDITS_MAX, Math.floor(credits * PLAIN_SHARE));
    const dataSlots = credits - this.#plainSlots;
    const bytes = Math.min(bytesMax, dataSlots * sectionBytes);
    const plainCredits = this.#plainSlots - 1;
    this.#plain = new CreditWindow({
      credits: plainCredits,
      creditsMax: plainCredits,
      bytes: plainCredits * PLAIN_BYTES,
      bytesMin: plainCredits * PLAIN_BYTES,
      waitersMax: WAITERS_MAX,
    });
    this.#data = new CreditWindow({
      credits: isPipelined ? dataSlots : 1,
      creditsMax: dataSlots,
      bytes,
      bytesMin: Math.min(bytes, SECTIONS_MIN * sectionBytes),
      waitersMax: WAITERS_MAX,
      roundTripMs,
    });
  }

  get figures(): { readonly calls: CreditFigures; readonly sections: CreditFigures } {
    return { calls: this.#plain.figures, sections: this.#data.figures };
  }

  /** Credits in use. */
  get held(): number {
    return this.#plain.held + this.#reserve.held + this.#data.held;
  }

  /** When a section was last sent or answered. */
  get progressMs(): number {
    return this.#data.progressMs;
  }

  /** Bytes of sections that are on their way or wait to be. */
  sectionBytesOutstanding(sectionBytes: number): number {
    return this.#data.inFlightBytes + this.#data.waiterCount * sectionBytes;
  }

  /** What fills the line, bytes: its bandwidth times its round trip, as far as sections have shown it. */
  get lineBytes(): number {
    return this.#data.lineBytes;
  }

  /** As CreditWindow.tryAcquire; from now on `of` says where the call has its credit from, or waits for it. */
  tryAcquire(call: Call, nowMs: number): number {
    const bytes = this.bytesOf(call);
    const credit = this.of(call).tryAcquire(bytes, call.priority, nowMs);
    if (credit >= 0 || !call.isOfResuming) return credit;
    call.isReserved = true;
    return this.#reserve.tryAcquire(bytes, call.priority, nowMs);
  }

  /** The window a call takes its credit from. */
  of(call: Call): CreditWindow {
    if (call.isReserved) return this.#reserve;
    return isDataCall(call) ? this.#data : this.#plain;
  }

  /** What a call counts there. */
  bytesOf(call: Call): number {
    return isDataCall(call) ? call.windowBytes : PLAIN_BYTES;
  }

  /** The slot that a credit of the call's window is. */
  slotOf(call: Call, credit: number): number {
    if (call.isReserved) return this.#plainSlots - 1;
    return isDataCall(call) ? this.#plainSlots + credit : credit;
  }

  /** Another connection takes the place of the one measured. */
  forgetLine(roundTripMs: number): void {
    this.#plain.forgetLine();
    this.#reserve.forgetLine();
    this.#data.forgetLine(roundTripMs);
  }

  /** Time passes; see CreditWindow. */
  tick(nowMs: number): void {
    this.#plain.tick(nowMs);
    this.#reserve.tick(nowMs);
    this.#data.tick(nowMs);
  }
}
