/**
 * The reads of one open: from pieces that were read ahead where there are some, from the FileSystem behind for the rest.
 *
 * A program that has read a file to its end is told so by the kernel only after it has asked for the attributes, if it has none that are fresh. So they
 * are asked for together with the last pieces.
 *
 * INVARIANT: pieces do not overlap, and none crosses a section boundary of the file.
 */
import { type CancelSignal, CancelSource, raceSignal } from "../base/signals.ts";
import type { Attr } from "../vfs/attr.ts";
import {
  type Caller,
  type FileSystem,
  type HandleId,
  type NodeId,
  type Opened,
  type RequestContext,
  RequestPriority,
} from "../vfs/file-system.ts";
import type { PieceMemory, ReadAheadOptions } from "./read-ahead.ts";
import { type ReadAheadBudget, ReadAheadPolicy, type ReadAheadSink } from "./read-ahead-policy.ts";

/** How old a piece may be when it is used, milliseconds. */
export const FRESH_MS = 1000;
/** How old attributes may be that were asked for with the end of the file, when they are wanted. */
const END_FRESH_MS = 250;
/** A line that holds less than this is filled by the reads themselves. */
const LINE_BYTES_MIN = 256 * 1024;

/** Bytes of the file that were fetched, or are on their way. */
interface Piece {
  readonly offsetBytes: number;
  /** Bytes that were asked for. */
  readonly wantedBytes: number;
  /** At least that long. */
  readonly memory: Buffer;
  /** Bytes it has; -1 while they are on their way. */
  lengthBytes: number;
  arrivedMs: number;
  /** Settles when `lengthBytes` is known or the piece was dropped. Never rejects. */
  arrival: Promise<void>;
  /** Withdraws it while it is on its way. */
  readonly source: CancelSource | undefined;
  /** Out of the list: only the reads that hold it may still use it. */
  dropped: boolean;
  /** The file was changed: nobody may use it. */
  spoilt: boolean;
  /** Reads that wait for it. Its memory is free when it is dropped, has arrived, and nobody holds it. */
  holders: number;
  /** It ends where the file does, as of the open, which is as fresh as attributes are. */
  endsFile: boolean;
  freed: boolean;
  /** Bytes of it that foreground reads have taken. */
  takenBytes: number;
}

/** The attributes that were asked for with the end of the file. Never rejects. */
interface EndAttr {
  readonly answer: Promise<Attr | undefined>;
  /** Infinity until it is here. */
  arrivedMs: number;
  /** `attrChanges` when it was asked for. */
  readonly changes: number;
}

const NEW_PIECE = {
  lengthBytes: -1,
  arrivedMs: 0,
  arrival: Promise.resolve(),
  source: undefined,
  dropped: false,
  spoilt: false,
  holders: 0,
  endsFile: false,
  freed: false,
  takenBytes: 0,
};

export class OpenReader implements ReadAheadSink {
  readonly #inner: FileSystem;
  readonly #options: ReadAheadOptions;
  readonly #memory: PieceMemory;
  readonly #id: NodeId;
  readonly #handle: HandleId;
  readonly #closed: () => void;
  readonly #attrChanges: () => number;
  readonly #policy: ReadAheadPolicy;
  /** In order of their offsets; few enough to search from the front. */
  #pieces: Piece[] = [];
  #caller: Caller | undefined;
  /** Size of the file as far as is known. */
  #fileBytes: number;
  /** When the kernel was last given attributes by way of this open. */
  #attrMs: number;
  #end: EndAttr | undefined;

