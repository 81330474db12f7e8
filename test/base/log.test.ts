/** Log lines on standard error: who reads them slowly, or not at all, costs bounded memory. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { printable } from "../../src/base/log.ts";

const LOG = new URL("../../src/base/log.js", import.meta.url).href;
const CLOCK = new URL("../../src/base/clock.js", import.meta.url).href;

test("lines that nobody reads are lost beyond a bound, and hold nobody up", async () => {
  const script = `
    import { createLog } from ${JSON.stringify(LOG)};
    import { systemClock } from ${JSON.stringify(CLOCK)};
    const log = createLog({ level: "warn", clock: systemClock });
    for (let line = 0; line < 10_000; line += 1) log.warn("x".repeat(1000));
    process.stdout.write(String(process.stderr.writableLength), () => process.exit());`;
  const child = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: ["ignore", "pipe", "pipe"] });
  const [text] = (await once(child.stdout, "data")) as [Buffer];
  const waiting = Number(text);
  assert.ok(waiting > 500_000 && waiting < 1_100_000, `${waiting} bytes wait`);
  child.stderr.destroy();
  if (child.exitCode === null) await once(child, "exit");
});

test("a line stays a line, whatever is in it", () => {
  assert.equal(printable("a\nb\u001b[2J\u2028"), "a\\u000ab\\u001b[2J\\u2028");
});
