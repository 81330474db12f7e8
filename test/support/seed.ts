/**
 * Seeds of property tests: the same in every run, printed, and chosen by NETDRIVE_TEST_SEED when another is wanted.
 */
import type { TestContext } from "node:test";

/** Parameters for `fc.assert`: `numRuns` cases from the printed seed. */
export function seeded(t: TestContext, numRuns: number): { seed: number; numRuns: number } {
  const seed = Number(process.env["NETDRIVE_TEST_SEED"] ?? 20_260_101);
  t.diagnostic(`seed ${seed}, ${numRuns} runs`);
  return { seed, numRuns };
}
