/**
 * Bytes in, frames out: push-based, knows no messages and no sockets.
 *
 * Bytes come as chunks (`push`), or are put by a socket where `place` says (`landed`): the rest of a long payload then lands straight in
 * its destination. A frame that lies whole in a chunk is read where it lies. A header and body cut by chunk borders are gathered in a scratch
 * buffer. Other payload bytes are copied once, from the chunk to the place the receiver names. Work is linear in the bytes, however small the
 * chunks are.
 *
 * INVARIANT: nothing is allocated for a frame before its header is checked against the limits.
 */
import { ByteReader, viewOf } from "../base/byte-cursor.ts";
import { CloseCode, ProtocolError } from "../base/errors.ts";
import { emptyHeader, type FrameHeader, type FrameLimits, readHeader } from "./frame.ts";
import { HEADER_BYTES } from "./limits.ts";

/** Where a payload goes that nobody wants any more. */
export const DISCARD: Buffer = Buffer.alloc(0);

/** Told of frames in order. Header and body are borrowed: valid until the call returns. Whatever it throws leaves `push`. */
export interface FrameReceiver {
  /** A frame without payload. */
  frame(header: FrameHeader, body: ByteReader): void;
  /**
   * A frame with payload begins. Returns where its `payloadBytes` go: a buffer at least that long (lent until `payloadEnd`),
   * DISCARD, or undefined to wait: the decoder then stops until `provide`.
   */
  payloadBegin(header: FrameHeader, body: ByteReader): Buffer | undefined;
  /** The payload that began last is complete. */
  payloadEnd(): void;
}

/** Room for frames that land; what of a payload lies in it is copied out, so it is not large. */
const LANDING_BYTES = 32 * 1024;
/** Shorter rests of payloads land there too: a read of their own would cost more than copying. */
const DIRECT_BYTES_MIN = 16 * 1024;

export class FrameDecoder {
  #receiver: FrameReceiver;
  readonly #limits: FrameLimits;
  readonly #header: FrameHeader = emptyHeader();
  readonly #body = new ByteReader();
  /** Holds a header and body that came in pieces. */
  #scratch: Buffer = Buffer.allocUnsafeSlow(512);
  #scratchView: DataView = viewOf(this.#scratch);
  #gathered = 0;
  /** Whether #header is of the frame being gathered. INVARIANT: #headerKnown implies #gathered >= HEADER_BYTES */
  #headerKnown = false;
  /** Target of the payload being received. INVARIANT: #payloadLeft > 0 exactly while one is. */
  #target: Buffer = DISCARD;
  #filled = 0;
  #payloadLeft = 0;
  /** Bytes behind a frame whose receiver waits; undefined while it does not. At most one chunk. */
  #held: Buffer | undefined;
  #isStopped = false;
  /** Whether a chunk is being read: a frame is delivered from it. */
  #isReading = false;
  /** Who takes the rest of the chunk; then #isStopped. */
  #take: ((rest: Buffer) => boolean) | undefined;
  #landing: Buffer | undefined;
  #landingView: DataView | undefined;
  /** Whether `place` named the target of the payload. */
  #isDirect = false;

  /** `limits` may be changed by its owner between frames. */
  constructor(receiver: FrameReceiver, limits: FrameLimits) {
    this.#receiver = receiver;
    this.#limits = limits;
  }

  /** Whether the receiver waits; `push` must not be called until `provide`. */
  get isWaiting(): boolean {
    return this.#held !== undefined;
  }

  /** Whether the bytes so far end inside a frame. */
  get isInsideFrame(): boolean {
    return this.#gathered > 0 || this.#payloadLeft > 0 || this.#held !== undefined;
  }

