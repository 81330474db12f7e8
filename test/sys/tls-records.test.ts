/**
 * The records of TLS in the addon, and what TLS says in them of its own (RFC 8446, 4.6, 5 and 6), against a second implementation that says what it
 * likes. With Node's and OpenSSL's own: tls-socket.test.ts.
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { test } from "node:test";
import { TlsContext } from "../../src/sys/tls-context.ts";
import { identity, openLine, openPort, serverContext, TlsEnd } from "../support/tls-ends.ts";
import {
  ALERT,
  DATA,
  HANDSHAKE,
  HEADER_BYTES,
  type Inner,
  KEY_UPDATE,
  RecordKeys,
  RecordPeer,
  recordCutter,
  SUITES,
  type SuiteName,
} from "../support/tls-records.ts";

const RECORD_BYTES_MAX = 16_384;
const NEW_SESSION_TICKET = 4;
const CLOSE_NOTIFY = 0;
const suites = Object.keys(SUITES) as SuiteName[];
const turn = () => new Promise((resolve) => setImmediate(resolve));

const data = (text: string | Buffer, padding = 0): Inner => ({ type: DATA, data: Buffer.from(text), padding });
const alert = (description: number, level = 2): Inner => ({
  type: ALERT,
  data: Buffer.from([level, description]),
  padding: 0,
});
const handshake = (...bytes: number[]): Inner => ({ type: HANDSHAKE, data: Buffer.from(bytes), padding: 0 });
const keyUpdate = (isAsked: number): Inner => handshake(KEY_UPDATE, 0, 0, 1, isAsked);

/** A ticket as servers give them out, of `bytes` in all. */
function ticket(bytes: number): Buffer {
  const message = Buffer.alloc(bytes, 7);
  message[0] = NEW_SESSION_TICKET;
  message.writeUIntBE(bytes - 4, 1, 3);
  return message;
}

/** Bytes of which each differs from those around it. */
function pattern(bytes: number, from = 0): Buffer {
  return Buffer.from(Array.from({ length: bytes }, (_, index) => ((index + from) * 131) & 255));
}

test("the second implementation makes the records of RFC 8448, 3", () => {
  const hex = (text: string) => Buffer.from(text.replace(/\s/g, ""), "hex");
  const text = Buffer.from(Array.from({ length: 50 }, (_, index) => index));
  const client = new RecordKeys(
    "TLS_AES_128_GCM_SHA256",
    hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"),
  );
  assert.deepEqual(client.expand("key", 16), hex("17422dda596ed5d9acd890e3c63f5051"));
  assert.deepEqual(client.expand("iv", 12), hex("5b78923dee08579033e523d9"));
  const sent = hex(`17 03 03 00 43 a2 3f 70 54 b6 2c 94 d0 af fa fe 82 28 ba 55 cb ef ac ea 42 f9 14 aa 66 bc ab 3f 2b
    98 19 a8 a5 b4 6b 39 5b d5 4a 9a 20 44 1e 2b 62 97 4e 1f 5a 62 92 a2 97 70 14 bd 1e 3d ea e6 3a ee bb 21 69 49 15 e4`);
  assert.deepEqual(client.seal(data(text)), sent);
  // Behind it comes the client's goodbye.
  const goodbye = hex("17 03 03 00 13 c9 87 27 60 65 56 66 b7 4d 7f f1 15 3e fd 6d b6 d0 b0 e3");
  assert.deepEqual(client.seal(alert(CLOSE_NOTIFY, 1)), goodbye);
  const server = new RecordKeys(
    "TLS_AES_128_GCM_SHA256",
    hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"),
  );
  // Before it comes a ticket.
  server.number = 1;
  const answered = hex(`17 03 03 00 43 2e 93 7e 11 ef 4a c7 40 e5 38 ad 36 00 5f c4 a4 69 32 fc 32 25 d0 5f 82 aa 1b 36
    e3 0e fa f9 7d 90 e6 df fc 60 2d cb 50 1a 59 a8 fc c4 9c 4b f2 e5 f0 a2 1c 00 47 c2 ab f3 32 54 0d d0 32 e1 67 c2 95 5d`);
  assert.deepEqual(server.open(answered), data(text));
});

