#!/usr/bin/env node
/**
 * Lets programs work on a real mount while its link is cut, stalled, frozen and slowed at random, and its server killed.
 *
 *     node scripts/storm.mjs [--minutes N] [--kill-server] [--calm-link] [--seed N]      (defaults: 5 minutes, a new seed)
 *
 * git, SQLite, tar, random reads and writes, appends and renames run round after round, each compared with the same on a local directory. Exits with 0 exactly if no
 * program saw an error and everything is as locally. Prints its seed. Needs root and the built tests (npm run check, or node scripts/build.mjs). The short form of
 * it is test/mount/storm.
 */
import { parseArgs } from "node:util";
import { runStorm } from "../dist/test/support/storm.js";

const { values } = parseArgs({
  options: {
    minutes: { type: "string", default: "5" },
    "kill-server": { type: "boolean", default: false },
    "calm-link": { type: "boolean", default: false },
    seed: { type: "string", default: String(Math.floor(Math.random() * 2 ** 31)) },
  },
});
const seed = Number(values.seed);
const durationMs = Number(values.minutes) * 60_000;
if (!Number.isInteger(seed) || !(durationMs > 0)) {
  process.stderr.write("storm: --seed and --minutes are numbers\n");
  process.exit(2);
}
const say = (text) => process.stdout.write(`${text}\n`);
say(`seed ${seed}`);
try {
  const plan = { seed, durationMs, isDeadly: values["kill-server"], isRough: !values["calm-link"], say };
  say(JSON.stringify(await runStorm(plan)));
} catch (error) {
  process.stderr.write(`storm: ${error.stack}\n`);
  process.exitCode = 1;
}
