/**
 * A ready channel on the client: sends calls as credits allow, matches replies, survives whatever a server sends.
 *
 * The slots of the channel are shared out between data (sections, paced by bytes) and everything else, so that neither waits for the other's credits.
 * A tag is a slot and a turn; the turn changes with each use, so that no reply can be taken for another call's.
 *
 * INVARIANT: a slot is in use from the sending of a call until its reply has come, whether or not anybody still wants it.
 */

import type { ByteReader } from "../base/byte-cursor.ts";
import type { Clock, Timer } from "../base/clock.ts";
import { errnoName } from "../base/errno.ts";
import { CloseCode, ConnectionError, FsError, ProtocolError } from "../base/errors.ts";
import type { CancelSignal } from "../base/signals.ts";
import { type CreditFigures, CreditWaiter, CreditWindow } from "../sections/credit-window.ts";
import type { Channel, ChannelReceiver } from "../transport/channel.ts";
import { type BodyCodec, checkReply, checkRequest, messageOf, messages } from "../wire/codec.ts";
import { emptyHeader, type FrameHeader } from "../wire/frame.ts";
import { DISCARD } from "../wire/frame-decoder.ts";
import { type Call, type CallParts, type Fields, isDataCall, PromisedCall, type Result } from "./call.ts";
import { type Agreement, goodbyeError } from "./set-up.ts";

const NOTHING = Buffer.alloc(0);
const SLOT_BITS = 16;
const SLOT_MASK = 0xffff;
/** Share of the credits that is not for data. */
const PLAIN_SHARE = 0.5;
const PLAIN_CREDITS_MAX = 64;
/** Calls that wait for a credit; beyond, a call fails with ENOBUFS. */
const WAITERS_MAX = 65_536;
/** A call without payload counts as this much on the line. */
const PLAIN_BYTES = 256;
/** Sections that are under way whatever the line's product seems to be. */
const SECTIONS_MIN = 4;
/** How often the windows are told the time while calls wait for a credit: when nothing is answered, there is no other occasion. */
const TICK_MS = 1000;

export interface CallChannelFigures {
  readonly isOpen: boolean;
  readonly calls: CreditFigures;
  readonly sections: CreditFigures;
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

export class CallChannel implements ChannelReceiver {
  readonly agreement: Agreement;
  readonly #channel: Channel;
  readonly #clock: Clock;
  readonly #plain: CreditWindow;
  readonly #data: CreditWindow;
  /** Slots below this are of #plain, the others of #data. */
  readonly #plainSlots: number;
  readonly #calls: (Call | undefined)[];
  readonly #turns: Uint16Array;
  readonly #waiting = new Set<Call>();
  /** The call whose reply's payload is being received, with the reply's fields and handle. */
  #receiving: Call | undefined;
  #receivingFields: Fields = {};
  #receivingHandle = 0;
  #receivingBytes = 0;
  #receivingTarget: Buffer = NOTHING;
  #error: Error | undefined;
  #ticker: Timer | undefined;
  readonly #request: FrameHeader = emptyHeader();
  readonly #onClosed: (error: Error | undefined) => void;
  /** Told of a handle that came for a caller who had given up. */
  readonly #onOrphan: (handle: number) => void;