test("data of every size is sealed and opened as it should be, with every cipher", async (t) => {
  const few = Array.from({ length: 340 }, (_, index) => index + 1);
  const sizes = [...few, 511, 512, 513, 1000, 4095, 4096, 4097, 16_127, 16_128, 16_129, 16_382, 16_383, 16_384];
  for (const suite of suites) {
    const peer = await RecordPeer.make(t, "server", { context: TlsContext.ofServer({ ciphers: suite, ...identity }) });
    for (const [index, size] of sizes.entries()) {
      const text = pattern(size, index);
      await peer.ours.send(text);
      await peer.until(({ heard }) => heard.length > index);
      assert.deepEqual(peer.heard[index], data(text));
      const before = peer.ours.bytes;
      // Padding up to what a record may have.
      peer.say(data(text, Math.min(index * 3, RECORD_BYTES_MAX - size)));
      await peer.ours.until(({ bytes }) => bytes === before + size);
      assert.ok(peer.ours.received.subarray(before).equals(text));
    }
    const large = pattern(100_000);
    await peer.ours.send(large, pattern(3), pattern(5, 1), pattern(70, 2));
    const all = Buffer.concat([pattern(0), large, pattern(3), pattern(5, 1), pattern(70, 2)]);
    await peer.until((each) => each.data.length === sizes.reduce((sum, size) => sum + size) + all.length);
    assert.ok(peer.data.subarray(peer.data.length - all.length).equals(all));
    // Records are full, and small parts that follow each other are one.
    const lengths = peer.heard.slice(sizes.length).map((inner) => inner.data.length);
    assert.deepEqual(lengths, [...Array.from({ length: 6 }, () => RECORD_BYTES_MAX), 1774]);
  }
});

test("a place of any size gets what records of any size and padding have, in order", async (t) => {
  for (let placeBytes = 1; placeBytes <= 50; placeBytes += 1) {
    const peer = await RecordPeer.make(t, "client", { placeBytes });
    const texts = [40, 1, 16, 0, 17, 39, 3].map((size, index) => pattern(size, index * 17 + placeBytes));
    const all = Buffer.concat([...texts, ...texts]);
    peer.say(...texts.map((text) => data(text)), ...texts.map((text, index) => data(text, (index * 13) % 40)));
    await peer.ours.until(({ bytes }) => bytes >= all.length);
    assert.ok(peer.ours.received.equals(all), `place ${placeBytes}`);
    assert.ok(peer.ours.landings.slice(0, -1).every(({ length }) => length <= placeBytes));
  }
});

test("of a record with any bit flipped nothing is passed on", async (t) => {
  const record = new RecordKeys("TLS_AES_128_GCM_SHA256", Buffer.alloc(32)).seal(data("to be flipped"));
  for (let bit = 0; bit < record.length * 8; bit += bit < HEADER_BYTES * 8 ? 1 : 3) {
    const peer = await RecordPeer.make(t, bit % 2 === 0 ? "server" : "client");
    const first = peer.sealing.seal(data("first"));
    const flipped = peer.sealing.seal(data("to be flipped"));
    const at = bit >> 3;
    flipped[at] = (flipped[at] as number) ^ (1 << (bit & 7));
    peer.say(first, flipped, data("behind it"));
    // A length may have become greater than what comes.
    peer.finish();
    const error = await peer.ours.ended();
    assert.equal(peer.ours.received.toString(), "first", `bit ${bit}`);
    if (at < 3 || at > 4) assert.match(error?.message ?? "", /bad record mac|wrong kind/, `bit ${bit}`);
    peer.ours.socket.close();
  }
});

