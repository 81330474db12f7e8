/** Opens without a handle: when they are closed, and who waits for that. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { Closings } from "../../src/server/closing.ts";
import type { Open } from "../../src/server/open.ts";
import { type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { settle } from "../support/fake-clock.ts";

const ctx = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };

/** An open of a share that writes down what it is asked. */
function scene({ flags = OpenFlag.WRITE, isIdle = false, isLocked = false, errno = "" } = {}) {
  const calls: string[] = [];
  let unlock = () => {};
  let end = () => {};
  const requests = new Promise<void>((resolve) => {
    end = resolve;
  });
  const release = async () => {
    calls.push("released");
    if (errno !== "") throw new FsError("EIO", "release");
  };
  const share = {
    modes: { delete: () => calls.push("modes") },
    leases: { closed: () => calls.push("leases") },
    locks: {
      release: () => {
        calls.push("locks");
        return isLocked ? new Promise<void>((resolve) => (unlock = resolve)) : undefined;
      },
    },
    fileSystem: { release, releasedir: release },
  };
  const parts = { kind: "file", node: "n" as NodeId, inner: 1 as HandleId, flags, owner: { share } };
  const open = { ...parts, isIdle, idle: () => requests } as unknown as Open;
  return { open, calls, unlock: () => unlock(), end };
}

test("what an open keeps from others is given up at once, and it is closed behind this turn", async () => {
  const closings = new Closings();
  const { open, calls } = scene({ isIdle: true });
  const closed = closings.close(ctx, open);
  assert.deepEqual(calls, ["modes", "leases", "locks"]);
  await new Promise(process.nextTick);
  await null;
  assert.deepEqual(calls, ["modes", "leases", "locks"]);
  assert.equal(await closed, false);
  assert.deepEqual(calls, ["modes", "leases", "locks", "released"]);
});

test("while requests on it are under way, an open keeps from others what it did", async () => {
  const closings = new Closings();
  const { open, calls, end } = scene();
  const closed = closings.close(ctx, open);
  await settle();
  assert.deepEqual(calls, ["locks"], "they wait for the requests themselves");
  end();
  assert.equal(await closed, false);
  assert.deepEqual(calls, ["locks", "modes", "leases", "released"]);
});

test("its requests are waited for, and whoever waits for all closings is told", async () => {
  const closings = new Closings();
  await closings.idle();
  const [first, second] = [scene(), scene({ errno: "EIO" })];
  const closed = closings.close(ctx, first.open);
  const failed = assert.rejects(closings.close(ctx, second.open), /EIO/);
  let isIdle = false;
  void closings.idle().then(() => {
    isIdle = true;
  });
  second.end();
  await failed;
  await settle();
  assert.deepEqual([isIdle, first.calls], [false, ["locks"]]);
  first.end();
  await closed;
  await closings.idle();
  assert.equal(isIdle, true);
});

for (const flags of [OpenFlag.READ | OpenFlag.DENY_READ, OpenFlag.WRITE | OpenFlag.DENY_WRITE]) {
  test(`an open that denied something is closed in its turn, and said to be awaited (${flags})`, async () => {
    const { open, calls, end } = scene({ flags });
    const closed = new Closings().close(ctx, open);
    end();
    await new Promise(process.nextTick);
    assert.deepEqual(calls, ["locks", "modes", "leases", "released"]);
    assert.equal(await closed, true);
  });
}

test("one with locks is closed when those are given up", async () => {
  const { open, calls, unlock, end } = scene({ isLocked: true });
  const closed = new Closings().close(ctx, open);
  end();
  await settle();
  assert.deepEqual(calls, ["locks", "modes", "leases"]);
  unlock();
  assert.equal(await closed, true);
});
