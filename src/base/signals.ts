/**
 * Cancellation helpers around AbortSignal.
 *
 * `AbortSignal.any` with a long-lived signal leaks one dependant a call on Node 20 (nodejs/node#54614), hence `linkSignals`.
 */

/** A signal that aborts when any of `sources` does. `cleanup` must be called when the work is over; it removes all listeners. */
export function linkSignals(...sources: (AbortSignal | undefined)[]): { signal: AbortSignal; cleanup: () => void } {
  const controller = new AbortController();
  const live = sources.filter((source) => source !== undefined);
  const cleanup = () => {
    for (const source of live) source.removeEventListener("abort", onAbort);
  };
  function onAbort(this: AbortSignal) {
    cleanup();
    controller.abort(this.reason);
  }
  for (const source of live) {
    if (source.aborted) {
      cleanup();
      controller.abort(source.reason);
      break;
    }
    source.addEventListener("abort", onAbort);
  }
  return { signal: controller.signal, cleanup };
}

/** Settles as `promise` does, or rejects with the signal's reason as soon as it aborts. The promise itself goes on. */
export async function raceSignal<T>(promise: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  signal.throwIfAborted();
  let onAbort = () => {};
  const aborted = new Promise<never>((_, reject) => {
    onAbort = () => reject(signal.reason);
    signal.addEventListener("abort", onAbort);
  });
  try {
    return await Promise.race([promise, aborted]);
  } finally {
    signal.removeEventListener("abort", onAbort);
  }
}
