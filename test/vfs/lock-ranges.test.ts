/** The ranges of one owner against a model that keeps every byte by itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { conflicts, type HeldType, LOCK_END, overlaps, WHOLE_FILE } from "../../src/vfs/lock.ts";
import { type HeldRange, type LockPiece, LockRanges, unionOf } from "../../src/vfs/lock-ranges.ts";
import { seeded } from "../support/seed.ts";

/** Bytes the model knows one by one; ranges to the end of the file reach the last of them. */
const BYTES = 24;

interface Cell {
  readonly type: HeldType;
  readonly through: string;
}

const range = fc
  .tuple(fc.nat({ max: BYTES - 1 }), fc.nat({ max: BYTES }))
  .map(([a, b]) => (b === BYTES ? [a, BYTES - 1] : a < b ? [a, b] : [b, a]) as [number, number])
  .map(([start, end]) => ({
    startBytes: BigInt(start),
    endBytes: end === BYTES - 1 ? LOCK_END : BigInt(end),
  }));
const type = fc.constantFrom<HeldType>("read", "write");
const step = fc.record({
  op: fc.constantFrom("set", "set", "clear", "through"),
  range,
  type,
  through: fc.constantFrom("a", "b"),
});

const lastOf = (endBytes: bigint) => (endBytes === LOCK_END ? BYTES - 1 : Number(endBytes));

/** What ranges say byte by byte. */
function cells(ranges: readonly HeldRange<string>[]): (Cell | undefined)[] {
  const found = new Array<Cell | undefined>(BYTES).fill(undefined);
  for (const { startBytes, endBytes, type, through } of ranges) {
    for (let at = Number(startBytes); at <= lastOf(endBytes); at += 1) found[at] = { type, through };
  }
  return found;
}

function checkPieces(
  pieces: readonly LockPiece[],
  within: { startBytes: bigint; endBytes: bigint },
  want: string[],
): void {
  let at = within.startBytes;
  for (const [index, piece] of pieces.entries()) {
    assert.equal(piece.startBytes, at, "pieces follow each other");
    assert.notEqual(piece.type, pieces[index + 1]?.type, "no two pieces are one");
    for (let byte = Number(at); byte <= lastOf(piece.endBytes); byte += 1) assert.equal(piece.type, want[byte]);
    at = piece.endBytes + 1n;
  }
  assert.equal(at, within.endBytes + 1n, "pieces fill the stretch");
}

test("setting and clearing ranges is as on single bytes, and ranges stay as few as they can be", (t) => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), range, type, (steps, within, wishType) => {
      const ranges = new LockRanges<string>();
      let model = new Array<Cell | undefined>(BYTES).fill(undefined);
      for (const { op, range, type, through } of steps) {
        const isIn = (at: number) => at >= Number(range.startBytes) && at <= lastOf(range.endBytes);
        if (op === "set") {
          ranges.set(range, type, through);
          model = model.map((cell, at) => (isIn(at) ? { type, through } : cell));
        } else if (op === "clear") {
          const { size } = ranges;
          const isSplit = ranges.isSplitBy(range);
          ranges.clear(range);
          assert.equal(isSplit, ranges.size > size);
          model = model.map((cell, at) => (isIn(at) ? undefined : cell));
        } else {
          const gone = ranges.clearThrough(through);
          assert.deepEqual(
            cells(gone),
            model.map((cell) => (cell?.through === through ? cell : undefined)),
          );
          model = model.map((cell) => (cell?.through === through ? undefined : cell));
        }
        ranges.checkInvariants();
        assert.deepEqual(cells(ranges.all), model);
      }
      const types = model.map((cell) => cell?.type ?? "unlock");
      checkPieces(ranges.pieces(within), within, types);
      const wish = { ...within, type: wishType };
      const first = ranges.all.find((held) => conflicts(held, wish));
      assert.deepEqual(ranges.conflictWith(wish), first);
    }),
    seeded(t, 2000),
  );
});

test("several owners together hold a stretch as strongly as the strongest of them", (t) => {
  fc.assert(
    fc.property(fc.array(fc.record({ range, type }), { maxLength: 10 }), range, (held, within) => {
      const types = Array.from({ length: BYTES }, (_, at) => {
        const here = held.filter(({ range }) => overlaps(range, { startBytes: BigInt(at), endBytes: BigInt(at) }));
        if (here.length === 0) return "unlock";
        return here.some(({ type }) => type === "write") ? "write" : "read";
      });
      const pieces = unionOf(
        held.map(({ range, type }) => ({ ...range, type })),
        within,
      );
      checkPieces(pieces, within, types);
    }),
    seeded(t, 1000),
  );
});

test("a range can be at the far end of what a kernel can say", () => {
  const ranges = new LockRanges<string>();
  ranges.set({ startBytes: 2n ** 62n + 1n, endBytes: 2n ** 62n + 1n }, "write", "a");
  assert.deepEqual(ranges.conflictWith({ startBytes: 2n ** 62n, endBytes: 2n ** 62n, type: "write" }), undefined);
  assert.equal(ranges.conflictWith({ ...WHOLE_FILE, type: "read" })?.startBytes, 2n ** 62n + 1n);
  ranges.clear({ startBytes: LOCK_END, endBytes: LOCK_END });
  assert.equal(ranges.size, 1);
});
