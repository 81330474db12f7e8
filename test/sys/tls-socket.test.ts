/** TLS in the addon: with itself, with Node's TLS, and with OpenSSL's own programs; on lines that cut, bend and end what passes. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { once } from "node:events";
import { readdirSync } from "node:fs";
import type { Socket } from "node:net";
import { test } from "node:test";
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from "node:tls";
import { fileURLToPath } from "node:url";
import { TlsContext } from "../../src/sys/tls-context.ts";
import { bindingOf, tlsCiphers } from "../../src/transport/tls-settings.ts";
import {
  clientContext,
  connected,
  identity,
  type Line,
  openPort,
  serverContext,
  TlsEnd,
  tlsPair,
} from "../support/tls-ends.ts";

const HOST = "127.0.0.1";
const RECORD_HEADER_BYTES = 5;
const APPLICATION_DATA = 23;
const turn = () => new Promise((resolve) => setImmediate(resolve));

/** Bytes in which no four are like any others. */
function numbered(bytes: number): Buffer {
  const data = Buffer.alloc(Math.ceil(bytes / 4) * 4);
  for (let at = 0; at < data.length; at += 4) data.writeUInt32LE(at, at);
  return data.subarray(0, bytes);
}

/** A line that knows where records begin: `onRecord` gets each, with how many there were before it in its direction. */
function byRecord(onRecord: (record: Buffer, index: number, direction: "up" | "down", to: Socket) => void): Line {
  const rest = { up: Buffer.alloc(0), down: Buffer.alloc(0) };
  const count = { up: 0, down: 0 };
  return (bytes, _from, to, direction) => {
    let all = Buffer.concat([rest[direction], bytes]);
    while (all.length >= RECORD_HEADER_BYTES) {
      const end = RECORD_HEADER_BYTES + all.readUInt16BE(3);
      if (all.length < end) break;
      onRecord(all.subarray(0, end), count[direction]++, direction, to);
      all = all.subarray(end);
    }
    rest[direction] = Buffer.from(all);
  };
}

test("both ends know who is there and share what nobody else knows", async (t) => {
  const { client, server } = await tlsPair(t);
  await Promise.all([client.secured(), server.secured()]);
  const binding = bindingOf(client.socket);
  assert.equal(binding.length, 32);
  assert.deepEqual(binding, bindingOf(server.socket));
  assert.deepEqual(server.socket.peerCertificate(), { der: undefined, failure: "" });
  const { der, failure } = client.socket.peerCertificate();
  assert.match(client.socket.cipher(), /^TLS_(AES|CHACHA20)_\w+$/);
  assert.equal(client.socket.cipher(), server.socket.cipher());
  assert.equal(failure, "");
  assert.ok(der !== undefined && identity.certificate.replace(/\s/g, "").includes(der.toString("base64")));
  const other = await tlsPair(t, { client: TlsContext.ofClient({ ciphers: tlsCiphers() }) });
  await other.client.secured();
  assert.match(other.client.socket.peerCertificate().failure, /self-signed certificate/);
  assert.notDeepEqual(bindingOf(other.client.socket), binding);
});

test("a context wants a certificate and the key of it", () => {
  const ciphers = tlsCiphers();
  const none = { ciphers, key: identity.key, certificate: "" };
  assert.throws(() => TlsContext.ofServer(none));
  assert.throws(() => TlsContext.ofServer({ ...none, certificate: identity.key }));
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const key = privateKey.export({ type: "pkcs8", format: "pem" }) as string;
  assert.throws(() => TlsContext.ofServer({ ciphers, certificate: identity.certificate, key }), /mismatch/);
  assert.throws(() => TlsContext.ofClient({ ciphers: "none such" }), /no cipher match/i);
});

