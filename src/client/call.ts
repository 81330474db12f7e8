/**
 * One request of the client from its making to its end.
 *
 * A call settles once: with its reply, with an error, or with EINTR when its caller lost interest; its slot is free only when the reply has come. What it
 * borrowed (target, payload) is the caller's again when it settles.
 */
import { CloseCode, FsError, ProtocolError } from "../base/errors.ts";
import type { CancelSignal } from "../base/signals.ts";
import type { CreditWaiter } from "../sections/credit-window.ts";
import type { Channel } from "../transport/channel.ts";
import { RequestPriority } from "../vfs/file-system.ts";
import { type BodyCodec, checkReply, type Message } from "../wire/codec.ts";
import type { FrameHeader } from "../wire/frame.ts";
import type { CallName, Request } from "../wire/messages.ts";
import type { CallChannel } from "./call-channel.ts";
import type { RemoteOpen } from "./remote-open.ts";
import type { Agreement } from "./set-up.ts";

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
  /** Fails at once, with ConnectionError, when there is no connection, instead of waiting for one. */
  readonly isImpatient?: boolean | undefined;
  /** What to do instead when the server does not know a node of the request; its outcome is the call's. */
  readonly recover?: (() => Promise<unknown>) | undefined;
  /** One of those that bring a session back: sent before all others. */
  readonly isOfResuming?: boolean | undefined;
  /** Leaves by the channel of the writes begun before it, behind them. */
  readonly followsWrites?: boolean | undefined;
  /** Nobody waits for it: it leaves with the next other one. */
  readonly isUnhurried?: boolean | undefined;
  /** How long it may wait for a credit of the sections while nobody gets one; absent: for ever. */
  readonly patienceMs?: number | undefined;
}

