/**
 * Time as a value that is passed in: the only home of timers and of the machine's clocks.
 *
 * Pure logic takes `nowMs` as an argument; state machines take a `Clock`, so that tests step it by hand (`test/support/fake-clock.ts`).
 */

/** A timer that can be stopped; stopping twice, or after it fired, does nothing. */
export interface Timer {
  stop(): void;
}

export interface Clock {
  /** Milliseconds of a clock that never goes back and has no relation to the date. */
  monotonicMs(): number;
  /** Milliseconds since 1970, as the machine believes. */
  realtimeMs(): number;
  /** Calls `fire` once after `delayMs`. A pending timer does not keep the process alive unless `keepAlive`. */
  after(delayMs: number, fire: () => void, options?: { keepAlive?: boolean }): Timer;
  /** Calls `fire` every `periodMs` until stopped; never keeps the process alive. */
  every(periodMs: number, fire: () => void): Timer;
}

/** The machine's own clock. */
export const systemClock: Clock = {
  monotonicMs: () => performance.now(),
  realtimeMs: () => Date.now(),
  after(delayMs, fire, options) {
    const timeout = setTimeout(fire, delayMs);
    if (options?.keepAlive !== true) timeout.unref();
    return { stop: () => clearTimeout(timeout) };
  },
  every(periodMs, fire) {
    const interval = setInterval(fire, periodMs);
    interval.unref();
    return { stop: () => clearInterval(interval) };
  },
};