test("much and little, in one piece and in many, arrives in order in both directions at once", async (t) => {
  for (const placeBytes of [7, 4096, 1 << 20]) {
    const { client, server } = await tlsPair(t, { placeBytes });
    await Promise.all([client.secured(), server.secured()]);
    const large = numbered(placeBytes === 7 ? 100_000 : 5_000_001);
    const small = Array.from({ length: 200 }, (_, index) => numbered(index % 7 === 0 ? 0 : index * 3));
    const chunks = [...small, large, Buffer.from("x"), numbered(16 * 1024), numbered(16 * 1024 + 1)];
    const all = Buffer.concat(chunks);
    await Promise.all([
      ...[client, server].map((end) => end.send(...chunks)),
      ...[client, server].map((end) => end.until(({ bytes }) => bytes >= all.length)),
    ]);
    for (const { received } of [client, server]) assert.ok(received.equals(all));
  }
});

test("what is decrypted fills the place before anybody is told", async (t) => {
  const { client, server } = await tlsPair(t, { isIdle: true, placeBytes: 1 << 20 });
  await Promise.all([client.secured(), server.secured()]);
  const data = numbered(100_000);
  await client.send(data);
  server.read();
  await server.until(({ bytes }) => bytes === data.length);
  assert.ok(server.landings.length < 4);
});

test("a connection that is cut into single bytes is the same connection", async (t) => {
  const line: Line = async (bytes, _from, to) => {
    for (const byte of bytes) {
      to.write(Buffer.from([byte]));
      await turn();
    }
  };
  const { client, server } = await tlsPair(t, { line });
  await Promise.all([client.secured(), server.secured()]);
  const data = numbered(500);
  await Promise.all([
    client.send(data, Buffer.from("!")),
    server.send(data),
    client.until(({ bytes }) => bytes >= 500),
  ]);
  await server.until(({ bytes }) => bytes >= 501);
  assert.deepEqual(server.received, Buffer.concat([data, Buffer.from("!")]));
  assert.deepEqual(client.received, data);
});

test("records that are cut at every byte, and come together with the next, are whole again", async (t) => {
  let cut = 0;
  const line = byRecord((record, _index, direction, to) => {
    if (direction === "down" || record[0] !== APPLICATION_DATA || record.length > 100) {
      to.write(record);
      return;
    }
    to.write(record.subarray(0, cut));
    setImmediate(() => to.write(record.subarray(cut)));
  });
  const { client, server } = await tlsPair(t, { line });
  await Promise.all([client.secured(), server.secured()]);
  const words: string[] = [];
  for (cut = 1; cut < 40; cut += 1) {
    words.push(`word ${String(cut).padStart(2)};`);
    await client.send(Buffer.from(words.at(-1) as string));
    await server.until(({ bytes }) => bytes === words.join("").length);
  }
  assert.equal(server.received.toString(), words.join(""));
});

test("of a record in which one bit is flipped nothing is passed on, and the connection is over", async (t) => {
  for (const at of [RECORD_HEADER_BYTES, 1000, -1]) {
    let large = 0;
    const line = byRecord((record, _index, direction, to) => {
      if (direction === "up" && record.length > 16_000) {
        large += 1;
        const place = at < 0 ? record.length - 1 : at;
        if (large === 3) record[place] = (record[place] as number) ^ 1;
      }
      to.write(record);
    });
    const { client, server } = await tlsPair(t, { line });
    await Promise.all([client.secured(), server.secured()]);
    const data = numbered(10 * 16_384);
    await client.send(data);
    const error = await server.ended();
    assert.match(error?.message ?? "", /^the connection broke: .*(bad record mac|decryption failed)/i);
    assert.equal((error as NodeJS.ErrnoException).code, "EPROTO");
    assert.ok(server.received.equals(data.subarray(0, 2 * 16_384)));
    assert.throws(() => server.socket.send([Buffer.from("more")]), /the connection broke/);
    // The other one is told why.
    assert.match((await client.ended())?.message ?? "", /bad record mac/i);
  }
});

