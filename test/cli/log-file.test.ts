/** The bounded log of a background daemon. */
import assert from "node:assert/strict";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { openLogFile } from "../../src/cli/log-file.ts";

const folder = mkdtempSync(join(tmpdir(), "netdrive-log-"));
after(() => rmSync(folder, { recursive: true }));

test("lines are appended to what was there, readable only by the owner", () => {
  const path = join(folder, "a.log");
  openLogFile(path).write("one");
  openLogFile(path).write("two");
  assert.equal(readFileSync(path, "utf8"), "one\ntwo\n");
  assert.equal(statSync(path).mode & 0o777, 0o600);
});

test("a full log becomes the one before, and no more than two are kept", () => {
  const path = join(folder, "b.log");
  const log = openLogFile(path, 100);
  for (let line = 0; line < 1000; line++) log.write(`line ${line}`);
  assert.ok(statSync(path).size <= 120 && statSync(`${path}.1`).size <= 120);
  assert.match(readFileSync(`${path}.1`, "utf8") + readFileSync(path, "utf8"), /line 998\nline 999\n$/);
  log.remove();
  assert.ok(!existsSync(path) && !existsSync(`${path}.1`));
});

test("a line that cannot be written is lost without harm", () => {
  const path = join(folder, "c.log");
  const log = openLogFile(path, 1);
  log.write("one");
  rmSync(path);
  log.write("two");
  log.write("three");
});
