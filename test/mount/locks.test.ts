/**
 * Locks on real mounts: two of one server, and programs beside it (locker.c).
 */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { command, shell } from "../support/child.ts";
import type { Locker } from "../support/locker.ts";
import { startTwoMounts, type TwoMounts } from "../support/two-mounts.ts";

const pause = (ms: number) => new Promise<void>((resolve) => void systemClock.after(ms, resolve, { keepAlive: true }));

/** Lockers of one file, `f`, open for reading and writing as their file 0: in the first mount, in the second, and beside the server. */
async function lockers(mounts: TwoMounts): Promise<{ one: Locker; two: Locker; beside: Locker }> {
  writeFileSync(join(mounts.drive.directory, "f"), "0123456789");
  const all = {
    one: await mounts.locker("one"),
    two: await mounts.locker("two"),
    beside: await mounts.locker("beside"),
  };
  for (const locker of Object.values(all)) assert.equal(await locker.tell("open 0 f rw"), "ok");
  return all;
}

test("ranges locked on one mount are locked on the other, and beside the server", async () => {
  await using mounts = await startTwoMounts();
  const { one, two, beside } = await lockers(mounts);
  assert.equal(await one.tell("lock 0 posix write 10 10"), "ok");
  assert.equal(await one.tell("lock 0 posix read 30 10"), "ok");
  for (const other of [two, beside]) {
    assert.equal(await other.tell("lock 0 posix write 15 1"), "EAGAIN");
    assert.equal(await other.tell("lock 0 posix write 20 10"), "ok");
    assert.equal(await other.tell("lock 0 posix unlock 20 10"), "ok");
    assert.equal(await other.tell("lock 0 posix read 30 1"), "ok");
    assert.match(await other.tell("find 0 posix write 0 0"), /^write 10 10 (0|-1)$/);
  }
  assert.equal(await one.tell("lock 0 posix write 30 10"), "EAGAIN");
  assert.equal(await two.tell("lock 0 posix unlock 0 0"), "ok");
  assert.equal(await beside.tell("close 0"), "ok");
  assert.equal(await one.tell("lock 0 posix write 30 10"), "ok", "upgraded");
  assert.equal(await two.tell("lock 0 posix read 30 1"), "EAGAIN");
  const far = "9223372036854775000 7";
  assert.equal(await one.tell(`lock 0 posix write ${far}`), "ok");
  assert.equal(await two.tell("find 0 posix write 9223372036854775000 1"), `write ${far} 0`);
});

test("flock holds across mounts and beside the server, shared and alone, and goes with the last descriptor", async () => {
  await using mounts = await startTwoMounts();
  const { one, two, beside } = await lockers(mounts);
  assert.equal(await one.tell("flock 0 sh"), "ok");
  assert.equal(await two.tell("flock 0 sh"), "ok");
  assert.equal(await two.tell("flock 0 ex"), "EAGAIN");
  assert.equal(await beside.tell("flock 0 ex"), "EAGAIN");
  assert.equal(await beside.tell("flock 0 sh"), "ok");
  assert.equal(await beside.tell("flock 0 un"), "ok");
  assert.equal(await one.tell("dup 1 0"), "ok");
  assert.equal(await one.tell("close 0"), "ok");
  assert.equal(await two.tell("flock 0 ex"), "EAGAIN", "a copy of the descriptor keeps it");
  const waiting = two.ask("flock 0 ex wait");
  assert.equal(await one.tell("close 1"), "ok");
  assert.equal(await waiting.answer, "ok");
  assert.equal(await beside.tell("flock 0 sh"), "EAGAIN");
  assert.equal(await two.tell("lock 0 posix write 0 0"), "ok", "the other kind is another lock");
});

test("who waits for a lock gets it when the holder unlocks, closes, or is killed", async () => {
  await using mounts = await startTwoMounts();
  const { one, two, beside } = await lockers(mounts);
  for (const end of ["lock 0 posix unlock 0 0", "close 0", "kill", "beside"]) {
    const holder = end === "kill" ? await mounts.locker("one") : end === "beside" ? beside : one;
    if (end === "kill") await holder.tell("open 0 f rw");
    assert.equal(await holder.tell("lock 0 posix write 0 0"), "ok");
    const waiting = two.ask("lock 0 posix write 0 0 wait");
    await pause(100);
    assert.equal(waiting.isSettled, false, end);
    if (end === "kill") await holder.kill();
    else assert.equal(await holder.tell(end === "beside" ? "close 0" : end), "ok");
    assert.equal(await waiting.answer, "ok", end);
    assert.equal(await two.tell("lock 0 posix unlock 0 0"), "ok");
    if (end === "close 0") await one.tell("open 0 f rw");
  }
});