/** What a channel tells that is no call's reply. */
export interface ChannelEvents {
  /** A connection is lost, or closed by the server. */
  down(reason: Error): void;
  /** A handle came for a caller who had given up, in the session of `agreement`. */
  orphan(handle: number, call: Call, agreement: Agreement): void;
  lockReady(notice: Request<"lockReady">): void;
  /** Somebody else has changed a file through an open of this session. */
  changed(notice: Request<"changed">): void;
  /** Others need a file of which this session has leases. */
  leaseBreak(notice: Request<"leaseBreak">): void;
  /** So many calls that waited behind sections which hang in the server are given up. */
  heldUp(calls: number): void;
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
  readonly isImpatient: boolean;
  readonly isOfResuming: boolean;
  readonly followsWrites: boolean;
  readonly isUnhurried: boolean;
  readonly patienceMs: number;
  /** It was given up because it stayed without an answer. */
  isOverdue = false;
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
  /** It has, or waits for, the credit that is kept for those that bring a session back. */
  isReserved = false;
  waiter: CreditWaiter | undefined;
  #onAbort: (() => void) | undefined;
  /** The caller has its answer; a reply is awaited for the slot's sake only. */
  isAbandoned = false;
  /** When it was begun, and where it stands among those that were sent. */
  begunMs = 0;
  order = 0;
  /** It has left once at least, by a connection whose server may have taken it. */
  isSent = false;
  /** The connection it left by last. */
  leftBy: Channel | undefined;
  /** It left by no connection before that one. */
  isFirstLeft = false;
  /** The connection it left by last, while that has the payload still. */
  sendingOver: Channel | undefined;
  /** Connections that may still read the payload; one, but for a moment after it was sent again. */
  #sendings = 0;
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
    this.isImpatient = parts.isImpatient === true;
    this.isOfResuming = parts.isOfResuming === true;
    this.followsWrites = parts.followsWrites === true;
    this.isUnhurried = parts.isUnhurried === true;
    this.patienceMs = parts.patienceMs ?? Number.POSITIVE_INFINITY;
  }

  /** Of the handle it is answered with, if it is with one. */
  get kindMade(): RemoteOpen["kind"] {
    return this.message.name === "opendir" ? "directory" : "file";
  }

  /** Tells `abandon` when the caller loses interest. @returns false if it has already: the call has failed then. */
  watch(abandon: (error: FsError) => void): boolean {
    const { signal } = this;
    if (signal === undefined) return true;
    const interrupted = () => new FsError("EINTR", this.message.name);
    if (signal.aborted) {
      this.failed(interrupted());
      return false;
    }
    this.#onAbort = () => abandon(interrupted());
    signal.addEventListener("abort", this.#onAbort);
    return true;
  }

  /** Leaves over `channel`, for the first time or again; `header` is there to be filled in. */
  sendOver(channel: Channel, header: FrameHeader): void {
    const { message, payload, codec, fields } = this;
    this.isFirstLeft = !this.isSent;
    this.isSent = true;
    this.leftBy = channel;
    this.handle = this.open?.handle ?? 0;
    header.opcode = message.row.code;
    header.tag = this.tag;
    header.section = this.section;
    header.handle = this.handle;
    if (this.isUnhurried) channel.sendUnhurried(header, codec, fields);
    else if (payload === undefined || payload.length === 0) channel.send(header, codec, fields);
    else channel.send(header, codec, fields, payload, this.sending(channel));
  }

  /** The server has let nobody in by that connection: what left by it alone was not done. */
  takeBack(channel: Channel): void {
    if (this.leftBy !== channel) return;
    this.leftBy = undefined;
    if (this.isFirstLeft) this.isSent = false;
  }

  unwatch(): void {
    if (this.#onAbort === undefined) return;
    this.signal?.removeEventListener("abort", this.#onAbort);
    this.#onAbort = undefined;
  }

  /** Checks that a reply with this header is one to this call. @throws ProtocolError. */
  checkReply(header: FrameHeader): void {
    const { message } = this;
    if (header.opcode !== message.row.code)
      throw new ProtocolError(CloseCode.STATE, `${message.name}: another's reply`);
    checkReply(message, header);
    const isMade = message.row.handle === "made" && header.status === 0;
    if (header.section !== this.section || (!isMade && header.handle !== this.handle)) {
      throw new ProtocolError(CloseCode.MALFORMED, `${message.name}: reply for another section or handle`);
    }
  }

  /** Whether a connection may still read the payload. */
  get isSending(): boolean {
    return this.#sendings > 0;
  }

  /** The payload is given to a connection. @returns what that is to call when it has no more use for it. */
  sending(channel: Channel): () => void {
    this.#sendings += 1;
    this.sendingOver = channel;
    return () => {
      this.#sendings -= 1;
      if (this.sendingOver === channel) this.sendingOver = undefined;
      if (this.#sendings === 0) this.onSent?.();
    };
  }

  /** Whether the payload is its owner's now, taken back from a queue if it must be. If not, `onSent` will say when. */
  isFree(payload: Buffer): boolean {
    if (this.#sendings === 0) return true;
    return this.#sendings === 1 && this.sendingOver?.reclaim(payload) === true;
  }

  /** Fails it when its payload is its owner's: what the kernel is taking is that when the link is gone, or has sent it. */
  failWhenFree(error: Error): void {
    if (this.payload === undefined || this.isFree(this.payload)) this.failed(error);
    else this.onSent = () => this.failed(error);
  }

  /** As `failWhenFree`; whoever abandoned it has told it already. */
  failUnlessAbandoned(error: Error): void {
    if (!this.isAbandoned) this.failWhenFree(error);
  }

  /** @throws ProtocolError nobody can have done what was asked: nothing of its payload has left over `channel`. */
  checkSent(channel: Channel | undefined): void {
    if (this.isAbandoned || this.payload === undefined || channel === undefined || this.sendingOver !== channel) return;
    if (!channel.reclaim(this.payload)) return;
    throw new ProtocolError(CloseCode.STATE, `${this.message.name}: answered before it was sent`);
  }

  get codec(): BodyCodec {
    return this.message.request as BodyCodec;
  }

  /** Bytes this call keeps on the line, for the window. */
  get windowBytes(): number {
    return (this.payload?.length ?? 0) + (this.target?.length ?? 0);
  }

  /** It has waited for too long, for its credit or its answer. */
  overdue(): void {
    if (this.isAbandoned) return;
    this.isOverdue = true;
    this.channel?.abandon(this, new FsError("ETIMEDOUT", this.message.name));
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

/** Whether a call carries a section, or goes behind those that do. */
export function isDataCall(call: Call): boolean {
  return call.followsWrites || DATA_CALLS.has(call.message.name);
}

const CALLS_AHEAD: ReadonlySet<CallName> = new Set([
  "root",
  "lookup",
  "getattr",
  "access",
  "readlink",
  "getxattr",
  "listxattr",
  "statfs",
]);

/**
 * Whether a call may be sent before it is known what became of the opens: one that changes nothing, or only what the server compares with what the
 * client has left before it lets it happen. Directories are not among what a new process of the server still has open.
 */
export function goesAhead(call: Call): boolean {
  return call.open?.kind !== "directory" && (isDataCall(call) || CALLS_AHEAD.has(call.message.name));
}

/** Whether the reply to a call nobody wants any more matters all the same: it may bring a handle that must be released. */
export function isWorthAsking(call: Call): boolean {
  return call.message.row.handle === "made" && call.isSent;
}

/** Turns a reply into the call's result. May throw ProtocolError. `payload` is the target's filled part, or the call's own to keep. */
export type Result<T> = (reply: Fields, payload: Buffer, handle: number) => T;

/** A call somebody awaits. */
export class PromisedCall<T> extends Call {
  readonly #resolve: (value: T | Promise<T>) => void;
  readonly #reject: (error: Error) => void;
  readonly #result: Result<T>;
  readonly #recover: CallParts["recover"];

  constructor(
    parts: CallParts,
    result: Result<T>,
    resolve: (value: T | Promise<T>) => void,
    reject: (error: Error) => void,
  ) {
    super(parts);
    this.#recover = parts.recover;
    this.#result = result;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  answered(reply: Fields, payload: Buffer, handle: number): void {
    this.#resolve(this.#result(reply, payload, handle));
  }

  failed(error: FsError | Error): void {
    if (this.#recover !== undefined && error instanceof FsError && error.errno === "ESTALE") {
      this.#resolve(this.#recover() as Promise<T>);
    } else this.#reject(error);
  }
}
