/** Waiting awake: it begins where events come in quick turns, and ends by itself. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { cpus } from "node:os";
import { type TestContext, test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { busyWait } from "../../src/sys/busy-wait.ts";
import { descriptorOf, TcpSocket } from "../../src/sys/tcp-socket.ts";
import { connected } from "../support/connected.ts";

/** The first quick turn is one of the first ones; where turns are slow, as under load, it comes later. */
const TURNS_MAX = 20_000;

const pause = (ms: number) => new Promise<void>((resolve) => void systemClock.after(ms, resolve, { keepAlive: true }));

/** Somebody who answers at once; gone after the test, also if that fails. */
async function echo(t: TestContext): Promise<Socket> {
  const server = createServer((socket) => socket.pipe(socket));
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const socket = connect((server.address() as AddressInfo).port, "127.0.0.1");
  t.after(async () => {
    socket.destroy();
    server.close();
    await once(server, "close");
  });
  return socket;
}

test("a loop waits awake while events come in quick turns, and sleeps when they do not", async (t) => {
  assert.deepEqual(busyWait(), { isAwake: false, begun: 0, vain: 0, streamed: 0, crowded: 0 });
  const socket = await echo(t);
  for (let turn = 0; turn < TURNS_MAX && busyWait().begun === 0; turn += 1) {
    socket.write("x");
    await once(socket, "data");
  }
  assert.ok(busyWait().begun > 0);
  while (busyWait().isAwake) await pause(1);
  const { begun, vain } = busyWait();
  assert.equal(begun, vain);
  // Timers are no events to be awake for.
  const before = process.cpuUsage();
  for (let turn = 0; turn < 20; turn += 1) await pause(10);
  const { user, system } = process.cpuUsage(before);
  assert.ok(user + system < 100_000, `${user + system} us of processor in 200 ms of nothing`);
  assert.ok(busyWait().begun <= begun + 1);
});

test("a loop sleeps where others want the processor for themselves", async (t) => {
  const programs = cpus()
    .flatMap(() => [0, 1])
    .map(() => spawn(process.execPath, ["-e", "for (;;);"]));
  t.after(() => {
    for (const program of programs) program.kill("SIGKILL");
  });
  const socket = await echo(t);
  while (busyWait().crowded === 0) {
    socket.write("x");
    await once(socket, "data");
  }
});

test("it is known when much data flows, and when no more", async () => {
  let wanted = 0;
  let onLanded = () => {};
  const landed = (bytes: number) => {
    wanted -= bytes;
    if (wanted === 0) onLanded();
  };
  await connected(async (ours, theirs) => {
    const events = { landed, sent() {}, ended() {} };
    const [from, to] = [ours, theirs].map((raw) => new TcpSocket(descriptorOf(raw), events)) as [TcpSocket, TcpSocket];
    for (const raw of [ours, theirs]) raw.destroy();
    to.place(Buffer.alloc(1 << 20));
    to.read(true);
    const pass = (bytes: number) =>
      new Promise<void>((resolve) => {
        wanted = bytes;
        onLanded = resolve;
        from.send([Buffer.alloc(bytes)]);
      });
    const before = busyWait().streamed;
    while (busyWait().streamed < before + 5) await pass(128 * 1024);
    // What has flowed up to now may still count.
    await pause(5);
    const { streamed } = busyWait();
    for (let turn = 0; turn < 500; turn += 1) await pass(16);
    assert.equal(busyWait().streamed, streamed);
    for (const socket of [from, to]) socket.close();
  });
});