/** What a peer must not say, how our end calls it, and the alert it answers with; the role is that of our end. */
const FORBIDDEN: {
  name: string;
  role: "server" | "client";
  says: (peer: RecordPeer) => void;
  reason: RegExp;
  code: number;
}[] = [
  ...(["server", "client"] as const).flatMap((role) => [
    { name: "data without protection", role, code: 10, reason: /a record of a wrong kind/, says: plain(22, "hello") },
    { name: "an alert without protection", role, code: 10, reason: /wrong kind/, says: plain(ALERT, "\x02\x28") },
    { name: "a change of ciphers", role, code: 10, reason: /wrong kind/, says: plain(20, "\x01") },
    {
      name: "nothing but padding",
      role,
      code: 10,
      reason: /wrong kind/,
      says: sealed({ type: 0, data: Buffer.alloc(0) }),
    },
    {
      name: "a change of ciphers, sealed",
      role,
      code: 10,
      reason: /wrong kind/,
      says: sealed({ type: 20, data: Buffer.from([1]) }),
    },
    {
      name: "a type that is none",
      role,
      code: 10,
      reason: /wrong kind/,
      says: sealed({ type: 255, data: Buffer.from("x") }),
    },
    { name: "an empty message", role, code: 10, reason: /wrong kind/, says: sealed(handshake()) },
    {
      name: "too long a record",
      role,
      code: 22,
      reason: /too long/,
      says: sealed(data(Buffer.alloc(RECORD_BYTES_MAX + 1, 1))),
    },
    { name: "too much padding", role, code: 22, reason: /too long/, says: sealed(data("x", RECORD_BYTES_MAX)) },
    { name: "too long a length", role, code: 22, reason: /too long/, says: raw(Buffer.from([DATA, 3, 3, 0x41, 0x01])) },
    {
      name: "a record shorter than its tag",
      role,
      code: 20,
      reason: /bad record mac/,
      says: raw(Buffer.from([DATA, 3, 3, 0, 3, 1, 2, 3])),
    },
    { name: "an empty record", role, code: 20, reason: /bad record mac/, says: raw(Buffer.from([DATA, 3, 3, 0, 0])) },
    {
      name: "an alert of one byte",
      role,
      code: 50,
      reason: /alert of a wrong length/,
      says: sealed({ type: ALERT, data: Buffer.from([1]) }),
    },
    {
      name: "two alerts in one",
      role,
      code: 50,
      reason: /alert of a wrong length/,
      says: sealed({ type: ALERT, data: Buffer.alloc(4) }),
    },
    { name: "a key update of a third kind", role, code: 47, reason: /unknown kind/, says: sealed(keyUpdate(2)) },
    {
      name: "a key update of two bytes",
      role,
      code: 50,
      reason: /wrong length/,
      says: sealed(handshake(KEY_UPDATE, 0, 0, 2, 0, 0)),
    },
    {
      name: "a key update without end",
      role,
      code: 50,
      reason: /wrong length/,
      says: sealed(handshake(KEY_UPDATE, 255, 255, 255)),
    },
    {
      name: "a key update before the end of a record",
      role,
      code: 10,
      reason: /in the middle of a record/,
      says: sealed(handshake(KEY_UPDATE, 0, 0, 1, 0, KEY_UPDATE)),
    },
    {
      name: "data in the middle of a message",
      role,
      code: 10,
      reason: /wrong kind/,
      says: sealed(handshake(KEY_UPDATE, 0), data("x")),
    },
    {
      name: "a new handshake",
      role,
      code: 10,
      reason: /an unexpected message/,
      says: sealed(handshake(1, 0, 0, 1, 0)),
    },
    {
      name: "a demand for a certificate",
      role,
      code: 10,
      reason: /an unexpected message/,
      says: sealed(handshake(13, 0, 0, 3, 0, 0, 0)),
    },
    {
      name: "records without data",
      role,
      code: 10,
      reason: /messages without end/,
      says: sealed(...Array.from({ length: 33 }, () => data(""))),
    },
    {
      name: "alerts that mean nothing",
      role,
      code: 10,
      reason: /messages without end/,
      says: sealed(...Array.from({ length: 33 }, () => alert(90, 1))),
    },
    { name: "the key of before", role, code: 20, reason: /bad record mac/, says: sealed(keyUpdate(0), data("x")) },
  ]),
  {
    name: "a ticket of a client",
    role: "server",
    code: 10,
    reason: /an unexpected message/,
    says: sealed({ type: HANDSHAKE, data: ticket(50) }),
  },
  {
    name: "a ticket that does not end",
    role: "client",
    code: 10,
    reason: /messages without end/,
    says: sealed(...Array.from({ length: 33 }, () => ({ type: HANDSHAKE, data: ticket(1 << 23).subarray(0, 1000) }))),
  },
];

