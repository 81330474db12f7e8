/** Channels over links in memory: batching, payloads and whose they are, back-pressure, and every way to end. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CloseCode, ConnectionError, ProtocolError } from "../../src/base/errors.ts";
import { Channel } from "../../src/transport/channel.ts";
import { memoryLinkPair } from "../../src/transport/memory-link.ts";
import { messages } from "../../src/wire/codec.ts";
import { emptyHeader } from "../../src/wire/frame.ts";
import { type ChannelPair, channelPair, Recorder } from "../support/channels.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";

/** Payloads this long are not copied. */
const LONG = 10_000;

function started(
  options: { sendBytesMax?: number; ownBytesMax?: number } = {},
): ChannelPair & { toClient: Recorder; toServer: Recorder } {
  const pair = channelPair(options);
  const toClient = new Recorder();
  const toServer = new Recorder();
  pair.client.start(toClient);
  pair.server.start(toServer);
  return { ...pair, toClient, toServer };
}

function sendCancel(channel: Channel, tag: number): void {
  const header = { ...emptyHeader(), opcode: messages.cancel.row.code };
  channel.send(header, messages.cancel.request, { canceledTag: tag });
}

function sendPayload(channel: Channel, tag: number, payload: Buffer, sent?: () => void): void {
  const header = { ...emptyHeader(), opcode: messages.read.row.code, flags: 1, tag };
  channel.send(header, undefined, undefined, payload, sent);
}

test("frames sent in one tick leave in one write and arrive in order", async () => {
  const { client, toServer, clientWrites } = started();
  for (let tag = 1; tag <= 50; tag += 1) sendCancel(client, tag);
  sendPayload(client, 51, Buffer.from("payload"));
  sendCancel(client, 52);
  await settle();
  assert.equal(clientWrites.length, 1);
  assert.equal(toServer.frames.length, 52);
  assert.equal(toServer.frames[0], "cancel tag=0 canceledTag=1");
  assert.equal(toServer.frames[51], "cancel tag=0 canceledTag=52");
  assert.deepEqual(toServer.payloads, [Buffer.from("payload")]);
});

test("a frame in no hurry leaves with the next one, or after a moment", async () => {
  const { client, toServer, clientWrites, clock } = started();
  const sendUnhurried = (tag: number) => {
    const header = { ...emptyHeader(), opcode: messages.cancel.row.code };
    client.sendUnhurried(header, messages.cancel.request, { canceledTag: tag });
  };
  sendUnhurried(1);
  sendUnhurried(2);
  await settle();
  assert.equal(clientWrites.length, 0);
  sendCancel(client, 3);
  await settle();
  assert.equal(clientWrites.length, 1);
  assert.deepEqual(
    toServer.frames.map((frame) => frame.slice(-1)),
    ["1", "2", "3"],
  );
  // Frames that come while the timer of others is under way wait for one of their own.
  clock.advance(1);
  sendUnhurried(4);
  clock.advance(2);
  await settle();
  assert.equal(toServer.frames.length, 3);
  clock.advance(1);
  await settle();
  assert.equal(toServer.frames.length, 4);
  assert.equal(clock.pendingCount, 0);
  sendUnhurried(5);
  client.close({ code: 0, text: "" });
  await settle();
  assert.deepEqual(toServer.frames.slice(4), ["cancel tag=0 canceledTag=5", 'goodbye tag=0 code=0 reason=""']);
  sendUnhurried(6);
  assert.equal(toServer.frames.length, 6);
});

test("more frames than a slab holds arrive whole, while writes are under way", async () => {
  const { client, toServer, clientLink } = started();
  clientLink.faults.splitBytes = 1000;
  const expected: string[] = [];
  for (let round = 0; round < 30; round += 1) {
    for (let at = 0; at < 200; at += 1) {
      const reason = `${round}.${at} ${"x".repeat(at)}`;
      client.send({ ...emptyHeader(), opcode: 3 }, messages.goodbye.request, { code: at, reason });
      expected.push(`goodbye tag=0 code=${at} reason="${reason}"`);
    }
    await new Promise((resolve) => setImmediate(resolve));
  }
  for (let round = 0; round < 40; round += 1) await settle();
  assert.deepEqual(toServer.frames, expected);
});

test("a payload is lent until it was sent: told once, also when the link dies or is dead", async () => {
  const { client, clientLink } = started();
  const told: string[] = [];
  sendPayload(client, 1, Buffer.alloc(LONG), () => told.push("first"));
  await settle();
  assert.deepEqual(told, ["first"]);
  clientLink.faults.isStalled = true;
  sendPayload(client, 2, Buffer.alloc(LONG), () => told.push("in flight"));
  await settle();
  sendPayload(client, 3, Buffer.alloc(LONG), () => told.push("queued"));
  await settle();
  assert.deepEqual(told, ["first"]);
  clientLink.destroy();
  await settle();
  assert.deepEqual(told, ["first", "in flight", "queued"]);
  sendPayload(client, 4, Buffer.alloc(LONG), () => told.push("dead"));
  assert.deepEqual(told, ["first", "in flight", "queued", "dead"]);
});

