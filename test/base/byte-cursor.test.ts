/** Cursors over bytes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ByteReader, ByteWriter, putLatin1, viewOf } from "../../src/base/byte-cursor.ts";
import { ProtocolError } from "../../src/base/errors.ts";
import { seeded } from "../support/seed.ts";

test("integers are read as they were written, at every edge", (t) => {
  fc.assert(
    fc.property(fc.maxSafeInteger(), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }), (signed, wide) => {
      const writer = new ByteWriter(Buffer.alloc(40));
      writer.u8(1);
      writer.i53(signed);
      writer.i53(Math.abs(signed));
      writer.u64(wide);
      writer.latin1("\x00\xff");
      const reader = new ByteReader().reset(writer.buffer, writer.view, 0, writer.offset);
      assert.equal(reader.u8(), 1);
      assert.equal(reader.i53(), signed);
      assert.equal(reader.u53(), Math.abs(signed));
      assert.equal(reader.u64(), wide);
      assert.equal(reader.latin1(2), "\x00\xff");
      assert.equal(reader.offset, reader.end);
    }),
    seeded(t, 500),
  );
});

test("a string is written as its bytes, whatever its length, and touches nothing beside it", () => {
  const all = String.fromCharCode(...Array.from({ length: 256 }, (_, code) => code));
  for (const length of [0, 1, 47, 48, 49, 256]) {
    const text = all.slice(256 - length);
    const target = Buffer.alloc(length + 2, 0x55);
    putLatin1(target, 1, text);
    assert.deepEqual(target, Buffer.concat([Buffer.from("U"), Buffer.from(text, "latin1"), Buffer.from("U")]));
  }
});

test("reading beyond the end is the peer's fault, writing beyond it ours", () => {
  const bytes = Buffer.alloc(8);
  const reader = new ByteReader().reset(bytes, viewOf(bytes), 2, 5);
  assert.equal(reader.u16(), 0);
  assert.throws(() => reader.u16(), ProtocolError);
  assert.equal(reader.u8(), 0);
  assert.throws(() => reader.u8(), ProtocolError);
  assert.throws(() => reader.latin1(1), ProtocolError);
  assert.throws(() => reader.copy(1), ProtocolError);
  const writer = new ByteWriter(Buffer.alloc(3));
  assert.throws(() => writer.u32(1), RangeError);
  assert.throws(() => writer.latin1("four"), RangeError);
  assert.throws(() => writer.bytes(Buffer.alloc(4)), RangeError);
});

test("integers beyond 2^53 are refused", () => {
  for (const hex of ["0000000000002000", "ffffffffffffffff"]) {
    const bytes = Buffer.from(hex, "hex");
    assert.throws(() => new ByteReader().reset(bytes, viewOf(bytes), 0, 8).u53(), ProtocolError);
  }
  const bytes = Buffer.from("00000000000020ff", "hex");
  assert.throws(() => new ByteReader().reset(bytes, viewOf(bytes), 0, 8).i53(), ProtocolError);
});
