/**
 * A second decoder, written from PROTOCOL.md alone and as plainly as possible: whole frames in one buffer, one field after the other, BigInt everywhere. It
 * refuses nothing; tests compare what it reads with what the real one reads.
 */
import { MESSAGES, type MessageRow } from "../../src/wire/messages.ts";

export interface NaiveFrame {
  name: string;
  isReply: boolean;
  tag: number;
  section: number;
  handle: number;
  status: number;
  fields: Record<string, unknown>;
  payload: string;
}

class Bytes {
  readonly #hex: string;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#hex = bytes.toString("hex");
  }

  get left(): number {
    return (this.#hex.length - this.#at) / 2;
  }

  raw(count: number): string {
    this.#at += 2 * count;
    return this.#hex.slice(this.#at - 2 * count, this.#at);
  }

  unsigned(count: number): bigint {
    const pairs = this.raw(count).match(/../g) ?? [];
    return BigInt(`0x${pairs.reverse().join("")}`);
  }

  number(count: number): number {
    return Number(this.unsigned(count));
  }

  signed64(): number {
    return Number(BigInt.asIntN(64, this.unsigned(8)));
  }

  chars(count: number): string {
    return Buffer.from(this.raw(count), "hex").toString("latin1");
  }
}

function attr(bytes: Bytes): Record<string, number> {
  const names64 = ["sizeBytes", "blocks", "atimeSec", "mtimeSec", "ctimeSec", "btimeSec"];
  const names32 = ["atimeNsec", "mtimeNsec", "ctimeNsec", "btimeNsec", "mode", "nlink", "uid", "gid"];
  const result: Record<string, number> = { inoLow: bytes.number(4), inoHigh: bytes.number(4) };
  for (const name of names64) result[name] = bytes.signed64();
  for (const name of [...names32, "rdevMajor", "rdevMinor", "blksize"]) result[name] = bytes.number(4);
  bytes.raw(4);
  return result;
}

function attrChange(bytes: Bytes): Record<string, unknown> {
  const mask = bytes.number(2);
  const numbers = { mode: bytes.number(4), uid: bytes.number(4), gid: bytes.number(4), sizeBytes: bytes.number(8) };
  const times = [0, 1].map(() => ({ sec: bytes.signed64(), nsec: bytes.number(4) }));
  const result: Record<string, unknown> = {};
  Object.entries(numbers).forEach(([name, value], bit) => {
    if (mask & (1 << bit)) result[name] = value;
  });
  if (mask & 16) result["atime"] = times[0];
  if (mask & 32) result["atime"] = "now";
  if (mask & 64) result["mtime"] = times[1];
  if (mask & 128) result["mtime"] = "now";
  if (mask & 256) result["killSuidgid"] = true;
  return result;
}

function caller(bytes: Bytes): Record<string, unknown> {
  const [uid, gid, pid] = [bytes.number(4), bytes.number(4), bytes.number(4)];
  const groups = Array.from({ length: bytes.number(2) }, () => bytes.number(4));
  return { uid, gid, pid, groups };
}

const READ: Readonly<Record<string, (bytes: Bytes) => unknown>> = {
  u8: (bytes) => bytes.number(1),
  u16: (bytes) => bytes.number(2),
  u32: (bytes) => bytes.number(4),
  u53: (bytes) => bytes.number(8),
  u64: (bytes) => bytes.unsigned(8),
  bool: (bytes) => bytes.number(1) === 1,
  lease: (bytes) => bytes.number(1),
  magic: (bytes) => bytes.chars(8),
  bytes16: (bytes) => bytes.raw(16),
  bytes32: (bytes) => bytes.raw(32),
  nodeId: (bytes) => bytes.chars(bytes.number(1)),
  nodeIds: (bytes) => Array.from({ length: bytes.number(2) }, () => bytes.chars(bytes.number(1))),
  tags: (bytes) => Array.from({ length: bytes.number(2) }, () => bytes.number(4)),
  name: (bytes) => bytes.chars(bytes.number(1)),
  attr,
  attrChange,
  caller,
  opaque: (bytes) => bytes.raw(bytes.number(2)),
  resumeItems: (bytes) =>
    Array.from({ length: bytes.number(2) }, () => ({ resumeKey: bytes.raw(bytes.number(1)), proof: bytes.raw(32) })),
  resumeResults: (bytes) =>
    Array.from({ length: bytes.number(2) }, () => ({
      verdict: ["unchanged", "changed", "gone"][bytes.number(1)],
      handle: bytes.number(4),
      lease: bytes.number(1),
      challenge: bytes.raw(16),
      changedBy: Buffer.from(bytes.raw(bytes.number(1)), "hex").toString("utf8"),
      ranges: Array.from({ length: bytes.number(1) }, () => ({
        offsetBytes: bytes.number(8),
        lengthBytes: bytes.number(8),
      })),
    })),
  text: (bytes) => Buffer.from(bytes.raw(bytes.number(2)), "hex").toString("utf8"),
};

/** All frames of a buffer that holds whole frames. */
export function decodeNaively(stream: Buffer): NaiveFrame[] {
  const bytes = new Bytes(stream);
  const frames: NaiveFrame[] = [];
  while (bytes.left > 0) {
    const length = bytes.number(4);
    bytes.raw(1);
    const opcode = bytes.number(1);
    const isReply = bytes.number(2) === 1;
    const [tag, section, handle] = [bytes.number(4), bytes.number(4), bytes.number(4)];
    const status = bytes.number(2);
    const bodyBytes = bytes.number(2);
    const found = (Object.entries(MESSAGES) as [string, MessageRow][]).find(([, row]) => row.code === opcode);
    const [name, row] = found as [string, MessageRow];
    const fields: Record<string, unknown> = {};
    const kinds = status === 0 ? (isReply ? row.reply : row.request) : {};
    for (const [field, kind] of Object.entries(kinds ?? {})) fields[field] = READ[kind]?.(bytes);
    frames.push({ name, isReply, tag, section, handle, status, fields, payload: bytes.raw(length - bodyBytes) });
  }
  return frames;
}

/** Values as the naive decoder gives them: buffers as hex. */
export function plain(value: unknown): unknown {
  if (Buffer.isBuffer(value)) return value.toString("hex");
  if (Array.isArray(value)) return value.map(plain);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, plain(part)]));
}
