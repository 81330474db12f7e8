/**
 * The unsent writes of one node, in the order they were made; pure.
 *
 * It is a log of sections rather than a map of extents: writes that continue or lie within the latest section go into it, anything else begins
 * a new one. So ordering is plain to see: a section may be sent when nothing before it overlaps it. Streams become full, aligned
 * sections; random writes become one section each. Each section owns its memory: its own, or
 * what it was lent by who wrote it whole.
 */
import assert from "node:assert/strict";
import type { WriteOptions } from "../vfs/file-system.ts";
import type { SectionMemory } from "./section-memory.ts";

/** Consecutive bytes to be written by one request. */
export interface DirtySection {
  readonly offsetBytes: number;
  /** The bytes; stable once taken. */
  readonly data: Buffer;
  /** Bytes accepted into it, rewritten ones counted each time: what it weighs in the window. */
  readonly acceptedBytes: number;
  /** Sections of a log are numbered in the order they were begun. */
  readonly sequence: number;
}

const FIRST_BYTES = 4096;

type Lend = WriteOptions["lend"];

class Section implements DirtySection {
  readonly offsetBytes: number;
  /** Where it must end: the next section boundary of the file. */
  readonly limitBytes: number;
  readonly sequence: number;
  readonly #pool: SectionMemory;
  #memory: Buffer;
  /** Gives memory back that is not the pool's. */
  readonly #giveBack: (() => void) | undefined;
  lengthBytes = 0;
  acceptedBytes = 0;
  taken = false;

  /** Empty, or with all that belongs into it if `first` is that and may be kept. */
  constructor(offsetBytes: number, pool: SectionMemory, first: Buffer, rest: { sequence: number; lend: Lend }) {
    this.offsetBytes = offsetBytes;
    this.sequence = rest.sequence;
    this.limitBytes = pool.sectionBytes - (offsetBytes % pool.sectionBytes);
    this.#pool = pool;
    const isWhole = first.length >= this.limitBytes && pool.suits(this.limitBytes);
    this.#giveBack = isWhole ? rest.lend?.() : undefined;
    if (this.#giveBack === undefined) {
      this.#memory = this.#allocate(Math.min(this.limitBytes, Math.max(FIRST_BYTES, first.length)));
    } else {
      this.#memory = first.subarray(0, this.limitBytes);
      this.lengthBytes = this.limitBytes;
      this.acceptedBytes = this.limitBytes;
    }
  }

  get data(): Buffer {
    return this.#memory.subarray(0, this.lengthBytes);
  }

  get isFull(): boolean {
    return this.lengthBytes === this.limitBytes;
  }

  get endBytes(): number {
    return this.offsetBytes + this.lengthBytes;
  }

  /** Whether bytes at `offsetBytes` continue it, or change what it has. */
  takes(offsetBytes: number): boolean {
    return (
      !this.taken &&
      offsetBytes >= this.offsetBytes &&
      offsetBytes <= this.endBytes &&
      offsetBytes < this.offsetBytes + this.limitBytes
    );
  }

  /** Puts in as many bytes as belong into it, and returns how many. */
  put(offsetBytes: number, data: Buffer): number {
    const at = offsetBytes - this.offsetBytes;
    const count = Math.min(data.length, this.limitBytes - at);
    if (at + count > this.#memory.length) this.#grow(at + count);
    data.copy(this.#memory, at, 0, count);
    this.lengthBytes = Math.max(this.lengthBytes, at + count);
    this.acceptedBytes += count;
    return count;
  }

  /** Its memory is free for others. */
  free(): void {
    if (this.#giveBack !== undefined) this.#giveBack();
    else if (this.#memory.length === this.#pool.sectionBytes) this.#pool.give(this.#memory);
  }

  #grow(neededBytes: number): void {
    const larger = this.#allocate(Math.min(this.limitBytes, Math.max(neededBytes, 4 * this.#memory.length)));
    this.#memory.copy(larger, 0, 0, this.lengthBytes);
    this.#memory = larger;
  }

  #allocate(bytes: number): Buffer {
    return this.#pool.suits(bytes) ? this.#pool.take() : Buffer.allocUnsafeSlow(bytes);
  }

  overlaps(offsetBytes: number, endBytes: number): boolean {
    return this.offsetBytes < endBytes && offsetBytes < this.endBytes;
  }
}

export class DirtyLog {
  readonly #pool: SectionMemory;
  // INVARIANT: in order of writing; sections that were taken stay until they are settled; only the last one may still grow.
  readonly #sections: Section[] = [];
  #nextSequence = 1;

  /** Sections end at multiples of the pool's section size, and take their memory from it. */
  constructor(pool: SectionMemory) {
    this.#pool = pool;
  }

  get isEmpty(): boolean {
    return this.#sections.length === 0;
  }

  /** Sections that are not settled. */
  get count(): number {
    return this.#sections.length;
  }

  /** Whether every section was taken. */
  get isTaken(): boolean {
    return this.#sections.every((section) => section.taken);
  }

  /** Whether a part of a section waits for more. */
  get hasPart(): boolean {
    return this.#sections.at(-1)?.taken === false;
  }

  /** The number of the oldest section that is not settled; above that of every section so far if there is none. */
  get oldestSequence(): number {
    return this.#sections[0]?.sequence ?? this.#nextSequence;
  }

  /** The number of the latest section so far; 0 if there was none. */
  get latestSequence(): number {
    return this.#nextSequence - 1;
  }

  /** Takes a copy of `data`; of what is a whole section by itself, the data itself if it is lent. */
  append(offsetBytes: number, data: Buffer, lend?: Lend): void {
    for (let done = 0; done < data.length; ) {
      const at = offsetBytes + done;
      const rest = data.subarray(done);
      let section = this.#sections.at(-1);
      if (section === undefined || !section.takes(at)) {
        section = new Section(at, this.#pool, rest, { sequence: this.#nextSequence++, lend });
        this.#sections.push(section);
        done += section.lengthBytes;
        if (section.isFull) continue;
      }
      done += section.put(at, rest);
    }
  }

  overlaps(offsetBytes: number, lengthBytes: number): boolean {
    return this.#sections.some((section) => section.overlaps(offsetBytes, offsetBytes + lengthBytes));
  }

  /**
   * The next section that may be sent now, undefined if none.
   *
   * A section waits while an earlier one overlaps it. `parts`: the last section is also taken if it could still grow.
   */
  take(parts: boolean): DirtySection | undefined {
    const sections = this.#sections;
    for (let index = 0; index < sections.length; index += 1) {
      const section = sections[index] as Section;
      if (section.taken) continue;
      if (!parts && index === sections.length - 1 && !section.isFull) continue;
      if (this.#isBlocked(index)) continue;
      section.taken = true;
      return section;
    }
    return undefined;
  }

  /** A taken section was written or given up; its bytes are not to be touched any more. */
  settle(section: DirtySection): void {
    const index = this.#sections.indexOf(section as Section);
    assert(index >= 0 && (section as Section).taken, "a taken section is settled once");
    this.#sections.splice(index, 1);
    (section as Section).free();
  }

  #isBlocked(index: number): boolean {
    const { offsetBytes, endBytes } = this.#sections[index] as Section;
    for (let before = 0; before < index; before += 1) {
      if (this.#sections[before]?.overlaps(offsetBytes, endBytes)) return true;
    }
    return false;
  }
}
