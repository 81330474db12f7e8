/** Runs: the file after any arrival order equals the one after writing each section as it came, with fewer writes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { RunMerge, type WriteRun } from "../../src/sections/run-merge.ts";
import { seeded } from "../support/seed.ts";

const LIMITS = { runBytesMax: 100, runSectionsMax: 8, runsMax: 6, heldBytesMax: 400 };

const section = (lengthBytes: number, fill = 1) => Buffer.alloc(lengthBytes, fill);

/** Takes and finishes all runs. @returns [offset, length, sections] of each. */
function flush<T>(merge: RunMerge<T>): [number, number, number][] {
  const runs: [number, number, number][] = [];
  for (let run = merge.take(true); run !== undefined; run = merge.take(true)) {
    runs.push([run.offsetBytes, run.lengthBytes, run.buffers.length]);
    merge.finished(run);
    merge.checkInvariants();
  }
  return runs;
}

test("adjacent sections become one write, in whatever order they come", (t) => {
  fc.assert(
    fc.property(fc.shuffledSubarray([0, 1, 2, 3, 4, 5, 6, 7], { minLength: 8 }), (order) => {
      const merge = new RunMerge<number>(LIMITS);
      for (const index of order) assert.equal(merge.add(500 + index * 10, section(10, index), index), true);
      merge.checkInvariants();
      const run = merge.take(true) as WriteRun<number>;
      assert.deepEqual([run.offsetBytes, run.lengthBytes], [500, 80]);
      assert.deepEqual(run.tokens, [0, 1, 2, 3, 4, 5, 6, 7]);
      assert.deepEqual(
        run.buffers.map((buffer) => buffer[0]),
        [0, 1, 2, 3, 4, 5, 6, 7],
      );
      merge.finished(run);
      assert.equal(merge.idle, true);
    }),
    seeded(t, 300),
  );
});

test("a run is full at its bytes or its sections, and the next section starts another", () => {
  const bytes = new RunMerge<number>(LIMITS);
  for (let index = 0; index < 5; index++) bytes.add(index * 40, section(40), index);
  assert.deepEqual(flush(bytes), [
    [0, 80, 2],
    [80, 80, 2],
    [160, 40, 1],
  ]);
  const sections = new RunMerge<number>(LIMITS);
  for (let index = 0; index < 9; index++) sections.add(index, section(1), index);
  assert.deepEqual(flush(sections), [
    [0, 8, 8],
    [8, 1, 1],
  ]);
});

test("an overlapping section is written after the earlier one, never with it", () => {
  const merge = new RunMerge<string>(LIMITS);
  merge.add(0, section(20), "old");
  merge.add(10, section(20), "new");
  const old = merge.take(true) as WriteRun<string>;
  assert.deepEqual(old.tokens, ["old"]);
  assert.equal(merge.take(true), undefined);
  merge.finished(old);
  assert.deepEqual(merge.take(true)?.tokens, ["new"]);
});

test("what continues a run being written stays until it is full, that one is finished, or all are wanted", () => {
  for (const way of ["full", "finished", "wanted", "before"]) {
    const merge = new RunMerge<number>(LIMITS);
    merge.add(100, section(10), 0);
    const writing = merge.take(false) as WriteRun<number>;
    assert.deepEqual(writing.tokens, [0], "what continues nothing need not stay");
    if (way === "before") merge.add(90, section(10), 1);
    else merge.add(110, section(10), 1);
    assert.equal(merge.take(false), undefined);
    if (way === "full") merge.add(120, section(90), 2);
    else if (way === "finished" || way === "before") merge.finished(writing);
    assert.equal(merge.take(way === "wanted")?.tokens[0], 1);
  }
});

test("a run goes past a waiting one that it does not overlap", () => {
  const merge = new RunMerge<string>(LIMITS);
  merge.add(0, section(10), "old");
  const old = merge.take(true) as WriteRun<string>;
  merge.add(5, section(10), "new");
  merge.add(50, section(10), "other");
  assert.deepEqual(merge.take(true)?.tokens, ["other"]);
  assert.equal(merge.take(true), undefined);
  merge.finished(old);
  assert.deepEqual(merge.take(true)?.tokens, ["new"]);
});

test("beyond the bytes or the runs held nothing is accepted, but a single large section always is", () => {
  const merge = new RunMerge<number>(LIMITS);
  assert.equal(merge.add(0, section(1000), 0), true);
  assert.equal(merge.add(1000, section(1), 1), false);
  const large = merge.take(true) as WriteRun<number>;
  assert.equal(merge.add(1000, section(1), 1), false, "what is being written is held as well");
  merge.finished(large);
  for (let index = 0; index < 6; index++) assert.equal(merge.add(index * 20, section(10), index), true);
  assert.equal(merge.add(500, section(10), 6), false, "a seventh run");
  assert.equal(merge.add(10, section(10), 7), true, "but it may join");
  merge.checkInvariants();
});

test("a short write is shared out by the order of the file", () => {
  const merge = new RunMerge<string>(LIMITS);
  for (const [index, token] of ["a", "b", "c"].entries()) merge.add(index * 10, section(10), token);
  const run = merge.take(true) as WriteRun<string>;
  const shares: [string, number, number][] = [];
  run.settle(13, (token, written, length) => shares.push([token, written, length]));
  assert.deepEqual(shares, [
    ["a", 10, 10],
    ["b", 3, 10],
    ["c", 0, 10],
  ]);
});

