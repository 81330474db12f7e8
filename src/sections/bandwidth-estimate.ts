/**
 * How many bytes should be on their way: the line's bandwidth-delay product, learnt from answers as they come.
 *
 * The idea is BBR's (Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016), made simple: the largest delivery rate of the last rounds times
 * the smallest round trip of the last seconds. It does not pace and does not avoid congestion: TCP below does that. It only keeps
 * enough requests on their way to fill the line, and not so many that a foreground request waits behind seconds of data.
 *
 * Phases: `startup` (the window begins with what a line of 1 Gbit/s would hold, if the round trip is known from elsewhere: a long line must not lose
 * its first round trips to finding that out. Then it grows by what is answered, so it doubles each round trip; in the first rounds it follows
 * the pace of the answers within a round trip as well, up at once, and down if the line is slower. Left when three rounds brought no quarter more rate),
 * `steady` (window is GAIN times the product), `probe` (the smallest round trip is too old to be believed: half the product is kept
 * on its way until a round trip has been measured without our own queue in it; then `steady`).
 *
 * A "stamp" is a small integer the caller names each request by, 0..stampsMax-1; its row of numbers lives here, so nothing is allocated.
 */
import assert from "node:assert/strict";

/** Twice the product: answers that come in bursts (joined statuses, the peer's disk) must not leave the line idle. */
const GAIN = 2;
const PROBE_GAIN = 0.5;
/** A larger rate is believed for this many round trips. */
const RATE_ROUNDS = 6;
/** A smaller round trip is believed for this long. */
const ROUND_TRIP_AGE_MS = 10_000;
/** While starting, no more than this many products as known so far: enough to double, no more queue than that if the line is small. */
const STARTUP_GAIN = 3;
const STARTUP_GROWTH = 1.25;
const STARTUP_ROUNDS = 3;
/** Answers of one round trip that came after its first one show the line's rate if there are at least so many bytes in at least this time. */
const TRAIN_BYTES_MIN = 2 ** 20;
const TRAIN_MS_MIN = 1;
/** Later rounds have rates that count by themselves; in the first ones they only say how much was asked for. */
const TRAIN_ROUNDS = 2;
/** What a line is taken for before its first answers: 1 Gbit/s, of which it gets this many round trips. */
const PRESUMED_BYTES_PER_MS = 125_000;
const PRESUMED_GAIN = 1.5;
/** Shorter intervals say nothing about a rate. */
const INTERVAL_MS_MIN = 0.01;

type Phase = "startup" | "steady" | "probe";

/** What the estimate says, for status pages. */
export interface LineFigures {
  readonly phase: Phase;
  /** Smallest recent round trip; undefined before the first answer. */
  readonly roundTripMs: number | undefined;
  /** Largest recent delivery rate. */
  readonly bytesPerSecond: number;
  readonly windowBytes: number;
}

export class BandwidthEstimate {
  readonly #sentMs: Float64Array;
  readonly #deliveredAtSend: Float64Array;
  readonly #deliveredMsAtSend: Float64Array;
  readonly #firstSentMsAtSend: Float64Array;
  readonly #roundRates = new Float64Array(RATE_ROUNDS);

  #windowBytesMin: number;
  #windowBytesMax: number;
  #phase: Phase = "startup";
  #windowBytes = 0;
  /** Bytes answered since the start. */
  #delivered = 0;
  #deliveredMs = 0;
  #firstSentMs = 0;
  #fullMs = Number.NEGATIVE_INFINITY;
  #round = 0;
  #roundEndsAtDelivered = 0;
  #rate = 0;
  #roundTripMs = Number.POSITIVE_INFINITY;
  #roundTripAtMs = 0;
  #startupRate = 0;
  #startupRoundsWithout = 0;
  #probeSinceMs = 0;
  /** When the first answer of this round came, and the bytes of the later ones. */
  #trainSinceMs = 0;
  #trainBytes = 0;
  /** Bytes a millisecond within the first rounds; 0 if that is not known, or no longer of use. */
  #pace = 0;
  /** What a line of the presumed rate holds. */
  #presumedBytes = 0;

  /**
   * `stampsMax`: the most requests on their way at once. The window stays within the two bounds (but for a probe). `roundTripMs`: as known before the
   * first answer; 0 if it is not.
   */
  constructor(options: { stampsMax: number; windowBytesMin: number; windowBytesMax: number; roundTripMs: number }) {
    const { stampsMax } = options;
    this.#sentMs = new Float64Array(stampsMax);
    this.#deliveredAtSend = new Float64Array(stampsMax);
    this.#deliveredMsAtSend = new Float64Array(stampsMax);
    this.#firstSentMsAtSend = new Float64Array(stampsMax);
    this.#windowBytesMin = options.windowBytesMin;
    this.#windowBytesMax = options.windowBytesMax;
    this.reset(options.roundTripMs);
  }

