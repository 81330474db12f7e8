/**
 * A ready channel on the server: takes requests, runs them, answers them in the order they end, and writes that end together with one notice.
 *
 * It keeps the requests under way by the slot of their tag, so that one beyond the credits, or a tag used twice, is seen at once. When the channel
 * ends its requests are aborted; what they hold is given back when they settle.
 */
import type { ByteReader } from "../base/byte-cursor.ts";
import { errnoNumber } from "../base/errno.ts";
import { CloseCode, FsError, ProtocolError, toErrno } from "../base/errors.ts";
import type { Channel, ChannelReceiver } from "../transport/channel.ts";
import type { Caller } from "../vfs/file-system.ts";
import { type BodyCodec, checkRequest, type Message, messageOf, messages } from "../wire/codec.ts";
import { emptyHeader, type FrameHeader } from "../wire/frame.ts";
import { WRITTEN_TAGS_MAX } from "../wire/limits.ts";
import { type CallName, FLAG_REPLY, type Handlers } from "../wire/messages.ts";
import { checkCall, checkWritable } from "./dispatch.ts";
import { ServedRequest } from "./served-request.ts";
import type { Session, SessionChannel } from "./session.ts";
import { squashCaller } from "./squash.ts";
import type { ServerState } from "./state.ts";

const NOTHING = Buffer.alloc(0);
const SLOT_MASK = 0xffff;

type AnyHandler = (ctx: ServedRequest, asked: Record<string, unknown>) => Promise<Record<string, unknown>>;

export class ServedChannel implements ChannelReceiver, SessionChannel {
  readonly #channel: Channel;
  readonly #session: Session;
  readonly #state: ServerState;
  readonly #handlers: Readonly<Record<CallName, AnyHandler>>;
  /** By slot. INVARIANT: #inFlightCount of them are set. */
  readonly #inFlight: (ServedRequest | undefined)[];
  #inFlightCount = 0;
  /** Writes that wrote all their bytes, in this turn of the event loop; to be answered at its end. Bounded by the credits. */
  #written: ServedRequest[] = [];
  /** The request whose payload is being received, or waits for a buffer. */
  #receiving: ServedRequest | undefined;
  #giveUpBuffer: (() => void) | undefined;
  #isDraining = false;
  /** The client said that it goes for good. */
  #isFinal = false;
  readonly #isIo: boolean;
  readonly #onClosed: () => void;
  #lastRawCaller: Caller | undefined;
  #lastCaller: Caller | undefined;
  readonly #reply: FrameHeader = { ...emptyHeader(), flags: FLAG_REPLY };

  constructor(parts: {
    channel: Channel;
    session: Session;
    state: ServerState;
    handlers: Handlers<ServedRequest>;
    credits: number;
    /** An io channel takes sections only. */
    isIo: boolean;
    onClosed: () => void;
  }) {
    this.#channel = parts.channel;
    this.#session = parts.session;
    this.#state = parts.state;
    this.#handlers = parts.handlers as unknown as Readonly<Record<CallName, AnyHandler>>;
    this.#inFlight = new Array<ServedRequest | undefined>(parts.credits).fill(undefined);
    this.#isIo = parts.isIo;
    this.#onClosed = parts.onClosed;
    this.#session.addChannel(this);
  }

