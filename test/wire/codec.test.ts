/** Every row of the table of messages: both ways, cut, too long, and not canonical. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ByteReader, viewOf } from "../../src/base/byte-cursor.ts";
import { CloseCode, ProtocolError } from "../../src/base/errors.ts";
import { type BodyCodec, bodyBytes, checkReply, checkRequest, messageOf, messages } from "../../src/wire/codec.ts";
import { FIELDS } from "../../src/wire/fields.ts";
import { emptyHeader } from "../../src/wire/frame.ts";
import { FrameDecoder } from "../../src/wire/frame-decoder.ts";
import { BODY_BYTES_MAX, CALLER_GROUPS_MAX, FORGET_IDS_MAX } from "../../src/wire/limits.ts";
import { FLAG_REPLY, MESSAGES } from "../../src/wire/messages.ts";
import { seeded } from "../support/seed.ts";
import { Collector, frameBytes } from "./frames.ts";
import { decodeNaively, plain } from "./naive-decoder.ts";
import { sides } from "./values.ts";

function readerOf(bytes: Buffer): ByteReader {
  return new ByteReader().reset(bytes, viewOf(bytes), 0, bytes.length);
}

function isMalformed(error: unknown): boolean {
  return error instanceof ProtocolError && error.closeCode === CloseCode.MALFORMED;
}

for (const { name, codec, values } of sides) {
  test(`${name}: what is written is read, and no prefix and no longer body is`, (t) => {
    fc.assert(
      fc.property(values, (value) => {
        const bytes = bodyBytes(codec, value);
        assert.ok(bytes.length <= codec.bytesMax);
        assert.deepEqual(codec.read(readerOf(bytes)), value);
        const cut = Math.floor(bytes.length / 2);
        for (const short of new Set([0, 1, cut, bytes.length - 1])) {
          if (short < bytes.length && short >= 0) {
            assert.throws(() => codec.read(readerOf(bytes.subarray(0, short))), isMalformed);
          }
        }
        assert.throws(() => codec.read(readerOf(Buffer.concat([bytes, Buffer.alloc(1)]))), isMalformed);
        assert.equal(typeof codec.print(value), "string");
      }),
      seeded(t, 20),
    );
  });
}

test("frames of all messages read the same by the decoder and by the naive one", (t) => {
  const frame = fc.oneof(
    ...sides.map((side) =>
      fc.record({ side: fc.constant(side), value: side.values, tag: fc.nat({ max: 2 ** 32 - 1 }) }),
    ),
  );
  fc.assert(
    fc.property(fc.array(frame, { maxLength: 8 }), fc.nat({ max: 300 }), (list, cut) => {
      const stream = Buffer.concat(
        list.map(({ side, value, tag }) => {
          const { row } = side.message;
          const isNotice = row.reply === undefined;
          const hasHandle = row.handle === "given" || (row.handle === "made" && side.isReply);
          const hasPayload = row.payload === (side.isReply ? "reply" : "request");
          const header = {
            opcode: row.code,
            flags: side.isReply ? FLAG_REPLY : 0,
            tag: isNotice ? 0 : tag,
            handle: hasHandle ? 5 : 0,
            section: row.sections === true ? 1 : 0,
          };
          return frameBytes(header, side.codec, value, hasPayload ? Buffer.from("payload") : undefined);
        }),
      );
      const collector = new Collector();
      const decoder = new FrameDecoder(collector, { bodyBytesMax: BODY_BYTES_MAX, payloadBytesMax: 100 });
      for (let at = 0; at < stream.length; at += cut + 1) decoder.push(stream.subarray(at, at + cut + 1));
      assert.deepEqual(collector.frames, decodeNaively(stream));
      assert.deepEqual(
        collector.frames.map(({ fields }) => fields),
        list.map(({ value }) => plain(value)),
      );
    }),
    seeded(t, 100),
  );
});

test("bytes that are read as a value are the bytes that value is written as", (t) => {
  const side = fc.constantFrom(...sides);
  const mutation = fc.record({ at: fc.nat(), byte: fc.nat({ max: 255 }) });
  fc.assert(
    fc.property(
      side.chain((chosen) => fc.tuple(fc.constant(chosen), chosen.values)),
      fc.array(mutation, { maxLength: 3 }),
      ([{ codec }, value], mutations) => {
        const bytes = Buffer.from(bodyBytes(codec, value));
        for (const { at, byte } of mutations) if (bytes.length > 0) bytes[at % bytes.length] = byte;
        let read: unknown;
        try {
          read = codec.read(readerOf(bytes));
        } catch (error) {
          assert.ok(error instanceof ProtocolError);
          return;
        }
        assert.equal(bodyBytes(codec as BodyCodec, read).toString("hex"), bytes.toString("hex"));
      },
    ),
    seeded(t, 2000),
  );
});

/** Bodies of one field that must be refused. */
const REFUSED: readonly { kind: keyof typeof FIELDS; hex: string; why: string }[] = [
  { kind: "bool", hex: "02", why: "a third truth" },
  { kind: "u53", hex: "0000000000002000", why: "2^53" },
  { kind: "u53", hex: "ffffffffffffffff", why: "-1" },
  { kind: "magic", hex: "6e65746472697666", why: "another magic" },
  { kind: "nodeId", hex: "00", why: "an empty id" },
  { kind: "nodeId", hex: `41${"aa".repeat(65)}`, why: "an id of 65 bytes" },
  { kind: "nodeIds", hex: "0000", why: "no ids" },
  { kind: "nodeIds", hex: "0102", why: `${FORGET_IDS_MAX + 1} ids` },
  { kind: "name", hex: "00", why: "an empty name" },
  { kind: "name", hex: "03610062", why: "a NUL in a name" },
  { kind: "caller", hex: `${"00".repeat(12)}0104`, why: `${CALLER_GROUPS_MAX + 1} groups` },
  { kind: "opaque", hex: "0102", why: "513 bytes" },
  { kind: "text", hex: "0102", why: "513 bytes" },
  { kind: "text", hex: "0200c328", why: "bytes that are not UTF-8" },
  { kind: "text", hex: "0300eda080", why: "a surrogate" },
  { kind: "attrChange", hex: `0002${"00".repeat(44)}`, why: "an unknown bit" },
  { kind: "attrChange", hex: `000001000000${"00".repeat(40)}`, why: "a mode that is not in the mask" },
  { kind: "attrChange", hex: `3000${"00".repeat(44)}`, why: "a time and now" },
  { kind: "attrChange", hex: `1000${"00".repeat(28)}00ca9a3b${"00".repeat(12)}`, why: "10^9 nanoseconds" },
  { kind: "attrChange", hex: `0000${"00".repeat(20)}01${"00".repeat(23)}`, why: "a time that is not in the mask" },
  { kind: "attr", hex: `${"00".repeat(15)}80${"00".repeat(88)}`, why: "a negative size" },
  { kind: "attr", hex: `${"00".repeat(59)}7f${"00".repeat(44)}`, why: "nanoseconds beyond a second" },
  { kind: "attr", hex: `${"00".repeat(100)}01000000`, why: "reserved bytes" },
];