  /** Bytes that should be on their way at most. */
  get windowBytes(): number {
    return this.#windowBytes;
  }

  /** Smallest recent round trip; 0 before the first answer. */
  get roundTripMs(): number {
    return Number.isFinite(this.#roundTripMs) ? this.#roundTripMs : 0;
  }

  /** Largest recent delivery rate; 0 before the first answers. */
  get bytesPerSecond(): number {
    return this.#rate * 1000;
  }

  /** What fills the line, bytes, as far as is known; what is presumed of it until answers show more. */
  get productBytes(): number {
    if (this.#phase !== "startup") return this.#rateBytes();
    return this.#hasEvidence() ? this.#evidenceBytes() : Math.max(this.#evidenceBytes(), this.#presumedBytes);
  }

  get figures(): LineFigures {
    return {
      phase: this.#phase,
      roundTripMs: Number.isFinite(this.#roundTripMs) ? this.#roundTripMs : undefined,
      bytesPerSecond: this.#rate * 1000,
      windowBytes: this.#windowBytes,
    };
  }

  /** The bounds have changed. */
  setBounds(windowBytesMin: number, windowBytesMax: number): void {
    assert(windowBytesMin <= windowBytesMax, "bounds of the window");
    this.#windowBytesMin = windowBytesMin;
    this.#windowBytesMax = windowBytesMax;
    this.#windowBytes = Math.min(Math.max(this.#windowBytes, windowBytesMin), windowBytesMax);
  }

  /** Forgets the line: a new connection may run over another one, with this round trip (0: not known). Stamps of requests on their way are void. */
  reset(roundTripMs: number): void {
    this.#phase = "startup";
    this.#presumedBytes = roundTripMs * PRESUMED_BYTES_PER_MS;
    const windowBytes = this.#presumedBytes * PRESUMED_GAIN;
    this.#windowBytes = Math.min(Math.max(windowBytes, this.#windowBytesMin), this.#windowBytesMax);
    this.#round = 0;
    this.#roundEndsAtDelivered = this.#delivered;
    this.#roundRates.fill(0);
    this.#rate = 0;
    this.#pace = 0;
    this.#trainBytes = 0;
    this.#roundTripMs = Number.POSITIVE_INFINITY;
    this.#startupRate = 0;
    this.#startupRoundsWithout = 0;
  }

  /**
   * More would be sent now if the window were larger. An answer to a request that saw no such moment while it was on its way
   * says how much was asked for, not how much the line can carry.
   */
  full(nowMs: number): void {
    this.#fullMs = nowMs;
  }

  /** A request leaves now; `inFlightBytes` were on their way before it. */
  sent(stamp: number, inFlightBytes: number, nowMs: number): void {
    if (inFlightBytes === 0) {
      this.#firstSentMs = nowMs;
      this.#deliveredMs = nowMs;
    }
    this.#sentMs[stamp] = nowMs;
    this.#deliveredAtSend[stamp] = this.#delivered;
    this.#deliveredMsAtSend[stamp] = this.#deliveredMs;
    this.#firstSentMsAtSend[stamp] = this.#firstSentMs;
  }

  /** The request was answered, and `bytes` of what it was sent with came through: fewer where there was less to read, none with an error. */
  answered(stamp: number, bytes: number, nowMs: number): void {
    const sentMs = this.#sentMs[stamp] ?? 0;
    const deliveredAtSend = this.#deliveredAtSend[stamp] ?? 0;
    this.#delivered += bytes;
    this.#deliveredMs = nowMs;
    this.#firstSentMs = sentMs;

    const roundEnds = deliveredAtSend >= this.#roundEndsAtDelivered;
    if (roundEnds) this.#nextRound();
    const busy = this.#fullMs >= sentMs;
    const intervalMs = Math.max(
      sentMs - (this.#firstSentMsAtSend[stamp] ?? 0),
      nowMs - (this.#deliveredMsAtSend[stamp] ?? 0),
    );
    if (intervalMs >= INTERVAL_MS_MIN) this.#sampleRate((this.#delivered - deliveredAtSend) / intervalMs, busy);
    this.#sampleRoundTrip(nowMs - sentMs, sentMs, nowMs);

    if (this.#phase === "startup") {
      this.#growTrain(bytes, roundEnds, nowMs);
      if (busy) this.#grow(bytes);
      if (roundEnds && busy) this.#leaveStartupIfFull();
    }
    this.#beginProbeIfDue(nowMs);
    this.#applyWindow();
  }

  #nextRound(): void {
    this.#round++;
    this.#roundEndsAtDelivered = this.#delivered;
    // The row of the oldest round becomes the new one's; the maximum is taken again without it.
    this.#roundRates[this.#round % RATE_ROUNDS] = 0;
    let rate = 0;
    for (const roundRate of this.#roundRates) if (roundRate > rate) rate = roundRate;
    // A line without any sample in all these rounds keeps what was known.
    if (rate > 0) this.#rate = rate;
  }

  #sampleRate(rate: number, busy: boolean): void {
    if (!busy && rate < this.#rate) return;
    const row = this.#round % RATE_ROUNDS;
    if (rate > (this.#roundRates[row] ?? 0)) this.#roundRates[row] = rate;
    if (rate > this.#rate) this.#rate = rate;
  }

  #sampleRoundTrip(roundTripMs: number, sentMs: number, nowMs: number): void {
    // What was sent in the probe found half the product on its way at most, which is no queue.
    const clean = this.#phase === "probe" && sentMs > this.#probeSinceMs;
    if (roundTripMs <= this.#roundTripMs || clean) {
      this.#roundTripMs = Math.max(roundTripMs, INTERVAL_MS_MIN);
      this.#roundTripAtMs = nowMs;
      if (this.#phase === "probe") this.#phase = "steady";
    }
  }

  #growTrain(bytes: number, roundEnds: boolean, nowMs: number): void {
    if (this.#round > TRAIN_ROUNDS) {
      this.#pace = 0;
      return;
    }
    if (roundEnds) {
      this.#trainSinceMs = nowMs;
      this.#trainBytes = 0;
      return;
    }
    const trainMs = nowMs - this.#trainSinceMs;
    if (trainMs > 0) this.#trainBytes += bytes;
    if (this.#trainBytes >= TRAIN_BYTES_MIN && trainMs >= TRAIN_MS_MIN) this.#pace = this.#trainBytes / trainMs;
  }

  #grow(bytes: number): void {
    const grown = Math.min(this.#windowBytes + bytes, this.#evidenceBytes() * STARTUP_GAIN);
    const doubled = this.#hasEvidence() ? grown : Math.max(grown, this.#windowBytes);
    const paced = Number.isFinite(this.#roundTripMs) ? this.#pace * this.#roundTripMs * PRESUMED_GAIN : 0;
    this.#windowBytes = Math.max(doubled, paced);
  }

  #leaveStartupIfFull(): void {
    if (this.#rate >= this.#startupRate * STARTUP_GROWTH) {
      this.#startupRate = this.#rate;
      this.#startupRoundsWithout = 0;
    } else if (++this.#startupRoundsWithout >= STARTUP_ROUNDS) {
      this.#phase = "steady";
    }
  }

  #beginProbeIfDue(nowMs: number): void {
    // Where the bounds leave nothing to adapt, nothing is worth a probe.
    const adapts = this.#windowBytesMin < this.#windowBytesMax;
    if (this.#phase === "steady" && adapts && nowMs - this.#roundTripAtMs > ROUND_TRIP_AGE_MS) {
      this.#phase = "probe";
      this.#probeSinceMs = nowMs;
    }
  }

  #applyWindow(): void {
    const steady = this.#phase === "steady" ? this.#rateBytes() * GAIN : this.#windowBytes;
    // A probe goes below the lower bound: where that is more than the line holds, it is itself the queue.
    if (this.#phase === "probe") this.#windowBytes = Math.min(this.#probeBytes(), this.#windowBytesMax);
    else this.#windowBytes = Math.min(Math.max(steady, this.#windowBytesMin), this.#windowBytesMax);
  }

  #probeBytes(): number {
    return this.#rateBytes() * PROBE_GAIN;
  }

  #rateBytes(): number {
    return Number.isFinite(this.#roundTripMs) ? this.#rate * this.#roundTripMs : 0;
  }

  /** Whether answers have shown more of the line than how much was asked for. */
  #hasEvidence(): boolean {
    return this.#pace > 0 || this.#round > TRAIN_ROUNDS;
  }

  #evidenceBytes(): number {
    return Number.isFinite(this.#roundTripMs) ? Math.max(this.#rate, this.#pace) * this.#roundTripMs : 0;
  }

  /** For tests: fails if an invariant does not hold. */
  checkInvariants(): void {
    assert(this.#windowBytes <= this.#windowBytesMax, "window below its upper bound");
    assert(this.#phase === "probe" || this.#windowBytes >= this.#windowBytesMin, "window above its lower bound");
    assert(this.#rate >= 0 && Number.isFinite(this.#rate), "rate is a number");
    assert(this.#roundTripMs > 0, "round trip is positive");
  }
}