function plain(type: number, text: string): (peer: RecordPeer) => void {
  return raw(Buffer.concat([Buffer.from([type, 3, 3, 0, text.length]), Buffer.from(text, "latin1")]));
}

function raw(record: Buffer): (peer: RecordPeer) => void {
  return (peer) => peer.say(record);
}

function sealed(...inners: Inner[]): (peer: RecordPeer) => void {
  return (peer) => peer.say(...inners);
}

test("what a peer must not say ends the connection: our end says what it was, and the peer is told", async (t) => {
  for (const { name, role, says, reason, code } of FORBIDDEN) {
    const peer = await RecordPeer.make(t, role);
    peer.say(data("before;"));
    await peer.ours.until(({ bytes }) => bytes === 7);
    says(peer);
    const error = (await peer.ours.ended()) as NodeJS.ErrnoException;
    const what = `${name}, to a ${role}`;
    assert.match(error?.message ?? "", reason, what);
    assert.match(error.message, /^the connection broke: /);
    assert.equal(error.code, "EPROTO");
    await peer.until(({ heard }) => heard.length > 0);
    assert.deepEqual(peer.heard, [alert(code)], what);
    assert.equal(peer.ours.received.toString(), "before;", what);
    assert.throws(() => peer.ours.socket.send([Buffer.from("more")]), reason);
    peer.ours.socket.close();
  }
});

test("records that come in another order are refused", async (t) => {
  const peer = await RecordPeer.make(t, "client");
  const [first, second, third] = ["first", "second", "third"].map((text) => peer.sealing.seal(data(text)));
  peer.say(first as Buffer, third as Buffer, second as Buffer);
  assert.match((await peer.ours.ended())?.message ?? "", /bad record mac/);
  assert.equal(peer.ours.received.toString(), "first");
});

test("an alert of the peer is told, and not answered", async (t) => {
  for (const [code, text] of [
    [20, /alert bad record mac/],
    [40, /alert handshake failure/],
    [255, /alert /],
  ] as const) {
    for (const level of [1, 2]) {
      const peer = await RecordPeer.make(t, "server");
      peer.say(data("before"), alert(code, level), data("behind"));
      assert.match((await peer.ours.ended())?.message ?? "", text);
      assert.equal(peer.ours.received.toString(), "before");
      peer.ours.socket.close();
      await peer.until(({ hasEnded }) => hasEnded);
      assert.deepEqual(peer.heard, []);
    }
  }
});

test("behind a goodbye nothing is heard, and our side says its own", async (t) => {
  const peer = await RecordPeer.make(t, "client");
  peer.say(data("last"), alert(90, 1), alert(CLOSE_NOTIFY, 1), data("behind"), Buffer.from("no record at all"));
  assert.equal(await peer.ours.ended(), undefined);
  assert.equal(peer.ours.received.toString(), "last");
  await peer.ours.send(Buffer.from("answer"));
  peer.ours.socket.shutdown();
  peer.ours.socket.shutdown();
  await peer.until(({ heard }) => heard.length === 2);
  assert.deepEqual(peer.heard, [data("answer"), alert(CLOSE_NOTIFY, 1)]);
  assert.throws(() => peer.ours.socket.send([Buffer.from("more")]), /EPIPE/);
});

test("a client takes tickets as they come, and has no use for them", async (t) => {
  const peer = await RecordPeer.make(t, "client");
  const [small, large] = [ticket(60), ticket(60_000)];
  const whole = (text: Buffer): Inner => ({ type: HANDSHAKE, data: text });
  peer.say(whole(small), data("1"), whole(Buffer.concat([small, small])), data("2"));
  for (let cut = 1; cut < small.length; cut += 1) {
    peer.say(whole(small.subarray(0, cut)), whole(small.subarray(cut)), data("+"));
  }
  const pieces = Array.from({ length: 4 }, (_, index) => large.subarray(index * 15_000, (index + 1) * 15_000));
  peer.say(...pieces.map(whole), data("3"));
  // With new keys at the end of a record.
  const renewed = Buffer.concat([small, keyUpdate(0).data]);
  peer.say(whole(renewed.subarray(0, 30)), whole(renewed.subarray(30)));
  peer.sealing.renew();
  peer.say(data("4"));
  await peer.ours.until(({ received }) => received.includes("4"));
  assert.equal(peer.ours.received.toString(), `12${"+".repeat(59)}34`);
});

