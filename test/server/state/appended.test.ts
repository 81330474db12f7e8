/** What an append has put into a file is found again: wherever it is, in pieces, and however like the data the file is. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { AppendedSearches } from "../../../src/server/state/appended.ts";
import type { FileSystem, NodeId } from "../../../src/vfs/file-system.ts";
import { settle } from "../../support/fake-clock.ts";
import { seeded } from "../../support/seed.ts";

const NODE = "n" as NodeId;
const MIB = 2 ** 20;

/** A file of zeros with `content` at an offset. */
class OneFile {
  readonly sizeBytes: number;
  readonly #content: Buffer;
  readonly #offsetBytes: number;
  /** Sizes of what reads were to fill, and how often the file was opened and is open. */
  readonly reads: number[] = [];
  opens = 0;
  isOpen = false;
  /** Each read waits for it. */
  ready: Promise<void> = Promise.resolve();
  /** Reads return no more at once. */
  shortBytes = Number.POSITIVE_INFINITY;

  constructor(content: Buffer, { offsetBytes = 0, sizeBytes = content.length } = {}) {
    this.#content = content;
    this.#offsetBytes = offsetBytes;
    this.sizeBytes = sizeBytes;
  }

  get fileSystem(): FileSystem {
    const reopen = async () => {
      this.opens += 1;
      this.isOpen = true;
      return { handle: 1 };
    };
    const read = async (_ctx: unknown, _handle: unknown, offsetBytes: number, target: Buffer) => {
      this.reads.push(target.length);
      await this.ready;
      const bytes = Math.max(0, Math.min(target.length, this.shortBytes, this.sizeBytes - offsetBytes));
      target.fill(0, 0, bytes);
      const from = Math.min(this.#content.length, Math.max(0, offsetBytes - this.#offsetBytes));
      this.#content.copy(target.subarray(0, bytes), Math.max(0, this.#offsetBytes - offsetBytes), from);
      return bytes;
    };
    const release = async () => {
      this.isOpen = false;
    };
    return { recovery: { reopen }, read, release } as unknown as FileSystem;
  }
}

/** Counts turns of the event loop until it is stopped. */
function countTurns(): { count: number; stop(): void } {
  const turns = { count: 0, stop: () => clearImmediate(next) };
  const turn = () => {
    turns.count += 1;
    next = setImmediate(turn);
  };
  let next = setImmediate(turn);
  return turns;
}

test("all, none or a first part is found, as looking at everything at once would find it", async (t) => {
  const bytes = (lengthMax: number) =>
    fc.array(fc.nat({ max: 1 }), { minLength: 1, maxLength: lengthMax }).map((values) => Buffer.from(values));
  await fc.assert(
    fc.asyncProperty(bytes(40), bytes(8), fc.nat({ max: 5 }), fc.integer({ min: 1, max: 9 }), async (...drawn) => {
      const [file, data, startBytes, pieceBytes] = drawn;
      const one = new OneFile(file);
      one.shortBytes = Math.max(1, pieceBytes - 1);
      const region = file.subarray(startBytes);
      const part = data.subarray(0, region.length).equals(region) ? region.length : 0;
      const expected = region.includes(data) ? data.length : part;
      const searches = new AppendedSearches({ pieceBytes });
      const within = { startBytes, endBytes: Math.max(startBytes, file.length) };
      assert.equal(await searches.find(one.fileSystem, NODE, data, within), expected);
      assert.equal(one.isOpen, false);
    }),
    seeded(t, 500),
  );
});

test("data is found far behind, in small pieces with turns of the event loop between them", async (t) => {
  const one = new OneFile(Buffer.from("ours"), { offsetBytes: 40 * MIB - 2, sizeBytes: 42 * MIB });
  const turns = countTurns();
  t.after(() => turns.stop());
  const within = { startBytes: 0, endBytes: one.sizeBytes };
  assert.equal(await new AppendedSearches().find(one.fileSystem, NODE, Buffer.from("ours"), within), 4);
  assert.ok(Math.max(...one.reads) <= MIB / 4, "little is held at once");
  assert.ok(turns.count >= one.reads.length, `${turns.count} turns, ${one.reads.length} reads`);
});

for (const different of [0, MIB / 2, MIB - 1]) {
  test(`data that is in the file everywhere but for one byte takes no longer than any other (byte ${different})`, async () => {
    const data = Buffer.alloc(MIB);
    data[different] = 1;
    const one = new OneFile(data, { offsetBytes: 33 * MIB + 1, sizeBytes: 35 * MIB });
    const searches = new AppendedSearches();
    const find = (endBytes: number) => searches.find(one.fileSystem, NODE, data, { startBytes: 0, endBytes });
    assert.equal(await find(33 * MIB), 0);
    assert.equal(await find(one.sizeBytes), MIB);
  });
}

test("one search at a time is made in a file system, also behind one that failed; another file system waits for none", async () => {
  const searches = new AppendedSearches();
  const [held, free] = [new OneFile(Buffer.from("theirs, ours")), new OneFile(Buffer.from("ours"))];
  let fail = (_error: Error) => {};
  held.ready = new Promise((_resolve, reject) => {
    fail = reject;
  });
  const { fileSystem } = held;
  const within = { startBytes: 0, endBytes: held.sizeBytes };
  const first = assert.rejects(searches.find(fileSystem, NODE, Buffer.from("ours"), within), /the disk/);
  const second = searches.find(fileSystem, NODE, Buffer.from("ours"), within);
  assert.equal(await searches.find(free.fileSystem, NODE, Buffer.from("ours"), within), 4);
  await settle();
  assert.equal(held.opens, 1);
  held.ready = Promise.resolve();
  fail(new Error("the disk"));
  await first;
  assert.equal(await second, 4);
  assert.equal(held.opens, 2);
});

test("a search that nobody waits for any more ends, and closes its file", async () => {
  const one = new OneFile(Buffer.alloc(0), { sizeBytes: 100 * MIB });
  const within = { startBytes: 0, endBytes: one.sizeBytes };
  const isOver = () => one.reads.length >= 3;
  const found = new AppendedSearches().find(one.fileSystem, NODE, Buffer.from("ours"), within, isOver);
  await assert.rejects(found, { errno: "EINTR" });
  assert.deepEqual([one.reads.length, one.isOpen], [3, false]);
});

test("so much is looked through and no more, whatever length the file has", async () => {
  const one = new OneFile(Buffer.alloc(0), { sizeBytes: 2 ** 50 });
  const within = { startBytes: 0, endBytes: one.sizeBytes };
  const searches = new AppendedSearches({ pieceBytes: MIB, searchedBytesMax: 16 * MIB });
  assert.equal(await searches.find(one.fileSystem, NODE, Buffer.from("ours"), within), 0);
  assert.equal(one.reads.length, 16);
});