test("a record that is left out or comes twice is noticed", async (t) => {
  for (const harm of ["drop", "repeat"]) {
    const line = byRecord((record, _index, direction, to) => {
      const isIt = direction === "up" && record.length > 16_000 && record.length < 16_300;
      if (!isIt || harm === "repeat") to.write(record);
      if (isIt && harm === "repeat") to.write(record);
    });
    const { client, server } = await tlsPair(t, { line });
    await Promise.all([client.secured(), server.secured()]);
    const data = numbered(16_100);
    await client.send(data);
    await client.send(Buffer.from("next"));
    assert.match((await server.ended())?.message ?? "", /bad record mac|decryption failed/i);
    assert.equal(server.bytes, harm === "drop" ? 0 : data.length);
  }
});

test("who goes in the middle of a record has ended, and what was whole is there", async (t) => {
  const line = byRecord((record, _index, direction, to) => {
    if (direction === "up" && record.length > 4000) {
      to.end(record.subarray(0, 500));
    } else if (!to.writableEnded) to.write(record);
  });
  const { client, server } = await tlsPair(t, { line });
  await Promise.all([client.secured(), server.secured()]);
  await client.send(Buffer.from("whole"));
  await client.send(numbered(5000));
  assert.equal(await server.ended(), undefined);
  assert.equal(server.received.toString(), "whole");
  // Our own side has not ended.
  await server.send(Buffer.from("still here"));
  await client.until(({ bytes }) => bytes === 10);
});

test("each side ends by itself, and the other may still speak", async (t) => {
  const { client, server } = await tlsPair(t);
  await Promise.all([client.secured(), server.secured()]);
  await client.send(numbered(1_000_000));
  client.socket.shutdown();
  assert.equal(await server.ended(), undefined);
  assert.equal(server.bytes, 1_000_000);
  await server.send(numbered(1_000_000));
  server.socket.shutdown();
  assert.equal(await client.ended(), undefined);
  assert.equal(client.bytes, 1_000_000);
});

test("who is not read from cannot send without end, and nothing is lost when he is", async (t) => {
  const { client, server } = await tlsPair(t, { isIdle: true });
  await Promise.all([client.secured(), server.secured()]);
  const chunks = Array.from({ length: 130 }, (_, index) => Buffer.alloc(300_000, index));
  let hasLeft = false;
  const left = client.send(...chunks).then(() => {
    hasLeft = true;
  });
  for (let turns = 0; turns < 50; turns += 1) await turn();
  assert.equal(hasLeft, false);
  server.read();
  await left;
  await server.until(({ bytes }) => bytes === 130 * 300_000);
  assert.ok(server.received.equals(Buffer.concat(chunks)));
});

test("a receiver that stops between two landings gets the rest when it goes on, though the socket is silent", async (t) => {
  const { client, server } = await tlsPair(t, { placeBytes: 10 });
  await Promise.all([client.secured(), server.secured()]);
  const stopped = server.until(({ bytes }) => bytes === 10);
  server.onEvent = ((then) => () => {
    server.socket.read(false);
    then();
  })(server.onEvent);
  await client.send(Buffer.from("0123456789abcdefghij"));
  await stopped;
  await turn();
  assert.equal(server.bytes, 10);
  server.onEvent = () => {};
  server.socket.read(true);
  await server.until(({ bytes }) => bytes === 20);
  assert.equal(server.received.toString(), "0123456789abcdefghij");
});

test("who does not speak TLS is told apart, on both sides, whatever he says", async (t) => {
  const says = [
    "HTTP/1.1 400 Bad Request\r\n\r\n",
    "\x16\x03\x01\x00\x05hello",
    "\x16\x03\x03\xff\xff",
    "\x15\x03\x01\x00\x02\x02\x28",
  ];
  for (const text of says) {
    const port = await openPort(t, (socket) => {
      socket.resume();
      socket.end(text, "latin1");
    });
    const client = new TlsEnd(await connected(t, port), clientContext);
    const error = (await client.ended()) as NodeJS.ErrnoException | undefined;
    assert.ok(error?.code === "EPROTO" || error?.code === "ECONNRESET", error?.code);
    client.socket.close();
    const servers: TlsEnd[] = [];
    const ours = await openPort(t, (raw) => servers.push(new TlsEnd(raw, serverContext)));
    const stranger = await connected(t, ours);
    stranger.end(text, "latin1");
    while (servers[0] === undefined) await turn();
    assert.ok((await servers[0].ended()) !== undefined);
    assert.equal(servers[0].isSecured, false);
    servers[0].socket.close();
  }
});

