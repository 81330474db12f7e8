/** What `netdrive umount` finds out about the drive it takes off: whether all was sent, and who serves it. */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { identify } from "../../src/cli/process-table.ts";
import { mountAt } from "../../src/sys/mount-table.ts";
import { command, type Service, shell, startService } from "../support/child.ts";
import { detach, netdrive, type ServedShare, startServe } from "../support/drive.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("unmounts");
const served = join(temp.path, "served");
const runtime = join(temp.path, "runtime");
const environment = { ...process.env, NETDRIVE_RUNTIME: runtime };
let server: ServedShare;

before(async () => {
  mkdirSync(served);
  server = await startServe(served, "--squash", "none");
});
after(async () => {
  await server.service.end();
  await temp.remove();
});

/** A new mount point. */
function pointFor(t: TestContext, name: string): string {
  const point = join(temp.path, name);
  mkdirSync(point);
  t.after(() => detach(point));
  return point;
}

function run(args: string[], codes: number[] = [0], env: NodeJS.ProcessEnv = environment) {
  return command(process.execPath, netdrive(...args), { env, codes, timeoutMs: 60_000 });
}

async function mountJson(url: string, point: string): Promise<{ pid: number; log: string }> {
  return JSON.parse((await run(["mount", url, point, "--json"])).stdout) as { pid: number; log: string };
}

/** A program that writes what it is told to, and waits for nothing. */
const WRITER = `
import sys, os
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
print("open", flush=True)
os.write(fd, sys.stdin.readline().encode())
print("wrote", flush=True)
sys.stdin.readline()
`;

test("what has not reached the server when a drive ends is kept, and said where, with exit code 1", {
  timeout: 60_000,
}, async (t) => {
  const other = await startServe(served, "--squash", "none");
  t.after(() => other.service.end("SIGKILL"));
  const [behind, before] = [pointFor(t, "behind"), pointFor(t, "before")];
  const { pid, log } = await mountJson(other.url, behind);
  const foreground = startService(process.execPath, netdrive("mount", other.url, before, "--foreground"), {
    env: environment,
  });
  t.after(() => foreground.end("SIGKILL"));
  await foreground.firstLine;
  const writers = [join(behind, "one"), join(before, "two")].map((path) =>
    startService("python3", ["-c", WRITER, path], { hasInput: true }),
  );
  for (const writer of writers) {
    t.after(() => writer.end("SIGKILL"));
    assert.equal(await writer.firstLine, "open");
  }
  await other.service.end("SIGKILL");
  for (const writer of writers) {
    writer.tell("precious\n");
    await writer.line("wrote");
    await writer.end("SIGKILL");
  }
  const [{ stderr }, exit] = await Promise.all([run(["umount", behind], [1]), foreground.end("SIGINT")]);
  for (const said of [stderr, foreground.errors()]) {
    const line =
      /^netdrive: not all that was written to '.*' has reached the server; what has not is kept in ([^;\n]*)/m;
    const [, kept = ""] = line.exec(said) ?? [];
    assert.ok(kept !== "", said);
    assert.equal(readFileSync(kept, "utf8"), "precious\n");
    if (said === stderr) assert.ok(said.endsWith(`; see ${log}\n`) && readFileSync(log, "utf8").includes(kept));
  }
  assert.equal(exit, 1);
  assert.equal(identify(pid), undefined);
  assert.equal(mountAt(behind) ?? mountAt(before), undefined);
  // Removes records of what is gone; logs stay.
  await run(["list"]);
  assert.deepEqual(
    readdirSync(runtime).filter((name) => name !== "recovered" && !name.endsWith(".log")),
    [],
  );
});

/** Somebody who uses the drive. */
async function sleeperIn(t: TestContext, point: string): Promise<Service> {
  const user = startService("sleep", ["60"], { cwd: point });
  t.after(() => user.end("SIGKILL"));
  // It is there once it is itself: what starts it enters the directory first.
  await shell(`until grep -qsx sleep /proc/${user.pid}/comm; do sleep 0.05; done`);
  return user;
}

const untilGone = (pid: number) =>
  shell(`while grep -qs '^State:.[^Z]' /proc/${pid}/status; do sleep 0.05; done`, { timeoutMs: 30_000 });

/** Where the mounts of these tests are not registered. */
const elsewhere = { ...environment, NETDRIVE_RUNTIME: join(temp.path, "elsewhere") };

test("a drive in use that is registered elsewhere stays, also if its process hangs; unmounted, its process is not waited for, and that is said", {
  timeout: 90_000,
}, async (t) => {
  const point = pointFor(t, "elsewhere's");
  const { pid } = await mountJson(server.url, point);
  const user = await sleeperIn(t, point);
  const inUse = new RegExp(`is in use by sleep \\(${user.pid}\\); end them, or .*--lazy`);
  assert.match((await run(["umount", point], [5], elsewhere)).stderr, inUse);
  process.kill(pid, "SIGSTOP");
  assert.match((await run(["umount", point], [5], elsewhere)).stderr, inUse);
  process.kill(pid, "SIGCONT");
  assert.ok(mountAt(point));
  await user.end("SIGKILL");
  const { stderr } = await run(["umount", point], [0], elsewhere);
  assert.match(stderr, /^netdrive: it is not known here which process served '.*': [^\n]*not waited for\n$/);
  assert.equal(mountAt(point), undefined);
  await untilGone(pid);
});

test("a dead drive in use that is registered elsewhere is detached", { timeout: 60_000 }, async (t) => {
  const point = pointFor(t, "dead");
  const { pid } = await mountJson(server.url, point);
  const user = await sleeperIn(t, point);
  process.kill(pid, "SIGKILL");
  await untilGone(pid);
  const { stderr } = await run(["umount", point], [0], elsewhere);
  assert.match(stderr, new RegExp(`nobody served .* in use by sleep \\(${user.pid}\\): it was detached`));
  assert.equal(mountAt(point), undefined);
});
