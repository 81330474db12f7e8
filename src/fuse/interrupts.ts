/**
 * What follows an INTERRUPT: the request is aborted, at once or after a moment.
 *
 * The kernel sends one for any signal, also for one that the program handles and does not expect to disturb an open(2) or a stat(2): a shell
 * whose child ended, a resized window, a profiler's timer. Disks and NFS do not fail with EINTR then. So a thread that is being killed
 * is let go at once; for any other signal the request gets a moment to finish by itself. The kernel sends no second INTERRUPT when
 * the killing signal comes later, so the moment always ends in an abort: whatever waits stays interruptible.
 */
import type { Clock } from "../base/clock.ts";
import type { StatusReader } from "./callers.ts";
import { isDying, STATUS_BYTES } from "./process-status.ts";
import type { KernelRequest } from "./request.ts";

export const INTERRUPT_GRACE_MS = 1000;

export class Interrupts {
  readonly #clock: Clock;
  readonly #readStatus: StatusReader;
  readonly #status = Buffer.allocUnsafe(STATUS_BYTES);

  constructor(clock: Clock, readStatus: StatusReader) {
    this.#clock = clock;
    this.#readStatus = readStatus;
  }

  request(request: KernelRequest): void {
    if (this.#isDying(request.caller.pid)) request.abort();
    else request.grace ??= this.#clock.after(INTERRUPT_GRACE_MS, () => request.abort());
  }

  /** A thread we cannot see is believed to be. */
  #isDying(tid: number): boolean {
    const bytes = tid === 0 ? -1 : this.#readStatus(tid, this.#status);
    return bytes <= 0 || isDying(this.#status.toString("latin1", 0, bytes));
  }
}
