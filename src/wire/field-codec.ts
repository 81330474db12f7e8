/** What a kind of field is to bodies: how its values are written, read, printed and described. Kinds are in fields.ts and resume-fields.ts. */
import type { ByteReader, ByteWriter } from "../base/byte-cursor.ts";
import { CloseCode, ProtocolError } from "../base/errors.ts";

export interface FieldCodec<T> {
  /** The most bytes a value can take. */
  readonly bytesMax: number;
  /** Its layout, for PROTOCOL.md. */
  readonly layout: string;
  /** The value must be valid: it is ours. */
  write(writer: ByteWriter, value: T): void;
  read(reader: ByteReader): T;
  print(value: T): string;
}

/** @returns the error for bytes that are no value. */
export function malformed(what: string): ProtocolError {
  return new ProtocolError(CloseCode.MALFORMED, what);
}

const utf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Reads `bytes` of UTF-8. @throws ProtocolError MALFORMED. */
export function readUtf8(reader: ByteReader, bytes: number): string {
  const start = reader.take(bytes);
  try {
    return utf8.decode(reader.buffer.subarray(start, start + bytes));
  } catch (cause) {
    throw new ProtocolError(CloseCode.MALFORMED, "text is not UTF-8", { cause });
  }
}
