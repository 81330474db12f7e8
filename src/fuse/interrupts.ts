/**
 * Requests whose caller no longer waits: after an INTERRUPT, or found out without one; the request is aborted, at once or after a moment.
 *
 * The kernel sends one for any signal, also for one that the program handles and does not expect to disturb an open(2) or a stat(2): a shell
 * whose child ended, a resized window, a profiler's timer. Disks and NFS do not fail with EINTR then. So a thread that is being killed
 * is let go at once; for any other signal the request gets a moment to finish by itself. The kernel sends no second INTERRUPT when
 * the killing signal comes later, so the moment always ends in an abort: whatever waits stays interruptible. Who waits for a lock expects
 * to be disturbed (alarm(2) is how one gives up waiting), and disks let him go at any signal; the kernel restarts his call where it should.
 *
 * For unbuffered reads and writes it sends none at all: it asks for their parts all at once, and then waits without listening to
 * signals (fs/fuse/file.c, fuse_direct_IO). So requests that take long are looked at from time to time.
 */
import type { Clock, Timer } from "../base/clock.ts";
import { Opcode } from "./abi.ts";
import type { StatusReader } from "./callers.ts";
import { isDying, STATUS_BYTES } from "./process-status.ts";
import type { KernelRequest } from "./request.ts";

export const INTERRUPT_GRACE_MS = 1000;
/** How often requests in flight are looked at; one is when it has been for that long. */
export const LOOK_MS = 500;
/** Threads looked at in one turn, at most. */
const LOOKS_MAX = 256;

export class Interrupts {
  readonly #clock: Clock;
  readonly #readStatus: StatusReader;
  readonly #status = Buffer.allocUnsafe(STATUS_BYTES);
  readonly #inFlight: ReadonlyMap<number, KernelRequest>;
  #timer: Timer | undefined;
  /** Those that were in flight at the last look have numbers up to this. */
  #seenUnique = -1;

  constructor(clock: Clock, readStatus: StatusReader, inFlight: ReadonlyMap<number, KernelRequest>) {
    this.#clock = clock;
    this.#readStatus = readStatus;
    this.#inFlight = inFlight;
  }

  /** There is something in flight. */
  watch(): void {
    // Most requests are over long before: the timer outlives them rather than being set for each.
    this.#timer ??= this.#clock.every(LOOK_MS, () => this.#look());
  }

  stop(): void {
    this.#timer?.stop();
    this.#timer = undefined;
  }

  request(request: KernelRequest): void {
    const isLock = request.row.opcode === Opcode.SETLKW;
    // A thread we cannot see is believed to be dying.
    if (isLock || (this.#isDying(request.caller.pid) ?? true)) request.abort();
    else request.grace ??= this.#clock.after(INTERRUPT_GRACE_MS, () => request.abort());
  }

  #look(): void {
    if (this.#inFlight.size === 0) this.stop();
    const known = new Map<number, boolean>();
    let latest = -1;
    for (const request of this.#inFlight.values()) {
      const { unique, caller, aborted } = request;
      latest = Math.max(latest, unique);
      if (unique > this.#seenUnique || aborted) continue;
      let isDying = known.get(caller.pid);
      if (isDying === undefined && known.size < LOOKS_MAX) {
        // A thread that is gone may have left the request to others of its process.
        isDying = this.#isDying(caller.pid) === true;
        known.set(caller.pid, isDying);
      }
      if (isDying === true) request.abort();
    }
    this.#seenUnique = latest;
  }

  /** undefined for a thread that cannot be seen: gone, or none of ours. */
  #isDying(tid: number): boolean | undefined {
    const bytes = tid === 0 ? -1 : this.#readStatus(tid, this.#status);
    return bytes <= 0 ? undefined : isDying(this.#status.toString("latin1", 0, bytes));
  }
}
