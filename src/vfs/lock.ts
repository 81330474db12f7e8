/**
 * Advisory locks as values: what fcntl(2) and flock(2) ask for, and what they are told.
 *
 * Places are u64 as the kernel's are: a program may lock bytes no file has. A range includes its last byte. Nothing here decides who gets a lock;
 * see server/locks.
 */

/** The last byte there can be: a range that ends with it goes to the end of the file, however far that moves. */
export const LOCK_END = 2n ** 63n - 1n;

/** `posix`: fcntl's, of a range, whose owner is a process (or, by F_OFD_SETLK, an open). `flock`: of the whole file, whose owner is the open. */
export type LockKind = "posix" | "flock";

/** As they are numbered on the wire: append only. */
export const LOCK_KINDS: readonly LockKind[] = ["posix", "flock"];
/** As they are numbered on the wire and in native/disk.h: append only. */
export const LOCK_TYPES = ["unlock", "read", "write"] as const;

/** What is held: shared or exclusive. */
export type HeldType = "read" | "write";

/**
 * Who locks, as the kernel of the client names it: a number that is compared and never interpreted, and means nothing on another client. Of a flock it is
 * the open that counts.
 */
export type LockOwner = bigint & { readonly __brand: "LockOwner" };

/** Bytes from `startBytes` to `endBytes`, both included; 0 <= start <= end <= LOCK_END. */
export interface LockRange {
  readonly startBytes: bigint;
  readonly endBytes: bigint;
}

export const WHOLE_FILE: LockRange = { startBytes: 0n, endBytes: LOCK_END };

/** A lock that is asked for, given up (`unlock`), or in the way. */
export interface Lock extends LockRange {
  readonly kind: LockKind;
  readonly type: (typeof LOCK_TYPES)[number];
  readonly owner: LockOwner;
  /** The process, at its client; 0 if it is one of another client, or unknown. */
  readonly pid: number;
}

/** A lock that is held: plain data. */
export interface HeldLock extends Lock {
  readonly type: HeldType;
}

/** A lock without an owner, as the file system as a whole holds it against others. */
export interface NodeLock extends LockRange {
  readonly kind: LockKind;
  readonly type: (typeof LOCK_TYPES)[number];
}

export function overlaps(a: LockRange, b: LockRange): boolean {
  return a.startBytes <= b.endBytes && b.startBytes <= a.endBytes;
}

/** Whether two locks of different owners cannot be held at the same time. */
export function conflicts(
  a: LockRange & { readonly type: HeldType },
  b: LockRange & { readonly type: HeldType },
): boolean {
  return (a.type === "write" || b.type === "write") && overlaps(a, b);
}
