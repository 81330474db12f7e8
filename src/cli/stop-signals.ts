/**
 * SIGINT, SIGTERM and SIGHUP as a wish to end, and a second one as a wish to end at once.
 *
 * SIGHUP says that the terminal is gone, so without one it means nothing: Node forgets that nohup(1) ignored it. Whether there is one is asked before, because
 * one that has been hung up does not say what it was.
 * One press of Ctrl-C can arrive twice, from the terminal and from an npm that passes it on, hence SAME_PRESS_MS.
 */
import { isatty } from "node:tty";
import type { Clock } from "../base/clock.ts";

const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
const SAME_PRESS_MS = 400;

export interface StopSignals {
  /** Aborts at the first signal. */
  readonly stop: AbortSignal;
  /** Aborts at a second one that is not the same press. */
  readonly stopNow: AbortSignal;
  /** Leaves the signals to the system again. */
  release(): void;
}

export function catchStopSignals(clock: Clock): StopSignals {
  const first = new AbortController();
  const second = new AbortController();
  let firstMs = 0;
  const hasTerminal = [0, 1, 2].some(isatty);
  const onSignal = (signal: NodeJS.Signals) => {
    if (signal === "SIGHUP" && !hasTerminal) return;
    if (!first.signal.aborted) {
      firstMs = clock.monotonicMs();
      first.abort();
    } else if (clock.monotonicMs() - firstMs >= SAME_PRESS_MS) {
      second.abort();
    }
  };
  for (const signal of SIGNALS) process.on(signal, onSignal);
  return {
    stop: first.signal,
    stopNow: second.signal,
    release() {
      for (const signal of SIGNALS) process.off(signal, onSignal);
    },
  };
}

/** Resolves when `signal` aborts. */
export function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return Promise.resolve();
  return new Promise((resolve) => signal.addEventListener("abort", () => resolve(), { once: true }));
}
