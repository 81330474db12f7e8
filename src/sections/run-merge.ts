/**
 * The server's view of a pipelined write: sections that arrive for one open are collected and adjacent ones joined into runs,
 * so that the disk sees fewer and larger writes.
 *
 * It writes nothing and knows no time: the caller adds what arrives, takes runs when it can write, writes each with one call
 * and reports it `finished`. While it writes, what arrives gathers.
 *
 * INVARIANT: bytes that overlap reach the disk in the order in which their sections arrived: two runs that overlap are never out
 * for writing together, the earlier goes first, and a section joins an earlier run only past runs it does not overlap.
 *
 * Queue: `heldBytesMax` and `runsMax` bound what is held; beyond them `add` refuses.
 */
import assert from "node:assert/strict";

/** Adjacent sections as one write. The buffers stay their owner's; the run only lists them, and is read-only to others. */
export class WriteRun<Token> {
  offsetBytes: number;
  lengthBytes: number;
  /** In the order of the file. */
  buffers: Buffer[];
  /** What the caller gave with each buffer. */
  tokens: Token[];

  constructor(offsetBytes: number, buffers: Buffer[], tokens: Token[]) {
    this.offsetBytes = offsetBytes;
    this.lengthBytes = buffers.reduce((sum, { length }) => sum + length, 0);
    this.buffers = buffers;
    this.tokens = tokens;
  }

  get endBytes(): number {
    return this.offsetBytes + this.lengthBytes;
  }

  /** What lies before the section of `token` and what lies behind it, where there is something. */
  without(token: Token): WriteRun<Token>[] {
    const at = this.tokens.indexOf(token);
    const before = new WriteRun(this.offsetBytes, this.buffers.slice(0, at), this.tokens.slice(0, at));
    const behindBytes = before.endBytes + (this.buffers[at]?.length ?? 0);
    const behind = new WriteRun(behindBytes, this.buffers.slice(at + 1), this.tokens.slice(at + 1));
    return [before, behind].filter(({ lengthBytes }) => lengthBytes > 0);
  }

  /** Shares out a write of `writtenBytes` of the run's start: tells for each section how many of its bytes were written. */
  settle(writtenBytes: number, visit: (token: Token, written: number, lengthBytes: number) => void): void {
    let left = writtenBytes;
    this.buffers.forEach((buffer, at) => {
      const written = Math.min(Math.max(left, 0), buffer.length);
      left -= buffer.length;
      visit(this.tokens[at] as Token, written, buffer.length);
    });
  }
}

export interface RunLimits {
  /** A run is full at this size; a single larger section is a run of its own. */
  readonly runBytesMax: number;
  /** Buffers in one run. */
  readonly runSectionsMax: number;
  /** Runs collected and being written. */
  readonly runsMax: number;
  /** Bytes of all sections that are collected or being written. A single larger section is accepted when nothing else is held. */
  readonly heldBytesMax: number;
}

export class RunMerge<Token> {
  readonly #limits: RunLimits;
  /** Collected, by the order in which overlapping ones must be written. */
  readonly #pending: WriteRun<Token>[] = [];
  /** Taken, not finished. */
  readonly #writing = new Set<WriteRun<Token>>();
  // INVARIANT: bytes of all sections in #pending and #writing; within the limit, but for a single section.
  #heldBytes = 0;

  constructor(limits: RunLimits) {
    this.#limits = limits;
  }

  get heldBytes(): number {
    return this.#heldBytes;
  }

  /** Whether nothing is collected and nothing is being written. */
  get idle(): boolean {
    return this.#heldBytes === 0;
  }

