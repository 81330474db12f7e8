/**
 * Memory of one section, used again: a fresh megabyte costs a page fault for each of its pages, and the garbage collector, which learns of it late, looks at
 * everything there is when it does.
 *
 * It bounds what lies idle, not what is in use: its users bound that. What nobody has needed for REST_MS goes back to the machine.
 */
import type { Clock } from "../base/clock.ts";

/** Stays for the next small use. */
const KEPT_IDLE = 4;
/** A stream of writes runs empty now and then, and the next file comes soon. */
export const REST_MS = 3000;

export class SectionMemory {
  readonly sectionBytes: number;
  readonly #idleMax: number;
  readonly #clock: Clock;
  /** What was used last is at the end, and is used first. */
  readonly #idle: Buffer[] = [];
  /** As many at its beginning as nobody has needed since the last look. INVARIANT: at most #idle.length */
  #unneeded = 0;
  #isWatched = false;

  /** `idleMax`: how many sections stay for later when nobody uses them. */
  constructor(sectionBytes: number, idleMax: number, clock: Clock) {
    this.sectionBytes = sectionBytes;
    this.#idleMax = idleMax;
    this.#clock = clock;
  }

  /** Sections that lie idle. */
  get idleCount(): number {
    return this.#idle.length;
  }

  /** Whether something of this size is worth a whole section. */
  suits(bytes: number): boolean {
    return bytes > this.sectionBytes / 4;
  }

  /** A section's memory with unspecified contents, the taker's until it gives it back. */
  take(): Buffer {
    const memory = this.#idle.pop();
    this.#unneeded = Math.min(this.#unneeded, this.#idle.length);
    return memory ?? Buffer.allocUnsafeSlow(this.sectionBytes);
  }

  give(memory: Buffer): void {
    if (this.#idle.length >= this.#idleMax) return;
    this.#idle.push(memory);
    this.#watch();
  }

  #watch(): void {
    if (this.#isWatched || this.#idle.length <= KEPT_IDLE) return;
    this.#isWatched = true;
    this.#unneeded = this.#idle.length;
    this.#clock.after(REST_MS, () => {
      this.#isWatched = false;
      this.#idle.splice(0, Math.min(this.#unneeded, this.#idle.length - KEPT_IDLE));
      this.#watch();
    });
  }
}
