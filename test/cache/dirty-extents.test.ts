/** Dirty extents against layers of single bytes, over a pool that spoils what is given back. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { type ChunkPool, DirtyExtents, type DirtyFlight } from "../../src/cache/dirty-extents.ts";
import { seeded } from "../support/seed.ts";

/** Gives out buffers of powers of two and spoils them when they come back. */
class SpoilingPool implements ChunkPool {
  readonly out = new Set<Buffer>();

  take(lengthBytes: number): Buffer {
    const buffer = Buffer.alloc(2 ** Math.ceil(Math.log2(lengthBytes)), 0xee);
    this.out.add(buffer);
    return buffer;
  }

  give(buffer: Buffer): void {
    assert(this.out.delete(buffer), "a chunk is given back once");
    buffer.fill(0xdd);
  }

  get bytes(): number {
    let bytes = 0;
    for (const buffer of this.out) bytes += buffer.length;
    return bytes;
  }
}

const SECTION = 32;

function extentsOf(sectionBytes = SECTION) {
  const pool = new SpoilingPool();
  const extents = new DirtyExtents(sectionBytes, pool);
  const write = (offset: number, text: string, nowMs = 0) => {
    extents.write(offset, Buffer.from(text), nowMs);
    extents.checkInvariants();
  };
  const read = (offset: number, length: number, base = "") => {
    const target = Buffer.alloc(length);
    target.write(base);
    return target.toString("latin1", 0, extents.overlay(offset, target, Math.min(base.length, length)));
  };
  return { pool, extents, write, read };
}

const textOf = (flight: DirtyFlight | undefined) => flight && Buffer.concat(flight.buffers).toString("latin1");

test("what is written is read back over the server's bytes, with zeros in between", () => {
  const { read, write } = extentsOf();
  write(4, "abc");
  assert.equal(read(0, 10, "0123456789"), "0123abc789");
  assert.equal(read(0, 10, "01"), "01\0\0abc");
  assert.equal(read(5, 10), "bc");
  assert.equal(read(20, 5), "");
});

test("writes over one another leave the newest, in place", () => {
  const { extents, pool, read, write } = extentsOf();
  write(0, "aaaaaaaaaa");
  write(3, "bbb");
  write(8, "cccc");
  assert.equal(read(0, 12), "aaabbbaacccc");
  assert.equal(extents.dirtyBytes, 12);
  assert.equal(pool.out.size, 1, "no chunk was taken for what grows or lies within another");
});

test("a section is full when its last byte was written, and is taken in one piece", () => {
  const { extents, write } = extentsOf();
  write(SECTION, "x".repeat(SECTION - 1));
  assert.equal(extents.takeFull(), undefined);
  write(2 * SECTION - 1, "yz");
  const flight = extents.takeFull() as DirtyFlight;
  extents.checkInvariants();
  assert.deepEqual([flight.offsetBytes, flight.lengthBytes], [SECTION, SECTION]);
  assert.equal(textOf(flight), `${"x".repeat(SECTION - 1)}y`);
  assert.deepEqual([extents.dirtyBytes, extents.inFlightBytes], [1, SECTION]);
  assert.equal(extents.takeFull(), undefined);
  extents.landed(flight);
  assert.throws(() => extents.landed(flight), { name: "AssertionError" });
  extents.checkInvariants();
});

test("runs are taken within sections, round and round", () => {
  const { extents, write } = extentsOf();
  write(10, "a".repeat(40));
  write(70, "b");
  const taken = [extents.take(), extents.take(), extents.take(), extents.take()];
  assert.deepEqual(
    taken.map((flight) => flight && [flight.offsetBytes, flight.lengthBytes]),
    [[10, 22], [32, 18], [70, 1], undefined],
  );
  write(0, "c");
  write(90, "d");
  assert.equal(textOf(extents.take()), "d", "goes on behind the last one");
  assert.equal(textOf(extents.take()), "c");
});

test("what is written while in flight is dirty again, and waits for the older one to land", () => {
  const { extents, read, write } = extentsOf();
  write(0, "older");
  const older = extents.take() as DirtyFlight;
  write(1, "NEW");
  assert.equal(textOf(older), "older", "the transport's bytes do not change");
  assert.equal(read(0, 5), "oNEWr");
  assert.equal(extents.take(), undefined);
  extents.landed(older);
  assert.equal(textOf(extents.take()), "NEW");
});

test("filling a hole does not reach into the bytes of its chunk that are in flight", () => {
  const { extents, read, write } = extentsOf();
  write(4, "z");
  extents.landed(extents.take() as DirtyFlight);
  write(0, "abcdefghij");
  extents.discard(3, 6);
  const flight = extents.take() as DirtyFlight;
  assert.equal(textOf(flight), "ghij");
  write(3, "DEFGHIJ");
  assert.equal(textOf(flight), "ghij");
  assert.equal(read(0, 10), "abcDEFGHIJ");
});

