/** Which sections are overdue: only time in which the server is heard from counts, and only after what was sent before has been answered. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { createLog } from "../../src/base/log.ts";
import { SectionWatch, type WatchedSection } from "../../src/client/section-watch.ts";
import { FakeClock } from "../support/fake-clock.ts";

const PATIENCE_MS = 60_000;
const LOOK_MS = 1000;

class Section implements WatchedSection {
  readonly channel: object;
  readonly patienceMs: number;
  sentMs = 0;
  overdueCount = 0;

  constructor(channel: object, patienceMs = PATIENCE_MS) {
    this.channel = channel;
    this.patienceMs = patienceMs;
  }

  overdue(): void {
    this.overdueCount += 1;
  }
}

function watched() {
  const clock = new FakeClock();
  const lines: string[] = [];
  const log = createLog({ level: "warn", clock, sink: (line) => lines.push(line) });
  let heard = 0;
  const watch = new SectionWatch({ clock, log, heardBytes: () => heard, patienceMs: PATIENCE_MS });
  const hear = () => {
    heard += 24;
  };
  /** Lets time pass; the server is heard from every second. */
  const pass = (ms: number) => {
    for (let at = 0; at < ms; at += LOOK_MS) {
      hear();
      clock.advance(LOOK_MS);
    }
  };
  return { clock, lines, watch, hear, pass };
}

test("a section without an answer is overdue once, after its patience, while the server answers others", () => {
  const { watch, pass, lines, clock } = watched();
  const section = new Section({});
  watch.sent(section);
  pass(PATIENCE_MS);
  assert.equal(section.overdueCount, 0);
  pass(2 * LOOK_MS);
  assert.equal(section.overdueCount, 1);
  assert.match(lines.join("\n"), / warn .*sections without an answer for 60 s, while the server answers others: 1$/);
  pass(2 * PATIENCE_MS);
  assert.equal(section.overdueCount, 1);
  assert.equal(clock.pendingCount, 0, "nothing is watched, no timer is left");
});

test("while the server says nothing no time counts, however long it lasts", () => {
  const { watch, pass, hear, clock } = watched();
  const section = new Section({});
  watch.sent(section);
  pass(PATIENCE_MS / 2);
  clock.advance(100 * PATIENCE_MS);
  assert.equal(section.overdueCount, 0);
  // The first sign after the silence proves little.
  hear();
  clock.advance(LOOK_MS);
  pass(PATIENCE_MS / 2 - 6 * LOOK_MS);
  assert.equal(section.overdueCount, 0);
  pass(10 * LOOK_MS);
  assert.equal(section.overdueCount, 1);
});

test("a server that is heard from every few seconds is there all the time", () => {
  const { watch, hear, clock } = watched();
  const section = new Section({});
  watch.sent(section);
  for (let at = 0; at < PATIENCE_MS + 2 * LOOK_MS; at += 4000) {
    hear();
    clock.advance(4000);
  }
  assert.equal(section.overdueCount, 1);
});

test("a section that waits behind others of its channel is not overdue while these are answered, one after the other", () => {
  const { watch, pass } = watched();
  const channel = {};
  const sections = Array.from({ length: 10 }, () => new Section(channel));
  for (const section of sections) watch.sent(section);
  for (const section of sections) {
    pass(PATIENCE_MS - LOOK_MS);
    watch.settled(section, true);
  }
  assert.ok(sections.every(({ overdueCount }) => overdueCount === 0));
});

test("answers to later sections, or on another channel, excuse nothing", () => {
  for (const isOther of [false, true]) {
    const { watch, pass } = watched();
    const channel = {};
    const stuck = new Section(channel);
    watch.sent(stuck);
    for (let at = 0; at < PATIENCE_MS + 3 * LOOK_MS; at += LOOK_MS) {
      const other = new Section(isOther ? {} : channel);
      watch.sent(other);
      pass(LOOK_MS);
      watch.settled(other, true);
    }
    assert.equal(stuck.overdueCount, 1);
  }
});

test("sections that were given up, and those with endless patience, are not watched", () => {
  const { watch, pass, clock } = watched();
  const given = new Section({});
  const endless = new Section({}, Number.POSITIVE_INFINITY);
  watch.sent(endless);
  assert.equal(clock.pendingCount, 0);
  watch.sent(given);
  watch.settled(given, false);
  assert.equal(clock.pendingCount, 0);
  pass(10 * PATIENCE_MS);
  assert.deepEqual([given.overdueCount, endless.overdueCount], [0, 0]);
});

test("the timer outlives an answer by one look, and ends with the watch", () => {
  const { watch, clock } = watched();
  const section = new Section({});
  watch.sent(section);
  watch.settled(section, true);
  assert.equal(clock.pendingCount, 1);
  clock.advance(LOOK_MS);
  assert.equal(clock.pendingCount, 0);
  watch.sent(section);
  watch.stop();
  assert.equal(clock.pendingCount, 0);
  watch.settled(section, true);
});
