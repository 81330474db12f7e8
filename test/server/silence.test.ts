import assert from "node:assert/strict";
import { test } from "node:test";
import { Silence } from "../../src/server/silence.ts";
import type { Channel } from "../../src/transport/channel.ts";

const channel = (receivedBytes: number) => ({ receivedBytes }) as unknown as Channel & { receivedBytes: number };

test("who has said nothing for the time is cut, and nobody else", () => {
  const silence = new Silence(30_000);
  const [quiet, talking, late] = [channel(10), channel(10), channel(0)];
  assert.deepEqual(silence.look([quiet, talking], 0), []);
  talking.receivedBytes += 1;
  assert.deepEqual(silence.look([quiet, talking, late], 29_999), []);
  assert.deepEqual(silence.look([quiet, talking, late], 30_000), [quiet]);
  assert.deepEqual(silence.look([talking, late], 59_998), []);
  assert.deepEqual(silence.look([talking, late], 59_999), [talking, late]);
});

test("a channel that went and one that came at its place have nothing in common", () => {
  const silence = new Silence(1000);
  const first = channel(5);
  silence.look([first], 0);
  silence.look([], 500);
  assert.deepEqual(silence.look([first], 1500), []);
  assert.deepEqual(silence.look([first], 2500), [first]);
});
