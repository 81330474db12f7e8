import assert from "node:assert/strict";
import { test } from "node:test";
import { isDying, parseGroups } from "../../src/fuse/process-status.ts";

const status = (fields: Record<string, string>) =>
  `Name:\tsh\nUmask:\t0022\n${Object.entries({
    Groups: "",
    SigPnd: "0000000000000000",
    ShdPnd: "0000000000000000",
    SigBlk: "0000000000010000",
    SigIgn: "0000000000000004",
    SigCgt: "0000000000010002",
    ...fields,
  })
    .map(([name, value]) => `${name}:\t${value}`)
    .join("\n")}\nThreads:\t1\n`;

test("groups are read from the line of groups", () => {
  assert.deepEqual(parseGroups(status({ Groups: "4 24 1000 4294967294 " })), [4, 24, 1000, 4294967294]);
  assert.deepEqual(parseGroups(status({ Groups: " " })), []);
});

test("a line of groups that was cut or is not there says nothing", () => {
  assert.equal(parseGroups("Name:\tx\nGroups:\t1 2 3"), undefined);
  assert.equal(parseGroups("Name:\tx\n"), undefined);
});

test("a thread is dying if SIGKILL, or a deadly signal it neither blocks, ignores nor handles, is pending", () => {
  const bit = (signal: number) => (1n << BigInt(signal - 1)).toString(16).padStart(16, "0");
  assert.equal(isDying(status({})), false);
  assert.equal(isDying(status({ SigPnd: bit(9) })), true);
  assert.equal(isDying(status({ ShdPnd: bit(9), SigBlk: bit(9) })), true);
  assert.equal(isDying(status({ ShdPnd: bit(15) })), true, "SIGTERM");
  assert.equal(isDying(status({ ShdPnd: bit(15), SigCgt: bit(15) })), false, "handled");
  assert.equal(isDying(status({ ShdPnd: bit(15), SigBlk: bit(15) })), false, "blocked");
  assert.equal(isDying(status({ ShdPnd: bit(1), SigIgn: bit(1) })), false, "nohup");
  for (const harmless of [17, 18, 20, 23, 28]) assert.equal(isDying(status({ ShdPnd: bit(harmless) })), false);
  assert.equal(isDying(status({ SigPnd: bit(64) })), true, "a real-time signal");
});
