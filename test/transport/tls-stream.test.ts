/** TLS on the front door and on the way to it: real sockets on loopback, one port for both kinds, and somebody in the middle. */
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import type { IncomingMessage } from "node:http";
import { createServer as createHttpsServer, get } from "node:https";
import { type AddressInfo, connect, createServer, type Server, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { test } from "node:test";
import { connect as connectTls, createServer as createTlsServer } from "node:tls";
import { type Clock, systemClock } from "../../src/base/clock.ts";
import { CloseCode, ProtocolError } from "../../src/base/errors.ts";
import type { ByteLink } from "../../src/transport/byte-link.ts";
import { Channel } from "../../src/transport/channel.ts";
import type { Trust } from "../../src/transport/connect.ts";
import { dial, fingerprintAt } from "../../src/transport/dial.ts";
import { listen, Unproven, UPGRADE_PATH } from "../../src/transport/listen.ts";
import { makeIdentity } from "../../src/transport/self-signed.ts";
import { fingerprintOf } from "../../src/transport/tls-settings.ts";
import { messages } from "../../src/wire/codec.ts";
import { emptyHeader } from "../../src/wire/frame.ts";
import { Recorder } from "../support/channels.ts";
import { sendDiverted } from "../support/diverted.ts";
import { FakeClock } from "../support/fake-clock.ts";

const HOST = "127.0.0.1";
const identity = makeIdentity([HOST, "localhost"]);
const fingerprint = fingerprintOf(new X509Certificate(identity.certificate));

interface Door extends AsyncDisposable {
  readonly port: number;
  readonly unproven: Unproven;
  /** The next link of the server's side. */
  link(): Promise<ByteLink>;
  readonly links: ByteLink[];
}

async function openDoor(own = identity, clock: Clock = systemClock): Promise<Door> {
  const links: ByteLink[] = [];
  const waiting: ((link: ByteLink) => void)[] = [];
  const unproven = new Unproven(10);
  const onLink = (link: ByteLink) => {
    links.push(link);
    waiting.shift()?.(link);
  };
  const listener = await listen({ host: HOST, port: 0, identity: own, unproven, onLink, clock });
  return {
    port: listener.address.port,
    unproven,
    links,
    link: () => new Promise((resolve) => waiting.push(resolve)),
    async [Symbol.asyncDispose]() {
      for (const link of links) link.destroy();
      await listener.close();
    },
  };
}

function dialTo(port: number, trust?: Trust, host = HOST): Promise<ByteLink> {
  return dial({ host, port, trust, timeoutMs: 5000, clock: systemClock });
}

function channelOf(link: ByteLink): Channel {
  const channel = new Channel(link, { clock: systemClock, sendBytesMax: Number.POSITIVE_INFINITY });
  channel.accept({ bodyBytesMax: 100, payloadBytesMax: 5_000_000 });
  return channel;
}

/** A payload in which no four bytes are like any others. */
function numbered(bytes: number): Buffer {
  const payload = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; at += 4) payload.writeUInt32LE(at, at);
  return payload;
}

const UPGRADE = "Connection: Upgrade\r\nUpgrade: netdrive/1\r\n";
const turn = () => new Promise((resolve) => setImmediate(resolve));

const READ_REPLY = { ...emptyHeader(), opcode: messages.read.row.code, flags: 1 };
const sendLast = (channel: Channel) =>
  channel.send({ ...emptyHeader(), opcode: 4 }, messages.cancel.request, { canceledTag: 9 });

/** A recorder that says when the last frame has come. */
function recording(channel: Channel): { recorder: Recorder; done: Promise<void> } {
  const recorder = new Recorder();
  const done = new Promise<void>((resolve) => {
    recorder.onFrame = (header) => {
      if (header.opcode === messages.cancel.row.code) resolve();
    };
  });
  channel.start(recorder);
  return { recorder, done };
}

