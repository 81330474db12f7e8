/** Those of a session who wait for a better moment: for the next attempt, or for another state. Whatever changes wakes them all, to look for themselves. */
import type { Clock } from "../base/clock.ts";

export class Waiters {
  readonly #clock: Clock;
  readonly #wakers = new Set<() => void>();

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Waits until something has changed, or for `maxMs`; that keeps the process alive. */
  async wait(maxMs?: number): Promise<void> {
    await new Promise<void>((resolve) => {
      const wake = () => {
        this.#wakers.delete(wake);
        timer?.stop();
        resolve();
      };
      const timer = maxMs === undefined ? undefined : this.#clock.after(maxMs, wake, { keepAlive: true });
      this.#wakers.add(wake);
    });
  }

  wake(): void {
    for (const wake of [...this.#wakers]) wake();
  }
}
