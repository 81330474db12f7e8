/** Whatever comes from elsewhere is decoded or refused, and never does anything else; scripts/fuzz.mjs runs the same for longer. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { corpus, fuzz, TARGETS, tryInput } from "../support/fuzz.ts";
import { seeded } from "../support/seed.ts";

test("every sample is taken as it is", () => {
  for (const target of TARGETS) for (const sample of target.samples) assert.equal(tryInput(target, sample), undefined);
});

test("samples that were changed at random are decoded, or refused as it should be", (t) => {
  const { seed, numRuns } = seeded(t, 120_000);
  const { findings } = fuzz(seed, (count) => count >= numRuns);
  assert.deepEqual(findings, []);
});

test("what was found once is refused", () => {
  for (const { file, target, input } of corpus()) assert.equal(tryInput(target, input), undefined, file);
});