test("closing any descriptor of a file gives up the process's locks on it, one that can't write too, and a child's does not", async () => {
  await using mounts = await startTwoMounts();
  const { one, two } = await lockers(mounts);
  await one.tell("lock 0 posix write 0 5");
  await one.tell("open 1 f r");
  await one.tell("close 1");
  assert.equal(await two.tell("lock 0 posix write 0 5"), "ok");
  await two.tell("lock 0 posix unlock 0 0");

  await one.tell("lock 0 posix write 0 5");
  assert.match(await one.tell("fork"), /^\d+$/);
  assert.equal(await one.tell("lock 0 posix write 0 1"), "EAGAIN", "a child has none of its parent's");
  await one.tell("close 0");
  assert.equal(await two.tell("lock 0 posix write 0 5"), "EAGAIN");
  await one.tell("exit");
  await one.tell("close 0");
  assert.equal(await two.tell("lock 0 posix write 0 5"), "ok");
});

test("locks of an open file description are its own, in one process as well, and outlive other closes", async () => {
  await using mounts = await startTwoMounts();
  const { one, two } = await lockers(mounts);
  await one.tell("open 1 f rw");
  assert.equal(await one.tell("lock 0 ofd write 0 5"), "ok");
  assert.equal(await one.tell("lock 1 ofd write 0 5"), "EAGAIN");
  assert.equal(await one.tell("close 1"), "ok");
  assert.equal(await two.tell("lock 0 posix write 0 5"), "EAGAIN");
  assert.equal(await one.tell("close 0"), "ok");
  const waiting = two.ask("lock 0 ofd write 0 5 wait");
  assert.equal(await waiting.answer, "ok");
});

test("any signal disturbs who waits for a lock, at once, and the lock is not his afterwards", async () => {
  await using mounts = await startTwoMounts();
  const { one, two } = await lockers(mounts);
  await one.tell("lock 0 posix write 0 0");
  const startMs = systemClock.monotonicMs();
  await two.tell("alarm 100");
  assert.equal(await two.tell("lock 0 posix write 0 0 wait"), "EINTR");
  assert.equal(await two.tell("flock 0 ex"), "ok");
  const third = await mounts.locker("one");
  await third.tell("open 0 f rw");
  await third.tell("alarm 100");
  assert.equal(await third.tell("flock 0 ex wait"), "EINTR");
  const tookMs = systemClock.monotonicMs() - startMs;
  assert.ok(tookMs < 900, `${tookMs} ms: without a grace`);
  await two.tell("restart 50");
  const waiting = two.ask("lock 0 posix write 0 0 wait");
  await pause(150);
  assert.equal(waiting.isSettled, false, "a call that is to go on goes on");
  await one.tell("lock 0 posix unlock 0 0");
  assert.equal(await waiting.answer, "ok");
  assert.equal(await two.tell("interrupted"), "1");
  await two.tell("lock 0 posix unlock 0 0");
  assert.equal(await third.tell("lock 0 posix write 0 0"), "ok");
});

test("a process that waits for a lock can be killed and stopped, and leaves nothing behind", async () => {
  await using mounts = await startTwoMounts();
  const { one, two } = await lockers(mounts);
  await one.tell("lock 0 posix write 0 0");
  const waiting = two.ask("lock 0 posix write 0 0 wait");
  await pause(50);
  two.signal("SIGSTOP");
  two.signal("SIGCONT");
  await pause(50);
  assert.equal(waiting.isSettled, false);
  const startMs = systemClock.monotonicMs();
  await two.kill();
  assert.ok(systemClock.monotonicMs() - startMs < 500);
  await one.tell("lock 0 posix unlock 0 0");
  const third = await mounts.locker("two");
  await third.tell("open 0 f rw");
  assert.equal(await third.tell("lock 0 posix write 0 0"), "ok");
});

