/**
 * Many sections, one status: collects the sections of a channel that succeeded whole, as ranges under their tag.
 *
 * Errors and short answers do not belong here; they travel alone and at once. It has no timer: the caller drains it when its input
 * is used up for the moment, when it is full, or when `sinceMs` is long enough ago.
 *
 * Queue: at most `rangesMax` ranges; beyond that `add` refuses, and the caller drains first.
 */
import assert from "node:assert/strict";

/** The most ranges one status frame may carry. */
export const STATUS_RANGES_MAX = 64;

export class StatusMerge {
  readonly #tags: Float64Array;
  readonly #firsts: Float64Array;
  readonly #counts: Float64Array;
  #ranges = 0;
  #sinceMs = Number.POSITIVE_INFINITY;

  constructor(rangesMax: number = STATUS_RANGES_MAX) {
    this.#tags = new Float64Array(rangesMax);
    this.#firsts = new Float64Array(rangesMax);
    this.#counts = new Float64Array(rangesMax);
  }

  /** Ranges collected. */
  get ranges(): number {
    return this.#ranges;
  }

  /** When the oldest one was added; Infinity if there is none. */
  get sinceMs(): number {
    return this.#sinceMs;
  }

  /** Section `index` of the request `tag` succeeded whole. @returns false if there is no room; a section already collected changes nothing. */
  add(tag: number, index: number, nowMs: number): boolean {
    let before = -1;
    let after = -1;
    for (let at = this.#ranges - 1; at >= 0; at--) {
      if (this.#tags[at] !== tag) continue;
      const first = this.#firsts[at] ?? 0;
      const end = first + (this.#counts[at] ?? 0);
      if (index >= first && index < end) return true;
      if (index === end) before = at;
      else if (index + 1 === first) after = at;
    }
    if (before !== -1) {
      this.#counts[before] = (this.#counts[before] ?? 0) + 1;
      if (after !== -1) {
        this.#counts[before] = (this.#counts[before] ?? 0) + (this.#counts[after] ?? 0);
        this.#remove(after);
      }
      return true;
    }
    if (after !== -1) {
      this.#firsts[after] = index;
      this.#counts[after] = (this.#counts[after] ?? 0) + 1;
      return true;
    }
    if (this.#ranges === this.#tags.length) return false;
    this.#tags[this.#ranges] = tag;
    this.#firsts[this.#ranges] = index;
    this.#counts[this.#ranges] = 1;
    this.#ranges++;
    if (this.#ranges === 1) this.#sinceMs = nowMs;
    return true;
  }

  /** Calls `visit` for each range and forgets them all. `visit` must not add. */
  drain(visit: (tag: number, first: number, count: number) => void): void {
    for (let at = 0; at < this.#ranges; at++) {
      visit(this.#tags[at] ?? 0, this.#firsts[at] ?? 0, this.#counts[at] ?? 0);
    }
    this.#ranges = 0;
    this.#sinceMs = Number.POSITIVE_INFINITY;
  }

  #remove(at: number): void {
    const last = --this.#ranges;
    this.#tags[at] = this.#tags[last] ?? 0;
    this.#firsts[at] = this.#firsts[last] ?? 0;
    this.#counts[at] = this.#counts[last] ?? 0;
  }

  /** For tests: fails if an invariant does not hold. */
  checkInvariants(): void {
    const seen = new Set<string>();
    for (let at = 0; at < this.#ranges; at++) {
      const count = this.#counts[at] ?? 0;
      assert(count > 0, "no range is empty");
      for (let index = this.#firsts[at] ?? 0; count > 0 && index < (this.#firsts[at] ?? 0) + count; index++) {
        const section = `${this.#tags[at]}/${index}`;
        assert(!seen.has(section), "no section is in two ranges");
        seen.add(section);
      }
    }
    assert.equal(this.#sinceMs === Number.POSITIVE_INFINITY, this.#ranges === 0, "the age is that of what is there");
  }
}
