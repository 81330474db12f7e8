/** The state store in a folder: what is told to be down is there after any death, and nothing else ever is. */
import assert from "node:assert/strict";
import { cpSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import fc from "fast-check";
import { FsError } from "../../../src/base/errors.ts";
import { createLog } from "../../../src/base/log.ts";
import { openLevelStore } from "../../../src/server/state/level-store.ts";
import type { Durability, StateStore } from "../../../src/server/state/state-store.ts";
import { command, startService } from "../../support/child.ts";
import { FakeClock, settle } from "../../support/fake-clock.ts";
import { seeded } from "../../support/seed.ts";
import { startStrictDisk } from "../../support/strict-disk.ts";
import { makeTemp } from "../../support/temp.ts";

const here = dirname(fileURLToPath(import.meta.url));
const text = (value: string) => Buffer.from(value);

interface Knobs {
  durability?: Durability;
  fileBytes?: number;
  fileBytesMax?: number;
}

async function openIn(folder: string, knobs: Knobs = {}) {
  const clock = new FakeClock();
  const lines: string[] = [];
  const log = createLog({ level: "warn", clock, sink: (line) => lines.push(line) });
  const opened = await openLevelStore({ folder, durability: "process", clock, log, ...knobs });
  return { ...opened, clock, lines, texts: textsOf(opened.records) };
}

function textsOf(records: Map<string, Buffer>): Record<string, string> {
  return Object.fromEntries([...records].map(([key, value]) => [key, value.toString()]));
}

function down(store: StateStore): Promise<void> {
  return new Promise((resolve) => store.afterCommit(resolve));
}

/** What a server that dies now leaves behind, opened. */
async function afterDeath(folder: string, copy: string) {
  for (;;) {
    try {
      cpSync(folder, copy, { recursive: true });
      return openIn(copy);
    } catch (cause) {
      // The table tidies up meanwhile; a death happens in one moment, so the copy is made again.
      if ((cause as NodeJS.ErrnoException).code !== "ENOENT") throw cause;
      rmSync(copy, { recursive: true, force: true });
    }
  }
}

function setAsideIn(folder: string): string[] {
  return readdirSync(dirname(folder)).filter((name) => name.includes(".damaged-"));
}

test("records are there again after a planned end, each with its last value", async () => {
  await using temp = makeTemp();
  const folder = join(temp.path, "store");
  const first = await openIn(folder);
  assert.deepEqual(first.texts, {});
  first.store.put("a", text("1"));
  first.store.add("b", text("2"));
  first.store.put("\xff\0\x80", text("bytes"));
  await down(first.store);
  first.store.put("a", text("3"));
  first.store.delete("b");
  first.store.add("c", text(""));
  await first.store.close();
  const second = await openIn(folder);
  assert.deepEqual(second.texts, { a: "3", c: "", "\xff\0\x80": "bytes" });
  second.store.delete("a");
  second.store.delete("c");
  second.store.delete("never there");
  await second.store.close();
  const third = await openIn(folder);
  assert.deepEqual(third.texts, { "\xff\0\x80": "bytes" });
  await third.store.close();
  assert.equal(statSync(folder).mode & 0o777, 0o700);
  assert.deepEqual(setAsideIn(folder), []);
});

test("changes of one turn go down as one batch, in their order, and whoever waits is told in order", async () => {
  await using temp = makeTemp();
  for (const durability of ["process", "power"] as const) {
    const { store } = await openIn(join(temp.path, durability), { durability });
    const told: string[] = [];
    store.afterCommit(() => told.push("nothing to wait for"));
    assert.deepEqual(told, ["nothing to wait for"]);
    store.put("a", text("1"));
    store.afterCommit(() => told.push("first"));
    store.put("b", text("2"));
    store.put("a", text("3"));
    store.afterCommit(() => told.push("second"));
    assert.equal(told.length, 1);
    await down(store);
    assert.deepEqual(told.slice(1), ["first", "second"]);
    assert.equal(store.figures().batches, 1);
    assert.equal(store.figures().changes, 3);
    store.put("c", text("4"));
    await new Promise((resolve) => setImmediate(resolve));
    // The batch went down without anyone waiting, which is not yet down for good.
    await down(store);
    const copy = await afterDeath(join(temp.path, durability), join(temp.path, `${durability} copy`));
    assert.deepEqual(copy.texts, { a: "3", b: "2", c: "4" });
    await copy.store.close();
    await store.close();
  }
});

test("what a change leads to without an event goes down with it, and a deletion nobody waits for with what comes next", async () => {
  await using temp = makeTemp();
  const folder = join(temp.path, "state");
  const { store, clock } = await openIn(folder);
  store.put("a", text("1"));
  await null;
  await null;
  store.put("b", text("2"));
  await down(store);
  assert.equal(store.figures().batches, 1);
  store.delete("a");
  await new Promise(process.nextTick);
  assert.equal(store.figures().batches, 1);
  store.put("b", text("3"));
  await down(store);
  assert.equal(store.figures().batches, 2);
  store.delete("b");
  await settle();
  assert.equal(store.figures().batches, 2);
  clock.advance(10);
  assert.equal(store.figures().batches, 3);
  // Whoever waits for it does not wait long.
  store.put("c", text("4"));
  store.delete("c");
  await down(store);
  const copy = await afterDeath(folder, join(temp.path, "copy"));
  assert.deepEqual(copy.texts, {});
  await copy.store.close();
  await store.close();
});

test("whenever a server dies, what was told to be down is there, and no batch is there in part", async (t) => {
  const change = fc.record({
    kind: fc.constantFrom("put", "put", "add", "delete", "delete added"),
    key: fc.nat({ max: 5 }),
    bytes: fc.nat({ max: 300 }),
  });
  const step = fc.record({
    changes: fc.array(change, { maxLength: 4 }),
    dies: fc.boolean(),
    turns: fc.nat({ max: 3 }),
  });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 25 }), async (steps) => {
      await using temp = makeTemp();
      let folder = join(temp.path, "0");
      let opened = await openIn(folder, { fileBytes: 1000, fileBytesMax: 3000 });
      const model = new Map<string, string>();
      let added = 0;
      for (const [index, { changes, dies, turns }] of steps.entries()) {
        for (const { kind, key, bytes } of changes) {
          const value = `${index} ${"x".repeat(bytes)}`;
          if (kind === "put") {
            opened.store.put(`key ${key}`, text(value));
            model.set(`key ${key}`, value);
          } else if (kind === "add") {
            added += 1;
            opened.store.add(`added ${added}`, text(value));
            model.set(`added ${added}`, value);
          } else {
            const name = kind === "delete" ? `key ${key}` : `added ${added}`;
            opened.store.delete(name);
            model.delete(name);
          }
        }
        await down(opened.store);
        for (let turn = 0; turn < turns; turn += 1) await new Promise((resolve) => setImmediate(resolve));
        if (!dies) continue;
        const next = join(temp.path, String(index + 1));
        const after = await afterDeath(folder, next);
        await opened.store.close();
        assert.deepEqual(after.texts, Object.fromEntries(model));
        assert.deepEqual(after.lines, []);
        [opened, folder] = [after, next];
      }
      await opened.store.close();
      const last = await openIn(folder);
      assert.deepEqual(last.texts, Object.fromEntries(model));
      await last.store.close();
    }),
    seeded(t, 25),
  );
});