  constructor(parts: {
    channel: Channel;
    agreement: Agreement;
    clock: Clock;
    onClosed: (error: Error | undefined) => void;
    onOrphan: (handle: number) => void;
    isPipelined: boolean;
    /** Of the line, as known so far; 0: it is not. */
    roundTripMs: number;
  }) {
    this.#channel = parts.channel;
    this.agreement = parts.agreement;
    this.#clock = parts.clock;
    this.#onClosed = parts.onClosed;
    this.#onOrphan = parts.onOrphan;
    const { credits, bytesMax, sectionBytes } = parts.agreement;
    this.#plainSlots = Math.min(PLAIN_CREDITS_MAX, Math.floor(credits * PLAIN_SHARE));
    const dataSlots = credits - this.#plainSlots;
    const bytes = Math.min(bytesMax, dataSlots * sectionBytes);
    this.#plain = new CreditWindow({
      credits: this.#plainSlots,
      creditsMax: this.#plainSlots,
      bytes: this.#plainSlots * PLAIN_BYTES,
      bytesMin: this.#plainSlots * PLAIN_BYTES,
      waitersMax: WAITERS_MAX,
    });
    this.#data = new CreditWindow({
      // For comparison: one section at a time, and nothing else until it has been answered.
      credits: parts.isPipelined ? dataSlots : 1,
      creditsMax: dataSlots,
      bytes,
      bytesMin: Math.min(bytes, SECTIONS_MIN * sectionBytes),
      waitersMax: WAITERS_MAX,
      roundTripMs: parts.roundTripMs,
    });
    this.#calls = new Array<Call | undefined>(credits).fill(undefined);
    this.#turns = new Uint16Array(credits);
  }

  get isOpen(): boolean {
    return this.#error === undefined && this.#channel.isOpen;
  }

  get figures(): CallChannelFigures {
    const { receivedBytes, sentBytes } = this.#channel;
    return { isOpen: this.isOpen, calls: this.#plain.figures, sections: this.#data.figures, receivedBytes, sentBytes };
  }

  /** Bytes of sections that are on their way or wait to be. */
  get sectionBytesOutstanding(): number {
    return this.#data.inFlightBytes + this.#data.waiterCount * this.agreement.sectionBytes;
  }

  /** What fills the line, bytes: its bandwidth times its round trip, as far as sections have shown it. */
  get lineBytes(): number {
    return this.#data.lineBytes;
  }

  /** Calls and awaits the result. @throws FsError, ConnectionError, ProtocolError. */
  call<T>(parts: CallParts, result: Result<T>): Promise<T> {
    return new Promise((resolve, reject) => this.begin(new PromisedCall(parts, result, resolve, reject)));
  }

  /** Starts a call, which is told how it ends. */
  begin(call: Call): void {
    if (this.#error !== undefined) {
      call.failed(this.#lostError());
      return;
    }
    if (call.signal !== undefined && !this.#watch(call, call.signal)) return;
    call.open?.beginCall();
    const isData = isDataCall(call);
    const window = isData ? this.#data : this.#plain;
    const bytes = isData ? call.windowBytes : PLAIN_BYTES;
    const nowMs = this.#clock.monotonicMs();
    const credit = window.tryAcquire(bytes, call.priority, nowMs);
    if (credit >= 0) this.#send(call, credit);
    else this.#wait(call, window, bytes, nowMs);
  }

  /** The caller has lost interest: the call settles with `error` as soon as what it borrowed is free, and its reply will be ignored. */
  abandon(call: Call, error: Error): void {
    if (call.isAbandoned) return;
    this.#unwatch(call);
    if (call.tag < 0) {
      this.#leaveLine(call);
      call.open?.endCall();
      call.failed(error);
      return;
    }
    call.isAbandoned = true;
    call.target = undefined;
    if (this.#receiving === call) {
      this.#receivingTarget = DISCARD;
      this.#channel.divert();
    }
    this.#channel.send({ ...emptyHeader(), opcode: messages.cancel.row.code }, messages.cancel.request, {
      canceledTag: call.tag,
    });
    const isFree = call.payload === undefined || !call.isSending || this.#channel.reclaim(call.payload);
    if (isFree) call.failed(error);
    else call.onSent = () => call.failed(error);
  }

  /** Sends a notice. */
  notify<N extends "forget">(name: N, fields: Parameters<(typeof messages)[N]["request"]["write"]>[1]): void {
    this.#channel.send({ ...emptyHeader(), opcode: messages[name].row.code }, messages[name].request, fields);
  }

  /** Says goodbye for good; calls under way fail. */
  close(): void {
    this.#error ??= new ConnectionError("the drive is closed", { retryable: false });
    this.#channel.close({ code: 0, text: "goodbye" });
  }

  /** Settles when the link is gone. */
  get gone(): Promise<void> {
    return this.#channel.gone;
  }

  frame(header: FrameHeader, body: ByteReader): void {
    const message = messageOf(header.opcode);
    if (message.name === "goodbye") {
      checkRequest(message, header, "server");
      const { code, reason } = messages.goodbye.request.read(body);
      this.#error ??= goodbyeError(this.#channel.peer, code, reason);
      this.#channel.close({ code: 0, text: "goodbye" });
      return;
    }
    if (message.name === "written") {
      checkRequest(message, header, "server");
      for (const tag of messages.written.request.read(body).tags) this.#written(tag);
      return;
    }
    const call = this.#match(header);
    if (header.status !== 0) {
      this.#finish(call, 0);
      if (!call.isAbandoned) this.#failWhenSent(call, new FsError(errnoName(header.status), call.message.name));
      return;
    }
    const fields = (call.message.reply as BodyCodec).read(body) as Fields;
    this.#checkSent(call);
    this.#finish(call, call.payload?.length ?? 0);
    this.#succeed(call, fields, NOTHING, header.handle);
  }

  payloadBegin(header: FrameHeader, body: ByteReader): Buffer {
    const call = this.#match(header);
    const { payloadBytes } = header;
    if (payloadBytes > call.replyBytesMax) {
      throw new ProtocolError(CloseCode.LIMIT, `${call.message.name}: more payload than asked for`);
    }
    this.#receivingFields = (call.message.reply as BodyCodec).read(body) as Fields;
    this.#receivingHandle = header.handle;
    this.#receivingBytes = payloadBytes;
    this.#receiving = call;
    if (call.isAbandoned) this.#receivingTarget = DISCARD;
    else if (call.target === undefined) this.#receivingTarget = Buffer.allocUnsafe(payloadBytes);
    else if (call.target.length === payloadBytes) this.#receivingTarget = call.target;
    else this.#receivingTarget = call.target.subarray(0, payloadBytes);
    return this.#receivingTarget;
  }

  payloadEnd(): void {
    const call = this.#receiving as Call;
    const payload = this.#receivingTarget;
    this.#receiving = undefined;
    this.#receivingTarget = NOTHING;
    this.#finish(call, this.#receivingBytes);
    this.#succeed(call, this.#receivingFields, payload, this.#receivingHandle);
  }

  closed(error: Error | undefined): void {
    this.#error ??= error ?? new ConnectionError(`connection to ${this.#channel.peer} closed`, { retryable: true });
    const reason = this.#error;
    this.#receiving = undefined;
    this.#receivingTarget = NOTHING;
    this.#ticker?.stop();
    for (const call of [...this.#waiting, ...this.#calls]) {
      if (call === undefined) continue;
      this.#unwatch(call);
      if (call.tag < 0) this.#leaveLine(call);
      else this.#calls[call.tag & SLOT_MASK] = undefined;
      call.open?.endCall();
      if (!call.isAbandoned) this.#failWhenSent(call, reason);
    }
    this.#onClosed(reason);
  }

  /** A payload that the kernel is taking is its owner's again when the link is gone; the channel says so by `sent`. */
  #failWhenSent(call: Call, error: Error): void {
    if (call.isSending && call.payload !== undefined && !this.#channel.reclaim(call.payload)) {
      call.onSent = () => call.failed(error);
    } else call.failed(error);
  }

  /** @throws ProtocolError nobody can have done what was asked: nothing of its payload has left. */
  #checkSent(call: Call): void {
    if (!call.isSending || call.isAbandoned || call.payload === undefined) return;
    if (!this.#channel.reclaim(call.payload)) return;
    throw new ProtocolError(CloseCode.STATE, `${call.message.name}: answered before it was sent`);
  }

  #succeed(call: Call, fields: Fields, payload: Buffer, handle: number): void {
    if (call.isAbandoned) {
      if (call.message.row.handle === "made") this.#onOrphan(handle);
      return;
    }
    if (call.isSending) {
      // The kernel still reads from the payload, whatever the server says to have done with it.
      call.onSent = () => this.#succeedLate(call, fields, payload, handle);
    } else this.#deliver(call, fields, payload, handle);
  }

  /** As `#deliver`, where nobody catches. */
  #succeedLate(call: Call, fields: Fields, payload: Buffer, handle: number): void {
    try {
      this.#deliver(call, fields, payload, handle);
    } catch (error) {
      this.#error ??= error as Error;
      const code = error instanceof ProtocolError ? error.closeCode : CloseCode.STATE;
      this.#channel.close({ code, text: (error as Error).message });
    }
  }

  #deliver(call: Call, fields: Fields, payload: Buffer, handle: number): void {
    try {
      call.answered(fields, payload, handle);
    } catch (error) {
      // Its slot is free already, so the end of the channel would not find it.
      call.failed(error as Error);
      throw error;
    }
  }

  /** The write with this tag wrote all its bytes. @throws ProtocolError there is none, or it cannot have. */
  #written(tag: number): void {
    const call = this.#calls[tag & SLOT_MASK];
    if (call === undefined || call.tag !== tag || call.message.name !== "write") {
      throw new ProtocolError(CloseCode.STATE, `tag ${tag} is not of a write`);
    }
    this.#checkSent(call);
    const writtenBytes = call.payload?.length ?? 0;
    this.#finish(call, writtenBytes);
    this.#succeed(call, { writtenBytes }, NOTHING, call.handle);
  }

  /** The call a reply is for. @throws ProtocolError there is none, or the reply does not fit it. */
  #match(header: FrameHeader): Call {
    const call = this.#calls[header.tag & SLOT_MASK];
    if (call === undefined || call.tag !== header.tag) {
      throw new ProtocolError(CloseCode.STATE, `reply to tag ${header.tag}, which is not in use`);
    }
    const { message } = call;
    if (header.opcode !== message.row.code)
      throw new ProtocolError(CloseCode.STATE, `${message.name}: another's reply`);
    checkReply(message, header);
    const isMade = message.row.handle === "made" && header.status === 0;
    if (header.section !== call.section || (!isMade && header.handle !== call.handle)) {
      throw new ProtocolError(CloseCode.MALFORMED, `${message.name}: reply for another section or handle`);
    }
    return call;
  }

  /** The reply is here: the slot is free. `bytes` of data came through with it, either way. */
  #finish(call: Call, bytes: number): void {
    this.#unwatch(call);
    const slot = call.tag & SLOT_MASK;
    this.#calls[slot] = undefined;
    call.open?.endCall();
    const window = slot < this.#plainSlots ? this.#plain : this.#data;
    window.release(call.credit, this.#clock.monotonicMs(), bytes);
  }

  #wait(call: Call, window: CreditWindow, bytes: number, nowMs: number): void {
    const waiter = new CreditWaiter(call.priority, (credit) => {
      this.#waiting.delete(call);
      this.#send(call, credit);
    });
    waiter.bytes = bytes;
    call.waiter = waiter;
    this.#waiting.add(call);
    this.#ticker ??= this.#clock.every(TICK_MS, this.#tick);
    if (window.wait(waiter, nowMs)) return;
    this.#waiting.delete(call);
    this.#unwatch(call);
    call.open?.endCall();
    call.failed(new FsError("ENOBUFS", call.message.name));
  }

  readonly #tick = (): void => {
    const nowMs = this.#clock.monotonicMs();
    for (const window of [this.#plain, this.#data]) window.tick(nowMs);
    if (this.#waiting.size > 0) return;
    this.#ticker?.stop();
    this.#ticker = undefined;
  };

  #leaveLine(call: Call): void {
    this.#waiting.delete(call);
    const window = isDataCall(call) ? this.#data : this.#plain;
    if (call.waiter !== undefined) window.cancel(call.waiter, this.#clock.monotonicMs());
  }

  #send(call: Call, credit: number): void {
    const slot = isDataCall(call) ? this.#plainSlots + credit : credit;
    const turn = ((this.#turns[slot] ?? 0) + 1) & SLOT_MASK;
    this.#turns[slot] = turn;
    call.credit = credit;
    call.tag = turn * (1 << SLOT_BITS) + slot;
    call.handle = call.open?.handle ?? 0;
    this.#calls[slot] = call;
    const header = this.#request;
    header.opcode = call.message.row.code;
    header.tag = call.tag;
    header.section = call.section;
    header.handle = call.handle;
    const { payload } = call;
    if (payload === undefined || payload.length === 0) {
      this.#channel.send(header, call.codec, call.fields);
    } else {
      call.isSending = true;
      this.#channel.send(header, call.codec, call.fields, payload, () => {
        call.isSending = false;
        call.onSent?.();
      });
    }
    call.started();
  }

  /** @returns false if the signal has aborted already; the call has failed then. */
  #watch(call: Call, signal: CancelSignal): boolean {
    const interrupted = () => new FsError("EINTR", call.message.name);
    if (signal.aborted) {
      call.failed(interrupted());
      return false;
    }
    call.onAbort = () => this.abandon(call, interrupted());
    signal.addEventListener("abort", call.onAbort);
    return true;
  }

  #unwatch(call: Call): void {
    if (call.onAbort === undefined) return;
    call.signal?.removeEventListener("abort", call.onAbort);
    call.onAbort = undefined;
  }

  #lostError(): Error {
    if (this.#error instanceof ConnectionError) return this.#error;
    return new ConnectionError("the connection was closed", { retryable: true, cause: this.#error });
  }
}
