/** The log of unsent writes against a model: a byte array to which every write is applied at once. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { DirtyLog, type DirtySection } from "../../src/cache/dirty-log.ts";
import { SectionMemory } from "../../src/cache/section-memory.ts";
import { FakeClock } from "../support/fake-clock.ts";

const SECTION = 64;

function takeAll(log: DirtyLog, parts: boolean): DirtySection[] {
  const taken: DirtySection[] = [];
  for (let section = log.take(parts); section !== undefined; section = log.take(parts)) taken.push(section);
  return taken;
}

describe("the log of unsent writes", () => {
  it("joins a stream of small writes into full sections that end at section boundaries", () => {
    const log = new DirtyLog(new SectionMemory(SECTION, 4, new FakeClock()));
    for (let at = 10; at < 10 + 3 * SECTION; at += 6) log.append(at, Buffer.alloc(6, at));
    const taken = takeAll(log, false);
    assert.deepEqual(
      taken.map(({ offsetBytes, data }) => [offsetBytes, data.length]),
      [
        [10, 54],
        [64, 64],
        [128, 64],
      ],
    );
    assert.equal(log.hasPart, true);
    assert.deepEqual(
      takeAll(log, true).map(({ offsetBytes, data }) => [offsetBytes, data.length]),
      [[192, 10]],
    );
  });

  it("rewrites what has not left yet, and holds back what overlaps something on its way", () => {
    const log = new DirtyLog(new SectionMemory(SECTION, 4, new FakeClock()));
    log.append(0, Buffer.alloc(8, 1));
    log.append(2, Buffer.alloc(2, 2));
    const first = log.take(true) as DirtySection;
    assert.deepEqual([...first.data], [1, 1, 2, 2, 1, 1, 1, 1]);
    log.append(4, Buffer.alloc(8, 3));
    assert.equal(log.take(true), undefined);
    assert.equal(log.overlaps(11, 1), true);
    assert.equal(log.overlaps(12, 1), false);
    log.settle(first);
    assert.equal(log.take(true)?.offsetBytes, 4);
  });

  it("keeps what is a whole section as it was lent, and copies everything else", () => {
    const log = new DirtyLog(new SectionMemory(SECTION, 4, new FakeClock()));
    const asked: number[] = [];
    const back: number[] = [];
    const lend = () => {
      const loan = asked.push(asked.length) - 1;
      return () => void back.push(loan);
    };
    const data = Buffer.alloc(10 + 2 * SECTION + 5, 7);
    log.append(SECTION - 10, data, lend);
    assert.deepEqual(asked, [0, 1], "for neither the piece before nor the one behind");
    const sections = takeAll(log, true);
    assert.deepEqual(
      sections.map((section) => [section.offsetBytes, section.data.length, section.data.buffer === data.buffer]),
      [
        [SECTION - 10, 10, false],
        [SECTION, SECTION, true],
        [2 * SECTION, SECTION, true],
        [3 * SECTION, 5, false],
      ],
    );
    assert.deepEqual(back, []);
    for (const section of [...sections].reverse()) log.settle(section);
    assert.deepEqual(back, [1, 0]);
  });

  it("leaves the file as if every write had been applied at once, whatever is written, taken and settled in between", () => {
    const step = fc.oneof(
      {
        weight: 6,
        arbitrary: fc.record({ at: fc.nat(300), length: fc.integer({ min: 1, max: 150 }), lends: fc.boolean() }),
      },
      { weight: 3, arbitrary: fc.constant("take" as const) },
      { weight: 1, arbitrary: fc.constant("take parts" as const) },
      { weight: 4, arbitrary: fc.record({ settle: fc.nat(20) }) },
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 80 }), (steps) => {
        const log = new DirtyLog(new SectionMemory(SECTION, 4, new FakeClock()));
        const model = Buffer.alloc(512);
        const server = Buffer.alloc(512);
        const onTheWay: DirtySection[] = [];
        let accepted = 0;
        let loans = 0;
        let value = 0;
        const take = (parts: boolean) => {
          const section = log.take(parts);
          if (section === undefined) return false;
          for (const other of onTheWay) {
            const apart =
              section.offsetBytes >= other.offsetBytes + other.data.length ||
              other.offsetBytes >= section.offsetBytes + section.data.length;
            assert.ok(apart, "sections on their way never overlap");
          }
          onTheWay.push(section);
          return true;
        };
        const settle = (index: number) => {
          const [section] = onTheWay.splice(index, 1);
          if (section === undefined) return;
          section.data.copy(server, section.offsetBytes);
          accepted -= section.acceptedBytes;
          log.settle(section);
        };
        for (const one of steps) {
          if (one === "take" || one === "take parts") take(one === "take parts");
          else if ("settle" in one) settle(one.settle % Math.max(1, onTheWay.length));
          else {
            value += 1;
            const data = Buffer.alloc(one.length, value);
            let isLent = false;
            const lend = () => {
              isLent = true;
              loans += 1;
              return () => {
                loans -= 1;
              };
            };
            log.append(one.at, data, one.lends ? lend : undefined);
            if (!isLent) data.fill(0xee);
            model.fill(value, one.at, one.at + one.length);
            accepted += one.length;
          }
        }
        while (!log.isEmpty) {
          while (take(true));
          assert.ok(onTheWay.length > 0, "something can always be sent");
          settle(onTheWay.length - 1);
        }
        assert.ok(server.equals(model));
        assert.equal(accepted, 0, "every accepted byte is given back");
        assert.equal(loans, 0, "and everything lent");
        assert.equal(log.oldestSequence, log.latestSequence + 1);
      }),
    );
  });
});
