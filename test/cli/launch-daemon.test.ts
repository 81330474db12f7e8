/** A daemon that does not start; how others do is in test/cli/mount, as processes. */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { DaemonRequest } from "../../src/cli/daemon-message.ts";
import { Exit } from "../../src/cli/failure.ts";
import { launchDaemon } from "../../src/cli/launch-daemon.ts";
import { parseMountOptions } from "../../src/cli/mount-options.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("launch");
const runtime = join(temp.path, "runtime");
before(() => {
  process.env["NETDRIVE_RUNTIME"] = runtime;
  mkdirSync(runtime);
});
after(() => temp.remove());

const request: DaemonRequest = {
  url: "netdrive://token@127.0.0.1:1/x",
  path: temp.path,
  options: parseMountOptions([]),
  logFile: join(runtime, "daemon.log"),
  logLevel: "info",
  isTied: false,
};

test("who does not want the mount any more by then gets no daemon", async () => {
  await assert.rejects(launchDaemon(request, AbortSignal.abort()), /interrupted; nothing is mounted/);
  assert.deepEqual(readdirSync(runtime), []);
});

test("a daemon that cannot be started is a failure with its reason", { timeout: 20_000 }, async (t) => {
  const { execPath } = process;
  t.after(() => {
    process.execPath = execPath;
  });
  process.execPath = join(temp.path, "missing");
  const launched = launchDaemon(request, new AbortController().signal);
  await assert.rejects(launched, { exitCode: Exit.FAILED, message: /the daemon does not start: .*ENOENT/ });
});
