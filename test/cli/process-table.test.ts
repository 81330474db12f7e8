/** Who is alive and who uses a directory, from /proc. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, openSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { identify, isAlive, usersOf } from "../../src/cli/process-table.ts";

const folder = realpathSync(mkdtempSync(join(tmpdir(), "netdrive-processes-")));
let child: ChildProcess;

before(async () => {
  child = spawn("sleep", ["60"], { cwd: folder, stdio: "ignore" });
  await once(child, "spawn");
});

after(() => {
  child.kill("SIGKILL");
  rmSync(folder, { recursive: true });
});

test("a process is known by number and start time", async () => {
  const known = identify(child.pid ?? 0);
  assert.ok(known !== undefined && isAlive(known));
  assert.ok(!isAlive({ ...known, startTicks: known.startTicks + 1 }));
  const other = spawn("true", { stdio: "ignore" });
  const short = identify(other.pid ?? 0);
  await once(other, "exit");
  assert.ok(short === undefined || !isAlive(short));
  assert.equal(identify(0), undefined);
});

test("users of a directory are found by working directory and by open file, others are not", async () => {
  assert.deepEqual(usersOf(folder), [`sleep (${child.pid})`]);
  assert.deepEqual(usersOf(folder.slice(0, -1)), []);
  writeFileSync(join(folder, "file"), "");
  const file = openSync(join(folder, "file"), "r");
  const reader = spawn("sleep", ["60"], { stdio: ["ignore", "ignore", "ignore", file] });
  await once(reader, "spawn");
  assert.ok(usersOf(folder).includes(`sleep (${reader.pid})`));
  reader.kill("SIGKILL");
  await once(reader, "exit");
});
