/** `netdrive status` of a real drive, of a silent one and of none. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdirSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { after, test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { askStatus, type DriveStatus } from "../../src/cli/status-socket.ts";
import { command } from "../support/child.ts";
import { detach, netdrive, startMount, startServe } from "../support/drive.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("status");
const environment = { ...process.env, NETDRIVE_RUNTIME: join(temp.path, "runtime") };
process.env["NETDRIVE_RUNTIME"] = environment.NETDRIVE_RUNTIME;
after(() => temp.remove());

const run = (args: string[], codes = [0]) =>
  command(process.execPath, netdrive("status", ...args), { env: environment, codes, timeoutMs: 60_000 });

test("a drive tells its channels, round trip, window and bytes, and that its server is away", async () => {
  const [served, point] = [join(temp.path, "served"), join(temp.path, "drive")];
  for (const folder of [served, point]) mkdirSync(folder);
  assert.equal((await run([])).stdout, "no drive is mounted\n");
  const server = await startServe(served, "--squash", "none");
  const drive = await startMount(server.url, point, "--channels", "2");
  try {
    await command("dd", ["if=/dev/zero", `of=${point}/f`, "bs=1M", "count=4", "conv=fsync"], { timeoutMs: 60_000 });
    const [status] = JSON.parse((await run([point, "--json"])).stdout) as [DriveStatus];
    assert.equal(status.path, point);
    assert.equal(status.state, "connected");
    assert.ok(!status.url.includes("@"), "no token is shown");
    const open = ({ kind, state }: { kind: string; state: string }) => `${kind} ${state}`;
    assert.deepEqual(status.remote.channels.map(open), ["control open", "io open", "io open"]);
    assert.equal(status.dirtyBytes, 0);
    assert.equal(status.remote.sectionsOutstanding, 0);
    assert.ok((status.remote.roundTripMs ?? 0) > 0);
    assert.ok(status.remote.windowBytes >= status.sectionBytes);
    assert.equal(status.kernel.bytesWritten, 4 * 2 ** 20);
    const ciphers = new Set(status.remote.channels.map(({ security, cipher }) => `${security} ${cipher}`));
    assert.equal(ciphers.size, 1);
    const [cipher = ""] = ciphers;
    assert.match(cipher, /^tls TLS_(AES|CHACHA20)_\w+$/);
    const shown = cipher.replace("TLS_", "");
    const { stdout } = await run([]);
    assert.ok(stdout.includes(`connected; channels: control (${shown}), io (${shown}), io (${shown}); round trip `));
    assert.match(stdout, /; round trip \d+\.\d\d ms\n/);
    await server.service.end("SIGKILL");
    const lost = async () => (JSON.parse((await run(["--json"])).stdout) as [DriveStatus])[0].state === "away";
    while (!(await lost())) await settle();
    assert.match((await run([])).stdout, /away; channels: control \(tls, closed\), /);
  } finally {
    await drive.close();
    await server.service.end();
    detach(point);
  }
  assert.deepEqual(JSON.parse((await run(["--json"])).stdout), []);
  assert.ok(!existsSync(join(temp.path, "runtime", "drive.sock")));
});

test("a path without a drive is one clear line", async () => {
  for (const path of ["/", temp.path, "/nowhere/at/all"]) {
    const { stderr } = await run([path], [5]);
    assert.match(stderr, /^netdrive: [^\n]+\n$/);
  }
});

test("who does not answer, or answers nonsense, has no status", async () => {
  const file = join(temp.path, "nonsense.sock");
  assert.equal(await askStatus(file, systemClock), undefined);
  for (const answer of ["", "{}", "nonsense\n", '{"path":1}', "x".repeat(100_000)]) {
    const server = createServer((socket) => {
      socket.on("error", () => {});
      socket.end(answer);
    });
    server.listen(file);
    await once(server, "listening");
    assert.equal(await askStatus(file, systemClock), undefined);
    server.close();
    await once(server, "close");
  }
  const clock = new FakeClock();
  const silent = createServer((socket) => void socket.on("error", () => {}));
  silent.listen(file);
  await once(silent, "listening");
  const asked = askStatus(file, clock);
  const [socket] = (await once(silent, "connection")) as [{ destroy(): void }];
  clock.advance(10_000);
  assert.equal(await asked, undefined);
  socket.destroy();
  silent.close();
  await once(silent, "close");
});
