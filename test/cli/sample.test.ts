/** The sample directory of `up`: removed only while it is nobody's. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { makeSample, removeSample } from "../../src/cli/sample.ts";
import { command } from "../support/child.ts";

function sample(t: TestContext): string {
  const folder = makeSample();
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

test("an untouched sample is removed, also if some of it is gone or empty folders came", (t) => {
  const folder = sample(t);
  assert.match(readFileSync(join(folder, "README.txt"), "utf8"), /netdrive/);
  rmSync(join(folder, "numbers"), { recursive: true });
  mkdirSync(join(folder, "new"));
  assert.ok(removeSample(folder));
  assert.ok(!existsSync(folder));
});

test("whatever a user made or changed keeps it: a file, a link, a pipe, other content", async (t) => {
  const changes: ((folder: string) => unknown)[] = [
    (folder) => writeFileSync(join(folder, "letters/mine.txt"), "x"),
    (folder) => writeFileSync(join(folder, "README.txt"), "changed"),
    (folder) => symlinkSync("README.txt", join(folder, "link")),
    (folder) => command("mkfifo", [join(folder, "pipe")]),
  ];
  for (const change of changes) {
    const folder = sample(t);
    await change(folder);
    assert.ok(!removeSample(folder));
    assert.ok(existsSync(join(folder, "letters/to-a-friend.txt")));
  }
});
