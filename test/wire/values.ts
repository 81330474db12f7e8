/** Arbitrary values of every kind of field, and of every message, for property tests. */
import fc from "fast-check";
import type { Name } from "../../src/base/name.ts";
import type { Attr } from "../../src/vfs/attr.ts";
import type { AttrChange, Caller, NodeId } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import type { BodyCodec, Message } from "../../src/wire/codec.ts";
import { messages } from "../../src/wire/codec.ts";
import type { FieldKind, FieldValue } from "../../src/wire/fields.ts";
import {
  CALLER_GROUPS_MAX,
  CHANGED_RANGES_MAX,
  FORGET_IDS_MAX,
  OPAQUE_BYTES_MAX,
  RESUME_ITEMS_MAX,
  WRITTEN_TAGS_MAX,
} from "../../src/wire/limits.ts";
import { MESSAGES, type MessageRow } from "../../src/wire/messages.ts";

const u32 = fc.nat({ max: 2 ** 32 - 1 });
const u53 = fc.maxSafeNat();
const nsec = fc.nat({ max: 999_999_999 });

function latin1(min: number, max: number, forbidden: (byte: number) => boolean): fc.Arbitrary<string> {
  const byte = fc.nat({ max: 255 }).filter((value) => !forbidden(value));
  return fc
    .array(byte, { minLength: min, maxLength: max, size: "max" })
    .map((bytes) => Buffer.from(bytes).toString("latin1"));
}

function bytes(min: number, max: number): fc.Arbitrary<Buffer> {
  return fc.uint8Array({ minLength: min, maxLength: max, size: "medium" }).map((array) => Buffer.from(array));
}

const nodeId = latin1(1, 64, () => false).map((id) => id as NodeId);

const attr: fc.Arbitrary<Attr> = fc.record(
  {
    inoLow: u32,
    inoHigh: u32,
    sizeBytes: u53,
    blocks: u53,
    atimeSec: fc.maxSafeInteger(),
    mtimeSec: fc.maxSafeInteger(),
    ctimeSec: fc.maxSafeInteger(),
    btimeSec: fc.maxSafeInteger(),
    atimeNsec: nsec,
    mtimeNsec: nsec,
    ctimeNsec: nsec,
    btimeNsec: nsec,
    mode: u32,
    nlink: u32,
    uid: u32,
    gid: u32,
    rdevMajor: u32,
    rdevMinor: u32,
    blksize: u32,
  },
  { noNullPrototype: true },
);

const time = fc.oneof(
  fc.constant("now" as const),
  fc.record({ sec: fc.maxSafeInteger(), nsec }, { noNullPrototype: true }),
);

const attrChange: fc.Arbitrary<AttrChange> = fc.record(
  { mode: u32, uid: u32, gid: u32, sizeBytes: u53, atime: time, mtime: time, killSuidgid: fc.constant(true) },
  { requiredKeys: [], noNullPrototype: true },
);

const caller: fc.Arbitrary<Caller> = fc.record(
  {
    uid: u32,
    gid: u32,
    groups: fc.array(u32, { maxLength: CALLER_GROUPS_MAX }),
    pid: u32,
  },
  { noNullPrototype: true },
);

const lease = fc.constantFrom(Lease.NONE, Lease.READ, Lease.WRITE);

const KINDS: { readonly [K in FieldKind]: fc.Arbitrary<FieldValue<K>> } = {
  u8: fc.nat({ max: 255 }),
  u16: fc.nat({ max: 65_535 }),
  u32,
  u53,
  u64: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
  bool: fc.boolean(),
  lease,
  magic: fc.constant("netdrive" as const),
  bytes16: bytes(16, 16),
  bytes32: bytes(32, 32),
  nodeId,
  nodeIds: fc.array(nodeId, { minLength: 1, maxLength: FORGET_IDS_MAX }),
  tags: fc.array(u32, { minLength: 1, maxLength: WRITTEN_TAGS_MAX }),
  name: latin1(1, 255, (byte) => byte === 0).map((name) => name as Name),
  attr,
  attrChange,
  caller,
  opaque: bytes(0, OPAQUE_BYTES_MAX),
  text: fc.string({ maxLength: 100, unit: "grapheme" }).filter((text) => Buffer.byteLength(text) <= 512),
  resumeItems: fc.array(fc.record({ resumeKey: bytes(1, 128), proof: bytes(32, 32) }, { noNullPrototype: true }), {
    minLength: 1,
    maxLength: RESUME_ITEMS_MAX,
    size: "medium",
  }),
  resumeResults: fc.array(
    fc.record(
      {
        verdict: fc.constantFrom("unchanged" as const, "changed" as const, "gone" as const),
        handle: u32,
        lease,
        challenge: bytes(16, 16),
        changedBy: fc.string({ maxLength: 20, unit: "grapheme" }).filter((text) => Buffer.byteLength(text) <= 63),
        ranges: fc.array(fc.record({ offsetBytes: u53, lengthBytes: u53 }, { noNullPrototype: true }), {
          maxLength: CHANGED_RANGES_MAX,
        }),
      },
      { noNullPrototype: true },
    ),
    { minLength: 1, maxLength: RESUME_ITEMS_MAX, size: "medium" },
  ),
};

/** One side of a row: its codec, and values for it. */
export interface Side {
  readonly name: string;
  readonly message: Message;
  readonly isReply: boolean;
  readonly codec: BodyCodec;
  readonly values: fc.Arbitrary<Record<string, unknown>>;
}

function valuesOf(fields: Readonly<Record<string, FieldKind>>): fc.Arbitrary<Record<string, unknown>> {
  const parts: Record<string, fc.Arbitrary<unknown>> = {};
  for (const [name, kind] of Object.entries(fields)) parts[name] = KINDS[kind];
  return fc.record(parts, { noNullPrototype: true });
}

/** All requests, notices and replies of the table. */
export const sides: readonly Side[] = (Object.entries(MESSAGES) as [keyof typeof MESSAGES, MessageRow][]).flatMap(
  ([name, row]) => {
    const message = messages[name] as unknown as Message;
    const request: Side = {
      name: `${name} request`,
      message,
      isReply: false,
      codec: message.request as BodyCodec,
      values: valuesOf(row.request),
    };
    if (row.reply === undefined) return [request];
    return [
      request,
      {
        name: `${name} reply`,
        message,
        isReply: true,
        codec: message.reply as unknown as BodyCodec,
        values: valuesOf(row.reply),
      },
    ];
  },
);
