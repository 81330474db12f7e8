/**
 * What to read before it is asked for: recognises how an open is read and names the ranges that come next.
 *
 * It fetches and holds nothing. Told each read, it tells its sink which ranges to prefetch, and which prefetched ones nobody
 * will read any more. An open is read in up to STREAMS_MAX streams (several threads, several tables), each of which is recognised on its own:
 *
 *     forward   a read starts where the last one ended; then also anywhere in what was prefetched, and a little behind, because the
 *               kernel's requests overtake each other.
 *     backward  a read ends where the last one started.
 *     strided   two reads in turn were the same distance apart.
 *
 * The window of a stream grows in few steps up to what the caller says the line holds, because on a long line each step costs a round trip. A program
 * that reads whole units at a time gets all of it at once; one that reads less may want only the head of the file, so it gets four of its reads, or the
 * part of the line that costs little next to a round trip, and all when it reads on. A stream that is not continued gets nothing more; its unread
 * bytes are given up when it is the one longest unused or `expire` finds it.
 * It cannot delay a foreground read: prefetching takes its credits after all others (RequestPriority.READ_AHEAD).
 *
 * INVARIANT: the bytes prefetched and not dropped again, of all streams of all opens of a mount, are within the mount's budget. Every prefetched
 * byte is dropped exactly once: when it was read, or when nobody will.
 */
import assert from "node:assert/strict";

/** Streams recognised in one open at once. */
const STREAMS_MAX = 4;
/** Ranges a strided stream is ahead at most. */
const STRIDES_MAX = 64;
/** The first window in reads, and the least part of the largest one it is. */
const FIRST_READS = 4;
const FIRST_PART = 16;
const GROWTH = 16;
/** A refill is worth while for a unit, or this part of the window, but for no more than half of it. */
const REFILL_PART = 8;
const PAGE_BYTES = 4096;
/** How far behind its end a forward stream still takes a read for its own, in lengths of a read. */
const OVERTAKE_READS = 4;

/** The bytes that all opens of a mount may hold prefetched. */
export class ReadAheadBudget {
  readonly bytesMax: number;
  #usedBytes = 0;

