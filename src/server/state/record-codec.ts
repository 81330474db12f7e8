/**
 * Records of fixed layout, as bytes and back: fields one after the other, little-endian, without names.
 *
 * Unlike the messages of the protocol they are read by the program that wrote them, or by a later one that knows their format's number. Bytes that
 * are no record are answered with undefined: what to do then is for the reader to say.
 */
import { ByteReader, ByteWriter, viewOf } from "../../base/byte-cursor.ts";
import { CloseCode, ProtocolError } from "../../base/errors.ts";
import { VALUE_BYTES_MAX } from "./state-store.ts";

/** How one kind of field is written and read. */
export interface RecordField<T> {
  /** The most bytes a value can take. */
  readonly bytesMax: number;
  write(writer: ByteWriter, value: T): void;
  /** @throws ProtocolError MALFORMED. */
  read(reader: ByteReader): T;
}

function malformed(what: string): ProtocolError {
  return new ProtocolError(CloseCode.MALFORMED, what);
}

function integer(bytesMax: number, width: "u8" | "u16" | "u32"): RecordField<number> {
  return { bytesMax, write: (writer, value) => writer[width](value), read: (reader) => reader[width]() };
}

export const u8 = integer(1, "u8");
export const u16 = integer(2, "u16");
export const u32 = integer(4, "u32");
export const u53: RecordField<number> = {
  bytesMax: 8,
  write: (writer, value) => writer.i53(value),
  read: (reader) => reader.u53(),
};
/** A safe integer, also below 0. */
export const i53: RecordField<number> = {
  bytesMax: 8,
  write: (writer, value) => writer.i53(value),
  read: (reader) => reader.i53(),
};
export const u64: RecordField<bigint> = {
  bytesMax: 8,
  write: (writer, value) => writer.u64(value),
  read: (reader) => reader.u64(),
};
export const flag: RecordField<boolean> = {
  bytesMax: 1,
  write: (writer, value) => writer.u8(value ? 1 : 0),
  read(reader) {
    const value = reader.u8();
    if (value > 1) throw malformed(`flag ${value}`);
    return value === 1;
  },
};

/** Exactly `bytes` bytes. */
export function fixedBytes(bytes: number): RecordField<Buffer> {
  return {
    bytesMax: bytes,
    write(writer, value) {
      if (value.length !== bytes) throw new RangeError(`a record's field of ${bytes} bytes given ${value.length}`);
      writer.bytes(value);
    },
    read: (reader) => reader.copy(bytes),
  };
}

/** Up to `bytesMax` bytes, behind their number. */
export function blob(bytesMax: number): RecordField<Buffer> {
  return {
    bytesMax: 4 + bytesMax,
    write(writer, value) {
      if (value.length > bytesMax) throw new RangeError(`a record's field of ${value.length} bytes`);
      writer.u32(value.length);
      writer.bytes(value);
    },
    read(reader) {
      const bytes = reader.u32();
      if (bytes > bytesMax) throw malformed(`a field of ${bytes} bytes`);
      return reader.copy(bytes);
    },
  };
}

/** Bytes as a latin1 string: node ids, names. */
export function binaryText<T extends string>(bytesMax: number): RecordField<T> {
  const bytes = blob(bytesMax);
  return {
    bytesMax: bytes.bytesMax,
    write(writer, value) {
      if (value.length > bytesMax) throw new RangeError(`a record's field of ${value.length} bytes`);
      writer.u32(value.length);
      writer.latin1(value);
    },
    read: (reader) => bytes.read(reader).toString("latin1") as T,
  };
}

/** Text for people, as UTF-8. */
export function utf8Text(bytesMax: number): RecordField<string> {
  const bytes = blob(bytesMax);
  return {
    bytesMax: bytes.bytesMax,
    write: (writer, value) => bytes.write(writer, Buffer.from(value, "utf8")),
    read: (reader) => bytes.read(reader).toString("utf8"),
  };
}

/** One of `values`, by its place among them. They are stored: append only. */
export function choice<T>(values: readonly T[]): RecordField<T> {
  return {
    bytesMax: 1,
    write(writer, value) {
      const index = values.indexOf(value);
      if (index < 0) throw new RangeError(`a record cannot hold ${String(value)}`);
      writer.u8(index);
    },
    read(reader) {
      const index = reader.u8();
      if (index >= values.length) throw malformed(`choice ${index}`);
      return values[index] as T;
    },
  };
}

/** A value that may be absent. */
export function optional<T>(field: RecordField<T>): RecordField<T | undefined> {
  return {
    bytesMax: 1 + field.bytesMax,
    write(writer, value) {
      flag.write(writer, value !== undefined);
      if (value !== undefined) field.write(writer, value);
    },
    read: (reader) => (flag.read(reader) ? field.read(reader) : undefined),
  };
}

/** Up to `countMax` values, behind their number. */
export function list<T>(field: RecordField<T>, countMax: number): RecordField<readonly T[]> {
  return {
    bytesMax: 4 + countMax * field.bytesMax,
    write(writer, values) {
      if (values.length > countMax) throw new RangeError(`a record's list of ${values.length}`);
      writer.u32(values.length);
      for (const value of values) field.write(writer, value);
    },
    read(reader) {
      const count = reader.u32();
      if (count > countMax) throw malformed(`a list of ${count}`);
      const values: T[] = [];
      for (let index = 0; index < count; index += 1) values.push(field.read(reader));
      return values;
    },
  };
}

/** The value of a record with these fields. */
export type RecordOf<F> = { -readonly [K in keyof F]: F[K] extends RecordField<infer T> ? T : never };

/** Several fields as one. */
export function group<F extends { readonly [K in keyof F]: RecordField<unknown> }>(
  fields: F,
): RecordField<RecordOf<F>> {
  const names = Object.keys(fields);
  const inner = Object.values(fields as Readonly<Record<string, RecordField<unknown>>>);
  return {
    bytesMax: inner.reduce((sum, field) => sum + field.bytesMax, 0),
    write(writer, value) {
      // By index: taking pairs apart takes longer than most fields.
      for (let index = 0; index < names.length; index += 1) {
        (inner[index] as RecordField<unknown>).write(
          writer,
          (value as Record<string, unknown>)[names[index] as string],
        );
      }
    },
    read(reader) {
      const value: Record<string, unknown> = {};
      for (const [index, name] of names.entries()) value[name] = (inner[index] as RecordField<unknown>).read(reader);
      return value as RecordOf<F>;
    },
  };
}

/** A kind of record. */
export interface RecordCodec<T> {
  /** The caller's to keep. */
  encode(value: T): Buffer;
  /** Undefined: the bytes are no such record. */
  decode(bytes: Buffer): T | undefined;
}

/** All records are written here first: most are much smaller than they may be. */
const scratch = new ByteWriter(Buffer.allocUnsafeSlow(VALUE_BYTES_MAX));
const reader = new ByteReader();

export function recordCodec<T>(field: RecordField<T>): RecordCodec<T> {
  if (field.bytesMax > VALUE_BYTES_MAX) throw new Error(`a record of up to ${field.bytesMax} bytes fits no store`);
  return {
    encode(value) {
      scratch.offset = 0;
      field.write(scratch, value);
      return Buffer.from(scratch.buffer.subarray(0, scratch.offset));
    },
    decode(bytes) {
      reader.reset(bytes, viewOf(bytes), 0, bytes.length);
      try {
        const value = field.read(reader);
        return reader.offset === reader.end ? value : undefined;
      } catch (error) {
        if (error instanceof ProtocolError) return undefined;
        throw error;
      }
    },
  };
}
