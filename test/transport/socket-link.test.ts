/** The front door and the way to it, over real sockets on loopback. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer as createHttpServer, get } from "node:http";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import { test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { ConnectionError, ProtocolError } from "../../src/base/errors.ts";
import type { ByteLink } from "../../src/transport/byte-link.ts";
import { Channel } from "../../src/transport/channel.ts";
import { dial } from "../../src/transport/dial.ts";
import { type Listener, listen, Unproven } from "../../src/transport/listen.ts";
import { messages } from "../../src/wire/codec.ts";
import { emptyHeader } from "../../src/wire/frame.ts";
import { Recorder } from "../support/channels.ts";
import { sendDiverted } from "../support/diverted.ts";
import { FakeClock } from "../support/fake-clock.ts";

const HOST = "127.0.0.1";

async function listening(
  unproven = new Unproven(10),
): Promise<{ listener: Listener; links: ByteLink[]; link: Promise<ByteLink> }> {
  const links: ByteLink[] = [];
  let onLink: (link: ByteLink) => void = () => {};
  const link = new Promise<ByteLink>((resolve) => {
    onLink = resolve;
  });
  const listener = await listen({
    host: HOST,
    port: 0,
    unproven,
    clock: systemClock,
    onLink: (accepted) => {
      links.push(accepted);
      onLink(accepted);
    },
  });
  return { listener, links, link };
}

/** Runs `body` with the port of a raw TCP server; drops what is left of its connections. */
async function withTcpServer(onSocket: (socket: Socket) => void, body: (port: number) => Promise<void>): Promise<void> {
  const sockets: Socket[] = [];
  const server: Server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    onSocket(socket);
  });
  server.listen(0, HOST);
  await once(server, "listening");
  try {
    await body((server.address() as AddressInfo).port);
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, "close");
  }
}

function dialTo(port: number, options: { clock?: FakeClock; signal?: AbortSignal } = {}): Promise<ByteLink> {
  return dial({ host: HOST, port, timeoutMs: 3000, clock: options.clock ?? systemClock, signal: options.signal });
}

async function request(port: number, path: string): Promise<{ status: number; text: string; headers: object }> {
  const outgoing = get({ host: HOST, port, path, agent: false });
  const [response] = await once(outgoing, "response");
  let text = "";
  for await (const chunk of response) text += String(chunk);
  return { status: response.statusCode, text, headers: response.headers };
}

async function asked(port: number, text: string): Promise<string> {
  const socket = connect(port, HOST);
  socket.write(text);
  let answer = "";
  socket.on("data", (chunk) => {
    answer += chunk.toString("latin1");
  });
  socket.on("error", () => {});
  await once(socket, "close");
  return answer;
}

test("who does not ask for an upgrade gets a short answer that names nothing", async () => {
  const { listener, links } = await listening();
  const { port } = listener.address;
  try {
    const root = await request(port, "/");
    assert.equal(root.status, 200);
    assert.equal(root.text, "This is a netdrive server. Mount it with 'netdrive mount'.\n");
    assert.ok(!("server" in root.headers) && !("x-powered-by" in root.headers));
    assert.equal((await request(port, "/share")).status, 404);
    assert.equal((await request(port, "/netdrive/1")).status, 426);
    const upgrade = (path: string, protocol: string) =>
      asked(port, `GET ${path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n\r\n`);
    assert.match(await upgrade("/netdrive/1", "websocket"), /^HTTP\/1\.1 426 /);
    assert.match(await upgrade("/other", "netdrive/1"), /^HTTP\/1\.1 404 /);
    assert.doesNotMatch(await asked(port, "\x16\x03\x01\x02\x00\x01\x00\x01garbage\r\n\r\n"), /101/);
    assert.doesNotMatch(await asked(port, `GET /${"x".repeat(20_000)} HTTP/1.1\r\n\r\n`), /101/);
    assert.equal(links.length, 0);
  } finally {
    await listener.close();
  }
});

test("a refused upgrade and a link nobody starts are closed, whatever the peer does", async () => {
  const { listener, link } = await listening();
  const { port } = listener.address;
  const upgrade = (path: string) => {
    const socket = connect({ port, host: HOST, allowHalfOpen: true });
    socket.on("error", () => {});
    socket.write(`GET ${path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: netdrive/1\r\n\r\n`);
    socket.resume();
    return socket;
  };
  const refused = upgrade("/other");
  const accepted = upgrade("/netdrive/1");
  (await link).destroy();
  // Both keep their own side open; the server must not wait for them.
  await listener.close();
  refused.destroy();
  accepted.destroy();
});

test("frames and long payloads pass a real upgrade in both directions, whatever is cut where", async () => {
  const { listener, link } = await listening();
  const clientLink = await dialTo(listener.address.port);
  const serverLink = await link;
  const options = { clock: systemClock, sendBytesMax: 1 << 20 };
  const client = new Channel(clientLink, { ...options, sendBytesMax: Number.POSITIVE_INFINITY });
  const server = new Channel(serverLink, options);
  const payload = Buffer.alloc(5_000_000);
  for (let at = 0; at < payload.length; at += 4) payload.writeUInt32LE(at, at);
  const header = { ...emptyHeader(), opcode: messages.read.row.code, flags: 1 };
  const received = (channel: Channel) => {
    channel.accept({ bodyBytesMax: 100, payloadBytesMax: payload.length });
    const recorder = new Recorder();
    const done = new Promise<Recorder>((resolve) => {
      recorder.onFrame = () => resolve(recorder);
    });
    channel.start(recorder);
    return done;
  };
  const done = Promise.all([received(client), received(server)]);
  for (const channel of [client, server]) {
    for (const tag of [1, 2, 3]) channel.send({ ...header, tag }, undefined, undefined, payload);
    channel.send({ ...emptyHeader(), opcode: 4 }, messages.cancel.request, { canceledTag: 9 });
  }
  for (const recorder of await done) {
    assert.equal(recorder.frames.length, 4);
    assert.ok(recorder.payloads.every((copy) => copy.equals(payload)));
  }
  client.close({ code: 0, text: "" });
  await client.gone;
  await server.gone;
  await listener.close();
});

