/** Names of a directory on the disk: who watches it is told of those that come and go, until he closes the watch. */
import assert from "node:assert/strict";
import { chmodSync, closeSync, mkdirSync, openSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import type { Name } from "../../src/base/name.ts";
import { watchNames } from "../../src/sys/name-watch.ts";
import { makeTemp } from "../support/temp.ts";

test("names that come, go and move are told, and no other changes", async () => {
  await using temp = makeTemp();
  const at = (name: string) => join(temp.path, name);
  writeFileSync(at("there"), "1");
  // A watch keeps no process alive.
  const alive = systemClock.after(60_000, () => {}, { keepAlive: true });
  const fd = openSync(temp.path, "r");
  const told: (Name | undefined)[] = [];
  let wake = () => {};
  const watch = watchNames(fd, (name) => {
    told.push(name);
    wake();
  });
  closeSync(fd);
  const heard = async (name: string) => {
    while (!told.includes(name as Name)) {
      await new Promise<void>((resolve) => {
        wake = resolve;
      });
    }
  };
  writeFileSync(at("there"), "22");
  mkdirSync(at("made"));
  await heard("made");
  renameSync(at("there"), at("moved"));
  await heard("moved");
  rmSync(at("moved"));
  writeFileSync(at("last"), "");
  await heard("last");
  const accented = Buffer.from("\u00e9").toString("latin1");
  writeFileSync(at("\u00e9"), "");
  await heard(accented);
  assert.deepEqual(told, ["made", "there", "moved", "moved", "last", accented]);
  chmodSync(temp.path, 0o711);
  while (told.length === 6) {
    await new Promise<void>((resolve) => {
      wake = resolve;
    });
  }
  assert.equal(told[6], undefined);
  watch?.close();
  alive.stop();
  assert.equal(
    watchNames(1_000_000, () => {}),
    undefined,
  );
});