test("frames and long payloads pass in both directions, and both ends know the same binding", async () => {
  await using door = await openDoor();
  const accepted = door.link();
  const clientLink = await dialTo(door.port, { fingerprint });
  const serverLink = await accepted;
  assert.equal(clientLink.binding.length, 32);
  assert.deepEqual(clientLink.binding, serverLink.binding);
  assert.deepEqual([clientLink.address, serverLink.address], [HOST, HOST]);
  assert.equal(door.unproven.count, 0);
  const payload = numbered(4_999_996);
  const channels = [channelOf(clientLink), channelOf(serverLink)];
  const recordings = channels.map(recording);
  for (const channel of channels) {
    for (const tag of [1, 2, 3]) channel.send({ ...READ_REPLY, tag }, undefined, undefined, payload);
    for (const tag of [4, 5]) channel.send({ ...READ_REPLY, tag }, undefined, undefined, payload.subarray(0, 100));
    sendLast(channel);
  }
  for (const { recorder, done } of recordings) {
    await done;
    assert.equal(recorder.frames.length, 6);
    assert.ok(recorder.payloads.slice(0, 3).every((copy) => copy.equals(payload)));
  }
  channels[0]?.close({ code: 0, text: "" });
  await Promise.all(channels.map(({ gone }) => gone));
});

test("two connections have different bindings", async () => {
  await using door = await openDoor();
  const [first, second] = [await dialTo(door.port, { fingerprint }), await dialTo(door.port, { fingerprint })];
  assert.notDeepEqual(first.binding, second.binding);
  for (const link of [first, second]) link.destroy();
});

test("what comes while the receiver waits for a buffer is kept, in order", async () => {
  await using door = await openDoor();
  const accepted = door.link();
  const client = channelOf(await dialTo(door.port, { fingerprint }));
  const server = channelOf(await accepted);
  const { recorder, done } = recording(client);
  const payload = numbered(1_000_000);
  let waits = 0;
  recorder.target = (bytes) => {
    waits += 1;
    setImmediate(() => setImmediate(() => client.provide(Buffer.alloc(bytes))));
    return undefined;
  };
  const provided: Buffer[] = [];
  const provide = client.provide.bind(client);
  client.provide = (target) => {
    provided.push(target);
    provide(target);
  };
  server.start(new Recorder());
  for (let tag = 1; tag <= 5; tag += 1) server.send({ ...READ_REPLY, tag }, undefined, undefined, payload);
  sendLast(server);
  await done;
  assert.equal(waits, 5);
  assert.ok(provided.every((copy) => copy.equals(payload)));
  for (const channel of [client, server]) channel.destroy();
});

test("a payload diverted while it lands leaves its target alone from then on", async () => {
  await using door = await openDoor();
  const accepted = door.link();
  const client = channelOf(await dialTo(door.port, { fingerprint }));
  const server = await accepted;
  server.start({ data() {}, place: () => Buffer.alloc(100), landed() {}, closed() {} });
  const target = Buffer.alloc(1_000_000);
  const { recorder, done } = recording(client);
  const begun = new Promise<void>((resolve) => {
    recorder.target = () => {
      resolve();
      return target;
    };
  });
  await sendDiverted(server, client, begun);
  await done;
  assert.equal(target.indexOf(2), -1);
  assert.equal(target.lastIndexOf(1), 99_999);
  client.destroy();
  await client.gone;
});

test("one port serves both kinds, and a link says which it is", async () => {
  await using door = await openDoor();
  const links = [await dialTo(door.port), await dialTo(door.port, { fingerprint }), await dialTo(door.port)];
  assert.deepEqual(
    links.map(({ binding }) => binding.length),
    [0, 32, 0],
  );
  for (const link of links) link.destroy();
});

test("a server with another key than it should have hears nothing but the handshake", async () => {
  await using door = await openDoor();
  const other = fingerprintOf(new X509Certificate(makeIdentity([HOST]).certificate));
  await assert.rejects(dialTo(door.port, { fingerprint: other }), (error) => {
    assert.ok(error instanceof ProtocolError && error.closeCode === CloseCode.SECURITY);
    assert.equal(error.message, `the key of ${HOST}:${door.port} is ${fingerprint} and should be ${other}`);
    return true;
  });
  assert.equal(door.links.length, 0);
});

