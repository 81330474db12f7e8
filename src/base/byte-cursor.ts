/**
 * Two cursors over bytes: one reads, one writes; little-endian, bounds-checked.
 *
 * They know integers and runs of bytes, not messages. A cursor is made once and pointed at buffer after buffer, so that reading a
 * frame allocates nothing but its values. Reading past the end throws ProtocolError (the bytes are a peer's); writing past the
 * end is our mistake and throws RangeError.
 */
import { CloseCode, ProtocolError } from "./errors.ts";

const TWO_32 = 2 ** 32;
/** High halves of a non-negative safe integer are below this. */
const HIGH_MAX = 2 ** 21;
const NOTHING = Buffer.alloc(0);

/** A view over all of `buffer`. */
export function viewOf(buffer: Buffer): DataView {
  return new DataView(buffer.buffer, buffer.byteOffset, buffer.length);
}

/** Up to this length a loop is quicker than a call out of JavaScript. */
const LOOPED_CHARS_MAX = 48;

/** Writes a string with one char a byte at `offset`, where there is room for it. */
export function putLatin1(target: Buffer, offset: number, text: string): void {
  if (text.length > LOOPED_CHARS_MAX) target.write(text, offset, text.length, "latin1");
  else for (let at = 0; at < text.length; at += 1) target[offset + at] = text.charCodeAt(at);
}

function short(): ProtocolError {
  return new ProtocolError(CloseCode.MALFORMED, "body is shorter than its fields");
}

export class ByteReader {
  buffer: Buffer = NOTHING;
  view: DataView = viewOf(NOTHING);
  offset = 0;
  /** First byte that must not be read. INVARIANT: offset <= end <= buffer.length */
  end = 0;

  /** Points at `start..end` of `buffer`; `view` covers all of `buffer`. The bytes are borrowed until the next call. */
  reset(buffer: Buffer, view: DataView, start: number, end: number): this {
    this.buffer = buffer;
    this.view = view;
    this.offset = start;
    this.end = end;
    return this;
  }

  /** Skips `bytes` and returns where they start. */
  take(bytes: number): number {
    const start = this.offset;
    if (bytes > this.end - start) throw short();
    this.offset = start + bytes;
    return start;
  }

  u8(): number {
    return this.view.getUint8(this.take(1));
  }

  u16(): number {
    return this.view.getUint16(this.take(2), true);
  }

  u32(): number {
    return this.view.getUint32(this.take(4), true);
  }

  /** Eight bytes as a number. @throws ProtocolError MALFORMED if it is not below 2^53. */
  u53(): number {
    const start = this.take(8);
    const high = this.view.getUint32(start + 4, true);
    if (high >= HIGH_MAX) throw new ProtocolError(CloseCode.MALFORMED, "integer beyond 2^53");
    return high * TWO_32 + this.view.getUint32(start, true);
  }

  /** Eight bytes, two's complement, as a number. @throws ProtocolError MALFORMED if it is not a safe integer. */
  i53(): number {
    const start = this.take(8);
    const value = this.view.getInt32(start + 4, true) * TWO_32 + this.view.getUint32(start, true);
    if (!Number.isSafeInteger(value)) throw new ProtocolError(CloseCode.MALFORMED, "integer beyond 2^53");
    return value;
  }

  u64(): bigint {
    return this.view.getBigUint64(this.take(8), true);
  }

  /** `bytes` bytes as a string with one char a byte. */
  latin1(bytes: number): string {
    const start = this.take(bytes);
    return this.buffer.toString("latin1", start, start + bytes);
  }

  /** A copy of `bytes` bytes, the caller's to keep. */
  copy(bytes: number): Buffer {
    const start = this.take(bytes);
    return Buffer.from(this.buffer.subarray(start, start + bytes));
  }
}

export class ByteWriter {
  buffer: Buffer;
  view: DataView;
  offset = 0;

  constructor(buffer: Buffer) {
    this.buffer = buffer;
    this.view = viewOf(buffer);
  }

  u8(value: number): void {
    this.view.setUint8(this.offset, value);
    this.offset += 1;
  }

  u16(value: number): void {
    this.view.setUint16(this.offset, value, true);
    this.offset += 2;
  }

  u32(value: number): void {
    this.view.setUint32(this.offset, value, true);
    this.offset += 4;
  }

  /** A safe integer, also negative, in eight bytes. */
  i53(value: number): void {
    this.view.setUint32(this.offset, value >>> 0, true);
    this.view.setInt32(this.offset + 4, Math.floor(value / TWO_32), true);
    this.offset += 8;
  }

  u64(value: bigint): void {
    this.view.setBigUint64(this.offset, value, true);
    this.offset += 8;
  }

  /** A string with one char a byte. */
  latin1(text: string): void {
    if (text.length > this.buffer.length - this.offset) throw new RangeError("byte cursor: beyond the buffer");
    putLatin1(this.buffer, this.offset, text);
    this.offset += text.length;
  }

  bytes(source: Uint8Array): void {
    this.buffer.set(source, this.offset);
    this.offset += source.length;
  }
}
