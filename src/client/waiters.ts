/**
 * Those of a session who wait for a better moment: for the next attempt, for a time, or for another state, as long as that takes. Whatever changes wakes
 * them, to look for themselves.
 */
import type { Clock } from "../base/clock.ts";

export class Waiters {
  readonly #clock: Clock;
  readonly #timed = new Set<() => void>();
  readonly #untimed = new Set<() => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Waits until something has changed, or for `maxMs`; that keeps the process alive. */
  async wait(maxMs?: number): Promise<void> {
    const wakers = maxMs === undefined ? this.#untimed : this.#timed;
    await new Promise<void>((resolve) => {
      const wake = () => {
        wakers.delete(wake);
        timer?.stop();
        resolve();
      };
      const timer = maxMs === undefined ? undefined : this.#clock.after(maxMs, wake, { keepAlive: true });
      wakers.add(wake);
    });
  }

  wake(): void {
    for (const wake of [...this.#timed]) wake();
    this.wakeUntimed();
  }

  /** Who pauses between attempts goes on pausing. */
  wakeUntimed(): void {
    for (const wake of [...this.#untimed]) wake();
  }
}
