/** Growing pauses between attempts, with jitter so that many who lost the same peer do not come back at the same moment. Pure. */

export interface BackoffOptions {
  readonly firstMs: number;
  readonly maxMs: number;
  readonly factor: number;
  /** 0..1 of a pause is taken off at random. */
  readonly jitter: number;
}

export class Backoff {
  readonly #options: BackoffOptions;
  readonly #random: () => number;
  #attempts = 0;

  /** `random`: 0 up to, not including, 1. */
  constructor(options: BackoffOptions, random: () => number) {
    this.#options = options;
    this.#random = random;
  }

  /** Attempts since the start, or since the last `reset`. */
  get attempts(): number {
    return this.#attempts;
  }

  /** The pause before the next attempt; this time no more than `maxMs` and no less than `minMs`. */
  nextMs(maxMs: number = this.#options.maxMs, minMs = 0): number {
    const { firstMs, factor, jitter } = this.#options;
    const fullMs = Math.max(minMs, Math.min(maxMs, firstMs * factor ** this.#attempts));
    this.#attempts += 1;
    return fullMs * (1 - jitter * this.#random());
  }

  /** Something has changed: the next attempts come quickly again. */
  reset(): void {
    this.#attempts = 0;
  }
}
