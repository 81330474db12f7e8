/**
 * The kernel drops pages when a lock is had, and waits for those that are being read. Whoever waits must not keep anybody from ending it.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { type Service, startService } from "../support/child.ts";
import { type Locker, startLocker } from "../support/locker.ts";
import { type Mounted, mountStack } from "./mounted.ts";

const pause = (ms: number) => new Promise<void>((resolve) => void systemClock.after(ms, resolve, { keepAlive: true }));

/** A mount on which one program reads what never comes, and another waits for the page that is being read. */
async function stuck(): Promise<{ mounted: Mounted; locker: Locker; reader: Service; answer: Promise<string> }> {
  const mounted = await mountStack({ hangs: true, locks: true });
  await mounted.shell("truncate -s 4M f");
  const locker = await startLocker(mounted.path);
  await locker.tell("open 0 f rw");
  assert.equal(await locker.tell("lock 0 posix write 0 0"), "ok");
  const reader = startService("dd", [`if=${mounted.path}/f`, "bs=4k", "skip=256", "count=1"]);
  await pause(300);
  const asked = locker.ask("lock 0 posix write 0 0");
  await pause(300);
  assert.equal(asked.isSettled, false, "it waits for the page");
  assert.equal((await mounted.shell("echo other requests are served > g; cat g")).trim(), "other requests are served");
  return { mounted, locker, reader, answer: asked.answer };
}

test("a process that is killed while the kernel waits for one of its pages is gone, at the latest with who reads it, and its mount is dead", async () => {
  const { mounted, locker, reader, answer } = await stuck();
  // Only out of sight: what ends the connection is the end of the process.
  mounted.process.once("exit", () => spawnSync("umount", ["--lazy", mounted.path]));
  mounted.process.kill("SIGKILL");
  const startMs = systemClock.monotonicMs();
  // Its read has failed. If it asks again before the page is dropped, nobody is there to answer, and only its own end makes the page free.
  const reading = systemClock.after(1000, () => reader.process.kill("SIGKILL"), { keepAlive: true });
  await once(mounted.process, "exit");
  reading.stop();
  assert.notEqual(await answer, "gone");
  assert.ok(systemClock.monotonicMs() - startMs < 5000);
  await locker.kill();
  await mounted.ended;
});

test("a mount that is ended while the kernel waits for one of its pages ends", async () => {
  const { mounted, locker, answer } = await stuck();
  const startMs = systemClock.monotonicMs();
  const end = await mounted.end();
  assert.equal(end?.ended, true);
  assert.equal(end?.leftDescriptors, 0);
  assert.ok(systemClock.monotonicMs() - startMs < 10_000);
  assert.notEqual(await answer, "ok");
  await locker.kill();
});
