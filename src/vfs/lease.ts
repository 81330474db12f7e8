/**
 * A lease: the right to believe what is known of an open file without asking, given back when somebody else needs it (a break).
 */

/** Each allows more than the one before. These numbers cross the wire. */
export const Lease = {
  NONE: 0,
  /** Nobody else changes the file: what is known of it stays true. Many may have it at the same time. */
  READ: 1,
  /** Nobody else has the file open, or looks at it: what was written may be unsent. One has it, and nobody else has any. */
  WRITE: 2,
} as const;
export type Lease = (typeof Lease)[keyof typeof Lease];

/** By their numbers, for people. */
export const LEASE_NAMES = ["none", "read", "write"] as const;
