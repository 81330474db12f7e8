/**
 * What was written to one node and is not on the server yet: byte ranges with their data.
 *
 * Two layers over the file as the server has it: *in flight* (taken to be sent, read by the transport, never written to again) and
 * *dirty* (newest, changed in place). A byte can be in both; it is then dirty again, and is not taken before the older one has
 * landed, so no two versions of a byte are on their way together. Sends, limits and errors are the caller's business.
 *
 * Data lives in chunks of a pool, each within one section of the file. Small writes one after the other fill a chunk instead of each
 * taking one, and chunks grow fourfold along such a row.
 *
 * INVARIANT: extents of a layer are sorted, not empty and do not overlap; no extent leaves its section; a chunk is given back to
 * the pool exactly when no extent and no flight refers to it.
 */
import assert from "node:assert/strict";

const CHUNK_BYTES_MIN = 4096;
const CHUNK_GROWTH = 4;

/** Where chunks come from and go to. */
export interface ChunkPool {
  /** A buffer of at least `lengthBytes`, of which all is counted as held; it must not fail (limits are kept by asking `heldBytes` first). */
  take(lengthBytes: number): Buffer;
  give(buffer: Buffer): void;
}

/** A buffer and how many extents and flights refer to it. */
interface Chunk {
  readonly buffer: Buffer;
  references: number;
  /** Bytes of the buffer that ever were part of an extent; the rest is free to grow into. What was cut out may be in flight next to it. */
  usedBytes: number;
}

/** Bytes `startBytes..endBytes` of the file, at `at` of the chunk's buffer. */
interface Extent {
  startBytes: number;
  endBytes: number;
  chunk: Chunk;
  at: number;
  /** Number and time of the first write in it. */
  sequence: number;
  sinceMs: number;
}

/** A range taken to be sent. The buffers are to be read only, and only until `landed` or `returned`. */
export interface DirtyFlight {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** In the order of the file, together `lengthBytes`. */
  readonly buffers: readonly Buffer[];
}

interface Flight extends DirtyFlight {
  readonly chunks: readonly Chunk[];
  /** What of it still is the file's: less than was taken if the file was cut meanwhile. */
  visible: Extent[];
}

/** Which dirty extents `take` may start with. */
export interface TakeLimits {
  /** Only those that were first written by then: the value of `mark` at an fsync. */
  readonly mark?: number;
  /** Only those first written at this time or before. */
  readonly sinceMsMax?: number;
}

export class DirtyExtents {
  readonly #sectionBytes: number;
  readonly #pool: ChunkPool;
  readonly #dirty: Extent[] = [];
  /** Sorted by offset; they do not overlap. */
  readonly #flights: Flight[] = [];
  /** Dirty bytes of each section that has any. */
  readonly #sectionDirtyBytes = new Map<number, number>();
  // INVARIANT: exactly the sections all of whose bytes are dirty.
  readonly #fullSections = new Set<number>();
  #sequence = 0;
  #dirtyBytes = 0;
  #inFlightBytes = 0;
  #heldBytes = 0;
  /** `take` goes on from here, so that every part of the file has its turn. */
  #cursorBytes = 0;

  constructor(sectionBytes: number, pool: ChunkPool) {
    assert(Number.isSafeInteger(sectionBytes) && sectionBytes > 0, "section size");
    this.#sectionBytes = sectionBytes;
    this.#pool = pool;
  }

  get dirtyBytes(): number {
    return this.#dirtyBytes;
  }

  get inFlightBytes(): number {
    return this.#inFlightBytes;
  }

  /** Bytes of all chunks in use: what counts against a limit of memory. */
  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Whether there is nothing that the server does not have. */
  get clean(): boolean {
    return this.#dirty.length === 0 && this.#flights.length === 0;
  }

