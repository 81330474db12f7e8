/**
 * npm install of packages with many files on the drive: the same tree as on the local disk, and it runs.
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { command, shell } from "../support/child.ts";
import { startDrive } from "../support/drive.ts";
import { manifest } from "../support/sample-tree.ts";

/** About 3,300 files. */
const PACKAGES = ["lodash@4.17.21", "rxjs@7.8.1"];
const FLAGS = ["--no-audit", "--no-fund", "--ignore-scripts", "--no-update-notifier", "--prefer-offline"];

test("npm installs 3,300 files, as on the local disk, and they run", async () => {
  await using drive = await startDrive();
  const local = join(drive.scratch, "project");
  await shell("mkdir project", { cwd: drive.scratch });
  writeFileSync(join(local, "package.json"), JSON.stringify({ name: "project", version: "1.0.0", private: true }));
  await shell(`cp -r "${local}" "${drive.path}/project"`);
  const remote = join(drive.path, "project");
  await command("npm", ["install", ...FLAGS, ...PACKAGES], { cwd: remote });
  await shell(`cp "${remote}/package.json" "${remote}/package-lock.json" "${local}/"`);
  await command("npm", ["ci", ...FLAGS], { cwd: local });
  const [found, expected] = [await manifest(remote, { times: false }), await manifest(local, { times: false })];
  assert.ok(expected.length > 6000, `${expected.length} lines`);
  assert.deepEqual(found, expected);
  const program = "console.log(require('lodash').chunk([1,2,3],2).length, typeof require('rxjs').of)";
  assert.equal((await command(process.execPath, ["-e", program], { cwd: remote })).stdout, "2 function\n");
  await command("npm", ["ci", ...FLAGS], { cwd: remote });
  await command("npm", ["ls", "--all"], { cwd: remote });
});
