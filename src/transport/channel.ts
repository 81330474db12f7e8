/**
 * A channel: frames over a byte link.
 *
 * It encodes, batches, sends and decodes; it knows no message but `goodbye` and keeps no session. All frames sent in one tick leave in one write,
 * with those in no hurry that came before. Header, body and small payloads are copied into a slab of the channel, other payloads are sent from where
 * they are. One write is under way at a time and holds at most WRITE_BATCH_BYTES_MAX beyond its first chunk, so that little memory of others is ever
 * in the kernel's hands.
 *
 * A channel may be told to sign (record-signing.ts): then what is behind the set-up travels in records, and frames begin and end in them wherever they do.
 *
 * States: open -> closing (we said why, or the peer did; what was queued still leaves, what arrives is dropped) -> gone. `receiver.closed` is called
 * once, when the channel leaves open.
 */
import { ByteWriter } from "../base/byte-cursor.ts";
import type { Clock, Timer } from "../base/clock.ts";
import { ConnectionError, ProtocolError } from "../base/errors.ts";
import { type BodyCodec, messages } from "../wire/codec.ts";
import { beginFrame, emptyHeader, endFrame, type FrameHeader, type FrameLimits } from "../wire/frame.ts";
import { FrameDecoder, type FrameReceiver } from "../wire/frame-decoder.ts";
import { HEADER_BYTES, REASON_BYTES_MAX, SETUP_BODY_BYTES_MAX } from "../wire/limits.ts";
import type { ByteLink } from "./byte-link.ts";
import { RecordOpener, RecordSealer, type SigningKeys, sealedBytes } from "./record-signing.ts";
import { type Trace, tracedReceiver, traceSent } from "./trace.ts";

const SLAB_BYTES = 64 * 1024;
const WRITE_BATCH_BYTES_MAX = 1024 * 1024;
/** Payloads up to this travel in the slab: copying them costs less than one more piece in a write. */
const COPIED_PAYLOAD_BYTES_MAX = 8192;
/** How long a frame nobody waits for waits for company: from once to twice as long. */
const UNHURRIED_MS = 2;
/** How long a closing channel waits for the peer to take our last frames and to close. */
const LINGER_MS = 2000;

export interface ChannelReceiver extends FrameReceiver {
  /**
   * No frame follows. `error` is a ProtocolError (the peer's violation, already told to it), a ConnectionError (the link is gone, or, with a
   * ProtocolError as its cause, harmed what the peer sent), undefined (we closed), or whatever else the receiver threw.
   */
  closed(error: Error | undefined): void;
}

/** Why a channel is closed, as `goodbye` says it. Code 0: as planned. */
export interface CloseReason {
  readonly code: number;
  readonly text: string;
}

interface Chunk {
  bytes: Buffer;
  /** Whether it is in a slab: memory of the channel, which nobody counts but the channel. */
  readonly isOwn: boolean;
  readonly sent: (() => void) | undefined;
}

/** The longest prefix of `text` that fits a reason. */
function reasonText(text: string): string {
  let end = Math.min(text.length, REASON_BYTES_MAX);
  while (Buffer.byteLength(text.slice(0, end)) > REASON_BYTES_MAX) end -= 1;
  return text.slice(0, end);
}

export class Channel {
  readonly #link: ByteLink;
  readonly #clock: Clock;
  readonly #sendBytesMax: number;
  readonly #ownBytesMax: number;
  readonly #trace: Trace | undefined;
  readonly #limits: FrameLimits = { bodyBytesMax: SETUP_BODY_BYTES_MAX, payloadBytesMax: 0 };
  #decoder: FrameDecoder | undefined;
  /** What takes the bytes that come: the decoder, or what is in front of it. */
  #intake: FrameDecoder | RecordOpener | undefined;
  #sealer: RecordSealer | undefined;
  /** How many chunks at the head of the queue leave unsigned although the channel signs. */
  #unsigned = 0;
  #receiver: ChannelReceiver | undefined;
  #state: "open" | "closing" | "gone" = "open";
  #linger: Timer | undefined;

