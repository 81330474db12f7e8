/**
 * Reporter of node:test for scripts/test: one line of JSON for each test that ended, on descriptor 3, standard output
 * left to the tests.
 *
 * A suite is not a test, and a test that only failed because one in it failed is not said twice.
 */
import { writeSync } from "node:fs";
import { inspect } from "node:util";

const CHANNEL = 3;

/** The parts of a failure a reader needs. `error` is node:test's wrapper, its `cause` what was thrown. */
function reason(error) {
  const thrown = error?.cause ?? error;
  return thrown instanceof Error || typeof thrown === "object" ? inspect(thrown, { depth: 4 }) : String(thrown);
}

export default async function* report(source) {
  for await (const { type, data } of source) {
    if (type !== "test:pass" && type !== "test:fail") continue;
    if (data.details.type === "suite" && type === "test:pass") continue;
    if (data.skip === "test name does not match pattern") continue;
    const { error } = data.details;
    if (type === "test:fail" && error?.failureType === "subtestsFailed") continue;
    const skipped = data.skip !== undefined || data.todo !== undefined;
    const result = skipped ? "skipped" : type === "test:pass" ? "passed" : "failed";
    const line = { result, name: data.name, ms: data.details.duration_ms };
    if (result === "failed") Object.assign(line, { reason: reason(error), line: data.line });
    writeSync(CHANNEL, `${JSON.stringify(line)}\n`);
  }
  yield "";
}
