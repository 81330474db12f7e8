/**
 * A channel of the session on the client: sends calls as credits allow, matches replies, survives whatever a server sends, and the loss of the connection
 * that carries it.
 *
 * States: `up` (a connection carries it; perhaps held back, as long as the session is not resumed) -> `down` (its connection was lost) -> `up`, by `attach`; `over`: for good.
 * Calls keep their slots meanwhile, and new ones take theirs. What has no answer when the channel is up again is sent again with the same tags, in
 * the order it was sent first: the server knows by the slots what it has done already.
 *
 * The slots of the channel are shared out between data (sections, paced by bytes) and everything else, so that neither waits for the other's credits.
 * A tag is a slot and a turn; the turn changes with each use, so that no reply can be taken for another call's.
 *
 * INVARIANT: while the channel is up a slot is in use from the sending of a call until its reply has come, whether or not anybody still wants it.
 */
import type { ByteReader } from "../base/byte-cursor.ts";
import type { Clock } from "../base/clock.ts";
import { type ErrnoName, errnoName } from "../base/errno.ts";
import { CloseCode, ConnectionError, FsError, ProtocolError } from "../base/errors.ts";
import { CreditWaiter, type CreditWindow } from "../sections/credit-window.ts";
import type { Channel, ChannelReceiver } from "../transport/channel.ts";
import { type BodyCodec, messageOf, messages } from "../wire/codec.ts";
import { emptyHeader, type FrameHeader } from "../wire/frame.ts";
import { DISCARD } from "../wire/frame-decoder.ts";
import type { Request } from "../wire/messages.ts";
import {
  type Call,
  type CallParts,
  type ChannelEvents,
  type Fields,
  goesAhead,
  isWorthAsking,
  PromisedCall,
  type Result,
} from "./call.ts";
import { type CallChannelFigures, CallWindows } from "./call-windows.ts";
import { HeldUpLine } from "./held-up-line.ts";
import { type NoticeReceiver, readNotice } from "./notices.ts";
import { type Agreement, awayError, goodbyeError, overError } from "./set-up.ts";

const NOTHING = Buffer.alloc(0);
const SLOT_BITS = 16;
const SLOT_MASK = 0xffff;

type State =
  /** `isHeld`: only calls that bring the session back are sent, and those that may go ahead. */
  | { readonly t: "up"; readonly channel: Channel; readonly isHeld: boolean }
  | { readonly t: "down" }
  | { readonly t: "over"; readonly error: Error };

export class CallChannel implements ChannelReceiver, NoticeReceiver {
  #agreement: Agreement;
  #state: State;
  readonly #clock: Clock;
  readonly #windows: CallWindows;
  readonly #heldUp = new HeldUpLine();
  readonly #calls: (Call | undefined)[];
  readonly #turns: Uint16Array;
  readonly #waiting = new Set<Call>();
  /** The call whose reply's payload is being received, with the reply's fields and handle. */
  #receiving: Call | undefined;
  #receivingFields: Fields = {};
  #receivingHandle = 0;
  #receivingBytes = 0;
  #receivingTarget: Buffer = NOTHING;
  /** Why the connection ends, if its receiver knew before it did. */
  #ending: Error | undefined;
  /** Of calls, in the order of their first sending. */
  #sentCount = 0;
  /** Bytes of connections that are gone. */
  #pastReceivedBytes = 0;
  #pastSentBytes = 0;
  readonly #request: FrameHeader = emptyHeader();
  readonly events: ChannelEvents;

  constructor(parts: {
    channel: Channel;
    agreement: Agreement;
    clock: Clock;
    events: ChannelEvents;
    isPipelined: boolean;
    /** Of the line, as known so far; 0: it is not. */
    roundTripMs: number;
  }) {
    this.#state = { t: "up", channel: parts.channel, isHeld: false };
    this.#agreement = parts.agreement;
    this.#clock = parts.clock;
    this.events = parts.events;
    this.#windows = new CallWindows(parts.agreement, parts);
    this.#calls = new Array<Call | undefined>(parts.agreement.credits).fill(undefined);
    this.#turns = new Uint16Array(parts.agreement.credits);
  }

  get agreement(): Agreement {
    return this.#agreement;
  }

  get isOpen(): boolean {
    return this.#state.t === "up" && this.#state.channel.isOpen;
  }

