/**
 * Leases between mounts: what one has not sent another one sees, what one knows is forgotten when another changes it, and who does not answer holds others up for a
 * time and no longer.
 */
import assert from "node:assert/strict";
import { appendFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import type { DriveStatus } from "../../src/cli/status-socket.ts";
import { command, type Service, startService } from "../support/child.ts";
import { netdrive, startMount } from "../support/drive.ts";
import { startMortalDrive } from "../support/mortal-drive.ts";
import { startDriveHere } from "../support/served-here.ts";
import { makeTemp } from "../support/temp.ts";

const runtime = makeTemp("leases");
process.env["NETDRIVE_RUNTIME"] = runtime.path;

const BREAK_MS = 1000;

/** A program that works on files, by numbers of its own, as it is told. */
const WORKER = `
import sys, os, time
files = {}
print("ready", flush=True)
for line in sys.stdin:
    what, number, *more = line.split()
    if what == "open": files[number] = os.open(more[0], os.O_RDWR | os.O_CREAT, 0o644)
    elif what == "look": files[number] = os.open(more[0], os.O_RDONLY)
    elif what == "close": os.close(files.pop(number))
    elif what == "write": os.pwrite(files[number], more[0].encode(), int(more[1]))
    elif what == "stats":
        for i in range(int(more[0])): os.fstat(files[number])
    elif what == "grown":
        for i in range(2000):
            if os.fstat(files[number]).st_size >= int(more[0]): break
            time.sleep(0.01)
    value = os.pread(files[number], 1000, 0).decode() if what == "read" else ""
    if what == "are": value = "".join(str(int(os.path.exists(path))) for path in more)
    if what == "cat":
        with open(more[0]) as f: value = str(os.stat(more[0]).st_size) + " " + f.read()
    print(what, number, value, flush=True)
`;

interface Worker {
  readonly service: Service;
  /** Does it, and says what came of it. */
  ask(what: string): Promise<string>;
}

async function startWorker(): Promise<Worker> {
  const service = startService("python3", ["-c", WORKER], { hasInput: true, cwd: "/" });
  await service.firstLine;
  const lines: string[] = [];
  let rest = "";
  let wake = () => {};
  service.process.stdout?.on("data", (text: Buffer) => {
    rest += String(text);
    const parts = rest.split("\n");
    rest = parts.pop() ?? "";
    lines.push(...parts);
    wake();
  });
  const ask = async (what: string) => {
    service.tell(`${what}\n`);
    while (lines.length === 0) {
      const told = new Promise<void>((resolve) => {
        wake = resolve;
      });
      await Promise.race([told, service.crashed]);
    }
    const [, , ...value] = (lines.shift() ?? "").split(" ");
    return value.join(" ").trim();
  };
  return { service, ask };
}

/** A server in this process, two mounts of it, and a program on each. */
async function twoMounts(...mount: string[]) {
  const drive = await startDriveHere({ limits: { leaseBreakMs: BREAK_MS }, mount });
  const path = join(drive.scratch, "two");
  mkdirSync(path);
  const other = await startMount(drive.url, path, "--allow-other", "--security", "plain", ...mount);
  const [one, two] = [await startWorker(), await startWorker()];
  const close = async () => {
    for (const { service } of [one, two]) await service.end("SIGKILL");
    await other.close();
    await drive.close();
  };
  return { drive, other, one, two, [Symbol.asyncDispose]: close };
}

async function leasesOf(path: string): Promise<{ read: number; write: number }> {
  const { stdout } = await command(process.execPath, netdrive("status", path, "--json"), { timeoutMs: 60_000 });
  return (JSON.parse(stdout) as [DriveStatus])[0].remote.leases;
}

async function elapsed(act: () => Promise<unknown>): Promise<number> {
  const beganMs = systemClock.monotonicMs();
  await act();
  return systemClock.monotonicMs() - beganMs;
}

test("what one mount has written and not sent another one sees, in size and content, and goes on writing", async () => {
  await using drives = await twoMounts();
  const { drive, other, one, two } = drives;
  for (let round = 0; round < 40; round += 1) {
    await one.ask(`open ${round} ${join(drive.path, `f${round}`)}`);
    await one.ask(`write ${round} unsent 0`);
    assert.equal(await two.ask(`cat 0 ${join(other.path, `f${round}`)}`), "6 unsent");
    await one.ask(`write ${round} more 6`);
    await one.ask(`close ${round}`);
    assert.equal(readFileSync(join(drive.directory, `f${round}`), "utf8"), "unsentmore");
  }
  assert.deepEqual(drive.server.counters().bufferBytes, 0);
});

test("who has read a file that stays open reads what another mount has written, by the same descriptor", async () => {
  await using drives = await twoMounts();
  const { drive, other, one, two } = drives;
  for (let round = 0; round < 20; round += 1) {
    writeFileSync(join(drive.directory, `f${round}`), "old content");
    await one.ask(`look ${round} ${join(drive.path, `f${round}`)}`);
    assert.equal(await one.ask(`read ${round}`), "old content");
    await two.ask(`open ${round} ${join(other.path, `f${round}`)}`);
    await two.ask(`write ${round} new 0`);
    await two.ask(`close ${round}`);
    assert.equal(await one.ask(`read ${round}`), "new content");
  }
  assert.deepEqual(await leasesOf(drive.path), { read: 0, write: 0 });
});

test("names that are not there are known, until another mount or a program beside the server gives them", async () => {
  await using drives = await twoMounts();
  const { drive, other, one, two } = drives;
  const missing = (round: number, count: number) =>
    Array.from({ length: count }, (_value, at) => join(drive.path, `d${round}`, `missing${at}`)).join(" ");
  for (let round = 0; round < 6; round += 1) {
    mkdirSync(join(drive.directory, `d${round}`));
    assert.equal(await one.ask(`are 0 ${missing(round, 4)}`), "0000");
    while ((await leasesOf(drive.path)).read !== 1) await one.ask(`are 0 ${missing(round, 4)}`);
    const before = drive.server.counters().requests;
    const names = Array.from({ length: 50 }, (_value, at) => join(drive.path, `d${round}`, `other${at}`));
    assert.equal(await one.ask(`are 0 ${names.join(" ")}`), "0".repeat(50));
    assert.ok(drive.server.counters().requests - before < 25, "fewer than names");
    const name = join(`d${round}`, "given");
    if (round % 2 === 0) {
      await two.ask(`open ${round} ${join(other.path, name)}`);
      assert.equal(await one.ask(`are 0 ${join(drive.path, name)}`), "1");
      await two.ask(`close ${round}`);
    } else {
      writeFileSync(join(drive.directory, name), "");
      while ((await leasesOf(drive.path)).read !== 0) {}
      assert.equal(await one.ask(`are 0 ${join(drive.path, name)}`), "1");
    }
  }
});

test("attributes of an open file are not asked for again and again, unless leases are off", async () => {
  for (const mode of ["on", "off"]) {
    await using drives = await twoMounts("-o", `attr_timeout=0,lease=${mode}`);
    const { drive, one } = drives;
    await one.ask(`open 1 ${join(drive.path, "f")}`);
    assert.deepEqual(await leasesOf(drive.path), { read: 0, write: mode === "on" ? 1 : 0 });
    const before = drive.server.counters().requests;
    await one.ask("stats 1 1000");
    const asked = drive.server.counters().requests - before;
    if (mode === "on") assert.ok(asked < 100, `${asked} requests`);
    else assert.ok(asked >= 1000, `${asked} requests`);
  }
});

test("a program beside the server changes an open file, and the mount that has a lease of it hears of that", async () => {
  await using drives = await twoMounts();
  const { drive, one } = drives;
  writeFileSync(join(drive.directory, "log"), "first ");
  await one.ask(`look 1 ${join(drive.path, "log")}`);
  assert.equal(await one.ask("read 1"), "first");
  appendFileSync(join(drive.directory, "log"), "second");
  await one.ask("grown 1 12");
  assert.equal(await one.ask("read 1"), "first second");
  assert.deepEqual(await leasesOf(drive.path), { read: 1, write: 0 });
});

test("a mount that is frozen holds others up for as long as it may take to answer, once, and goes on afterwards", async () => {
  await using drives = await twoMounts();
  const { drive, other, one, two } = drives;
  for (const name of ["f", "g"]) await one.ask(`open ${name} ${join(drive.path, name)}`);
  await one.ask("write f before 0");
  drive.mounted.service.process.kill("SIGSTOP");
  try {
    const firstMs = await elapsed(() => two.ask(`open 1 ${join(other.path, "f")}`));
    assert.ok(firstMs >= BREAK_MS * 0.9 && firstMs < BREAK_MS * 4, `${firstMs} ms`);
    const secondMs = await elapsed(() => two.ask(`open 2 ${join(other.path, "g")}`));
    assert.ok(secondMs < BREAK_MS * 0.9, `${secondMs} ms`);
    await two.ask("write 2 theirs 0");
    await two.ask("close 2");
  } finally {
    drive.mounted.service.process.kill("SIGCONT");
  }
  // It hears now of what happened meanwhile.
  await one.ask("grown g 6");
  assert.equal(await one.ask("read g"), "theirs");
  await one.ask("write g our 0");
  await one.ask("close g");
  await one.ask("close f");
  assert.equal(readFileSync(join(drive.directory, "g"), "utf8"), "ourirs");
  assert.equal(readFileSync(join(drive.directory, "f"), "utf8"), "before");
});

test("the server dies while somebody waits for a lease: it is in force again, and he sees what its holder sends", async () => {
  await using drive = await startMortalDrive();
  const path = join(drive.scratch, "two");
  mkdirSync(path);
  const other = await startMount(drive.served.url, path, "--allow-other");
  const [one, two] = [await startWorker(), await startWorker()];
  try {
    for (const round of [1, 2, 3]) {
      const name = `f${round}`;
      await one.ask(`open ${round} ${join(drive.path, name)}`);
      await one.ask(`write ${round} unsent 0`);
      drive.mounted.service.process.kill("SIGSTOP");
      const looking = two.ask(`cat 0 ${join(path, name)}`);
      await drive.kill();
      await drive.start();
      drive.mounted.service.process.kill("SIGCONT");
      assert.equal(await looking, "6 unsent");
      await one.ask(`write ${round} again 6`);
      await one.ask(`close ${round}`);
      assert.equal(readFileSync(join(drive.directory, name), "utf8"), "unsentagain");
    }
    await one.ask(`open kept ${join(drive.path, "kept")}`);
    await drive.kill();
    await drive.start();
    await one.ask(`open more ${join(drive.path, "more")}`);
    assert.deepEqual(await leasesOf(drive.path), { read: 0, write: 2 });
  } finally {
    drive.mounted.service.process.kill("SIGCONT");
    for (const { service } of [one, two]) await service.end("SIGKILL");
    await other.close();
  }
  assert.deepEqual(await drive.remains(), { identity: 1 });
});
