/** A state store that keeps its records here, and what is left of them when its server dies. */
import type { StateFigures, StateKey, StateStore } from "../../src/server/state/state-store.ts";

export class MemoryStore implements StateStore {
  readonly #records: Map<StateKey, Buffer>;
  #isDead = false;

  /** `records`: what the server before has left. */
  constructor(records: ReadonlyMap<StateKey, Buffer> = new Map()) {
    this.#records = new Map(records);
  }

  get records(): ReadonlyMap<StateKey, Buffer> {
    return this.#records;
  }

  /** The server is killed: whatever it does from now on is not written down. */
  die(): void {
    this.#isDead = true;
  }

  add(key: StateKey, value: Buffer): void {
    this.put(key, value);
  }

  put(key: StateKey, value: Buffer): void {
    if (!this.#isDead) this.#records.set(key, value);
  }

  delete(key: StateKey): void {
    if (!this.#isDead) this.#records.delete(key);
  }

  afterCommit(done: () => void): void {
    if (!this.#isDead) done();
  }

  figures(): StateFigures {
    return { changes: 0, batches: 0, batchBytes: 0, isGivenUp: false };
  }

  async close(): Promise<void> {
    // Everything is down.
  }
}
