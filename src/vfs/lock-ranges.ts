/**
 * The ranges one owner has locked in one file: set, split, merged and given up as fcntl(2) says. Pure.
 *
 * Both sides use it: the server to decide, the client to know what its processes hold.
 * INVARIANT: ranges are sorted and do not overlap; two that touch differ in type or in `through`.
 */
import { type HeldType, type LockRange, overlaps } from "./lock.ts";

export interface HeldRange<T> extends LockRange {
  readonly type: HeldType;
  /** The open it was locked through. */
  readonly through: T;
}

/** A stretch of a file and how it is locked. */
export interface LockPiece extends LockRange {
  readonly type: HeldType | "unlock";
}

export class LockRanges<T> {
  #ranges: HeldRange<T>[] = [];

  get size(): number {
    return this.#ranges.length;
  }

  /** In the order of the file. Not to be kept across a change. */
  get all(): readonly HeldRange<T>[] {
    return this.#ranges;
  }

  /** Locks a range, whatever of it was locked before, and how. */
  set(range: LockRange, type: HeldType, through: T): void {
    const { startBytes, endBytes } = range;
    this.#replace(range, { startBytes, endBytes, type, through });
  }

  clear(range: LockRange): void {
    this.#replace(range, undefined);
  }

  /** Gives up what was locked through an open. @returns what that was. */
  clearThrough(through: T): HeldRange<T>[] {
    const gone = this.#ranges.filter((range) => range.through === through);
    if (gone.length > 0) this.#ranges = this.#ranges.filter((range) => range.through !== through);
    return gone;
  }

  /** Whether there is one range more when this one is cleared. */
  isSplitBy({ startBytes, endBytes }: LockRange): boolean {
    const first = this.#ranges[this.#firstFrom(startBytes)];
    return first !== undefined && first.startBytes < startBytes && first.endBytes > endBytes;
  }

  /** How a stretch is locked: pieces that fill it, in order. */
  pieces(within: LockRange): LockPiece[] {
    const pieces: LockPiece[] = [];
    let at = within.startBytes;
    const push = (endBytes: bigint, type: LockPiece["type"]) => {
      const last = pieces.at(-1);
      if (last?.type === type) pieces[pieces.length - 1] = { ...last, endBytes };
      else pieces.push({ startBytes: at, endBytes, type });
      at = endBytes + 1n;
    };
    for (let index = this.#firstFrom(within.startBytes); index < this.#ranges.length; index += 1) {
      const { startBytes, endBytes, type } = this.#ranges[index] as HeldRange<T>;
      if (startBytes > within.endBytes) break;
      if (startBytes > at) push(startBytes - 1n, "unlock");
      const reachesOut = endBytes > within.endBytes;
      push(reachesOut ? within.endBytes : endBytes, type);
    }
    if (at <= within.endBytes) push(within.endBytes, "unlock");
    return pieces;
  }

  /** The first range that could not be held beside `wish` by another owner. */
  conflictWith(wish: LockRange & { readonly type: HeldType }): HeldRange<T> | undefined {
    for (let index = this.#firstFrom(wish.startBytes); index < this.#ranges.length; index += 1) {
      const range = this.#ranges[index] as HeldRange<T>;
      if (range.startBytes > wish.endBytes) return undefined;
      if (range.type === "write" || wish.type === "write") return range;
    }
    return undefined;
  }

  /** Throws where the INVARIANT does not hold; for tests. */
  checkInvariants(): void {
    for (const [index, range] of this.#ranges.entries()) {
      if (range.startBytes < 0n || range.endBytes < range.startBytes) throw new Error("a range is empty");
      const next = this.#ranges[index + 1];
      if (next === undefined) continue;
      if (next.startBytes <= range.endBytes) throw new Error("ranges overlap or are out of order");
      if (isContinued(range, next)) throw new Error("ranges that belong together are apart");
    }
  }

  /** The index of the first range that ends at `startBytes` or behind it. */
  #firstFrom(startBytes: bigint): number {
    let low = 0;
    let high = this.#ranges.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if ((this.#ranges[middle] as HeldRange<T>).endBytes < startBytes) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #replace(range: LockRange, by: HeldRange<T> | undefined): void {
    const ranges = this.#ranges;
    let first = this.#firstFrom(range.startBytes);
    let end = first;
    while (end < ranges.length && overlaps(ranges[end] as HeldRange<T>, range)) end += 1;
    const parts: HeldRange<T>[] = [];
    const head = ranges[first];
    const tail = ranges[end - 1];
    if (first < end && head !== undefined && head.startBytes < range.startBytes) {
      parts.push({ ...head, endBytes: range.startBytes - 1n });
    }
    if (by !== undefined) parts.push(by);
    if (first < end && tail !== undefined && tail.endBytes > range.endBytes) {
      parts.push({ ...tail, startBytes: range.endBytes + 1n });
    }
    // The neighbours may continue what is there now.
    const before = ranges[first - 1];
    if (before !== undefined) {
      parts.unshift(before);
      first -= 1;
    }
    const after = ranges[end];
    if (after !== undefined) {
      parts.push(after);
      end += 1;
    }
    ranges.splice(first, end - first, ...merged(parts));
  }
}

function isContinued<T>(range: HeldRange<T>, next: HeldRange<T>): boolean {
  return range.endBytes + 1n === next.startBytes && range.type === next.type && range.through === next.through;
}

function merged<T>(parts: readonly HeldRange<T>[]): HeldRange<T>[] {
  const out: HeldRange<T>[] = [];
  for (const part of parts) {
    const last = out.at(-1);
    if (last !== undefined && isContinued(last, part)) out[out.length - 1] = { ...last, endBytes: part.endBytes };
    else out.push(part);
  }
  return out;
}

/** How a stretch is locked by several owners together: exclusively where one has it so, shared where any has it. */
export function unionOf(held: Iterable<LockRange & { readonly type: HeldType }>, within: LockRange): LockPiece[] {
  const union = new LockRanges<undefined>();
  const writes: LockRange[] = [];
  for (const range of held) {
    if (!overlaps(range, within)) continue;
    if (range.type === "write") writes.push(range);
    else union.set(range, "read", undefined);
  }
  for (const range of writes) union.set(range, "write", undefined);
  return union.pieces(within);
}
