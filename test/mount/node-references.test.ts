/**
 * Issue 2: "FORGET counts right (node table does not grow: shown by a test that walks 100,000 files twice under memory pressure)".
 */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { makeTemp } from "../support/temp.ts";
import { type Mounted, mountStack } from "./mounted.ts";

const FOLDERS = 100;
const FILES = 1000;
const temp = makeTemp("nodes");
let mounted: Mounted;

before(async () => {
  for (let i = 0; i < FOLDERS; i++) {
    mkdirSync(join(temp.path, `d${i}`));
    for (let k = 0; k < FILES; k++) writeFileSync(join(temp.path, `d${i}/f${k}`), "");
  }
  mounted = await mountStack({ directory: temp.path });
});
after(async () => {
  await mounted.end();
  await temp.remove();
});

/** Makes the kernel let go of everything it can. */
async function squeeze(): Promise<number> {
  await mounted.shell("cd /; sync; echo 3 > /proc/sys/vm/drop_caches");
  return (await mounted.counters()).nodes;
}

test("100,000 files are walked twice, and the table of nodes shrinks to almost nothing each time", async () => {
  for (let round = 0; round < 2; round++) {
    const out = await mounted.shell("find . -type f -size 0 | wc -l; stat -c %h d*/f1* | sort -u");
    assert.equal(out, `${FOLDERS * FILES}\n1\n`);
    const { nodes } = await mounted.counters();
    assert.ok(nodes > 10_000, `${nodes} nodes while the kernel caches them`);
    const left = await squeeze();
    assert.ok(left < 500, `${left} nodes after the kernel let go`);
  }
});

test("files that are made, renamed, linked and removed leave no node behind", async () => {
  await mounted.shell(`
    mkdir new; cd new; seq 3000 | xargs touch
    for i in $(seq 300); do mv $i a$i; ln a$i b$i; ln -s a$i c$i; done
    ls -l > /dev/null; cat a1 b1 c1; cd ..; rm -r new`);
  const left = await squeeze();
  assert.ok(left < 500, `${left} nodes`);
});

test("listings that are broken off leave no node behind", async () => {
  await mounted.shell(`python3 - <<'END'
import os
for i in range(${FOLDERS}):
    with os.scandir("d%d" % i) as listing:
        next(listing).stat(follow_symlinks=False)
END`);
  const left = await squeeze();
  assert.ok(left < 500, `${left} nodes`);
});