/** Starts a process that writes into the store of a folder, and kills it in the middle. @returns how many batches it said are down. */
async function killedWriter(folder: string, durability: Durability, round: number): Promise<number> {
  const worker = startService(process.execPath, [join(here, "store-worker.js"), folder, durability]);
  await worker.firstLine;
  const said = await new Promise<number>((resolve) => {
    let last = 0;
    let rest = "";
    worker.process.stdout?.on("data", (chunk: string) => {
      const lines = (rest + chunk).split("\n");
      rest = lines.pop() ?? "";
      last = Number(lines.at(-1) ?? last);
      if (lines.length > 0 && last % 7 === round % 7) worker.process.kill("SIGKILL");
    });
    worker.process.stdout?.on("end", () => resolve(last));
  });
  await worker.exited;
  return said;
}

/** Whether a store has all that its writer said is down, and no batch in part. */
async function checkWritten(folder: string, said: number, knobs: Knobs = {}): Promise<void> {
  const { store, records, lines } = await openIn(folder, knobs);
  assert.deepEqual(lines, []);
  const last = records.get("last")?.readUInt32LE(0) ?? 0;
  assert.ok(last >= said, `${said} was said to be down, ${last} is there`);
  for (let batch = 1; batch <= last; batch += 1) {
    const isThere = batch % 3 !== 2 || batch === last;
    assert.equal(records.get(`record ${batch}`)?.readUInt32LE(0), isThere ? batch : undefined, `record ${batch}`);
  }
  assert.equal(records.has(`record ${last + 1}`), false);
  await store.close();
}