  /**
   * Collects a section of 1 byte and more. `data` must stay as it is until the run that holds it is finished.
   *
   * @returns false if a limit is reached; take and finish runs first.
   */
  add(offsetBytes: number, data: Buffer, token: Token): boolean {
    assert(data.length > 0, "a section is not empty");
    if (this.#heldBytes > 0 && this.#heldBytes + data.length > this.#limits.heldBytesMax) return false;
    const at = this.#findNeighbour(offsetBytes, data.length);
    if (at === -1) {
      if (this.#pending.length + this.#writing.size >= this.#limits.runsMax) return false;
      this.#pending.push(new WriteRun(offsetBytes, [data], [token]));
    } else {
      const run = this.#pending[at] as WriteRun<Token>;
      if (run.endBytes === offsetBytes) {
        run.buffers.push(data);
        run.tokens.push(token);
      } else {
        run.buffers.unshift(data);
        run.tokens.unshift(token);
        run.offsetBytes = offsetBytes;
      }
      run.lengthBytes += data.length;
      this.#closeGap(at);
    }
    this.#heldBytes += data.length;
    return true;
  }

  /**
   * The next run to write, if there is one that need not wait for another; unless `all`, one that will hardly grow. The caller owns it
   * until `finished`.
   *
   * Runs taken at the same time may be written in any order.
   */
  take(all: boolean): WriteRun<Token> | undefined {
    for (let at = 0; at < this.#pending.length; at++) {
      if (!all && this.#isGrowing(this.#pending[at] as WriteRun<Token>)) continue;
      const first = this.#unblocked(at);
      if (first === -1) continue;
      const [run] = this.#pending.splice(first, 1) as [WriteRun<Token>];
      this.#writing.add(run);
      return run;
    }
    return undefined;
  }

  /**
   * Gives back a section nobody wants any more, and its buffer.
   *
   * @returns false: it stays, because its run is taken, or would become two while there are as many as there may be.
   */
  withdraw(token: Token): boolean {
    const at = this.#pending.findIndex(({ tokens }) => tokens.includes(token));
    const run = this.#pending[at];
    if (run === undefined) return false;
    const rest = run.without(token);
    if (rest.length > 1 && this.#pending.length + this.#writing.size >= this.#limits.runsMax) return false;
    // In its place: they overlap what it overlapped.
    this.#pending.splice(at, 1, ...rest);
    this.#heldBytes -= rest.reduce((bytes, { lengthBytes }) => bytes - lengthBytes, run.lengthBytes);
    return true;
  }

  /** The run's write is over, well or badly. */
  finished(run: WriteRun<Token>): void {
    assert(this.#writing.delete(run), "a run is finished once");
    this.#heldBytes -= run.lengthBytes;
  }

  /** Whether it is part of something larger that is arriving: it has room and touches what is being written. */
  #isGrowing(run: WriteRun<Token>): boolean {
    if (!this.#fits(run, 1, 1)) return false;
    for (const other of this.#writing) {
      if (other.endBytes === run.offsetBytes || run.endBytes === other.offsetBytes) return true;
    }
    return false;
  }

  /** The run that must be written first so that `at` can be: itself, or one before it that overlaps; -1 if that waits for one being written. */
  #unblocked(at: number): number {
    const run = this.#pending[at] as WriteRun<Token>;
    for (const other of this.#writing) if (overlap(run, other)) return -1;
    for (let before = 0; before < at; before++) {
      if (overlap(run, this.#pending[before] as WriteRun<Token>)) return this.#unblocked(before);
    }
    return at;
  }

  /** The last run that touches the range, has room, and is followed by none that overlaps the range; -1 if there is none. */
  #findNeighbour(offsetBytes: number, lengthBytes: number): number {
    const endBytes = offsetBytes + lengthBytes;
    for (let at = this.#pending.length - 1; at >= 0; at--) {
      const run = this.#pending[at] as WriteRun<Token>;
      if ((run.endBytes === offsetBytes || run.offsetBytes === endBytes) && this.#fits(run, lengthBytes, 1)) return at;
      if (run.offsetBytes < endBytes && offsetBytes < run.endBytes) return -1;
    }
    return -1;
  }

  /** Run `at` has grown: joins it with a run it now touches, where the order allows. */
  #closeGap(at: number): void {
    const run = this.#pending[at] as WriteRun<Token>;
    for (let other = 0; other < this.#pending.length; other++) {
      const touching = this.#pending[other] as WriteRun<Token>;
      const follows = run.endBytes === touching.offsetBytes;
      if (!follows && touching.endBytes !== run.offsetBytes) continue;
      if (!this.#fits(run, touching.lengthBytes, touching.buffers.length)) continue;
      const [first, last] = at < other ? [at, other] : [other, at];
      // The later one moves to the earlier's place or the reverse; what lies between must not care.
      const place = this.#isFreeBetween(first, last, this.#pending[last] as WriteRun<Token>)
        ? first
        : this.#isFreeBetween(first, last, this.#pending[first] as WriteRun<Token>)
          ? last
          : -1;
      if (place === -1) continue;
      this.#pending[place] = follows ? joined(run, touching) : joined(touching, run);
      this.#pending.splice(place === first ? last : first, 1);
      return;
    }
  }

  #isFreeBetween(first: number, last: number, run: WriteRun<Token>): boolean {
    for (let at = first + 1; at < last; at++) if (overlap(run, this.#pending[at] as WriteRun<Token>)) return false;
    return true;
  }

  #fits(run: WriteRun<Token>, lengthBytes: number, sections: number): boolean {
    return (
      run.lengthBytes + lengthBytes <= this.#limits.runBytesMax &&
      run.buffers.length + sections <= this.#limits.runSectionsMax
    );
  }

  /** For tests: fails if an invariant does not hold. */
  checkInvariants(): void {
    let heldBytes = 0;
    let sections = 0;
    for (const run of [...this.#pending, ...this.#writing]) {
      const bytes = run.buffers.reduce((sum, buffer) => sum + buffer.length, 0);
      assert.equal(run.lengthBytes, bytes, "a run is as long as its buffers");
      assert.equal(run.buffers.length, run.tokens.length, "a token for each buffer");
      assert(run.buffers.length === 1 || bytes <= this.#limits.runBytesMax, "a run is bounded in bytes");
      assert(run.buffers.length <= this.#limits.runSectionsMax, "a run is bounded in sections");
      heldBytes += bytes;
      sections += run.buffers.length;
    }
    assert.equal(this.#heldBytes, heldBytes, "bytes held are counted");
    assert(sections <= 1 || heldBytes <= this.#limits.heldBytesMax, "bytes held are bounded");
    assert(this.#pending.length + this.#writing.size <= this.#limits.runsMax, "runs are bounded");
    const writing = [...this.#writing];
    writing.forEach((run, at) => {
      assert(!writing.some((other, index) => index < at && overlap(run, other)), "no two runs out overlap");
    });
  }
}

function overlap<T>(a: WriteRun<T>, b: WriteRun<T>): boolean {
  return a.offsetBytes < b.endBytes && b.offsetBytes < a.endBytes;
}

function joined<T>(head: WriteRun<T>, tail: WriteRun<T>): WriteRun<T> {
  for (const buffer of tail.buffers) head.buffers.push(buffer);
  for (const token of tail.tokens) head.tokens.push(token);
  head.lengthBytes += tail.lengthBytes;
  return head;
}
