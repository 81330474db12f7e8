/** The parts of the bench framework that read the machine and end what was started. */
import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Daemon, run } from "../../scripts/bench/child.ts";
import { findMount } from "../../scripts/bench/mounts.ts";
import { Scope } from "../../scripts/bench/scope.ts";
import { hasChildren, parseProcessStat, usageOf } from "../../scripts/bench/usage.ts";
import { parseMeasured } from "../../scripts/bench/workbench.ts";

test("a scope undoes in the opposite order, each step once, also when one fails", async () => {
  const scope = new Scope();
  const undone: string[] = [];
  scope.defer("first", () => void undone.push("first"));
  const early = scope.defer("early", () => void undone.push("early"));
  scope.defer("failing", () => {
    undone.push("failing");
    throw new Error("on purpose, reported on standard error");
  });
  scope.defer("last", async () => void undone.push("last"));
  await early();
  await early();
  await Promise.all([scope.close(), scope.close()]);
  assert.deepEqual(undone, ["early", "last", "failing", "first"]);
});

test("what is started while a scope closes is ended at once", async () => {
  const scope = new Scope();
  await scope.close();
  let undone = false;
  scope.defer("late", () => {
    undone = true;
  });
  assert.ok(undone);
});

test("a program's output is its result, and its complaint the error", { timeout: 20_000 }, async () => {
  assert.equal(await run("sh", ["-c", "echo out; echo err >&2"]), "out\n");
  await assert.rejects(run("sh", ["-c", "echo out; echo why >&2; exit 3"]), /ended with code 3: why$/);
  await assert.rejects(run("sleep", ["60"], { timeoutMs: 50 }), /SIGKILL/);
  await assert.rejects(run("/nonexistent/program", []), /ENOENT/);
});

test("a daemon's processes are counted, its end and the reason of an early one are seen", {
  timeout: 30_000,
}, async () => {
  const directory = await mkdtemp(join(tmpdir(), "netdrive-test-"));
  const scope = new Scope();
  try {
    const daemon = new Daemon({
      scope,
      name: "shell",
      command: "sh",
      args: ["-c", "echo ready; sh -c 'while :; do :; done' & wait"],
      logPath: join(directory, "log"),
    });
    await daemon.until("ready", () => daemon.output().includes("ready") && hasChildren(daemon.pid));
    await daemon.until("CPU time of the child", () => usageOf([daemon.pid]).cpuS > 0.05);
    assert.ok(usageOf([daemon.pid]).peakBytes > 100_000);
    const failing = new Daemon({
      scope,
      name: "failing",
      command: "sh",
      args: ["-c", "echo sorry; exit 1"],
      logPath: join(directory, "log2"),
    });
    await assert.rejects(
      failing.until("a miracle", () => false),
      /failing ended before a miracle: sorry/,
    );
    await run("pkill", ["-P", String(daemon.pid)]);
    assert.equal(await daemon.ended(10_000), true);
  } finally {
    await scope.close();
    await rm(directory, { recursive: true });
  }
});

test("a process's line is read whatever its name contains", () => {
  const stat = "42 (a) b (c)) S 7 41 40 0 -1 4194304 100 200 0 0 11 22 33 44 20 0 1 0 100 0 0";
  assert.deepEqual(parseProcessStat(stat), { parentPid: 7, sessionId: 40, cpuTicks: 110 });
  assert.equal(parseProcessStat(""), undefined);
});

test("a mount is found by its path, escapes included, the uppermost if there are several", () => {
  const table = [
    "30 1 8:1 / / rw - ext4 /dev/sda rw",
    "42 30 0:39 / /tmp/a\\040b rw,nosuid - fuse.relay relay rw",
    "43 30 0:40 / /tmp/c rw shared:7 - fuse.sshfs bench: rw",
    "44 30 0:41 / /tmp/c rw - fuse.netdrive x rw",
    "",
  ].join("\n");
  assert.deepEqual(findMount("/tmp/a b", table), { device: "0:39", type: "fuse.relay" });
  assert.deepEqual(findMount("/tmp/c", table), { device: "0:41", type: "fuse.netdrive" });
  assert.equal(findMount("/tmp", table), undefined);
});

test("the measured loop's line is read, and what it does not say is 0", () => {
  assert.deepEqual(parseMeasured("count=10 elapsed_ns=2000 p50_ns=150 p99_ns=400 max_ns=500\n"), {
    count: 10,
    bytes: 0,
    elapsedNs: 2000,
    p50Ns: 150,
    p99Ns: 400,
  });
});
