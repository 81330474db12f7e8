/** The stream of frames: limits, payloads and where they go, waiting, and garbage. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { CloseCode, ProtocolError } from "../../src/base/errors.ts";
import type { FrameHeader } from "../../src/wire/frame.ts";
import { DISCARD, FrameDecoder, type FrameReceiver } from "../../src/wire/frame-decoder.ts";
import { BODY_BYTES_MAX, HEADER_BYTES } from "../../src/wire/limits.ts";
import { GOLDEN, goldenBytes } from "../golden/frames.ts";
import { seeded } from "../support/seed.ts";
import { Collector, frameBytes } from "./frames.ts";

const LIMITS = { bodyBytesMax: BODY_BYTES_MAX, payloadBytesMax: 4 * 1024 * 1024 };

/** Takes payloads where it is told to. */
class Taker implements FrameReceiver {
  readonly log: string[] = [];
  next: Buffer | undefined = DISCARD;

  frame(header: FrameHeader): void {
    this.log.push(`frame ${header.tag}`);
  }

  payloadBegin(header: FrameHeader): Buffer | undefined {
    this.log.push(`begin ${header.tag}`);
    return this.next;
  }

  payloadEnd(): void {
    this.log.push("end");
  }
}

function payloadFrame(tag: number, payload: Buffer): Buffer {
  return frameBytes({ opcode: 35, flags: 1, tag }, undefined, undefined, payload);
}

function withField(offset: number, value: number, bytes: 1 | 2 | 4): Buffer {
  const frame = frameBytes({ opcode: 17, tag: 1 });
  frame.writeUIntLE(value, offset, bytes);
  return frame;
}

test("a header beyond a limit is refused as soon as it is whole, before anything that follows", () => {
  const limits = { bodyBytesMax: 100, payloadBytesMax: 1000 };
  const cases: [Buffer, number][] = [
    [withField(4, 2, 1), CloseCode.VERSION],
    [withField(4, 0, 1), CloseCode.VERSION],
    [Buffer.concat([withField(0, 0xffffffff, 4)]), CloseCode.LIMIT],
    [withField(0, 1001, 4), CloseCode.LIMIT],
    [withField(22, 1, 2), CloseCode.MALFORMED],
  ];
  const tooLongBody = withField(22, 101, 2);
  tooLongBody.writeUInt32LE(101, 0);
  cases.push([tooLongBody, CloseCode.LIMIT]);
  for (const [frame, closeCode] of cases) {
    const header = frame.subarray(0, HEADER_BYTES);
    assert.throws(() => new FrameDecoder(new Taker(), limits).push(header), { closeCode });
    const decoder = new FrameDecoder(new Taker(), limits);
    for (let at = 0; at < HEADER_BYTES - 1; at += 1) decoder.push(header.subarray(at, at + 1));
    assert.throws(() => decoder.push(header.subarray(HEADER_BYTES - 1)), { closeCode });
  }
});

test("limits count from the next frame on when they change", () => {
  const limits = { bodyBytesMax: 100, payloadBytesMax: 0 };
  const taker = new Taker();
  const decoder = new FrameDecoder(taker, limits);
  decoder.push(frameBytes({ opcode: 1, tag: 1 }));
  limits.payloadBytesMax = 10;
  decoder.push(payloadFrame(2, Buffer.alloc(10)));
  assert.deepEqual(taker.log, ["frame 1", "begin 2", "end"]);
});

test("a payload lands in its target and nowhere else, also in the middle of a larger buffer", () => {
  const payload = Buffer.from(Array.from({ length: 1000 }, (_, at) => at & 255));
  for (const step of [1, 7, 24, 100, 5000]) {
    const taker = new Taker();
    const all = Buffer.alloc(1200, 0xee);
    taker.next = all.subarray(100, 1150);
    const decoder = new FrameDecoder(taker, LIMITS);
    const stream = Buffer.concat([payloadFrame(1, payload), frameBytes({ opcode: 17, tag: 2 })]);
    for (let at = 0; at < stream.length; at += step) decoder.push(stream.subarray(at, at + step));
    assert.deepEqual(taker.log, ["begin 1", "end", "frame 2"]);
    assert.ok(all.subarray(100, 1100).equals(payload));
    assert.ok(all.subarray(0, 100).every((byte) => byte === 0xee));
    assert.ok(all.subarray(1100).every((byte) => byte === 0xee));
  }
});

