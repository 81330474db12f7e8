/**
 * One request of the client from its making to its end.
 *
 * A call settles once: with its reply, with an error, or with EINTR when its caller lost interest; its slot is free only when the reply has come. What it
 * borrowed (target, payload) is the caller's again when it settles.
 */
import type { FsError } from "../base/errors.ts";
import type { CancelSignal } from "../base/signals.ts";
import type { CreditWaiter } from "../sections/credit-window.ts";
import { RequestPriority } from "../vfs/file-system.ts";
import type { BodyCodec, Message } from "../wire/codec.ts";
import type { CallName } from "../wire/messages.ts";
import type { CallChannel } from "./call-channel.ts";
import type { RemoteOpen } from "./remote-open.ts";

export type Fields = Record<string, unknown>;

/** Where and how a call's request goes, and where its reply's payload. */
export interface CallParts {
  readonly message: Message<CallName>;
  readonly fields: Fields;
  /** The open whose handle the header carries. */
  readonly open?: RemoteOpen | undefined;
  /** Number within the request it is a section of. */
  readonly section?: number;
  /** Sent behind the body; borrowed. */
  readonly payload?: Buffer | undefined;
  /** Where the reply's payload goes; borrowed. Without it a buffer is made for the call. */
  readonly target?: Buffer | undefined;
  /** The most payload the reply may have; only with messages whose reply has one. */
  readonly replyBytesMax?: number;
  readonly signal?: CancelSignal | undefined;
  readonly priority?: RequestPriority | undefined;
}

export abstract class Call {
  readonly message: Message<CallName>;
  readonly fields: Fields;
  readonly open: RemoteOpen | undefined;
  readonly section: number;
  readonly payload: Buffer | undefined;
  readonly replyBytesMax: number;
  readonly signal: CancelSignal | undefined;
  readonly priority: RequestPriority;
  /** Where the reply's payload goes; undefined also when it was taken back. */
  target: Buffer | undefined;
  /** The handle as sent, which the reply must bring back. */
  handle = 0;
  tag = -1;
  /** The channel it was begun on, where there are several. */
  channel: CallChannel | undefined;
  /** A channel it should not take if there is another: an earlier attempt had no answer there. */
  avoids: CallChannel | undefined;
  credit = -1;
  waiter: CreditWaiter | undefined;
  onAbort: (() => void) | undefined;
  /** The caller has its answer; a reply is awaited for the slot's sake only. */
  isAbandoned = false;
  /** The payload may still be read by the channel. */
  isSending = false;
  /** Told when the payload is the caller's again, if somebody waits for that. */
  onSent: (() => void) | undefined;

  constructor(parts: CallParts) {
    this.message = parts.message;
    this.fields = parts.fields;
    this.open = parts.open;
    this.section = parts.section ?? 0;
    this.payload = parts.payload;
    this.target = parts.target;
    this.replyBytesMax = parts.replyBytesMax ?? 0;
    this.signal = parts.signal;
    this.priority = parts.priority ?? RequestPriority.FOREGROUND;
  }

  get codec(): BodyCodec {
    return this.message.request as BodyCodec;
  }

  /** Bytes this call keeps on the line, for the window. */
  get windowBytes(): number {
    return (this.payload?.length ?? 0) + (this.target?.length ?? 0);
  }

  /** The call has its credit and is sent. */
  started(): void {
    // Most callers only wait for the end.
  }

  /** The reply came with status 0. `payload` holds `bytes` of payload. May throw ProtocolError: the reply makes no sense. */
  abstract answered(reply: Fields, payload: Buffer, handle: number): void;
  /** The call failed: FsError (its status), ConnectionError, ProtocolError. */
  abstract failed(error: Error): void;
}

const DATA_CALLS: ReadonlySet<CallName> = new Set(["read", "write"]);

/** Whether a call carries a section. */
export function isDataCall(call: Call): boolean {
  return DATA_CALLS.has(call.message.name);
}

/** Turns a reply into the call's result. May throw ProtocolError. `payload` is the target's filled part, or the call's own to keep. */
export type Result<T> = (reply: Fields, payload: Buffer, handle: number) => T;

/** A call somebody awaits. */
export class PromisedCall<T> extends Call {
  readonly #resolve: (value: T) => void;
  readonly #reject: (error: Error) => void;
  readonly #result: Result<T>;

  constructor(parts: CallParts, result: Result<T>, resolve: (value: T) => void, reject: (error: Error) => void) {
    super(parts);
    this.#result = result;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  answered(reply: Fields, payload: Buffer, handle: number): void {
    this.#resolve(this.#result(reply, payload, handle));
  }

  failed(error: FsError | Error): void {
    this.#reject(error);
  }
}
