/**
 * Who made a request: uid, gid and pid from its header, the supplementary groups from /proc.
 *
 * The kernel does not send the groups. The thread that asks waits for us, so its /proc entry is there and its number is not
 * another's. They are kept for a moment, because a program makes many requests in a row; a change of groups takes that long to count.
 */
import type { Clock } from "../base/clock.ts";
import type { Caller } from "../vfs/file-system.ts";
import { parseGroups, STATUS_BYTES } from "./process-status.ts";

/** How long the groups of a thread are believed. */
export const GROUPS_KEPT_MS = 50;
const KEPT_MAX = 256;
const NO_GROUPS: readonly number[] = [];

/** Reads /proc/TID/status into `target`; returns bytes or -errno. */
export type StatusReader = (tid: number, target: Buffer) => number;

interface Kept {
  caller: Caller;
  readAtMs: number;
}

export class Callers {
  readonly #clock: Clock;
  readonly #readStatus: StatusReader | undefined;
  readonly #kept = new Map<number, Kept>();
  readonly #status = Buffer.allocUnsafe(STATUS_BYTES);
  #last: Caller = { uid: 0, gid: 0, pid: 0, groups: NO_GROUPS };

  /** Groups are looked up only if `readStatus` is given. */
  constructor(clock: Clock, readStatus: StatusReader | undefined) {
    this.#clock = clock;
    this.#readStatus = readStatus;
  }

  get(uid: number, gid: number, pid: number): Caller {
    // Root may do everything whatever its groups; pid 0 is the kernel itself, or a process that is not in our pid namespace.
    if (this.#readStatus !== undefined && uid !== 0 && pid !== 0)
      return this.#withGroups(uid, gid, pid, this.#readStatus);
    const last = this.#last;
    if (last.uid === uid && last.gid === gid && last.pid === pid) return last;
    this.#last = { uid, gid, pid, groups: NO_GROUPS };
    return this.#last;
  }

  #withGroups(uid: number, gid: number, pid: number, readStatus: StatusReader): Caller {
    const nowMs = this.#clock.monotonicMs();
    const kept = this.#kept.get(pid);
    if (kept !== undefined) {
      const { caller } = kept;
      if (caller.uid === uid && caller.gid === gid && nowMs - kept.readAtMs < GROUPS_KEPT_MS) return caller;
      this.#kept.delete(pid);
    }
    const bytes = readStatus(pid, this.#status);
    const groups = bytes > 0 ? parseGroups(this.#status.toString("latin1", 0, bytes)) : undefined;
    const caller = { uid, gid, pid, groups: groups ?? NO_GROUPS };
    if (this.#kept.size >= KEPT_MAX) {
      const [oldest] = this.#kept.keys();
      if (oldest !== undefined) this.#kept.delete(oldest);
    }
    this.#kept.set(pid, { caller, readAtMs: nowMs });
    return caller;
  }
}
