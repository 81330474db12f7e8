/** Frames as bytes, both ways, cut everywhere, and against a second decoder. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type BodyCodec, describeFrame, messageOf } from "../../src/wire/codec.ts";
import { FrameDecoder } from "../../src/wire/frame-decoder.ts";
import { BODY_BYTES_MAX } from "../../src/wire/limits.ts";
import { GOLDEN, type Golden, goldenBytes } from "../golden/frames.ts";
import { Collector, frameBytes } from "./frames.ts";
import { decodeNaively, plain } from "./naive-decoder.ts";

const LIMITS = { bodyBytesMax: BODY_BYTES_MAX, payloadBytesMax: 1024 * 1024 };
const ALL = Buffer.concat(GOLDEN.map(goldenBytes));

function encode(golden: Golden): Buffer {
  const { header, values, payload } = golden;
  const message = messageOf(header.opcode);
  const codec = (header.flags === 1 ? message.reply : message.request) as BodyCodec;
  return frameBytes(header, header.status === undefined ? codec : undefined, values, Buffer.from(payload ?? ""));
}

for (const golden of GOLDEN) {
  test(`golden: ${golden.name}`, () => {
    const bytes = goldenBytes(golden);
    assert.equal(encode(golden).toString("hex"), bytes.toString("hex"));
    const collector = new Collector();
    new FrameDecoder(collector, LIMITS).push(bytes);
    assert.equal(collector.frames.length, 1);
    assert.deepEqual(collector.frames[0]?.fields, plain(golden.values));
    assert.deepEqual(collector.frames, decodeNaively(bytes));
  });
}

test("a stream of all golden frames reads the same, wherever it is cut in two", () => {
  const expected = decodeNaively(ALL);
  for (let cut = 0; cut <= ALL.length; cut += 1) {
    const collector = new Collector();
    const decoder = new FrameDecoder(collector, LIMITS);
    decoder.push(ALL.subarray(0, cut));
    decoder.push(ALL.subarray(cut));
    assert.deepEqual(collector.frames, expected);
    assert.equal(decoder.isInsideFrame, false);
  }
});

test("each golden frame reads the same, cut in three everywhere", () => {
  for (const golden of GOLDEN) {
    const bytes = goldenBytes(golden);
    const expected = decodeNaively(bytes);
    for (let first = 0; first <= bytes.length; first += 1) {
      for (let second = first; second <= bytes.length; second += 5) {
        const collector = new Collector();
        const decoder = new FrameDecoder(collector, LIMITS);
        for (const part of [bytes.subarray(0, first), bytes.subarray(first, second), bytes.subarray(second)]) {
          decoder.push(part);
        }
        assert.deepEqual(collector.frames, expected);
      }
    }
  }
});

test("a stream reads the same byte by byte, pushed and landed", () => {
  const expected = decodeNaively(ALL);
  const pushed = new Collector();
  const pushing = new FrameDecoder(pushed, LIMITS);
  const landed = new Collector();
  const landing = new FrameDecoder(landed, LIMITS);
  for (const byte of ALL) {
    pushing.push(Buffer.from([byte]));
    landing.place()[0] = byte;
    landing.landed(1);
  }
  assert.deepEqual(pushed.frames, expected);
  assert.deepEqual(landed.frames, expected);
});

test("the debug print of a frame names its fields, and says so when there is nothing to name", () => {
  const seen: string[] = [];
  const note = { frame: describe, payloadEnd() {}, payloadBegin: describe };
  function describe(header: Parameters<typeof describeFrame>[0], body: Parameters<typeof describeFrame>[1]): Buffer {
    seen.push(describeFrame(header, body));
    return Buffer.alloc(header.payloadBytes);
  }
  new FrameDecoder(note, LIMITS).push(ALL);
  assert.equal(seen[3], 'lookup tag=65543 caller=1000:100[4,24]@4321 parent=70 name="a\ufffd"');
  assert.equal(seen[5], "lookup reply tag=65543 ENOENT");
  assert.equal(seen[9], "read reply tag=4 handle=3 section=2 payload=5");
  new FrameDecoder(note, LIMITS).push(frameBytes({ opcode: 250 }));
  assert.equal(seen.at(-1), "opcode 250 tag=0");
  new FrameDecoder(note, LIMITS).push(frameBytes({ opcode: 17, tag: 1 }));
  assert.equal(seen.at(-1), "lookup tag=1 body=0 (malformed)");
});
