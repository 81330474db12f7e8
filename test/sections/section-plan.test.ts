/** The plan against a naive one that walks the range, and against BigInt arithmetic where walking is out of reach. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { SECTIONS_MAX, SectionPlan } from "../../src/sections/section-plan.ts";
import { seeded } from "../support/seed.ts";

/** All sections of a range, by walking it. */
function naive(offset: number, length: number, section: number, aligned: boolean): [offset: number, length: number][] {
  const sections: [number, number][] = [];
  for (let at = offset, left = length; left > 0; ) {
    const step = Math.min(left, aligned ? section - (at % section) : section);
    sections.push([at, step]);
    at += step;
    left -= step;
  }
  return sections;
}

test("sections are those a walk over the range finds", (t) => {
  fc.assert(
    fc.property(
      fc.nat({ max: 5000 }),
      fc.nat({ max: 3000 }),
      fc.integer({ min: 1, max: 700 }),
      fc.boolean(),
      (offset, length, section, aligned) => {
        const plan = new SectionPlan(offset, length, section, { aligned });
        const expected = naive(offset, length, section, aligned);
        assert.equal(plan.count, expected.length);
        expected.forEach(([at, bytes], index) => {
          assert.equal(plan.offset(index), at);
          assert.equal(plan.position(index), at - offset);
          assert.equal(plan.length(index), bytes);
          assert.equal(plan.indexAt(at - offset), index);
          assert.equal(plan.indexAt(at - offset + bytes - 1), index);
          const after = expected.slice(index).reduce((sum, [, each]) => sum + each, 0);
          assert.equal(plan.bytes(index, plan.count - index), after);
        });
      },
    ),
    seeded(t, 2000),
  );
});

test("arithmetic is exact up to 2^53 - 1", (t) => {
  const big = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER });
  fc.assert(
    fc.property(
      big,
      big,
      fc.integer({ min: 1, max: 2 ** 24 }),
      fc.boolean(),
      fc.double({ min: 0, max: 1, noNaN: true }),
      (a, b, section, aligned, pick) => {
        const offset = Math.min(a, b);
        const length = Math.max(a, b) - offset;
        const plan = new SectionPlan(offset, length, section, { aligned, countMax: Number.MAX_SAFE_INTEGER });
        const size = BigInt(section);
        const skew = aligned ? BigInt(offset) % size : 0n;
        const count = length === 0 ? 0n : (skew + BigInt(length) + size - 1n) / size;
        assert.equal(BigInt(plan.count), count);
        if (plan.count === 0) return;
        const index = Math.min(Math.floor(pick * plan.count), plan.count - 1);
        const position = index === 0 ? 0n : BigInt(index) * size - skew;
        assert.equal(BigInt(plan.position(index)), position);
        assert.equal(plan.indexAt(plan.position(index)), index);
        const last = plan.count - 1;
        assert.equal(plan.position(last) + plan.length(last), length);
        if (index < last) assert.equal(plan.position(index) + plan.length(index), plan.position(index + 1));
      },
    ),
    seeded(t, 5000),
  );
});

test("an aligned plan puts its inner boundaries on multiples of the section size", () => {
  const plan = new SectionPlan(1000, 10_000, 4096, { aligned: true });
  assert.deepEqual(
    Array.from({ length: plan.count }, (_, index) => [plan.offset(index), plan.length(index)]),
    [
      [1000, 3096],
      [4096, 4096],
      [8192, 2808],
    ],
  );
});

test("a range no larger than a section is one section, and an empty one is none", () => {
  assert.equal(new SectionPlan(7, 4096, 4096).count, 1);
  assert.equal(new SectionPlan(7, 1, 4096).count, 1);
  assert.equal(new SectionPlan(7, 0, 4096).count, 0);
  assert.equal(new SectionPlan(7, 0, 4096, { aligned: true }).count, 0);
  assert.equal(new SectionPlan(7, 0, 4096).bytes(0, 0), 0);
});

test("too many sections are refused with EINVAL, the limit itself is not", () => {
  assert.equal(new SectionPlan(0, SECTIONS_MAX, 1).count, SECTIONS_MAX);
  assert.throws(() => new SectionPlan(0, SECTIONS_MAX + 1, 1), { name: "FsError", errno: "EINVAL" });
  assert.equal(new SectionPlan(0, 40, 10, { countMax: 4 }).count, 4);
  assert.throws(() => new SectionPlan(5, 40, 10, { countMax: 4, aligned: true }), { errno: "EINVAL" });
});

test("a range that leaves 2^53 - 1 is refused with EFBIG", () => {
  const end = Number.MAX_SAFE_INTEGER;
  assert.equal(new SectionPlan(end - 10, 10, 4096).length(0), 10);
  for (const [offset, length] of [
    [end - 10, 11],
    [end, 1],
    [-1, 1],
    [0, -1],
    [0.5, 1],
    [0, Number.NaN],
    [2 ** 53, 0],
  ] as const) {
    assert.throws(() => new SectionPlan(offset, length, 4096), { errno: "EFBIG" }, `${offset} + ${length}`);
  }
});
