/**
 * One direction of a simulated link, shared by all its connections: when a byte that is handed over now arrives on the other side.
 *
 * Pure arithmetic on times that are passed in; it moves no data and has no timer. INVARIANT: the bytes admitted never leave faster than the
 * rate, whatever the number of connections, because all of them queue for the same `#freeAtMs`.
 */

/** How much line time one piece may take: a chunk is cut into pieces so that a slow line delivers evenly. */
const PIECE_MS = 4;
/** No piece is smaller than what one Ethernet frame carries. */
const PIECE_BYTES_MIN = 1448;

export class LinkLine {
  #rateBitsPerSecond = Number.POSITIVE_INFINITY;
  #delayMs = 0;
  /** When the last byte admitted so far has left. */
  #freeAtMs = Number.NEGATIVE_INFINITY;
  #heldUntilMs = Number.NEGATIVE_INFINITY;
  #frozen = false;

  /** One-way delay, on top of the time a byte needs to leave at the rate. */
  get delayMs(): number {
    return this.#delayMs;
  }

  set delayMs(value: number) {
    if (!(value >= 0 && Number.isFinite(value))) throw new RangeError(`a delay of ${value} ms`);
    this.#delayMs = value;
  }

  /** Infinity: no limit. */
  get rateBitsPerSecond(): number {
    return this.#rateBitsPerSecond;
  }

  set rateBitsPerSecond(value: number) {
    if (!(value > 0)) throw new RangeError(`a rate of ${value} bit/s`);
    this.#rateBitsPerSecond = value;
  }

  /** Nothing arrives while true. */
  get frozen(): boolean {
    return this.#frozen;
  }

  set frozen(value: boolean) {
    this.#frozen = value;
  }

  /** True when a byte handed over now arrives now. */
  isTransparent(nowMs: number): boolean {
    return (
      this.#delayMs === 0 &&
      this.#rateBitsPerSecond === Number.POSITIVE_INFINITY &&
      !this.#frozen &&
      this.#heldUntilMs <= nowMs
    );
  }

  /** Nothing arrives before `untilMs`; pauses do not shorten each other. */
  hold(untilMs: number): void {
    this.#heldUntilMs = Math.max(this.#heldUntilMs, untilMs);
  }

  /** How many bytes to admit at once. */
  get pieceBytes(): number {
    if (this.#rateBitsPerSecond === Number.POSITIVE_INFINITY) return Number.MAX_SAFE_INTEGER;
    return Math.max(PIECE_BYTES_MIN, Math.floor((this.#rateBitsPerSecond * PIECE_MS) / 8000));
  }

  /** Queues `sizeBytes` for the line. @returns when the last of them arrives, were there no pauses. */
  admit(sizeBytes: number, nowMs: number): number {
    const leavesMs = (sizeBytes * 8000) / this.#rateBitsPerSecond;
    this.#freeAtMs = Math.max(this.#freeAtMs, nowMs) + leavesMs;
    return this.#freeAtMs + this.#delayMs;
  }

  /** How long a byte handed over now waits before it may leave. */
  backlogMs(nowMs: number): number {
    return Math.max(0, this.#freeAtMs - nowMs);
  }

  /** When something due at `dueMs` really arrives; Infinity while frozen. */
  arrivesAtMs(dueMs: number): number {
    return this.#frozen ? Number.POSITIVE_INFINITY : Math.max(dueMs, this.#heldUntilMs);
  }

  /** What the line itself holds at full rate, in bytes; Infinity without a rate limit and with a delay. */
  get capacityBytes(): number {
    return this.#delayMs === 0 ? 0 : (this.#rateBitsPerSecond * this.#delayMs) / 8000;
  }
}
