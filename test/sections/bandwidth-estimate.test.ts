/** What fills a line: learnt from a simulated one, presumed before, and forgotten; through a window that keeps it busy. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CreditWindow } from "../../src/sections/credit-window.ts";
import { RequestPriority } from "../../src/vfs/file-system.ts";
import { SimulatedLine, saturate } from "../support/simulated-line.ts";

const { FOREGROUND } = RequestPriority;
const MIB = 2 ** 20;

for (const [roundTripMs, megabitPerSecond, sectionKib] of [
  [150, 1000, 512],
  [50, 1000, 512],
  [50, 1000, 1024],
  [10, 10_000, 512],
  [200, 20, 256],
  [1, 1000, 512],
] as const) {
  test(`a line of ${megabitPerSecond} Mbit/s and ${roundTripMs} ms is filled for a minute, without a growing queue`, (t) => {
    const bytesPerMs = (megabitPerSecond * 1e6) / 8 / 1000;
    const line = new SimulatedLine({ roundTripMs, bytesPerMs });
    const window = new CreditWindow({ credits: 1024, bytes: 256 * MIB, bytesMin: 2 * MIB, waitersMax: 4 });
    const product = bytesPerMs * roundTripMs;
    let largest = 0;
    const bytes = saturate(line, window, {
      sectionBytes: sectionKib * 1024,
      untilMs: 60_000,
      answered: () => {
        if (line.nowMs > 5_000) largest = Math.max(largest, window.windowBytes);
      },
    });
    assert.equal(window.held, 0);
    const share = bytes / (line.nowMs * bytesPerMs);
    t.diagnostic(`line used ${share.toFixed(4)}, largest window ${(largest / product).toFixed(2)} products`);
    assert(share > 0.95, `line used ${share}`);
    // One section's own time on the line counts to the round trip it measures.
    assert(largest <= Math.max(2 * MIB, 2.1 * (product + sectionKib * 1024)), `largest window ${largest}`);
  });
}

test("at 1 Gbit/s and 150 ms less than three round trips are lost to the start and the end", (t) => {
  const line = new SimulatedLine({ roundTripMs: 150, bytesPerMs: 125_000 });
  const window = new CreditWindow({ credits: 1024, bytes: 128 * MIB, bytesMin: 2 * MIB, waitersMax: 4 });
  const bytes = saturate(line, window, { sectionBytes: 512 * 1024, untilMs: 4_300 });
  const lost = line.nowMs - bytes / 125_000;
  t.diagnostic(`${lost.toFixed(0)} ms of the line lost to the start and the last round trip`);
  assert(lost < 3 * 150, `${lost}`);
});

for (const [roundTripMs, most] of [
  [150, 1.25],
  [50, 1.4],
] as const) {
  test(`where the round trip of ${roundTripMs} ms is known before, ${most} of it are lost at 1 Gbit/s, the last answer's included`, (t) => {
    const line = new SimulatedLine({ roundTripMs, bytesPerMs: 125_000 });
    const window = new CreditWindow({ credits: 64, bytes: 32 * MIB, bytesMin: 4 * MIB, waitersMax: 4, roundTripMs });
    const bytes = saturate(line, window, { sectionBytes: MIB, untilMs: 4_300 });
    const lost = (line.nowMs - bytes / 125_000) / roundTripMs;
    t.diagnostic(`${lost.toFixed(2)} round trips lost`);
    assert(lost < most, `${lost}`);
  });
}

test("a line that is presumed too fast is found out by its first answers, and keeps no more on its way than it needs", () => {
  for (const [megabitPerSecond, roundTripMs] of [
    [20, 50],
    [50, 150],
    [100, 300],
  ] as const) {
    const bytesPerMs = (megabitPerSecond * 1e6) / 8 / 1000;
    const line = new SimulatedLine({ roundTripMs, bytesPerMs });
    const bytesMin = 4 * 256 * 1024;
    const window = new CreditWindow({ credits: 64, bytes: 32 * MIB, bytesMin, waitersMax: 4, roundTripMs });
    assert(window.windowBytes > 1.4 * Math.min(125_000 * roundTripMs, 20 * MIB), "presumed");
    let answers = 0;
    saturate(line, window, {
      sectionBytes: 256 * 1024,
      untilMs: 20_000,
      answered: () => {
        answers += 1;
        if (answers < 6) return;
        const needed = 3.01 * bytesPerMs * (roundTripMs + (256 * 1024) / bytesPerMs);
        assert(window.windowBytes <= Math.max(bytesMin, needed), `${answers}: ${window.windowBytes} of ${needed}`);
      },
    });
    assert(answers > 50);
  }
});

test("what fills the line is presumed until answers show it, and measured then", () => {
  const line = new SimulatedLine({ roundTripMs: 100, bytesPerMs: 12_500 });
  const options = { credits: 64, bytes: 32 * MIB, bytesMin: MIB, waitersMax: 4 };
  assert.equal(new CreditWindow(options).lineBytes, 0, "nothing is known");
  const window = new CreditWindow({ ...options, roundTripMs: 100 });
  assert.equal(window.lineBytes, 12_500_000);
  saturate(line, window, { sectionBytes: 512 * 1024, untilMs: 3_000 });
  assert(Math.abs(window.lineBytes / (12_500 * 100) - 1.4) < 0.1, `a section's own time included: ${window.lineBytes}`);
  window.forgetLine(200);
  assert.equal(window.lineBytes, 25_000_000);
});

test("what was asked for and did not come teaches no rate", () => {
  const line = new SimulatedLine({ roundTripMs: 50, bytesPerMs: 1_250 });
  const window = new CreditWindow({ credits: 64, bytes: 32 * MIB, bytesMin: MIB, waitersMax: 64, roundTripMs: 50 });
  // Files of 4 KiB, read with room for 128 KiB.
  for (let round = 0; round < 50; round++) {
    for (let at = 0; at < 16; at++) {
      const credit = window.tryAcquire(128 * 1024, FOREGROUND, line.nowMs);
      if (credit >= 0) line.send(4096, () => window.release(credit, line.nowMs, 4096));
    }
    while (line.step());
  }
  assert(window.figures.bytesPerSecond < 1.3e6, `${window.figures.bytesPerSecond}`);
});

test("the window follows a line that becomes faster, and one that becomes slower", () => {
  const line = new SimulatedLine({ roundTripMs: 50, bytesPerMs: 12_500 });
  const window = new CreditWindow({ credits: 1024, bytes: 256 * MIB, bytesMin: 256 * 1024, waitersMax: 4 });
  const run = (untilMs: number) => saturate(line, window, { sectionBytes: 65_536, untilMs });
  run(8_000);
  line.bytesPerMs = 125_000;
  run(line.nowMs + 2_000);
  assert(window.windowBytes > 1.8 * 125_000 * 50, `faster: ${window.windowBytes}`);
  line.bytesPerMs = 12_500;
  run(line.nowMs + 12_000);
  assert(window.windowBytes < 2.5 * 12_500 * 50, `slower: ${window.windowBytes}`);
});

test("a longer round trip is believed within half a minute, and the line is full again", () => {
  const line = new SimulatedLine({ roundTripMs: 10, bytesPerMs: 125_000 });
  const window = new CreditWindow({ credits: 1024, bytes: 256 * MIB, bytesMin: 2 * MIB, waitersMax: 4 });
  const run = (untilMs: number) => saturate(line, window, { sectionBytes: 512 * 1024, untilMs });
  run(3_000);
  line.roundTripMs = 100;
  run(line.nowMs + 30_000);
  const from = line.nowMs;
  const share = run(line.nowMs + 10_000) / ((line.nowMs - from) * 125_000);
  assert(share > 0.95, `${share}`);
});

test("few small requests do not shrink the window that was learnt", () => {
  const line = new SimulatedLine({ roundTripMs: 50, bytesPerMs: 125_000 });
  const window = new CreditWindow({ credits: 1024, bytes: 256 * MIB, bytesMin: 2 * MIB, waitersMax: 4 });
  saturate(line, window, { sectionBytes: 512 * 1024, untilMs: 5_000 });
  const learnt = window.windowBytes;
  for (let request = 0; request < 500; request++) {
    const credit = window.tryAcquire(4096, FOREGROUND, line.nowMs);
    line.send(4096, () => window.release(credit, line.nowMs));
    line.step();
  }
  assert(window.windowBytes > 0.8 * learnt, `${window.windowBytes} of ${learnt}`);
});

test("after the line was forgotten the window starts small, and old answers teach nothing", () => {
  const line = new SimulatedLine({ roundTripMs: 50, bytesPerMs: 125_000 });
  const window = new CreditWindow({ credits: 1024, bytes: 256 * MIB, bytesMin: 2 * MIB, waitersMax: 4 });
  saturate(line, window, { sectionBytes: 512 * 1024, untilMs: 5_000 });
  const old = window.tryAcquire(MIB, FOREGROUND, line.nowMs);
  window.forgetLine();
  assert.equal(window.windowBytes, 2 * MIB);
  window.release(old, line.nowMs + 0.1);
  assert.equal(window.figures.roundTripMs, undefined);
  assert.equal(window.figures.bytesPerSecond, 0);
  saturate(line, window, { sectionBytes: 512 * 1024, untilMs: line.nowMs + 5_000 });
  assert(window.windowBytes > 1.8 * 125_000 * 50, `${window.windowBytes}`);
});
