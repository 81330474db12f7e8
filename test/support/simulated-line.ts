/**
 * A line with a rate and a round trip, in simulated time: what is sent queues up, takes its time, and is answered in order.
 *
 * Pure: `step` moves the time to the next answer. It is no packet simulator: no loss, no reordering, requests cost nothing upstream.
 */
import { CreditWaiter, type CreditWindow } from "../../src/sections/credit-window.ts";
import { RequestPriority } from "../../src/vfs/file-system.ts";

export class SimulatedLine {
  roundTripMs: number;
  bytesPerMs: number;
  nowMs = 0;
  #freeAtMs = 0;
  readonly #answers: { atMs: number; answer: () => void }[] = [];

  constructor(options: { roundTripMs: number; bytesPerMs: number }) {
    this.roundTripMs = options.roundTripMs;
    this.bytesPerMs = options.bytesPerMs;
  }

  /** Sends `bytes` now; `answer` is called when a later `step` reaches its answer. */
  send(bytes: number, answer: () => void): void {
    this.#freeAtMs = Math.max(this.#freeAtMs, this.nowMs) + bytes / this.bytesPerMs;
    this.#answers.push({ atMs: this.#freeAtMs + this.roundTripMs, answer });
  }

  /** Whether nothing is on its way. */
  get isIdle(): boolean {
    return this.#answers.length === 0;
  }

  /** Moves the time to the next answer and gives it. @returns false if nothing is on its way. */
  step(): boolean {
    const next = this.#answers.shift();
    if (next === undefined) return false;
    this.nowMs = Math.max(this.nowMs, next.atMs);
    next.answer();
    return true;
  }
}

/** Keeps a line busy with sections until `untilMs`; tells after each answer. @returns bytes answered. */
export function saturate(
  line: SimulatedLine,
  window: CreditWindow,
  options: { sectionBytes: number; untilMs: number; answered?: () => void },
): number {
  let answeredBytes = 0;
  const send = (credit: number) => {
    line.send(options.sectionBytes, () => {
      answeredBytes += options.sectionBytes;
      window.release(credit, line.nowMs);
    });
  };
  const waiter: CreditWaiter = new CreditWaiter(RequestPriority.FOREGROUND, (credit) => {
    send(credit);
    if (line.nowMs < options.untilMs) window.wait(waiter, line.nowMs);
  });
  waiter.bytes = options.sectionBytes;
  window.wait(waiter, line.nowMs);
  while (line.step() || waiter.waiting) {
    if (line.nowMs >= options.untilMs) window.cancel(waiter, line.nowMs);
    options.answered?.();
    if (!line.isIdle || !waiter.waiting) continue;
    // Nothing comes any more: all there is is the driver's clock.
    line.nowMs += 250;
    window.tick(line.nowMs);
  }
  window.checkInvariants();
  return answeredBytes;
}