test("somebody in the middle with a certificate of their own is refused, by pin and by CA", async () => {
  await using door = await openDoor();
  const own = makeIdentity([HOST, "localhost"]);
  let forwarded = 0;
  const sockets: Socket[] = [];
  // Decrypts what the client says and says it on to the real server: the whole attack, if the client lets it.
  const middle = createTlsServer({ cert: own.certificate, key: own.key }, (inner) => {
    const outer = connectTls({ host: HOST, port: door.port, rejectUnauthorized: false });
    sockets.push(inner, outer);
    for (const socket of [inner, outer]) socket.on("error", () => {});
    inner.on("data", (chunk: Buffer) => {
      forwarded += chunk.length;
    });
    inner.pipe(outer).pipe(inner);
  });
  middle.on("tlsClientError", () => {});
  middle.listen(0, HOST);
  await once(middle, "listening");
  const { port } = middle.address() as AddressInfo;
  for (const trust of [{ fingerprint }, { ca: identity.certificate }]) {
    await assert.rejects(dialTo(port, trust), (error) => {
      return error instanceof ProtocolError && error.closeCode === CloseCode.SECURITY;
    });
  }
  assert.equal(forwarded, 0);
  // Who believes in the wrong key has two connections there: what is bound to one says nothing on the other.
  const theirs = fingerprintOf(new X509Certificate(own.certificate));
  const accepted = door.link();
  const fooled = await dialTo(port, { fingerprint: theirs });
  assert.notDeepEqual(fooled.binding, (await accepted).binding);
  for (const socket of sockets) socket.destroy();
  fooled.destroy();
  middle.close();
  await once(middle, "close");
});

test("a CA vouches for its hosts only", async () => {
  await using door = await openDoor();
  const trust = { ca: identity.certificate };
  const good = await dialTo(door.port, trust);
  good.destroy();
  (await dialTo(door.port, trust, "localhost")).destroy();
  await using elsewhere = await openDoor(makeIdentity(["other.example"]));
  await assert.rejects(dialTo(elsewhere.port, trust), /the certificate of 127\.0\.0\.1:\d+ is not good: /);
  const named = makeIdentity(["other.example"]);
  await using misnamed = await openDoor(named);
  await assert.rejects(dialTo(misnamed.port, { ca: named.certificate }), (error) => {
    return error instanceof ProtocolError && error.closeCode === CloseCode.SECURITY && /IP/.test(error.message);
  });
});

test("nothing older than TLS 1.3 is spoken, and the fastest cipher is taken", async () => {
  await using door = await openDoor();
  const old = connectTls({ host: HOST, port: door.port, rejectUnauthorized: false, maxVersion: "TLSv1.2" });
  const [error] = (await once(old, "error")) as [NodeJS.ErrnoException];
  assert.match(error.code ?? "", /ALERT_PROTOCOL_VERSION/);
  const socket = connectTls({ host: HOST, port: door.port, rejectUnauthorized: false });
  await once(socket, "secureConnect");
  assert.equal(socket.getProtocol(), "TLSv1.3");
  assert.match(socket.getCipher().standardName, /^TLS_(AES_128_GCM_SHA256|CHACHA20_POLY1305_SHA256)$/);
  socket.destroy();
});

test("the key of a server can be asked for before it is believed", async () => {
  await using door = await openDoor();
  const place = { host: HOST, port: door.port, timeoutMs: 5000, clock: systemClock };
  assert.equal(await fingerprintAt(place), fingerprint);
  await assert.rejects(fingerprintAt({ ...place, signal: AbortSignal.abort() }), /given up/);
  const silent = createServer((socket) => socket.on("error", () => {})).listen(0, HOST);
  await once(silent, "listening");
  const clock = new FakeClock();
  const { port } = silent.address() as AddressInfo;
  const connected = once(silent, "connection");
  const asked = assert.rejects(fingerprintAt({ ...place, port, clock }), /did not answer within 5 s/);
  await connected;
  clock.advance(5000);
  await asked;
  silent.close();
});

test("who does not speak TLS is no server to be trusted", async () => {
  const web = createServer((socket) => {
    socket.on("error", () => {});
    socket.once("data", () => socket.end("HTTP/1.1 400 Bad Request\r\n\r\n"));
  }).listen(0, HOST);
  await once(web, "listening");
  const { port } = web.address() as AddressInfo;
  const isRefused = (error: unknown) => error instanceof ProtocolError && /does not speak TLS 1\.3/.test(error.message);
  await assert.rejects(dialTo(port, { fingerprint }), isRefused);
  await assert.rejects(fingerprintAt({ host: HOST, port, timeoutMs: 5000, clock: systemClock }), isRefused);
  web.close();
});

