/** How often something may happen: a token bucket, pure. Used for log lines that a peer can cause. */
export class RateLimit {
  readonly #burst: number;
  readonly #perSecond: number;
  #tokens: number;
  #lastMs = Number.NEGATIVE_INFINITY;
  #suppressed = 0;

  /** At most `burst` at once and `perSecond` in the long run. */
  constructor(options: { burst: number; perSecond: number }) {
    this.#burst = options.burst;
    this.#perSecond = options.perSecond;
    this.#tokens = options.burst;
  }

  /** Whether it may happen now. @returns how many were refused since the last time it could, or -1 if it is refused. */
  tryTake(nowMs: number): number {
    this.#tokens = Math.min(this.#burst, this.#tokens + (Math.max(0, nowMs - this.#lastMs) / 1000) * this.#perSecond);
    this.#lastMs = nowMs;
    if (this.#tokens < 1) {
      this.#suppressed += 1;
      return -1;
    }
    this.#tokens -= 1;
    const suppressed = this.#suppressed;
    this.#suppressed = 0;
    return suppressed;
  }
}
