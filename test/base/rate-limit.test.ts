/** A token bucket. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RateLimit } from "../../src/base/rate-limit.ts";

test("a burst passes, then as many as the rate allows, and what was refused is counted", () => {
  const limit = new RateLimit({ burst: 3, perSecond: 2 });
  assert.deepEqual(
    [0, 0, 0, 0, 0].map((nowMs) => limit.tryTake(nowMs)),
    [0, 0, 0, -1, -1],
  );
  assert.equal(limit.tryTake(499), -1);
  assert.equal(limit.tryTake(500), 3);
  assert.equal(limit.tryTake(500), -1);
  assert.deepEqual(
    [100_000, 100_000, 100_000, 100_000].map((nowMs) => limit.tryTake(nowMs)),
    [1, 0, 0, -1],
  );
});

test("a clock that goes back gives nothing", () => {
  const limit = new RateLimit({ burst: 1, perSecond: 1 });
  assert.equal(limit.tryTake(1000), 0);
  assert.equal(limit.tryTake(0), -1);
  assert.equal(limit.tryTake(500), -1);
});
