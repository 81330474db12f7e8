/**
 * What goes wrong around a live mount: servers killed and frozen, the mount's own process killed, Ctrl-C, and clients that send garbage.
 *
 * Nothing may hang, every failure has an errno of its own, and nothing is left behind.
 */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { command, shell, startService } from "../support/child.ts";
import { netdrive, socketCount, startDrive } from "../support/drive.ts";
import { startMortalDrive } from "../support/mortal-drive.ts";
import { makeTemp, mountsBelow } from "../support/temp.ts";

/** Nothing here takes longer, unless it hangs. */
const PROMPT_MS = 10_000;

const run = (...args: string[]) => command(process.execPath, netdrive(...args), { cwd: "/", timeoutMs: 30_000 });

/** What a shell command in `folder` says when it fails, soon. */
async function failure(folder: string, script: string): Promise<string> {
  const ENV_CANNOT_ENTER = 125;
  const codes = [1, 2, ENV_CANNOT_ENTER];
  const options = { cwd: folder, timeoutMs: PROMPT_MS, codes, env: { ...process.env, LC_ALL: "C" } };
  return (await command("bash", ["-c", script], options)).stderr;
}

test("a server killed while mounted: with a timeout every operation fails with EHOSTDOWN, nothing hangs, umount works", async (t) => {
  await using drive = await startDrive({ mount: ["--timeout", "0.5"] });
  const { path } = drive;
  await shell("mkdir d; echo content > d/f; echo more > g", { cwd: path });
  const holder = startService("bash", [
    "-c",
    `exec 3<> ${path}/g 4< ${path}/d/f; echo open; read -r <&0; exec sleep 1000`,
  ]);
  t.after(() => holder.end("SIGKILL"));
  await holder.firstLine;
  process.kill(drive.served.service.pid, "SIGKILL");
  await drive.served.service.exited;
  for (const script of [
    "stat missing",
    "cat d/unknown",
    "echo x > new",
    "mkdir new",
    "ln -s x new",
    "ls d",
    "cat g",
    "touch g",
    "chmod 600 g",
    "mv g h",
    "setfattr -n user.x -v 1 g",
  ]) {
    assert.match(await failure(path, script), /Host is down/, script);
  }
  await holder.end("SIGKILL");
  // df is asked by people who want to know what is wrong: it answers or fails, and does not wait.
  await command("df", [path], { timeoutMs: PROMPT_MS, codes: [0, 1] });
  await run("umount", path);
  assert.deepEqual(mountsBelow(path), []);
  assert.equal(await drive.mounted.service.exited, 0);
});

test("a write the server did not take in time is reported by fsync, though it was acknowledged", async (t) => {
  await using drive = await startDrive({ mount: ["--timeout", "1"] });
  const [pipe, go] = [join(drive.scratch, "pipe"), join(drive.scratch, "go")];
  await command("mkfifo", [pipe, go]);
  const env = { ...process.env, LC_ALL: "C" };
  const script = `echo started; exec dd if=${pipe} of=${drive.path}/f bs=4096 conv=fsync status=none`;
  const writer = startService("bash", ["-c", script], { env });
  const feeder = startService("bash", [
    "-c",
    `exec 3> ${pipe}; echo one >&3; echo fed; read -r _ < ${go}; echo two >&3`,
  ]);
  t.after(() => Promise.all([writer, feeder].map((program) => program.end("SIGKILL"))));
  await writer.firstLine;
  await feeder.firstLine;
  // Bounded by the limit of a command.
  await shell(`until grep -qs one ${drive.directory}/f; do :; done`, { timeoutMs: PROMPT_MS });
  process.kill(drive.served.service.pid, "SIGKILL");
  await drive.served.service.exited;
  await shell(`echo > ${go}`, { timeoutMs: PROMPT_MS });
  assert.equal(await writer.exited, 1);
  assert.match(writer.errors(), /Host is down/);
  await feeder.exited;
});

test("a frozen server: a killed program goes at once, and everything goes on when it thaws", async () => {
  await using drive = await startDrive();
  const { path } = drive;
  await shell("echo before > f", { cwd: path });
  const server = drive.served.service.pid;
  process.kill(server, "SIGSTOP");
  try {
    // Each is killed while it waits for an answer; one that cannot be killed is a failure by its time limit.
    for (const script of ["stat missing", "cat f", "echo x > new", "ls", "sync f", "mkdir new", "chmod 600 f"]) {
      // One process: a child that is left would keep the directory locked, and the next program could not be killed while it waits for that.
      const waiting = startService("bash", ["-c", `echo started; cd ${path}; exec ${script}`]);
      await waiting.firstLine;
      assert.equal(await waiting.end("SIGKILL"), "SIGKILL", script);
      assert.equal(waiting.errors(), "", script);
    }
    const waiting = startService("bash", ["-c", `echo started; echo later > ${path}/later; cat ${path}/later >&2`]);
    await waiting.firstLine;
    process.kill(server, "SIGCONT");
    assert.equal(await waiting.exited, 0);
    assert.equal(waiting.errors(), "later\n");
  } finally {
    process.kill(server, "SIGCONT");
  }
  assert.equal((await shell("cat f; ls", { cwd: path })).stdout.includes("before"), true);
});

