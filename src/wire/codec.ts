/**
 * Encoders, decoders and debug print of message bodies, derived from the table when the program starts.
 *
 * A `BodyCodec` writes and reads the fields of one row's request or reply. Header rules that follow from a row (who may send it, whether a
 * handle, a section, a payload may be there) are checked by `checkRequest` and `checkReply`, so that both sides refuse the same.
 */
import { type ByteReader, ByteWriter } from "../base/byte-cursor.ts";
import { errnoName } from "../base/errno.ts";
import { CloseCode, ProtocolError } from "../base/errors.ts";
import type { FieldCodec } from "./field-codec.ts";
import { FIELDS } from "./fields.ts";
import type { FrameHeader } from "./frame.ts";
import { expectEnd } from "./frame-decoder.ts";
import { BODY_BYTES_MAX } from "./limits.ts";
import {
  type Fields,
  FLAG_REPLY,
  MESSAGES,
  type MessageName,
  type MessageRow,
  type Reply,
  type Request,
} from "./messages.ts";

/** Reads and writes the fields of one message side. */
export class BodyCodec<T = unknown> {
  readonly names: readonly string[];
  readonly bytesMax: number;
  readonly #codecs: readonly FieldCodec<unknown>[];

  constructor(fields: Fields) {
    this.names = Object.keys(fields);
    this.#codecs = Object.values(fields).map((kind) => FIELDS[kind] as FieldCodec<unknown>);
    this.bytesMax = this.#codecs.reduce((sum, codec) => sum + codec.bytesMax, 0);
  }

  write(writer: ByteWriter, values: T): void {
    const { names } = this;
    const codecs = this.#codecs;
    for (let index = 0; index < codecs.length; index += 1) {
      (codecs[index] as FieldCodec<unknown>).write(writer, (values as Record<string, unknown>)[names[index] as string]);
    }
  }

  /** Reads all fields and nothing behind them. @throws ProtocolError MALFORMED. */
  read(body: ByteReader): T {
    const { names } = this;
    const codecs = this.#codecs;
    const values: Record<string, unknown> = {};
    for (let index = 0; index < codecs.length; index += 1) {
      values[names[index] as string] = (codecs[index] as FieldCodec<unknown>).read(body);
    }
    expectEnd(body);
    return values as T;
  }

  print(values: T): string {
    return this.#codecs
      .map((codec, index) => {
        const name = this.names[index] as string;
        return `${name}=${codec.print((values as Record<string, unknown>)[name])}`;
      })
      .join(" ");
  }
}

/** The bytes of a body, which are the same for equal values. */
export function bodyBytes<T>(codec: BodyCodec<T>, values: T): Buffer {
  const writer = new ByteWriter(Buffer.allocUnsafe(codec.bytesMax));
  codec.write(writer, values);
  return writer.buffer.subarray(0, writer.offset);
}

const scratch = new ByteWriter(Buffer.allocUnsafeSlow(BODY_BYTES_MAX));

/** As `bodyBytes`, good until the next call. */
export function borrowedBody<T>(codec: BodyCodec<T>, values: T): Buffer {
  scratch.offset = 0;
  codec.write(scratch, values);
  return scratch.buffer.subarray(0, scratch.offset);
}

/** A row with its name and codecs. */
export interface Message<N extends MessageName = MessageName> {
  readonly name: N;
  readonly row: MessageRow;
  readonly request: BodyCodec<Request<N>>;
  /** Undefined for a notice. */
  readonly reply: BodyCodec<Reply<N>> | undefined;
}

const EMPTY_BODY = new BodyCodec<Record<string, never>>({});