test("a section that is withdrawn leaves what lies before it and behind it, in its place", () => {
  for (let gone = 0; gone < 4; gone++) {
    const merge = new RunMerge<number | string>(LIMITS);
    for (let index = 0; index < 4; index++) merge.add(index * 10, section(10), index);
    merge.add(5, section(30), "later");
    assert.equal(merge.withdraw(gone), true);
    merge.checkInvariants();
    assert.equal(merge.withdraw(gone), false, "once");
    assert.equal(merge.heldBytes, 60);
    const lengths = [gone * 10, 30 - gone * 10].filter((length) => length > 0);
    const first = lengths.map(() => merge.take(true) as WriteRun<number | string>);
    assert.deepEqual(
      first.flatMap(({ tokens }) => tokens),
      [0, 1, 2, 3].filter((index) => index !== gone),
    );
    assert.deepEqual(
      first.map(({ lengthBytes }) => lengthBytes),
      lengths,
    );
    assert.equal(merge.take(true), undefined, "what overlaps still goes last");
    for (const run of first) merge.finished(run);
    assert.deepEqual(flush(merge), [[5, 30, 1]]);
    assert.equal(merge.idle, true);
  }
});

test("a section stays where its run is taken, or would become one more than there may be", () => {
  const merge = new RunMerge<number>(LIMITS);
  for (let index = 0; index < 6; index++) merge.add(index * 40, section(10), index * 10);
  const taken = merge.take(true) as WriteRun<number>;
  assert.deepEqual(taken.tokens, [0]);
  assert.equal(merge.withdraw(0), false);
  for (const index of [1, 2]) merge.add(40 + index * 10, section(10), 10 + index);
  assert.equal(merge.withdraw(11), false);
  assert.equal(merge.withdraw(12), true);
  merge.finished(taken);
  merge.checkInvariants();
  assert.equal(merge.heldBytes, 60);
});

type Step =
  | { op: "add"; at: number; length: number }
  | { op: "withdraw" | "finish"; pick: number }
  | { op: "take"; all: boolean };

test("random sections, overlapping or not, leave the file that writing them one by one leaves", (t) => {
  const step: fc.Arbitrary<Step> = fc.oneof(
    {
      weight: 5,
      arbitrary: fc.record({
        op: fc.constant("add" as const),
        at: fc.nat(14).map((block) => block * 10),
        length: fc.constantFrom(10, 10, 10, 10, 20, 7, 13),
      }),
    },
    { weight: 1, arbitrary: fc.record({ op: fc.constant("take" as const), all: fc.boolean() }) },
    { weight: 2, arbitrary: fc.record({ op: fc.constant("finish" as const), pick: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ op: fc.constant("withdraw" as const), pick: fc.nat() }) },
  );
  let added = 0;
  let written = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 30, maxLength: 100 }), (steps) => {
      const merge = new RunMerge<number>({ ...LIMITS, heldBytesMax: 300 });
      const sections: { at: number; data: Buffer; fill: number }[] = [];
      const withdrawn = new Set<number>();
      const file = Buffer.alloc(200);
      const out: WriteRun<number>[] = [];
      const settled = new Set<number>();
      const finish = (at: number) => {
        const [run] = out.splice(at, 1);
        if (run === undefined) return;
        // Written only now: a run that was wrongly let past this one has been written already.
        Buffer.concat(run.buffers).copy(file, run.offsetBytes);
        run.settle(run.lengthBytes, (token) => {
          assert(!settled.has(token), "each section is settled once");
          settled.add(token);
        });
        merge.finished(run);
        written++;
      };
      const take = (all: boolean) => {
        const run = merge.take(all);
        if (run !== undefined) out.push(run);
        return run !== undefined;
      };
      for (const each of steps) {
        if (each.op === "add") {
          const fill = (sections.length % 254) + 1;
          const data = section(each.length, fill);
          if (!merge.add(each.at, data, sections.length)) continue;
          sections.push({ at: each.at, data, fill });
          added++;
        } else if (each.op === "withdraw") {
          const token = each.pick % Math.max(sections.length, 1);
          if (!merge.withdraw(token)) continue;
          withdrawn.add(token);
          // It is another's now.
          sections[token]?.data.fill(0xff);
        } else if (each.op === "take") take(each.all);
        else finish(each.pick % Math.max(out.length, 1));
        merge.checkInvariants();
      }
      while (!merge.idle) {
        while (take(true)) merge.checkInvariants();
        finish(out.length - 1);
      }
      const expected = Buffer.alloc(200);
      sections.forEach(({ at, data, fill }, token) => {
        if (!withdrawn.has(token)) expected.fill(fill, at, at + data.length);
      });
      assert(file.equals(expected));
      assert.equal(settled.size + withdrawn.size, sections.length);
    }),
    seeded(t, 2000),
  );
  t.diagnostic(`${added} sections in ${written} writes`);
  assert(written < 0.8 * added, "sections are joined");
});
