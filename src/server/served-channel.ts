/**
 * A connection that carries a channel of a session: takes requests, runs them, answers them in the order they end, and writes that end together with
 * one notice.
 *
 * Requests live in the channel's slot table, which is the session's. When the connection is lost, those that may run again are aborted, and those that
 * may not go on: their replies are kept for the client that comes back. What a request holds is given back when it settles.
 */
import type { ByteReader } from "../base/byte-cursor.ts";
import { errnoNumber } from "../base/errno.ts";
import { CloseCode, FsError, ProtocolError, toErrno } from "../base/errors.ts";
import type { Channel, ChannelReceiver } from "../transport/channel.ts";
import type { Caller, NodeId } from "../vfs/file-system.ts";
import { type BodyCodec, checkRequest, type Message, messageOf, messages } from "../wire/codec.ts";
import { emptyHeader, type FrameHeader } from "../wire/frame.ts";
import { DISCARD } from "../wire/frame-decoder.ts";
import { WRITTEN_TAGS_MAX } from "../wire/limits.ts";
import { type CallName, FLAG_REPLY, type Handlers, type Request } from "../wire/messages.ts";
import { checkGuest } from "./attach.ts";
import { checkCall, checkWritable } from "./dispatch.ts";
import { afterLeases, beforeLeases, stateLease } from "./lease-requests.ts";
import { type Answering, ServedRequest } from "./served-request.ts";
import type { Session } from "./session.ts";
import {
  type Carrier,
  isReplyTo,
  type KeptReply,
  type ServerNotice,
  type SessionChannel,
  type SlotTable,
} from "./slot-table.ts";
import { squashCaller } from "./squash.ts";
import { isStored, type Keeper } from "./state/keeper.ts";
import type { ServerState } from "./state.ts";

const NOTHING = Buffer.alloc(0);

/** What a client may ask of an open before it has resumed it. */
const GOES_AHEAD: ReadonlySet<string> = new Set(["read", "write", "getattr", "fsync"]);

type AnyHandler = (ctx: ServedRequest, asked: Record<string, unknown>) => Promise<Record<string, unknown>>;

export class ServedChannel implements ChannelReceiver, SessionChannel, Carrier, Answering {
  readonly channel: Channel;
  readonly #session: Session;
  readonly #state: ServerState;
  readonly #handlers: Readonly<Record<CallName, AnyHandler>>;
  readonly #table: SlotTable;
  /** Of the set-up: what proofs on this channel are bound to. */
  readonly transcript: Buffer;
  /** Writes that wrote all their bytes, in this turn of the event loop; to be answered at its end. Bounded by the credits. */
  #written: ServedRequest[] = [];
  /** The request whose payload is being received, or waits for a buffer. */
  #receiving: ServedRequest | undefined;
  /** A request sent again, while its payload is thrown away. */
  #replaying: { readonly message: Message; readonly header: FrameHeader } | undefined;
  #giveUpBuffer: (() => void) | undefined;
  #isDraining = false;
  /** The client said that it goes for good. */
  #isFinal = false;
  #lastRawCaller: Caller | undefined;
  #lastCaller: Caller | undefined;
  readonly #reply: FrameHeader = { ...emptyHeader(), flags: FLAG_REPLY };