for (const durability of ["process", "power"] as const) {
  test(`a process killed while it writes has lost nothing it was told is down (${durability})`, async () => {
    await using temp = makeTemp();
    const folder = join(temp.path, "store");
    for (let round = 0; round < 8; round += 1) {
      await checkWritten(folder, await killedWriter(folder, durability, round));
    }
  });
}

for (const chance of [0, 0.5]) {
  test(`nor has a machine whose power is cut, with durability power, if ${chance} of what was not synced is left`, async () => {
    await using disk = await startStrictDisk(chance);
    const folder = join(disk.path, "store");
    for (let round = 0; round < 8; round += 1) {
      const said = await killedWriter(folder, "power", round);
      await disk.cut();
      await checkWritten(folder, said, { durability: "power" });
      // What a start has found is there after the next cut as well, however it ended.
      await disk.cut();
      await checkWritten(folder, said, { durability: "power" });
    }
  });
}

/** A store with records in the table and in the journal, as its server died. */
async function deadStore(parent: string): Promise<{ folder: string; texts: Record<string, string>[] }> {
  const alive = join(parent, "alive");
  const first = await openIn(alive);
  first.store.put("kept", text("in the table"));
  first.store.put("changed", text("in the table"));
  await first.store.close();
  const { store } = await openIn(alive);
  const texts = [{ kept: "in the table", changed: "in the table" }] as Record<string, string>[];
  for (const value of ["one", "two"]) {
    store.put("changed", text(value));
    store.add(`added ${value}`, text(value));
    await down(store);
    texts.push({ ...texts.at(-1), changed: value, [`added ${value}`]: value });
  }
  const folder = join(parent, "dead");
  cpSync(alive, folder, { recursive: true });
  await store.close();
  return { folder, texts };
}

test("a journal cut at any byte is read up to its last whole batch", async () => {
  await using temp = makeTemp();
  const { folder, texts } = await deadStore(temp.path);
  const [name] = readdirSync(folder).filter((file) => file.startsWith("journal-")) as [string];
  const bytes = readFileSync(join(folder, name));
  const seen = new Set<number>();
  for (let length = bytes.length; length >= 0; length -= 1) {
    const copy = join(temp.path, `cut ${length}`);
    cpSync(folder, copy, { recursive: true });
    // Some file systems leave zeros where data was lost.
    const zeros = length % 2 === 0 ? 0 : bytes.length - length;
    writeFileSync(join(copy, name), Buffer.concat([bytes.subarray(0, length), Buffer.alloc(zeros)]));
    const { store, texts: found, lines } = await openIn(copy);
    const index = texts.findIndex((expected) => JSON.stringify(expected) === JSON.stringify(sorted(found, expected)));
    assert.ok(index >= 0, `cut at ${length}: ${JSON.stringify(found)}`);
    assert.deepEqual(lines, []);
    seen.add(index);
    await store.close();
  }
  assert.deepEqual([...seen].sort(), [0, 1, 2]);
});

