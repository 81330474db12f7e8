/**
 * How a byte range is cut into sections: arithmetic on the section's index, nothing is materialised.
 *
 * It knows no file, no buffer and no peer. Offsets and lengths are exact for every range below 2^53, because a quotient of two
 * integers below 2^53 never rounds across an integer.
 *
 * INVARIANT: the sections 0..count-1 touch each other in rising order, none is empty, and together they are exactly the range.
 */
import assert from "node:assert/strict";
import { FsError } from "../base/errors.ts";

/** The most sections one request may have; its bitmap then takes 128 KiB. The index of a section crosses the wire as u32. */
export const SECTIONS_MAX = 2 ** 20;

/** The bounds a section size is negotiated within, bytes. */
export const SECTION_BYTES_MIN = 4096;
export const SECTION_BYTES_MAX = 2 ** 24;

/** A range of a file and how it is cut. Immutable; cheap enough for one a request. */
export class SectionPlan {
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  readonly sectionBytes: number;
  /** Sections in the range; 0 exactly if the range is empty. */
  readonly count: number;
  /** Bytes of section 0, which an aligned plan makes shorter so that section 1 starts on a boundary. */
  readonly #firstBytes: number;

  /**
   * Cuts `lengthBytes` at `offsetBytes` into sections of `sectionBytes`, the last one being the rest.
   *
   * @param options.aligned  inner boundaries lie on multiples of `sectionBytes` in the file (so that whole blocks are written there)
   *   instead of counting from the start of the range; this can cost one section more.
   * @param options.countMax  the most sections allowed.
   * @throws FsError EFBIG the range ends beyond 2^53 - 1; EINVAL more than `countMax` sections.
   */
  constructor(
    offsetBytes: number,
    lengthBytes: number,
    sectionBytes: number,
    options?: { aligned?: boolean; countMax?: number },
  ) {
    assert(Number.isSafeInteger(sectionBytes) && sectionBytes > 0, "section size");
    if (!isRange(offsetBytes, lengthBytes)) throw new FsError("EFBIG", "section plan");
    const headBytes = options?.aligned === true ? sectionBytes - (offsetBytes % sectionBytes) : sectionBytes;
    const firstBytes = Math.min(headBytes, lengthBytes);
    const count = lengthBytes === 0 ? 0 : 1 + Math.ceil((lengthBytes - firstBytes) / sectionBytes);
    if (count > (options?.countMax ?? SECTIONS_MAX)) throw new FsError("EINVAL", "section plan");
    this.offsetBytes = offsetBytes;
    this.lengthBytes = lengthBytes;
    this.sectionBytes = sectionBytes;
    this.count = count;
    this.#firstBytes = firstBytes;
  }

  /** Where section `index` starts, counted from the start of the range: its place in the request's buffer. */
  position(index: number): number {
    return index === 0 ? 0 : this.#firstBytes + (index - 1) * this.sectionBytes;
  }

  /** Where section `index` starts in the file. */
  offset(index: number): number {
    return this.offsetBytes + this.position(index);
  }

  /** Bytes of section `index`: 1..sectionBytes. */
  length(index: number): number {
    if (index === 0) return this.#firstBytes;
    return Math.min(this.sectionBytes, this.lengthBytes - this.position(index));
  }

  /** The section that holds the byte at `position` of the range; `position` is 0..lengthBytes-1. */
  indexAt(position: number): number {
    if (position < this.#firstBytes) return 0;
    return 1 + Math.floor((position - this.#firstBytes) / this.sectionBytes);
  }

  /** Bytes of `count` sections from `first` on. */
  bytes(first: number, count: number): number {
    if (count === 0) return 0;
    const last = first + count - 1;
    return this.position(last) + this.length(last) - this.position(first);
  }
}

function isRange(offsetBytes: number, lengthBytes: number): boolean {
  return (
    Number.isSafeInteger(offsetBytes) &&
    Number.isSafeInteger(lengthBytes) &&
    offsetBytes >= 0 &&
    lengthBytes >= 0 &&
    offsetBytes <= Number.MAX_SAFE_INTEGER - lengthBytes
  );
}
