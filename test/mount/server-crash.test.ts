/**
 * The server's process dies, and comes back: what applications have open on a real mount goes on as if nothing had been.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { command, shell, startService } from "../support/child.ts";
import { netdrive, startDrive } from "../support/drive.ts";
import { startLocker } from "../support/locker.ts";
import { startMortalDrive } from "../support/mortal-drive.ts";
import { makeTemp } from "../support/temp.ts";

const runtime = makeTemp("runtime");
// Where mounts register, and what is recovered goes.
process.env["NETDRIVE_RUNTIME"] = runtime.path;

/** A program that writes a line each time it is told to, and says what came of it. */
const WRITER = `
import sys, os
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | (os.O_APPEND if len(sys.argv) > 2 else 0), 0o600)
print("open", flush=True)
for line in sys.stdin:
    os.write(fd, line.encode())
    os.fsync(fd)
    print("wrote", os.lseek(fd, 0, os.SEEK_CUR), flush=True)
`;

/** One that waits for nothing until it closes. */
const LAZY_WRITER = `
import sys, os
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o600)
print("open", flush=True)
os.write(fd, sys.stdin.readline().encode())
print("wrote", flush=True)
sys.stdin.readline()
os.close(fd)
`;

test("an open file outlives the server's process: its place, its unsent data, its appends", async () => {
  await using drive = await startMortalDrive();
  for (const mode of [[], ["append"]]) {
    const name = `f${mode.length}`;
    const writer = startService("python3", ["-c", WRITER, join(drive.path, name), ...mode], { hasInput: true });
    assert.equal(await writer.firstLine, "open");
    for (let round = 0; round < 3; round += 1) {
      writer.tell(`line ${round}\n`);
      await writer.line(`wrote ${7 * (round + 1)}`);
      await drive.kill();
      await drive.start();
    }
    writer.process.stdin?.end();
    assert.equal(await writer.exited, 0);
    assert.equal(readFileSync(join(drive.directory, name), "utf8"), "line 0\nline 1\nline 2\n");
  }
});

test("server and drive go on when nobody reads any more what they say", async () => {
  const loud = ["--log-level", "debug"];
  await using drive = await startDrive({ mount: loud, serve: loud, link: [] });
  const services = [drive.served.service, drive.mounted.service];
  for (const { process } of services) {
    process.stderr?.destroy();
    process.stdout?.destroy();
  }
  const writer = startService("python3", ["-c", WRITER, join(drive.path, "f")], { hasInput: true });
  assert.equal(await writer.firstLine, "open");
  // Both say something while the link is cut.
  await drive.link?.cut();
  writer.tell("mine\n");
  await writer.line("wrote 5");
  writer.process.stdin?.end();
  assert.equal(await writer.exited, 0);
  for (const { process } of services) assert.equal(process.exitCode, null);
});

test("a file renamed or made unreadable while the server was dead is found and written to; one replaced is not", async () => {
  await using drive = await startMortalDrive();
  const files = ["renamed", "closed", "replaced"];
  const writers = files.map((name) =>
    startService("python3", ["-c", WRITER, join(drive.path, name)], { hasInput: true }),
  );
  for (const writer of writers) assert.equal(await writer.firstLine, "open");
  await drive.kill();
  await shell("mv renamed elsewhere; chmod 0 closed; rm replaced; echo other > replaced", { cwd: drive.directory });
  await drive.start();
  for (const writer of writers) {
    writer.tell("mine\n");
    writer.process.stdin?.end();
  }
  assert.deepEqual(await Promise.all(writers.map(({ exited }) => exited)), [0, 0, 1]);
  assert.match(writers[2]?.errors() ?? "", /Stale file handle/);
  assert.equal((await shell("cat elsewhere closed replaced", { cwd: drive.directory })).stdout, "mine\nmine\nother\n");
});

