/** Whom tickets have let in: who takes whose place, and who goes with a file. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Guests } from "../../src/server/guests.ts";
import type { Open } from "../../src/server/open.ts";

test("only guests of the open are concerned, and of them only who came in by the challenge", () => {
  const guests = new Guests();
  const ended: string[] = [];
  const guest = (name: string, guestOf: number) => ({
    guestOf,
    endSoon: () => void ended.push(`${name} at once`),
    endIdle: () => void ended.push(name),
  });
  const [first, second, other, restored] = [guest("first", 1), guest("second", 1), guest("other", 2), guest("old", 1)];
  for (const [it, challenge] of [
    [first, "a"],
    [second, "b"],
    [other, "a"],
    [restored, ""],
  ] as const) {
    guests.add(it, challenge);
  }
  guests.takePlace({ id: 1 } as Open, "a");
  assert.deepEqual(ended.splice(0), ["first at once"]);
  guests.delete(first);
  guests.closed(1);
  assert.deepEqual(ended, ["second", "old"]);
});
