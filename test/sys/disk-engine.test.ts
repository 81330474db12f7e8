import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { loadAddon } from "../../src/sys/addon.ts";
import { DiskEngine, NODE_KEY_BYTES, OPERATION, SLOT, SLOTS_MAX } from "../../src/sys/disk-engine.ts";
import { makeTemp } from "../support/temp.ts";

const bounds = { nodesMax: 100, nodeDescriptorsMax: 10, handlesMax: 10, withoutOpenat2: false, keepsUnlinked: false };

/** The addon as JavaScript sees it, for calls that no module of ours makes. */
interface Raw {
  slotLayout: Record<string, number>;
  createDiskEngine(...args: unknown[]): Record<string, (...args: unknown[]) => unknown> | number;
}

test("both sides agree on every field of a slot", () => {
  const { slotLayout } = loadAddon<Raw>();
  assert.deepEqual(Object.keys(slotLayout).sort(), Object.keys(SLOT).sort());
  assert.deepEqual({ ...slotLayout }, { ...SLOT });
});

test("a slot filled with nonsense is refused, whatever it asks for", async () => {
  await using temp = makeTemp("engine");
  const engine = new DiskEngine({ directory: temp.path, applyCredentials: true, ...bounds });
  const lookup = (field: number, value: number) => {
    const slot = engine.take();
    engine.bytes.fill(0, slot * SLOT.size, (slot + 1) * SLOT.size);
    engine.u32[(slot * SLOT.size + field) >>> 2] = value;
    return engine.run("lookup", slot, () => "done");
  };
  const refused = (errno: string, promise: Promise<unknown>) =>
    assert.rejects(promise, (error) => error instanceof FsError && error.errno === errno);
  await refused("EPERM", lookup(SLOT.credential, 1));
  await refused("EINVAL", lookup(SLOT.name_bytes, 256));
  await refused("EINVAL", lookup(SLOT.target_name_bytes, 0xffffffff));
  await refused("ESTALE", lookup(SLOT.flags, 0));
  // Every operation on slots full of ones, with a buffer: whatever it does, it is an error.
  for (const name of Object.keys(OPERATION) as (keyof typeof OPERATION)[]) {
    if (["close", "sweep", "sweepKept", "syncfs", "root"].includes(name)) continue;
    const slot = engine.take();
    engine.bytes.fill(0xff, slot * SLOT.size, (slot + 1) * SLOT.size);
    for (const field of [SLOT.credential, SLOT.name_bytes, SLOT.target_name_bytes])
      engine.u32[(slot * SLOT.size + field) >>> 2] = 0;
    await assert.rejects(
      engine.run(name, slot, () => "done", Buffer.alloc(64)),
      FsError,
      name,
    );
  }
  assert.deepEqual([engine.counters().handles, engine.counters().pending], [0, 0]);
  await engine.close();
});

test("slots run out and come back", async () => {
  await using temp = makeTemp("engine");
  const engine = new DiskEngine({ directory: temp.path, applyCredentials: false, ...bounds });
  const taken = Array.from({ length: SLOTS_MAX }, () => engine.take());
  assert.equal(new Set(taken).size, SLOTS_MAX);
  assert.equal(engine.take(), -1);
  for (const slot of taken) engine.give(slot);
  assert.ok(engine.take() >= 0);
  await engine.close();
});

test("the addon refuses arguments of the wrong kind with a TypeError", async () => {
  await using temp = makeTemp("engine");
  const addon = loadAddon<Raw>();
  const good: unknown[] = [Buffer.from(temp.path), 0, 8, 100, 10, 10, 0, 0, () => {}];
  for (let index = 0; index < good.length; index++)
    assert.throws(() => addon.createDiskEngine(...good.with(index, {})), /wrong argument|failed/);
  assert.throws(() => addon.createDiskEngine(), TypeError);
  assert.throws(() => addon.createDiskEngine(...good.with(2, 0)), TypeError);
  assert.throws(() => addon.createDiskEngine(...good.with(0, Buffer.from("/tmp\0x"))), TypeError);
  assert.equal(addon.createDiskEngine(...good.with(0, Buffer.from("/nowhere"))), -2);
  const engine = addon.createDiskEngine(...good) as Record<string, (...args: unknown[]) => unknown>;
  for (const args of [[], ["x"], [8], [-1], [0, "x"], [0, {}], [0, new Uint8Array(1).buffer]])
    assert.throws(() => engine["submit"]?.(...args), TypeError, JSON.stringify(args));
  for (const args of [[], ["x"], [8]]) assert.throws(() => engine["attempt"]?.(...args), TypeError);
  assert.throws(() => engine["cancel"]?.(8), TypeError);
  assert.throws(() => engine["credential"]?.(1), TypeError);
  assert.throws(() => engine["credential"]?.(1, 1, "x"), TypeError);
  assert.throws(() => engine["forget"]?.("x"), TypeError);
  assert.throws(() => engine["discard"]?.(), TypeError);
  for (const args of [[], [1], [1, "x"], [Buffer.alloc(15), Buffer.alloc(99)]])
    assert.throws(() => engine["describe"]?.(...args), TypeError);
  assert.equal(engine["describe"]?.(12345, Buffer.alloc(1)), -9);
  assert.equal(engine["describe"]?.(Buffer.alloc(NODE_KEY_BYTES), Buffer.alloc(99)), -116);
  engine["forget"]?.(Buffer.alloc(NODE_KEY_BYTES + 3));
  engine["discard"]?.(12345);
  engine["close"]?.();
  assert.equal(engine["submit"]?.(0), -9);
  assert.equal(engine["attempt"]?.(0), -9);
});
