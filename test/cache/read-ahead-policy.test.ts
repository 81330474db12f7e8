/** Read-ahead: patterns recognised, bounded and ended; every prefetched byte dropped once; and a line filled in simulated time. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { ReadAheadBudget, ReadAheadPolicy } from "../../src/cache/read-ahead-policy.ts";
import { CreditWindow } from "../../src/sections/credit-window.ts";
import { RequestPriority } from "../../src/vfs/file-system.ts";
import { seeded } from "../support/seed.ts";
import { SimulatedLine } from "../support/simulated-line.ts";

const KIB = 1024;
const MIB = 2 ** 20;
const FILE = 1024 * MIB;
const OPTIONS = { unitBytes: MIB, windowBytesMin: 128 * KIB, idleMs: 10_000 };

type Range = [offset: number, length: number];

function policyOf(options: { budgetBytes?: number; policy?: Partial<typeof OPTIONS> } = {}) {
  const prefetched: Range[] = [];
  const dropped: Range[] = [];
  const budget = new ReadAheadBudget(options.budgetBytes ?? 256 * MIB);
  const sink = {
    prefetch: (offset: number, length: number) => void prefetched.push([offset, length]),
    drop: (offset: number, length: number) => void dropped.push([offset, length]),
  };
  const policy = new ReadAheadPolicy(budget, sink, { ...OPTIONS, ...options.policy });
  const read = (offset: number, length: number, nowMs = 0, windowMax = 64 * MIB) => {
    policy.onRead(offset, length, nowMs, FILE, windowMax);
    policy.checkInvariants();
  };
  return { policy, budget, prefetched, dropped, read, sum: (ranges: Range[]) => ranges.reduce((a, [, b]) => a + b, 0) };
}

test("reading forward is recognised at the second read, and what is prefetched lies without a gap before it", () => {
  const { prefetched, read } = policyOf();
  read(5 * MIB, 128 * KIB);
  assert.equal(prefetched.length, 0);
  for (let at = 1; at < 400; at++) read(5 * MIB + at * 128 * KIB, 128 * KIB);
  let end = 5 * MIB + 256 * KIB;
  for (const [offset, length] of prefetched) {
    assert.equal(offset, end);
    end += length;
    if (length >= MIB) assert.equal(end % MIB, 0, "large ranges end on a unit");
  }
  assert(end >= 5 * MIB + 400 * 128 * KIB + 32 * MIB, "far ahead of the reader");
});

test("an open that begins at the start of the file is read ahead from the first read", () => {
  const { prefetched, read } = policyOf();
  read(0, 128 * KIB, 0, 2 * MIB);
  assert.deepEqual(prefetched, [[128 * KIB, 512 * KIB]]);
});

test("a program that reads whole units gets the whole window at once, also from elsewhere than the start", () => {
  for (const from of [0, 100 * MIB]) {
    const { policy, prefetched, read } = policyOf();
    if (from > 0) read(from - MIB, MIB);
    assert.equal(prefetched.length, 0);
    read(from, MIB);
    assert.deepEqual(prefetched, [[from + MIB, 64 * MIB]]);
    assert.equal(policy.heldBytes, 64 * MIB);
  }
});

test("a program that wants only the head of a file costs a sixteenth of the window, one that reads on gets all of it at its second wish", () => {
  const { prefetched, read, sum } = policyOf();
  read(0, 4 * KIB);
  const head = sum(prefetched);
  assert(head > 3 * MIB && head <= 4 * MIB, `${head}`);
  for (let at = 4 * KIB; at < 4 * MIB; at += 4 * KIB) read(at, 4 * KIB);
  assert(sum(prefetched) > 64 * MIB, `${sum(prefetched)}`);
  assert(prefetched.length < 8, `${prefetched}`);
});

test("the window grows to the largest allowed, in few steps, and not beyond", () => {
  for (const windowMax of [MIB, 16 * MIB, 64 * MIB, 128 * MIB]) {
    const { policy, prefetched, read } = policyOf({ budgetBytes: 1024 * MIB });
    let largest = 0;
    for (let at = 0; at < 4000; at++) {
      read(at * 128 * KIB, 128 * KIB, 0, windowMax);
      largest = Math.max(largest, policy.heldBytes);
    }
    assert(largest > 0.9 * windowMax, `${largest} of ${windowMax}`);
    assert(largest <= windowMax + 4 * 128 * KIB, "but for what is kept for overtaken reads");
    const refills = prefetched.filter(([, length]) => length >= Math.min(MIB, windowMax / 2)).length;
    assert(prefetched.length - refills <= 6, "grown within six refills");
    const held = prefetched.slice(-3);
    assert(windowMax < 8 * MIB || held.every(([, length]) => length < windowMax / 4), "then little by little");
  }
});

test("nothing is prefetched beyond the file, but all up to its end", () => {
  const { prefetched, read } = policyOf();
  const start = FILE - 3 * MIB - 1000;
  for (let at = start; at < FILE; at += 128 * KIB) read(at, Math.min(128 * KIB, FILE - at));
  const [offset, length] = prefetched.at(-1) as Range;
  assert.equal(offset + length, FILE);
});

test("reading backward is recognised and read ahead down to the start of the file", () => {
  const { policy, prefetched, dropped, read, sum } = policyOf();
  for (let at = 30 * MIB; at > 0; at -= 256 * KIB) read(at - 256 * KIB, 256 * KIB);
  let start = 30 * MIB - 512 * KIB;
  for (const [offset, length] of prefetched) {
    assert.equal(offset + length, start);
    start = offset;
  }
  assert.equal(start, 0);
  assert.equal(sum(dropped), sum(prefetched), "all was read");
  assert.equal(policy.heldBytes, 0);
});

for (const [name, stride] of [
  ["forward", 3 * MIB],
  ["backward", -3 * MIB],
] as const) {
  test(`reading at a ${name} stride is recognised at the third read, and only the strides are fetched`, () => {
    const { prefetched, read } = policyOf();
    const from = 500 * MIB;
    for (let at = 0; at < 40; at++) {
      if (at < 3) assert.equal(prefetched.length, 0);
      read(from + at * stride, 16 * KIB);
    }
    assert(prefetched.length > 40, "ahead of the reader");
    prefetched.forEach(([offset, length], at) => {
      assert.equal(offset, from + (at + 3) * stride);
      assert.equal(length, 16 * KIB);
    });
  });
}

test("reads that overlap each other at equal distances are no stride", () => {
  const { prefetched, read } = policyOf();
  for (let at = 0; at < 10; at++) read(500 * MIB + at * 1000, 4096);
  assert.equal(prefetched.length, 0);
});

test("a strided reader that leaves some out is still in its stream", () => {
  const { policy, prefetched, dropped, read, sum } = policyOf();
  for (const at of [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 14]) read(at * 3 * MIB + MIB, 16 * KIB);
  const offsets = prefetched.map(([offset]) => offset);
  assert.deepEqual(
    offsets,
    offsets.map((_, at) => (at + 3) * 3 * MIB + MIB),
    "one row without a gap or a repetition",
  );
  assert.equal(sum(prefetched) - sum(dropped), policy.heldBytes);
});

test("random reads prefetch nothing", (t) => {
  fc.assert(
    fc.property(fc.array(fc.nat({ max: 200_000 }), { minLength: 20, maxLength: 60 }), (pages) => {
      const { prefetched, read } = policyOf();
      // Odd multiples with random gaps: no two reads touch, and equal distances are left out.
      let last = -1;
      let step = 0;
      for (const page of new Set(pages)) {
        if (page - last === step || page === 0) continue;
        step = page - last;
        last = page;
        read((page * 2 + 1) * 4096 + (page % 7) * 131, 1000);
      }
      assert(prefetched.length <= 1, `${prefetched}`);
    }),
    seeded(t, 300),
  );
});

test("when the pattern ends nothing more is fetched, and what was is dropped when others take the stream's place", () => {
  const { policy, prefetched, dropped, read, sum } = policyOf();
  for (let at = 0; at < 100; at++) read(at * 128 * KIB, 128 * KIB, at);
  const count = prefetched.length;
  assert(policy.heldBytes > 10 * MIB);
  const elsewhere = [700.1, 300.7, 900.3, 111.9, 555.5].map((mib) => Math.floor(mib * MIB));
  for (const [at, offset] of elsewhere.entries()) read(offset, 4 * KIB, 200 + at);
  assert.equal(prefetched.length, count);
  assert.equal(policy.heldBytes, 0);
  assert.equal(sum(dropped), sum(prefetched));
});

test("a stream that nobody continues is dropped after a while, and its open goes on", () => {
  const { policy, read } = policyOf();
  for (let at = 0; at < 100; at++) read(at * 128 * KIB, 128 * KIB, at);
  policy.expire(10_098);
  assert(policy.heldBytes > 0);
  policy.expire(10_099);
  policy.checkInvariants();
  assert.equal(policy.heldBytes, 0);
  for (let at = 100; at < 110; at++) read(at * 128 * KIB, 128 * KIB, 20_000);
  assert(policy.heldBytes > 0);
});

test("requests that overtake each other are one stream", () => {
  const { prefetched, read } = policyOf();
  for (let at = 0; at < 400; at += 4) for (const lead of [0, 2, 1, 3]) read((at + lead) * 128 * KIB, 128 * KIB);
  let end = 0;
  for (const [offset, length] of prefetched) {
    assert(offset >= end);
    end = offset + length;
  }
  assert(end >= 80 * MIB);
});

test("several streams of one open are each read ahead", () => {
  const { prefetched, read } = policyOf();
  for (let at = 0; at < 60; at++) for (const base of [1, 300, 700]) read(base * MIB + at * 128 * KIB, 128 * KIB, at);
  for (const base of [1, 300, 700]) {
    const mine = prefetched.filter(([offset]) => offset >= base * MIB && offset < (base + 200) * MIB);
    const bytes = mine.reduce((sum, [, length]) => sum + length, 0);
    assert(bytes > 15 * MIB, `stream at ${base} MiB: ${bytes}`);
  }
});

test("the opens of a mount share its budget, and the last one finds something too", () => {
  const budget = new ReadAheadBudget(32 * MIB);
  const opens = Array.from({ length: 6 }, () => {
    const sink = { prefetch() {}, drop() {} };
    return new ReadAheadPolicy(budget, sink, { ...OPTIONS, unitBytes: 256 * KIB });
  });
  // One after the other reads far enough to take all it can get.
  for (const open of opens) {
    for (let at = 0; at < 400; at++) {
      open.onRead(at * 64 * KIB, 64 * KIB, at, FILE, 64 * MIB);
      open.checkInvariants();
    }
    assert(budget.usedBytes <= 32 * MIB);
  }
  for (const open of opens) assert(open.heldBytes >= 256 * KIB, `${opens.map((each) => each.heldBytes)}`);
  for (const open of opens) open.close();
  assert.equal(budget.usedBytes, 0);
});

test("after a change of the file all that was prefetched is dropped, and reading on fetches anew from there", () => {
  const { policy, prefetched, dropped, read, sum } = policyOf();
  for (let at = 0; at < 50; at++) read(at * 128 * KIB, 128 * KIB);
  policy.invalidate();
  policy.checkInvariants();
  assert.equal(policy.heldBytes, 0);
  assert.equal(sum(dropped), sum(prefetched));
  prefetched.length = 0;
  read(50 * 128 * KIB, 128 * KIB);
  assert.equal(prefetched[0]?.[0], 51 * 128 * KIB);
});

test("whatever is read, every prefetched byte is in the file and dropped exactly once, within the budget", (t) => {
  const fileBytes = 600;
  const jump = fc.record({
    op: fc.constant("jump" as const),
    at: fc.nat(fileBytes - 1),
    length: fc.integer({ min: 1, max: 20 }),
  });
  const walk = fc.record({
    op: fc.constant("walk" as const),
    step: fc.integer({ min: -30, max: 30 }),
    times: fc.nat(12),
  });
  const resize = fc.record({ op: fc.constant("resize" as const), fileBytes: fc.nat(fileBytes) });
  const other = fc.record({
    op: fc.constantFrom("on" as const, "back" as const, "expire" as const, "invalidate" as const),
  });
  let most = 0;
  fc.assert(
    fc.property(
      fc.array(fc.oneof(jump, walk, other, other, resize), { minLength: 10, maxLength: 80 }),
      fc.integer({ min: 1, max: 16 }),
      (steps, unitBytes) => {
        const held = new Int8Array(fileBytes);
        let knownBytes = fileBytes;
        const budget = new ReadAheadBudget(120);
        const change = (by: number) => (offset: number, length: number) => {
          assert(length > 0 && offset >= 0 && offset + length <= fileBytes, `${offset} + ${length}`);
          for (let at = offset; at < offset + length; at++) {
            held[at] = (held[at] ?? 0) + by;
            assert((held[at] ?? 0) >= 0, "dropped once");
          }
        };
        const prefetch = (offset: number, length: number) => {
          assert(offset + length <= knownBytes, "nothing behind the end of the file");
          change(1)(offset, length);
        };
        const sink = { prefetch, drop: change(-1) };
        const policy = new ReadAheadPolicy(budget, sink, { unitBytes, windowBytesMin: 8, idleMs: 5 });
        let offset = 0;
        let length = 5;
        steps.forEach((step, nowMs) => {
          const read = () => {
            if (offset < 0 || offset >= fileBytes) return;
            policy.onRead(offset, Math.min(length, fileBytes - offset), nowMs, knownBytes, 100);
            policy.checkInvariants();
            const total = held.reduce((sum, count) => sum + count, 0);
            assert.equal(total, policy.heldBytes);
            assert.equal(total, budget.usedBytes);
            most = Math.max(most, total);
          };
          if (step.op === "resize") knownBytes = step.fileBytes;
          else if (step.op === "jump") {
            ({ at: offset, length } = step);
            read();
          } else if (step.op === "walk") {
            for (let time = 0; time < step.times; time++) {
              offset += step.step;
              read();
            }
          } else if (step.op === "on" || step.op === "back") {
            offset += step.op === "on" ? length : -length;
            read();
          } else if (step.op === "expire") policy.expire(nowMs);
          else policy.invalidate();
        });
        policy.close();
        assert(held.every((count) => count === 0));
        assert.equal(budget.usedBytes, 0);
      },
    ),
    seeded(t, 3000),
  );
  t.diagnostic(`at most ${most} of 120 bytes held`);
  assert(most > 80, "the runs were far enough ahead to prove something");
});

/** Reads a file from start to end, `lengthBytes` at a time, over a line. @returns the time it took. */
function readWhole(line: SimulatedLine, fileBytes: number, lengthBytes: number): number {
  const section = 512 * KIB;
  const { roundTripMs } = line;
  const window = new CreditWindow({ credits: 512, bytes: 256 * MIB, bytesMin: 2 * MIB, waitersMax: 4, roundTripMs });
  const there = new Set<number>();
  const asked = new Set<number>();
  let queue: number[] = [];
  const send = (index: number, priority: RequestPriority): boolean => {
    const credit = window.tryAcquire(section, priority, line.nowMs);
    if (credit === -1) return false;
    line.send(section, () => {
      window.release(credit, line.nowMs);
      there.add(index);
    });
    return true;
  };
  const sink = {
    prefetch(offset: number, length: number) {
      for (let index = Math.floor(offset / section); index * section < offset + length; index++) {
        if (!asked.has(index)) queue.push(index);
        asked.add(index);
      }
    },
    drop() {},
  };
  const budget = new ReadAheadBudget(256 * MIB);
  const policy = new ReadAheadPolicy(budget, sink, { ...OPTIONS, unitBytes: section });
  for (let offset = 0; offset < fileBytes; offset += lengthBytes) {
    const index = Math.floor(offset / section);
    if (!asked.has(index)) {
      asked.add(index);
      assert(send(index, RequestPriority.FOREGROUND), "a foreground read finds a credit at once");
    }
    policy.onRead(offset, lengthBytes, line.nowMs, fileBytes, 2 * window.lineBytes);
    const pump = () => {
      while (queue.length > 0 && send(queue[0] as number, RequestPriority.READ_AHEAD)) queue.shift();
    };
    pump();
    while (!there.has(index)) {
      assert(line.step());
      pump();
    }
  }
  queue = [];
  return line.nowMs;
}

for (const [roundTripMs, lengthKib, most] of [
  [50, 1024, 1.3],
  [50, 128, 2.3],
  [150, 1024, 1.2],
  [150, 128, 2.2],
] as const) {
  test(`a program reading 512 MiB, ${lengthKib} KiB at a time, over 1 Gbit/s and ${roundTripMs} ms loses ${most} round trips`, (t) => {
    const line = new SimulatedLine({ roundTripMs, bytesPerMs: 125_000 });
    const bytes = 512 * MIB;
    const tookMs = readWhole(line, bytes, lengthKib * KIB);
    const lost = (tookMs - bytes / 125_000) / roundTripMs;
    t.diagnostic(`${lost.toFixed(2)} round trips lost, the first answer's included`);
    assert(lost < most, `${lost}`);
  });
}