test("who says nothing at all, or begins a handshake and no more, is let go in time", async () => {
  for (const text of ["", "\x16\x03\x01\x02\x00"]) {
    const clock = new FakeClock();
    await using door = await openDoor(identity, clock);
    const socket = connect(door.port, HOST);
    const closed = once(socket, "close");
    await once(socket, "connect");
    socket.write(text, "latin1");
    while (door.unproven.count === 0) await turn();
    for (let turns = 0; turns < 20; turns += 1) await turn();
    clock.advance(9999);
    assert.equal(door.unproven.count, 1);
    clock.advance(1);
    await closed;
    assert.equal(clock.pendingCount, 0);
    assert.equal(door.unproven.count, 0);
  }
});

test("the front door answers over TLS as it does without", async () => {
  await using door = await openDoor();
  const ask = async (path: string) => {
    const outgoing = get({ host: HOST, port: door.port, path, agent: false, ca: identity.certificate });
    const [response] = (await once(outgoing, "response")) as [IncomingMessage];
    let text = "";
    for await (const chunk of response) text += String(chunk);
    return { status: response.statusCode, text };
  };
  assert.deepEqual(await ask("/"), {
    status: 200,
    text: "This is a netdrive server. Mount it with 'netdrive mount'.\n",
  });
  assert.equal((await ask("/share")).status, 404);
  assert.equal((await ask(UPGRADE_PATH)).status, 426);
  while (door.unproven.count > 0) await turn();
});

test("a client with Node's TLS comes in, whatever it says behind its request", async () => {
  await using door = await openDoor();
  const accepted = door.link();
  const socket = connectTls({ host: HOST, port: door.port, ca: identity.certificate });
  await once(socket, "secureConnect");
  const cancel = Buffer.from("040000000104000000000000000000000000000000000400" + "09000000", "hex");
  socket.write(Buffer.concat([Buffer.from(`GET ${UPGRADE_PATH} HTTP/1.1\r\nHost: h\r\n${UPGRADE}\r\n`), cancel]));
  const link = await accepted;
  assert.deepEqual(link.binding, socket.exportKeyingMaterial(32, "EXPERIMENTAL netdrive/1 channel", Buffer.alloc(0)));
  const server = channelOf(link);
  const { recorder, done } = recording(server);
  await done;
  assert.equal(recorder.frames.length, 1);
  sendLast(server);
  let heard = Buffer.alloc(0);
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    heard = Buffer.concat([heard, chunk]);
    if (heard.includes(cancel)) break;
  }
  assert.match(heard.toString("latin1"), /^HTTP\/1\.1 101 /);
  server.destroy();
  await server.gone;
});

test("a server with Node's TLS is dialled, waiting for its yes and not", async () => {
  const upgraded = `HTTP/1.1 101 Switching Protocols\r\n${UPGRADE}\r\n`;
  const sockets: Duplex[] = [];
  const web = createHttpsServer({ cert: identity.certificate, key: identity.key });
  web.on("upgrade", (_request, socket: Duplex, head: Buffer) => {
    sockets.push(socket);
    socket.on("error", () => {});
    socket.write(upgraded);
    socket.write(head);
    socket.pipe(socket);
  });
  web.listen(0, HOST);
  await once(web, "listening");
  const { port } = web.address() as AddressInfo;
  for (const isEager of [false, true]) {
    const link = await dial({ host: HOST, port, trust: { fingerprint }, timeoutMs: 5000, clock: systemClock, isEager });
    const client = channelOf(link);
    const { recorder, done } = recording(client);
    const payload = numbered(3_000_000);
    client.send({ ...READ_REPLY, tag: 1 }, undefined, undefined, payload);
    sendLast(client);
    await done;
    assert.ok(recorder.payloads[0]?.equals(payload));
    client.destroy();
    await client.gone;
  }
  for (const socket of sockets) socket.destroy();
  web.close();
});

test("a server that goes while hands are shaken, or before it says yes, has closed the connection", async () => {
  for (const bytes of [0, 1, 200]) {
    const hanging = createServer((socket) => {
      socket.on("error", () => {});
      socket.once("data", () => socket.end(Buffer.alloc(bytes, 0x16)));
    }).listen(0, HOST);
    await once(hanging, "listening");
    const { port } = hanging.address() as AddressInfo;
    const text = bytes === 200 ? /does not speak TLS 1\.3/ : /closed the connection/;
    await assert.rejects(dialTo(port, { fingerprint }), text);
    hanging.close();
  }
  const web = createHttpsServer({ cert: identity.certificate, key: identity.key });
  web.on("upgrade", (_request, socket: Duplex) => socket.destroy());
  web.listen(0, HOST);
  await once(web, "listening");
  const { port } = web.address() as AddressInfo;
  await assert.rejects(dialTo(port, { fingerprint }), /closed the connection/);
  web.close();
});

