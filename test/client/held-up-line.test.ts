/** Who waits behind sections that hang in the server: told only when nothing else is under way, and only for time in which the server is heard from. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { PromisedCall } from "../../src/client/call.ts";
import { HeldUpLine } from "../../src/client/held-up-line.ts";
import { type Message, messages } from "../../src/wire/codec.ts";
import type { CallName } from "../../src/wire/messages.ts";

const PATIENCE_MS = 60_000;
const LOOK_MS = 500;

function call(name: "read" | "write" | "fsync" | "lookup", patienceMs = PATIENCE_MS, begunMs = 0) {
  const message = messages[name] as unknown as Message<CallName>;
  const parts = { message, fields: {}, patienceMs, followsWrites: name === "fsync" };
  const settles = () => assert.fail("it only looks");
  const made = new PromisedCall(parts, () => undefined, settles, settles);
  made.begunMs = begunMs;
  return made;
}

function givenUp(name: "read" | "write" | "fsync" = "write") {
  const made = call(name);
  made.isAbandoned = true;
  return made;
}

function looked() {
  const line = new HeldUpLine();
  const signs = { nowMs: 0, heardBytes: 0, progressMs: 0 };
  /** Lets time pass. @returns who was overdue at the last look. */
  const pass = (ms: number, held: ReturnType<typeof call>[], waiting: ReturnType<typeof call>[], isHeard = true) => {
    let overdue: readonly unknown[] = [];
    for (let at = 0; at < ms; at += LOOK_MS) {
      signs.nowMs += LOOK_MS;
      // It is pinged now and then.
      if (isHeard && at % (3 * LOOK_MS) === 0) signs.heardBytes += 24;
      overdue = line.look(signs, held, waiting);
    }
    return overdue;
  };
  return { signs, pass };
}

test("those who wait behind sections that were given up and have no answer are overdue after their patience", () => {
  const { pass } = looked();
  const waiting = [
    call("read", PATIENCE_MS / 2),
    call("write"),
    call("fsync"),
    call("lookup"),
    call("write", Infinity),
  ];
  const [read, write, fsync] = waiting;
  const held = [givenUp(), givenUp("read")];
  assert.deepEqual(pass(PATIENCE_MS / 2 - 3000, held, waiting), []);
  assert.deepEqual(pass(6000, held, waiting), [read]);
  assert.deepEqual(pass(PATIENCE_MS / 2, held, waiting), [read, write, fsync]);
});

test("who comes when it has lasted for long waits for as long as others did, but a read does not", () => {
  const { pass, signs } = looked();
  const held = [givenUp()];
  pass(2 * PATIENCE_MS, held, []);
  const waiting = [call("read", PATIENCE_MS / 2, signs.nowMs), call("write", PATIENCE_MS, signs.nowMs)];
  assert.deepEqual(pass(LOOK_MS, held, waiting), [waiting[0]]);
  assert.deepEqual(pass(PATIENCE_MS, held, waiting), waiting);
});

test("a section that somebody waits for, an answer, and a server that says nothing keep it from being overdue", () => {
  for (const reason of ["wanted", "progress", "silence", "only followers"]) {
    const { pass, signs } = looked();
    const waiting = [call("read"), call("write")];
    const held = reason === "only followers" ? [call("fsync"), givenUp("fsync")] : [givenUp(), call("fsync")];
    if (reason === "wanted") held.push(call("write"));
    for (let round = 0; round < 4; round++) {
      if (reason === "progress") signs.progressMs += 1;
      assert.deepEqual(pass(PATIENCE_MS - 3000, held, waiting, reason !== "silence"), [], reason);
    }
  }
});