  #slab = new ByteWriter(Buffer.allocUnsafeSlow(SLAB_BYTES));
  /** Where the part of the slab begins that is not in the queue yet. INVARIANT: #segmentAt <= #slab.offset */
  #segmentAt = 0;
  #queue: Chunk[] = [];
  #inFlight: Chunk[] = [];
  #queuedBytes = 0;
  #inFlightBytes = 0;
  /** Of both, what is in slabs. */
  #ownBytes = 0;
  #flushIsDue = false;
  /** Frames in no hurry that have no company yet: the timer under way is theirs, or was begun for frames that have left since. */
  #unhurried: "none" | "timed" | "late" = "none";
  #unhurriedTimer: Timer | undefined;
  /** Whether the link is paused because too much is unsent. */
  #isHeldUp = false;
  #drainWaiters: (() => void)[] = [];
  #gone: () => void = () => {};

  /** Settles when the link is gone. */
  readonly gone: Promise<void>;
  /** Bytes received and sent since the start, headers included. */
  receivedBytes = 0;
  sentBytes = 0;

  /**
   * `sendBytesMax`: beyond this much unsent, the channel calls itself congested. Senders who can wait then do, and nothing is read from a peer that
   * takes nothing, so that what it makes us say is bounded. `ownBytesMax`: the same for what is in the channel's slabs, as pings are, where no pool
   * counts it. Only one of two peers may have such bounds (the server), or both could wait for each other; the other one is bounded by its credits.
   */
  constructor(
    link: ByteLink,
    options: { clock: Clock; sendBytesMax: number; ownBytesMax?: number; trace?: Trace | undefined },
  ) {
    this.#link = link;
    this.#clock = options.clock;
    this.#trace = options.trace;
    this.#sendBytesMax = options.sendBytesMax;
    this.#ownBytesMax = options.ownBytesMax ?? Number.POSITIVE_INFINITY;
    this.gone = new Promise((resolve) => {
      this.#gone = resolve;
    });
  }

  get peer(): string {
    return this.#link.peer;
  }

  /** See ByteLink. */
  get address(): string {
    return this.#link.address;
  }

  /** See ByteLink. */
  get binding(): Buffer {
    return this.#link.binding;
  }

  /** See ByteLink. */
  get cipher(): string {
    return this.#link.cipher;
  }

  get isOpen(): boolean {
    return this.#state === "open";
  }