test("dialling ends when its caller gives up in the middle of a handshake", async () => {
  const silent = createServer((socket) => socket.on("error", () => {})).listen(0, HOST);
  await once(silent, "listening");
  const { port } = silent.address() as AddressInfo;
  const controller = new AbortController();
  const connection = once(silent, "connection") as Promise<[Socket]>;
  const { signal } = controller;
  const dialled = dial({ host: HOST, port, trust: { fingerprint }, timeoutMs: 5000, clock: systemClock, signal });
  const refused = assert.rejects(dialled, /given up/);
  const [theirs] = await connection;
  await once(theirs, "data");
  controller.abort();
  await refused;
  await once(theirs.resume(), "close");
  silent.close();
});

test("who resets the connection behind the request for an upgrade harms nobody else", async () => {
  await using door = await openDoor();
  // One that goes in between, too, whatever the kernel makes of it.
  for (let round = 0; round < 20; round += 1) {
    const raw = connect(door.port, HOST);
    const closed = once(raw, "close");
    const socket = connectTls({ socket: raw, ca: identity.certificate, host: HOST });
    await once(socket, "secureConnect");
    socket.on("error", () => {});
    socket.write(`GET ${UPGRADE_PATH} HTTP/1.1\r\nHost: h\r\n${UPGRADE}\r\n`, () => raw.resetAndDestroy());
    await closed;
  }
  while (door.unproven.count > 0) await turn();
  (await dialTo(door.port, { fingerprint })).destroy();
});

/** Passes `bytes` on in one direction, and all in the other, between whoever comes and `port`; then both are reset. */
async function resetAfter(port: number, bytes: number, direction: "up" | "down"): Promise<Server> {
  const proxy = createServer((client) => {
    const server = connect(port, HOST);
    const reset = () => {
      client.resetAndDestroy();
      server.resetAndDestroy();
    };
    for (const socket of [client, server]) socket.on("error", reset).on("end", reset);
    const [from, to] = direction === "up" ? [client, server] : [server, client];
    let left = bytes;
    from.on("data", (chunk: Buffer) => {
      const end = chunk.length < left ? undefined : reset;
      to.write(chunk.subarray(0, left), end);
      left -= chunk.length;
      if (end !== undefined) from.pause();
    });
    to.pipe(from);
  }).listen(0, HOST);
  await once(proxy, "listening");
  return proxy;
}

test("a connection may be reset wherever it is in its beginning, in both directions", async () => {
  await using door = await openDoor();
  for (const direction of ["up", "down"] as const) {
    for (let bytes = 0; bytes < 1600; bytes += 40) {
      const proxy = await resetAfter(door.port, bytes, direction);
      const { port } = proxy.address() as AddressInfo;
      // Where the last byte of the handshake is depends on the certificate: beyond it there is a link, which ends.
      const link = await dialTo(port, { fingerprint }).catch(() => undefined);
      if (link !== undefined) {
        const channel = channelOf(link);
        channel.start(new Recorder());
        sendLast(channel);
        channel.destroy();
        await channel.gone;
      }
      proxy.close();
    }
  }
  while (door.unproven.count > 0) await turn();
  (await dialTo(door.port, { fingerprint })).destroy();
});

test("garbage that begins like TLS, and silence, harm nobody else and end with the door", async () => {
  const door = await openDoor();
  const sockets = ["\x16\x03\x01\x00\x05garbage", "\x16", ""].map((text) => {
    const socket = connect(door.port, HOST);
    socket.on("error", () => {});
    socket.write(text);
    return socket;
  });
  const closed = sockets.map((socket) => new Promise((resolve) => socket.once("close", resolve)));
  sockets.forEach((socket) => void socket.resume());
  await closed[0];
  (await dialTo(door.port, { fingerprint })).destroy();
  assert.equal(door.unproven.count, 2);
  await door[Symbol.asyncDispose]();
  await Promise.all(closed);
  assert.equal(door.unproven.count, 0);
});