test("a payload diverted while it lands leaves its target alone from then on", async () => {
  const { listener, link } = await listening();
  const clientLink = await dialTo(listener.address.port);
  const options = { clock: systemClock, sendBytesMax: 1 << 20 };
  const client = new Channel(clientLink, options);
  client.accept({ bodyBytesMax: 100, payloadBytesMax: 1_000_000 });
  const target = Buffer.alloc(1_000_000);
  const recorder = new Recorder();
  const begun = new Promise<void>((resolve) => {
    recorder.target = () => {
      resolve();
      return target;
    };
  });
  const ended = new Promise<void>((resolve) => {
    recorder.onFrame = () => resolve();
  });
  client.start(recorder);
  const server = await link;
  server.start({ data() {}, place: () => Buffer.alloc(100), landed() {}, closed() {} });
  await sendDiverted(server, client, begun);
  await ended;
  assert.equal(target.indexOf(2), -1);
  assert.equal(target.lastIndexOf(1), 99_999);
  assert.deepEqual(recorder.frames.at(-1), "cancel tag=0 canceledTag=9");
  client.destroy();
  await client.gone;
  await listener.close();
});

test("what a server says together with its 101 is not lost", async () => {
  const upgraded = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: netdrive/1\r\n\r\n";
  const goodbye = Buffer.from("060000000103000000000000000000000000000000000600" + "050002006e6f", "hex");
  await withTcpServer(
    (socket) => socket.once("data", () => socket.write(Buffer.concat([Buffer.from(upgraded), goodbye]))),
    async (port) => {
      const channel = new Channel(await dialTo(port), { clock: systemClock, sendBytesMax: 1000 });
      const recorder = new Recorder();
      const seen = new Promise<void>((resolve) => {
        recorder.onFrame = () => resolve();
      });
      channel.start(recorder);
      await seen;
      assert.deepEqual(recorder.frames, ['goodbye tag=0 code=5 reason="no"']);
      channel.destroy();
      await channel.gone;
    },
  );
});

test("dialling says in one line what is wrong", async () => {
  const { listener } = await listening();
  const { port } = listener.address;
  await listener.close();
  await assert.rejects(dialTo(port), (error) => {
    return error instanceof ConnectionError && error.retryable && /refuses the connection/.test(error.message);
  });
  await assert.rejects(dial({ host: "host.invalid", port: 1, timeoutMs: 20_000, clock: systemClock }), ConnectionError);
  const web = createHttpServer((_request, response) => response.end("a web page"));
  web.listen(0, HOST);
  await once(web, "listening");
  await assert.rejects(dialTo((web.address() as AddressInfo).port), (error) => {
    return error instanceof ProtocolError && /is not a netdrive server/.test(error.message);
  });
  web.close();
  const answers = ["220 smtp ready\r\n", "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"];
  for (const answer of answers) {
    await withTcpServer(
      (socket) => socket.once("data", () => socket.write(answer)),
      async (garbagePort) => assert.rejects(dialTo(garbagePort), ProtocolError),
    );
  }
  await withTcpServer(
    (socket) => socket.once("data", () => socket.destroy()),
    async (closingPort) => assert.rejects(dialTo(closingPort), ConnectionError),
  );
});

test("dialling a server that never answers ends in time, or when its caller gives up", async () => {
  let connected: () => void = () => {};
  await withTcpServer(
    (socket) => socket.once("data", () => connected()),
    async (port) => {
      const clock = new FakeClock();
      let isConnected = new Promise<void>((resolve) => {
        connected = resolve;
      });
      const timed = assert.rejects(dialTo(port, { clock }), /did not answer within 3 s/);
      await isConnected;
      clock.advance(3000);
      await timed;
      isConnected = new Promise<void>((resolve) => {
        connected = resolve;
      });
      const controller = new AbortController();
      const aborted = assert.rejects(dialTo(port, { clock, signal: controller.signal }), /given up/);
      await isConnected;
      controller.abort();
      await aborted;
      assert.equal(clock.pendingCount, 0);
      await assert.rejects(dialTo(port, { clock, signal: AbortSignal.abort() }), /given up/);
    },
  );
});

test("of the peers that have not proven themselves, the oldest makes room for the newest", async () => {
  const unproven = new Unproven(2);
  const { listener } = await listening(unproven);
  const { port } = listener.address;
  const sockets = [connect(port, HOST)];
  const first = sockets[0] as Socket;
  const closed = once(first, "close");
  first.on("error", () => {});
  await once(first, "connect");
  for (let index = 0; index < 2; index += 1) {
    const socket = connect(port, HOST);
    socket.on("error", () => {});
    sockets.push(socket);
    await once(socket, "connect");
  }
  await closed;
  assert.equal(unproven.count, 2);
  await listener.close();
  for (const socket of sockets) socket.destroy();
});
