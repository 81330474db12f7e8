/**
 * The start of a drive: whatever goes wrong before somebody was told of the mount leaves none.
 *
 * The server is in this process, and in some tests what serves the mount is, too: nobody makes a call into it.
 */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { type KeepOptions, keepDrive } from "../../src/cli/mount-drive.ts";
import { parseMountOptions } from "../../src/cli/mount-options.ts";
import { mountAt, readMountTable } from "../../src/sys/mount-table.ts";
import type { FileSystem } from "../../src/vfs/file-system.ts";
import { command, startService } from "../support/child.ts";
import { detach, netdrive } from "../support/drive.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { type ServedHere, serveHere } from "../support/served-here.ts";
import { smallTmpfs } from "../support/small-disk.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("mount-drive");
const runtime = join(temp.path, "runtime");
let served: ServedHere;
/** Holds the server's file system up. */
let gate: GatedFs;
let count = 0;
/** A new mount point for each test. */
let point = "";

before(async () => {
  process.env["NETDRIVE_RUNTIME"] = runtime;
  mkdirSync(join(temp.path, "served"));
  const disturb = (disk: FileSystem) => {
    gate = new GatedFs(disk);
    gate.heedsSignal = true;
    return gate.fileSystem;
  };
  served = await serveHere(join(temp.path, "served"), { disturb });
});
after(async () => {
  await served.close();
  await temp.remove();
});
beforeEach(() => {
  point = join(temp.path, `point-${++count}`);
  mkdirSync(point);
});
afterEach(() => {
  gate.open();
  detach(point);
});

const clock = systemClock;
const log = createLog({ level: "error", clock, sink: () => {} });

function keep(more: Pick<KeepOptions, "stop" | "onReady">): Promise<unknown> {
  const options = parseMountOptions(["security=plain"]);
  const stopNow = new AbortController().signal;
  return keepDrive({ url: served.url, path: point, options, logFile: null }, { log, clock, stopNow, ...more });
}

const mountCommand = () => netdrive("mount", served.url, point, "--security", "plain");

/** Neither a mount nor a record or socket. A log may tell why. */
function leftNothing(): void {
  assert.equal(mountAt(point), undefined);
  assert.deepEqual(
    readdirSync(runtime).filter((name) => !name.endsWith(".log")),
    [],
  );
}

test("a mount that nobody can be told of is taken down", async () => {
  const stop = new AbortController().signal;
  const onReady = () => {
    throw new Error("nobody listens");
  };
  await assert.rejects(keep({ stop, onReady }), /^Error: nobody listens$/);
  leftNothing();
});

test("a mount that is not wanted any more when it is there is taken down, and nobody is told that it is ready", async () => {
  const stop = new AbortController();
  let told = 0;
  const ended = keep({ stop: stop.signal, onReady: () => void told++ });
  ended.catch(() => {});
  // It is not said to be there before the kernel has asked its first question, which is served in a later turn.
  while (mountAt(point) === undefined) await new Promise(setImmediate);
  stop.abort();
  await assert.rejects(ended, /interrupted; nothing is mounted/);
  assert.equal(told, 0);
  leftNothing();
});

test("a mount that is interrupted while the server does not answer leaves nothing", { timeout: 60_000 }, async () => {
  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    gate.gates.add("root");
    const mounting = startService(process.execPath, mountCommand(), { env: process.env });
    await gate.holding(1);
    const [asked] = gate.held;
    const withdrawn = new Promise<void>((resolve) => asked?.ctx.signal?.addEventListener("abort", resolve));
    assert.equal(await mounting.end(signal), signal === "SIGINT" ? 1 : signal);
    if (signal === "SIGINT") {
      assert.equal(mounting.errors(), "netdrive: interrupted; nothing is mounted\n");
      assert.deepEqual(readdirSync(runtime), []);
    }
    // Also by the process in the background, whose starter is gone.
    await withdrawn;
    gate.open();
    leftNothing();
  }
});

test("of two that mount at one path at the same time one succeeds", { timeout: 60_000 }, async () => {
  gate.gates.add("root");
  const mounting = [1, 2].map(() => startService(process.execPath, mountCommand(), { env: process.env }));
  await gate.holding(2);
  gate.open();
  const codes = await Promise.all(mounting.map(({ exited }) => exited));
  assert.deepEqual(codes.sort(), [0, 5]);
  assert.match(mounting.map(({ errors }) => errors()).join(""), /^netdrive: cannot mount at [^\n]*EBUSY[^\n]*\n$/);
  assert.equal(readMountTable().filter(({ path }) => path === point).length, 1);
  await command(process.execPath, netdrive("umount", point));
  leftNothing();
});

test("a mount of which no record can be kept is taken down, and its one line says why", async () => {
  await using disk = await smallTmpfs(64 * 1024);
  const full = join(disk.path, "runtime");
  mkdirSync(full);
  writeFileSync(join(disk.path, "filler"), Buffer.alloc(64 * 1024));
  const env = { ...process.env, NETDRIVE_RUNTIME: full };
  const { stderr } = await command(process.execPath, mountCommand(), { env, codes: [1] });
  assert.match(stderr, /^netdrive: [^\n]*no space left[^\n]*\n$/);
  assert.equal(mountAt(point), undefined);
  assert.deepEqual(
    readdirSync(full).filter((name) => !name.endsWith(".log")),
    [],
  );
});
