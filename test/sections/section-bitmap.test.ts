/** The bitmap against a set of integers, over sizes around every word boundary, and against hostile resume lists. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { SectionBitmap } from "../../src/sections/section-bitmap.ts";
import { SECTIONS_MAX } from "../../src/sections/section-plan.ts";
import { seeded } from "../support/seed.ts";

const SIZES = [0, 1, 7, 8, 9, 31, 32, 33, 63, 64, 65, 4095, 4096, 4097];

function members(bitmap: SectionBitmap): number[] {
  const indexes: number[] = [];
  for (let index = bitmap.next(0); index !== -1; index = bitmap.next(index + 1)) indexes.push(index);
  return indexes;
}

function runs(bitmap: SectionBitmap): [number, number][] {
  const found: [number, number][] = [];
  bitmap.eachRun((first, count) => found.push([first, count]));
  return found;
}

function encoded(bitmap: SectionBitmap): Uint8Array {
  const bytes = new Uint8Array(bitmap.encodedBytes);
  assert.equal(bitmap.encode(bytes, 0), bytes.length);
  return bytes;
}

for (const size of SIZES) {
  test(`of ${size} sections all are outstanding at first, and it is done when each has succeeded once`, () => {
    const bitmap = new SectionBitmap(size);
    bitmap.checkInvariants();
    assert.equal(bitmap.outstanding, size);
    assert.deepEqual(runs(bitmap), size === 0 ? [] : [[0, size]]);
    // 3 and the sizes have no common divisor larger than 3, so go through the residues one after the other.
    for (let start = 0; start < 3; start++) {
      for (let index = start; index < size; index += 3) {
        assert.equal(bitmap.done, false);
        assert.equal(bitmap.clear(index), true);
        assert.equal(bitmap.clear(index), false, "a second answer changes nothing");
      }
      bitmap.checkInvariants();
    }
    assert.equal(bitmap.done, true);
    assert.equal(bitmap.next(0), -1);
    assert.deepEqual(runs(bitmap), []);
  });

  test(`the resume list of ${size} sections has clear excess bits and comes back equal`, () => {
    for (const fill of ["full", "empty"] as const) {
      const bitmap = new SectionBitmap(size, fill);
      const bytes = encoded(bitmap);
      assert.equal(bytes.length, 4 + Math.ceil(size / 8));
      if (fill === "full" && size % 8 !== 0) assert.equal(bytes.at(-1), 2 ** (size % 8) - 1);
      const parsed = SectionBitmap.parse(bytes);
      parsed.checkInvariants();
      assert.equal(parsed.count, size);
      assert.deepEqual(members(parsed), members(bitmap));
    }
  });

  if (size % 8 !== 0) {
    test(`a resume list of ${size} sections with any excess bit set is malformed`, () => {
      for (let bit = size % 8; bit < 8; bit++) {
        const bytes = encoded(new SectionBitmap(size, "empty"));
        bytes[bytes.length - 1] = 1 << bit;
        assert.throws(() => SectionBitmap.parse(bytes), { name: "ProtocolError", closeCode: 1 });
      }
    });
  }
}

type Step = { op: "clear"; at: number } | { op: "set"; at: number } | { op: "clearRange"; at: number; count: number };

test("any order of steps leaves what a set of integers would hold", (t) => {
  const at = fc.nat({ max: 140 });
  const step: fc.Arbitrary<Step> = fc.oneof(
    fc.record({ op: fc.constant("clear" as const), at }),
    fc.record({ op: fc.constant("set" as const), at }),
    fc.record({ op: fc.constant("clearRange" as const), at, count: fc.nat({ max: 150 }) }),
  );
  fc.assert(
    fc.property(fc.nat({ max: 140 }), fc.boolean(), fc.array(step, { maxLength: 60 }), (size, full, steps) => {
      const bitmap = new SectionBitmap(size, full ? "full" : "empty");
      const model = new Set<number>(full ? Array.from({ length: size }, (_, index) => index) : []);
      for (const each of steps) {
        if (each.op === "clear") assert.equal(bitmap.clear(each.at), model.delete(each.at));
        else if (each.op === "set") {
          if (each.at >= size) continue;
          assert.equal(bitmap.set(each.at), !model.has(each.at));
          model.add(each.at);
        } else {
          let cleared = 0;
          for (let index = each.at; index < each.at + each.count; index++) if (model.delete(index)) cleared++;
          assert.equal(bitmap.clearRange(each.at, each.count), cleared);
        }
        bitmap.checkInvariants();
        assert.equal(bitmap.outstanding, model.size);
        assert.equal(bitmap.done, model.size === 0);
      }
      const sorted = [...model].sort((a, b) => a - b);
      assert.deepEqual(members(bitmap), sorted);
      for (let index = 0; index <= size; index++) {
        assert.equal(bitmap.has(index), model.has(index));
        assert.equal(bitmap.next(index), sorted.find((each) => each >= index) ?? -1);
        let clear = index;
        while (model.has(clear)) clear++;
        assert.equal(bitmap.nextClear(index), clear);
      }
      const joined: number[] = [];
      for (const [first, count] of runs(bitmap)) {
        assert(!model.has(first - 1) && !model.has(first + count), "runs are as long as they can be");
        for (let index = first; index < first + count; index++) joined.push(index);
      }
      assert.deepEqual(joined, sorted);
      const copy = new SectionBitmap(3);
      copy.copyFrom(bitmap);
      copy.checkInvariants();
      assert.deepEqual(encoded(copy), encoded(bitmap));
      assert.deepEqual(members(SectionBitmap.parse(encoded(bitmap))), sorted);
    }),
    seeded(t, 1000),
  );
});

test("a bitmap is used again for fewer and for more sections", () => {
  const bitmap = new SectionBitmap(4096);
  for (const size of [65, 9, 4096, 5000, 1, 0, 64]) {
    bitmap.reset(size);
    bitmap.checkInvariants();
    assert.equal(bitmap.outstanding, size);
    bitmap.reset(size, "empty");
    bitmap.checkInvariants();
    assert.equal(bitmap.done, true);
  }
});

test("a hostile resume list never gives anything but a ProtocolError or a sound bitmap", (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 24 }), fc.nat({ max: 12 }), (bytes, small) => {
      // Most random counts are far too large; make some of them fit the length.
      if (bytes.length >= 4 && small < 10) bytes.set([Math.max(0, (bytes.length - 4) * 8 - small), 0, 0, 0]);
      let parsed: SectionBitmap;
      try {
        parsed = SectionBitmap.parse(bytes);
      } catch (error) {
        assert.equal((error as Error).name, "ProtocolError");
        return;
      }
      parsed.checkInvariants();
      assert.deepEqual(encoded(parsed), bytes, "one bitmap has one encoding");
    }),
    seeded(t, 3000),
  );
});

test("a resume list of more sections than agreed is refused before memory is taken for it", () => {
  const bytes = encoded(new SectionBitmap(65));
  assert.throws(() => SectionBitmap.parse(bytes, 64), { name: "ProtocolError", closeCode: 2 });
  assert.equal(SectionBitmap.parse(bytes, 65).count, 65);
  assert.throws(() => SectionBitmap.parse(new Uint8Array([0xff, 0xff, 0xff, 0xff])), { closeCode: 2 });
  const over = SECTIONS_MAX + 1;
  assert.throws(() => SectionBitmap.parse(new Uint8Array([over, over >>> 8, over >>> 16, 0]), over), { closeCode: 2 });
  assert.throws(() => new SectionBitmap(over), { name: "AssertionError" });
});