/** `found` with its keys in the order of `like`. */
function sorted(found: Record<string, string>, like: Record<string, string>): Record<string, string> {
  const keys = Object.keys(found).sort((a, b) => Object.keys(like).indexOf(a) - Object.keys(like).indexOf(b));
  return Object.fromEntries(keys.map((key) => [key, found[key] as string]));
}

test("a journal with any byte changed is set aside, and the start knows nothing", async () => {
  await using temp = makeTemp();
  const { folder } = await deadStore(temp.path);
  const [name] = readdirSync(folder).filter((file) => file.startsWith("journal-")) as [string];
  const bytes = readFileSync(join(folder, name));
  for (let at = 0; at < bytes.length; at += 1) {
    const copy = join(temp.path, "flipped", String(at));
    cpSync(folder, copy, { recursive: true });
    const flipped = Buffer.from(bytes);
    flipped.writeUInt8(flipped.readUInt8(at) ^ (1 << (at % 8)), at);
    writeFileSync(join(copy, name), flipped);
    const { store, texts, lines } = await openIn(copy);
    assert.deepEqual(texts, {}, `byte ${at}`);
    assert.equal(lines.length, 1);
    assert.match(lines[0] as string, /cannot be used and is now .*\.damaged-.*: journal file \d+ is damaged$/);
    store.put("new", text("life"));
    await store.close();
  }
  const { store, texts } = await openIn(join(temp.path, "flipped", "0"));
  assert.deepEqual(texts, { new: "life" });
  await store.close();
});

test("a table with anything wrong never stops the start and never gives a wrong record", async () => {
  await using temp = makeTemp();
  const { folder, texts } = await deadStore(temp.path);
  const right = Object.assign({}, ...texts.map((state) => state)) as Record<string, string>;
  const table = join(folder, "level");
  const files = readdirSync(table).filter((file) => !["LOCK", "LOG", "LOG.old"].includes(file));
  let setAside = 0;
  for (const file of files) {
    const bytes = readFileSync(join(table, file));
    const faults: [string, Buffer | undefined][] = [
      ["empty", Buffer.alloc(0)],
      ["cut", bytes.subarray(0, bytes.length >> 1)],
      ["zeros", Buffer.alloc(bytes.length)],
    ];
    for (let at = 0; at < bytes.length; at += Math.max(1, bytes.length >> 5)) {
      const flipped = Buffer.from(bytes);
      flipped.writeUInt8(flipped.readUInt8(at) ^ 0x10, at);
      faults.push([`byte ${at}`, flipped]);
    }
    for (const [fault, content] of faults) {
      const copy = join(temp.path, "broken", `${file} ${fault}`);
      cpSync(folder, copy, { recursive: true });
      writeFileSync(join(copy, "level", file), content as Buffer);
      const { store, texts: found } = await openIn(copy);
      if (setAsideIn(copy).some((name) => name.startsWith(`${file} ${fault}.`))) {
        setAside += 1;
        assert.deepEqual(found, {});
      }
      for (const [key, value] of Object.entries(found)) {
        assert.ok(value === right[key] || value === "in the table" || value === "one", `${file} ${fault}: ${key}`);
      }
      await store.close();
    }
  }
  assert.ok(setAside > 0);
});

test("a journal file that is missing, and a store of another format, are set aside", async () => {
  await using temp = makeTemp();
  const { folder } = await deadStore(temp.path);
  const [name] = readdirSync(folder).filter((file) => file.startsWith("journal-")) as [string];
  const gap = join(temp.path, "gap");
  cpSync(folder, gap, { recursive: true });
  const bytes = readFileSync(join(gap, name));
  const later = Number(name.slice("journal-".length)) + 1;
  bytes.writeUInt32LE(later + 1, 12);
  writeFileSync(join(gap, `journal-${later + 1}`), bytes);
  const first = await openIn(gap);
  assert.deepEqual(first.texts, {});
  assert.match(first.lines.join(), new RegExp(`journal file ${later} is missing`));
  await first.store.close();

  const other = join(temp.path, "other");
  cpSync(folder, other, { recursive: true });
  bytes.writeUInt32LE(9, 8);
  writeFileSync(join(other, name), bytes);
  const second = await openIn(other);
  assert.deepEqual(second.texts, {});
  assert.equal(second.lines.length, 1);
  await second.store.close();
});

