/**
 * The server's machine loses its power: what was synced is there, what was not is never taken for synced, and with `--durability power` sessions go on.
 *
 * Served directory and state store are on disks of their own that lose what was not synced (test/support/power-cut-disk.ts, strict-disk.ts); the server is killed and started
 * again as on a machine that was started again: under another boot id, which it reads from a file mounted over the kernel's. The drive goes on all the time.
 */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { command, type Service, shell, startService } from "../support/child.ts";
import { netdrive, startMount } from "../support/drive.ts";
import { settle } from "../support/fake-clock.ts";
import { type Locker, startLocker } from "../support/locker.ts";
import { type PowerCutDisk, startPowerCutDisk } from "../support/power-cut-disk.ts";
import { startStrictDisk } from "../support/strict-disk.ts";
import { makeTemp } from "../support/temp.ts";

const PORT = 11_000 + (process.pid % 1000);
const BOOT_ID = "/proc/sys/kernel/random/boot_id";
const TIMEOUT_MS = 60_000;

interface Machine extends AsyncDisposable {
  /** Where its drive is mounted, elsewhere. */
  readonly path: string;
  readonly directory: string;
  readonly server: Service;
  /** Cuts its power, and starts it and its server again. */
  cut(): Promise<void>;
  locker(): Promise<Locker>;
}

async function startMachine(t: TestContext, durability: string): Promise<Machine> {
  const temp = makeTemp("machine");
  const disks: PowerCutDisk[] = [await startPowerCutDisk(), await startStrictDisk()];
  const [served, state] = disks.map(({ path }) => path) as [string, string];
  const directory = join(served, "served");
  mkdirSync(directory);
  await command("sync", ["-f", served]);
  const path = join(temp.path, "mount");
  mkdirSync(path);
  const bootId = join(temp.path, "boot-id");
  let boots = 0;
  const boot = async () => {
    boots += 1;
    writeFileSync(bootId, `00000000-0000-4000-8000-${String(boots).padStart(12, "0")}\n`);
    const serve = netdrive("serve", directory, "--listen", `127.0.0.1:${PORT}`, "--squash", "none", "--json");
    const script = `mount --bind ${bootId} ${BOOT_ID}; exec "$@"`;
    const args = [process.execPath, ...serve, "--state", join(state, "state"), "--durability", durability];
    const service = startService("unshare", ["--mount", "bash", "-euc", script, "boot", ...args], { cwd: "/" });
    t.after(() => service.end("SIGKILL"));
    const { url } = JSON.parse(await service.firstLine) as { url: string };
    return { service, url };
  };
  let server = await boot();
  const mounted = await startMount(server.url, path, "--allow-other");
  const lockers: Locker[] = [];
  return {
    path,
    directory,
    get server() {
      return server.service;
    },
    async cut() {
      await server.service.end("SIGKILL");
      for (const disk of disks) await disk.cut();
      server = await boot();
    },
    async locker() {
      const locker = await startLocker(path);
      lockers.push(locker);
      return locker;
    },
    async [Symbol.asyncDispose]() {
      for (const locker of lockers) await locker.kill();
      await mounted.close();
      await server.service.end();
      for (const disk of disks) await disk[Symbol.asyncDispose]();
      await temp.remove();
    },
  };
}

/** Sees to it that what was written is at the server: who looks at a file waits for that. */
const arrive = (path: string) => shell(`stat ${path}`);

test("with durability power opens, locks and synced data outlive a power cut; unsynced data is EIO at the next fsync, once", {
  timeout: TIMEOUT_MS,
}, async (t) => {
  await using machine = await startMachine(t, "power");
  const locker = await machine.locker();
  for (const [slot, name] of ["f", "g"].entries()) {
    assert.equal(await locker.tell(`open ${slot} ${name} rw`), "ok");
    assert.equal(await locker.tell(`write ${slot} 0 synced`), "ok");
    assert.equal(await locker.tell(`sync ${slot}`), "ok");
  }
  await command("sync", [machine.directory]);
  assert.equal(await locker.tell("lock 1 posix write 0 10"), "ok");
  assert.equal(await locker.tell("write 0 6 lost"), "ok");
  await arrive(join(machine.path, "f"));
  assert.equal((await shell("cat f", { cwd: machine.directory })).stdout, "syncedlost");
  await machine.cut();
  assert.equal((await shell("cat f", { cwd: machine.directory })).stdout, "synced");
  assert.equal(await locker.tell("sync 0"), "EIO");
  assert.equal(await locker.tell("write 0 6 again"), "ok");
  assert.equal(await locker.tell("sync 0"), "ok");
  const other = await startLocker(machine.directory);
  t.after(() => other.kill());
  assert.equal(await other.tell("open 0 g rw"), "ok");
  assert.equal(await other.tell("lock 0 posix read 0 1"), "EAGAIN");
  assert.equal(await locker.tell("lock 1 posix unlock 0 10"), "ok");
  assert.equal(await other.tell("lock 0 posix read 0 1"), "ok");
  await other.kill();
  await machine.cut();
  assert.equal((await shell("cat f", { cwd: machine.directory })).stdout, "syncedagain");
  assert.equal(await locker.tell("read 0 0 20"), "syncedagain");
});

