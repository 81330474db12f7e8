/**
 * Notices that those who wait for a credit of a channel's sections wait for what may never come: every section that has one was given up, and the server does
 * not answer it, not even to say that it has stopped it, because it hangs in a disk.
 *
 * Time counts only while the server is heard from over the same connection: it has taken all that was sent before what it answers. Any answer, and any
 * section sent, begins anew. It decides nothing: who waits is told by its channel that it is overdue.
 */
import { type Call, isDataCall } from "./call.ts";

/** What one sign of the server proves: that it was there this long before, at most. */
const SIGN_MS = 5000;

/** The channel at the time of a look. */
export interface LineSigns {
  readonly nowMs: number;
  /** Changes whenever the server says anything over the connection. */
  readonly heardBytes: number;
  /** When a section was last sent or answered. */
  readonly progressMs: number;
}

export class HeldUpLine {
  /** For how long it has been held up, by the time that counts. */
  #heldUpMs = 0;
  #heardBytes = 0;
  #heardAtMs = 0;
  #progressMs = 0;

  /**
   * Looks at the calls that hold slots and those that wait; to be called about once a second.
   *
   * @returns those of `waiting` that have waited for too long. A read may go another way, and need not have waited itself.
   */
  look(signs: LineSigns, held: Iterable<Call | undefined>, waiting: Iterable<Call>): readonly Call[] {
    const { nowMs, heardBytes, progressMs } = signs;
    const passedMs = heardBytes === this.#heardBytes ? 0 : Math.min(nowMs - this.#heardAtMs, SIGN_MS);
    if (heardBytes !== this.#heardBytes) this.#heardAtMs = nowMs;
    this.#heardBytes = heardBytes;
    const isHeldUp = progressMs === this.#progressMs && isOnlyGivenUp(held);
    this.#progressMs = progressMs;
    this.#heldUpMs = isHeldUp ? this.#heldUpMs + passedMs : 0;
    if (!isHeldUp) return [];
    const isOverdue = (call: Call) =>
      isDataCall(call) &&
      this.#heldUpMs >= call.patienceMs &&
      (call.message.name === "read" || nowMs - call.begunMs >= call.patienceMs);
    return [...waiting].filter(isOverdue);
  }
}

/** Whether sections have slots, and nobody wants one of them any more. What follows writes waits for them, and says nothing. */
function isOnlyGivenUp(held: Iterable<Call | undefined>): boolean {
  let isAny = false;
  for (const call of held) {
    if (call === undefined || call.followsWrites || !isDataCall(call)) continue;
    if (!call.isAbandoned) return false;
    isAny = true;
  }
  return isAny;
}