test("a deadlock across mounts is found", async () => {
  await using mounts = await startTwoMounts();
  const { one, two } = await lockers(mounts);
  assert.equal(await one.tell("lock 0 posix write 0 1"), "ok");
  assert.equal(await two.tell("lock 0 posix write 1 1"), "ok");
  const waiting = one.ask("lock 0 posix write 1 1 wait");
  await pause(50);
  assert.equal(await two.tell("lock 0 posix write 0 1 wait"), "EDEADLK");
  await two.tell("close 0");
  assert.equal(await waiting.answer, "ok");
});

test("who has a lock sees what was written before it was given up, size and bytes, through files that stay open", async () => {
  await using mounts = await startTwoMounts();
  const { one, two, beside } = await lockers(mounts);
  const all = [one, two, beside];
  assert.equal(await two.tell("read 0 0 10"), "0123456789");
  for (let round = 0; round < 60; round += 1) {
    const [writer, reader] = [all[round % 3], all[(round + 1 + (round % 2)) % 3]] as [Locker, Locker];
    const text = `round-${String(round).padStart(4, "0")}`;
    assert.equal(await writer.tell("lock 0 posix write 0 0"), "ok");
    assert.equal(await writer.tell(`write 0 0 ${text}`), "ok");
    assert.equal(await writer.tell(`write 0 ${5000 + round} x`), "ok");
    assert.equal(await writer.tell("lock 0 posix unlock 0 0"), "ok");
    assert.equal(await reader.tell("lock 0 posix read 0 0"), "ok");
    assert.equal(await reader.tell("read 0 0 10"), text);
    assert.equal(await reader.tell("size 0"), String(5001 + round));
    assert.equal(await reader.tell(`read 0 ${5000 + round} 10`), "x");
    assert.equal(await reader.tell("lock 0 posix unlock 0 0"), "ok");
  }
});

test("hundreds who wait for one lock hinder nobody, and get it one after the other", async () => {
  await using mounts = await startTwoMounts();
  const { one } = await lockers(mounts);
  const { path, scratch } = mounts.drive;
  await one.tell("flock 0 ex");
  const count = 300;
  const script = `for i in $(seq ${count}); do
      P=$([ $((i % 2)) = 0 ] && echo ${path} || echo ${scratch}/two)
      flock $P/f sh -c 'n=$(cat '$P'/count 2>/dev/null || echo 0); echo $((n + 1)) > '$P'/count' &
    done; wait`;
  const waiting = shell(script);
  // All of them wait when as many processes hang in the call.
  await shell(`until [ $(pgrep -xc flock) -ge ${count} ]; do sleep 0.1; done`);
  await pause(200);
  const startMs = systemClock.monotonicMs();
  await shell(`cd ${path}; mkdir d; echo hello > d/x; cat d/x; ls -l > /dev/null; rm -r d`);
  assert.ok(systemClock.monotonicMs() - startMs < 3000);
  await one.tell("flock 0 un");
  await waiting;
  assert.equal((await command("cat", [join(path, "count")])).stdout, `${count}\n`);
});

test("where locks are mandatory nobody else writes to what is locked, or reads what is locked alone", async () => {
  await using mounts = await startTwoMounts({ serve: ["--locking", "mandatory"] });
  const { one, two } = await lockers(mounts);
  assert.equal(await one.tell("lock 0 posix write 2 3"), "ok");
  assert.equal(await one.tell("write 0 2 abc"), "ok");
  assert.equal(await two.tell("write 0 4 x"), "EAGAIN");
  assert.equal(await two.tell("write 0 5 y"), "ok");
  assert.equal(await two.tell("truncate 0 3"), "EAGAIN");
  assert.equal(await two.tell("truncate 0 9"), "ok");
  await two.tell("open 1 f r");
  assert.equal(await two.tell("read 1 3 1"), "EAGAIN");
  assert.equal(await one.tell("dup 1 0"), "ok");
  assert.equal(await one.tell("write 1 3 B"), "ok", "every descriptor of the open may");
  assert.equal(await one.tell("lock 0 posix read 2 3"), "ok");
  assert.equal(await two.tell("read 1 2 3"), "aBc");
  assert.equal(await two.tell("write 0 2 x"), "EAGAIN");
  assert.equal(await one.tell("lock 0 posix unlock 0 0"), "ok");
  assert.equal(await two.tell("write 0 2 x"), "ok");
});