  /** The connection that carries it. */
  get channel(): Channel | undefined {
    return this.#state.t === "up" ? this.#state.channel : undefined;
  }

  /** Whether anybody waits for the server. */
  get isBusy(): boolean {
    return this.#windows.held > 0;
  }

  get figures(): CallChannelFigures {
    const { channel } = this;
    return {
      isOpen: this.isOpen,
      cipher: channel?.cipher ?? "",
      ...this.#windows.figures,
      receivedBytes: this.#pastReceivedBytes + (channel?.receivedBytes ?? 0),
      sentBytes: this.#pastSentBytes + (channel?.sentBytes ?? 0),
    };
  }

  /** Calls that wait for a slot, and those that have one. */
  get outstanding(): Call[] {
    return [...this.#waiting, ...this.#calls].filter((call) => call !== undefined);
  }

  /** Bytes of sections that are on their way or wait to be. */
  get sectionBytesOutstanding(): number {
    return this.#windows.sectionBytesOutstanding(this.#agreement.sectionBytes);
  }

  /** What fills the line, bytes: its bandwidth times its round trip, as far as sections have shown it. */
  get lineBytes(): number {
    return this.#windows.lineBytes;
  }

  /** Calls and awaits the result. @throws FsError, ConnectionError, ProtocolError. */
  call<T>(parts: CallParts, result: Result<T>): Promise<T> {
    return new Promise((resolve, reject) => this.begin(new PromisedCall(parts, result, resolve, reject)));
  }

  /** Starts a call, which is told how it ends. */
  begin(call: Call): void {
    if (this.#state.t === "over") {
      call.failed(overError(this.#state.error));
      return;
    }
    if (call.isImpatient && !this.isOpen) {
      call.failed(awayError());
      return;
    }
    if (!call.watch((error) => this.abandon(call, error))) return;
    call.open?.beginCall();
    const nowMs = this.#clock.monotonicMs();
    call.begunMs = nowMs;
    const credit = this.#windows.tryAcquire(call, nowMs);
    if (credit >= 0) this.#send(call, credit);
    else this.#wait(call, this.#windows.of(call), this.#windows.bytesOf(call), nowMs);
  }

  /** The caller has lost interest: the call settles with `error` as soon as what it borrowed is free, and its reply will be ignored. */
  abandon(call: Call, error: Error): void {
    if (call.isAbandoned) return;
    call.unwatch();
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
      this.channel?.divert();
    }
    if (this.#state.t === "up" && call.leftBy === this.#state.channel) {
      this.#state.channel.send({ ...emptyHeader(), opcode: messages.cancel.row.code }, messages.cancel.request, {
        canceledTag: call.tag,
      });
    } else if (!isWorthAsking(call)) {
      // Not yet: its credit would go to another call of those that are being abandoned together with it.
      queueMicrotask(() => {
        if (this.#state.t !== "over" && this.#calls[call.tag & SLOT_MASK] === call) this.#forget(call);
      });
    }
    call.failWhenFree(error);
  }

  /** Sends a notice; one that cannot be sent now is lost. */
  notify<N extends "changed" | "forget" | "ping" | "returnLease">(name: N, fields: Request<N>): void {
    if (this.#state.t !== "up") return;
    this.#state.channel.send({ ...emptyHeader(), opcode: messages[name].row.code }, messages[name].request, fields);
  }

  /**
   * Another connection carries the channel from now on, held back until `release`; it belongs to the same session, or will, once the server has checked
   * the proof that was sent: until `confirm` nothing is received.
   *
   * @throws ProtocolError what was agreed on it is not what was agreed before.
   */
  attach(channel: Channel, agreement: Agreement, roundTripMs: number): void {
    const { sectionBytes, credits } = this.#agreement;
    if (agreement.sectionBytes !== sectionBytes || agreement.credits !== credits) {
      throw new ProtocolError(CloseCode.LIMIT, "the server has changed the size of sections or the credits");
    }
    this.#agreement = agreement;
    this.#ending = undefined;
    this.#windows.forgetLine(roundTripMs);
    this.#enter({ t: "up", channel, isHeld: true });
  }

  /** The server of that connection is the one, and has let it in. */
  confirm(agreement: Agreement): void {
    this.#agreement = agreement;
  }

  /** That connection did not become the channel's. `isRefused`: the server has not let it in. */
  detach(channel: Channel, isRefused: boolean): void {
    if (this.channel !== channel) return;
    if (isRefused) for (const call of this.#calls) call?.takeBack(channel);
    this.#leave(channel);
  }

  /** Sends what may be sent now and has not left by this connection. */
  sendOn(): void {
    const calls = this.#calls.filter((call) => call !== undefined);
    calls.sort((a, b) => a.order - b.order);
    for (const call of calls) this.#transmit(call);
  }

  /** Sends what has no answer, and from now on everything. */
  release(): void {
    if (this.#state.t !== "up" || !this.#state.isHeld) return;
    this.#enter({ ...this.#state, isHeld: false });
    this.sendOn();
  }

  /** The session is another one: what may have been done in the old one, or not, fails with EIO; everything else that is wanted is asked again. */
  startOver(): void {
    for (const call of this.#calls) {
      const isUnwanted = call?.isAbandoned === true && call.leftBy !== this.channel;
      if (call?.isSent !== true || !(isUnwanted || call.message.row.changes === true)) continue;
      this.#forget(call);
      call.failUnlessAbandoned(new FsError("EIO", call.message.name));
    }
  }

  /** Fails the calls that have waited for longer than `patienceMs` while the server was away, since `awaySinceMs`. */
  expire(patienceMs: number, awaySinceMs: number): void {
    const latestMs = this.#clock.monotonicMs() - patienceMs;
    this.failAll(awayError(), ({ begunMs }) => Math.max(begunMs, awaySinceMs) <= latestMs);
  }

  /** Time passes; see CreditWindow and HeldUpLine. */
  tick(): void {
    const nowMs = this.#clock.monotonicMs();
    this.#windows.tick(nowMs);
    const signs = { nowMs, heardBytes: this.channel?.receivedBytes ?? 0, progressMs: this.#windows.progressMs };
    const overdue = this.#heldUp.look(signs, this.#calls, this.#waiting);
    if (overdue.length > 0) this.events.heldUp(overdue.length);
    for (const call of overdue) call.overdue();
  }

  /** Cuts the connection. */
  cut(): void {
    this.channel?.destroy();
  }

  /** Fails every call there is, or those that `concerns` says. */
  failAll(error: Error, concerns: (call: Call) => boolean = () => true): void {
    for (const call of this.outstanding) if (!call.isAbandoned && concerns(call)) this.abandon(call, error);
  }

  /** Says goodbye for good; calls under way, and all later ones, fail with `error`. */
  close(error: Error): void {
    const { channel } = this;
    this.#end(error);
    channel?.close({ code: 0, text: "goodbye" });
  }

  frame(header: FrameHeader, body: ByteReader): void {
    if (readNotice(messageOf(header.opcode), header, body, this)) return;
    const call = this.#match(header);
    if (header.status !== 0) {
      this.#failed(call, errnoName(header.status));
      return;
    }
    const fields = (call.message.reply as BodyCodec).read(body) as Fields;
    call.checkSent(this.channel);
    this.#finish(call, call.payload?.length ?? 0);
    this.#succeed(call, fields, NOTHING, header.handle);
  }

  goodbye({ code, reason }: Request<"goodbye">): void {
    this.#ending ??= goodbyeError(this.channel?.peer ?? "", code, reason);
    this.channel?.close({ code: 0, text: "goodbye" });
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
    const { channel } = this;
    if (channel === undefined) return;
    const reason =
      this.#ending ?? error ?? new ConnectionError(`connection to ${channel.peer} closed`, { retryable: true });
    this.#leave(channel);
    this.events.down(reason);
  }

  /** The connection carries it no more. */
  #leave(channel: Channel): void {
    this.#ending = undefined;
    this.#receiving = undefined;
    this.#receivingTarget = NOTHING;
    this.#pastReceivedBytes += channel.receivedBytes;
    this.#pastSentBytes += channel.sentBytes;
    this.#enter({ t: "down" });
    for (const call of this.outstanding) {
      // Its slot must not wait for a reply that nobody will ask for again.
      if (call.isAbandoned && !isWorthAsking(call)) this.#forget(call);
      else if (call.isImpatient && !call.isAbandoned) this.abandon(call, awayError());
    }
  }

  /** The server says that a call failed. */
  #failed(call: Call, errno: ErrnoName): void {
    const isUnknown = errno === "EBADF" && call.open !== undefined;
    if (isUnknown && this.#state.t === "up" && this.#state.isHeld && !call.isAbandoned) {
      // It went ahead of the resume, which says what became of its open; `release` asks again.
      call.leftBy = undefined;
      return;
    }
    this.#finish(call, 0);
    const error = new FsError(isUnknown && call.open?.isGone === true ? "ESTALE" : errno, call.message.name);
    call.failUnlessAbandoned(error);
  }

  /** No connection will carry it any more: everything fails. */
  #end(error: Error): void {
    if (this.#state.t === "over") return;
    this.#enter({ t: "over", error });
    this.#receiving = undefined;
    this.#receivingTarget = NOTHING;
    for (const call of this.outstanding) {
      call.unwatch();
      if (call.tag < 0) this.#leaveLine(call);
      else this.#calls[call.tag & SLOT_MASK] = undefined;
      call.open?.endCall();
      call.failUnlessAbandoned(error);
    }
  }

  #enter(state: State): void {
    this.#state = state;
  }

  #succeed(call: Call, fields: Fields, payload: Buffer, handle: number): void {
    if (call.isAbandoned) {
      if (call.message.row.handle === "made") this.events.orphan(handle, call, this.#agreement);
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
      this.#ending ??= error as Error;
      const code = error instanceof ProtocolError ? error.closeCode : CloseCode.STATE;
      this.channel?.close({ code, text: (error as Error).message });
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
  written(tag: number): void {
    const call = this.#calls[tag & SLOT_MASK];
    if (call === undefined || call.tag !== tag || call.message.name !== "write") {
      throw new ProtocolError(CloseCode.STATE, `tag ${tag} is not of a write`);
    }
    call.checkSent(this.channel);
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
    call.checkReply(header);
    return call;
  }

  /** The reply is here: the slot is free. `bytes` of data came through with it, either way. */
  #finish(call: Call, bytes: number): void {
    this.#vacate(call).release(call.credit, this.#clock.monotonicMs(), bytes);
  }

  /** No reply will come: the slot is free. */
  #forget(call: Call): void {
    this.#vacate(call).abandon(call.credit, this.#clock.monotonicMs());
  }

  /** @returns the window the slot's credit goes back to. */
  #vacate(call: Call): CreditWindow {
    call.unwatch();
    this.#calls[call.tag & SLOT_MASK] = undefined;
    call.open?.endCall();
    return this.#windows.of(call);
  }

  #wait(call: Call, window: CreditWindow, bytes: number, nowMs: number): void {
    const waiter = new CreditWaiter(call.priority, (credit) => {
      this.#waiting.delete(call);
      this.#send(call, credit);
    });
    waiter.bytes = bytes;
    call.waiter = waiter;
    this.#waiting.add(call);
    if (window.wait(waiter, nowMs)) return;
    this.#waiting.delete(call);
    call.unwatch();
    call.open?.endCall();
    call.failed(new FsError("ENOBUFS", call.message.name));
  }

