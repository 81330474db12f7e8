/**
 * The simulator over real sockets. Times are stepped by hand: a test waits until the bytes are on the link, then lets time pass.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { afterEach, beforeEach, test } from "node:test";
import { LinkSimulator } from "../../scripts/bench/link.ts";
import { LinkProcess } from "../../scripts/bench/link-process.ts";
import { StepClock } from "./step-clock.ts";

let server: Server;
let accepted: Socket[];
let onAccepted: () => void;
let clock: StepClock;
let link: LinkSimulator;
let clients: Socket[];

/** Lets sockets do their work until `done`; the test's own time limit bounds it. */
async function until(done: () => boolean): Promise<void> {
  while (!done()) await new Promise((resolve) => setImmediate(resolve));
}

/** When the socket is gone, whatever it died of. */
function closed(socket: Socket): Promise<void> {
  return new Promise((resolve) => socket.once("close", () => resolve()));
}

async function dial(port: number): Promise<Socket> {
  const client = connect({ host: "127.0.0.1", port, allowHalfOpen: true, noDelay: true });
  clients.push(client);
  client.on("error", () => {});
  await once(client, "connect");
  return client;
}

beforeEach(async () => {
  accepted = [];
  clients = [];
  onAccepted = () => {};
  server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    socket.on("error", () => {});
    accepted.push(socket);
    onAccepted();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  clock = new StepClock();
  link = new LinkSimulator({ clock, target: { host: "127.0.0.1", port: (server.address() as AddressInfo).port } });
});

afterEach(async () => {
  await link.close();
  for (const socket of [...clients, ...accepted]) socket.destroy();
  await new Promise((resolve) => server.close(resolve));
});

/** A client and the server's side of its connection, over the link. */
async function pair(): Promise<{ client: Socket; peer: Socket; port: number }> {
  const { port } = await link.listen({ host: "127.0.0.1", port: 0 });
  const client = await dial(port);
  await until(() => link.stats().acceptedCount === 1);
  clock.step(1000);
  await until(() => accepted.length === 1);
  return { client, peer: accepted[0] as Socket, port };
}

test("the target is dialled when the handshake is over: three one-way delays after the client's", {
  timeout: 10_000,
}, async () => {
  link.setDelay(25);
  const { port } = await link.listen({ host: "127.0.0.1", port: 0 });
  const dialled = new Promise<void>((resolve) => {
    onAccepted = resolve;
  });
  const client = await dial(port);
  client.write("early");
  await until(() => link.stats().up.queuedBytes === 5);
  clock.step(74);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(accepted.length, 0);
  clock.step(1);
  await dialled;
  await until(() => link.stats().up.deliveredBytes === 5);
  const [data] = await once(accepted[0] as Socket, "data");
  assert.equal(String(data), "early");
});

test("both directions are delayed, each by its own setting", { timeout: 10_000 }, async () => {
  const { client, peer } = await pair();
  link.setDelay(10, "up");
  link.setDelay(30, "down");
  client.write("ping");
  await until(() => link.stats().up.queuedBytes === 4);
  clock.step(9);
  assert.equal(link.stats().up.deliveredBytes, 0);
  clock.step(1);
  assert.equal(link.stats().up.deliveredBytes, 4);
  peer.write("pong!");
  await until(() => link.stats().down.queuedBytes === 5);
  clock.step(29);
  assert.equal(link.stats().down.deliveredBytes, 0);
  clock.step(1);
  const [data] = await once(client, "data");
  assert.equal(String(data), "pong!");
});