  constructor(bytesMax: number) {
    this.bytesMax = bytesMax;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  get freeBytes(): number {
    return this.bytesMax - this.#usedBytes;
  }

  /** Takes `bytes` (negative: gives them back). */
  take(bytes: number): void {
    this.#usedBytes += bytes;
    assert(this.#usedBytes >= 0 && this.#usedBytes <= this.bytesMax, "read-ahead budget");
  }
}

/** Who carries out what the policy says. Both are called from inside the policy's methods and must not call it. */
export interface ReadAheadSink {
  /** Fetch this range; it is not empty and lies below the size of the file. */
  prefetch(offsetBytes: number, lengthBytes: number): void;
  /** Nobody but those who wait for it already will read this prefetched range: free it, or withdraw it if it has not come yet. */
  drop(offsetBytes: number, lengthBytes: number): void;
}

export interface ReadAheadOptions {
  /** Ranges of this size and more end on multiples of it: the section size. */
  readonly unitBytes: number;
  /** The first window of a stream is no smaller, however small the reads. */
  readonly windowBytesMin: number;
  /** A stream not continued for this long is given up by `expire`. */
  readonly idleMs: number;
}

type Kind = "single" | "forward" | "backward" | "strided";

/** One recognised sequence of reads. Rows are made once for an open and used again. */
interface Stream {
  kind: Kind;
  /** The last read of the stream; of a forward stream its furthest end is what counts. */
  offsetBytes: number;
  lengthBytes: number;
  /** From the read before, of whatever stream, to this one; once strided, the stride. */
  stepBytes: number;
  /** Forward, backward: where the prefetched part ends; read and prefetched touch. */
  frontierBytes: number;
  /** Strided: ranges prefetched and not read. */
  strides: number;
  /** Strided: length of each of them. */
  strideLengthBytes: number;
  windowBytes: number;
  /** Forward: where the part begins that is prefetched and not dropped; it ends at the frontier. */
  trailBytes: number;
  /** Of the budget: prefetched and not dropped. */
  heldBytes: number;
  usedAtMs: number;
}

export class ReadAheadPolicy {
  readonly #budget: ReadAheadBudget;
  readonly #sink: ReadAheadSink;
  readonly #options: ReadAheadOptions;
  readonly #streams: Stream[] = [];
  #lastOffsetBytes = 0;
  #reads = 0;

  /** For one open; `close` it when the open is released. */
  constructor(budget: ReadAheadBudget, sink: ReadAheadSink, options: ReadAheadOptions) {
    assert(options.unitBytes > 0, "unit");
    this.#budget = budget;
    this.#sink = sink;
    this.#options = options;
  }

  /** Bytes prefetched for this open and not dropped. */
  get heldBytes(): number {
    let bytes = 0;
    for (const stream of this.#streams) bytes += stream.heldBytes;
    return bytes;
  }

  /**
   * The application reads this range. To be called for every read, after looking up what was prefetched of it (and taking hold of
   * that, because it may be dropped from inside this call), and before waiting for anything.
   *
   * @param fileBytes  size of the file as far as is known; nothing is prefetched beyond it.
   * @param windowBytesMax  the most to be ahead of a stream: about twice what the line holds.
   */
  onRead(offsetBytes: number, lengthBytes: number, nowMs: number, fileBytes: number, windowBytesMax: number): void {
    if (lengthBytes <= 0) return;
    const first = this.#reads++ === 0;
    let stream = this.#match(offsetBytes, lengthBytes);
    if (stream === undefined) {
      stream = this.#start(offsetBytes, lengthBytes, nowMs);
      // An open that begins at the beginning is most often read to its end.
      if (first && offsetBytes === 0) stream.kind = "forward";
    }
    stream.usedAtMs = nowMs;
    this.#lastOffsetBytes = offsetBytes;
    if (stream.kind !== "single") this.#refill(stream, fileBytes, windowBytesMax);
  }

  /** Gives up streams that nobody has continued for a while. */
  expire(nowMs: number): void {
    for (const stream of this.#streams) {
      if (nowMs - stream.usedAtMs >= this.#options.idleMs) this.#giveUp(stream);
    }
  }

  /** What was prefetched is no longer true (the file was changed or cut): drops it all; the streams go on from where they are. */
  invalidate(): void {
    for (const stream of this.#streams) this.#dropHeld(stream);
  }

  /** The open is gone: drops everything. */
  close(): void {
    for (const stream of this.#streams) this.#giveUp(stream);
    this.#streams.length = 0;
  }

  /** The stream this read continues, moved forward to it; undefined if there is none. */
  #match(offsetBytes: number, lengthBytes: number): Stream | undefined {
    for (const stream of this.#streams) {
      if (stream.kind === "forward" || stream.kind === "single") {
        if (this.#continuesForward(stream, offsetBytes)) return this.#goForward(stream, offsetBytes, lengthBytes);
      }
      if (stream.kind === "backward" || stream.kind === "single") {
        const endBytes = offsetBytes + lengthBytes;
        const least = stream.kind === "single" ? stream.offsetBytes : stream.frontierBytes;
        if (endBytes >= least && endBytes <= stream.offsetBytes)
          return this.#goBackward(stream, offsetBytes, lengthBytes);
      }
      if (stream.kind === "strided" || stream.kind === "single") {
        const strides = this.#stridesTo(stream, offsetBytes);
        if (strides > 0) return this.#goStrides(stream, strides, offsetBytes, lengthBytes);
      }
    }
    return undefined;
  }

  #continuesForward(stream: Stream, offsetBytes: number): boolean {
    const endBytes = stream.offsetBytes + stream.lengthBytes;
    if (stream.kind === "single") return offsetBytes === endBytes;
    const overtakeBytes = OVERTAKE_READS * stream.lengthBytes;
    return offsetBytes >= endBytes - overtakeBytes && offsetBytes <= Math.max(endBytes, stream.frontierBytes);
  }

  #goForward(stream: Stream, offsetBytes: number, lengthBytes: number): Stream {
    const endBytes = Math.max(stream.offsetBytes + stream.lengthBytes, offsetBytes + lengthBytes);
    if (stream.kind === "single") this.#becomes(stream, "forward", endBytes);
    stream.lengthBytes = lengthBytes;
    stream.offsetBytes = endBytes - lengthBytes;
    // A read that has overrun what was prefetched starts over; else a little is kept for reads that were overtaken.
    const trailBytes = endBytes > stream.frontierBytes ? stream.frontierBytes : endBytes - OVERTAKE_READS * lengthBytes;
    this.#dropBehind(stream, trailBytes);
    if (endBytes > stream.frontierBytes) this.#becomes(stream, "forward", endBytes, stream.windowBytes);
    return stream;
  }

  /** Drops what a forward stream holds below `trailBytes`. */
  #dropBehind(stream: Stream, trailBytes: number): void {
    const bytes = trailBytes - stream.trailBytes;
    if (bytes <= 0) return;
    this.#sink.drop(stream.trailBytes, bytes);
    stream.trailBytes = trailBytes;
    this.#setHeld(stream, stream.frontierBytes - trailBytes);
  }

  #goBackward(stream: Stream, offsetBytes: number, lengthBytes: number): Stream {
    if (stream.kind === "single") this.#becomes(stream, "backward", offsetBytes);
    const from = Math.max(offsetBytes, stream.frontierBytes);
    if (from < stream.offsetBytes && stream.heldBytes > 0) this.#sink.drop(from, stream.offsetBytes - from);
    stream.offsetBytes = offsetBytes;
    stream.lengthBytes = lengthBytes;
    stream.frontierBytes = Math.min(stream.frontierBytes, offsetBytes);
    this.#setHeld(stream, offsetBytes - stream.frontierBytes);
    return stream;
  }

  /** How many strides lie between the stream's last read and this one; 0 if it is not on the grid, or too far along it. */
  #stridesTo(stream: Stream, offsetBytes: number): number {
    const { stepBytes } = stream;
    // Reads closer than their length are another pattern.
    if (Math.abs(stepBytes) <= stream.lengthBytes) return 0;
    const strides = (offsetBytes - stream.offsetBytes) / stepBytes;
    return Number.isInteger(strides) && strides >= 1 && strides <= Math.max(1, stream.strides) ? strides : 0;
  }

  #goStrides(stream: Stream, strides: number, offsetBytes: number, lengthBytes: number): Stream {
    if (stream.kind === "single") this.#becomes(stream, "strided", 0);
    const passed = Math.min(strides, stream.strides);
    for (let stride = 1; stride <= passed; stride++) {
      this.#sink.drop(stream.offsetBytes + stride * stream.stepBytes, stream.strideLengthBytes);
    }
    stream.strides -= passed;
    // The next ones are fetched as long as this one was read; those on their way stay as they are.
    if (stream.strides === 0) stream.strideLengthBytes = lengthBytes;
    stream.offsetBytes = offsetBytes;
    stream.lengthBytes = lengthBytes;
    this.#setHeld(stream, stream.strides * stream.strideLengthBytes);
    return stream;
  }