  /** Lets the requests under way end, then closes. */
  drain(): void {
    this.#isDraining = true;
    if (this.#inFlightCount === 0) this.close(CloseCode.SHUTDOWN, "the server is going down");
  }

  close(code: number, text: string): void {
    this.#channel.close({ code, text });
  }

  frame(header: FrameHeader, body: ByteReader): void {
    const message = messageOf(header.opcode);
    checkRequest(message, header, "client");
    if (message.row.reply === undefined) {
      this.#notice(message, body);
      return;
    }
    const request = this.#begin(message, header, body);
    if (message.row.payload === "request") request.asked["payload"] = NOTHING;
    this.#run(request);
  }

  payloadBegin(header: FrameHeader, body: ByteReader): Buffer | undefined {
    const message = messageOf(header.opcode);
    checkRequest(message, header, "client");
    const request = this.#begin(message, header, body);
    this.#receiving = request;
    const { payloadBytes } = header;
    const { buffers } = this.#session;
    const target = buffers.tryTake(payloadBytes);
    if (target === undefined) {
      this.#giveUpBuffer = buffers.take(payloadBytes, (buffer) => {
        this.#giveUpBuffer = undefined;
        this.#lendPayload(request, buffer, payloadBytes);
        this.#channel.provide(buffer);
      });
      return undefined;
    }
    this.#lendPayload(request, target, payloadBytes);
    return target;
  }

  payloadEnd(): void {
    const request = this.#receiving as ServedRequest;
    this.#receiving = undefined;
    this.#run(request);
  }

  closed(error: Error | undefined): void {
    if (error instanceof ProtocolError) {
      this.#state.blame(`${this.#channel.peer} (share '${this.#session.share.name}') closed: ${error.message}`);
    } else if (error !== undefined && error.name !== "ConnectionError") {
      this.#state.log.error(`${this.#channel.peer}: channel failed`, error);
    }
    this.#giveUpBuffer?.();
    const receiving = this.#receiving;
    this.#receiving = undefined;
    if (receiving !== undefined) this.#free(receiving);
    for (const request of this.#inFlight) request?.cancel();
    this.#session.removeChannel(this, this.#isFinal);
    this.#onClosed();
  }

  #notice(message: Message, body: ByteReader): void {
    if (message.name === "cancel") {
      const { canceledTag } = messages.cancel.request.read(body);
      const request = this.#inFlight[canceledTag & SLOT_MASK];
      if (request?.tag === canceledTag) request.cancel();
    } else if (message.name === "forget") {
      const { ids } = messages.forget.request.read(body);
      this.#session.share.fileSystem.forget(ids);
    } else {
      const { code } = messages.goodbye.request.read(body);
      this.#isFinal = code === 0;
      this.#channel.close({ code: 0, text: "goodbye" });
    }
  }

  /** Decodes a request and gives it its slot. @throws ProtocolError. */
  #begin(message: Message, header: FrameHeader, body: ByteReader): ServedRequest {
    if (message.row.phase !== "ready") {
      throw new ProtocolError(CloseCode.STATE, `${message.name}: set-up is over`);
    }
    if (this.#isIo && message.row.sections !== true) {
      throw new ProtocolError(CloseCode.STATE, `${message.name}: not on an io channel`);
    }
    const slot = header.tag & SLOT_MASK;
    if (slot >= this.#inFlight.length) throw new ProtocolError(CloseCode.LIMIT, `${message.name}: beyond the credits`);
    if (this.#inFlight[slot] !== undefined) {
      throw new ProtocolError(CloseCode.STATE, `${message.name}: the tag's slot is in use`);
    }
    const asked = (message.request as BodyCodec).read(body) as Record<string, unknown>;
    checkCall(message.name as CallName, asked, header.payloadBytes, this.#session.sectionBytes);
    const open = header.handle === 0 ? undefined : this.#session.find(header.handle);
    const request = new ServedRequest({
      message: message as unknown as Message<CallName>,
      session: this.#session,
      channel: this.#channel,
      tag: header.tag,
      section: header.section,
      handle: header.handle,
      caller: this.#squash(asked["caller"] as Caller | undefined),
      open,
      asked,
    });
    this.#inFlight[slot] = request;
    this.#inFlightCount += 1;
    // A release waits for the requests on its open, itself not among them.
    if (open !== undefined && message.name !== "release") open.beginRequest();
    return request;
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
    this.#start(request).then(
      (answer) => this.#answered(request, answer),
      (error: unknown) => this.#failed(request, error),
    );
  }

  #start(request: ServedRequest): Promise<Record<string, unknown>> {
    try {
      request.throwIfCanceled();
      if (request.handle !== 0 && request.open === undefined) throw new FsError("EBADF", request.message.name);
      checkWritable(request);
      return this.#handlers[request.message.name](request, request.asked);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  #answered(request: ServedRequest, answer: Record<string, unknown>): void {
    const { message } = request;
    if (message.name === "write" && isWhole(request, answer)) {
      this.#written.push(request);
      if (this.#written.length === 1) process.nextTick(this.#answerWritten);
      return;
    }
    const made = message.row.handle === "made" ? (answer["handle"] as number) : 0;
    if (!this.#channel.isOpen) {
      if (made !== 0) this.#session.dropHandle(request, made);
      request.releaseReply?.();
      this.#free(request);
      return;
    }
    const payload = message.row.payload === "reply" ? (answer["payload"] as Buffer) : undefined;
    const isEmpty = payload === undefined || payload.length === 0;
    const header = this.#replyHeader(request, 0);
    if (made !== 0) header.handle = made;
    const release = request.releaseReply;
    try {
      if (isEmpty) this.#channel.send(header, message.reply as BodyCodec, answer);
      else this.#channel.send(header, message.reply as BodyCodec, answer, payload, release);
    } catch (error) {
      // The file system returned what the protocol cannot say.
      if (made !== 0) this.#session.dropHandle(request, made);
      this.#failed(request, error);
      return;
    }
    if (isEmpty) release?.();
    this.#free(request);
  }

  readonly #answerWritten = (): void => {
    const requests = this.#written;
    this.#written = [];
    const header = { ...emptyHeader(), opcode: messages.written.row.code };
    for (let at = 0; at < requests.length; at += WRITTEN_TAGS_MAX) {
      const some = requests.slice(at, at + WRITTEN_TAGS_MAX);
      const [first] = some as [ServedRequest];
      if (some.length > 1) {
        this.#channel.send(header, messages.written.request, { tags: some.map(({ tag }) => tag) });
      } else {
        const writtenBytes = payloadOf(first).length;
        this.#channel.send(this.#replyHeader(first, 0), messages.write.reply, { writtenBytes });
      }
    }
    for (const request of requests) this.#free(request);
  };

  #failed(request: ServedRequest, error: unknown): void {
    request.releaseReply?.();
    const { name } = request.message;
    const errno = toErrno(error, (bug) => this.#state.log.error(`${name}: unexpected error`, bug));
    this.#channel.send(this.#replyHeader(request, errnoNumber(errno)), undefined, undefined);
    this.#free(request);
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
    this.#inFlight[request.tag & SLOT_MASK] = undefined;
    this.#inFlightCount -= 1;
    this.#state.counters.requests += 1;
    if (request.open !== undefined && request.message.name !== "release") request.open.endRequest();
    if (request.payloadBuffer !== undefined) this.#session.buffers.give(request.payloadBuffer);
    if (this.#isDraining && this.#inFlightCount === 0) this.close(CloseCode.SHUTDOWN, "the server is going down");
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