test("a payload that is only queued can be taken back: its frame stays whole", async () => {
  const { client, clientLink, toServer } = started();
  clientLink.faults.isStalled = true;
  const inFlight = Buffer.alloc(LONG, "in flight");
  const queued = Buffer.alloc(LONG, "queued");
  sendPayload(client, 1, inFlight);
  await settle();
  sendPayload(client, 2, queued);
  assert.equal(client.reclaim(inFlight), false);
  assert.equal(client.reclaim(queued), true);
  queued.fill(0);
  clientLink.faults.isStalled = false;
  clientLink.kick();
  await settle();
  assert.deepEqual(
    toServer.payloads.map((payload) => payload.toString().slice(0, 9)),
    ["in flight", "queuedque"],
  );
});

test("a short payload is the caller's again when it is sent", async () => {
  const { client, clientLink, toServer } = started();
  clientLink.faults.isStalled = true;
  const payload = Buffer.from("short");
  let isSent = false;
  sendPayload(client, 1, payload, () => {
    isSent = true;
  });
  assert.equal(isSent, true);
  payload.fill(0);
  clientLink.faults.isStalled = false;
  clientLink.kick();
  await settle();
  assert.deepEqual(toServer.payloads.map(String), ["short"]);
});

test("a traced channel says what it sends and receives", async () => {
  const lines: string[] = [];
  const links = memoryLinkPair();
  const options = { clock: new FakeClock(), sendBytesMax: 1000 };
  const client = new Channel(links.client, { ...options, trace: (line) => lines.push(`client ${line}`) });
  const server = new Channel(links.server, { ...options, trace: (line) => lines.push(`server ${line}`) });
  server.accept({ bodyBytesMax: 100, payloadBytesMax: 100 });
  client.start(new Recorder());
  server.start(new Recorder());
  sendCancel(client, 5);
  sendPayload(client, 6, Buffer.from("data"));
  await settle();
  assert.deepEqual(lines, [
    "client > cancel tag=0 canceledTag=5",
    "client > read reply tag=6 payload=4",
    "server < cancel tag=0 canceledTag=5",
    "server < read reply tag=6 payload=4",
  ]);
});

test("a channel is congested beyond its bound and drained when the link has taken enough", async () => {
  const { client, clientLink } = started({ sendBytesMax: 1000 });
  assert.equal(client.isCongested, false);
  await client.drained();
  clientLink.faults.isStalled = true;
  sendPayload(client, 1, Buffer.alloc(1001));
  assert.equal(client.isCongested, true);
  let isDrained = false;
  const drained = client.drained().then(() => {
    isDrained = true;
  });
  await settle();
  assert.equal(isDrained, false);
  clientLink.faults.isStalled = false;
  clientLink.kick();
  await drained;
  assert.equal(client.unsentBytes, 0);
});

test("nothing is read from a peer that takes nothing, until it does", async () => {
  const { client, server, serverLink, toServer } = started({ sendBytesMax: 1000 });
  serverLink.faults.isStalled = true;
  sendPayload(server, 1, Buffer.alloc(LONG));
  await settle();
  for (let tag = 1; tag <= 10; tag += 1) sendCancel(client, tag);
  await settle();
  assert.equal(toServer.frames.length, 0);
  serverLink.faults.isStalled = false;
  serverLink.kick();
  await settle();
  assert.equal(toServer.frames.length, 10);
});

test("what is copied into the channel has a bound of its own, in a hurry or not; what is borrowed does not count", async () => {
  for (const isHurried of [true, false]) {
    const { client, server, serverLink, toServer } = started({ ownBytesMax: 5000 });
    serverLink.faults.isStalled = true;
    sendPayload(server, 1, Buffer.alloc(LONG));
    sendCancel(client, 1);
    await settle();
    assert.equal(toServer.frames.length, 1);
    const { request } = messages.cancel;
    for (let tag = 1; tag <= 200; tag += 1) {
      const header = { ...emptyHeader(), opcode: messages.cancel.row.code };
      if (isHurried) server.send(header, request, { canceledTag: tag });
      else server.sendUnhurried(header, request, { canceledTag: tag });
    }
    sendCancel(client, 2);
    await settle();
    assert.equal(toServer.frames.length, 1);
    assert.equal(server.isCongested, false);
    serverLink.faults.isStalled = false;
    serverLink.kick();
    await settle();
    assert.equal(toServer.frames.length, 2);
  }
});

test("who waits for a channel to drain is let go when it dies", async () => {
  const { client, clientLink } = started({ sendBytesMax: 10 });
  clientLink.faults.isStalled = true;
  sendPayload(client, 1, Buffer.alloc(100));
  const drained = client.drained();
  client.destroy();
  await drained;
});