test("a flight that comes back is dirty again, but for what is newer or was cut", () => {
  const { extents, read, write } = extentsOf();
  write(0, "abcdefghij");
  const flight = extents.take() as DirtyFlight;
  write(2, "XY");
  extents.truncate(8);
  extents.discard(5, 6);
  extents.checkInvariants();
  assert.equal(read(0, 10), "abXYe\0gh");
  extents.returned(flight);
  extents.checkInvariants();
  assert.equal(read(0, 10), "abXYe\0gh");
  assert.deepEqual([extents.dirtyBytes, extents.inFlightBytes], [7, 0]);
  assert.deepEqual([extents.take(), extents.take(), extents.take()].map(textOf), ["abXYe", "gh", undefined]);
});

test("cutting the file forgets what is behind, and its end moves", () => {
  const { extents, pool, write } = extentsOf();
  write(0, "a".repeat(100));
  assert.equal(extents.endBytes, 100);
  extents.truncate(50);
  extents.checkInvariants();
  assert.deepEqual([extents.dirtyBytes, extents.endBytes], [50, 50]);
  const flight = extents.take() as DirtyFlight;
  extents.clear();
  extents.checkInvariants();
  assert.deepEqual([extents.dirtyBytes, extents.endBytes, extents.clean], [0, 0, false]);
  extents.landed(flight);
  assert.deepEqual([extents.clean, extents.heldBytes, pool.out.size], [true, 0, 0]);
});

test("a range is covered when every byte of it is held, dirty or in flight", () => {
  const { extents, write } = extentsOf();
  write(0, "a".repeat(20));
  const flight = extents.take() as DirtyFlight;
  write(20, "b".repeat(20));
  write(5, "c");
  assert.equal(extents.covers(0, 40), true);
  assert.equal(extents.covers(0, 41), false);
  extents.landed(flight);
  assert.equal(extents.covers(5, 1), true);
  assert.equal(extents.covers(4, 2), false);
  assert.equal(extents.covers(40, 0), true);
});

test("a mark is reached when everything written before it has landed, however much is written after", () => {
  const { extents, write } = extentsOf();
  write(0, "a");
  write(50, "b");
  const mark = extents.mark();
  write(100, "c");
  const flights: DirtyFlight[] = [];
  for (let flight = extents.take({ mark }); flight !== undefined; flight = extents.take({ mark })) {
    write(flight.offsetBytes, "z");
    flights.push(flight);
  }
  assert.deepEqual(flights.map(textOf), ["a", "b"]);
  assert.equal(extents.landedUpTo(mark), false);
  for (const flight of flights) extents.landed(flight);
  assert.equal(extents.landedUpTo(mark), true);
  assert.equal(extents.landedUpTo(extents.mark()), false);
});

test("what has waited long enough is taken by its age", () => {
  const { extents, write } = extentsOf();
  write(0, "a", 100);
  write(40, "b", 200);
  assert.equal(extents.oldestDirtyMs, 100);
  assert.equal(textOf(extents.take({ sinceMsMax: 100 })), "a");
  assert.equal(extents.take({ sinceMsMax: 199 }), undefined);
  assert.equal(extents.oldestDirtyMs, 200);
});

test("small writes in a row share few chunks, and a lonely one takes little", () => {
  const { extents, pool } = extentsOf(2 ** 20);
  for (let at = 0; at < 2 ** 20; at += 4096) extents.write(at, Buffer.alloc(4096, 1), 0);
  extents.checkInvariants();
  assert(pool.out.size <= 6, `${pool.out.size} chunks`);
  assert.equal(extents.dirtyBytes, 2 ** 20);
  assert(extents.heldBytes <= 2 * 2 ** 20);
  assert.equal(extents.takeFull()?.buffers.length, pool.out.size);
  const lonely = extentsOf(2 ** 20);
  for (let at = 0; at < 64; at++) lonely.extents.write(at * 2 ** 21, Buffer.alloc(100, 1), 0);
  assert.equal(lonely.extents.heldBytes, 64 * 4096);
});

/** One byte of a layer: its value and the write it came from. */
type Cell = { value: number; sequence: number };

/** The same as layers of single bytes. */
class NaiveExtents {
  dirty = new Map<number, Cell>();
  flights = new Map<DirtyFlight, { from: number; bytes: Buffer; visible: Map<number, Cell> }>();

  held(at: number): number | undefined {
    const dirty = this.dirty.get(at);
    if (dirty !== undefined) return dirty.value;
    for (const { visible } of this.flights.values()) {
      const sent = visible.get(at);
      if (sent !== undefined) return sent.value;
    }
    return undefined;
  }