test("the mount's own process killed: operations fail with ENOTCONN, list says so, umount works", async () => {
  await using drive = await startDrive();
  const { path } = drive;
  await shell("echo x > f", { cwd: path });
  drive.mounted.service.process.kill("SIGKILL");
  await drive.mounted.service.exited;
  assert.match(await failure("/", `stat ${path}/f`), /not connected|Software caused connection abort/);
  const listed = JSON.parse((await run("list", "--json")).stdout) as { path: string; state: string }[];
  assert.equal(listed.find((mount) => mount.path === path)?.state, "dead");
  await run("umount", path);
  assert.deepEqual(mountsBelow(path), []);
});

test("a program that is started in a directory nobody has looked at waits for the server, not whoever started it", async () => {
  await using drive = await startMortalDrive();
  mkdirSync(join(drive.directory, "new"));
  await drive.kill();
  const running = shell("echo x > f && cat f", { cwd: join(drive.path, "new") });
  await drive.start();
  assert.equal((await running).stdout, "x\n");
});

test("a server that ends is waited for, and what it served goes on when it is back at its address", async () => {
  await using drive = await startMortalDrive();
  await shell("echo x > f", { cwd: drive.path });
  assert.equal(await drive.server.end("SIGTERM"), 0);
  const waiting = startService("bash", [
    "-c",
    `echo started; cd ${drive.path}; mkdir -p new/deep && echo y > new/deep/g && cat f >&2`,
  ]);
  await waiting.firstLine;
  await drive.start();
  assert.equal(await waiting.exited, 0);
  assert.equal(waiting.errors(), "x\n");
  assert.equal((await shell(`cat ${drive.directory}/new/deep/g`)).stdout, "y\n");
});

test("Ctrl-C of 'up' unmounts, ends and leaves nothing", async () => {
  await using temp = makeTemp("up");
  const [directory, path] = [join(temp.path, "served"), join(temp.path, "mount")];
  mkdirSync(directory);
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    const up = startService(process.execPath, netdrive("up", directory, path), { cwd: "/" });
    await up.firstLine;
    await shell(`echo ${signal} > f && cat f && ls -l`, { cwd: path });
    assert.equal((await shell(`cat ${directory}/f`)).stdout, `${signal}\n`);
    assert.equal(await up.end(signal), 0, up.errors());
    assert.deepEqual(mountsBelow(temp.path), []);
    const listed = JSON.parse((await run("list", "--json")).stdout) as { path: string }[];
    assert.deepEqual(
      listed.filter((mount) => mount.path === path),
      [],
    );
    // The mount point was made by `up`.
    assert.equal((await shell(`ls ${temp.path}`)).stdout, "served\n");
  }
});

const UPGRADE = "GET /netdrive/1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: netdrive/1\r\n\r\n";

/** What a hostile client may send: before the upgrade, after it, and half of things. */
const GARBAGE: readonly (() => Buffer)[] = [
  () => randomBytes(4096),
  () => Buffer.alloc(100_000, 0xff),
  () => Buffer.from(`GET / HTTP/1.1\r\nHost: x\r\n\r\n`),
  () => Buffer.from(`GET /${"a".repeat(100_000)} HTTP/1.1\r\n\r\n`),
  () => Buffer.concat([Buffer.from(UPGRADE), randomBytes(4096)]),
  () => Buffer.concat([Buffer.from(UPGRADE), Buffer.alloc(4096, 0xff)]),
  () => Buffer.concat([Buffer.from(UPGRADE), Buffer.alloc(64)]),
  () => Buffer.from(UPGRADE),
  () => Buffer.from(UPGRADE.slice(0, 40)),
  () => Buffer.alloc(0),
];

/** Sends garbage on a connection of its own; resolves when it is over, by whoever's will. */
async function attack(port: number, bytes: Buffer): Promise<void> {
  const socket = connect({ host: "127.0.0.1", port });
  // A refused or reset connection is what we are after.
  socket.on("error", () => undefined);
  const patience = systemClock.after(300, () => socket.destroy(), { keepAlive: true });
  socket.resume();
  socket.write(bytes);
  await once(socket, "close").catch(() => undefined);
  patience.stop();
}

test("clients that send garbage harm nobody: the mount works on, and the server has no more sockets than before", async () => {
  await using drive = await startDrive();
  const { path } = drive;
  const { port, service } = drive.served;
  await shell("echo start > f", { cwd: path });
  const before = socketCount(service.pid);
  const work = shell("for i in $(seq 60); do echo $i > f$i; cat f$i > /dev/null; mv f$i g$i; done; ls | wc -l", {
    cwd: path,
  });
  for (let round = 0; round < 6; round++) await Promise.all(GARBAGE.map((make) => attack(port, make())));
  assert.equal((await work).stdout.trim(), "61");
  assert.equal((await shell("cat f", { cwd: path })).stdout, "start\n");
  await shell("rm g*", { cwd: path });
  // A closed socket's descriptor goes when the server has read of it: bounded looks, no fixed wait.
  let after = socketCount(service.pid);
  for (let looks = 0; after > before && looks < 100; looks++) {
    await command("stat", ["-f", path]);
    after = socketCount(service.pid);
  }
  assert.ok(after <= before, `${before} sockets before, ${after} after`);
  // Each refusal is one line, and nothing else was said.
  for (const line of service.errors().split("\n").slice(0, -1)) assert.match(line, / warn server: \S+ refused: /);
});
