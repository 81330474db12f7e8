/** `netdrive up`: both sides on one machine, and nothing left of them. */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, beforeEach, test } from "node:test";
import { identify } from "../../src/cli/process-table.ts";
import { mountAt } from "../../src/sys/mount-table.ts";
import { command, type Service, startService } from "../support/child.ts";
import { detach, netdrive } from "../support/drive.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("up");
after(() => temp.remove());

let folder = "";
let count = 0;
const at = (path: string) => join(folder, path);

beforeEach(() => {
  folder = join(temp.path, `case-${++count}`);
  mkdirSync(at("files"), { recursive: true });
  writeFileSync(at("files/hello.txt"), "hello\n");
});

function up(...args: string[]): { service: Service; printed: () => string } {
  const env = { ...process.env, NETDRIVE_RUNTIME: at("runtime"), TMPDIR: folder };
  const service = startService(process.execPath, netdrive("up", ...args), { cwd: folder, env });
  let text = "";
  service.process.stdout?.on("data", (chunk: string) => {
    text += chunk;
  });
  return { service, printed: () => text };
}

/** The process that serves the mount below `folder`. */
function daemonPid(): number {
  const [name = ""] = readdirSync(at("runtime")).filter((file) => file.endsWith(".json"));
  return (JSON.parse(readFileSync(at(`runtime/${name}`), "utf8")) as { daemon: { pid: number } }).daemon.pid;
}

const gone = (pid: number) =>
  command(
    "bash",
    ["-c", `while test -d /proc/${pid} && ! grep -qs '^State:.Z' /proc/${pid}/status; do sleep 0.05; done`],
    {
      timeoutMs: 20_000,
    },
  );

test("a directory is at the path until Ctrl-C, then neither mount nor process nor the path it made is left", async () => {
  const { service, printed } = up(at("files"), "drive");
  assert.equal(await service.firstLine, `${at("files")} is at ${at("drive")}; Ctrl-C unmounts it`);
  assert.equal((await command("cat", [at("drive/hello.txt")])).stdout, "hello\n");
  await command("bash", ["-c", `echo changed > ${at("drive/new.txt")}`]);
  assert.equal(readFileSync(at("files/new.txt"), "utf8"), "changed\n");
  const daemon = daemonPid();
  assert.equal(await service.end("SIGINT"), 0);
  assert.match(printed(), /mount it elsewhere on this machine with: netdrive mount netdrive:\/\//);
  assert.match(printed(), /drive is unmounted\n$/);
  assert.equal(service.errors(), "");
  assert.equal(mountAt(at("drive")), undefined);
  assert.ok(!existsSync(at("drive")));
  assert.equal(identify(daemon), undefined);
  assert.deepEqual(readdirSync(at("runtime")), []);
});

test("without arguments a sample is at ./drive, and all of it goes", async () => {
  const { service } = up();
  assert.match(await service.firstLine, /netdrive-sample-\w+ is at .*\/drive; Ctrl-C/);
  assert.match((await command("cat", [at("drive/README.txt")])).stdout, /This is a netdrive/);
  assert.equal(await service.end("SIGTERM"), 0);
  assert.deepEqual(readdirSync(folder).sort(), ["files", "runtime"]);
});

test("what the user made in the sample is kept, and where is said", async () => {
  const { service, printed } = up();
  await service.firstLine;
  await command("bash", ["-c", `echo mine > ${at("drive/mine.txt")}`]);
  assert.equal(await service.end("SIGINT"), 0);
  const kept = /your files of the sample are kept in (.*)\n$/.exec(printed())?.[1] ?? "";
  assert.equal(readFileSync(join(kept, "mine.txt"), "utf8"), "mine\n");
});

test("an existing empty path is used and stays", async () => {
  mkdirSync(at("point"));
  const { service } = up(at("files"), at("point"));
  await service.firstLine;
  await service.end("SIGINT");
  assert.deepEqual(readdirSync(at("point")), []);
});

test("a drive in use at Ctrl-C: who uses it is said, and a second Ctrl-C does not wait for them", async () => {
  const { service, printed } = up(at("files"), at("drive"));
  await service.firstLine;
  const daemon = daemonPid();
  const user = startService("sleep", ["60"], { cwd: at("drive") });
  await command("test", ["-d", `/proc/${user.pid}`]);
  service.process.kill("SIGINT");
  while (!printed().includes("waiting")) await command("sleep", ["0.05"]);
  assert.match(printed(), new RegExp(`drive' is in use by sleep \\(${user.pid}\\); waiting \\d+ s for them\n`));
  await command("sleep", ["0.5"]);
  assert.equal(await service.end("SIGINT"), 0);
  assert.match(printed(), /was detached while it was in use\n/);
  assert.equal(mountAt(at("drive")), undefined);
  assert.equal(identify(daemon), undefined);
  await user.end("SIGKILL");
});

test("users of the drive who leave in time are waited for", async () => {
  const { service, printed } = up(at("files"), at("drive"));
  await service.firstLine;
  const user = startService("sleep", ["60"], { cwd: at("drive") });
  await command("test", ["-d", `/proc/${user.pid}`]);
  service.process.kill("SIGINT");
  while (!printed().includes("waiting")) await command("sleep", ["0.05"]);
  await user.end("SIGKILL");
  assert.equal(await service.exited, 0);
  assert.doesNotMatch(printed(), /was detached/);
});

test("`up` takes down its own drive only, not the next one at the path", async (t) => {
  mkdirSync(at("drive"));
  t.after(() => detach(at("drive")));
  const { service, printed } = up(at("files"), at("drive"));
  const mine = await service.firstLine.then(daemonPid);
  const user = startService("sleep", ["60"], { cwd: at("drive") });
  await command("bash", ["-c", `until grep -qsx sleep /proc/${user.pid}/comm; do sleep 0.05; done`]);
  const env = { ...process.env, NETDRIVE_RUNTIME: at("runtime") };
  const run = (...args: string[]) => command(process.execPath, netdrive(...args), { env, timeoutMs: 60_000 });
  await run("umount", "--lazy", at("drive"));
  const [, url = ""] = /netdrive mount (netdrive:\S+) PATH\n/.exec(printed()) ?? [];
  await run("mount", url, at("drive"));
  assert.equal(await service.end("SIGINT"), 0);
  assert.equal(identify(mine), undefined);
  assert.ok(mountAt(at("drive")) !== undefined && identify(daemonPid()) !== undefined);
  assert.doesNotMatch(printed(), /was detached|in use/);
  await run("umount", at("drive"));
  await user.end("SIGKILL");
});

test("kill -9 of `up` leaves no mount and no process", async () => {
  const { service } = up(at("files"), at("drive"));
  await service.firstLine;
  const daemon = daemonPid();
  await service.end("SIGKILL");
  await gone(daemon);
  assert.equal(mountAt(at("drive")), undefined);
});

test("kill -9 of the drive's process ends `up` with a failure and no mount", async () => {
  const { service } = up(at("files"), at("drive"));
  await service.firstLine;
  process.kill(daemonPid(), "SIGKILL");
  assert.equal(await service.exited, 1);
  assert.match(service.errors(), /^netdrive: the process of the drive at .* ended by itself; see /);
  assert.equal(mountAt(at("drive")), undefined);
});

test("umount from elsewhere ends `up`", async () => {
  const { service } = up(at("files"), at("drive"));
  await service.firstLine;
  await command("umount", [at("drive")]);
  assert.equal(await service.exited, 0);
});
