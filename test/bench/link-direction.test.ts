import assert from "node:assert/strict";
import { test } from "node:test";
import { LinkDirection, type LinkSink } from "../../scripts/bench/link-direction.ts";
import { LinkLine } from "../../scripts/bench/link-line.ts";
import { seededRandom } from "../../scripts/bench/link-schedule.ts";
import { StepClock } from "./step-clock.ts";

const MEGABYTE = 1024 * 1024;

/** A direction with a recording source and sink; the sink takes everything unless `full` is set. */
function harness(options: { inFlightBytesMax?: number; line?: LinkLine; clock?: StepClock } = {}) {
  const clock = options.clock ?? new StepClock();
  const line = options.line ?? new LinkLine();
  const seen: { atMs: number; bytes: Buffer }[] = [];
  const state = { paused: false, full: false, ended: false, reset: false };
  const source = {
    pause: () => {
      state.paused = true;
    },
    resume: () => {
      state.paused = false;
    },
  };
  const sink: LinkSink = {
    cork() {},
    uncork() {},
    write(bytes) {
      seen.push({ atMs: clock.monotonicMs(), bytes });
      return !state.full;
    },
    end() {
      state.ended = true;
    },
    reset() {
      state.reset = true;
    },
  };
  const inFlightBytesMax = options.inFlightBytesMax ?? 64 * MEGABYTE;
  const direction = new LinkDirection({ clock, line, source, inFlightBytesMax });
  direction.attach(sink);
  const receivedBytes = () => seen.reduce((sum, { bytes }) => sum + bytes.length, 0);
  return { clock, line, direction, seen, state, receivedBytes };
}

test("without delay and rate a chunk passes at once, as the same object", () => {
  const { direction, seen, clock } = harness();
  const chunk = Buffer.from("hello");
  direction.push(chunk);
  assert.equal(seen[0]?.bytes, chunk);
  assert.equal(clock.pendingCount, 0);
});

test("a chunk arrives after the one-way delay, not a millisecond earlier", () => {
  const { direction, seen, line, clock } = harness();
  line.delayMs = 75;
  direction.push(Buffer.from("x"));
  clock.step(74);
  assert.equal(seen.length, 0);
  clock.step(1);
  assert.equal(seen[0]?.atMs, 75);
});

test("chunks leave at the rate, one after the other, and arrive in order", () => {
  const { direction, seen, line, clock } = harness();
  line.rateBitsPerSecond = 8_000_000;
  line.delayMs = 10;
  for (let index = 0; index < 5; index += 1) direction.push(Buffer.alloc(2000, index));
  clock.step(1000);
  assert.deepEqual(
    seen.map(({ atMs, bytes }) => [atMs, bytes[0], bytes.length]),
    [0, 1, 2, 3, 4].map((index) => [12 + 2 * index, index, 2000]),
  );
});

test("a large chunk on a slow line is delivered in pieces over its time", () => {
  const { direction, seen, line, clock, receivedBytes } = harness();
  line.rateBitsPerSecond = 8_000_000;
  direction.push(Buffer.alloc(40_000));
  clock.step(20);
  assert.equal(receivedBytes(), 20_000);
  clock.step(20);
  assert.equal(receivedBytes(), 40_000);
  assert.ok(seen.every(({ bytes }) => bytes.length <= 4000));
});

test("two connections share the rate of their line", () => {
  const clock = new StepClock();
  const line = new LinkLine();
  line.rateBitsPerSecond = 8_000_000;
  const first = harness({ clock, line });
  const second = harness({ clock, line });
  for (let index = 0; index < 4; index += 1) {
    first.direction.push(Buffer.alloc(1000));
    second.direction.push(Buffer.alloc(1000));
  }
  clock.step(4);
  assert.equal(first.receivedBytes() + second.receivedBytes(), 4000);
  clock.step(4);
  assert.equal(first.receivedBytes(), 4000);
  assert.equal(second.receivedBytes(), 4000);
});

test("a line of 150 ms and 1 Gbit/s is filled by a sender that obeys its back-pressure", () => {
  const { direction, line, clock, state, receivedBytes } = harness();
  line.rateBitsPerSecond = 1e9;
  line.delayMs = 150;
  let sentBytes = 0;
  let queuedBytesMax = 0;
  for (let ms = 0; ms < 1150; ms += 1) {
    while (!state.paused) {
      direction.push(Buffer.alloc(65_536));
      sentBytes += 65_536;
    }
    queuedBytesMax = Math.max(queuedBytesMax, direction.queuedBytes);
    clock.step(1);
  }
  const shareOfLine = receivedBytes() / 125e6;
  assert.ok(shareOfLine > 0.995 && shareOfLine <= 1.001, `${shareOfLine} of the line`);
  assert.ok(queuedBytesMax > 18.75e6 && queuedBytesMax < 21e6, `${queuedBytesMax} bytes on the link`);
  assert.equal(sentBytes - direction.queuedBytes, receivedBytes());
});

