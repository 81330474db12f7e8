#!/usr/bin/env node
/**
 * Tries every decoder with samples that were changed at random; see test/support/fuzz.ts.
 *
 *     node scripts/fuzz.mjs [--seconds N] [--seed N]      (defaults: 60 seconds, a new seed)
 *
 * Prints its seed, how many inputs it tried, and what was found: the target, the error and the input as hex, to be kept in test/golden/corpus as TARGET-WHAT.hex. Exits with 0
 * exactly if nothing was found. Needs the built tests.
 */
import { parseArgs } from "node:util";
import { fuzz } from "../dist/test/support/fuzz.js";

const { values } = parseArgs({
  options: {
    seconds: { type: "string", default: "60" },
    seed: { type: "string", default: String(Math.floor(Math.random() * 2 ** 31)) },
  },
});
const seed = Number(values.seed);
const endMs = performance.now() + Number(values.seconds) * 1000;
if (!Number.isInteger(seed) || Number.isNaN(endMs)) {
  process.stderr.write("fuzz: --seed and --seconds are numbers\n");
  process.exit(2);
}
const LOOK_EVERY = 1024;
process.stdout.write(`seed ${seed}\n`);
const { count, findings } = fuzz(seed, (tried) => tried % LOOK_EVERY === 0 && performance.now() >= endMs);
process.stdout.write(`${count} inputs, ${findings.length} findings\n`);
for (const { target, input, error } of findings) {
  process.stderr.write(
    `${target}: ${error instanceof Error ? error.stack : String(error)}\n${input.toString("hex")}\n`,
  );
}
process.exitCode = findings.length === 0 ? 0 : 1;