function build(): { byName: { readonly [N in MessageName]: Message<N> }; byCode: readonly (Message | undefined)[] } {
  const byName: Record<string, Message> = {};
  const byCode: (Message | undefined)[] = new Array<Message | undefined>(256).fill(undefined);
  for (const [name, row] of Object.entries(MESSAGES) as [MessageName, MessageRow][]) {
    const request = new BodyCodec(row.request) as Message["request"];
    const reply = row.reply === undefined ? undefined : (new BodyCodec(row.reply) as Message["reply"]);
    if (byCode[row.code] !== undefined) throw new Error(`messages: code ${row.code} is used twice`);
    if (Math.max(request.bytesMax, reply?.bytesMax ?? 0) > BODY_BYTES_MAX)
      throw new Error(`messages: ${name} too long`);
    const message: Message = { name, row, request, reply };
    byName[name] = message;
    byCode[row.code] = message;
  }
  return { byName: byName as unknown as { readonly [N in MessageName]: Message<N> }, byCode };
}

const built = build();

/** Every message by name. */
export const messages = built.byName;

/** The message with this opcode. @throws ProtocolError MALFORMED. */
export function messageOf(opcode: number): Message {
  const message = built.byCode[opcode];
  if (message === undefined) throw new ProtocolError(CloseCode.MALFORMED, `unknown opcode ${opcode}`);
  return message;
}

function malformed(message: Message, what: string): ProtocolError {
  return new ProtocolError(CloseCode.MALFORMED, `${message.name}: ${what}`);
}

/** Checks a request's or notice's header against its row. @throws ProtocolError MALFORMED or STATE. */
export function checkRequest(message: Message, header: FrameHeader, sender: "client" | "server"): void {
  const { row } = message;
  if (row.sender !== "both" && row.sender !== sender) {
    throw new ProtocolError(CloseCode.STATE, `${message.name}: not for a ${sender} to send`);
  }
  if (header.flags !== 0) throw malformed(message, `flags ${header.flags}`);
  if (header.status !== 0) throw malformed(message, "a request with a status");
  if (header.section !== 0 && row.sections !== true) throw malformed(message, "not a section");
  if (header.payloadBytes > 0 && row.payload !== "request") throw malformed(message, "no payload here");
  if (row.reply === undefined && header.tag !== 0) throw malformed(message, "a notice with a tag");
  if (row.handle === "given" ? header.handle === 0 : header.handle !== 0 && row.handle !== "optional") {
    throw malformed(message, `handle ${header.handle}`);
  }
}

/** Checks a reply's header against its row. That it fits the request (tag, section, handle) is for the one who asked. */
export function checkReply(message: Message, header: FrameHeader): void {
  const { row } = message;
  if (header.flags !== FLAG_REPLY) throw malformed(message, `flags ${header.flags}`);
  if (row.reply === undefined) throw malformed(message, "reply to a notice");
  if (header.status !== 0) {
    if (header.bodyBytes !== 0 || header.payloadBytes !== 0) throw malformed(message, "an error with a body");
  } else {
    if (header.payloadBytes > 0 && row.payload !== "reply") throw malformed(message, "no payload here");
    if (row.handle === "made" && header.handle === 0) throw malformed(message, "no handle");
  }
}

/** One line about a frame, for debug logs: header and, if they can be read, fields. Never throws. */
export function describeFrame(header: FrameHeader, body: ByteReader): string {
  const at = body.offset;
  const isReply = (header.flags & FLAG_REPLY) !== 0;
  const message = built.byCode[header.opcode];
  let text = `${message?.name ?? `opcode ${header.opcode}`}${isReply ? " reply" : ""} tag=${header.tag}`;
  if (header.handle !== 0) text += ` handle=${header.handle}`;
  if (header.section !== 0) text += ` section=${header.section}`;
  if (header.payloadBytes !== 0) text += ` payload=${header.payloadBytes}`;
  if (header.status !== 0) return `${text} ${errnoName(header.status)}`;
  try {
    const codec = (isReply ? message?.reply : message?.request) ?? EMPTY_BODY;
    text += ` ${(codec as BodyCodec).print((codec as BodyCodec).read(body))}`;
  } catch {
    text += ` body=${header.bodyBytes} (malformed)`;
  }
  body.offset = at;
  return text.trimEnd();
}
