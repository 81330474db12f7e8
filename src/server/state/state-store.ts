/**
 * What a server remembers beyond its own death: small records by key.
 *
 * Changes are collected during one turn of the event loop and go down together, in the order they were made; `afterCommit` tells when. What the
 * records mean is in records.ts. There is no reading back: all records are handed over once, when the store is opened, and what was put
 * afterwards the server knows itself.
 */

/** 1..KEY_BYTES_MAX bytes as a latin1 string. */
export type StateKey = string;
export const KEY_BYTES_MAX = 255;
export const VALUE_BYTES_MAX = 1 << 20;

/**
 * What a change survives when it is down. `process`: the death of the server's process; `power`: also that of its machine.
 */
export const DURABILITIES = ["process", "power"] as const;
export type Durability = (typeof DURABILITIES)[number];

export interface StateFigures {
  /** Changes since the start, and the batches they went down in. */
  changes: number;
  batches: number;
  batchBytes: number;
  /** The disk failed: nothing is kept any more. */
  isGivenUp: boolean;
}

export interface StateStore {
  /** As `put`, of a key that was never used before: it leaves no trace if it is deleted soon. */
  add(key: StateKey, value: Buffer): void;

  /** The value is the store's from the call on. */
  put(key: StateKey, value: Buffer): void;

  delete(key: StateKey): void;

  /**
   * Calls `done` when every change made before is down; at once, if they are.
   *
   * Never fails: a store whose disk fails says so in the log, is not used after a restart, and lets the server go on without it.
   */
  afterCommit(done: () => void): void;

  figures(): StateFigures;

  /** Returns when every change is down. No change may be made from the call on. */
  close(): Promise<void>;
}