test("unsent data of a file that was replaced meanwhile is kept beside, and status and log say where", async () => {
  await using drive = await startMortalDrive();
  const writer = startService("python3", ["-c", LAZY_WRITER, join(drive.path, "f")], { hasInput: true });
  assert.equal(await writer.firstLine, "open");
  await drive.kill();
  writer.tell("precious\n");
  await writer.line("wrote");
  await shell("rm f; echo other > f", { cwd: drive.directory });
  await drive.start();
  writer.tell("close\n");
  assert.equal(await writer.exited, 1);
  assert.match(writer.errors(), /Stale file handle/);
  const { stdout } = await command(process.execPath, netdrive("status", drive.path, "--json"), { timeoutMs: 30_000 });
  const [{ recovered }] = JSON.parse(stdout) as [{ recovered: string[] }];
  assert.equal(recovered.length, 1);
  assert.equal(readFileSync(recovered[0] ?? "", "utf8"), "precious\n");
  assert.match(drive.mounted.service.errors(), /unsent data is kept in /);
  assert.equal(readFileSync(join(drive.directory, "f"), "utf8"), "other\n");
});

test("a file that was unlinked or replaced while it was open outlives the server's process, and goes when it is closed", async () => {
  await using drive = await startMortalDrive();
  const writers = ["unlinked", "replaced"].map((name) =>
    startService("python3", ["-c", WRITER, join(drive.path, name)], { hasInput: true }),
  );
  for (const writer of writers) {
    assert.equal(await writer.firstLine, "open");
    writer.tell("before\n");
    await writer.line("wrote 7");
  }
  await shell("rm unlinked; echo new > other; mv other replaced", { cwd: drive.path });
  await drive.kill();
  assert.equal((await shell("ls -A | wc -l; ls -A .netdrive-kept | wc -l", { cwd: drive.directory })).stdout, "2\n2\n");
  await drive.start();
  for (const [index, writer] of writers.entries()) {
    writer.tell("after\n");
    await writer.line("wrote 13");
    const links = await shell(`stat -Lc %h /proc/${writer.pid}/fd/3; cat /proc/${writer.pid}/fd/3`);
    assert.equal(links.stdout, "0\nbefore\nafter\n", String(index));
    assert.equal((await shell("ls -A; cat replaced", { cwd: drive.path })).stdout, "replaced\nnew\n");
    writer.process.stdin?.end();
    assert.equal(await writer.exited, 0);
  }
  // The last close travels by itself.
  await shell('until [ -z "$(ls -A .netdrive-kept)" ]; do sleep 0.05; done', { cwd: drive.directory });
});

test("a program that keeps a file open reads what others wrote to it while the server was dead", {
  timeout: 60_000,
}, async () => {
  await using drive = await startMortalDrive();
  await using reader = await startLocker(drive.path);
  assert.equal(await reader.tell("open 0 f rw"), "ok");
  assert.equal(await reader.tell("write 0 0 mine"), "ok");
  assert.equal(await reader.tell("sync 0"), "ok");
  assert.equal(await reader.tell("read 0 0 9"), "mine");
  await drive.kill();
  await shell("printf ours > f", { cwd: drive.directory });
  assert.equal(await reader.tell("read 0 0 9"), "mine", "what is known, while the server is away");
  await drive.start();
  while ((await reader.tell("read 0 0 9")) !== "ours") assert.equal(await reader.tell("size 0"), "4");
});

test("locks outlive the server's process: nobody else has them meanwhile or afterwards", async () => {
  await using drive = await startMortalDrive();
  const holder = await startLocker(drive.path);
  const beside = await startLocker(drive.directory);
  try {
    for (const locker of [holder, beside]) assert.equal(await locker.tell("open 0 f rw"), "ok");
    assert.equal(await holder.tell("lock 0 posix write 0 10"), "ok");
    assert.equal(await holder.tell("flock 0 ex"), "ok");
    for (let round = 0; round < 2; round += 1) {
      await drive.kill();
      await drive.start();
      assert.equal(await beside.tell("lock 0 posix read 5 1"), "EAGAIN");
      assert.equal(await beside.tell("flock 0 sh"), "EAGAIN");
    }
    assert.equal(await holder.tell("lock 0 posix unlock 0 5"), "ok");
    assert.equal(await beside.tell("lock 0 posix write 0 5"), "ok");
    assert.equal(await beside.tell("lock 0 posix write 5 1"), "EAGAIN");
    await drive.kill();
    await drive.start();
    assert.equal(await beside.tell("lock 0 posix write 5 1"), "EAGAIN");
    assert.equal(await holder.tell("close 0"), "ok");
    assert.equal(await beside.tell("lock 0 posix write 5 1"), "ok");
  } finally {
    await holder.kill();
    await beside.kill();
  }
});