test("new keys of the peer are followed, and answered with ours before the next data where it asks", async (t) => {
  for (const suite of suites) {
    const peer = await RecordPeer.make(t, "server", { context: TlsContext.ofServer({ ciphers: suite, ...identity }) });
    const say = async (text: string) => {
      const before = peer.ours.bytes;
      peer.say(data(text));
      await peer.ours.until(({ bytes }) => bytes === before + text.length);
    };
    peer.say(keyUpdate(0));
    peer.sealing.renew();
    await say("not asked");
    await peer.ours.send(Buffer.from("same key"));
    // Asked twice before anything is said is answered once.
    for (const each of [1, 1]) {
      peer.say(keyUpdate(each));
      peer.sealing.renew();
    }
    await say("asked");
    await peer.ours.send(Buffer.from("next key"));
    for (const [index, byte] of keyUpdate(1).data.entries()) {
      peer.say(handshake(byte));
      if (index === 4) peer.sealing.renew();
    }
    await say("in pieces");
    await peer.ours.send(Buffer.from("and next"));
    await peer.until(({ heard }) => heard.length === 5);
    assert.deepEqual(peer.heard, [data("same key"), keyUpdate(0), data("next key"), keyUpdate(0), data("and next")]);
    assert.equal(peer.ours.received.toString(), "not askedaskedin pieces");
  }
});

test("our own key is new before it has protected too much", async (t) => {
  const context = TlsContext.ofServer({ ciphers: suites.join(":"), ...identity, recordsPerKeyMax: 3 });
  const peer = await RecordPeer.make(t, "server", { context });
  for (let index = 0; index < 8; index += 1) await peer.ours.send(Buffer.from([index]));
  await peer.until((each) => each.data.length === 8);
  const types = peer.heard.map(({ type }) => type);
  assert.deepEqual(types, [DATA, DATA, DATA, HANDSHAKE, DATA, DATA, DATA, HANDSHAKE, DATA, DATA]);
  assert.deepEqual(peer.heard[3], keyUpdate(0));
});

test("connections whose peers take nothing keep what is encrypted apart, and all of it arrives when they do", async (t) => {
  const peers = await Promise.all([1, 2, 3].map(() => RecordPeer.make(t, "server")));
  const texts = peers.map((_, index) => Buffer.alloc(30_000_000, index + 1));
  const left = peers.map((peer, index) => {
    peer.pause();
    return peer.ours.send(texts[index] as Buffer);
  });
  for (let turns = 0; turns < 50; turns += 1) await turn();
  for (const peer of peers) peer.resume();
  await Promise.all(left);
  await Promise.all(peers.map((peer, index) => peer.until(({ bytes }) => bytes === texts[index]?.length)));
  for (const [index, peer] of peers.entries()) assert.ok(peer.data.equals(texts[index] as Buffer));
});

const hasOpenssl = spawnSync("openssl", ["version"]).status === 0;

test("who asks for short records gets short ones", { skip: !hasOpenssl }, async (t) => {
  const ends: TlsEnd[] = [];
  const port = await openPort(t, (socket) => ends.push(new TlsEnd(socket, serverContext)));
  const lengths: number[] = [];
  const cut = recordCutter();
  const way = await openLine(t, port, (bytes, _from, to, direction) => {
    if (direction === "down") lengths.push(...cut(bytes).map((record) => record.length));
    to.write(bytes);
  });
  const program = spawn("openssl", [
    "s_client",
    "-connect",
    `127.0.0.1:${way}`,
    "-tls1_3",
    "-quiet",
    "-maxfraglen",
    "512",
  ]);
  t.after(() => program.kill("SIGKILL"));
  let heard = 0;
  program.stdout.on("data", (chunk: Buffer) => {
    heard += chunk.length;
  });
  while (ends[0]?.isSecured !== true) await turn();
  lengths.length = 0;
  await ends[0].send(Buffer.alloc(5000, "x"), Buffer.alloc(400, "y"), Buffer.alloc(200, "z"));
  while (heard < 5600) await turn();
  assert.deepEqual(lengths, [...Array.from({ length: 9 }, () => 534), 414, 422, 222]);
  ends[0].socket.close();
});