for (const { kind, hex, why } of REFUSED) {
  test(`a field of kind ${kind} with ${why} is refused`, () => {
    assert.throws(() => FIELDS[kind].read(readerOf(Buffer.from(hex, "hex"))), isMalformed);
  });
}

test("a file that claims 8 EiB is said to have the largest size there is", () => {
  const { attr } = FIELDS;
  const bytes = bodyBytes(messages.getattr.reply as NonNullable<typeof messages.getattr.reply>, {
    attr: { ...zeroAttr, sizeBytes: 2 ** 63, blocks: 2 ** 54 },
  });
  const read = attr.read(readerOf(bytes));
  assert.equal(read.sizeBytes, Number.MAX_SAFE_INTEGER);
  assert.equal(read.blocks, Number.MAX_SAFE_INTEGER);
});

const zeroAttr = FIELDS.attr.read(readerOf(Buffer.alloc(104)));

test("equal callers in a row are one object, others are not taken for them", () => {
  const { caller } = FIELDS;
  const encode = (groups: number[], pid: number) => {
    return readerOf(bodyBytes(messages.root.request, { caller: { uid: 1, gid: 2, groups, pid } }));
  };
  const first = caller.read(encode([1, 2], 3));
  assert.equal(caller.read(encode([1, 2], 3)), first);
  assert.deepEqual(caller.read(encode([1, 3], 3)).groups, [1, 3]);
  assert.deepEqual(caller.read(encode([1], 3)).groups, [1]);
  assert.equal(caller.read(encode([1], 4)).pid, 4);
});

test("a header that its message does not allow is refused", () => {
  const request = (name: keyof typeof MESSAGES, header: object, sender: "client" | "server" = "client") => {
    return () => checkRequest(messageOf(MESSAGES[name].code), { ...emptyHeader(), ...header }, sender);
  };
  request("lookup", { tag: 9 })();
  request("getattr", { handle: 1 })();
  request("read", { handle: 1, section: 3 })();
  request("goodbye", {}, "server")();
  assert.throws(request("lookup", {}, "server"), { closeCode: CloseCode.STATE });
  assert.throws(request("lookup", { flags: 1 }), isMalformed);
  assert.throws(request("lookup", { flags: 2 }), isMalformed);
  assert.throws(request("lookup", { status: 2 }), isMalformed);
  assert.throws(request("lookup", { section: 1 }), isMalformed);
  assert.throws(request("lookup", { handle: 1 }), isMalformed);
  assert.throws(request("lookup", { payloadBytes: 1 }), isMalformed);
  assert.throws(request("read", { handle: 0 }), isMalformed);
  assert.throws(request("read", { handle: 1, payloadBytes: 1 }), isMalformed);
  assert.throws(request("open", { handle: 1 }), isMalformed);
  assert.throws(request("cancel", { tag: 1 }), isMalformed);
  assert.throws(() => messageOf(0), isMalformed);
  assert.throws(() => messageOf(255), isMalformed);
});

test("a reply's header that its message does not allow is refused", () => {
  const reply = (name: keyof typeof MESSAGES, header: object) => {
    return () => checkReply(messageOf(MESSAGES[name].code), { ...emptyHeader(), flags: FLAG_REPLY, ...header });
  };
  reply("read", { payloadBytes: 1 })();
  reply("open", { handle: 1 })();
  reply("open", { status: 2 })();
  assert.throws(reply("read", { flags: 0 }), isMalformed);
  assert.throws(reply("read", { flags: 3 }), isMalformed);
  assert.throws(reply("forget", {}), isMalformed);
  assert.throws(reply("lookup", { payloadBytes: 1 }), isMalformed);
  assert.throws(reply("lookup", { status: 2, bodyBytes: 1 }), isMalformed);
  assert.throws(reply("read", { status: 2, payloadBytes: 1 }), isMalformed);
  assert.throws(reply("open", { handle: 0 }), isMalformed);
});

test("a value of our own that does not fit is our mistake, and nothing is written beyond the buffer", () => {
  assert.throws(() => bodyBytes(messages.goodbye.request, { code: 1, reason: "x".repeat(513) }), RangeError);
  assert.throws(() => bodyBytes(messages.auth.request, { proof: Buffer.alloc(31) }), RangeError);
});