test("a connection may be closed at every moment, also in what it tells", async (t) => {
  for (let step = 1; step <= 12; step += 1) {
    let steps = 0;
    const ends: TlsEnd[] = [];
    const line = byRecord((record, _index, _direction, to) => {
      steps += 1;
      if (steps === step) for (const { socket } of ends) socket.close();
      to.write(record);
    });
    const { client, server } = await tlsPair(t, { line });
    ends.push(client, server);
    let events = 0;
    for (const end of ends) {
      end.onEvent = () => {
        events += 1;
        if (end.isSecured && end.bytes === 0) void end.send(Buffer.from("hello"));
        if (events === step) for (const { socket } of ends) socket.close();
      };
    }
    while (steps < step && events < step && ends.every(({ outcome }) => outcome === undefined)) {
      if (steps > 6) break;
      await turn();
    }
    for (const { socket } of ends) socket.close();
    for (const { socket } of ends) assert.throws(() => socket.send([Buffer.from("x")]), /EPIPE/);
  }
});

test("a process or a thread may leave in the middle of it", () => {
  const program = fileURLToPath(new URL("../support/tls-leaver.js", import.meta.url));
  for (const [how, count] of [
    ["process", "1"],
    ["process", "2"],
    ["process", "20"],
    ["thread", "1"],
    ["thread", "7"],
  ] as const) {
    const { status, signal, stderr } = spawnSync(process.execPath, [program, how, count], { encoding: "utf8" });
    assert.deepEqual([status, signal], [0, null], `${how} ${count}: ${stderr}`);
  }
});

test("a thousand connections leave nothing behind", async (t) => {
  const servers: TlsEnd[] = [];
  const port = await openPort(t, (raw) => servers.push(new TlsEnd(raw, serverContext)));
  const descriptors = () => readdirSync("/proc/self/fd").length;
  const cycle = async (count: number) => {
    for (let index = 0; index < count; index += 1) {
      const client = new TlsEnd(await connected(t, port), clientContext);
      if (index % 3 > 0) await client.secured();
      client.socket.close();
      for (const { socket } of servers.splice(0)) socket.close();
    }
    await turn();
    for (const { socket } of servers.splice(0)) socket.close();
    await turn();
  };
  await cycle(20);
  const before = descriptors();
  await cycle(1000);
  assert.ok(descriptors() <= before + 2, `${before} descriptors before, ${descriptors()} after`);
});

test("Node's TLS as the server is understood, and agrees on the binding", async (t) => {
  const accepted = createTlsServer({ cert: identity.certificate, key: identity.key, ALPNProtocols: ["http/1.1"] });
  const port = await openPort(t, (raw) => accepted.emit("connection", raw));
  const secure = once(accepted, "secureConnection") as Promise<[TLSSocket]>;
  const client = new TlsEnd(await connected(t, port), clientContext, { host: "localhost" });
  const [theirs] = await secure;
  await client.secured();
  theirs.on("error", () => {});
  assert.deepEqual(
    [theirs.getProtocol(), theirs.alpnProtocol, (theirs as unknown as { servername: string }).servername],
    ["TLSv1.3", "http/1.1", "localhost"],
  );
  await exchange(client, theirs);
});