test("a long payload's rest is landed straight in its target", () => {
  const payload = Buffer.alloc(300_000, 7);
  const target = Buffer.alloc(300_000);
  const taker = new Taker();
  taker.next = target;
  const decoder = new FrameDecoder(taker, LIMITS);
  const stream = Buffer.concat([payloadFrame(1, payload), frameBytes({ opcode: 17, tag: 2 })]);
  let at = 0;
  let direct = 0;
  while (at < stream.length) {
    const place = decoder.place();
    if (place.buffer === target.buffer) direct += 1;
    const bytes = Math.min(place.length, stream.length - at, 50_000);
    stream.copy(place, 0, at, at + bytes);
    decoder.landed(bytes);
    at += bytes;
  }
  assert.ok(direct > 0);
  assert.ok(target.equals(payload));
  assert.deepEqual(taker.log, ["begin 1", "end", "frame 2"]);
});

test("a payload diverted half-way leaves its target alone from then on, landed or pushed", () => {
  const stream = Buffer.concat([payloadFrame(1, Buffer.alloc(100_000, 1)), frameBytes({ opcode: 17, tag: 2 })]);
  const target = Buffer.alloc(100_000);
  const taker = new Taker();
  taker.next = target;
  const decoder = new FrameDecoder(taker, LIMITS);
  decoder.push(stream.subarray(0, 1024));
  assert.ok(decoder.place().buffer === target.buffer);
  assert.equal(decoder.divert(), true, "the place was lent");
  assert.ok(decoder.place().buffer !== target.buffer);
  assert.equal(decoder.divert(), false);
  decoder.push(stream.subarray(1024));
  assert.equal(target.indexOf(0), 1024 - HEADER_BYTES);
  assert.deepEqual(taker.log, ["begin 1", "end", "frame 2"]);
});

test("a receiver that waits gets the bytes behind it later, in order", () => {
  const taker = new Taker();
  taker.next = undefined;
  const decoder = new FrameDecoder(taker, LIMITS);
  const payload = Buffer.from("payload");
  const stream = Buffer.concat([
    payloadFrame(1, payload),
    payloadFrame(2, payload),
    frameBytes({ opcode: 17, tag: 3 }),
  ]);
  assert.equal(decoder.push(stream), false);
  assert.equal(decoder.isWaiting, true);
  assert.throws(() => decoder.push(stream), /while waiting/);
  assert.throws(() => decoder.provide(Buffer.alloc(6)), /too short/);
  const again = new FrameDecoder(taker, LIMITS);
  taker.log.length = 0;
  again.push(stream);
  const target = Buffer.alloc(7);
  assert.equal(again.provide(target), false, "the second payload waits as well");
  assert.equal(target.toString(), "payload");
  assert.equal(again.provide(DISCARD), true);
  assert.deepEqual(taker.log, ["begin 1", "end", "begin 2", "end", "frame 3"]);
  assert.throws(() => again.provide(DISCARD), /not waiting/);
});

test("a stopped decoder delivers nothing more, not even from the chunk it reads", () => {
  const taker = new Taker();
  const decoder = new FrameDecoder(taker, LIMITS);
  taker.frame = (header) => {
    taker.log.push(`frame ${header.tag}`);
    decoder.stop();
  };
  decoder.push(Buffer.concat([frameBytes({ opcode: 17, tag: 1 }), frameBytes({ opcode: 17, tag: 2 })]));
  decoder.landed(1);
  assert.deepEqual(taker.log, ["frame 1"]);
});

test("what one frame gathers is bounded by its header, however it is cut", () => {
  const body = 60_000;
  const header = frameBytes({ opcode: 18 });
  header.writeUInt32LE(body, 0);
  header.writeUInt16LE(body, 22);
  const seen: number[] = [];
  const receiver = new Taker();
  receiver.frame = (_header, ...rest: unknown[]) => {
    seen.push((rest[0] as { end: number; offset: number }).end);
  };
  const decoder = new FrameDecoder(receiver, LIMITS);
  decoder.push(header);
  for (let at = 0; at < body; at += 1) decoder.push(Buffer.alloc(1));
  assert.deepEqual(seen, [HEADER_BYTES + body]);
});