  /** Takes the place of the connection that carried the channel of `table` before, if there is one still. */
  constructor(parts: {
    channel: Channel;
    session: Session;
    table: SlotTable;
    state: ServerState;
    handlers: Handlers<ServedRequest>;
    transcript: Buffer;
  }) {
    this.channel = parts.channel;
    this.#session = parts.session;
    this.#table = parts.table;
    this.#state = parts.state;
    this.#handlers = parts.handlers as unknown as Readonly<Record<CallName, AnyHandler>>;
    this.transcript = parts.transcript;
    this.#table.carrier?.supersede();
    this.#table.carrier = this;
    this.#session.addChannel(this);
    if (this.#table.number !== 0) return;
    this.#session.told.tellAgain();
    this.#session.share.leases.tellAgain(this.#session);
  }

  /** Lets the requests under way end, then closes. */
  drain(): void {
    this.#isDraining = true;
    if (this.#table.running === 0) this.close(CloseCode.SHUTDOWN, "the server is going down");
  }

  close(code: number, text: string): void {
    this.channel.close({ code, text });
  }

  supersede(): void {
    this.channel.destroy();
  }

  notify<N extends ServerNotice>(name: N, notice: Request<N>): void {
    this.channel.send({ ...emptyHeader(), opcode: messages[name].row.code }, messages[name].request, notice);
  }

  frame(header: FrameHeader, body: ByteReader): void {
    const message = messageOf(header.opcode);
    checkRequest(message, header, "client");
    if (message.row.reply === undefined) {
      this.#notice(message, body);
      return;
    }
    if (this.#replayOf(message, header) !== undefined) {
      this.#replay(message, header);
      return;
    }
    const request = this.#begin(message, header, body);
    if (message.row.payload === "request") request.asked["payload"] = NOTHING;
    this.#run(request);
  }

  payloadBegin(header: FrameHeader, body: ByteReader): Buffer | undefined {
    const message = messageOf(header.opcode);
    checkRequest(message, header, "client");
    const replay = this.#replayOf(message, header);
    if (replay !== undefined) {
      this.#replaying = { message, header: { ...header } };
      return DISCARD;
    }
    const request = this.#begin(message, header, body);
    this.#receiving = request;
    const { payloadBytes } = header;
    const { buffers } = this.#session;
    const target = buffers.tryTake(payloadBytes);
    if (target === undefined) {
      this.#giveUpBuffer = buffers.take(payloadBytes, (buffer) => {
        this.#giveUpBuffer = undefined;
        this.#lendPayload(request, buffer, payloadBytes);
        this.channel.provide(buffer);
      });
      return undefined;
    }
    this.#lendPayload(request, target, payloadBytes);
    return target;
  }

  payloadEnd(): void {
    const replaying = this.#replaying;
    if (replaying !== undefined) {
      const { message, header } = replaying;
      this.#replaying = undefined;
      this.#replay(message, header);
      return;
    }
    const request = this.#receiving as ServedRequest;
    this.#receiving = undefined;
    this.#run(request);
  }

