/** Channels that sign from some frame on: what is before it, in the same chunk or the same write, and what is behind it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CloseCode, ConnectionError, ProtocolError } from "../../src/base/errors.ts";
import type { Channel } from "../../src/transport/channel.ts";
import { messages } from "../../src/wire/codec.ts";
import { emptyHeader } from "../../src/wire/frame.ts";
import { type ChannelPair, channelPair, Recorder } from "../support/channels.ts";
import { settle } from "../support/fake-clock.ts";

const CLIENT = { ours: Buffer.alloc(16, 1), theirs: Buffer.alloc(16, 2) };
const SERVER = { ours: CLIENT.theirs, theirs: CLIENT.ours };
const WELCOME = 1000;

function sendCancel(channel: Channel, canceledTag: number): void {
  channel.send({ ...emptyHeader(), opcode: messages.cancel.row.code }, messages.cancel.request, { canceledTag });
}

function sendPayload(channel: Channel, tag: number, payload: Buffer): void {
  channel.send({ ...emptyHeader(), opcode: messages.read.row.code, flags: 1, tag }, undefined, undefined, payload);
}

function numbers(recorder: Recorder): number[] {
  return recorder.frames.map((frame) => Number(/\d+$/.exec(frame)?.[0]));
}

/** Two channels of which the client signs when it gets the first frame, and the server when it has sent it. */
function signing(): ChannelPair & { toClient: Recorder; toServer: Recorder } {
  const pair = channelPair();
  const toClient = new Recorder();
  const toServer = new Recorder();
  pair.client.start(toClient);
  pair.server.start(toServer);
  toClient.onFrame = () => {
    toClient.onFrame = undefined;
    pair.client.sign(CLIENT);
  };
  return { ...pair, toClient, toServer };
}

function welcome(server: Channel): void {
  sendCancel(server, WELCOME);
  server.sign(SERVER);
}

test("what is sent before signing begins leaves as it is, what is sent behind it is signed, in one chunk or in any", async () => {
  for (const splitBytes of [0, 1, 13, 24, 25, 28, 29, 100]) {
    const { client, server, clientLink, serverLink, toClient, toServer } = signing();
    for (const link of [clientLink, serverLink]) link.faults.splitBytes = splitBytes;
    const written: Buffer[] = [];
    const write = serverLink.write.bind(serverLink);
    serverLink.write = (chunks, sent) => {
      written.push(Buffer.concat(chunks));
      write(chunks, sent);
    };
    welcome(server);
    sendCancel(server, 1);
    sendCancel(server, 2);
    for (let round = 0; round < 30; round += 1) await settle();
    assert.equal(written.length, 2);
    assert.equal(written[0]?.length, 28);
    assert.equal(written[1]?.length, 2 * 28 + 20);
    for (const tag of [3, 4]) sendCancel(client, tag);
    for (let round = 0; round < 30; round += 1) await settle();
    assert.deepEqual(numbers(toClient), [WELCOME, 1, 2], `in pieces of ${splitBytes}`);
    assert.deepEqual(numbers(toServer), [3, 4]);
    assert.equal(client.sentBytes, server.receivedBytes);
    assert.equal(server.sentBytes, client.receivedBytes);
  }
});

test("the frame before and records behind it are read from one chunk", async () => {
  const { server, client, serverLink, toClient } = signing();
  const write = serverLink.write.bind(serverLink);
  const held: Buffer[] = [];
  serverLink.write = (chunks, sent) => {
    held.push(...chunks.map((chunk) => Buffer.from(chunk)));
    queueMicrotask(sent);
  };
  welcome(server);
  await settle();
  sendCancel(server, 1);
  await settle();
  sendCancel(server, 2);
  await settle();
  write([Buffer.concat(held)], () => {});
  await settle();
  assert.deepEqual(numbers(toClient), [WELCOME, 1, 2]);
  assert.ok(client.isOpen);
});

test("a channel that was closed in the frame that makes it sign reads nothing more", async () => {
  const { client, server, toClient } = signing();
  toClient.onFrame = () => {
    client.sign(CLIENT);
    client.close({ code: 0, text: "" });
  };
  welcome(server);
  sendCancel(server, 1);
  await settle();
  assert.deepEqual(numbers(toClient), [WELCOME]);
  assert.deepEqual(toClient.ends, [undefined]);
});

test("who has begun another frame before signing begins is refused", async () => {
  const { client, server, clientLink, toServer } = signing();
  clientLink.write([Buffer.alloc(5)], () => {});
  await settle();
  welcome(server);
  await settle();
  assert.ok(!server.isOpen && !client.isOpen);
  const [error] = toServer.ends;
  assert.ok(error instanceof ProtocolError && error.closeCode === CloseCode.STATE);
});

test("payloads of any length pass, also to a receiver that waits, or wants the rest no more", async () => {
  const { client, server, toClient, toServer } = signing();
  welcome(server);
  await settle();
  const long = Buffer.alloc(1_000_000, "signed");
  toServer.target = (bytes) => (bytes === long.length ? undefined : Buffer.alloc(bytes));
  sendPayload(client, 1, long);
  sendPayload(client, 2, long.subarray(0, 100));
  await settle();
  assert.ok(server.isWaiting);
  assert.equal(toServer.frames.length, 1);
  const target = Buffer.alloc(long.length);
  server.provide(target);
  for (let round = 0; round < 20; round += 1) await settle();
  assert.ok(target.equals(long));
  assert.equal(toServer.frames.length, 2);
  toClient.target = (bytes) => {
    process.nextTick(() => client.divert());
    return Buffer.alloc(bytes);
  };
  sendPayload(server, 3, long);
  sendCancel(server, 4);
  for (let round = 0; round < 20; round += 1) await settle();
  assert.equal(numbers(toClient).at(-1), 4);
  assert.ok(client.isOpen && server.isOpen);
});

test("a record that was harmed ends the channel as a lost link, and the peer is told", async () => {
  const { client, server, clientLink, toClient, toServer } = signing();
  welcome(server);
  await settle();
  const write = clientLink.write.bind(clientLink);
  clientLink.write = (chunks, sent) => {
    const bytes = Buffer.concat(chunks);
    bytes.writeUInt8(bytes.readUInt8(30) ^ 1, 30);
    write([bytes], sent);
  };
  sendCancel(client, 1);
  await settle();
  assert.deepEqual(toServer.frames, []);
  const [error] = toServer.ends;
  assert.ok(error instanceof ConnectionError && error.retryable);
  assert.match(error.message, /what memory client sent was changed on its way/);
  assert.match(toClient.frames.at(-1) ?? "", /goodbye tag=0 code=9 reason="what you sent was changed on its way"/);
  client.destroy();
  await Promise.all([client.gone, server.gone]);
});

test("a stream that is cut between two frames or inside one is a lost link", async () => {
  for (const [cutAtByte, text] of [
    [28 + 48, /^connection to memory server lost$/],
    [28 + 60, /^connection to memory server lost inside a frame$/],
  ] as const) {
    const { server, serverLink, toClient } = signing();
    serverLink.faults.cutAtByte = cutAtByte;
    welcome(server);
    sendCancel(server, 1);
    await settle();
    sendCancel(server, 2);
    await settle();
    assert.deepEqual(numbers(toClient), [WELCOME, 1]);
    assert.match(toClient.ends[0]?.message ?? "", text);
  }
});