const CORPUS = fileURLToPath(new URL("../../../test/golden/corpus", import.meta.url));

/** Decodes a stream in pieces; only a ProtocolError may come of it. */
function survive(stream: Buffer, step: number): void {
  const collector = new Collector();
  collector.isDiscarding = true;
  const decoder = new FrameDecoder(collector, LIMITS);
  try {
    for (let at = 0; at < stream.length; at += step) decoder.push(stream.subarray(at, at + step));
  } catch (error) {
    if (!(error instanceof ProtocolError)) throw error;
  }
}

test("mutated and truncated streams never cause anything but a ProtocolError", (t) => {
  const all = GOLDEN.map(goldenBytes);
  const mutation = fc.record({ at: fc.nat(), byte: fc.nat({ max: 255 }) });
  fc.assert(
    fc.property(
      fc.array(fc.constantFrom(...all), { minLength: 1, maxLength: 4 }),
      fc.array(mutation, { maxLength: 6 }),
      fc.nat(),
      fc.integer({ min: 1, max: 200 }),
      (frames, mutations, length, step) => {
        const stream = Buffer.concat(frames);
        for (const { at, byte } of mutations) stream[at % stream.length] = byte;
        survive(stream.subarray(0, length % (stream.length + 1)), step);
      },
    ),
    seeded(t, 3000),
  );
});

test("random bytes behind a right header never cause anything but a ProtocolError", (t) => {
  fc.assert(
    fc.property(
      fc.constantFrom(...GOLDEN.map(goldenBytes)),
      fc.uint8Array({ maxLength: 400 }),
      fc.nat({ max: 255 }),
      (frame, noise, opcode) => {
        const header = Buffer.from(frame.subarray(0, HEADER_BYTES));
        header[5] = opcode;
        header.writeUInt32LE(noise.length, 0);
        header.writeUInt16LE(noise.length, 22);
        survive(Buffer.concat([header, noise]), 4096);
      },
    ),
    seeded(t, 3000),
  );
});

for (const file of readdirSync(CORPUS)) {
  test(`the corpus file ${file} is survived`, () => {
    const stream = Buffer.from(
      readFileSync(join(CORPUS, file), "latin1").replace(/#.*$/gm, "").replace(/\s/g, ""),
      "hex",
    );
    assert.ok(stream.length > 0);
    for (const step of [1, 5, 4096]) survive(stream, step);
  });
}

test("behind a frame the rest of the chunk may be somebody else's, and frames go on with what he pushes", () => {
  const taker = new Taker();
  const [first, second, third] = [1, 2, 3].map((tag) => frameBytes({ opcode: 1, tag })) as [Buffer, Buffer, Buffer];
  for (let cut = 0; cut <= first.length; cut += 1) {
    taker.log.length = 0;
    const decoder = new FrameDecoder(taker, LIMITS);
    const taken: Buffer[] = [];
    taker.frame = ({ tag }) => {
      taker.log.push(`frame ${tag}`);
      if (tag !== 1) return;
      const isInside = decoder.leaveTo((rest) => {
        taken.push(Buffer.from(rest));
        return decoder.push(second);
      });
      assert.equal(isInside, true);
    };
    const stream = Buffer.concat([first, Buffer.from("of another form")]);
    if (cut > 0) decoder.push(stream.subarray(0, cut));
    // Where the frame ended with its chunk there is no rest: what comes next is no frame either, which its receiver knows.
    if (cut < first.length) assert.equal(decoder.push(stream.subarray(cut)), true);
    assert.deepEqual(taken.map(String), cut === first.length ? [] : ["of another form"]);
    assert.deepEqual(taker.log, cut === first.length ? ["frame 1"] : ["frame 1", "frame 2"]);
    decoder.push(third);
    assert.equal(taker.log.at(-1), "frame 3");
  }
});

test("between two frames there is no rest, and inside one it is too late", () => {
  const decoder = new FrameDecoder(new Taker(), LIMITS);
  const frame = frameBytes({ opcode: 1, tag: 1 });
  const take = () => assert.fail("nothing is left");
  assert.equal(decoder.leaveTo(take), false);
  decoder.push(frame);
  assert.equal(decoder.leaveTo(take), false);
  decoder.push(frame.subarray(0, 1));
  assert.throws(() => decoder.leaveTo(take), { closeCode: CloseCode.STATE });
});