  closed(error: Error | undefined): void {
    if (error instanceof ProtocolError || error?.cause instanceof ProtocolError) {
      this.#state.blame(`${this.channel.peer} (share '${this.#session.share.name}') closed: ${error.message}`);
    } else if (error !== undefined && error.name !== "ConnectionError") {
      this.#state.log.error(`${this.channel.peer}: channel failed`, error);
    }
    this.#giveUpBuffer?.();
    const receiving = this.#receiving;
    this.#receiving = undefined;
    if (receiving !== undefined) this.#release(receiving);
    for (const { request } of this.#table.slots) {
      if (request?.connection === this && request.message.row.replay === "idempotent") request.cancel();
    }
    if (this.#table.carrier === this) this.#table.carrier = undefined;
    this.#session.removeChannel(this, this.#isFinal);
  }

  #notice(message: Message, body: ByteReader): void {
    if (message.name === "cancel") {
      const { canceledTag } = messages.cancel.request.read(body);
      this.#table.find(canceledTag)?.cancel();
    } else if (message.name === "ping") {
      const { echo } = messages.ping.request.read(body);
      this.channel.send({ ...emptyHeader(), opcode: messages.ping.row.code }, messages.ping.request, { echo });
    } else if (message.name === "changed") {
      this.#session.told.taken(messages.changed.request.read(body).id);
    } else if (message.name === "returnLease") {
      const { breakId } = messages.returnLease.request.read(body);
      this.#session.share.leases.returned(this.#session, breakId);
    } else if (message.name === "forget") {
      const { ids } = messages.forget.request.read(body);
      if (this.#session.guestOf === undefined) this.#session.share.fileSystem.forget(ids);
    } else {
      const { code } = messages.goodbye.request.read(body);
      this.#isFinal = code === 0 && this.#table.number === 0;
      this.channel.close({ code: 0, text: "goodbye" });
    }
  }

  /** Decodes a request and gives it its slot. @throws ProtocolError. */
  #begin(message: Message, header: FrameHeader, body: ByteReader): ServedRequest {
    if (message.row.phase !== "ready") {
      throw new ProtocolError(CloseCode.STATE, `${message.name}: set-up is over`);
    }
    if (this.#table.number !== 0 && message.row.sections !== true && message.row.followsWrites !== true) {
      throw new ProtocolError(CloseCode.STATE, `${message.name}: not on an io channel`);
    }
    const slot = this.#table.slotOf(header.tag);
    if (slot.request !== undefined) {
      if (slot.request.connection === this) {
        throw new ProtocolError(CloseCode.STATE, `${message.name}: the tag's slot is in use`);
      }
      // The client does not want it any more, or sends it again to be run again.
      slot.request.cancel();
      this.#table.orphan(slot);
    }
    const asked = (message.request as BodyCodec).read(body) as Record<string, unknown>;
    checkCall(message.name as CallName, asked, header.payloadBytes, this.#session.sectionBytes);
    this.#session.told.asked();
    const open = header.handle === 0 ? undefined : this.#session.find(header.handle);
    const request = new ServedRequest({
      message: message as unknown as Message<CallName>,
      session: this.#session,
      connection: this,
      tag: header.tag,
      section: header.section,
      handle: header.handle,
      caller: this.#squash(asked["caller"] as Caller | undefined),
      open,
      asked,
    });
    this.#table.enter(slot, request);
    // All opens it knew it has resumed, but for what goes ahead of that; of this one it has only learnt since, by a reply that was kept.
    if (open !== undefined && !GOES_AHEAD.has(message.name)) this.#session.absences.used(open);
    if (message.row.replay === "once" && message.name !== "write") this.#session.absences.heard();
    return request;
  }

  /** What a request that was sent before, on a connection that is lost, is answered with, or what it waits for. Undefined: it is to be run. */
  #replayOf(
    message: Message,
    header: FrameHeader,
  ): { readonly kept?: KeptReply; readonly running?: ServedRequest } | undefined {
    const slot = this.#table.slotOf(header.tag);
    if (message.row.replay !== "once" || !this.#table.isLast(slot, header.tag)) return undefined;
    const { request, kept } = slot;
    if (request !== undefined) {
      if (request.connection === this || request.message !== message) {
        throw new ProtocolError(CloseCode.STATE, `${message.name}: the tag's slot is in use`);
      }
      return { running: request };
    }
    if (kept === undefined) return undefined;
    if (!isReplyTo(kept, header)) throw new ProtocolError(CloseCode.STATE, `${message.name}: not what had this tag`);
    return { kept };
  }

  /** Answers a request that was sent again, now or when it has run. It is here whole: nobody is answered who is still sending. */
  #replay(message: Message, header: FrameHeader): void {
    const replay = this.#replayOf(message, header);
    if (replay?.running !== undefined) replay.running.connection = this;
    if (replay?.kept !== undefined) this.#sendKept(header.tag, replay.kept);
  }

  #sendKept(tag: number, kept: KeptReply): void {
    const { opcode, section, made, status, answer } = kept;
    const header = { ...emptyHeader(), opcode, flags: FLAG_REPLY, tag, section, status };
    header.handle = made === 0 ? kept.handle : made;
    // An open that its client learns of only now has missed nothing.
    const open = made === 0 ? undefined : this.#session.find(made);
    if (open !== undefined) this.#session.absences.cameBack(open);
    const codec = answer === undefined ? undefined : (messageOf(opcode).reply as BodyCodec);
    if (answer !== undefined) stateLease(this.#session, open, answer);
    this.channel.send(header, codec, answer);
  }

