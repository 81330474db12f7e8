/**
 * A line with a rate and a round trip, in simulated time: what is sent queues up, takes its time, and is answered in order.
 *
 * Pure: `step` moves the time to the next answer. It is no packet simulator: no loss, no reordering, requests cost nothing upstream.
 */
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
