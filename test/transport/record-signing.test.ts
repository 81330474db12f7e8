/** Signed records: their form, and that only what was sent, once and in its order, is passed on. */
import assert from "node:assert/strict";
import { createCipheriv, randomBytes } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { CloseCode, ConnectionError, ProtocolError } from "../../src/base/errors.ts";
import { RecordOpener, RecordSealer, sealedBytes } from "../../src/transport/record-signing.ts";
import { RECORD_BYTES_MAX, RECORD_LENGTH_BYTES, RECORD_TAG_BYTES } from "../../src/wire/limits.ts";
import { seeded } from "../support/seed.ts";

const KEY = Buffer.alloc(16, 7);
const OVERHEAD_BYTES = RECORD_LENGTH_BYTES + RECORD_TAG_BYTES;

/** Takes what is passed on; waits after each chunk as long as it is told to. */
class Sink {
  readonly chunks: Buffer[] = [];
  waits = false;
  isInsideFrame = false;

  push(chunk: Buffer): boolean {
    this.chunks.push(Buffer.from(chunk));
    return !this.waits;
  }

  provide(): boolean {
    return true;
  }

  get bytes(): Buffer {
    return Buffer.concat(this.chunks);
  }
}

function opening(): { sink: Sink; opener: RecordOpener } {
  const sink = new Sink();
  return { sink, opener: new RecordOpener(KEY, "peer", sink) };
}

function sealed(sealer: RecordSealer, ...chunks: Buffer[]): Buffer {
  const bytes = chunks.reduce((sum, chunk) => sum + chunk.length, 0);
  const record = Buffer.concat(sealer.seal(chunks, bytes));
  assert.equal(record.length, sealedBytes(bytes));
  return record;
}

/** Whole records with these contents, in order. */
function records(...contents: string[]): Buffer[] {
  const sealer = new RecordSealer(KEY);
  return contents.map((content) => sealed(sealer, Buffer.from(content)));
}

function isRefusal(error: unknown): boolean {
  const { cause } = error as Error;
  return (
    error instanceof ConnectionError &&
    error.retryable &&
    /^what peer sent was changed on its way$/.test(error.message) &&
    cause instanceof ProtocolError &&
    cause.closeCode === CloseCode.SECURITY
  );
}

/** Receives `stream`, which is not right; @returns what was passed on. */
function refused(stream: Buffer): string {
  const { sink, opener } = opening();
  assert.throws(() => opener.push(stream), isRefusal);
  assert.ok(opener.place().length > 0);
  return sink.bytes.toString();
}

test("a record is what PROTOCOL.md says", () => {
  const sealer = new RecordSealer(KEY);
  for (const [number, content] of ["first", "second", "third"].entries()) {
    const nonce = Buffer.alloc(12);
    nonce.writeBigUInt64LE(BigInt(number));
    const gmac = createCipheriv("aes-128-gcm", KEY, nonce);
    gmac.setAAD(Buffer.from(content));
    gmac.final();
    const length = Buffer.from([content.length, 0, 0, 0]);
    const expected = Buffer.concat([length, Buffer.from(content), gmac.getAuthTag()]);
    // In whatever pieces the bytes are.
    assert.deepEqual(sealed(sealer, ...[...content].map((letter) => Buffer.from(letter))), expected);
  }
});

test("what is sent comes out, whatever is cut where", (t) => {
  const size = fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1, max: 3 * RECORD_BYTES_MAX }));
  const batches = fc.array(fc.array(size, { minLength: 1, maxLength: 4 }), { minLength: 1, maxLength: 6 });
  const cuts = fc.array(fc.integer({ min: 1, max: 100_000 }), { minLength: 1, maxLength: 20 });
  const property = fc.property(batches, cuts, fc.boolean(), (sizes, cutSizes, lands) => {
    const sealer = new RecordSealer(KEY);
    const { sink, opener } = opening();
    const sent = sizes.map((batch) => batch.map((bytes) => randomBytes(bytes)));
    const stream = Buffer.concat(sent.map((batch) => sealed(sealer, ...batch)));
    for (let at = 0, turn = 0; at < stream.length; turn += 1) {
      const chunk = stream.subarray(at, at + (cutSizes[turn % cutSizes.length] as number));
      const landed = lands ? chunk.copy(opener.place()) : chunk.length;
      assert.ok(landed > 0);
      assert.ok(lands ? opener.landed(landed) : opener.push(chunk));
      at += landed;
    }
    assert.ok(sink.bytes.equals(Buffer.concat(sent.flat())));
    assert.equal(opener.isInsideFrame, false);
  });
  fc.assert(property, seeded(t, 60));
});

