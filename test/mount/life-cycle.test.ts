/**
 * How mounts begin and end: by us, by others, by accident; and what is said when they cannot begin.
 */
import assert from "node:assert/strict";
import { chmodSync, chownSync, existsSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { findMount } from "../../src/sys/fuse-mount.ts";
import { command, shell, startService } from "../support/child.ts";
import { makeTemp } from "../support/temp.ts";
import { mountStack, startServer } from "./mounted.ts";
import type { StackOptions } from "./serve-stack.ts";

const temp = makeTemp("life");
after(() => temp.remove());
const NOBODY = { uid: 65534, gid: 65534 };

test("unmounting from outside ends the server, with nothing left open", async () => {
  for (const program of [["umount"], ["fusermount3", "-u"]]) {
    const mounted = await mountStack();
    await mounted.shell("echo x > f; cat f");
    await shell(`${program.join(" ")} ${mounted.path}`);
    const end = await mounted.ended;
    assert.deepEqual([end?.inFlight, end?.leftOpen, end?.opens, end?.leftDescriptors], [0, 0, 0, 0]);
  }
});

test("a mount that is in use is taken out of sight, and what uses it gets errors instead of hanging", async () => {
  const mounted = await mountStack();
  const user = startService("bash", [
    "-c",
    `cd ${mounted.path}; exec 7> open; echo ready; read -r _ < <(sleep 60); ls`,
  ]);
  await user.firstLine;
  const end = await mounted.end();
  assert.deepEqual([end?.opens, end?.leftOpen, end?.leftDescriptors], [0, 0, 0]);
  assert.equal(await findMount(mounted.path), undefined);
  await user.end("SIGKILL");
});

test("an aborted connection ends the server, and no dead mount stays behind", async () => {
  const mounted = await mountStack();
  const user = startService("bash", ["-c", `cd ${mounted.path}; echo ready; read -r _ < <(sleep 60)`]);
  await user.firstLine;
  // Forced, umount aborts the connection first, and then finds the mount in use.
  await command("umount", ["-f", mounted.path], { codes: [32] });
  assert.ok(await mounted.ended);
  assert.equal(await findMount(mounted.path), undefined);
  await user.end("SIGKILL");
});

test("a program that waits for an answer dies at once when it is killed, and the mount goes on", async () => {
  const mounted = await mountStack({ hangs: true });
  try {
    for (const signal of ["SIGKILL", "SIGTERM", "SIGINT"] as const) {
      const waiting = startService("bash", ["-c", `echo ready; exec stat ${mounted.path}/hang-${signal}`]);
      await waiting.firstLine;
      for (let inFlight = 0; inFlight === 0; ) ({ inFlight } = await mounted.counters());
      assert.equal(await waiting.end(signal), signal);
    }
    assert.equal(await mounted.shell("echo alive > f; cat f"), "alive\n");
    assert.equal((await mounted.counters()).inFlight, 0);
  } finally {
    await mounted.end();
  }
});

test("a signal that a program handles interrupts its waiting, too, after a moment", async () => {
  const mounted = await mountStack({ hangs: true });
  try {
    const script = `import os,signal; signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyError())); signal.alarm(1)
try: os.stat("${mounted.path}/hang")
except KeyError: print("interrupted")`;
    const { stdout } = await command("python3", ["-c", script]);
    assert.equal(stdout, "interrupted\n");
  } finally {
    await mounted.end();
  }
});

test("a busy mount that hangs can be ended by its own process at any time", async () => {
  const mounted = await mountStack({ hangs: true });
  const waiting = startService("bash", ["-c", `cd ${mounted.path}; echo ready; exec stat hang`]);
  await waiting.firstLine;
  for (let inFlight = 0; inFlight === 0; ) ({ inFlight } = await mounted.counters());
  const end = await mounted.end();
  assert.deepEqual([end?.inFlight, end?.leftDescriptors], [0, 0]);
  assert.equal(await waiting.exited, 1);
});

/** What a server says that cannot mount. */
async function refusal(
  path: string,
  stack: StackOptions = {},
  wrap?: (command: string[]) => string[],
): Promise<string> {
  const { nextLine, exited } = startServer(path, stack, wrap);
  const line = (await nextLine()) as { failed?: string };
  await exited;
  return line.failed ?? JSON.stringify(line);
}

test("what cannot be mounted over is refused with one clear line", async () => {
  const file = join(temp.path, "file");
  const full = join(temp.path, "full");
  writeFileSync(file, "");
  mkdirSync(join(full, "something"), { recursive: true });
  assert.match(
    await refusal(join(temp.path, "missing")),
    /^FsError: ENOENT: the mount point cannot be used '.*missing'$/,
  );
  assert.match(await refusal(file), /^FsError: ENOTDIR: the mount point is not a directory '.*file'$/);
  assert.match(await refusal(full), /^FsError: ENOTEMPTY: the mount point is not empty '.*full'$/);
  const mounted = await mountStack();
  assert.match(
    await refusal(mounted.path),
    /^FsError: EBUSY: something is mounted here already, unmount it first: memory '/,
  );
  await mounted.end();
});

test("a directory that is not empty can be mounted over if that is asked for", async () => {
  const full = join(temp.path, "covered");
  mkdirSync(join(full, "something"), { recursive: true });
  const { server, nextLine, exited } = startServer(full, { mountOptions: { nonEmpty: true } });
  assert.ok("mounted" in (await nextLine()));
  assert.equal((await shell(`ls -A ${full}`)).stdout, "");
  server.kill("SIGTERM");
  await exited;
  assert.ok(existsSync(join(full, "something")));
});

/** Runs a server in a mount namespace of its own, after `setup`. */
const apart = (setup: string) => (server: string[]) => [
  "unshare",
  "--mount",
  "bash",
  "-euc",
  `${setup}; exec "$0" "$@"`,
  ...server,
];

test("without FUSE, and without the right to mount, that is what is said", async () => {
  const path = join(temp.path, "empty");
  mkdirSync(path);
  const noFuse = apart("mount -t tmpfs none /dev; mknod /dev/null c 1 3; mknod /dev/urandom c 1 9");
  assert.match(await refusal(path, {}, noFuse), /^FsError: ENODEV: there is no FUSE on this machine .*'\/dev\/fuse'$/);
  const noRight = (server: string[]) => ["setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin", ...server];
  assert.match(await refusal(path, {}, noRight), /^FsError: EPERM: mount: not permitted '.*empty'$/);
});

const asNobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
/** A world-accessible /dev/fuse, as most systems have it, seen by this server alone. */
const OPEN_DEVICE = `d=$(mktemp -d); mount -t tmpfs none $d; mknod -m 666 $d/fuse c 10 229; mount --bind $d/fuse /dev/fuse; umount -l $d; rmdir $d`;

test("an unprivileged user mounts through fusermount3, and unmounts", async () => {
  const path = join(temp.path, "private");
  mkdirSync(path);
  chownSync(path, NOBODY.uid, NOBODY.gid);
  const { server, nextLine, exited } = startServer(path, {}, (line) => apart(OPEN_DEVICE)([...asNobody, ...line]));
  const first = await nextLine();
  assert.deepEqual(first, { mounted: path });
  const inside = ["--mount", `--target=${server.pid}`, ...asNobody, "bash", "-euc"];
  const { stdout } = await command("nsenter", [
    ...inside,
    `cd ${path}; echo x > f; stat -c %U f; cat f; stat -f -c %T .`,
  ]);
  assert.match(stdout, /^nobody\nx\nfuse/);
  const mounts = await command("nsenter", [...inside, `grep ' ${path} ' /proc/self/mounts`]);
  assert.match(mounts.stdout, /^memory \S+ fuse\.netdrive rw,nosuid,nodev,relatime,user_id=65534,group_id=65534,/);
  server.kill("SIGTERM");
  assert.equal(((await nextLine()) as { leftDescriptors?: number }).leftDescriptors, 0);
  await exited;
});

test("an unprivileged user hears why fusermount3 refuses, or that it is not there", async () => {
  const path = join(temp.path, "foreign");
  mkdirSync(path);
  chmodSync(path, 0o700);
  const own = join(temp.path, "own");
  mkdirSync(own);
  chownSync(own, NOBODY.uid, NOBODY.gid);
  const privately = (line: string[]) => apart(OPEN_DEVICE)([...asNobody, ...line]);
  assert.match(await refusal(path, {}, privately), /^FsError: EACCES: /);
  const others: StackOptions = { mountOptions: { allowOther: true } };
  assert.match(await refusal(own, others, privately), /^FsError: EPERM: fusermount3: .*allow_other.*'.*own'$/);
  const withoutHelper = (line: string[]) => [...asNobody, "env", "PATH=/nowhere", ...line];
  assert.match(await refusal(own, {}, withoutHelper), /^FsError: ENODEV: fusermount3 is not installed .*'.*own'$/);
  const closedDevice = (line: string[]) => [...asNobody, ...line];
  assert.match(await refusal(own, {}, closedDevice), /^FsError: (EACCES|ENODEV): fusermount3: .*\/dev\/fuse/);
});