  #becomes(stream: Stream, kind: Kind, frontierBytes: number, windowBytes = 0): void {
    stream.kind = kind;
    stream.frontierBytes = frontierBytes;
    stream.trailBytes = frontierBytes;
    stream.strides = 0;
    stream.windowBytes = windowBytes;
  }

  /** A stream for a read that continues none, in place of the one longest unused. */
  #start(offsetBytes: number, lengthBytes: number, nowMs: number): Stream {
    const stream = this.#streams.length < STREAMS_MAX ? { ...EMPTY } : this.#takeOldest();
    this.#streams.push(stream);
    stream.offsetBytes = offsetBytes;
    stream.lengthBytes = lengthBytes;
    stream.stepBytes = offsetBytes - this.#lastOffsetBytes;
    stream.frontierBytes = offsetBytes + lengthBytes;
    stream.trailBytes = stream.frontierBytes;
    stream.usedAtMs = nowMs;
    return stream;
  }

  /** The stream longest unused, given up and out of the list; of equal ones that which was started first. */
  #takeOldest(): Stream {
    let oldest = 0;
    this.#streams.forEach((stream, at) => {
      if (stream.usedAtMs < (this.#streams[oldest] as Stream).usedAtMs) oldest = at;
    });
    const [stream] = this.#streams.splice(oldest, 1) as [Stream];
    this.#giveUp(stream);
    return stream;
  }

  /** Prefetches more when enough of the window is not ahead. */
  #refill(stream: Stream, fileBytes: number, windowBytesMax: number): void {
    const { unitBytes, windowBytesMin } = this.#options;
    const aheadBytes = this.#aheadBytes(stream);
    const worthBytes = Math.min(stream.windowBytes / 2, Math.max(unitBytes, stream.windowBytes / REFILL_PART));
    if (stream.windowBytes > 0 && stream.windowBytes - aheadBytes < worthBytes) return;
    // Half of what is left, so that the next stream finds something too.
    const share = (this.#budget.freeBytes + stream.heldBytes) / 2;
    const grown = this.#grownBytes(stream, windowBytesMax);
    stream.windowBytes = Math.min(Math.max(grown, windowBytesMin), windowBytesMax, share);
    const room = Math.min(stream.windowBytes - aheadBytes, this.#budget.freeBytes);
    if (stream.kind === "forward") this.#refillForward(stream, room, fileBytes);
    else if (stream.kind === "backward") this.#refillBackward(stream, room, fileBytes);
    else this.#refillStrided(stream, room, fileBytes);
  }

  #grownBytes(stream: Stream, windowBytesMax: number): number {
    if (stream.windowBytes > 0) return stream.windowBytes * GROWTH;
    if (stream.lengthBytes >= this.#options.unitBytes) return windowBytesMax;
    return Math.max(stream.lengthBytes * FIRST_READS, windowBytesMax / FIRST_PART);
  }

  /** Prefetched bytes that lie ahead of the stream's last read. */
  #aheadBytes(stream: Stream): number {
    if (stream.kind !== "forward") return stream.heldBytes;
    return stream.frontierBytes - stream.offsetBytes - stream.lengthBytes;
  }

  #refillForward(stream: Stream, room: number, fileBytes: number): void {
    const from = stream.frontierBytes;
    const boundaryBytes = this.#boundaryBytes(room);
    let to = Math.floor((from + room) / boundaryBytes) * boundaryBytes;
    if (from + room >= fileBytes) to = fileBytes;
    if (to <= from) return;
    stream.frontierBytes = to;
    this.#setHeld(stream, stream.heldBytes + to - from);
    this.#sink.prefetch(from, to - from);
  }

  #refillBackward(stream: Stream, room: number, fileBytes: number): void {
    const to = stream.frontierBytes;
    const boundaryBytes = this.#boundaryBytes(room);
    const from = Math.max(0, Math.ceil((to - room) / boundaryBytes) * boundaryBytes);
    if (from >= to || to > fileBytes) return;
    stream.frontierBytes = from;
    this.#setHeld(stream, stream.heldBytes + to - from);
    this.#sink.prefetch(from, to - from);
  }

  /** Where a range may end: on whole units, or on pages while less than a unit is wanted. */
  #boundaryBytes(room: number): number {
    return room >= this.#options.unitBytes ? this.#options.unitBytes : Math.min(PAGE_BYTES, this.#options.unitBytes);
  }

  #refillStrided(stream: Stream, room: number, fileBytes: number): void {
    const { stepBytes, strideLengthBytes } = stream;
    for (let left = room; left >= strideLengthBytes && stream.strides < STRIDES_MAX; left -= strideLengthBytes) {
      const from = stream.offsetBytes + (stream.strides + 1) * stepBytes;
      if (from < 0 || from + strideLengthBytes > fileBytes) return;
      stream.strides++;
      this.#setHeld(stream, stream.heldBytes + strideLengthBytes);
      this.#sink.prefetch(from, strideLengthBytes);
    }
  }

  #setHeld(stream: Stream, bytes: number): void {
    this.#budget.take(bytes - stream.heldBytes);
    stream.heldBytes = bytes;
  }

  #dropHeld(stream: Stream): void {
    if (stream.kind === "strided") {
      for (let stride = 1; stride <= stream.strides; stride++) {
        this.#sink.drop(stream.offsetBytes + stride * stream.stepBytes, stream.strideLengthBytes);
      }
    } else if (stream.heldBytes > 0) {
      this.#sink.drop(stream.kind === "forward" ? stream.trailBytes : stream.frontierBytes, stream.heldBytes);
    }
    this.#setHeld(stream, 0);
    const backward = stream.kind === "backward";
    this.#becomes(stream, stream.kind, backward ? stream.offsetBytes : stream.offsetBytes + stream.lengthBytes);
  }

  #giveUp(stream: Stream): void {
    this.#dropHeld(stream);
    stream.kind = "single";
    // No read continues it by chance: it has no length and no step.
    stream.offsetBytes = -1;
    stream.lengthBytes = 0;
    stream.stepBytes = 0;
  }

  /** For tests: fails if an invariant does not hold. */
  checkInvariants(): void {
    assert(this.#streams.length <= STREAMS_MAX, "streams are bounded");
    assert(this.heldBytes <= this.#budget.usedBytes, "what is held is in the budget");
    for (const stream of this.#streams) {
      const { kind, heldBytes, trailBytes, frontierBytes, offsetBytes, lengthBytes } = stream;
      assert(heldBytes >= 0 && stream.strides <= STRIDES_MAX, "what is held is bounded");
      if (kind === "single") assert.equal(heldBytes, 0, "a single read has nothing ahead");
      if (kind === "forward") {
        assert.equal(heldBytes, frontierBytes - trailBytes, "held from trail to frontier");
        assert(frontierBytes >= offsetBytes + lengthBytes, "the frontier is ahead of the read");
      }
      if (kind === "backward") assert.equal(heldBytes, offsetBytes - frontierBytes, "held from frontier to start");
      if (kind === "strided") assert.equal(heldBytes, stream.strides * stream.strideLengthBytes, "strides held");
    }
  }
}

const EMPTY: Stream = {
  kind: "single",
  offsetBytes: -1,
  lengthBytes: 0,
  stepBytes: 0,
  frontierBytes: 0,
  strides: 0,
  strideLengthBytes: 0,
  windowBytes: 0,
  trailBytes: 0,
  heldBytes: 0,
  usedAtMs: 0,
};