test("Node's TLS as the client is understood, and agrees on the binding", async (t) => {
  const ends: TlsEnd[] = [];
  const port = await openPort(t, (raw) => ends.push(new TlsEnd(raw, serverContext)));
  const theirs = connectTls({ port, host: HOST, ca: identity.certificate, ALPNProtocols: ["h2", "http/1.1"] });
  await once(theirs, "secureConnect");
  theirs.on("error", () => {});
  assert.equal(theirs.authorized, true);
  assert.deepEqual([theirs.getProtocol(), theirs.alpnProtocol], ["TLSv1.3", "http/1.1"]);
  assert.equal(theirs.getPeerX509Certificate()?.fingerprint256.length, 95);
  await exchange(ends[0] as TlsEnd, theirs);
  const wrong = connectTls({ port, host: HOST, rejectUnauthorized: false, ALPNProtocols: ["h2"] });
  const [error] = (await once(wrong, "error")) as [NodeJS.ErrnoException];
  assert.match(error.code ?? "", /NO_APPLICATION_PROTOCOL/);
  ends[1]?.socket.close();
});

test("keys that are used up are changed on the way, with Node's TLS too", async (t) => {
  const client = TlsContext.ofClient({ ciphers: tlsCiphers(), recordsPerKeyMax: 3 });
  const server = TlsContext.ofServer({ ciphers: tlsCiphers(), ...identity, recordsPerKeyMax: 1 });
  const data = numbered(3_000_000);
  const pair = await tlsPair(t, { client, server });
  await Promise.all([pair.client.secured(), pair.server.secured()]);
  await Promise.all([
    ...[pair.client, pair.server].map((end) => end.send(data)),
    ...[pair.client, pair.server].map((end) => end.until(({ bytes }) => bytes === data.length)),
  ]);
  assert.ok(pair.client.received.equals(data) && pair.server.received.equals(data));
  const ends: TlsEnd[] = [];
  const port = await openPort(t, (raw) => ends.push(new TlsEnd(raw, server)));
  const theirs = connectTls({ port, host: HOST, rejectUnauthorized: false });
  await once(theirs, "secureConnect");
  theirs.on("error", () => {});
  await exchange(ends[0] as TlsEnd, theirs);
});

const hasOpenssl = spawnSync("openssl", ["version"]).status === 0;

test("who changes keys without saying anything is sent away", { skip: !hasOpenssl }, async (t) => {
  const ends: TlsEnd[] = [];
  const port = await openPort(t, (raw) => ends.push(new TlsEnd(raw, serverContext)));
  const program = spawn("openssl", ["s_client", "-connect", `${HOST}:${port}`, "-tls1_3", "-brief"]);
  t.after(() => program.kill("SIGKILL"));
  program.stdin.on("error", () => {});
  while (ends[0]?.isSecured !== true) await turn();
  const [end] = ends as [TlsEnd];
  program.stdin.write("a line\n");
  await end.until(({ bytes }) => bytes === 7);
  let changes = 0;
  // Each is written when the last one has been said: a line is one command.
  program.stderr.setEncoding("utf8").on("data", (text: string) => {
    changes += text.split("KEYUPDATE").length - 1;
    if (changes < 40) program.stdin.write("K\n");
  });
  program.stdin.write("K\n");
  assert.equal((await end.ended())?.message, "the connection broke: messages without end, but no data");
  assert.ok(changes > 10 && changes < 40, String(changes));
  end.socket.close();
});

/** Data both ways between an end of ours and one of Node's, and the end of both. */
async function exchange(ours: TlsEnd, theirs: TLSSocket): Promise<void> {
  const label = "EXPERIMENTAL netdrive/1 channel";
  await ours.secured();
  assert.deepEqual(bindingOf(ours.socket), theirs.exportKeyingMaterial(32, label, Buffer.alloc(0)));
  const data = numbered(2_000_000);
  const heard: Buffer[] = [];
  theirs.on("data", (chunk: Buffer) => heard.push(chunk));
  const ended = once(theirs, "end");
  theirs.write(data);
  await Promise.all([ours.send(Buffer.from("small"), data), ours.until(({ bytes }) => bytes === data.length)]);
  ours.socket.shutdown();
  await ended;
  assert.ok(Buffer.concat(heard).equals(Buffer.concat([Buffer.from("small"), data])));
  assert.ok(ours.received.equals(data));
  theirs.end();
  assert.equal(await ours.ended(), undefined);
  ours.socket.close();
  theirs.destroy();
}