  /** Begins to receive. Before `accept` only set-up frames pass. */
  start(receiver: ChannelReceiver): void {
    this.#receiver = receiver;
    const decoder = new FrameDecoder(this.#traced(receiver), this.#limits);
    this.#decoder = decoder;
    this.#intake = decoder;
    const intake = () => this.#intake as FrameDecoder | RecordOpener;
    this.#link.start({
      data: (chunk) => this.#received(chunk.length, () => intake().push(chunk)),
      place: () => intake().place(),
      landed: (bytes) => this.#received(bytes, () => intake().landed(bytes)),
      closed: (error) => this.#linkClosed(error),
    });
  }

  /**
   * From here on both sides sign: we behind what is queued, the peer behind the frame being delivered, or the last one. Once; for links that are not
   * encrypted.
   */
  sign(keys: SigningKeys): void {
    const decoder = this.#decoder;
    if (this.#state !== "open" || decoder === undefined) return;
    this.#closeSegment();
    this.#unsigned = this.#queue.length;
    this.#sealer = new RecordSealer(keys.ours);
    const opener = new RecordOpener(keys.theirs, this.peer, decoder);
    this.#intake = opener;
    this.#guard(() => {
      if (!decoder.leaveTo((rest) => opener.push(rest))) this.#link.withdraw();
      return true;
    });
  }

  /** Hands what follows to another receiver; called inside a `frame` of the present one. */
  handOver(receiver: ChannelReceiver): void {
    this.#receiver = receiver;
    this.#decoder?.handOver(this.#traced(receiver));
  }

  #traced(receiver: ChannelReceiver): FrameReceiver {
    return this.#trace === undefined ? receiver : tracedReceiver(receiver, this.#trace);
  }

  /** From the next frame on, bodies and payloads up to these sizes are accepted. */
  accept(limits: FrameLimits): void {
    this.#limits.bodyBytesMax = limits.bodyBytesMax;
    this.#limits.payloadBytesMax = limits.payloadBytesMax;
  }

  /**
   * Queues a frame; it leaves in this tick unless the link is busy. `payloadBytes` of `header` is filled in. The payload is borrowed until `sent` is
   * called, which happens exactly once, perhaps before this returns, also if the channel dies or is not open.
   */
  send<T>(header: FrameHeader, codec: BodyCodec<T> | undefined, values: T, payload?: Buffer, sent?: () => void): void {
    if (this.#state !== "open") {
      sent?.();
      return;
    }
    this.#encode(header, codec, values, payload, sent);
    this.#flushSoon();
    this.#holdUp();
  }

  /** As `send`, for a frame nobody waits for: it leaves with the next other one, or after some ms, and so wakes nobody up by itself. */
  sendUnhurried<T>(header: FrameHeader, codec: BodyCodec<T> | undefined, values: T): void {
    if (this.#state !== "open") return;
    this.#encode(header, codec, values, undefined, undefined);
    this.#holdUp();
    if (this.#flushIsDue || this.#inFlight.length > 0 || this.#unhurried !== "none") return;
    if (this.#unhurriedTimer === undefined) this.#timeUnhurried();
    else this.#unhurried = "late";
  }

  /** One timer for many frames: making and stopping one for each costs more than encoding it. */
  #timeUnhurried(): void {
    this.#unhurried = "timed";
    this.#unhurriedTimer = this.#clock.after(UNHURRIED_MS, this.#unhurriedIsDue, { keepAlive: true });
  }

  readonly #unhurriedIsDue = (): void => {
    this.#unhurriedTimer = undefined;
    if (this.#unhurried === "late") this.#timeUnhurried();
    else if (this.#unhurried === "timed") this.#flush();
  };

  /** Whether more is waiting to be sent than is good. */
  get isCongested(): boolean {
    return this.#queuedBytes + this.#inFlightBytes > this.#sendBytesMax;
  }

  /** Whether nothing is to be read meanwhile. */
  get #isFull(): boolean {
    return this.isCongested || this.#ownBytes > this.#ownBytesMax;
  }

  #holdUp(): void {
    if (this.#isHeldUp || !this.#isFull) return;
    this.#isHeldUp = true;
    this.#link.pause();
  }

  /** Bytes that were sent here and not taken by the link yet. */
  get unsentBytes(): number {
    return this.#queuedBytes + this.#inFlightBytes;
  }

  /** Settles when the channel is not congested, or not open. */
  drained(): Promise<void> {
    if (!this.isCongested || this.#state !== "open") return Promise.resolve();
    return new Promise((resolve) => this.#drainWaiters.push(resolve));
  }

  /**
   * Takes a payload back before it was sent: what is still queued is replaced by a copy, so that the frame stays whole.
   *
   * @returns false if the kernel has it now; its `sent` says when it is free.
   */
  reclaim(payload: Buffer): boolean {
    if (this.#inFlight.some((chunk) => chunk.bytes === payload)) return false;
    const queued = this.#queue.find((chunk) => chunk.bytes === payload);
    if (queued !== undefined) queued.bytes = Buffer.from(payload);
    return true;
  }

  /** Whether the receiver returned undefined from `payloadBegin`; the link is paused meanwhile. */
  get isWaiting(): boolean {
    return this.#decoder?.isWaiting ?? false;
  }

  /** Goes on after `payloadBegin` returned undefined. */
  provide(target: Buffer): void {
    if (this.#state !== "open") return;
    if (this.#guard(() => this.#intake?.provide(target) ?? true)) this.#resume();
  }

  /** The rest of the payload being received is dropped; its target is not written to from now on. */
  divert(): void {
    if (this.#decoder?.divert() === true) this.#link.withdraw();
  }

  /** Says goodbye, lets leave what is queued, and closes. */
  close(reason: CloseReason): void {
    this.#closeWith(reason, undefined);
  }

  /** Closes at once, without a word. */
  destroy(): void {
    this.#leaveOpen(undefined);
    this.#link.destroy();
  }

  #closeWith(reason: CloseReason, error: Error | undefined): void {
    if (this.#state !== "open") return;
    const header = { ...emptyHeader(), opcode: messages.goodbye.row.code };
    const values = { code: reason.code, reason: reasonText(reason.text) };
    this.#encode(header, messages.goodbye.request, values, undefined, undefined);
    this.#leaveOpen(error);
  }

  #encode<T>(
    header: FrameHeader,
    codec: BodyCodec<T> | undefined,
    values: T,
    payload: Buffer | undefined,
    sent: (() => void) | undefined,
  ): void {
    const payloadBytes = payload?.length ?? 0;
    const isCopied = payloadBytes <= COPIED_PAYLOAD_BYTES_MAX;
    const bytesMax = HEADER_BYTES + (codec?.bytesMax ?? 0) + (isCopied ? payloadBytes : 0);
    if (SLAB_BYTES - this.#slab.offset < bytesMax) this.#newSlab(bytesMax);
    const slab = this.#slab;
    const start = beginFrame(slab);
    try {
      codec?.write(slab, values);
    } catch (error) {
      slab.offset = start;
      throw error;
    }
    header.payloadBytes = payloadBytes;
    endFrame(slab, start, header);
    if (this.#trace !== undefined) {
      traceSent(this.#trace, header, slab.buffer, slab.view, start + HEADER_BYTES, slab.offset);
    }
    if (payload !== undefined && isCopied) slab.bytes(payload);
    this.#queuedBytes += slab.offset - start;
    this.#ownBytes += slab.offset - start;
    if (payload === undefined || isCopied) {
      sent?.();
      return;
    }
    this.#closeSegment();
    this.#queue.push({ bytes: payload, isOwn: false, sent });
    this.#queuedBytes += payloadBytes;
  }

  /** The old slab lives on as long as chunks of it are queued. */
  #newSlab(bytes: number): void {
    this.#closeSegment();
    this.#slab = new ByteWriter(Buffer.allocUnsafeSlow(Math.max(SLAB_BYTES, bytes)));
    this.#segmentAt = 0;
  }

  #closeSegment(): void {
    const { buffer, offset } = this.#slab;
    if (offset === this.#segmentAt) return;
    this.#queue.push({ bytes: buffer.subarray(this.#segmentAt, offset), isOwn: true, sent: undefined });
    this.#segmentAt = offset;
  }

  #flushSoon(): void {
    if (this.#flushIsDue || this.#inFlight.length > 0) return;
    this.#flushIsDue = true;
    process.nextTick(this.#flush);
  }

  readonly #flush = (): void => {
    this.#flushIsDue = false;
    this.#unhurried = "none";
    if (this.#state === "gone" || this.#inFlight.length > 0) return;
    this.#closeSegment();
    const queue = this.#queue;
    if (queue.length === 0) return;
    let count = 0;
    let bytes = 0;
    const countMax = this.#unsigned === 0 ? queue.length : this.#unsigned;
    while (count < countMax && (count === 0 || bytes < WRITE_BATCH_BYTES_MAX)) {
      bytes += (queue[count] as Chunk).bytes.length;
      count += 1;
    }
    this.#inFlight = count === queue.length ? queue : queue.slice(0, count);
    this.#queue = count === queue.length ? [] : queue.slice(count);
    this.#inFlightBytes = bytes;
    this.#queuedBytes -= bytes;
    const chunks = this.#inFlight.map((chunk) => chunk.bytes);
    if (this.#sealer === undefined || this.#unsigned > 0) {
      if (this.#unsigned > 0) this.#unsigned -= count;
      this.sentBytes += bytes;
      this.#link.write(chunks, this.#sent);
    } else {
      this.sentBytes += sealedBytes(bytes);
      this.#link.write(this.#sealer.seal(chunks, bytes), this.#sent);
    }
  };

  readonly #sent = (): void => {
    const chunks = this.#inFlight;
    this.#inFlight = [];
    this.#inFlightBytes = 0;
    if (this.#queue.length === 0 && this.#segmentAt === this.#slab.offset) {
      this.#slab.offset = 0;
      this.#segmentAt = 0;
    }
    for (const chunk of chunks) {
      if (chunk.isOwn) this.#ownBytes -= chunk.bytes.length;
      chunk.sent?.();
    }
    if (this.#drainWaiters.length > 0 && !this.isCongested) this.#wakeDrainWaiters();
    if (this.#isHeldUp && !this.#isFull) {
      this.#isHeldUp = false;
      this.#resume();
    }
    if (this.#queuedBytes > 0) this.#flush();
    else if (this.#state === "closing" && this.#inFlight.length === 0) this.#link.end();
  };

  #wakeDrainWaiters(): void {
    const waiters = this.#drainWaiters;
    this.#drainWaiters = [];
    for (const wake of waiters) wake();
  }

  /** Reads on, unless somebody still wants to wait. */
  #resume(): void {
    if (!this.#isHeldUp && !this.isWaiting) this.#link.resume();
  }

  #received(bytes: number, decode: () => boolean): void {
    this.receivedBytes += bytes;
    if (this.#state === "open" && !this.#guard(decode)) this.#link.pause();
  }

  /** Runs the decoder; a violation is told to the peer and ends the channel. @returns false if the receiver waits. */
  #guard(decode: () => boolean): boolean {
    try {
      return decode();
    } catch (error) {
      const violation = error instanceof ConnectionError ? error.cause : error;
      const reason = error instanceof Error ? error : new Error(String(error));
      if (violation instanceof ProtocolError) {
        this.#closeWith({ code: violation.closeCode, text: violation.message }, reason);
      } else this.#leaveOpen(reason);
      return true;
    }
  }

  /** The one way out of open. */
  #leaveOpen(error: Error | undefined): void {
    if (this.#state !== "open") return;
    this.#state = "closing";
    this.#unhurried = "none";
    this.#unhurriedTimer?.stop();
    if (this.#decoder?.stop() === true) this.#link.withdraw();
    this.#wakeDrainWaiters();
    // The peer may keep its side open for ever.
    this.#linger = this.#clock.after(LINGER_MS, () => this.#link.destroy());
    if (this.#queuedBytes > 0) this.#flushSoon();
    else if (this.#inFlight.length === 0) this.#link.end();
    // What arrives is dropped, but it must be read for the peer's end to be seen.
    this.#link.resume();
    this.#receiver?.closed(error);
  }

  #linkClosed(error: Error | undefined): void {
    if (this.#state === "gone") return;
    const isCut = this.#intake?.isInsideFrame === true;
    const text = error === undefined ? `connection closed by ${this.peer}` : `connection to ${this.peer} lost`;
    this.#leaveOpen(new ConnectionError(isCut ? `${text} inside a frame` : text, { retryable: true, cause: error }));
    this.#state = "gone";
    this.#linger?.stop();
    this.#unhurriedTimer?.stop();
    const chunks = [...this.#inFlight, ...this.#queue];
    this.#inFlight = [];
    this.#queue = [];
    this.#queuedBytes = 0;
    this.#inFlightBytes = 0;
    this.#ownBytes = 0;
    for (const chunk of chunks) chunk.sent?.();
    this.#wakeDrainWaiters();
    this.#gone();
  }
}
