/**
 * One bit per section of a request: set while the section is outstanding, cleared when it has succeeded.
 *
 * It is not a schedule: what is sent, waiting or failed is the transfer's business. Its bytes are the resume list.
 *
 * Serialised: u32 count, then ceil(count / 8) bytes, section i being bit i % 8 of byte i / 8; little-endian.
 */
import assert from "node:assert/strict";
import { CloseCode, ProtocolError } from "../base/errors.ts";
import { SECTIONS_MAX } from "./section-plan.ts";

const HEAD_BYTES = 4;

/** Bits of a word below `bit` (0..31). */
const below = (bit: number) => (1 << bit) - 1;

function bitCount(word: number): number {
  let x = word - ((word >>> 1) & 0x55555555);
  x = (x & 0x33333333) + ((x >>> 2) & 0x33333333);
  return Math.imul((x + (x >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}

export class SectionBitmap {
  #words = new Uint32Array(0);
  #count = 0;
  // INVARIANT: the number of set bits; so "all done" is one comparison with zero, whatever the size.
  #outstanding = 0;

  /** A bitmap of `count` sections, all outstanding, or none with `empty`. */
  constructor(count: number, fill: "full" | "empty" = "full") {
    this.reset(count, fill);
  }

  /** Sections, outstanding or not. */
  get count(): number {
    return this.#count;
  }

  /** Sections still outstanding. */
  get outstanding(): number {
    return this.#outstanding;
  }

  /** Whether nothing is outstanding. */
  get done(): boolean {
    return this.#outstanding === 0;
  }

  /** Starts again with `count` sections; the memory is kept if it is enough, so that bitmaps can be pooled. */
  reset(count: number, fill: "full" | "empty" = "full"): void {
    assert(Number.isInteger(count) && count >= 0 && count <= SECTIONS_MAX, "section count");
    const words = (count + 31) >>> 5;
    if (words > this.#words.length) this.#words = new Uint32Array(words);
    else this.#words.fill(0);
    this.#count = count;
    this.#outstanding = 0;
    if (fill === "empty") return;
    this.#words.fill(0xffffffff, 0, words);
    // Bits that stand for no section are clear, as if they had succeeded.
    if ((count & 31) !== 0) this.#words[words - 1] = below(count & 31);
    this.#outstanding = count;
  }

  /** Whether section `index` is outstanding; false outside 0..count-1. */
  has(index: number): boolean {
    return index >= 0 && index < this.#count && ((this.#word(index >>> 5) >>> (index & 31)) & 1) === 1;
  }

  /** Section `index` has succeeded. @returns whether it was outstanding: false for a second answer. */
  clear(index: number): boolean {
    if (!this.has(index)) return false;
    this.#words[index >>> 5] = this.#word(index >>> 5) & ~(1 << (index & 31));
    this.#outstanding--;
    return true;
  }

  /** Section `index`, 0..count-1, is outstanding (again). @returns whether it was not. */
  set(index: number): boolean {
    assert(index >= 0 && index < this.#count, "section index");
    if (this.has(index)) return false;
    this.#words[index >>> 5] = this.#word(index >>> 5) | (1 << (index & 31));
    this.#outstanding++;
    return true;
  }

  /** Clears `count` sections from `first` on, as far as there are any. @returns how many were outstanding. */
  clearRange(first: number, count: number): number {
    const end = Math.min(first + count, this.#count);
    let cleared = 0;
    for (let index = first; index < end; ) {
      const stop = Math.min((index | 31) + 1, end);
      const mask = (stop & 31 ? below(stop & 31) : -1) & ~below(index & 31);
      const word = this.#word(index >>> 5);
      cleared += bitCount(word & mask);
      this.#words[index >>> 5] = word & ~mask;
      index = stop;
    }
    this.#outstanding -= cleared;
    return cleared;
  }

  /** The first outstanding section at `from` or after it; -1 if there is none. */
  next(from: number): number {
    if (from >= this.#count || this.#outstanding === 0) return -1;
    const end = (this.#count + 31) >>> 5;
    let word = this.#word(from >>> 5) & ~below(from & 31);
    for (let at = from >>> 5; ; word = this.#word(at)) {
      if (word !== 0) return (at << 5) + 31 - Math.clz32(word & -word);
      if (++at === end) return -1;
    }
  }

  /** The first section at `from` or after it that is not outstanding; `count` if there is none. */
  nextClear(from: number): number {
    if (from >= this.#count) return this.#count;
    const end = (this.#count + 31) >>> 5;
    let word = ~this.#word(from >>> 5) & ~below(from & 31);
    for (let at = from >>> 5; ; word = ~this.#word(at)) {
      if (word !== 0) return Math.min((at << 5) + 31 - Math.clz32(word & -word), this.#count);
      if (++at === end) return this.#count;
    }
  }

  /** Calls `visit` for each run of adjacent outstanding sections, in rising order. The bitmap must not change meanwhile. */
  eachRun(visit: (first: number, count: number) => void): void {
    for (let first = this.next(0); first !== -1; ) {
      const end = this.nextClear(first);
      visit(first, end - first);
      first = this.next(end);
    }
  }

  /** Makes this bitmap equal to `other`. */
  copyFrom(other: SectionBitmap): void {
    this.reset(other.#count, "empty");
    this.#words.set(other.#words.subarray(0, (other.#count + 31) >>> 5));
    this.#outstanding = other.#outstanding;
  }

  /** Bytes of the serialised form. */
  get encodedBytes(): number {
    return HEAD_BYTES + ((this.#count + 7) >>> 3);
  }

  /** Writes `encodedBytes` bytes into `target` at `at`. @returns the position after them. */
  encode(target: Uint8Array, at: number): number {
    assert(target.length - at >= this.encodedBytes, "room for the bitmap");
    for (let byte = 0; byte < HEAD_BYTES; byte++) target[at + byte] = this.#count >>> (byte * 8);
    const bytes = (this.#count + 7) >>> 3;
    for (let byte = 0; byte < bytes; byte++) {
      target[at + HEAD_BYTES + byte] = this.#word(byte >>> 2) >>> ((byte & 3) * 8);
    }
    return at + HEAD_BYTES + bytes;
  }

  /**
   * Reads a serialised bitmap that came from a peer; `bytes` is exactly that.
   *
   * @throws ProtocolError LIMIT more than `countMax` sections; MALFORMED wrong length, or a bit set that stands for no section.
   */
  static parse(bytes: Uint8Array, countMax: number = SECTIONS_MAX): SectionBitmap {
    if (bytes.length < HEAD_BYTES) throw new ProtocolError(CloseCode.MALFORMED, "section bitmap: too short");
    let count = 0;
    for (let byte = 0; byte < HEAD_BYTES; byte++) count += (bytes[byte] ?? 0) * 2 ** (byte * 8);
    if (count > Math.min(countMax, SECTIONS_MAX)) {
      throw new ProtocolError(CloseCode.LIMIT, `section bitmap: ${count} sections`);
    }
    if (bytes.length !== HEAD_BYTES + ((count + 7) >>> 3)) {
      throw new ProtocolError(CloseCode.MALFORMED, "section bitmap: wrong length");
    }
    const bitmap = new SectionBitmap(count, "empty");
    for (let byte = 0; byte < bytes.length - HEAD_BYTES; byte++) {
      const value = bytes[HEAD_BYTES + byte] ?? 0;
      bitmap.#words[byte >>> 2] = bitmap.#word(byte >>> 2) | (value << ((byte & 3) * 8));
      bitmap.#outstanding += bitCount(value);
    }
    if ((count & 31) !== 0 && bitmap.#word(count >>> 5) >>> (count & 31) !== 0) {
      throw new ProtocolError(CloseCode.MALFORMED, "section bitmap: excess bits");
    }
    return bitmap;
  }

  /** For tests: fails if an invariant does not hold. */
  checkInvariants(): void {
    let outstanding = 0;
    for (const word of this.#words) outstanding += bitCount(word);
    assert.equal(outstanding, this.#outstanding, "the running count is the number of set bits");
    const words = (this.#count + 31) >>> 5;
    assert(
      this.#words.every((word, at) => at < words || word === 0),
      "no bit beyond the last word",
    );
    if ((this.#count & 31) !== 0)
      assert.equal(this.#word(words - 1) >>> (this.#count & 31), 0, "excess bits are clear");
  }

  #word(at: number): number {
    return this.#words[at] ?? 0;
  }
}
