/**
 * Signed records: what the stream of a signed channel is cut into behind its set-up, in each direction by itself.
 *
 * A record is its length (u32), that many bytes of the stream, and a tag: AES-128-GMAC of the bytes with the sender's key and the number of the record,
 * which is not sent. So a record that was changed, left out, repeated, moved or put in is found when its tag has come, and nothing of it is passed on. It
 * hides nothing, and frames mean nothing to it: a record ends wherever a write did.
 *
 * Bytes are copied once more than on a plain channel, from the record to where they belong: they cannot go there before they are known to be right. From a
 * buffer as short as a record, which stays in the processor's cache, that costs less than the tag.
 */
import { createCipheriv, createSecretKey, type KeyObject, timingSafeEqual } from "node:crypto";
import { viewOf } from "../base/byte-cursor.ts";
import { CloseCode, ConnectionError, ProtocolError } from "../base/errors.ts";
import { RECORD_BYTES_MAX, RECORD_LENGTH_BYTES, RECORD_TAG_BYTES } from "../wire/limits.ts";

const ALGORITHM = "aes-128-gcm";
const NONCE_BYTES = 12;
/** Of the number of a record in the nonce: the rest stays 0. */
const NUMBER_BYTES = 6;
const WHOLE_BYTES_MAX = RECORD_LENGTH_BYTES + RECORD_BYTES_MAX + RECORD_TAG_BYTES;

/** What the two sides of a channel sign with; never the same. */
export interface SigningKeys {
  readonly ours: Buffer;
  readonly theirs: Buffer;
}

/** Where the bytes of the stream go: a frame decoder. */
interface Stream {
  push(chunk: Buffer): boolean;
  provide(target: Buffer): boolean;
  readonly isInsideFrame: boolean;
}

/** Tags of the records of one direction, in order. */
class Signer {
  readonly #key: KeyObject;
  readonly #nonce = Buffer.alloc(NONCE_BYTES);
  #number = 0;

  constructor(key: Buffer) {
    this.#key = createSecretKey(key);
  }

  /** The tag of the next record. */
  tagOf(parts: readonly Buffer[]): Buffer {
    this.#nonce.writeUIntLE(this.#number, 0, NUMBER_BYTES);
    this.#number += 1;
    const cipher = createCipheriv(ALGORITHM, this.#key, this.#nonce);
    for (const part of parts) cipher.setAAD(part);
    cipher.final();
    return cipher.getAuthTag();
  }
}

/** How many bytes go over the line for `bytes` of the stream that are sealed at once. */
export function sealedBytes(bytes: number): number {
  return bytes + Math.ceil(bytes / RECORD_BYTES_MAX) * (RECORD_LENGTH_BYTES + RECORD_TAG_BYTES);
}

/** Makes records of what is sent. */
export class RecordSealer {
  readonly #signer: Signer;

  constructor(key: Buffer) {
    this.#signer = new Signer(key);
  }

