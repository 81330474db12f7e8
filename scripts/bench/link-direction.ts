/**
 * One direction of one connection over a simulated link: takes chunks from a source, hands them to a sink when the line says they arrive.
 *
 * Chunks are kept as they came, never copied. What is queued is bounded: by the line's capacity plus `QUEUE_MS` of its rate, and by
 * `inFlightBytesMax` without a rate; beyond it the source is paused, so that back-pressure reaches the sender as it does on a real link.
 */
import type { Clock, Timer } from "../../src/base/clock.ts";
import type { LinkLine } from "./link-line.ts";

/** Where bytes come from: a socket that can be told to wait. */
export interface LinkSource {
  pause(): void;
  resume(): void;
}

/** Where bytes go. `write` returns false when the sink wants no more until `LinkDirection.drained` is called. */
export interface LinkSink {
  cork(): void;
  uncork(): void;
  /** The chunk belongs to the sink afterwards. */
  write(chunk: Buffer): boolean;
  end(): void;
  /** The connection is gone: the sink resets its peer. */
  reset(): void;
}

/** The bottleneck's own queue, as in a router: how long bytes may wait for the line before the sender has to. */
const QUEUE_MS = 10;
/** Timers are exact to about a millisecond, so what is due this soon is delivered now. */
const EARLY_MS = 0.5;
/** What may wait for a sink that is slower than the line. */
const SLACK_BYTES = 2 * 1024 * 1024;
/** Delivered entries are dropped from the front of the arrays in lots of this many. */
const COMPACT_COUNT = 256;

type Entry = Buffer | "end" | "reset";

export class LinkDirection {
  readonly #clock: Clock;
  readonly #line: LinkLine;
  readonly #source: LinkSource;
  readonly #inFlightBytesMax: number;
  #sink: LinkSink | undefined;
  #entries: Entry[] = [];
  #dueMs: number[] = [];
  #head = 0;
  #lastDueMs = Number.NEGATIVE_INFINITY;
  #queuedBytes = 0;
  #deliveredBytes = 0;
  #paused = false;
  #sinkFull = false;
  #closed = false;
  #timer: Timer | undefined;
  #timerAtMs = Number.POSITIVE_INFINITY;

  constructor(options: { clock: Clock; line: LinkLine; source: LinkSource; inFlightBytesMax: number }) {
    this.#clock = options.clock;
    this.#line = options.line;
    this.#source = options.source;
    this.#inFlightBytesMax = options.inFlightBytesMax;
  }

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get deliveredBytes(): number {
    return this.#deliveredBytes;
  }

  /** Nothing is delivered before there is a sink. */
  attach(sink: LinkSink): void {
    this.#sink = sink;
    this.pump();
  }