test("a violation is told to the peer with its code, and ends the channel once", async () => {
  const { client, server, toServer, toClient } = started();
  toServer.onFrame = () => {
    throw new ProtocolError(CloseCode.STATE, "not now");
  };
  sendCancel(client, 1);
  sendCancel(client, 2);
  await settle();
  assert.equal(toServer.frames.length, 1);
  assert.deepEqual(toClient.frames, ['goodbye tag=0 code=3 reason="not now"']);
  assert.equal(toServer.ends.length, 1);
  assert.ok(toServer.ends[0] instanceof ProtocolError);
  assert.equal(server.isOpen, false);
});

test("another error of a receiver ends the channel without a word and is passed on", async () => {
  const { client, toServer, toClient } = started();
  toServer.onFrame = () => {
    throw new TypeError("a bug");
  };
  sendCancel(client, 1);
  await settle();
  assert.ok(toServer.ends[0] instanceof TypeError);
  assert.deepEqual(toClient.frames, []);
});

test("close says why, lets leave what was sent before, and both links end", async () => {
  const { client, server, toServer, toClient, clock } = started();
  sendPayload(client, 1, Buffer.from("last"));
  client.close({ code: 8, text: "going" });
  sendCancel(client, 2);
  assert.deepEqual(toClient.ends, [undefined]);
  await client.gone;
  await server.gone;
  assert.deepEqual(toServer.frames, ["read reply tag=1 payload=4", 'goodbye tag=0 code=8 reason="going"']);
  assert.equal(toServer.ends.length, 1);
  assert.ok(toServer.ends[0] instanceof ConnectionError);
  assert.equal(clock.pendingCount, 0);
});

test("a reason longer than fits is cut, between characters", async () => {
  const { client, toServer } = started();
  client.close({ code: 1, text: "\u{1f600}".repeat(300) });
  await settle();
  assert.match(toServer.frames[0] ?? "", /^goodbye tag=0 code=1 reason="(\u{1f600})+"$/u);
});

test("a closing channel whose peer takes nothing is destroyed after its linger", async () => {
  const { client, clientLink, clock } = started();
  clientLink.faults.isStalled = true;
  let isGone = false;
  void client.gone.then(() => {
    isGone = true;
  });
  client.close({ code: 0, text: "" });
  await settle();
  clock.advance(1999);
  await settle();
  assert.equal(isGone, false);
  clock.advance(1);
  await settle();
  assert.equal(isGone, true);
});

test("a link that breaks inside a frame is a lost connection, and says so", async () => {
  const { client, clientLink, toServer, toClient } = started();
  clientLink.faults.cutAtByte = 40;
  sendPayload(client, 1, Buffer.alloc(100));
  await settle();
  assert.match(String(toServer.ends[0]), /^ConnectionError: .*inside a frame$/);
  assert.ok(toClient.ends[0] instanceof ConnectionError);
  assert.equal((toServer.ends[0] as ConnectionError).retryable, true);
});

test("a receiver that waits for memory pauses its link, and nothing is lost", async () => {
  const { client, server, toServer, clientLink } = started();
  clientLink.faults.splitBytes = 50;
  toServer.target = () => undefined;
  sendPayload(client, 1, Buffer.alloc(500, 1));
  sendCancel(client, 2);
  await settle();
  assert.equal(server.isWaiting, true);
  const received = server.receivedBytes;
  await settle();
  assert.equal(server.receivedBytes, received, "the link is paused");
  const target = Buffer.alloc(500);
  server.provide(target);
  await settle();
  assert.ok(target.every((byte) => byte === 1));
  assert.deepEqual(toServer.frames, ["read reply tag=1 payload=500", "cancel tag=0 canceledTag=2"]);
});

test("before it accepts more, a channel takes only frames as small as set-up's", async () => {
  const pair = channelPair();
  pair.server.accept({ bodyBytesMax: 1024, payloadBytesMax: 0 });
  const toServer = new Recorder();
  pair.client.start(new Recorder());
  pair.server.start(toServer);
  sendPayload(pair.client, 1, Buffer.alloc(1));
  await settle();
  assert.equal((toServer.ends[0] as ProtocolError).closeCode, CloseCode.LIMIT);
});

test("frames reach the receiver a channel was handed over to, from the next frame on", async () => {
  const { client, server, toServer } = started();
  const second = new Recorder();
  toServer.onFrame = () => server.handOver(second);
  sendCancel(client, 1);
  sendCancel(client, 2);
  await settle();
  assert.equal(toServer.frames.length, 1);
  assert.equal(second.frames.length, 1);
  client.destroy();
  await settle();
  assert.equal(toServer.ends.length, 0);
  assert.equal(second.ends.length, 1);
});

test("bytes cut small, late and in any way arrive as they were sent", async () => {
  const { client, toServer, clientLink, clock } = started();
  clientLink.faults.splitBytes = 3;
  clientLink.faults.delayMs = 5;
  sendPayload(client, 1, Buffer.from("some payload"));
  sendCancel(client, 2);
  for (let step = 0; step < 60; step += 1) {
    clock.advance(5);
    await new Promise((resolve) => setImmediate(resolve));
  }
  assert.deepEqual(toServer.frames, ["read reply tag=1 payload=12", "cancel tag=0 canceledTag=2"]);
  assert.deepEqual(toServer.payloads.map(String), ["some payload"]);
});
