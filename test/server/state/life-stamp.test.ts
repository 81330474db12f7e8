/** The last signs of life of a server, as the next one finds them. */
import assert from "node:assert/strict";
import { readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { LifeStamp } from "../../../src/server/state/life-stamp.ts";
import { FakeClock } from "../../support/fake-clock.ts";
import { makeTemp } from "../../support/temp.ts";

const START_MS = 1_700_000_000_000;
const tick = () => new Promise<void>((resolve) => setImmediate(resolve));

test("a server that starts knows when the one before was alive, and when it last changed data", async () => {
  await using temp = makeTemp();
  const clock = new FakeClock(1000, START_MS);
  const first = new LifeStamp(temp.path, clock);
  assert.equal(first.before, undefined);
  assert.equal(statSync(join(temp.path, "last-alive")).mode & 0o777, 0o600);
  clock.advance(2500);
  first.changed();
  first.changed();
  await tick();
  // It dies here, and writes no more.
  const second = new LifeStamp(temp.path, clock);
  assert.deepEqual(second.before, { aliveAtMs: START_MS + 2500, changedAtMs: START_MS + 2500 });
  clock.advance(10_400);
  const third = new LifeStamp(temp.path, clock);
  assert.deepEqual(third.before, { aliveAtMs: START_MS + 12_500, changedAtMs: START_MS + 2500 });
  for (const stamp of [first, second, third]) stamp.close();
  third.close();
  third.changed();
  await tick();
  assert.equal(clock.pendingCount, 0);
});

test("a file that is cut or changed says nothing, and is written anew", async () => {
  await using temp = makeTemp();
  const clock = new FakeClock(1000, START_MS);
  new LifeStamp(temp.path, clock).close();
  const path = join(temp.path, "last-alive");
  const bytes = readFileSync(path);
  for (let at = 0; at < bytes.length; at += 1) {
    const flipped = Buffer.from(bytes);
    flipped.writeUInt8(flipped.readUInt8(at) ^ 1, at);
    writeFileSync(path, flipped);
    const stamp = new LifeStamp(temp.path, clock);
    assert.equal(stamp.before, undefined, `byte ${at}`);
    stamp.close();
    truncateSync(path, at);
    const again = new LifeStamp(temp.path, clock);
    assert.equal(again.before, undefined, `cut at ${at}`);
    again.close();
    assert.deepEqual(readFileSync(path), bytes);
  }
});
