/** Files that are made once. That they outlive a power cut is seen in test/mount/power-cut. */
import assert from "node:assert/strict";
import { chmodSync, chownSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { keepFile, replaceFile } from "../../src/cli/kept-file.ts";
import { command } from "../support/child.ts";
import { smallTmpfs } from "../support/small-disk.ts";
import { makeTemp } from "../support/temp.ts";
import { USER } from "./as-user.ts";

test("a kept file is made once, for its user only, and nothing is left beside it", async () => {
  await using temp = makeTemp("kept");
  const file = join(temp.path, "state", "secret");
  assert.equal(
    keepFile(file, () => "first"),
    "first",
  );
  assert.equal(
    keepFile(file, () => assert.fail("it is there")),
    "first",
  );
  assert.equal(statSync(file).mode & 0o777, 0o600);
  assert.equal(statSync(join(file, "..")).mode & 0o777, 0o700);
  replaceFile(file, "second");
  assert.equal(readFileSync(file, "utf8"), "second");
  assert.deepEqual(readdirSync(join(file, "..")), ["secret"]);
});

test("it can be in a folder of the user's that lies in one the user cannot read", async () => {
  await using temp = makeTemp("kept");
  const folder = join(temp.path, "closed/own");
  mkdirSync(folder, { recursive: true });
  chownSync(folder, USER, USER);
  chmodSync(join(folder, ".."), 0o711);
  const script = `import { keepFile } from "${new URL("../../src/cli/kept-file.js", import.meta.url)}";
    process.stdout.write(keepFile(process.argv[1], () => "kept"));`;
  const args = ["--input-type=module", "-e", script, join(folder, "secret")];
  // This user may not write where coverage goes.
  const env = { ...process.env, NODE_V8_COVERAGE: undefined };
  assert.equal((await command(process.execPath, args, { uid: USER, gid: USER, env })).stdout, "kept");
});

test("two that make the same file both have the text of the first", async () => {
  await using temp = makeTemp("kept");
  const file = join(temp.path, "secret");
  let early = "";
  const late = keepFile(file, () => {
    early = keepFile(file, () => "early");
    return "late";
  });
  assert.deepEqual([early, late, readFileSync(file, "utf8")], ["early", "early", "early"]);
  assert.deepEqual(readdirSync(temp.path), ["secret"]);
});

test("on a disk without room for all of it a file stays as it was, and nothing is left beside it", async () => {
  await using disk = await smallTmpfs(32_768);
  const file = join(disk.path, "state");
  replaceFile(file, "before");
  // Its beginning has room.
  assert.throws(() => replaceFile(file, "x".repeat(65_536)), { code: "ENOSPC" });
  assert.equal(readFileSync(file, "utf8"), "before");
  assert.deepEqual(readdirSync(disk.path), ["state"]);
});
