import assert from "node:assert/strict";
import { test } from "node:test";
import { type LinkTrouble, type LinkTroublePlan, linkTroubles } from "../../scripts/bench/link-schedule.ts";

function first(plan: LinkTroublePlan, count: number): LinkTrouble[] {
  const troubles: LinkTrouble[] = [];
  for (const trouble of linkTroubles(plan)) {
    troubles.push(trouble);
    if (troubles.length === count) break;
  }
  return troubles;
}

const plan = {
  stall: { everyMs: 100, durationMsMax: 40 },
  freeze: { everyMs: 1000, durationMsMax: 300 },
  cut: { everyMs: 500 },
};

test("the same seed gives the same troubles, another seed others", () => {
  assert.deepEqual(first({ seed: 7, ...plan }, 200), first({ seed: 7, ...plan }, 200));
  assert.notDeepEqual(first({ seed: 7, ...plan }, 5), first({ seed: 8, ...plan }, 5));
});

test("troubles come in the order of time, about as often as planned and no longer than allowed", () => {
  const troubles = first({ seed: 1, ...plan }, 4000);
  const lastMs = troubles.at(-1)?.atMs ?? 0;
  assert.ok(troubles.every(({ atMs }, index) => atMs >= (troubles[index - 1]?.atMs ?? 0)));
  const counts = { stall: 0, freeze: 0, cut: 0 };
  for (const { kind, durationMs } of troubles) {
    counts[kind] += 1;
    assert.ok(durationMs <= { stall: 40, freeze: 300, cut: 0 }[kind]);
  }
  assert.ok(Math.abs(counts.stall / (lastMs / 120) - 1) < 0.1, `${counts.stall} stalls`);
  assert.ok(Math.abs(counts.freeze / (lastMs / 1150) - 1) < 0.2, `${counts.freeze} freezes`);
  assert.ok(Math.abs(counts.cut / (lastMs / 500) - 1) < 0.2, `${counts.cut} cuts`);
});

test("a plan without troubles ends at once", () => {
  assert.deepEqual(first({ seed: 1 }, 1), []);
});
