/** Makes frames, and collects what a FrameDecoder delivers, for tests of the wire. */
import type { ByteReader } from "../../src/base/byte-cursor.ts";
import { ByteWriter } from "../../src/base/byte-cursor.ts";
import { type BodyCodec, checkReply, checkRequest, messageOf } from "../../src/wire/codec.ts";
import { beginFrame, emptyHeader, endFrame, type FrameHeader } from "../../src/wire/frame.ts";
import { DISCARD, type FrameReceiver } from "../../src/wire/frame-decoder.ts";
import { FLAG_REPLY } from "../../src/wire/messages.ts";
import type { NaiveFrame } from "./naive-decoder.ts";
import { plain } from "./naive-decoder.ts";

const NOTHING = Buffer.alloc(0);

/** The bytes of a frame. */
export function frameBytes(
  header: Partial<FrameHeader>,
  codec?: BodyCodec,
  values?: unknown,
  payload: Buffer = NOTHING,
): Buffer {
  const writer = new ByteWriter(Buffer.alloc(70_000));
  const start = beginFrame(writer);
  codec?.write(writer, values);
  endFrame(writer, start, { ...emptyHeader(), ...header, payloadBytes: payload.length });
  return Buffer.concat([writer.buffer.subarray(0, writer.offset), payload]);
}

/** Reads everything as its side of the table says, into the shape of the naive decoder. Throws as the decoders do. */
export class Collector implements FrameReceiver {
  readonly frames: NaiveFrame[] = [];
  #payload: Buffer = NOTHING;
  /** Whether payloads are thrown away. */
  isDiscarding = false;

  frame(header: FrameHeader, body: ByteReader): void {
    this.frames.push(this.#read(header, body));
  }

  payloadBegin(header: FrameHeader, body: ByteReader): Buffer | undefined {
    this.frames.push(this.#read(header, body));
    this.#payload = this.isDiscarding ? DISCARD : Buffer.alloc(header.payloadBytes);
    return this.#payload;
  }

  payloadEnd(): void {
    const last = this.frames.at(-1) as NaiveFrame;
    last.payload = this.#payload.toString("hex");
  }

  #read(header: FrameHeader, body: ByteReader): NaiveFrame {
    const message = messageOf(header.opcode);
    const isReply = header.flags === FLAG_REPLY;
    if (isReply) checkReply(message, header);
    else checkRequest(message, header, message.row.sender === "server" ? "server" : "client");
    const codec = (isReply ? message.reply : message.request) as BodyCodec | undefined;
    const { tag, section, handle, status } = header;
    const fields = status === 0 ? (plain(codec?.read(body)) as Record<string, unknown>) : {};
    return { name: message.name, isReply, tag, section, handle, status, fields, payload: "" };
  }
}