  inFlight(at: number): boolean {
    return [...this.flights.values()].some(({ from, bytes }) => at >= from && at < from + bytes.length);
  }

  discard(from: number, to: number): void {
    for (const layer of [this.dirty, ...[...this.flights.values()].map(({ visible }) => visible)]) {
      for (const at of layer.keys()) if (at >= from && at < to) layer.delete(at);
    }
  }

  take(flight: DirtyFlight): void {
    const bytes = Buffer.concat(flight.buffers);
    const visible = new Map<number, Cell>();
    for (let at = flight.offsetBytes; at < flight.offsetBytes + flight.lengthBytes; at++) {
      assert(!this.inFlight(at), "no two versions of a byte are on their way");
      const cell = this.dirty.get(at);
      assert(cell !== undefined && cell.value === bytes[at - flight.offsetBytes], "the newest bytes are sent");
      visible.set(at, cell);
      this.dirty.delete(at);
    }
    this.flights.set(flight, { from: flight.offsetBytes, bytes, visible });
  }

  end(flight: DirtyFlight, back: boolean): Buffer {
    const own = this.flights.get(flight);
    assert(own !== undefined);
    this.flights.delete(flight);
    assert(Buffer.concat(flight.buffers).equals(own.bytes), "what is in flight was not written to");
    if (back) for (const [at, cell] of own.visible) if (!this.dirty.has(at)) this.dirty.set(at, cell);
    return own.bytes;
  }
}

const SPAN = 5 * SECTION;
type Step =
  | { op: "write"; at: number; length: number }
  | { op: "discard"; at: number; length: number }
  | { op: "truncate"; at: number }
  | { op: "take" }
  | { op: "takeFull" }
  | { op: "land"; pick: number }
  | { op: "return"; pick: number };

const stepOf = (): fc.Arbitrary<Step> => {
  const at = fc.nat(SPAN - 1);
  const length = fc.oneof(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 2 * SECTION }));
  const pick = fc.nat();
  return fc.oneof(
    { weight: 8, arbitrary: fc.record({ op: fc.constant("write" as const), at, length }) },
    { weight: 1, arbitrary: fc.record({ op: fc.constant("discard" as const), at, length }) },
    { weight: 1, arbitrary: fc.record({ op: fc.constant("truncate" as const), at }) },
    { weight: 2, arbitrary: fc.record({ op: fc.constant("take" as const) }) },
    { weight: 1, arbitrary: fc.record({ op: fc.constant("takeFull" as const) }) },
    { weight: 1, arbitrary: fc.record({ op: fc.constant("land" as const), pick }) },
    { weight: 1, arbitrary: fc.record({ op: fc.constant("return" as const), pick }) },
  );
};

function assertEqual(extents: DirtyExtents, model: NaiveExtents, pool: SpoilingPool, mark: number): void {
  extents.checkInvariants();
  assert.equal(extents.heldBytes, pool.bytes);
  assert.equal(extents.dirtyBytes, model.dirty.size);
  assert.equal(extents.clean, model.dirty.size === 0 && model.flights.size === 0);
  const all = [...model.dirty, ...[...model.flights.values()].flatMap(({ visible }) => [...visible])];
  assert.equal(
    extents.endBytes,
    all.reduce((end, [at]) => Math.max(end, at + 1), 0),
  );
  // An extent counts as old as its oldest byte, so it may say late, never early, that everything has landed.
  if (extents.landedUpTo(mark)) assert(all.every(([, { sequence }]) => sequence > mark));
  const base = 40;
  const target = Buffer.alloc(3 * SPAN, 7);
  const valid = extents.overlay(0, target, base);
  for (let at = 0; at < valid; at++) assert.equal(target[at], model.held(at) ?? (at < base ? 7 : 0), `byte ${at}`);
  assert.equal(valid, Math.max(base, extents.endBytes));
  for (const [from, length] of [
    [0, 10],
    [SECTION - 3, 9],
    [50, 40],
  ] as const) {
    const covered = Array.from({ length }, (_, index) => model.held(from + index)).every((each) => each !== undefined);
    assert.equal(extents.covers(from, length), covered);
    const piece = Buffer.alloc(length, 7);
    const pieceValid = extents.overlay(from, piece, Math.max(0, Math.min(length, base - from)));
    assert(piece.subarray(0, pieceValid).equals(target.subarray(from, from + pieceValid)));
  }
}