test("without a rate the source is paused at the limit of what may be under way", () => {
  const { direction, line, clock, state } = harness({ inFlightBytesMax: MEGABYTE });
  line.delayMs = 50;
  for (let count = 0; count < 100 && !state.paused; count += 1) direction.push(Buffer.alloc(65_536));
  assert.ok(state.paused);
  assert.ok(direction.queuedBytes <= MEGABYTE + 65_536);
  clock.step(50);
  assert.equal(state.paused, false);
  assert.equal(direction.queuedBytes, 0);
});

test("a sink that is full gets nothing more until it has drained, and the source waits", () => {
  const { direction, clock, state, seen, line } = harness();
  line.rateBitsPerSecond = 1e9;
  state.full = true;
  for (let count = 0; count < 200 && !state.paused; count += 1) {
    direction.push(Buffer.alloc(65_536));
    clock.step(1);
  }
  assert.equal(seen.length, 1);
  assert.ok(state.paused);
  state.full = false;
  direction.drained();
  clock.step(100);
  assert.equal(direction.queuedBytes, 0);
  assert.equal(state.paused, false);
});

test("a pause holds back what is due and nothing is lost or reordered", () => {
  const { direction, clock, line, seen } = harness();
  line.delayMs = 5;
  direction.push(Buffer.from("a"));
  line.hold(40);
  direction.pump();
  clock.step(20);
  direction.push(Buffer.from("b"));
  clock.step(19);
  assert.equal(seen.length, 0);
  clock.step(1);
  assert.equal(Buffer.concat(seen.map(({ bytes }) => bytes)).toString(), "ab");
});

test("while frozen nothing arrives, however long it takes; after thawing all of it does", () => {
  const { direction, clock, line, seen, state } = harness();
  line.frozen = true;
  direction.push(Buffer.from("a"));
  direction.pushEnd();
  clock.step(1e7);
  assert.equal(seen.length, 0);
  line.frozen = false;
  direction.pump();
  assert.equal(seen.length, 1);
  assert.ok(state.ended);
});

test("an end and a reset travel like data", () => {
  const ending = harness();
  ending.line.delayMs = 30;
  ending.direction.push(Buffer.from("a"));
  ending.direction.pushEnd();
  ending.clock.step(29);
  assert.equal(ending.state.ended, false);
  ending.clock.step(1);
  assert.deepEqual([ending.seen.length, ending.state.ended], [1, true]);
  const dying = harness();
  dying.line.delayMs = 30;
  dying.direction.pushReset();
  dying.clock.step(29);
  assert.equal(dying.state.reset, false);
  dying.clock.step(1);
  assert.equal(dying.state.reset, true);
});

test("a delay that becomes shorter does not let bytes overtake", () => {
  const { direction, clock, line, seen } = harness();
  line.delayMs = 50;
  direction.push(Buffer.from("a"));
  line.delayMs = 1;
  direction.push(Buffer.from("b"));
  clock.step(49);
  assert.equal(seen.length, 0);
  clock.step(1);
  assert.equal(Buffer.concat(seen.map(({ bytes }) => bytes)).toString(), "ab");
});

test("after closing no timer is left and nothing is delivered", () => {
  const { direction, clock, line, seen } = harness();
  line.delayMs = 50;
  direction.push(Buffer.from("a"));
  direction.close();
  direction.push(Buffer.from("b"));
  assert.equal(clock.pendingCount, 0);
  clock.step(100);
  assert.equal(seen.length, 0);
});

test("random chunks under random settings, pauses and full sinks arrive as they were sent", () => {
  for (let seed = 1; seed <= 40; seed += 1) {
    const random = seededRandom(seed);
    const { direction, clock, line, seen, state } = harness({ inFlightBytesMax: 100_000 });
    const sent: Buffer[] = [];
    let next = 0;
    for (let turn = 0; turn < 300; turn += 1) {
      const dice = random();
      if (dice < 0.5 && !state.paused) {
        const chunk = Buffer.alloc(1 + Math.floor(random() * 20_000));
        for (let at = 0; at < chunk.length; at += 1) chunk[at] = next++ & 255;
        sent.push(Buffer.from(chunk));
        direction.push(chunk);
      } else if (dice < 0.6) line.delayMs = Math.floor(random() * 20);
      else if (dice < 0.7) line.rateBitsPerSecond = random() < 0.2 ? Number.POSITIVE_INFINITY : 1e6 + random() * 1e9;
      else if (dice < 0.75) line.hold(clock.monotonicMs() + random() * 10);
      else if (dice < 0.8) line.frozen = !line.frozen;
      else if (dice < 0.85) state.full = !state.full;
      else clock.step(random() * 10);
      if (!state.full) direction.drained();
      direction.pump();
    }
    line.frozen = false;
    state.full = false;
    direction.drained();
    clock.step(10_000);
    assert.ok(Buffer.concat(sent).equals(Buffer.concat(seen.map(({ bytes }) => bytes))), `seed ${seed}`);
    assert.equal(direction.queuedBytes, 0, `seed ${seed}`);
    assert.equal(state.paused, false, `seed ${seed}`);
    assert.equal(clock.pendingCount, 0, `seed ${seed}`);
  }
});
