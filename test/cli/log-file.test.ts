/** The bounded log of a background daemon. */
import assert from "node:assert/strict";
import {
  closeSync,
  existsSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
} from "node:fs";
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

test("a line that cannot be written is lost without harm, and later ones are written when they can be", () => {
  const parent = join(folder, "c");
  const path = join(parent, "c.log");
  mkdirSync(parent);
  const log = openLogFile(path, 1);
  log.write("one");
  rmSync(parent, { recursive: true });
  log.write("two");
  // The number of the log's descriptor, had that been closed.
  const other = openSync(join(folder, "other"), "w");
  log.write("three");
  fstatSync(other);
  mkdirSync(parent);
  log.write("four");
  assert.equal(readFileSync(path, "utf8"), "four\n");
  log.remove();
  closeSync(other);
});

test("what is said after the log was removed goes nowhere", () => {
  const log = openLogFile(join(folder, "d.log"), 1);
  log.write("one");
  log.remove();
  const path = join(folder, "next");
  const other = openSync(path, "w");
  log.write("two");
  log.write("three");
  log.remove();
  closeSync(other);
  assert.equal(readFileSync(path, "utf8"), "");
  assert.ok(!existsSync(join(folder, "d.log")));
});