  /** The next `bytes` of the stream, which are those of `chunks`, as records: in pieces, of which those with the bytes are parts of `chunks`. */
  seal(chunks: readonly Buffer[], bytes: number): Buffer[] {
    const pieces: Buffer[] = [];
    let index = 0;
    let at = 0;
    for (let left = bytes; left > 0; ) {
      const recordBytes = Math.min(left, RECORD_BYTES_MAX);
      left -= recordBytes;
      const parts: Buffer[] = [];
      for (let wanted = recordBytes; wanted > 0; ) {
        const chunk = chunks[index] as Buffer;
        const end = Math.min(chunk.length, at + wanted);
        parts.push(at === 0 && end === chunk.length ? chunk : chunk.subarray(at, end));
        wanted -= end - at;
        at = end < chunk.length ? end : 0;
        if (at === 0) index += 1;
      }
      const length = Buffer.allocUnsafe(RECORD_LENGTH_BYTES);
      length.writeUInt32LE(recordBytes);
      pieces.push(length, ...parts, this.#signer.tagOf(parts));
    }
    return pieces;
  }
}

/**
 * Takes records, and passes on the bytes of those that are right.
 *
 * Receives as a frame decoder does (`place` and `landed`, or `push`), throws whatever leaves the decoder, and at the first record that is not right a
 * ConnectionError whose cause is a ProtocolError (SECURITY): whoever is on the line can do that at any time, as he can cut it.
 *
 * INVARIANT: #filled < the length of #buffer whenever it is not at work, so that a place is never empty.
 */
export class RecordOpener {
  readonly #signer: Signer;
  readonly #peer: string;
  readonly #stream: Stream;
  readonly #buffer = Buffer.allocUnsafeSlow(WHOLE_BYTES_MAX);
  readonly #view = viewOf(this.#buffer);
  /** Bytes from the start of #buffer on that were not passed on: part of a record, or more while the receiver of the stream waits. */
  #filled = 0;
  #isWaiting = false;
  /** What was pushed while the receiver waits and has no room in #buffer. At most one chunk. */
  #held: Buffer | undefined;

  /** `peer`: who sends, for error texts. */
  constructor(key: Buffer, peer: string, stream: Stream) {
    this.#signer = new Signer(key);
    this.#peer = peer;
    this.#stream = stream;
  }

  /** Whether the bytes so far end inside a record, or inside a frame. */
  get isInsideFrame(): boolean {
    return this.#filled > 0 || this.#stream.isInsideFrame;
  }

  /** As a frame decoder's. */
  place(): Buffer {
    return this.#filled === 0 ? this.#buffer : this.#buffer.subarray(this.#filled);
  }

  /** As a frame decoder's. */
  landed(bytes: number): boolean {
    this.#filled += bytes;
    return this.#open();
  }

  /** As a frame decoder's. */
  push(chunk: Buffer): boolean {
    let at = 0;
    while (at < chunk.length) {
      const bytes = chunk.copy(this.#buffer, this.#filled, at);
      at += bytes;
      if (this.landed(bytes)) continue;
      if (at < chunk.length) this.#held = Buffer.from(chunk.subarray(at));
      return false;
    }
    return true;
  }

  /** As a frame decoder's. */
  provide(target: Buffer): boolean {
    this.#isWaiting = !this.#stream.provide(target);
    if (!this.#open()) return false;
    const held = this.#held;
    this.#held = undefined;
    return held === undefined || this.push(held);
  }

  /** Passes on all records that are whole. @returns false if the receiver of the stream waits. */
  #open(): boolean {
    const buffer = this.#buffer;
    let at = 0;
    try {
      while (!this.#isWaiting && this.#filled - at >= RECORD_LENGTH_BYTES) {
        const bytes = this.#view.getUint32(at, true);
        const start = at + RECORD_LENGTH_BYTES;
        const end = start + bytes + RECORD_TAG_BYTES;
        const isRight = bytes > 0 && bytes <= RECORD_BYTES_MAX;
        if (isRight && end > this.#filled) break;
        const record = buffer.subarray(start, start + bytes);
        if (!isRight || !timingSafeEqual(this.#signer.tagOf([record]), buffer.subarray(end - RECORD_TAG_BYTES, end))) {
          at = this.#filled;
          throw changedOnTheWay(this.#peer);
        }
        at = end;
        this.#isWaiting = !this.#stream.push(record);
      }
    } finally {
      if (at > 0) {
        buffer.copyWithin(0, at, this.#filled);
        this.#filled -= at;
      }
    }
    return !this.#isWaiting;
  }
}

function changedOnTheWay(peer: string): ConnectionError {
  const cause = new ProtocolError(CloseCode.SECURITY, "what you sent was changed on its way");
  return new ConnectionError(`what ${peer} sent was changed on its way`, { retryable: true, cause });
}