  /** Where the last byte held here ends: the file is at least so long. 0 if there is none. */
  get endBytes(): number {
    let end = this.#dirty.at(-1)?.endBytes ?? 0;
    for (const { visible } of this.#flights) end = Math.max(end, visible.at(-1)?.endBytes ?? 0);
    return end;
  }

  /** The time of the oldest write not yet taken; Infinity if there is none. */
  get oldestDirtyMs(): number {
    let oldestMs = Number.POSITIVE_INFINITY;
    for (const { sinceMs } of this.#dirty) if (sinceMs < oldestMs) oldestMs = sinceMs;
    return oldestMs;
  }

  /** Copies `data` in as the newest content at `offsetBytes`. */
  write(offsetBytes: number, data: Buffer, nowMs: number): void {
    this.#sequence++;
    const endBytes = offsetBytes + data.length;
    for (let from = offsetBytes; from < endBytes; ) {
      const at = this.#firstEndingAfter(from);
      const extent = this.#dirty[at];
      if (extent !== undefined && extent.startBytes <= from) {
        const to = Math.min(endBytes, extent.endBytes);
        data.copy(extent.chunk.buffer, extent.at + from - extent.startBytes, from - offsetBytes, to - offsetBytes);
        from = to;
      } else {
        const gapEndBytes = Math.min(endBytes, extent?.startBytes ?? endBytes, this.#sectionEnd(from));
        from = this.#fillGap(at, from, gapEndBytes, data, offsetBytes, nowMs);
      }
    }
  }

  /** Forgets everything at `sizeBytes` and behind it. What is in flight there cannot be called back: let it land before the server is told of the new size. */
  truncate(sizeBytes: number): void {
    this.discard(sizeBytes, Number.POSITIVE_INFINITY);
  }

  /** Forgets the range (a hole was punched): it reads as the server has it. For what is in flight see `truncate`. */
  discard(fromBytes: number, toBytes: number): void {
    for (const flight of this.#flights) flight.visible = cut(flight.visible, fromBytes, toBytes);
    let at = this.#firstEndingAfter(fromBytes);
    while (at < this.#dirty.length) {
      const extent = this.#dirty[at] as Extent;
      if (extent.startBytes >= toBytes) return;
      const left = cut([extent], fromBytes, toBytes);
      for (const part of left) part.chunk.references++;
      this.#dirty.splice(at, 1, ...left);
      this.#release(extent.chunk);
      const removedFrom = Math.max(extent.startBytes, fromBytes);
      this.#count(removedFrom, removedFrom - Math.min(extent.endBytes, toBytes));
      at += left.length;
    }
  }

  /**
   * Lays what is held over `target`, which has `baseBytes` valid bytes of the file at `offsetBytes` as the server has it.
   *
   * @returns valid bytes of `target` now; what lies between the server's end of the file and held bytes is zero.
   */
  overlay(offsetBytes: number, target: Buffer, baseBytes: number): number {
    const endBytes = offsetBytes + target.length;
    let validEnd = offsetBytes + baseBytes;
    const layers: Extent[][] = [];
    for (const flight of this.#flights) {
      if (flight.offsetBytes < endBytes && flight.offsetBytes + flight.lengthBytes > offsetBytes) {
        layers.push(flight.visible);
      }
    }
    const first = this.#firstEndingAfter(offsetBytes);
    let last = first;
    while ((this.#dirty[last]?.startBytes ?? endBytes) < endBytes) last++;
    layers.push(this.#dirty.slice(first, last));
    for (const layer of layers) {
      for (const extent of layer) {
        if (extent.startBytes < endBytes) validEnd = Math.max(validEnd, Math.min(extent.endBytes, endBytes));
      }
    }
    target.fill(0, baseBytes, validEnd - offsetBytes);
    for (const layer of layers) for (const extent of layer) copyOut(extent, offsetBytes, target);
    return validEnd - offsetBytes;
  }

  /** Whether every byte of the range is held here, so that the server need not be asked. */
  covers(offsetBytes: number, lengthBytes: number): boolean {
    const endBytes = offsetBytes + lengthBytes;
    for (let from = offsetBytes; from < endBytes; ) {
      const extent = this.#dirty[this.#firstEndingAfter(from)];
      if (extent !== undefined && extent.startBytes <= from) {
        from = extent.endBytes;
        continue;
      }
      const sent = this.#sentAt(from);
      if (sent === undefined) return false;
      from = sent.endBytes;
    }
    return true;
  }

  /** Takes a section all of whose bytes are dirty and none in flight, to be sent; undefined if there is none. */
  takeFull(): DirtyFlight | undefined {
    for (const section of this.#fullSections) {
      const offsetBytes = section * this.#sectionBytes;
      if (this.#flightFrom(offsetBytes, offsetBytes + this.#sectionBytes)) continue;
      return this.#takeFrom(this.#firstEndingAfter(offsetBytes));
    }
    return undefined;
  }

  /**
   * Takes any dirty run within one section, whole or not, of which nothing is in flight; undefined if there is none
   * that `limits` allow. Runs are taken in the order of the file, round and round.
   */
  take(limits: TakeLimits = {}): DirtyFlight | undefined {
    const mark = limits.mark ?? Number.POSITIVE_INFINITY;
    const sinceMsMax = limits.sinceMsMax ?? Number.POSITIVE_INFINITY;
    const start = this.#firstEndingAfter(this.#cursorBytes);
    for (let count = 0; count < this.#dirty.length; count++) {
      const at = (start + count) % this.#dirty.length;
      const extent = this.#dirty[at] as Extent;
      if (extent.sequence > mark || extent.sinceMs > sinceMsMax) continue;
      if (this.#flightFrom(extent.startBytes, extent.endBytes)) continue;
      return this.#takeFrom(at);
    }
    return undefined;
  }

  /** The server has it. */
  landed(flight: DirtyFlight): void {
    this.#end(flight);
  }

  /** It was not sent, or failed: what of it is not dirty again or cut off is dirty as before. */
  returned(flight: DirtyFlight): void {
    const { visible, chunks } = this.#end(flight, false);
    for (const extent of visible) {
      for (let from = extent.startBytes; from < extent.endBytes; ) {
        const at = this.#firstEndingAfter(from);
        const newer = this.#dirty[at];
        if (newer !== undefined && newer.startBytes <= from) {
          from = newer.endBytes;
          continue;
        }
        const to = Math.min(extent.endBytes, newer?.startBytes ?? extent.endBytes);
        extent.chunk.references++;
        this.#dirty.splice(at, 0, part(extent, from, to));
        this.#count(from, to - from);
        from = to;
      }
    }
    for (const chunk of chunks) this.#release(chunk);
  }

  /** Forgets all that is dirty, as when the node is gone; what is in flight still has to land. */
  clear(): void {
    this.truncate(0);
  }

  /** A mark for everything written so far. */
  mark(): number {
    return this.#sequence;
  }

  /** Whether the server has everything that was written before `mark` was taken. */
  landedUpTo(mark: number): boolean {
    const late = ({ sequence }: Extent) => sequence > mark;
    return this.#dirty.every(late) && this.#flights.every((flight) => flight.visible.every(late));
  }

  /** Makes `from..to`, a gap before dirty extent `at` within one section, dirty, as far as one chunk goes. @returns where that ends. */
  #fillGap(at: number, from: number, to: number, data: Buffer, dataOffset: number, nowMs: number): number {
    const before = this.#dirty[at - 1];
    const touches = before?.endBytes === from && from % this.#sectionBytes !== 0;
    if (before !== undefined && touches) {
      const tail = before.at + before.endBytes - before.startBytes;
      const room = before.chunk.usedBytes === tail ? before.chunk.buffer.length - tail : 0;
      const bytes = Math.min(room, to - from);
      if (bytes > 0) {
        data.copy(before.chunk.buffer, tail, from - dataOffset, from - dataOffset + bytes);
        before.endBytes += bytes;
        before.chunk.usedBytes += bytes;
        this.#count(from, bytes);
        return from + bytes;
      }
    }
    // A row of writes gets chunks that grow; one that stands alone gets what it needs.
    const grownBytes = touches ? (before?.chunk.buffer.length ?? 0) * CHUNK_GROWTH : CHUNK_BYTES_MIN;
    const wanted = Math.min(Math.max(to - from, grownBytes), this.#sectionEnd(from) - from);
    const buffer = this.#pool.take(wanted);
    assert(buffer.length >= wanted, "the pool gives what is asked for");
    this.#heldBytes += buffer.length;
    data.copy(buffer, 0, from - dataOffset, to - dataOffset);
    const chunk: Chunk = { buffer, references: 1, usedBytes: to - from };
    this.#dirty.splice(at, 0, {
      startBytes: from,
      endBytes: to,
      chunk,
      at: 0,
      sequence: this.#sequence,
      sinceMs: nowMs,
    });
    this.#count(from, to - from);
    return to;
  }

  /** Takes dirty extent `at` and those that follow without a gap in its section and are not in flight. */
  #takeFrom(at: number): Flight {
    const first = this.#dirty[at] as Extent;
    const sectionEnd = this.#sectionEnd(first.startBytes);
    let endBytes = first.startBytes;
    const visible: Extent[] = [];
    for (let next: Extent | undefined = first; next !== undefined; next = this.#dirty[at + visible.length]) {
      if (next.startBytes !== endBytes || endBytes === sectionEnd) break;
      if (next !== first && this.#flightFrom(next.startBytes, next.endBytes)) break;
      visible.push(next);
      endBytes = next.endBytes;
    }
    this.#dirty.splice(at, visible.length);
    const lengthBytes = endBytes - first.startBytes;
    this.#count(first.startBytes, -lengthBytes);
    this.#inFlightBytes += lengthBytes;
    this.#cursorBytes = endBytes;
    const flight: Flight = {
      offsetBytes: first.startBytes,
      lengthBytes,
      buffers: visible.map((each) => each.chunk.buffer.subarray(each.at, each.at + each.endBytes - each.startBytes)),
      chunks: visible.map((each) => each.chunk),
      visible,
    };
    this.#flights.splice(this.#flightIndex(flight.offsetBytes), 0, flight);
    return flight;
  }

  #end(flight: DirtyFlight, release = true): Flight {
    const at = this.#flightIndex(flight.offsetBytes);
    const own = this.#flights[at];
    assert(own !== undefined && own === flight, "a flight ends once");
    this.#flights.splice(at, 1);
    this.#inFlightBytes -= own.lengthBytes;
    if (release) for (const chunk of own.chunks) this.#release(chunk);
    return own;
  }

  #release(chunk: Chunk): void {
    if (--chunk.references > 0) return;
    this.#heldBytes -= chunk.buffer.length;
    this.#pool.give(chunk.buffer);
  }

  /** `bytes` more are dirty from `from` on, in its section; fewer if negative. */
  #count(from: number, bytes: number): void {
    this.#dirtyBytes += bytes;
    const section = Math.floor(from / this.#sectionBytes);
    const total = (this.#sectionDirtyBytes.get(section) ?? 0) + bytes;
    if (total === 0) this.#sectionDirtyBytes.delete(section);
    else this.#sectionDirtyBytes.set(section, total);
    if (total === this.#sectionBytes) this.#fullSections.add(section);
    else if (bytes < 0) this.#fullSections.delete(section);
  }

  #sectionEnd(offsetBytes: number): number {
    return offsetBytes - (offsetBytes % this.#sectionBytes) + this.#sectionBytes;
  }

  /** Index of the first dirty extent that ends after `offsetBytes`; their number if there is none. */
  #firstEndingAfter(offsetBytes: number): number {
    let low = 0;
    let high = this.#dirty.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#dirty[middle] as Extent).endBytes > offsetBytes) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Index of the first flight at `offsetBytes` or after it. */
  #flightIndex(offsetBytes: number): number {
    let low = 0;
    let high = this.#flights.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#flights[middle] as Flight).offsetBytes >= offsetBytes) high = middle;
      else low = middle + 1;
    }
    return low;
  }

  /** Whether a byte of the range is in flight, cut off or not. */
  #flightFrom(startBytes: number, endBytes: number): boolean {
    const at = this.#flightIndex(startBytes);
    if ((this.#flights[at]?.offsetBytes ?? endBytes) < endBytes) return true;
    const before = this.#flights[at - 1];
    return before !== undefined && before.offsetBytes + before.lengthBytes > startBytes;
  }

  /** The in-flight extent that holds this byte, unless it was cut off. */
  #sentAt(offsetBytes: number): Extent | undefined {
    const at = this.#flightIndex(offsetBytes + 1) - 1;
    return this.#flights[at]?.visible.find((each) => each.startBytes <= offsetBytes && each.endBytes > offsetBytes);
  }

  /** For tests: fails if an invariant does not hold. */
  checkInvariants(): void {
    const references = new Map<Chunk, number>();
    const refer = (chunk: Chunk) => references.set(chunk, (references.get(chunk) ?? 0) + 1);
    const sections = new Map<number, number>();
    let dirtyBytes = 0;
    let end = 0;
    for (const extent of this.#dirty) {
      assert(extent.startBytes >= end && extent.endBytes > extent.startBytes, "extents are sorted and not empty");
      end = extent.endBytes;
      assert(end <= this.#sectionEnd(extent.startBytes), "an extent stays in its section");
      const bytes = end - extent.startBytes;
      assert(
        extent.at >= 0 && extent.at + bytes <= extent.chunk.usedBytes,
        "an extent is in the used part of its chunk",
      );
      dirtyBytes += bytes;
      const section = Math.floor(extent.startBytes / this.#sectionBytes);
      sections.set(section, (sections.get(section) ?? 0) + bytes);
      refer(extent.chunk);
    }
    end = 0;
    let inFlightBytes = 0;
    for (const flight of this.#flights) {
      assert(flight.offsetBytes >= end, "flights are sorted and do not overlap");
      end = flight.offsetBytes + flight.lengthBytes;
      const bytes = flight.buffers.reduce((sum, buffer) => sum + buffer.length, 0);
      assert.equal(flight.lengthBytes, bytes, "a flight is as long as its buffers");
      inFlightBytes += bytes;
      flight.chunks.forEach(refer);
    }
    assert.equal(this.#dirtyBytes, dirtyBytes, "dirty bytes are counted");
    assert.equal(this.#inFlightBytes, inFlightBytes, "bytes in flight are counted");
    assert.deepEqual(this.#sectionDirtyBytes, sections, "dirty bytes of each section");
    const full = [...sections].filter(([, bytes]) => bytes === this.#sectionBytes).map(([section]) => section);
    assert.deepEqual(new Set(this.#fullSections), new Set(full), "full sections are known");
    let heldBytes = 0;
    for (const [chunk, count] of references) {
      assert.equal(chunk.references, count, "references are counted");
      heldBytes += chunk.buffer.length;
    }
    assert.equal(this.#heldBytes, heldBytes, "bytes held are counted");
  }
}

/** The part `from..to` of an extent, over the same chunk. */
function part(extent: Extent, from: number, to: number): Extent {
  return { ...extent, startBytes: from, endBytes: to, at: extent.at + from - extent.startBytes };
}

/** What is left of sorted extents without `from..to`; those cut are new objects. */
function cut(extents: readonly Extent[], from: number, to: number): Extent[] {
  const left: Extent[] = [];
  for (const extent of extents) {
    if (extent.endBytes <= from || extent.startBytes >= to) {
      left.push(extent);
      continue;
    }
    if (extent.startBytes < from) left.push(part(extent, extent.startBytes, from));
    if (extent.endBytes > to) left.push(part(extent, to, extent.endBytes));
  }
  return left;
}

/** Copies what `target`, which stands for the file from `offsetBytes` on, has in common with the extent. */
function copyOut(extent: Extent, offsetBytes: number, target: Buffer): void {
  const from = Math.max(extent.startBytes, offsetBytes);
  const to = Math.min(extent.endBytes, offsetBytes + target.length);
  if (from >= to) return;
  const at = extent.at + from - extent.startBytes;
  extent.chunk.buffer.copy(target, from - offsetBytes, at, at + to - from);
}