test("random writes, cuts, sends and failures leave what layers of single bytes hold, after each step", (t) => {
  const flown = { whole: 0, partial: 0, returned: 0 };
  fc.assert(
    fc.property(fc.array(stepOf(), { minLength: 10, maxLength: 60 }), fc.nat(30), (steps, markAt) => {
      const pool = new SpoilingPool();
      const extents = new DirtyExtents(SECTION, pool);
      const model = new NaiveExtents();
      let mark = 0;
      steps.forEach((step, sequence) => {
        if (sequence === markAt) mark = extents.mark();
        if (step.op === "write") {
          const data = Buffer.from(Array.from({ length: step.length }, (_, index) => (sequence * 31 + index) % 200));
          extents.write(step.at, data, sequence);
          const written = extents.mark();
          data.forEach((value, index) => void model.dirty.set(step.at + index, { value, sequence: written }));
          data.fill(0xcc);
        } else if (step.op === "discard") {
          extents.discard(step.at, step.at + step.length);
          model.discard(step.at, step.at + step.length);
        } else if (step.op === "truncate") {
          extents.truncate(step.at);
          model.discard(step.at, Number.POSITIVE_INFINITY);
        } else if (step.op === "take" || step.op === "takeFull") {
          const flight = extents[step.op]();
          if (flight !== undefined) {
            model.take(flight);
            flown[flight.lengthBytes === SECTION ? "whole" : "partial"]++;
            if (step.op === "takeFull") assert.equal(flight.lengthBytes, SECTION);
          } else if (step.op === "take") {
            // An extent of which a byte is in flight waits whole; a byte in a section without flights does not wait.
            for (const at of model.dirty.keys()) {
              const section = Math.floor(at / SECTION) * SECTION;
              assert(
                Array.from({ length: SECTION }, (_, index) => section + index).some((each) => model.inFlight(each)),
              );
            }
          }
        } else {
          const flights = [...model.flights.keys()];
          const flight = flights[step.pick % Math.max(flights.length, 1)];
          if (flight === undefined) return;
          model.end(flight, step.op === "return");
          if (step.op === "return") flown.returned++;
          if (step.op === "return") extents.returned(flight);
          else extents.landed(flight);
        }
        assertEqual(extents, model, pool, mark);
      });
      extents.clear();
      for (const flight of model.flights.keys()) extents.landed(flight);
      assert.equal(pool.out.size, 0, "no chunk is left");
      assert.equal(extents.clean, true);
    }),
    seeded(t, 600),
  );
  t.diagnostic(JSON.stringify(flown));
  assert(flown.whole > 200 && flown.partial > 200 && flown.returned > 200, "the runs sent enough to prove something");
});

test("sent with failures and landing in any order, the server ends with what was written", (t) => {
  const lands = fc.array(fc.nat(), { minLength: 200, maxLength: 200 });
  fc.assert(
    fc.property(fc.array(stepOf(), { maxLength: 60 }), lands, (steps, choices) => {
      const pool = new SpoilingPool();
      const extents = new DirtyExtents(SECTION, pool);
      let server = Buffer.alloc(0);
      let ideal = Buffer.alloc(0);
      const flights: DirtyFlight[] = [];
      const put = (file: Buffer<ArrayBuffer>, offset: number, data: Buffer) => {
        const grown = Buffer.alloc(Math.max(file.length, offset + data.length));
        file.copy(grown);
        data.copy(grown, offset);
        return grown;
      };
      const end = (at: number, fails: boolean) => {
        const [flight] = flights.splice(at, 1);
        if (flight === undefined) return;
        // A failed write may have left any part of itself.
        const arrived = Buffer.concat(flight.buffers).subarray(0, fails ? flight.lengthBytes >> 1 : flight.lengthBytes);
        server = put(server, flight.offsetBytes, arrived);
        if (fails) extents.returned(flight);
        else extents.landed(flight);
      };
      let choice = 0;
      const choose = (count: number) => (choices[choice++ % choices.length] as number) % count;
      steps.forEach((step, sequence) => {
        if (step.op === "write") {
          const data = Buffer.alloc(step.length, sequence + 1);
          extents.write(step.at, data, 0);
          ideal = put(ideal, step.at, data);
        } else if (step.op === "truncate") {
          // As the docstring asks: what is in flight lands before the server is told.
          while (flights.length > 0) end(0, false);
          extents.truncate(step.at);
          const cut = (file: Buffer) => put(Buffer.from(file.subarray(0, step.at)), step.at, Buffer.alloc(0));
          server = cut(server);
          ideal = cut(ideal);
        } else if (step.op === "take" || step.op === "takeFull") {
          const flight = extents[step.op]();
          if (flight !== undefined) flights.push(flight);
        } else if (step.op !== "discard") end(step.pick % Math.max(flights.length, 1), step.op === "return");
      });
      for (let turn = 0; !extents.clean; turn++) {
        assert(turn < 500, "it ends");
        const flight = extents.take();
        if (flight !== undefined) flights.push(flight);
        if (flights.length > 0 && (flight === undefined || choose(2) === 0))
          end(choose(flights.length), choose(4) === 0);
      }
      assert(server.equals(ideal));
      assert.equal(pool.out.size, 0);
    }),
    seeded(t, 1500),
  );
});
