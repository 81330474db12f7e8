import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { Callers, GROUPS_KEPT_MS } from "../../src/fuse/callers.ts";
import { parseGroups } from "../../src/fuse/process-status.ts";
import { readProcessStatus } from "../../src/sys/fuse-mount.ts";
import { FakeClock } from "../support/fake-clock.ts";

/** A reader that answers with groups it is given, and counts. */
function reader(groups: { line: string }) {
  const read = {
    count: 0,
    status: (_tid: number, target: Buffer) => {
      read.count++;
      return target.write(`\nGroups:\t${groups.line}\n`);
    },
  };
  return read;
}

test("without forwarding, groups are never asked for", () => {
  const callers = new Callers(new FakeClock(), undefined);
  assert.deepEqual(callers.get(1000, 1001, 5), { uid: 1000, gid: 1001, pid: 5, groups: [] });
});

test("one caller's requests in a row share one object", () => {
  const callers = new Callers(new FakeClock(), undefined);
  assert.equal(callers.get(1, 2, 3), callers.get(1, 2, 3));
  assert.notEqual(callers.get(1, 2, 3), callers.get(1, 2, 4));
});

test("groups are read once in a while for each thread, and at once when its identity changes", () => {
  const clock = new FakeClock();
  const groups = { line: "4 24" };
  const read = reader(groups);
  const callers = new Callers(clock, read.status);
  assert.deepEqual(callers.get(1000, 1001, 5).groups, [4, 24]);
  groups.line = "7";
  assert.deepEqual(callers.get(1000, 1001, 5).groups, [4, 24]);
  assert.deepEqual(callers.get(1000, 1002, 5).groups, [7]);
  assert.equal(read.count, 2);
  clock.advance(GROUPS_KEPT_MS);
  callers.get(1000, 1002, 5);
  assert.equal(read.count, 3);
});

test("root's and the kernel's own requests are not looked up", () => {
  const read = reader({ line: "1" });
  const callers = new Callers(new FakeClock(), read.status);
  assert.deepEqual(callers.get(0, 0, 5).groups, []);
  assert.deepEqual(callers.get(1000, 1000, 0).groups, []);
  assert.equal(read.count, 0);
});

test("a thread that cannot be read has no groups, and many threads take no more room", () => {
  const callers = new Callers(new FakeClock(), () => -2);
  for (let pid = 1; pid < 5000; pid++) assert.deepEqual(callers.get(1000, 1000, pid).groups, []);
});

test("the groups of a real process are its own", () => {
  const callers = new Callers(new FakeClock(), readProcessStatus);
  const own = callers.get(12345, 12345, process.pid);
  assert.deepEqual(own.groups, parseGroups(readFileSync(`/proc/${process.pid}/status`, "latin1")));
});