test("a flipped bit, wherever it is, lets nothing of its record pass, nor anything behind it", () => {
  const [first, second, third] = records("first", "second", "third") as [Buffer, Buffer, Buffer];
  for (let bit = 0; bit < second.length * 8; bit += 1) {
    const flipped = Buffer.from(second);
    flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
    const { sink, opener } = opening();
    const receive = () => opener.push(Buffer.concat([first, flipped, third]));
    // A record that has become longer than what is there is waited for.
    const isWaitedFor = flipped.readUInt32LE(0) + OVERHEAD_BYTES > second.length + third.length;
    if (isWaitedFor && flipped.readUInt32LE(0) <= RECORD_BYTES_MAX) receive();
    else assert.throws(receive, isRefusal, `bit ${bit}`);
    assert.equal(sink.bytes.toString(), "first");
  }
});

test("a record left out, repeated, moved, put in or of somebody else is refused", () => {
  const all = records("first", "second", "third", "fourth");
  const [first, second, third, fourth] = all as [Buffer, Buffer, Buffer, Buffer];
  const foreign = sealed(new RecordSealer(Buffer.alloc(16, 8)), Buffer.from("first"));
  const cases: [Buffer[], string][] = [
    [[second], ""],
    [[first, third, fourth], "first"],
    [[first, first, second], "first"],
    [[first, second, first, third], "firstsecond"],
    [[second, first, third], ""],
    [[first, third, second, fourth], "first"],
    [[foreign, second], ""],
    [[first, Buffer.alloc(second.length), second], "first"],
  ];
  for (const [stream, passed] of cases) assert.equal(refused(Buffer.concat(stream)), passed);
});

test("a length that no record has is refused as soon as it is known", () => {
  for (const bytes of [0, RECORD_BYTES_MAX + 1, 0x7fffffff, 0xffffffff]) {
    const length = Buffer.alloc(RECORD_LENGTH_BYTES);
    length.writeUInt32LE(bytes);
    assert.equal(refused(length), "");
  }
  const longest = Buffer.alloc(RECORD_BYTES_MAX, 1);
  const { sink, opener } = opening();
  assert.ok(opener.push(sealed(new RecordSealer(KEY), longest)));
  assert.ok(sink.bytes.equals(longest));
});

test("of a stream that is cut, only whole records are passed on", () => {
  const stream = Buffer.concat(records("first", "second"));
  const border = "first".length + OVERHEAD_BYTES;
  for (let at = 1; at < stream.length; at += 1) {
    const { sink, opener } = opening();
    assert.ok(opener.push(stream.subarray(0, at)));
    assert.equal(sink.bytes.toString(), at < border ? "" : "first");
    assert.equal(opener.isInsideFrame, at !== border);
  }
});

test("nothing is passed on while the receiver waits, and nothing is lost", () => {
  const stream = Buffer.concat(records("first", "second", "third"));
  for (let at = "first".length + OVERHEAD_BYTES; at <= stream.length; at += 1) {
    const { sink, opener } = opening();
    sink.waits = true;
    assert.equal(opener.push(stream.subarray(0, at)), false);
    const landed = stream.copy(opener.place(), 0, at);
    if (landed > 0) assert.equal(opener.landed(landed), false);
    assert.equal(sink.bytes.toString(), "first");
    sink.waits = false;
    assert.ok(opener.provide(Buffer.alloc(0)));
    assert.equal(sink.bytes.toString(), "firstsecondthird");
  }
});

test("a chunk that is larger than a record is kept while the receiver waits", () => {
  const content = randomBytes(3 * RECORD_BYTES_MAX + 5);
  const { sink, opener } = opening();
  sink.waits = true;
  assert.equal(opener.push(sealed(new RecordSealer(KEY), content)), false);
  for (let round = 1; round <= 3; round += 1) {
    assert.equal(sink.chunks.length, round);
    if (round === 3) sink.waits = false;
    assert.equal(opener.provide(Buffer.alloc(0)), round === 3);
  }
  assert.ok(sink.bytes.equals(content));
});
