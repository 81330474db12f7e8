/**
 * Cancellation: the signal of a request, and helpers around it and AbortSignal.
 *
 * `AbortSignal.any` with a long-lived signal leaks one dependant a call on Node 20 (nodejs/node#54614), hence `linkSignals`.
 */

/**
 * Word that somebody no longer wants an answer. Every AbortSignal is one.
 *
 * Requests bring a `CancelSource` instead: an AbortController with a listener put on and taken off costs 15 us with its share of the garbage
 * collector's work, a sixth of all that a stat over a socket costs (measured on a 2-core machine, scripts/bench metadata).
 */
export interface CancelSignal {
  readonly aborted: boolean;
  /** What an interrupted wait is rejected with; becomes EINTR. */
  readonly reason: unknown;
  /** `listener` is called once, when this aborts; never if it has aborted already. */
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

/** A CancelSignal and the hand that aborts it. */
export class CancelSource implements CancelSignal {
  #aborted = false;
  #reason: unknown;
  /** Nearly always one at most, hence no list until there is a second. */
  #listener: (() => void) | undefined;
  #others: (() => void)[] | undefined;

  get aborted(): boolean {
    return this.#aborted;
  }

  get reason(): unknown {
    return this.#reason;
  }

  addEventListener(_type: "abort", listener: () => void): void {
    if (this.#aborted) return;
    if (this.#listener === undefined) this.#listener = listener;
    else {
      this.#others ??= [];
      this.#others.push(listener);
    }
  }

  removeEventListener(_type: "abort", listener: () => void): void {
    if (this.#listener === listener) this.#listener = undefined;
    else this.#others = this.#others?.filter((other) => other !== listener);
  }

  /** Tells every listener once; a second call does nothing. */
  abort(): void {
    if (this.#aborted) return;
    this.#aborted = true;
    this.#reason = new DOMException("This operation was aborted", "AbortError");
    const listeners = [this.#listener, ...(this.#others ?? [])];
    this.#listener = undefined;
    this.#others = undefined;
    for (const listener of listeners) listener?.();
  }
}

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
export async function raceSignal<T>(promise: Promise<T>, signal: CancelSignal | undefined): Promise<T> {
  if (signal === undefined) return promise;
  if (signal.aborted) throw signal.reason;
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