  /** Takes a chunk of the source; it belongs to this direction from now on. */
  push(chunk: Buffer): void {
    if (this.#closed || chunk.length === 0) return;
    const nowMs = this.#clock.monotonicMs();
    if (this.#canPass(nowMs)) {
      this.#deliver(chunk);
      if (this.#sinkFull) this.#pauseSource();
      return;
    }
    const pieceBytes = this.#line.pieceBytes;
    for (let at = 0; at < chunk.length; at += pieceBytes) {
      const piece = chunk.length <= pieceBytes ? chunk : chunk.subarray(at, at + pieceBytes);
      this.#enqueue(piece, this.#line.admit(piece.length, nowMs));
      this.#queuedBytes += piece.length;
    }
    this.pump();
  }

  /** The source has ended; the sink ends when everything before has arrived. */
  pushEnd(): void {
    this.#pushMark("end");
  }

  /** The source was reset; what is queued arrives first, as far as the sink takes it. */
  pushReset(): void {
    this.#pushMark("reset");
  }

  /** The sink takes data again. */
  drained(): void {
    this.#sinkFull = false;
    this.pump();
  }

  /** Forgets everything queued and stops the timer. */
  close(): void {
    this.#closed = true;
    this.#entries = [];
    this.#dueMs = [];
    this.#head = 0;
    this.#queuedBytes = 0;
    this.#timer?.stop();
    this.#timer = undefined;
  }

  /** Delivers what has arrived, lets the source go on if there is room, and sets the timer for what comes next. Idempotent. */
  pump(): void {
    if (this.#closed) return;
    const nowMs = this.#clock.monotonicMs();
    this.#deliverDue(nowMs);
    if (this.#closed) return;
    const resumeAtMs = this.#settleSource(nowMs);
    this.#arm(Math.min(this.#nextArrivalMs(), resumeAtMs), nowMs);
  }

  #canPass(nowMs: number): boolean {
    return (
      this.#head === this.#entries.length &&
      this.#sink !== undefined &&
      !this.#sinkFull &&
      this.#line.isTransparent(nowMs)
    );
  }

  #pushMark(mark: "end" | "reset"): void {
    if (this.#closed) return;
    this.#enqueue(mark, this.#line.admit(0, this.#clock.monotonicMs()));
    this.pump();
  }

  #enqueue(entry: Entry, dueMs: number): void {
    // A delay that was shortened meanwhile must not let bytes overtake each other.
    this.#lastDueMs = Math.max(this.#lastDueMs, dueMs);
    this.#entries.push(entry);
    this.#dueMs.push(this.#lastDueMs);
  }

  #nextArrivalMs(): number {
    const dueMs = this.#dueMs[this.#head];
    if (dueMs === undefined || this.#sinkFull || this.#sink === undefined) return Number.POSITIVE_INFINITY;
    return this.#line.arrivesAtMs(dueMs);
  }

  #deliverDue(nowMs: number): void {
    if (this.#nextArrivalMs() > nowMs + EARLY_MS) return;
    this.#sink?.cork();
    while (this.#nextArrivalMs() <= nowMs + EARLY_MS) {
      const entry = this.#entries[this.#head] as Entry;
      this.#head += 1;
      if (typeof entry === "string") {
        this.#sink?.uncork();
        if (entry === "end") this.#sink?.end();
        else this.#sink?.reset();
        return;
      }
      this.#queuedBytes -= entry.length;
      this.#deliver(entry);
    }
    this.#sink?.uncork();
    this.#compact();
  }

  #deliver(chunk: Buffer): void {
    this.#deliveredBytes += chunk.length;
    if (this.#sink?.write(chunk) === false) this.#sinkFull = true;
  }

  #compact(): void {
    if (this.#head === this.#entries.length) {
      this.#entries.length = 0;
      this.#dueMs.length = 0;
      this.#head = 0;
    } else if (this.#head >= COMPACT_COUNT) {
      this.#entries.splice(0, this.#head);
      this.#dueMs.splice(0, this.#head);
      this.#head = 0;
    }
  }

  /** Pauses or resumes the source. @returns when to look again, Infinity if a delivery or the sink will cause it. */
  #settleSource(nowMs: number): number {
    const backlogMs = this.#line.backlogMs(nowMs);
    const queueBytesMax = Math.min(this.#inFlightBytesMax, this.#line.capacityBytes * 1.25 + SLACK_BYTES);
    const crowded = this.#queuedBytes > queueBytesMax;
    if (
      !crowded &&
      backlogMs <= (this.#paused ? QUEUE_MS / 2 : QUEUE_MS) &&
      !(this.#sinkFull && this.#queuedBytes === 0)
    ) {
      if (this.#paused) {
        this.#paused = false;
        this.#source.resume();
      }
      return Number.POSITIVE_INFINITY;
    }
    this.#pauseSource();
    return crowded || backlogMs <= QUEUE_MS / 2 ? Number.POSITIVE_INFINITY : nowMs + backlogMs - QUEUE_MS / 2;
  }

  #pauseSource(): void {
    if (this.#paused) return;
    this.#paused = true;
    this.#source.pause();
  }

  #arm(atMs: number, nowMs: number): void {
    if (this.#timer !== undefined && this.#timerAtMs === atMs) return;
    this.#timer?.stop();
    this.#timer = undefined;
    this.#timerAtMs = atMs;
    if (atMs === Number.POSITIVE_INFINITY) return;
    this.#timer = this.#clock.after(Math.max(1, Math.ceil(atMs - nowMs - EARLY_MS)), () => {
      this.#timer = undefined;
      this.pump();
    });
  }
}