test("of stores set aside the latest few are kept", async () => {
  await using temp = makeTemp();
  const folder = join(temp.path, "store");
  for (let round = 0; round < 8; round += 1) {
    const { store } = await openIn(folder);
    store.put("a", text(String(round)));
    await store.close();
    writeFileSync(join(folder, "level", "CURRENT"), "nonsense");
  }
  assert.equal(setAsideIn(folder).length, 4);
});

test("a second server on the same folder is refused, and the first one goes on", async () => {
  await using temp = makeTemp();
  const folder = join(temp.path, "store");
  const { store } = await openIn(folder);
  store.put("a", text("1"));
  const worker = startService(process.execPath, [join(here, "store-worker.js"), folder, "process"]);
  await assert.rejects(worker.firstLine, /EBUSY/);
  await assert.rejects(openIn(folder), (error) => error instanceof FsError && error.errno === "EBUSY");
  store.put("b", text("2"));
  await store.close();
  const { store: again, texts } = await openIn(folder);
  assert.deepEqual(texts, { a: "1", b: "2" });
  assert.deepEqual(setAsideIn(folder), []);
  await again.close();
});

test("changes beyond what the journal may hold wait for the table, and everyone is told in order", async () => {
  await using temp = makeTemp();
  for (const durability of ["process", "power"] as const) {
    const folder = join(temp.path, durability);
    const { store } = await openIn(folder, { durability, fileBytes: 1000, fileBytesMax: 4000 });
    const told: number[] = [];
    for (let number = 0; number < 200; number += 1) {
      store.put(`key ${number % 50}`, Buffer.alloc(500, number));
      store.afterCommit(() => told.push(number));
      if (number % 3 === 0) await new Promise((resolve) => process.nextTick(resolve));
    }
    assert.ok(told.length < 200, "some wait");
    const bytes = () =>
      readdirSync(folder)
        .filter((name) => name.startsWith("journal-"))
        .map((name) => statSync(join(folder, name)).size);
    await down(store);
    assert.deepEqual(
      told,
      Array.from({ length: 200 }, (_, index) => index),
    );
    assert.ok(bytes().length <= 2);
    await store.close();
    const again = await openIn(folder);
    assert.equal(again.records.size, 50);
    assert.equal(again.records.get("key 49")?.[0], 199);
    await again.store.close();
  }
});

test("a disk that takes no more ends the store, not the server: it is set aside and everyone is told", async () => {
  await using temp = makeTemp();
  await command("mount", ["-t", "tmpfs", "-o", "size=2m", "netdrive-test", temp.path]);
  try {
    for (const durability of ["process", "power"] as const) {
      const folder = join(temp.path, durability);
      const { store, lines } = await openIn(folder, { durability });
      store.put("small", text("1"));
      await down(store);
      for (let number = 0; number < 40; number += 1) store.put(`large ${number}`, Buffer.alloc(100_000));
      await down(store);
      assert.equal(store.figures().isGivenUp, true);
      store.put("after", text("2"));
      await down(store);
      await store.close();
      assert.match(lines[0] as string, /cannot be written; a restarted server will know no session: .*ENOSPC/);
      assert.match(lines[1] as string, /is now .*\.damaged-/);
      await command("sh", ["-c", `rm -r '${temp.path}'/*.damaged-*`]);
      const again = await openIn(folder);
      assert.deepEqual(again.texts, {});
      await again.store.close();
    }
  } finally {
    await command("umount", [temp.path]);
  }
});
