/** A clock whose time goes on only when a test says so; timers fire in the order of their times, each at its own time. */
import type { Clock, Timer } from "../../src/base/clock.ts";

export class StepClock implements Clock {
  #nowMs = 0;
  #pending: { atMs: number; fire: () => void }[] = [];

  monotonicMs(): number {
    return this.#nowMs;
  }

  realtimeMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, fire: () => void): Timer {
    const entry = { atMs: this.#nowMs + delayMs, fire };
    this.#pending.push(entry);
    return {
      stop: () => {
        this.#pending = this.#pending.filter((other) => other !== entry);
      },
    };
  }

  every(periodMs: number, fire: () => void): Timer {
    const again = () => {
      timer = this.after(periodMs, again);
      fire();
    };
    let timer = this.after(periodMs, again);
    return { stop: () => timer.stop() };
  }

  /** How many timers wait. */
  get pendingCount(): number {
    return this.#pending.length;
  }

  /** Lets `ms` pass. */
  step(ms: number): void {
    const untilMs = this.#nowMs + ms;
    for (;;) {
      const next = this.#pending.reduce<{ atMs: number; fire: () => void } | undefined>(
        (first, other) => (other.atMs <= untilMs && (first === undefined || other.atMs < first.atMs) ? other : first),
        undefined,
      );
      if (next === undefined) break;
      this.#pending = this.#pending.filter((other) => other !== next);
      this.#nowMs = Math.max(this.#nowMs, next.atMs);
      next.fire();
    }
    this.#nowMs = untilMs;
  }
}
