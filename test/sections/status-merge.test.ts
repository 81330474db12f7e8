/** Joined statuses against a set of sections. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { StatusMerge } from "../../src/sections/status-merge.ts";
import { seeded } from "../support/seed.ts";

function drained(status: StatusMerge): [number, number, number][] {
  const ranges: [number, number, number][] = [];
  status.drain((tag, first, count) => ranges.push([tag, first, count]));
  return ranges.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
}

test("sections that succeed in order are one range for each request", () => {
  const status = new StatusMerge();
  for (let index = 0; index < 1000; index++) {
    status.add(7, index, index);
    status.add(8, index + 50, index);
  }
  assert.equal(status.ranges, 2);
  assert.equal(status.sinceMs, 0);
  assert.deepEqual(drained(status), [
    [7, 0, 1000],
    [8, 50, 1000],
  ]);
  assert.deepEqual(drained(status), []);
  assert.equal(status.sinceMs, Number.POSITIVE_INFINITY);
});

test("beyond the ranges it can hold it refuses, but still joins", () => {
  const status = new StatusMerge(2);
  assert.deepEqual(
    [0, 10, 20, 11, 9, 1].map((index) => status.add(1, index, 0)),
    [true, true, false, true, true, true],
  );
  assert.deepEqual(drained(status), [
    [1, 0, 2],
    [1, 9, 3],
  ]);
});

test("any order of sections gives the fewest ranges, each section once", (t) => {
  const section = fc.tuple(fc.nat({ max: 2 }), fc.nat({ max: 30 }));
  fc.assert(
    fc.property(fc.array(section, { maxLength: 80 }), (sections) => {
      const status = new StatusMerge();
      const model = new Set<string>();
      for (const [tag, index] of sections) {
        assert.equal(status.add(tag, index, 0), true);
        model.add(`${tag}/${index}`);
        status.checkInvariants();
      }
      const runs = [...model].filter((each) => {
        const [tag, index] = each.split("/").map(Number);
        return !model.has(`${tag}/${(index as number) - 1}`);
      });
      const ranges = drained(status);
      assert.equal(ranges.length, runs.length);
      const seen = ranges.flatMap(([tag, first, count]) =>
        Array.from({ length: count }, (_, at) => `${tag}/${first + at}`),
      );
      assert.deepEqual(new Set(seen), model);
      assert.equal(seen.length, model.size);
    }),
    seeded(t, 1000),
  );
});