  constructor(parts: {
    inner: FileSystem;
    options: ReadAheadOptions;
    memory: PieceMemory;
    budget: ReadAheadBudget;
    id: NodeId;
    opened: Opened;
    closed: () => void;
    /** How often attributes have been changed of which this is not told by `invalidate`. */
    attrChanges: () => number;
  }) {
    this.#inner = parts.inner;
    this.#options = parts.options;
    this.#memory = parts.memory;
    this.#id = parts.id;
    this.#handle = parts.opened.handle;
    this.#fileBytes = parts.opened.attr.sizeBytes;
    this.#attrMs = parts.options.clock.monotonicMs();
    this.#closed = parts.closed;
    this.#attrChanges = parts.attrChanges;
    const { content } = parts.opened;
    if (content !== undefined) this.#keepContent(content);
    this.#policy = new ReadAheadPolicy(parts.budget, this, {
      unitBytes: parts.options.sectionBytes,
      windowBytesMin: Math.min(parts.options.sectionBytes, LINE_BYTES_MIN),
      idleMs: FRESH_MS,
    });
  }

  /** As FileSystem.read of this open. */
  read(ctx: RequestContext, offsetBytes: number, target: Buffer): Promise<number> {
    const parts: Promise<number>[] = [];
    const ends: number[] = [];
    for (let done = 0; done < target.length; ) {
      const at = offsetBytes + done;
      const piece = this.#pieceAt(at);
      let end = target.length;
      if (piece === undefined) {
        end = Math.min(end, this.#nextPieceBytes(at) - offsetBytes);
        parts.push(this.#inner.read(ctx, this.#handle, at, target.subarray(done, end)));
      } else {
        if (!piece.endsFile) end = Math.min(end, piece.offsetBytes + piece.wantedBytes - offsetBytes);
        parts.push(this.#readPiece(ctx, piece, at, target.subarray(done, end)));
      }
      ends.push(end);
      done = end;
    }
    this.#readAhead(ctx.caller, offsetBytes, target.length);
    return parts.length === 1 ? (parts[0] as Promise<number>) : joinParts(parts, ends);
  }

  /** Attributes that were asked for with the end of the file, once; undefined if there are none, or they are too old. */
  async takeAttr(signal: CancelSignal | undefined): Promise<Attr | undefined> {
    const end = this.#end;
    if (end === undefined) return undefined;
    const attr = await raceSignal(end.answer, signal);
    const nowMs = this.#options.clock.monotonicMs();
    if (this.#end !== end) return undefined;
    // Asked for again, if it is too old.
    this.#end = undefined;
    if (nowMs - end.arrivedMs > END_FRESH_MS || end.changes !== this.#attrChanges()) return undefined;
    this.#attrMs = nowMs;
    return attr;
  }

  /** The file is being changed and reaches at least to `endBytes` afterwards: nothing that was fetched may be used. */
  invalidate(endBytes: number): void {
    this.#end = undefined;
    for (const piece of this.#pieces) piece.spoilt = true;
    this.#policy.invalidate();
    this.#dropAll();
    this.#fileBytes = Math.max(this.#fileBytes, endBytes);
  }

  close(): void {
    this.#policy.close();
    this.#dropAll();
    this.#closed();
  }

  prefetch(offsetBytes: number, lengthBytes: number): void {
    const { sectionBytes } = this.#options;
    const endBytes = offsetBytes + lengthBytes;
    if (endBytes >= this.#fileBytes) this.#askAttr();
    for (let at = offsetBytes; at < endBytes; ) {
      const end = Math.min(endBytes, (Math.floor(at / sectionBytes) + 1) * sectionBytes);
      this.#fetch(at, end - at);
      at = end;
    }
  }

  drop(offsetBytes: number, lengthBytes: number): void {
    for (const piece of [...this.#pieces]) {
      // A stream that has passed only a part of a piece still wants the rest.
      const end = piece.offsetBytes + piece.wantedBytes;
      if (end > offsetBytes && end <= offsetBytes + lengthBytes) this.#dropPiece(piece);
    }
  }

  #readAhead(caller: Caller, offsetBytes: number, lengthBytes: number): void {
    const { clock, lineBytes, kernelReadAheadBytes, bytesMax } = this.#options;
    const line = lineBytes();
    const windowBytes = line < LINE_BYTES_MIN ? 0 : Math.min(2 * line - kernelReadAheadBytes(), bytesMax);
    if (windowBytes <= 0) return;
    const nowMs = clock.monotonicMs();
    for (const piece of [...this.#pieces]) if (this.#isStale(piece, nowMs)) this.#dropPiece(piece);
    this.#caller = caller;
    this.#policy.onRead(offsetBytes, lengthBytes, nowMs, this.#fileBytes, windowBytes);
  }

  #fetch(offsetBytes: number, lengthBytes: number): void {
    if (this.#caller === undefined || this.#options.isDirty(this.#id, offsetBytes, lengthBytes)) return;
    const next = this.#nextPieceBytes(offsetBytes);
    if (this.#pieceAt(offsetBytes) !== undefined || next < offsetBytes + lengthBytes) return;
    const memory = this.#memory.take(lengthBytes);
    if (memory === undefined) return;
    const source = new CancelSource();
    const piece: Piece = { ...NEW_PIECE, offsetBytes, wantedBytes: lengthBytes, memory, source };
    const index = this.#pieces.findIndex((other) => other.offsetBytes > offsetBytes);
    this.#pieces.splice(index < 0 ? this.#pieces.length : index, 0, piece);
    const ctx = { caller: this.#caller, priority: RequestPriority.READ_AHEAD, signal: source };
    const target = memory.length === lengthBytes ? memory : memory.subarray(0, lengthBytes);
    piece.arrival = this.#inner.read(ctx, this.#handle, offsetBytes, target).then(
      (bytes) => this.#arrived(piece, bytes),
      // The foreground read that wants these bytes will ask for them itself, and meet the error.
      () => this.#arrived(piece, 0),
    );
  }

  /**
   * Asks for the attributes, if those the kernel has will be old when the end of the file has been read.
   *
   * Not while there are unsent writes: the question would overtake them, and the answer be taken for the file's when they have been sent.
   */
  #askAttr(): void {
    const { clock, attrTimeoutMs, isDirty } = this.#options;
    const isOld = clock.monotonicMs() - this.#attrMs >= attrTimeoutMs / 2;
    if (this.#caller === undefined || this.#end !== undefined || attrTimeoutMs === 0 || !isOld) return;
    if (isDirty(this.#id, 0, Number.POSITIVE_INFINITY)) return;
    const end: EndAttr = {
      arrivedMs: Number.POSITIVE_INFINITY,
      changes: this.#attrChanges(),
      answer: this.#inner.getattr({ caller: this.#caller }, this.#id, this.#handle).then(
        (attr) => {
          end.arrivedMs = clock.monotonicMs();
          return attr;
        },
        // Whoever wants them will ask, and meet the error.
        () => undefined,
      ),
    };
    this.#end = end;
  }

  /** The bytes that came with the open are a piece like those read ahead. */
  #keepContent(content: Buffer): void {
    if (!this.#memory.reserve(content.length)) return;
    const lengthBytes = content.length;
    const arrivedMs = this.#options.clock.monotonicMs();
    const whole = { offsetBytes: 0, wantedBytes: lengthBytes, lengthBytes, endsFile: true };
    this.#pieces.push({ ...NEW_PIECE, ...whole, memory: content, arrivedMs });
  }

  #arrived(piece: Piece, bytes: number): void {
    piece.arrivedMs = this.#options.clock.monotonicMs();
    piece.lengthBytes = bytes;
    if (piece.dropped) this.#freeUnheld(piece);
    else if (bytes === 0) this.#dropPiece(piece);
  }

  async #readPiece(ctx: RequestContext, piece: Piece, offsetBytes: number, target: Buffer): Promise<number> {
    const at = offsetBytes - piece.offsetBytes;
    piece.holders += 1;
    try {
      if (piece.lengthBytes < 0) await raceSignal(piece.arrival, ctx.signal);
      // A short piece says where the file ended when it was fetched. It may have grown since, and only the server knows.
      const bytes = piece.endsFile ? Math.min(target.length, piece.lengthBytes - at) : target.length;
      if (!piece.spoilt && piece.lengthBytes >= at + bytes) {
        piece.memory.copy(target, 0, at, at + bytes);
        piece.takenBytes += bytes;
        if (piece.takenBytes >= piece.lengthBytes) this.#dropPiece(piece);
        return bytes;
      }
    } finally {
      piece.holders -= 1;
      if (piece.dropped) this.#freeUnheld(piece);
    }
    return this.#inner.read(ctx, this.#handle, offsetBytes, target);
  }

  #pieceAt(offsetBytes: number): Piece | undefined {
    const nowMs = this.#options.clock.monotonicMs();
    for (const piece of this.#pieces) {
      if (piece.offsetBytes > offsetBytes) return undefined;
      if (offsetBytes < piece.offsetBytes + piece.wantedBytes) return this.#isStale(piece, nowMs) ? undefined : piece;
    }
    return undefined;
  }

  /** Where the first piece after `offsetBytes` begins. */
  #nextPieceBytes(offsetBytes: number): number {
    for (const piece of this.#pieces) if (piece.offsetBytes > offsetBytes) return piece.offsetBytes;
    return Number.POSITIVE_INFINITY;
  }

  #isStale(piece: Piece, nowMs: number): boolean {
    return piece.lengthBytes >= 0 && nowMs - piece.arrivedMs > FRESH_MS;
  }

  #dropPiece(piece: Piece): void {
    if (piece.dropped) return;
    piece.dropped = true;
    this.#pieces.splice(this.#pieces.indexOf(piece), 1);
    this.#freeUnheld(piece);
  }

  /** Gives the memory of a dropped piece back, unless somebody holds it: then the last of them does. One on its way is withdrawn, and freed when that is done. */
  #freeUnheld(piece: Piece): void {
    if (piece.freed || piece.holders > 0) return;
    if (piece.lengthBytes < 0) {
      piece.source?.abort();
      return;
    }
    piece.freed = true;
    this.#memory.give(piece.memory);
  }

  #dropAll(): void {
    for (const piece of [...this.#pieces]) this.#dropPiece(piece);
  }
}

/** Bytes read up to the first part that came short. Every part is waited for, because it may still write to the target. */
async function joinParts(parts: Promise<number>[], ends: number[]): Promise<number> {
  const settled = await Promise.allSettled(parts);
  let begin = 0;
  for (const [index, part] of settled.entries()) {
    // What was read before it is not told: a short read says that the file ends there.
    if (part.status === "rejected") throw part.reason;
    const end = ends[index] as number;
    if (part.value < end - begin) return begin + part.value;
    begin = end;
  }
  return begin;
}
