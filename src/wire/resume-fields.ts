/** The kinds of field that only `resume` has: opens shown to the server again, and what became of them. */
import type { ByteReader } from "../base/byte-cursor.ts";
import { Lease } from "../vfs/lease.ts";
import { type FieldCodec, malformed, readUtf8 } from "./field-codec.ts";
import { CHANGED_BY_BYTES_MAX, CHANGED_RANGES_MAX, RESUME_ITEMS_MAX, RESUME_KEY_BYTES_MAX } from "./limits.ts";

/** An open shown to the server again: its sealed key, and the proof that this client knows the open's key. */
export interface ResumeItem {
  readonly resumeKey: Buffer;
  readonly proof: Buffer;
}

export const resumeItems: FieldCodec<readonly ResumeItem[]> = {
  bytesMax: 2 + RESUME_ITEMS_MAX * (1 + RESUME_KEY_BYTES_MAX + 32),
  layout: `u16 count 1..${RESUME_ITEMS_MAX}, then of each u8 length 1..${RESUME_KEY_BYTES_MAX}, that many bytes of resume key, 32 bytes of proof`,
  write(writer, value) {
    writer.u16(value.length);
    for (const { resumeKey, proof } of value) {
      writer.u8(resumeKey.length);
      writer.bytes(resumeKey);
      writer.bytes(proof);
    }
  },
  read(reader) {
    const count = reader.u16();
    if (count === 0 || count > RESUME_ITEMS_MAX) throw malformed(`${count} opens to resume`);
    const list: ResumeItem[] = [];
    for (let index = 0; index < count; index += 1) {
      const bytes = reader.u8();
      if (bytes === 0 || bytes > RESUME_KEY_BYTES_MAX) throw malformed(`resume key of ${bytes} bytes`);
      list.push({ resumeKey: reader.copy(bytes), proof: reader.copy(32) });
    }
    return list;
  },
  print: (value) => `[${value.length} keys]`,
};

/** What became of an open while its client was away. */
export interface ResumeResult {
  /** `gone`: it is no more; what follows is empty then. */
  readonly verdict: ResumeVerdict;
  /** The handle it has now. */
  readonly handle: number;
  /** The lease it has still. */
  readonly lease: Lease;
  /** For attaching from elsewhere. */
  readonly challenge: Buffer;
  /** `changed`: who did it, as far as is known. */
  readonly changedBy: string;
  /** `changed`: which bytes; none: not known, any. */
  readonly ranges: readonly { readonly offsetBytes: number; readonly lengthBytes: number }[];
}

const VERDICTS = ["unchanged", "changed", "gone"] as const;
export type ResumeVerdict = (typeof VERDICTS)[number];
const CHALLENGE_BYTES = 16;

export const resumeResults: FieldCodec<readonly ResumeResult[]> = {
  bytesMax:
    2 + RESUME_ITEMS_MAX * (1 + 4 + 1 + CHALLENGE_BYTES + 1 + CHANGED_BY_BYTES_MAX + 1 + CHANGED_RANGES_MAX * 16),
  layout:
    `u16 count 1..${RESUME_ITEMS_MAX}, then of each u8 verdict (0 unchanged, 1 changed, 2 gone), u32 handle, u8 lease, ${CHALLENGE_BYTES} bytes of challenge, ` +
    `u8 length 0..${CHANGED_BY_BYTES_MAX} and UTF-8 of who changed it, u8 count 0..${CHANGED_RANGES_MAX} of ranges, each u64 offset and u64 length below 2^53`,
  write(writer, value) {
    writer.u16(value.length);
    for (const result of value) {
      writer.u8(VERDICTS.indexOf(result.verdict));
      writer.u32(result.handle);
      writer.u8(result.lease);
      writer.bytes(result.challenge);
      const by = Buffer.from(result.changedBy, "utf8");
      if (by.length > CHANGED_BY_BYTES_MAX) throw new RangeError(`name of ${by.length} bytes`);
      writer.u8(by.length);
      writer.bytes(by);
      writer.u8(result.ranges.length);
      for (const { offsetBytes, lengthBytes } of result.ranges) {
        writer.i53(offsetBytes);
        writer.i53(lengthBytes);
      }
    }
  },
  read(reader) {
    const count = reader.u16();
    if (count === 0 || count > RESUME_ITEMS_MAX) throw malformed(`${count} resumed opens`);
    const list: ResumeResult[] = [];
    for (let index = 0; index < count; index += 1) list.push(readResumeResult(reader));
    return list;
  },
  print: (value) => `[${value.map(({ verdict }) => verdict).join(" ")}]`,
};

function readResumeResult(reader: ByteReader): ResumeResult {
  const code = reader.u8();
  const verdict = VERDICTS[code];
  if (verdict === undefined) throw malformed(`verdict ${code}`);
  const handle = reader.u32();
  const lease = reader.u8();
  if (lease > Lease.WRITE) throw malformed(`lease is ${lease}`);
  const challenge = reader.copy(CHALLENGE_BYTES);
  const byBytes = reader.u8();
  if (byBytes > CHANGED_BY_BYTES_MAX) throw malformed(`name of ${byBytes} bytes`);
  const changedBy = readUtf8(reader, byBytes);
  const ranges: { offsetBytes: number; lengthBytes: number }[] = [];
  const rangeCount = reader.u8();
  if (rangeCount > CHANGED_RANGES_MAX) throw malformed(`${rangeCount} ranges`);
  for (let at = 0; at < rangeCount; at += 1) ranges.push({ offsetBytes: reader.u53(), lengthBytes: reader.u53() });
  return { verdict, handle, lease: lease as Lease, challenge, changedBy, ranges };
}
