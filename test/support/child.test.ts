/** What tests rely on when a program hangs: it is ended in time, with all that it started. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { command, shell, startService } from "./child.ts";

/** Whether a process runs; one that has ended and was not waited for does not. */
function isRunning(pid: number): boolean {
  try {
    return !/^State:\s*[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "latin1"));
  } catch {
    return false;
  }
}

test("a command that takes too long is ended with all that it started, and what it said is told", async () => {
  const script = "sleep 1000 & echo started $!; sleep 1000 | cat; echo never";
  const error = await shell(script, { timeoutMs: 500 }).then(
    () => undefined,
    (thrown: Error) => thrown,
  );
  assert.match(String(error?.message), /SIGKILL \(it may take 500 ms\)\nstarted \d+\n/);
  const pid = Number(/^started (\d+)$/m.exec(String(error?.message))?.[1]);
  assert.ok(!isRunning(pid), `${pid} still runs`);
});

test("a command gets its input, and its exit code, output and errors are told", async () => {
  const options = { input: "text", codes: [3], cwd: "/" };
  const result = await command("sh", ["-c", "cat; pwd; echo wrong >&2; exit 3"], options);
  assert.deepEqual(result, { stdout: "text/\n", stderr: "wrong\n", code: 3 });
  await assert.rejects(command("sh", ["-c", "exit 4"]), /sh -c exit 4: code 4/);
  await assert.rejects(command("no-such-program", []), /ENOENT/);
});

test("a service that ends by itself is told of, with what it said; one that was ended is not", async () => {
  const service = startService("sh", ["-c", "echo ready; echo broken >&2; exit 5"]);
  await assert.rejects(service.crashed, /ended by itself, with 5\nbroken/);
  await assert.rejects(service.line("other"), /ended without 'other'/);
  const other = startService("sh", ["-c", "echo ready; exec sleep 1000"]);
  assert.equal(await other.firstLine, "ready");
  await Promise.race([other.crashed, other.end("SIGKILL")]);
});
