/**
 * Makes the event loop wait for its next event awake for a moment, where events come in quick turns; why: native/busy-wait.cc.
 */
import { loadAddon } from "./addon.ts";

/**
 * Longer than the pauses that both sides of a busy drive make now and then (collecting garbage, compiling). With 200, one such pause of one side sent the
 * other to sleep, and from then on each took so long to wake the other that neither stayed awake: small operations took up to twice the time for a while.
 */
const WAIT_US_MAX = 1000;

/** While much data flows. */
const STREAM_US_MAX = 100;

interface Native {
  busyWait(maxUs: number, streamUs: number): object;
  busyWaitCounters(wait: object): [number, number, number, number, number];
}

export interface BusyWaitCounters {
  readonly isAwake: boolean;
  /** How often it began. */
  readonly begun: number;
  /** How often it ended: no event came in time, or others wanted the processor. */
  readonly vain: number;
  /** Milliseconds in which much data flowed. */
  readonly streamed: number;
  /** How often others wanted the processor, so that it was given up for a while. */
  readonly crowded: number;
}

let wait: object | undefined;

/** From now on, for the rest of the process. @returns what it has done so far. */
export function busyWait(): BusyWaitCounters {
  const native = loadAddon<Native>();
  wait ??= native.busyWait(WAIT_US_MAX, STREAM_US_MAX);
  const [awake, begun, vain, streamed, crowded] = native.busyWaitCounters(wait);
  return { isAwake: awake !== 0, begun, vain, streamed, crowded };
}