  /**
   * Takes the next bytes of the stream; the chunk is the caller's again when this returns.
   *
   * @returns false if the receiver waits now.
   * @throws ProtocolError; the stream is then useless.
   */
  push(chunk: Buffer): boolean {
    if (this.#held !== undefined) throw new Error("frame decoder: pushed while waiting");
    return this.#consume(chunk, chunk.length, undefined);
  }

  /** Where the next bytes of the stream go; lent until `landed`. Not empty. */
  place(): Buffer {
    this.#isDirect = this.#target !== DISCARD && this.#payloadLeft >= DIRECT_BYTES_MIN && this.#held === undefined;
    if (this.#isDirect) return this.#target.subarray(this.#filled, this.#filled + this.#payloadLeft);
    if (this.#landing === undefined) {
      this.#landing = Buffer.allocUnsafeSlow(LANDING_BYTES);
      this.#landingView = viewOf(this.#landing);
    }
    return this.#landing;
  }

  /** `bytes` of the stream are at the start of what `place` returned last. Otherwise as `push`. */
  landed(bytes: number): boolean {
    if (this.#isStopped) return true;
    if (!this.#isDirect) return this.#consume(this.#landing as Buffer, bytes, this.#landingView);
    this.#advance(bytes);
    return true;
  }

  /** Names the target `payloadBegin` could not, and goes on with the bytes held. @returns false if the receiver waits again. */
  provide(target: Buffer): boolean {
    const held = this.#held;
    if (held === undefined) throw new Error("frame decoder: provided while not waiting");
    this.#held = undefined;
    this.#setTarget(target);
    return this.#consume(held, held.length, undefined);
  }

  /**
   * The rest of the payload being received is thrown away.
   *
   * @returns whether its target is lent as a place at this moment: it is its owner's again only when the place was asked for anew.
   */
  divert(): boolean {
    const isLent = this.#isDirect && this.#target !== DISCARD;
    this.#target = DISCARD;
    return isLent;
  }

  /** Frames from the next one on go to `receiver`. */
  handOver(receiver: FrameReceiver): void {
    this.#receiver = receiver;
  }

  /**
   * Behind the frame that is delivered, or was last, the stream is of another form: the rest of the chunk goes to `take`, whose result the present
   * `push` or `landed` returns. Frames go on with what is pushed from then on.
   *
   * @returns whether a frame is being delivered; if none is there is no rest, and a place asked for before must not be used any more.
   * @throws ProtocolError STATE a frame has begun already.
   */
  leaveTo(take: (rest: Buffer) => boolean): boolean {
    if (this.isInsideFrame) throw new ProtocolError(CloseCode.STATE, "a frame that came too early");
    if (!this.#isReading) return false;
    this.#take = take;
    this.#isStopped = true;
    return true;
  }

  /** Nothing more is delivered, not even from the chunk being read; otherwise as `divert`. */
  stop(): boolean {
    this.#isStopped = true;
    this.#take = undefined;
    return this.divert();
  }

  #setTarget(target: Buffer): void {
    if (target !== DISCARD && target.length < this.#payloadLeft) throw new Error("frame decoder: target too short");
    this.#target = target;
  }

  #consume(chunk: Buffer, end: number, chunkView: DataView | undefined): boolean {
    let view = chunkView;
    let at = 0;
    this.#isReading = true;
    while (at < end && !this.#isStopped) {
      if (this.#payloadLeft > 0) {
        at = this.#fill(chunk, at, end);
      } else if (this.#gathered > 0 || end - at < HEADER_BYTES) {
        at = this.#gather(chunk, at, end);
      } else {
        view ??= viewOf(chunk);
        readHeader(view, at, this.#header, this.#limits);
        const bodyAt = at + HEADER_BYTES;
        if (end - bodyAt < this.#header.bodyBytes) {
          at = this.#gather(chunk, at, end);
        } else {
          at = bodyAt + this.#header.bodyBytes;
          this.#deliver(this.#body.reset(chunk, view, bodyAt, at));
        }
      }
      if (this.#held !== undefined) {
        this.#held = Buffer.from(chunk.subarray(at, end));
        this.#isReading = false;
        return false;
      }
    }
    this.#isReading = false;
    const take = this.#take;
    if (take === undefined) return true;
    this.#take = undefined;
    this.#isStopped = false;
    return at === end || take(chunk.subarray(at, end));
  }

  /** Copies payload; returns where it stops. */
  #fill(chunk: Buffer, at: number, end: number): number {
    const bytes = Math.min(this.#payloadLeft, end - at);
    if (this.#target !== DISCARD) chunk.copy(this.#target, this.#filled, at, at + bytes);
    this.#advance(bytes);
    return at + bytes;
  }

  /** `bytes` more of the payload are in its place. */
  #advance(bytes: number): void {
    this.#filled += bytes;
    this.#payloadLeft -= bytes;
    if (this.#payloadLeft === 0) {
      this.#target = DISCARD;
      this.#receiver.payloadEnd();
    }
  }

  /** Adds to a header and body in pieces; returns where it stops. */
  #gather(chunk: Buffer, start: number, end: number): number {
    let at = start;
    if (!this.#headerKnown) {
      at = this.#append(chunk, at, end, HEADER_BYTES);
      if (this.#gathered < HEADER_BYTES) return at;
      readHeader(this.#scratchView, 0, this.#header, this.#limits);
      this.#headerKnown = true;
      this.#reserve(HEADER_BYTES + this.#header.bodyBytes);
    }
    const wanted = HEADER_BYTES + this.#header.bodyBytes;
    at = this.#append(chunk, at, end, wanted);
    if (this.#gathered < wanted) return at;
    this.#gathered = 0;
    this.#headerKnown = false;
    this.#deliver(this.#body.reset(this.#scratch, this.#scratchView, HEADER_BYTES, wanted));
    return at;
  }

  #append(chunk: Buffer, at: number, end: number, wanted: number): number {
    const bytes = Math.min(wanted - this.#gathered, end - at);
    chunk.copy(this.#scratch, this.#gathered, at, at + bytes);
    this.#gathered += bytes;
    return at + bytes;
  }

  /** Grows the scratch; `bytes` is bounded by the limits, which were checked. */
  #reserve(bytes: number): void {
    if (bytes <= this.#scratch.length) return;
    const grown = Buffer.allocUnsafeSlow(Math.max(bytes, 2 * this.#scratch.length));
    this.#scratch.copy(grown, 0, 0, this.#gathered);
    this.#scratch = grown;
    this.#scratchView = viewOf(grown);
  }

  #deliver(body: ByteReader): void {
    const { payloadBytes } = this.#header;
    if (payloadBytes === 0) {
      this.#receiver.frame(this.#header, body);
      return;
    }
    const target = this.#receiver.payloadBegin(this.#header, body);
    this.#filled = 0;
    this.#payloadLeft = payloadBytes;
    if (target === undefined) this.#held = DISCARD;
    else this.#setTarget(target);
  }
}

/** Checks that a body was read to its end. @throws ProtocolError MALFORMED. */
export function expectEnd(body: ByteReader): void {
  if (body.offset !== body.end) throw new ProtocolError(CloseCode.MALFORMED, "body is longer than its fields");
}