test("with durability power every name, attribute and append that was answered is there after a power cut, with no fsync of anybody", {
  timeout: TIMEOUT_MS,
}, async (t) => {
  await using machine = await startMachine(t, "power");
  const locker = await machine.locker();
  const script = [
    "mkdir d e; touch d/a d/b d/gone; ln d/a e/link; ln -s a d/s; mkfifo d/p",
    "mv d/b e/moved; rm d/gone; mkdir e/gone; rmdir e/gone; chmod 600 d/a; setfattr -n user.x -v 1 e/link",
    "for line in 1 2 3; do echo $line >> d/log; done",
  ];
  await shell(script.join("; "), { cwd: machine.path });
  assert.equal(await locker.tell("open 0 d/open rw"), "ok");
  await shell("rm d/open", { cwd: machine.path });
  const look = async (cwd: string) => {
    const { stdout } = await shell("find d e -printf '%p %y %m %n %l\\n' | sort; getfattr -n user.x d/a; cat d/log", {
      cwd,
    });
    return stdout;
  };
  const before = await look(machine.path);
  assert.equal(before.split("\n").length, 15);
  await machine.cut();
  assert.equal(await look(machine.directory), before);
  assert.equal(await look(machine.path), before);
  // What has no name is open still.
  assert.equal(await locker.tell("write 0 0 still"), "ok");
  assert.equal(await locker.tell("read 0 0 5"), "still");
  // A directory that was never in doubt says nothing of lost names.
  await command("sync", ["d"], { cwd: machine.path });
});

test("with durability power a file without a name is open still after a power cut, with what was synced, and can be given one", {
  timeout: TIMEOUT_MS,
}, async (t) => {
  await using machine = await startMachine(t, "power");
  const locker = await machine.locker();
  await shell("mkdir d", { cwd: machine.path });
  for (const slot of [0, 1]) {
    assert.equal(await locker.tell(`tmpfile ${slot} d`), "ok");
    assert.equal(await locker.tell(`write ${slot} 0 synced`), "ok");
    assert.equal(await locker.tell(`sync ${slot}`), "ok");
  }
  assert.equal(await locker.tell("lock 0 posix write 0 10"), "ok");
  await machine.cut();
  assert.equal((await shell("ls -A d", { cwd: machine.directory })).stdout, "");
  assert.equal(await locker.tell("read 0 0 20"), "synced");
  assert.equal(await locker.tell("write 0 6 more"), "ok");
  // What may be lost is said once, also where nothing was.
  assert.equal(await locker.tell("sync 0"), "EIO");
  assert.equal(await locker.tell("write 0 6 more"), "ok");
  assert.equal(await locker.tell("sync 0"), "ok");
  // A name that was answered is there, with no fsync of the directory.
  assert.equal(await locker.tell("link 0 d/named"), "ok");
  await machine.cut();
  assert.equal(
    (await shell("cat d/named; stat -c '%a %h' d/named", { cwd: machine.directory })).stdout,
    "syncedmore640 1\n",
  );
  assert.equal((await shell("ls -A d", { cwd: machine.path })).stdout, "named\n");
  assert.equal(await locker.tell("read 0 0 20"), "syncedmore");
  assert.equal(await locker.tell("read 1 0 20"), "synced");
  // Nobody comes back to the other one: it is not kept for ever.
  assert.equal(await locker.tell("close 1"), "ok");
  assert.equal(await locker.tell("close 0"), "ok");
  const isKept = async () =>
    (await shell("ls -A .netdrive-kept 2>/dev/null || true", { cwd: machine.directory })).stdout !== "";
  while (await isKept()) await settle();
});

test("with durability process a power cut may take what was open, and nobody is told that it did not", {
  timeout: TIMEOUT_MS,
}, async (t) => {
  await using machine = await startMachine(t, "process");
  const locker = await machine.locker();
  assert.equal(await locker.tell("open 0 f rw"), "ok");
  assert.equal(await locker.tell("write 0 0 synced"), "ok");
  assert.equal(await locker.tell("sync 0"), "ok");
  await command("sync", [machine.directory]);
  assert.equal(await locker.tell("write 0 6 lost"), "ok");
  await arrive(join(machine.path, "f"));
  await machine.cut();
  assert.equal((await shell("cat f", { cwd: machine.directory })).stdout, "synced");
  assert.match(await locker.tell("sync 0"), /^(EIO|ESTALE)$/);
  assert.match(machine.server.errors(), /durability/);
  assert.equal((await shell("echo new > h; cat h f", { cwd: machine.path })).stdout, "new\nsynced");
});
