/**
 * Memory of one section, used again: a fresh megabyte costs a page fault for each of its pages, and the garbage collector learns of it late.
 *
 * It bounds what lies idle, not what is in use: its users bound that.
 */
const TRIMMED_IDLE_MAX = 4;

export class SectionMemory {
  readonly sectionBytes: number;
  readonly #idleMax: number;
  readonly #idle: Buffer[] = [];

  /** `idleMax`: how many sections stay for later when nobody uses them. */
  constructor(sectionBytes: number, idleMax: number) {
    this.sectionBytes = sectionBytes;
    this.#idleMax = idleMax;
  }

  /** Whether something of this size is worth a whole section. */
  suits(bytes: number): boolean {
    return bytes > this.sectionBytes / 4;
  }

  /** A section's memory with unspecified contents, the taker's until it gives it back. */
  take(): Buffer {
    return this.#idle.pop() ?? Buffer.allocUnsafeSlow(this.sectionBytes);
  }

  give(memory: Buffer): void {
    if (this.#idle.length < this.#idleMax) this.#idle.push(memory);
  }

  /** Gives idle memory back to the machine, but for a little that the next small use will want. */
  trim(): void {
    this.#idle.length = Math.min(this.#idle.length, TRIMMED_IDLE_MAX);
  }
}
