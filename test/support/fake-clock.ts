/**
 * A clock that stands still until a test moves it.
 *
 * Timers fire inside `advance`, in the order of their times; a timer set by another one in time fires in the same call.
 */
import type { Clock, Timer } from "../../src/base/clock.ts";

interface Pending {
  atMs: number;
  readonly periodMs: number | undefined;
  readonly fire: () => void;
}

export class FakeClock implements Clock {
  #nowMs: number;
  #realtimeOffsetMs: number;
  readonly #pending = new Set<Pending>();

  constructor(startMs = 1000, realtimeStartMs = 1_700_000_000_000) {
    this.#nowMs = startMs;
    this.#realtimeOffsetMs = realtimeStartMs - startMs;
  }

  monotonicMs(): number {
    return this.#nowMs;
  }

  realtimeMs(): number {
    return this.#nowMs + this.#realtimeOffsetMs;
  }

  after(delayMs: number, fire: () => void): Timer {
    return this.#add({ atMs: this.#nowMs + Math.max(0, delayMs), periodMs: undefined, fire });
  }

  every(periodMs: number, fire: () => void): Timer {
    return this.#add({ atMs: this.#nowMs + periodMs, periodMs, fire });
  }

  /** Timers that have not fired and were not stopped: 0 at the end of a test that leaves nothing behind. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  /** Moves the clock on and fires what becomes due. */
  advance(ms: number): void {
    const endMs = this.#nowMs + ms;
    for (let due = this.#firstUntil(endMs); due !== undefined; due = this.#firstUntil(endMs)) {
      this.#nowMs = Math.max(this.#nowMs, due.atMs);
      if (due.periodMs === undefined) this.#pending.delete(due);
      else due.atMs += due.periodMs;
      due.fire();
    }
    this.#nowMs = endMs;
  }

  /** The machine slept: the date has gone on, and nothing else. */
  sleep(ms: number): void {
    this.#realtimeOffsetMs += ms;
  }

  #add(pending: Pending): Timer {
    this.#pending.add(pending);
    return { stop: () => void this.#pending.delete(pending) };
  }

  #firstUntil(endMs: number): Pending | undefined {
    let first: Pending | undefined;
    for (const pending of this.#pending) {
      if (pending.atMs <= endMs && (first === undefined || pending.atMs < first.atMs)) first = pending;
    }
    return first;
  }
}

/** Lets everything that waits only for microtasks and ticks go on until it rests. */
export async function settle(): Promise<void> {
  for (let round = 0; round < 20; round += 1) await new Promise<void>((resolve) => setImmediate(resolve));
}
