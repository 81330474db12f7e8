/**
 * A storm of some seconds over a real mount, its link and its server: no program sees an error, and everything is as on a local disk.
 *
 * What happens is in test/support/storm.ts; the long form is `node scripts/storm.mjs`.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { seeded } from "../support/seed.ts";
import { runStorm } from "../support/storm.ts";

const DURATION_MS = 8000;

test("a link that is cut, stalled, frozen and slowed harms no program", async (t) => {
  const { seed } = seeded(t, 1);
  const { rounds, cuts, attempts } = await runStorm({ seed, durationMs: DURATION_MS, isDeadly: false, isRough: true });
  assert.equal(Object.keys(rounds).length, 5);
  assert.ok(cuts > 3, `${cuts} cuts`);
  assert.ok(attempts > 50, `${attempts} attempts to get a lock`);
});

test("a server that is killed again and again, behind such a link, harms no program", async (t) => {
  const { seed } = seeded(t, 1);
  const { rounds, kills, attempts } = await runStorm({
    seed: seed + 1,
    durationMs: DURATION_MS,
    isDeadly: true,
    isRough: true,
  });
  assert.equal(Object.keys(rounds).length, 5);
  assert.ok(kills > 1, `${kills} kills`);
  assert.ok(attempts > 50, `${attempts} attempts to get a lock`);
});
