import assert from "node:assert/strict";
import { test } from "node:test";
import { Turns } from "../../../src/server/locks/turns.ts";
import { settle } from "../../support/fake-clock.ts";

test("work is done in the order it is handed in, one after the other, whatever becomes of it", async () => {
  const turns = new Turns();
  const done: string[] = [];
  let letGo = () => {};
  const first = turns.take(async () => {
    await new Promise<void>((resolve) => {
      letGo = resolve;
    });
    done.push("first");
    return 1;
  });
  const second = turns.take(async () => {
    done.push("second");
    throw new Error("bad luck");
  });
  const third = turns.take(async () => done.push("third"));
  await settle();
  assert.deepEqual([done, turns.isIdle], [[], false]);
  letGo();
  assert.equal(await first, 1);
  await assert.rejects(second, /bad luck/);
  await third;
  assert.deepEqual(done, ["first", "second", "third"]);
  assert.equal(turns.isIdle, true);
});
