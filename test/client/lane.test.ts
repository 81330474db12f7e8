/** How often a channel that is lost is tried again. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CloseCode, ConnectionError, ProtocolError } from "../../src/base/errors.ts";
import { type Failure, failureOf, Lane } from "../../src/client/lane.ts";
import { Channel } from "../../src/transport/channel.ts";
import { memoryLinkPair } from "../../src/transport/memory-link.ts";
import { UpgradingLink } from "../../src/transport/upgrading-link.ts";
import { messages } from "../../src/wire/codec.ts";
import { emptyHeader } from "../../src/wire/frame.ts";
import { FakeClock } from "../support/fake-clock.ts";

/** The greatest pause of attempts that fail at once, between two times after the first. */
function greatestMs(failure: Failure, fromMs: number, untilMs: number, isAwaited = false): number {
  const lane = new Lane(0, () => 0);
  let greatest = 0;
  for (let nowMs = 0; nowMs < untilMs; ) {
    const pauseMs = lane.pauseMs(failure, nowMs, isAwaited);
    if (nowMs >= fromMs) greatest = Math.max(greatest, pauseMs);
    nowMs += pauseMs;
  }
  return greatest;
}

test("a server is tried often at first, most of all where its machine refuses, and every few seconds at last", () => {
  const spans = [
    [0, 10_000],
    [11_000, 60_000],
    [62_000, 299_000],
    [310_000, 900_000],
  ] as const;
  const pauses = (failure: Failure) => spans.map(([from, until]) => greatestMs(failure, from, until));
  assert.deepEqual(pauses("refused"), [25, 100, 1000, 5000]);
  assert.deepEqual(pauses("silent"), [250, 250, 1000, 5000]);
  assert.deepEqual(pauses("answered"), [1000, 1000, 1000, 5000]);
});

test("while a program waits, a machine that refuses is asked more often for the first seconds, and no other", () => {
  const pauses = (failure: Failure) =>
    [
      [0, 4990],
      [5100, 10_000],
      [11_000, 60_000],
    ].map(([from = 0, until = 0]) => greatestMs(failure, from, until, true));
  assert.deepEqual(pauses("refused"), [8, 25, 100]);
  assert.deepEqual(pauses("silent"), [250, 250, 250]);
  assert.deepEqual(pauses("answered"), [1000, 1000, 1000]);
});

test("a machine refuses, says nothing or answers, as its error says", () => {
  const failed = (cause?: unknown) => new ConnectionError("failed", { retryable: true, cause });
  const coded = (code: string) => failed(Object.assign(new Error(code), { code }));
  const refusals = ["ECONNREFUSED", "ECONNRESET", "EPIPE", "UND_ERR_SOCKET"].map((code) => failureOf(coded(code)));
  assert.deepEqual(new Set(refusals), new Set(["refused"]));
  assert.deepEqual([failureOf(failed()), failureOf(coded("ETIMEDOUT"))], ["silent", "silent"]);
  const no = new ProtocolError(CloseCode.BUSY, "no");
  assert.deepEqual([failureOf(no), failureOf(failed(no))], ["answered", "answered"]);
});

test("a connection that is closed before the first word is refused, also where the hello has left already", async () => {
  for (const [said, failure] of [
    ["", "refused"],
    ["HTTP/1.1 426 Upgrade Required\r\n\r\n", "answered"],
    ["HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: netdrive/1\r\n\r\n", "silent"],
  ] as const) {
    const links = memoryLinkPair();
    const channel = new Channel(new UpgradingLink(links.client, "host:1"), { clock: new FakeClock(), sendBytesMax: 1 });
    const closed = new Promise<unknown>((resolve) => {
      const notNow = () => assert.fail("nobody sends a frame");
      channel.start({ frame: notNow, payloadBegin: notNow, payloadEnd: notNow, closed: resolve });
    });
    channel.send({ ...emptyHeader(), opcode: messages.ping.row.code }, messages.ping.request, { echo: 0 });
    links.server.start({ data: () => {}, place: () => Buffer.alloc(1), landed: () => {}, closed: () => {} });
    if (said !== "") links.server.write([Buffer.from(said)], () => {});
    links.server.end();
    assert.equal(failureOf(await closed), failure);
  }
});

test("pauses differ by chance, so that many clients of one server do not come at the same moment", () => {
  const lane = new Lane(0, () => 0.999);
  assert.equal(Math.round(lane.pauseMs("refused", 0, false)), 15);
});

test("when something has changed the pauses are short again", () => {
  const lane = new Lane(0, () => 0);
  for (let nowMs = 0; nowMs < 600_000; nowMs += 1000) lane.pauseMs("refused", nowMs, false);
  lane.hope();
  assert.equal(lane.pauseMs("refused", 600_000, false), 20);
  for (let attempt = 0; attempt < 10; attempt += 1) lane.pauseMs("refused", 600_100, false);
  assert.equal(lane.pauseMs("refused", 600_200, false), 25);
});

test("attempts that do not wait for HTTP are given up for one that does, sooner where somebody answers", () => {
  const until = (failure: Failure) => {
    const lane = new Lane(0, () => 0);
    for (let eager = 1; ; eager += 1) {
      // As when a connection is there.
      lane.isEager = !lane.isEager;
      lane.pauseMs(failure, 0, false);
      if (!lane.isEager) return eager;
    }
  };
  assert.deepEqual((["answered", "silent", "refused"] as const).map(until), [1, 2, 4]);
});