  #leaveLine(call: Call): void {
    this.#waiting.delete(call);
    const window = this.#windows.of(call);
    if (call.waiter !== undefined) window.cancel(call.waiter, this.#clock.monotonicMs());
  }

  #send(call: Call, credit: number): void {
    const slot = this.#windows.slotOf(call, credit);
    const turn = ((this.#turns[slot] ?? 0) + 1) & SLOT_MASK;
    this.#turns[slot] = turn;
    call.credit = credit;
    call.tag = turn * (1 << SLOT_BITS) + slot;
    call.order = this.#sentCount;
    this.#sentCount += 1;
    this.#calls[slot] = call;
    this.#transmit(call);
    call.started();
  }

  /** Sends the call over the connection there is, if there is one, for the first time or again. */
  #transmit(call: Call): void {
    if (this.#state.t !== "up" || call.leftBy === this.#state.channel) return;
    if (this.#state.isHeld && !call.isOfResuming && !goesAhead(call)) return;
    if (call.open?.isGone === true && !call.isAbandoned) {
      this.#forget(call);
      // Not from inside the call that begins it. Another section of its request may have ended it by then.
      queueMicrotask(() => call.failUnlessAbandoned(new FsError("ESTALE", call.message.name)));
      return;
    }
    call.sendOver(this.#state.channel, this.#request);
  }
}