test("ten megabytes through delay and rate come out as they went in, ends included", { timeout: 30_000 }, async () => {
  const { client, peer } = await pair();
  link.setDelay(20);
  link.setRate(1e9);
  const sent = Buffer.alloc(10_000_000, "0123456789abcdef0");
  const received: Buffer[] = [];
  let ended = false;
  peer.on("data", (chunk) => received.push(chunk));
  peer.once("end", () => {
    ended = true;
  });
  client.end(sent);
  while (!ended) {
    clock.step(1);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.ok(Buffer.concat(received).equals(sent));
  assert.ok(clock.monotonicMs() >= 1000 + 80 + 20, `the line took ${clock.monotonicMs()} ms`);
  peer.end();
  client.resume();
  while (link.stats().connectionCount > 0) {
    clock.step(1);
    await new Promise((resolve) => setImmediate(resolve));
  }
});

test("a freeze keeps the sockets open and silent, a thaw delivers", { timeout: 10_000 }, async () => {
  const { client, peer } = await pair();
  link.freeze();
  client.write("held");
  await until(() => link.stats().up.queuedBytes === 4);
  clock.step(3_600_000);
  assert.deepEqual([link.stats().up.deliveredBytes, client.destroyed, peer.destroyed], [0, false, false]);
  link.thaw();
  const [data] = await once(peer, "data");
  assert.equal(String(data), "held");
});

test("a connection made while frozen is answered after the thaw", { timeout: 10_000 }, async () => {
  link.freeze();
  const { port } = await link.listen({ host: "127.0.0.1", port: 0 });
  const client = await dial(port);
  client.write("late");
  await until(() => link.stats().up.queuedBytes === 4);
  clock.step(60_000);
  assert.equal(accepted.length, 0);
  const dialled = new Promise<void>((resolve) => {
    onAccepted = resolve;
  });
  link.thaw();
  await dialled;
  const [data] = await once(accepted[0] as Socket, "data");
  assert.equal(String(data), "late");
});

test("a cut resets both sides, what is under way is lost, the next connection works", { timeout: 10_000 }, async () => {
  const { client, peer, port } = await pair();
  link.setDelay(50);
  client.write("lost");
  await until(() => link.stats().up.queuedBytes === 4);
  const codes: string[] = [];
  for (const socket of [client, peer])
    socket.on("error", (error: NodeJS.ErrnoException) => codes.push(error.code ?? ""));
  link.cut();
  await until(() => client.destroyed && peer.destroyed);
  assert.deepEqual(codes, ["ECONNRESET", "ECONNRESET"]);
  assert.deepEqual([link.stats().connectionCount, link.stats().cutCount, link.stats().up.deliveredBytes], [0, 1, 0]);
  link.setDelay(0);
  const again = await dial(port);
  again.write("again");
  await until(() => accepted.length === 2);
  const [data] = await once(accepted[1] as Socket, "data");
  assert.equal(String(data), "again");
});

test("the death of a peer reaches the other side after the delay", { timeout: 10_000 }, async () => {
  const { client, peer } = await pair();
  link.setDelay(40, "down");
  const died = closed(client);
  client.resume();
  peer.resetAndDestroy();
  await until(() => clock.pendingCount > 0);
  clock.step(39);
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(client.destroyed, false);
  clock.step(1);
  await died;
  assert.equal(link.stats().connectionCount, 0);
});

test("a link to nobody resets its clients", { timeout: 10_000 }, async () => {
  await new Promise((resolve) => server.close(resolve));
  const { port } = await link.listen({ host: "127.0.0.1", port: 0 });
  const client = await dial(port);
  await closed(client);
  assert.equal(link.stats().connectionCount, 0);
});

test("while refusing, connections are reset at once", { timeout: 10_000 }, async () => {
  const { port } = await link.listen({ host: "127.0.0.1", port: 0 });
  link.refuse(true);
  await assert.rejects(
    dial(port).then((client) => once(client, "end")),
    { code: "ECONNRESET" },
  );
  link.refuse(false);
  const client = await dial(port);
  client.write("x");
  await until(() => accepted.length === 1);
});

test("a plan of troubles happens on the clock and can be called off", { timeout: 10_000 }, async () => {
  await pair();
  link.trouble({ seed: 3, cut: { everyMs: 100 }, freeze: { everyMs: 50, durationMsMax: 20 } });
  clock.step(2000);
  const { cutCount } = link.stats();
  assert.ok(cutCount > 8 && cutCount < 40, `${cutCount} cuts`);
  link.trouble(undefined);
  clock.step(2000);
  assert.deepEqual([link.stats().cutCount, link.stats().frozen, clock.pendingCount], [cutCount, false, 0]);
});

test("as a process of its own it takes the same commands and ends with its caller's pipe", {
  timeout: 20_000,
}, async () => {
  const target = { host: "127.0.0.1", port: (server.address() as AddressInfo).port };
  const child = await LinkProcess.start(target, ["delay 1", "rate none"]);
  try {
    await child.setDelay(2, "up");
    await child.setRate(1e9);
    const client = await dial(child.address.port);
    client.write("through a process");
    await until(() => accepted.length === 1);
    const [data] = await once(accepted[0] as Socket, "data");
    assert.equal(String(data), "through a process");
    assert.equal((await child.stats()).up.deliveredBytes, 17);
    await assert.rejects(child.setDelay(-1), /a delay of -1 ms/);
    await child.freeze();
    assert.equal((await child.stats()).frozen, true);
    await child.thaw();
    await child.trouble({ seed: 1, stall: { everyMs: 10, durationMsMax: 1 } });
    await child.trouble(undefined);
    const died = closed(client);
    await child.cut();
    await died;
  } finally {
    await child.close();
  }
  assert.throws(() => process.kill(child.pid, 0), { code: "ESRCH" });
});
