/** How a connection is begun over a line that may come back at any moment. */
import assert from "node:assert/strict";
import { connect, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { type TestContext, test } from "node:test";
import { type Clock, systemClock } from "../../src/base/clock.ts";
import { Attempts, connectTo } from "../../src/transport/connect.ts";
import { startService } from "../support/child.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { FakeNetwork } from "../support/fake-network.ts";

function attempts() {
  const sockets: Socket[] = [];
  const results: (Socket | Error)[] = [];
  const begin = () => {
    const socket = new Socket();
    sockets.push(socket);
    return socket;
  };
  return { sockets, results, tries: new Attempts(begin, (result) => results.push(result)) };
}

const lives = (sockets: readonly Socket[]) => sockets.map(({ destroyed }) => !destroyed);

test("the first connection that is answered is it, whenever it was begun", () => {
  const { sockets, results, tries } = attempts();
  for (let count = 0; count < 3; count += 1) tries.add();
  sockets[1]?.emit("connect");
  assert.deepEqual(results, [sockets[1]]);
  assert.deepEqual(lives(sockets), [false, true, false]);
  sockets[0]?.emit("error", new Error("too late to matter"));
  sockets[2]?.emit("connect");
  assert.equal(results.length, 1);
});

test("an error of one is the end of all", () => {
  const { sockets, results, tries } = attempts();
  tries.add();
  tries.add();
  const refused = new Error("refused");
  sockets[1]?.emit("error", refused);
  assert.deepEqual(results, [refused]);
  assert.deepEqual(lives(sockets), [false, false]);
});

test("of many without an answer the first stays, for slow lines, and the last few", () => {
  const { sockets, results, tries } = attempts();
  for (let count = 0; count < 20; count += 1) tries.add();
  const living = [...sockets.keys()].filter((index) => sockets[index]?.destroyed === false);
  assert.deepEqual(living, [0, 13, 14, 15, 16, 17, 18, 19]);
  sockets[0]?.emit("connect");
  assert.deepEqual(results, [sockets[0]]);
  assert.equal(lives(sockets).filter(Boolean).length, 1);
});

const HOST = "127.0.0.1";
const LISTENER = `require("node:net").createServer().listen({ host: "${HOST}", port: 0, backlog: 1 }, function () {
  console.log(this.address().port);
});`;

const pause = (ms: number) => new Promise<void>((resolve) => void systemClock.after(ms, resolve, { keepAlive: true }));

/** A host that hears nothing: what connects to a server that is stopped fills its backlog, and then the kernel drops every packet that asks for more. */
async function silentHost(t: TestContext, clock: Clock) {
  const server = startService(process.execPath, ["-e", LISTENER]);
  const sockets: Duplex[] = [];
  t.after(async () => {
    for (const socket of sockets) socket.destroy();
    await server.end("SIGKILL");
  });
  const port = Number(await server.firstLine);
  const ask = () => {
    const socket = connect({ host: HOST, port });
    socket.on("error", () => {});
    sockets.push(socket);
    return socket;
  };
  process.kill(server.pid, "SIGSTOP");
  for (let last = ask(); ; last = ask()) {
    await pause(100);
    if (!last.connecting) continue;
    last.destroy();
    break;
  }
  const network = new FakeNetwork();
  const connecting = connectTo({ host: HOST, port, clock, network }, () => {}).then((socket) => {
    sockets.push(socket);
  });
  return { ask, connecting, network, hear: () => process.kill(server.pid, "SIGCONT") };
}

test("a host that hears again is connected before the kernel sends a lost packet once more", async (t) => {
  const { ask, connecting, hear } = await silentHost(t, systemClock);
  const single = ask();
  // The kernel's packets leave at 0, 1 and 2 s, or 3 s.
  await pause(1100);
  hear();
  await connecting;
  assert.equal(single.connecting, true);
});

test("a host is asked at once when the network has changed", async (t) => {
  // Its time stands still: there are no attempts but the first, and that of the change.
  const { ask, connecting, network, hear } = await silentHost(t, new FakeClock());
  const single = ask();
  await pause(1100);
  hear();
  await pause(200);
  network.change();
  await connecting;
  assert.equal(single.connecting, true);
  assert.equal(network.listenerCount, 0);
});
