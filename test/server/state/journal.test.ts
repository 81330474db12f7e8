/** The journal's bytes: what is written is replayed, and whatever else the file holds ends the replay and throws nothing. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { crc32 } from "node:zlib";
import fc from "fast-check";
import { BatchFrame, JournalFile, journalPath, NetChanges, replayJournal } from "../../../src/server/state/journal.ts";
import { KEY_BYTES_MAX, VALUE_BYTES_MAX } from "../../../src/server/state/state-store.ts";
import { seeded } from "../../support/seed.ts";
import { makeTemp } from "../../support/temp.ts";

test("what is left of changes is each key's last one, and nothing of what was added and deleted", () => {
  const changes = new NetChanges();
  changes.add("short life", Buffer.from("1"));
  changes.put("short life", Buffer.from("2"));
  changes.delete("short life");
  changes.put("old", Buffer.from("3"));
  changes.delete("old");
  changes.add("new", Buffer.from("4"));
  changes.put("new", Buffer.from("5"));
  assert.deepEqual(
    [...changes.entries()],
    [
      ["old", undefined],
      ["new", Buffer.from("5")],
    ],
  );
});

test("a key or a value that is too large is the program's mistake, and leaves the batch as it was", () => {
  const frame = new BatchFrame();
  frame.put("k".repeat(KEY_BYTES_MAX), Buffer.alloc(VALUE_BYTES_MAX));
  assert.throws(() => frame.put("k".repeat(KEY_BYTES_MAX + 1), Buffer.alloc(0)), RangeError);
  assert.throws(() => frame.put("", Buffer.alloc(0)), RangeError);
  assert.throws(() => frame.put("k", Buffer.alloc(VALUE_BYTES_MAX + 1)), RangeError);
  assert.equal(frame.take().length, 12 + 6 + KEY_BYTES_MAX + VALUE_BYTES_MAX);
});

/** A journal file's bytes with these batches. */
function written(batches: ((frame: BatchFrame) => void)[], number = 1): Buffer {
  using temp = syncTemp();
  const file = new JournalFile(temp.path, number);
  const frame = new BatchFrame();
  for (const batch of batches) {
    batch(frame);
    file.append(frame.take());
  }
  assert.equal(file.bytes, readFileSync(journalPath(temp.path, number)).length);
  file.close();
  return readFileSync(join(temp.path, `journal-${number}`));
}

function syncTemp(): { path: string } & Disposable {
  const temp = makeTemp();
  // Removal is synchronous in truth; the process's end would do it as well.
  return { path: temp.path, [Symbol.dispose]: () => void temp.remove() };
}

test("batches of any changes are replayed as they were written", (t) => {
  const key = fc.string({ unit: "binary-ascii", minLength: 1, maxLength: 4 });
  const change = fc.record({ kind: fc.constantFrom("put", "add", "delete"), key, value: fc.uint8Array() });
  fc.assert(
    fc.property(fc.array(fc.array(change, { minLength: 1 })), fc.nat({ max: 2 ** 32 - 1 }), (batches, number) => {
      const expected = new NetChanges();
      const apply = (target: BatchFrame | NetChanges, all: typeof batches) => {
        for (const { kind, key, value } of all.flat()) {
          if (kind === "delete") target.delete(key);
          else target[kind as "put" | "add"](key, Buffer.from(value));
        }
      };
      apply(expected, batches);
      const bytes = written(
        batches.map((batch) => (frame) => apply(frame, [batch])),
        number,
      );
      const changes = new NetChanges();
      assert.equal(replayJournal(bytes, number, changes), "clean");
      assert.deepEqual([...changes.entries()], [...expected.entries()]);
      assert.notEqual(replayJournal(bytes, number + 1, new NetChanges()), "clean");
    }),
    seeded(t, 100),
  );
});

test("bytes that were never written are found out, also with right checksums", (t) => {
  const good = written([(frame) => frame.put("key", Buffer.from("value"))]);
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 1, maxLength: 40 }), fc.boolean(), (noise, isSealed) => {
      const batch = Buffer.from(noise);
      const head = Buffer.alloc(12);
      head.writeUInt32LE(batch.length, 0);
      head.writeUInt32LE(crc32(batch), 4);
      head.writeUInt32LE(crc32(head.subarray(0, 8)), 8);
      const changes = new NetChanges();
      const end = replayJournal(Buffer.concat([good, ...(isSealed ? [head] : []), batch]), 1, changes);
      // Noise may happen to be a change, but nearly never is.
      if (isSealed) assert.ok(end === "damaged" || changes.size > 0);
      else assert.notEqual(end, "clean");
      assert.deepEqual([...changes.entries()][0], ["key", Buffer.from("value")]);
    }),
    seeded(t, 2000),
  );
});

test("a file that is closed while a sync is under way is synced", async () => {
  await using temp = makeTemp();
  const file = new JournalFile(temp.path, 1);
  const frame = new BatchFrame();
  frame.put("a", Buffer.from("1"));
  file.append(frame.take());
  const synced = file.sync();
  file.close();
  file.close();
  await synced;
});