  #lendPayload(request: ServedRequest, buffer: Buffer, payloadBytes: number): void {
    request.payloadBuffer = buffer;
    request.asked["payload"] = buffer.length === payloadBytes ? buffer : buffer.subarray(0, payloadBytes);
  }

  #squash(raw: Caller | undefined): Caller {
    if (raw === undefined) return { uid: 0, gid: 0, groups: [], pid: 0 };
    if (raw !== this.#lastRawCaller || this.#lastCaller === undefined) {
      this.#lastRawCaller = raw;
      this.#lastCaller = squashCaller(this.#state.squash, raw);
    }
    return this.#lastCaller;
  }

  #run(request: ServedRequest): void {
    this.#table.begin(request);
    // An open waits for the requests on it that are here whole: a release not for itself, and nobody for what a client is sending still.
    if (request.message.name !== "release") request.open?.beginRequest();
    const failed = (error: unknown) => request.connection.failed(request, error);
    this.#start(request).then((answer) => {
      const waits = afterLeases(request, answer);
      if (waits === undefined) request.connection.answered(request, answer);
      else waits.then(() => request.connection.answered(request, answer), failed);
    }, failed);
  }

  #start(request: ServedRequest): Promise<Record<string, unknown>> {
    try {
      request.throwIfCanceled();
      if (request.handle !== 0 && this.#session.find(request.handle) === undefined)
        throw new FsError("EBADF", request.message.name);
      checkWritable(request);
      checkGuest(request);
      const { message, asked, open } = request;
      const writes =
        message.row.followsWrites === true ? this.#table.writesTo(open?.node ?? (asked["id"] as NodeId)) : [];
      const { keeper } = this.#state;
      const isOnce = keeper?.minds(request) === true;
      const isUnseen = message.name === "write" && open !== undefined && this.#session.absences.isUnseen(open);
      const leases = beforeLeases(request);
      if (leases !== undefined || writes.length > 0 || isOnce || isUnseen)
        return this.#startLater(request, { leases, writes }, isOnce ? keeper : undefined);
      return this.#handlers[message.name](request, asked);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  /**
   * Runs a request when others have given back the leases that are in its way, after the writes it follows, after the look at a file that a client comes back to,
   * and, with `keeper`, so that it is never done twice.
   */
  async #startLater(
    request: ServedRequest,
    { leases, writes }: { leases: Promise<unknown> | undefined; writes: readonly ServedRequest[] },
    keeper: Keeper | undefined,
  ): Promise<Record<string, unknown>> {
    if (leases !== undefined) await leases;
    if (writes.length > 0) await Promise.all(writes.map((write) => write.ended()));
    if (request.message.name === "write" && request.open !== undefined)
      await this.#session.absences.compare(request.open);
    request.throwIfCanceled();
    const run = () => this.#handlers[request.message.name](request, request.asked);
    return keeper === undefined ? run() : keeper.once(this.#table, request, run);
  }

  answered(request: ServedRequest, answer: Record<string, unknown>): void {
    const { message } = request;
    const made = message.row.handle === "made" ? (answer["handle"] as number) : 0;
    if (request.isOrphan) {
      if (made !== 0) this.#session.dropHandle(request, made);
      request.releaseReply?.();
      this.#free(request);
      return;
    }
    this.#keep(request, made, 0, answer, (served) => served.#answer(request, answer, made));
  }

  #answer(request: ServedRequest, answer: Record<string, unknown>, made: number): void {
    const { message } = request;
    const payload = request.takePayload(answer);
    if (!this.channel.isOpen || request.isOrphan) {
      if (request.isOrphan && made !== 0) this.#session.dropHandle(request, made);
      request.releaseReply?.();
      this.#free(request);
      return;
    }
    if (message.name === "write" && isWhole(request, answer)) {
      this.#written.push(request);
      if (this.#written.length === 1) process.nextTick(this.#answerWritten);
      return;
    }
    const isEmpty = payload === undefined || payload.length === 0;
    const header = this.#replyHeader(request, 0);
    if (made !== 0) {
      header.handle = made;
      stateLease(this.#session, this.#session.find(made), answer);
    }
    const release = request.releaseReply;
    try {
      if (request.isUnhurried) this.channel.sendUnhurried(header, message.reply as BodyCodec, answer);
      else if (isEmpty) this.channel.send(header, message.reply as BodyCodec, answer);
      else this.channel.send(header, message.reply as BodyCodec, answer, payload, release);
    } catch (error) {
      // The file system returned what the protocol cannot say.
      if (made !== 0) this.#session.dropHandle(request, made);
      this.failed(request, error);
      return;
    }
    if (isEmpty) release?.();
    this.#free(request);
  }

  readonly #answerWritten = (): void => {
    const requests = this.#written;
    this.#written = [];
    if (!this.channel.isOpen) {
      // Its client may be back already, and wait for the answers on another connection.
      for (const request of requests) this.#answerOn(request.connection as ServedChannel, request);
      return;
    }
    const header = { ...emptyHeader(), opcode: messages.written.row.code };
    for (let at = 0; at < requests.length; at += WRITTEN_TAGS_MAX) {
      const some = requests.slice(at, at + WRITTEN_TAGS_MAX);
      const [first] = some as [ServedRequest];
      if (some.length > 1) {
        this.channel.send(header, messages.written.request, { tags: some.map(({ tag }) => tag) });
      } else {
        const writtenBytes = payloadOf(first).length;
        this.channel.send(this.#replyHeader(first, 0), messages.write.reply, { writtenBytes });
      }
    }
    for (const request of requests) this.#free(request);
  };

  #answerOn(served: ServedChannel, request: ServedRequest): void {
    if (served === this) this.#free(request);
    else served.#answer(request, { writtenBytes: payloadOf(request).length }, 0);
  }

  failed(request: ServedRequest, error: unknown): void {
    request.releaseReply?.();
    const { name } = request.message;
    const errno = toErrno(error, (bug) => this.#state.log.error(`${name}: unexpected error`, bug));
    const status = errnoNumber(errno);
    if (request.isOrphan) {
      this.#free(request);
      return;
    }
    this.#keep(request, 0, status, undefined, (served) => {
      if (!request.isOrphan) served.channel.send(served.#replyHeader(request, status), undefined, undefined);
      served.#free(request);
    });
  }

  /** Keeps the reply of a request that must not run twice, and answers when it is kept for good, on the connection there is then. */
  #keep(
    request: ServedRequest,
    made: number,
    status: number,
    answer: Record<string, unknown> | undefined,
    send: (served: ServedChannel) => void,
  ): void {
    const { message, handle, section } = request;
    const { keeper } = this.#state;
    if (message.row.replay !== "once") {
      send(this);
      return;
    }
    const reply = { opcode: message.row.code, handle, section, made, status, answer };
    this.#table.keep(request, reply);
    if (keeper !== undefined && message.row.changes === true) keeper.changed();
    // A session that has ended meanwhile took its records with it.
    if (keeper === undefined || !isStored(request) || this.#session.isEnded) {
      send(this);
      return;
    }
    this.#table.slotOf(request.tag).isStored = true;
    keeper.replied(this.#session, this.#table.number, request.tag, reply, request.intent);
    keeper.whenKept(() => send(request.connection as ServedChannel));
  }

  /** The one header object of all replies: `send` writes it out at once. */
  #replyHeader(request: ServedRequest, status: number): FrameHeader {
    const header = this.#reply;
    header.opcode = request.message.row.code;
    header.tag = request.tag;
    header.section = request.section;
    header.handle = request.handle;
    header.status = status;
    return header;
  }

  /** The request is over: its slot, its open and the buffer of its payload are free. */
  #free(request: ServedRequest): void {
    this.#table.running -= 1;
    this.#state.counters.requests += 1;
    this.#release(request);
    if (request.message.name !== "release") request.open?.endRequest();
    if (this.#table.running > 0) return;
    if (this.#isDraining) this.close(CloseCode.SHUTDOWN, "the server is going down");
    this.#session.requestsEnded();
  }

  /** Gives back what a request has, whether or not it ran. */
  #release(request: ServedRequest): void {
    this.#table.leave(request);
    request.end();
    if (request.payloadBuffer !== undefined) this.#session.buffers.give(request.payloadBuffer);
  }
}

function payloadOf(request: ServedRequest): Buffer {
  return request.asked["payload"] as Buffer;
}

/** Whether a write wrote something, and all of it. */
function isWhole(request: ServedRequest, answer: Record<string, unknown>): boolean {
  const { length } = payloadOf(request);
  return length > 0 && answer["writtenBytes"] === length;
}
