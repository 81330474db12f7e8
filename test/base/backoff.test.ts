import assert from "node:assert/strict";
import { test } from "node:test";
import { Backoff } from "../../src/base/backoff.ts";

const OPTIONS = { firstMs: 10, maxMs: 100, factor: 2, jitter: 0.5 };

test("pauses double up to a bound, and start over after a reset", () => {
  const backoff = new Backoff(OPTIONS, () => 0);
  assert.deepEqual(
    [1, 2, 3, 4, 5, 6].map(() => backoff.nextMs()),
    [10, 20, 40, 80, 100, 100],
  );
  assert.equal(backoff.attempts, 6);
  backoff.reset();
  assert.equal(backoff.nextMs(), 10);
});

test("the bound holds after any number of attempts", () => {
  const backoff = new Backoff(OPTIONS, () => 0);
  for (let attempt = 0; attempt < 5000; attempt += 1) assert.ok(backoff.nextMs() <= 100);
});

test("jitter takes off up to its share", () => {
  assert.equal(new Backoff(OPTIONS, () => 0.999999).nextMs() > 5, true);
  assert.equal(new Backoff(OPTIONS, () => 0.5).nextMs(), 7.5);
});
