/** Credits: counted, bounded, handed out in order, and not held up by requests that hang; against a naive line of waiters. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { CreditWaiter, CreditWindow } from "../../src/sections/credit-window.ts";
import { RequestPriority } from "../../src/vfs/file-system.ts";
import { seeded } from "../support/seed.ts";
import { SimulatedLine, saturate } from "../support/simulated-line.ts";

const { FOREGROUND, WRITE_BEHIND, READ_AHEAD } = RequestPriority;
const MIB = 2 ** 20;

function small(options: Partial<ConstructorParameters<typeof CreditWindow>[0]> = {}): CreditWindow {
  return new CreditWindow({
    credits: 2,
    bytes: 1000,
    bytesMin: 1000,
    waitersMax: 8,
    creditsMax: 16,
    ...options,
  });
}

test("there are as many credits as the server granted, and each comes back once", () => {
  const window = small();
  const first = window.tryAcquire(10, FOREGROUND, 0);
  const second = window.tryAcquire(10, FOREGROUND, 0);
  assert(first >= 0 && second >= 0 && first !== second);
  assert.equal(window.tryAcquire(10, FOREGROUND, 0), -1);
  window.release(first, 5);
  assert.throws(() => window.release(first, 5), { name: "AssertionError" });
  assert.throws(() => window.abandon(first, 5), { name: "AssertionError" });
  window.checkInvariants();
  assert(window.tryAcquire(10, FOREGROUND, 5) >= 0);
  assert.equal(window.held, 2);
});

test("bytes on their way stay within the window, but a request larger than it goes alone", () => {
  const window = small({ credits: 8 });
  const first = window.tryAcquire(600, FOREGROUND, 0);
  assert.equal(window.tryAcquire(401, FOREGROUND, 0), -1);
  const second = window.tryAcquire(400, FOREGROUND, 0);
  assert.equal(window.inFlightBytes, 1000);
  assert.equal(window.tryAcquire(5000, FOREGROUND, 0), -1);
  window.release(first, 1);
  window.release(second, 1);
  assert(window.tryAcquire(5000, FOREGROUND, 1) >= 0);
  assert.equal(window.tryAcquire(1, FOREGROUND, 1), -1);
  window.checkInvariants();
});

test("waiters of one priority are served first come, first served, and nobody passes them", () => {
  const window = small({ credits: 1 });
  const served: string[] = [];
  const held: number[] = [window.tryAcquire(10, FOREGROUND, 0)];
  const waiter = (name: string, bytes: number) => {
    const each = new CreditWaiter(FOREGROUND, (credit) => {
      served.push(name);
      held.push(credit);
    });
    each.bytes = bytes;
    return each;
  };
  for (const each of [waiter("a", 1000), waiter("b", 1), waiter("c", 1)]) assert.equal(window.wait(each, 0), true);
  assert.equal(window.tryAcquire(1, FOREGROUND, 0), -1);
  for (const expected of [["a"], ["a", "b"], ["a", "b", "c"]]) {
    window.release(held.shift() as number, 1);
    assert.deepEqual(served, expected);
    window.checkInvariants();
  }
});

test("a foreground request goes before write-behind, and that before read-ahead", () => {
  const window = small({ credits: 1 });
  const served: number[] = [];
  const held: number[] = [window.tryAcquire(10, READ_AHEAD, 0)];
  for (const priority of [READ_AHEAD, WRITE_BEHIND, FOREGROUND, READ_AHEAD, FOREGROUND]) {
    const waiter = new CreditWaiter(priority, (credit) => {
      served.push(priority);
      held.push(credit);
    });
    assert(window.wait(waiter, 0));
  }
  while (held.length > 0) window.release(held.shift() as number, 1);
  assert.deepEqual(served, [FOREGROUND, FOREGROUND, WRITE_BEHIND, READ_AHEAD, READ_AHEAD]);
  window.checkInvariants();
});

test("read-ahead and write-behind leave an eighth of the window, and a foreground request takes it at once", () => {
  const window = small({ credits: 16, bytes: 1600, bytesMin: 1600 });
  let background = 0;
  while (window.tryAcquire(100, background % 2 ? READ_AHEAD : WRITE_BEHIND, 0) >= 0) background++;
  assert.equal(background, 14);
  assert(window.tryAcquire(100, FOREGROUND, 0) >= 0);
  assert(window.tryAcquire(100, FOREGROUND, 0) >= 0);
  assert.equal(window.tryAcquire(100, FOREGROUND, 0), -1);
});

test("a single credit is enough for every priority", () => {
  for (const priority of [FOREGROUND, WRITE_BEHIND, READ_AHEAD]) {
    const window = small({ credits: 1, bytes: 1, bytesMin: 1 });
    const credit = window.tryAcquire(100, priority, 0);
    assert(credit >= 0);
    window.release(credit, 1);
  }
});

test("transfers that line up again after each section share the window evenly", () => {
  const window = small({ credits: 3, waitersMax: 3 });
  const sent = [0, 0, 0];
  const held: number[] = [];
  const waiters = sent.map((_, at) => {
    const waiter: CreditWaiter = new CreditWaiter(FOREGROUND, (credit, nowMs) => {
      sent[at] = (sent[at] ?? 0) + 1;
      held.push(credit);
      // Tries to go on at once; the others stand in line, so it has to line up again.
      const more = window.tryAcquire(10, FOREGROUND, nowMs);
      if (more >= 0) window.abandon(more, nowMs);
      assert.equal(window.wait(waiter, nowMs), true);
    });
    waiter.bytes = 10;
    return waiter;
  });
  for (const waiter of waiters) window.wait(waiter, 0);
  for (let round = 0; round < 300; round++) {
    window.release(held.shift() as number, round);
    window.checkInvariants();
  }
  assert(Math.max(...sent) - Math.min(...sent) <= 3, `shares: ${sent}`);
});

test("a waiter that lines up again from inside its turn gets the next turn after it, not within it", () => {
  const window = small({ credits: 16 });
  let inside = 0;
  let turns = 0;
  const waiter: CreditWaiter = new CreditWaiter(FOREGROUND, (_, nowMs) => {
    assert.equal(inside++, 0);
    turns++;
    window.wait(waiter, nowMs);
    inside--;
  });
  window.wait(waiter, 0);
  assert.equal(turns, 16);
});

test("the line of waiters is bounded, and a refused waiter stands in no line", () => {
  const window = small({ credits: 0, waitersMax: 2 });
  const waiters = [1, 2, 3].map(() => new CreditWaiter(FOREGROUND, () => assert.fail("no credit was granted")));
  assert.deepEqual(
    waiters.map((waiter) => window.wait(waiter, 0)),
    [true, true, false],
  );
  assert.deepEqual(
    waiters.map((waiter) => window.cancel(waiter, 0)),
    [true, true, false],
  );
  assert.equal(window.figures.waiters, 0);
  window.checkInvariants();
});

test("cancelling the first in line lets those behind it go", () => {
  const window = small({ credits: 4 });
  window.tryAcquire(600, FOREGROUND, 0);
  let served = 0;
  const large = new CreditWaiter(FOREGROUND, () => assert.fail("there was no room"));
  large.bytes = 900;
  const tiny = new CreditWaiter(FOREGROUND, () => served++);
  tiny.bytes = 10;
  window.wait(large, 0);
  window.wait(tiny, 0);
  assert.equal(served, 0);
  window.cancel(large, 0);
  assert.equal(served, 1);
  window.checkInvariants();
});

test("a grant of zero stops all sending, and the next grant lets the line go", () => {
  const window = small();
  const held = [window.tryAcquire(10, FOREGROUND, 0)];
  window.grant(0, 1000, 1);
  let served = 0;
  window.wait(new CreditWaiter(FOREGROUND, () => served++), 1);
  window.release(held[0] as number, 2);
  assert.equal(served, 0);
  window.grant(1, 1000, 3);
  assert.equal(served, 1);
  // A grant beyond what was set aside is cut to it.
  window.grant(1e9, 1e9, 4);
  assert.equal(window.figures.creditsLimit, 16);
  window.checkInvariants();
});

type Op =
  | { op: "try"; bytes: number; priority: RequestPriority }
  | { op: "wait"; bytes: number; priority: RequestPriority }
  | { op: "cancel"; pick: number }
  | { op: "release"; pick: number }
  | { op: "abandon"; pick: number }
  | { op: "grant"; credits: number; bytes: number }
  | { op: "forget" };

test("no order of steps loses, doubles or oversteps credits, and the line is served as a naive one", (t) => {
  const priority = fc.constantFrom(FOREGROUND, WRITE_BEHIND, READ_AHEAD);
  const bytes = fc.nat({ max: 700 });
  const op: fc.Arbitrary<Op> = fc.oneof(
    fc.record({ op: fc.constant("try" as const), bytes, priority }),
    fc.record({ op: fc.constant("wait" as const), bytes, priority }),
    fc.record({ op: fc.constant("release" as const), pick: fc.nat() }),
    fc.record({ op: fc.constant("abandon" as const), pick: fc.nat() }),
    fc.record({ op: fc.constant("cancel" as const), pick: fc.nat() }),
    fc.record({ op: fc.constant("grant" as const), credits: fc.nat({ max: 20 }), bytes: fc.nat({ max: 3000 }) }),
    fc.record({ op: fc.constant("forget" as const) }),
  );
  fc.assert(
    fc.property(fc.array(op, { maxLength: 80 }), (ops) => {
      const window = small({ credits: 4, bytesMin: 300, waitersMax: 5 });
      const held: number[] = [];
      // The naive line: all waiters by arrival; the next to be served is the first of the highest priority.
      let line: CreditWaiter[] = [];
      let nowMs = 0;
      const expectServed = (waiter: CreditWaiter) => {
        const best = Math.min(...line.map((each) => each.priority));
        assert.equal(
          line.find((each) => each.priority === best),
          waiter,
        );
        line = line.filter((each) => each !== waiter);
      };
      for (const each of ops) {
        nowMs += 1;
        if (each.op === "try") {
          const credit = window.tryAcquire(each.bytes, each.priority, nowMs);
          if (credit >= 0) {
            assert(
              line.every((waiter) => waiter.priority > each.priority),
              "nobody is passed",
            );
            held.push(credit);
          }
        } else if (each.op === "wait") {
          const waiter: CreditWaiter = new CreditWaiter(each.priority, (credit) => {
            expectServed(waiter);
            held.push(credit);
          });
          waiter.bytes = each.bytes;
          line.push(waiter);
          const room = line.length <= 5;
          assert.equal(window.wait(waiter, nowMs), room);
          if (!room) line.pop();
        } else if (each.op === "grant") window.grant(each.credits, each.bytes, nowMs);
        else if (each.op === "forget") window.forgetLine();
        else if (each.op === "cancel") {
          const waiter = line[each.pick % Math.max(line.length, 1)];
          if (waiter === undefined) continue;
          line = line.filter((other) => other !== waiter);
          assert.equal(window.cancel(waiter, nowMs), true);
        } else {
          const [credit] = held.splice(each.pick % Math.max(held.length, 1), 1);
          if (credit !== undefined) window[each.op](credit, nowMs);
        }
        assert.equal(new Set(held).size, held.length, "no credit is held twice");
        assert.equal(window.held, held.length);
        assert.equal(window.figures.waiters, line.length);
        window.checkInvariants();
      }
      for (const waiter of line.slice()) {
        line = line.filter((other) => other !== waiter);
        window.cancel(waiter, nowMs);
      }
      for (let credit = held.pop(); credit !== undefined; credit = held.pop()) window.release(credit, nowMs);
      window.checkInvariants();
      assert.equal(window.held, 0);
      assert.equal(window.inFlightBytes, 0);
    }),
    seeded(t, 1500),
  );
});

for (const [name, roundTripMs, bytesMin] of [
  ["a short line", 0.1, 2 * MIB],
  ["a long line", 50, 2 * MIB],
  ["a window that does not adapt", 0.1, 64 * MIB],
] as const) {
  test(`requests that hang in the server for a minute do not hold up the others: ${name}`, () => {
    const line = new SimulatedLine({ roundTripMs, bytesPerMs: 125_000 });
    const window = new CreditWindow({ credits: 256, bytes: 64 * MIB, bytesMin, waitersMax: 4 });
    const hanging: number[] = [];
    let answeredBytes = 0;
    // One hangs every five seconds, also just before, in and after the times at which the round trip is measured anew.
    for (let untilMs = 5_000; untilMs <= 60_000; untilMs += 4_999) {
      const credit = window.tryAcquire(65_536, FOREGROUND, line.nowMs);
      assert(credit >= 0);
      hanging.push(credit);
      const before = line.nowMs;
      const bytes = saturate(line, window, { sectionBytes: 512 * 1024, untilMs });
      answeredBytes += bytes;
      if (bytesMin === 64 * MIB) assert.equal(window.windowBytes, 64 * MIB);
      assert(bytes > 0.6 * (line.nowMs - before) * 125_000, `${bytes / (line.nowMs - before)} bytes per ms`);
    }
    assert(answeredBytes > 0.85 * line.nowMs * 125_000);
    for (const credit of hanging) window.release(credit, line.nowMs);
    window.checkInvariants();
    assert.equal(window.held, 0);
  });
}

test("when all that is on its way hangs, one request more goes each second, and the first answer frees the line", () => {
  const window = small({ credits: 16, bytes: 2000, bytesMin: 1000 });
  const hanging = Array.from({ length: 10 }, () => window.tryAcquire(100, FOREGROUND, 0));
  const served: number[] = [];
  const waiters = Array.from({ length: 4 }, () => new CreditWaiter(FOREGROUND, (credit) => served.push(credit)));
  for (const waiter of waiters) {
    waiter.bytes = 100;
    window.wait(waiter, 1);
  }
  const counts = [999, 1000, 1500, 1999, 2000].map((nowMs) => {
    window.tick(nowMs);
    window.checkInvariants();
    return served.length;
  });
  assert.deepEqual(counts, [0, 1, 1, 1, 2]);
  window.release(served[0] as number, 2001);
  window.checkInvariants();
  assert.equal(served.length, 4, "the ten are known to hang, so all others go");
  assert.equal(window.inFlightBytes, 1300, "what hangs still counts for the server");
  for (const credit of [...hanging, ...served.slice(1)]) window.release(credit, 3000);
  window.checkInvariants();
});

test("a new request notices that the line has stood still, and lets the first waiter go before it", () => {
  const window = small({ credits: 16, bytes: 2000 });
  window.tryAcquire(1000, FOREGROUND, 0);
  let served = 0;
  const waiter = new CreditWaiter(FOREGROUND, () => served++);
  waiter.bytes = 500;
  window.wait(waiter, 1);
  assert.equal(window.tryAcquire(10, FOREGROUND, 999), -1);
  assert.equal(served, 0);
  assert.equal(window.tryAcquire(10, FOREGROUND, 1000), -1);
  assert.equal(served, 1);
});

test("an answer that came long after its successors' teaches nothing", () => {
  const window = new CreditWindow({ credits: 16, bytes: 1e9, bytesMin: 1e4, waitersMax: 1, creditsMax: 16 });
  const hanging = window.tryAcquire(1e8, FOREGROUND, 0);
  let nowMs = 1000;
  const exchange = () => {
    const credit = window.tryAcquire(1000, FOREGROUND, nowMs);
    nowMs += 10;
    window.release(credit, nowMs);
  };
  for (let turn = 0; turn < 20; turn++) exchange();
  assert.equal(window.figures.bytesPerSecond, 100_000);
  window.release(hanging, nowMs - 5);
  exchange();
  assert.equal(window.figures.bytesPerSecond, 100_000);
});

test("requests that hang never make more than the server granted", () => {
  const window = small({ credits: 5, bytes: 1000, bytesMin: 300 });
  let most = 0;
  for (let nowMs = 0; nowMs < 100_000; nowMs += 1000) {
    window.tryAcquire(300, FOREGROUND, nowMs);
    window.checkInvariants();
    most = Math.max(most, window.inFlightBytes);
  }
  assert.equal(most, 900);
});
