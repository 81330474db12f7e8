/**
 * Drives one large read or write over a channel, section by section; the transfer (src/sections) says what, this says how.
 *
 * Sections leave as credits allow, without waiting for answers; answers come in any order and land by position. The first error stops the sending and
 * takes back what is under way. A section that stays without an answer is an error as well, after its last attempt (section-call.ts). The promise settles
 * only when nothing touches the caller's buffer any more.
 */

import { type ErrnoName, isErrnoName } from "../base/errno.ts";
import { FsError, toErrno } from "../base/errors.ts";
import type { CancelSignal } from "../base/signals.ts";
import type { SectionPlan } from "../sections/section-plan.ts";
import { Transfer } from "../sections/transfer.ts";
import type { RequestPriority } from "../vfs/file-system.ts";
import type { CallParts, Fields } from "./call.ts";
import type { CallChannel } from "./call-channel.ts";
import { attemptsOf, SectionCall, type SectionCarrier } from "./section-call.ts";

/** What a run needs to know of its request. */
export interface RunParts {
  readonly kind: "read" | "write";
  readonly plan: SectionPlan;
  /** The request of section `index`, without section number and signal. */
  readonly section: (index: number) => CallParts;
  /** Bytes of a section that its reply says were read or written. */
  readonly bytes: (reply: Fields, payload: Buffer) => number;
  /** Send a section only when the one before has been answered. */
  readonly isOrdered: boolean;
  readonly signal: CancelSignal | undefined;
  readonly priority: RequestPriority | undefined;
}

class RunCall extends SectionCall {
  readonly #run: SectionRun;

  constructor(parts: CallParts, run: SectionRun, carrier: SectionCarrier, attempts: number) {
    super(parts, carrier, attempts);
    this.#run = run;
  }

  override started(): void {
    super.started();
    this.#run.started(this);
  }

  protected succeeded(reply: Fields, payload: Buffer): void {
    this.#run.answered(this, reply, payload);
  }

  protected ended(error: Error): void {
    this.#run.failed(this, error);
  }
}

/** Runs the request. @returns bytes from the start of the range; short where the file or the disk ends. */
export function runSections(carrier: SectionCarrier, parts: RunParts): Promise<number> {
  return new Promise((resolve, reject) => {
    new SectionRun(carrier, parts, resolve, reject).start();
  });
}

class SectionRun {
  readonly #carrier: SectionCarrier;
  readonly #parts: RunParts;
  readonly #attempts: number;
  readonly #transfer: Transfer;
  readonly #resolve: (bytes: number) => void;
  readonly #reject: (error: Error) => void;
  /** Sections that wait for a credit or for an answer. */
  readonly #calls = new Set<RunCall>();
  /** The section that waits for a credit; one at most. */
  #waiting: RunCall | undefined;
  /** Where a section has stayed without an answer. */
  #suspect: CallChannel | undefined;
  #error: Error | undefined;
  #isPumping = false;

  constructor(
    carrier: SectionCarrier,
    parts: RunParts,
    resolve: (bytes: number) => void,
    reject: (error: Error) => void,
  ) {
    this.#carrier = carrier;
    this.#parts = parts;
    this.#attempts = attemptsOf(parts.kind, carrier.channels);
    this.#transfer = new Transfer(parts.plan, parts.kind, this.#attempts);
    this.#resolve = resolve;
    this.#reject = reject;
  }

  start(): void {
    this.#parts.signal?.addEventListener("abort", this.#onAbort);
    if (this.#parts.signal?.aborted === true) this.#onAbort();
    this.#pump();
    this.#settleIfOver();
  }

  started(call: RunCall): void {
    if (this.#waiting === call) this.#waiting = undefined;
    this.#transfer.sent(call.section, call.tag);
    this.#pump();
  }

  answered(call: RunCall, reply: Fields, payload: Buffer): void {
    const bytes = this.#parts.bytes(reply, payload);
    this.#transfer.answered(call.section, call.tag, bytes);
    this.#calls.delete(call);
    this.#leaveLineBehindEnd();
    if (this.#transfer.state.t === "draining" && this.#transfer.state.verdict !== undefined) this.#withdrawAll();
    this.#pump();
    this.#settleIfOver();
  }

  /** A status, a dead link, or our own withdrawal of a section that was sent or waited. */
  failed(call: RunCall, error: Error): void {
    if (!this.#calls.delete(call)) return;
    if (this.#waiting === call) this.#waiting = undefined;
    const wasSent = call.tag >= 0;
    if (call.isOverdue) {
      this.#suspect = call.channel;
      this.#transfer.timedOut(call.section);
    } else if (call.isAbandoned || !(error instanceof FsError)) {
      if (!call.isAbandoned) this.#decide(error);
      if (wasSent) this.#transfer.withdrawn(call.section);
    } else if (wasSent) {
      const counts = this.#transfer.refused(call.section, call.tag, error.errno);
      if (counts) this.#error ??= error;
    } else this.#decide(error);
    if (this.#transfer.state.t === "draining" && this.#transfer.state.verdict !== undefined) this.#withdrawAll();
    this.#pump();
    this.#settleIfOver();
  }

  readonly #onAbort = (): void => {
    this.#error ??= new FsError("EINTR", this.#parts.kind);
    this.#transfer.cancel();
    this.#withdrawAll();
    this.#settleIfOver();
  };

  #decide(error: Error): void {
    this.#error ??= error;
    const errno: ErrnoName = toErrno(error);
    this.#transfer.fail(isErrnoName(errno) ? errno : "EIO");
  }

  /** Sends what may be sent; a call from inside `begin` leaves it to the loop that is already running. */
  #pump(): void {
    if (this.#isPumping) return;
    this.#isPumping = true;
    while (this.#waiting === undefined && !(this.#parts.isOrdered && this.#calls.size > 0)) {
      const index = this.#transfer.nextToSend();
      if (index < 0) break;
      const parts = { ...this.#parts.section(index), section: index, priority: this.#parts.priority };
      const call = new RunCall(parts, this, this.#carrier, this.#attempts);
      call.avoids = this.#suspect;
      this.#calls.add(call);
      this.#waiting = call;
      this.#carrier.channels.begin(call);
    }
    this.#isPumping = false;
  }

  /** The answer may have shown that what waits for a credit lies behind the end. */
  #leaveLineBehindEnd(): void {
    const call = this.#waiting;
    if (call === undefined || this.#transfer.isToSend(call.section)) return;
    this.#waiting = undefined;
    // Before it fails: it is no reason for the run to end.
    this.#calls.delete(call);
    this.#carrier.channels.abandon(call, new FsError("EINTR", this.#parts.kind));
  }

  #withdrawAll(): void {
    const error = this.#error ?? new FsError("EIO", this.#parts.kind);
    for (const call of [...this.#calls]) this.#carrier.channels.abandon(call, error);
  }

  #settleIfOver(): void {
    const { state } = this.#transfer;
    if (!this.#transfer.settled || this.#calls.size > 0) return;
    this.#parts.signal?.removeEventListener("abort", this.#onAbort);
    if (state.t === "done") this.#resolve(state.bytes);
    else if (state.t === "failed") this.#reject(this.#error ?? new FsError(state.errno, this.#parts.kind));
    else this.#reject(this.#error ?? new FsError("EINTR", this.#parts.kind));
  }
}
