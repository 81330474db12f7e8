/**
 * The frame header: HEADER_BYTES, little-endian, in front of every body and payload.
 *
 *     0 length u32: bytes of body and payload   4 version u8   5 opcode u8   6 flags u16 (FLAG_REPLY)
 *     8 tag u32: slot u16, turn u16   12 section u32   16 handle u32   20 status u16: errno number, 0 in requests   22 body bytes u16
 */
import type { ByteWriter } from "../base/byte-cursor.ts";
import { CloseCode, ProtocolError } from "../base/errors.ts";
import { HEADER_BYTES, PROTOCOL_VERSION } from "./limits.ts";

export interface FrameHeader {
  opcode: number;
  flags: number;
  tag: number;
  section: number;
  handle: number;
  status: number;
  bodyBytes: number;
  payloadBytes: number;
}

/** What a receiver accepts at this moment. */
export interface FrameLimits {
  bodyBytesMax: number;
  payloadBytesMax: number;
}

/** Opens a frame: leaves room for the header and returns where it starts; `endFrame` fills it in. */
export function beginFrame(writer: ByteWriter): number {
  const start = writer.offset;
  writer.offset += HEADER_BYTES;
  return start;
}

/** Writes the header of the frame that begins at `start` and whose body ends at the cursor. `bodyBytes` of `header` is ignored. */
export function endFrame(writer: ByteWriter, start: number, header: FrameHeader): void {
  const { view } = writer;
  const bodyBytes = writer.offset - start - HEADER_BYTES;
  view.setUint32(start, bodyBytes + header.payloadBytes, true);
  view.setUint8(start + 4, PROTOCOL_VERSION);
  view.setUint8(start + 5, header.opcode);
  view.setUint16(start + 6, header.flags, true);
  view.setUint32(start + 8, header.tag, true);
  view.setUint32(start + 12, header.section, true);
  view.setUint32(start + 16, header.handle, true);
  view.setUint16(start + 20, header.status, true);
  view.setUint16(start + 22, bodyBytes, true);
}

/**
 * Reads the header at `offset`, where HEADER_BYTES are, into `header`, and checks what can be known from it alone.
 *
 * @throws ProtocolError VERSION, MALFORMED, LIMIT.
 */
export function readHeader(view: DataView, offset: number, header: FrameHeader, limits: FrameLimits): void {
  const version = view.getUint8(offset + 4);
  if (version !== PROTOCOL_VERSION) throw new ProtocolError(CloseCode.VERSION, `frame of version ${version}`);
  const bodyBytes = view.getUint16(offset + 22, true);
  const payloadBytes = view.getUint32(offset, true) - bodyBytes;
  if (payloadBytes < 0) throw new ProtocolError(CloseCode.MALFORMED, "frame is shorter than its body");
  if (bodyBytes > limits.bodyBytesMax) throw new ProtocolError(CloseCode.LIMIT, `body of ${bodyBytes} bytes`);
  if (payloadBytes > limits.payloadBytesMax) {
    throw new ProtocolError(CloseCode.LIMIT, `payload of ${payloadBytes} bytes`);
  }
  header.opcode = view.getUint8(offset + 5);
  header.flags = view.getUint16(offset + 6, true);
  header.tag = view.getUint32(offset + 8, true);
  header.section = view.getUint32(offset + 12, true);
  header.handle = view.getUint32(offset + 16, true);
  header.status = view.getUint16(offset + 20, true);
  header.bodyBytes = bodyBytes;
  header.payloadBytes = payloadBytes;
}

/** A header to read into. */
export function emptyHeader(): FrameHeader {
  return { opcode: 0, flags: 0, tag: 0, section: 0, handle: 0, status: 0, bodyBytes: 0, payloadBytes: 0 };
}
