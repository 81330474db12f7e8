/**
 * scripts/test in a small project of its own: what it counts, what it prints last, and that nothing left behind escapes it.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, beforeEach, test } from "node:test";
import { fileURLToPath } from "node:url";
import { identify } from "../../src/cli/process-table.ts";

const repository = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))));
const scratch = mkdtempSync(join(tmpdir(), "netdrive-runner-"));
after(() => rmSync(scratch, { recursive: true }));

let project = "";

beforeEach(() => {
  project = mkdtempSync(join(scratch, "project-"));
  mkdirSync(join(project, "scripts"));
  for (const name of ["test.mjs", "test-reporter.mjs", "leftovers.mjs"]) {
    copyFileSync(join(repository, "scripts", name), join(project, "scripts", name));
  }
});

/** A built test file with `body`. */
function write(path: string, body: string): void {
  const file = join(project, "dist/test", path);
  mkdirSync(dirname(file), { recursive: true });
  const imports = `const { test } = require("node:test"); const { spawn } = require("node:child_process");
    const { writeFileSync } = require("node:fs"); const { tmpdir } = require("node:os"); const { join } = require("node:path");`;
  writeFileSync(join(project, "dist/package.json"), "{}");
  writeFileSync(file, `${imports}\n${body}\n`);
}

function run(...patterns: string[]) {
  const result = spawnSync(process.execPath, [join(project, "scripts/test.mjs"), ...patterns], {
    encoding: "utf8",
    timeout: 60_000,
  });
  return { status: result.status, output: result.stdout, last: result.stdout.trimEnd().split("\n").at(-1) };
}

test("the last line is the sum of all files, and failures are shown in full", () => {
  write("a/one.test.js", 'test("good", () => {}); test("outer", async (t) => { await t.test("inner", () => {}); });');
  write("b/two.test.js", 'test("bad", () => { console.log("said"); throw new Error("the reason"); });');
  const { status, output, last } = run();
  assert.equal(last, "3 passed, 1 failed");
  assert.equal(status, 1);
  assert.match(output, /^ok {3}test\/a\/one\.test\.ts: 3 passed/m);
  assert.match(output, /FAIL test\/b\/two\.test\.ts: 0 passed, 1 failed.*bad\n.*the reason.*said/s);
});

test("a pattern picks files by their source path", () => {
  write("a/one.test.js", 'test("good", () => {});');
  write("b/two.test.js", 'test("bad", () => { throw new Error(); });');
  assert.deepEqual(run("a/on").last, "1 passed, 0 failed");
  assert.deepEqual(run("one.test.ts", "b/").last, "1 passed, 1 failed");
});

test("a run without a test, and a file without one, have failed", () => {
  const none = run();
  assert.deepEqual([none.last, none.status], ["0 passed, 0 failed", 1]);
  write("a/one.test.js", "");
  const empty = run();
  assert.deepEqual([empty.last, empty.status], ["0 passed, 1 failed", 1]);
});

test("a file that dies is a failure with its last words", () => {
  write("a/one.test.js", 'test("good", () => {}); test("dies", () => { process.kill(process.pid, "SIGKILL"); });');
  const { output, last } = run();
  assert.match(last ?? "", /passed, 1 failed$/);
  assert.match(output, /ended with SIGKILL/);
});

test("an error after the last test is a failure", () => {
  write("a/one.test.js", 'test("good", () => {}); process.on("exit", () => { process.exitCode = 3; });');
  assert.match(run().output, /the file as a whole\n\s+ended with 3/);
});

test("a process left behind, however detached, is a failure and is ended", () => {
  const log = join(project, "pid");
  const body = `const child = spawn("sleep", ["77"], { detached: true, stdio: "ignore" }); child.unref();
    writeFileSync(${JSON.stringify(log)}, String(child.pid));`;
  write("a/one.test.js", `test("leaves", () => { ${body} });`);
  const { output, last } = run();
  assert.equal(last, "1 passed, 1 failed");
  assert.match(output, /leaves nothing behind\n\s+process \d+: sleep 77/);
  assert.equal(identify(Number(readFileSync(log, "utf8"))), undefined);
});

test("a temp file and a mount left behind are failures and are removed", () => {
  const mount = `require("node:fs").mkdirSync(join(tmpdir(), "m"));
    require("node:child_process").execFileSync("mount", ["-t", "tmpfs", "none", join(tmpdir(), "m")]);`;
  write("a/one.test.js", `test("leaves", () => { writeFileSync(join(tmpdir(), "netdrive-x"), ""); });`);
  write("b/two.test.js", `test("leaves", () => { ${mount} });`);
  const { output, last } = run();
  assert.equal(last, "2 passed, 3 failed");
  assert.match(output, /one\.test\.ts.*temp file netdrive-x/s);
  assert.match(output, /two\.test\.ts.*mount .*\/m\n.*temp file m\n/s);
  assert.ok(!readFileSync("/proc/self/mountinfo", "utf8").includes(tmpdir()));
});

test("a skipped test is counted apart", () => {
  write("a/one.test.js", 'test("good", () => {}); test("later", { skip: "why" }, () => {});');
  assert.equal(run().last, "1 passed, 0 failed, 1 skipped");
});
