/**
 * The addon's half of the driver on a socket instead of /dev/fuse: who has which slot, and when the end comes.
 */
import assert from "node:assert/strict";
import { closeSync, readSync, writeSync } from "node:fs";
import { test } from "node:test";
import { loadAddon } from "../../src/sys/addon.ts";
import { createFuseDevice, type FuseDevice } from "../../src/sys/fuse-device.ts";

const DATA_BYTES_MAX = 64 * 1024;
const EAGAIN = 11;
const ENODEV = 19;
const ECONNABORTED = 103;

interface Native {
  fuseSocketPair(): [number, number];
  fuseCreateDevice(...args: unknown[]): { device: object };
  fuseStartDevice(...args: unknown[]): unknown;
  fuseReply(...args: unknown[]): unknown;
  fuseReplyWith(...args: unknown[]): unknown;
  fuseReturnSlot(...args: unknown[]): unknown;
}
const native = loadAddon<Native>();

/** A device with a request source at the other end; `next` waits for a request, `keep` says whether its slot is kept. */
function started(slotCount: number, keep = false) {
  const [ours, theirs] = native.fuseSocketPair();
  const device = createFuseDevice(ours, slotCount, DATA_BYTES_MAX);
  const seen: { slot: number; text: string }[] = [];
  const waiting: (() => void)[] = [];
  let end: (errno: number) => void = () => {};
  const ended = new Promise<number>((resolve) => {
    end = resolve;
  });
  const sent: [number, number][] = [];
  device.start({
    request(slot, bytes) {
      const at = device.requestOffset(slot);
      seen.push({ slot, text: device.pool.toString("latin1", at, at + bytes) });
      waiting.shift()?.();
      return !keep;
    },
    sent(slot, refusal) {
      sent.push([slot, refusal]);
      waiting.shift()?.();
    },
    end,
  });
  const send = (text: string) => writeSync(theirs, text);
  /** Sends and waits until it was handed over. */
  const ask = async (text: string) => {
    const heard = new Promise<void>((resolve) => waiting.push(resolve));
    send(text);
    await heard;
    return seen.at(-1) as { slot: number; text: string };
  };
  return { device, theirs, seen, sent, waiting, send, ask, ended };
}

function heard(theirs: number): string {
  const bytes = Buffer.alloc(1024);
  return bytes.toString("latin1", 0, readSync(theirs, bytes));
}

const settle = () => new Promise((resolve) => setImmediate(() => setImmediate(resolve)));

test("a request arrives in a slot, with room for the head of a WRITE before the data", async () => {
  const { device, theirs, ask, ended } = started(4);
  assert.deepEqual(await ask("a request"), { slot: 0, text: "a request" });
  assert.equal(device.dataOffset(1) - device.requestOffset(1), 80);
  closeSync(theirs);
  assert.equal(await ended, ENODEV);
});

test("replies are bytes of the pool, alone or with a payload behind", async () => {
  const { device, theirs, ask } = started(4);
  await ask("x");
  const scratch = device.dataOffset(device.slotCount);
  device.pool.write("head", scratch - 16);
  assert.equal(device.reply(scratch - 16, 4, -1), 0);
  assert.equal(heard(theirs), "head");
  assert.equal(device.replyWith(scratch - 16, 4, Buffer.from(" and payload")), 0);
  assert.equal(heard(theirs), "head and payload");
  assert.equal(device.replyWith(scratch - 16, 4, Buffer.alloc(0)), 0);
  assert.equal(heard(theirs), "head");
  device.close();
  closeSync(theirs);
});

test("a large reply is sent by another thread, which says when it has gone out", async () => {
  const { device, theirs, sent, waiting, ask } = started(4, true);
  const { slot } = await ask("read");
  const start = device.dataOffset(slot);
  device.pool.write("large", start);
  const gone = new Promise<void>((resolve) => waiting.push(resolve));
  assert.equal(device.replyLater(start, 5, slot), 0);
  await gone;
  assert.equal(heard(theirs), "large");
  assert.deepEqual(sent, [[slot, 0]]);
  const refused = new Promise<void>((resolve) => waiting.push(resolve));
  // Nobody listens, so the socket takes no more in the end.
  while (device.reply(start, 60_000, -1) === 0);
  assert.equal(device.replyLater(start, 60_000, slot), 0);
  await refused;
  assert.deepEqual(sent[1], [slot, EAGAIN]);
  device.close();
  assert.equal(device.replyLater(start, 5, slot), ENODEV);
  closeSync(theirs);
});

test("closing while large replies are under way waits for the one that is being sent, and for no other", async () => {
  const { device, theirs, ended, ask } = started(8, true);
  const { slot } = await ask("read");
  for (let i = 0; i < 8; i++) device.replyLater(device.dataOffset(slot), 60_000, slot);
  device.close();
  assert.equal(await ended, ECONNABORTED);
  closeSync(theirs);
});

test("a kept slot is not read into; without a free slot nothing is read until one comes back", async () => {
  const { device, theirs, seen, send, ask } = started(2, true);
  const first = await ask("first");
  const second = await ask("second");
  assert.notEqual(first.slot, second.slot);
  send("third");
  await settle();
  assert.equal(seen.length, 2);
  assert.equal(
    device.pool.toString("latin1", device.requestOffset(first.slot), device.requestOffset(first.slot) + 5),
    "first",
  );
  const third = ask("");
  device.returnSlot(first.slot);
  await third;
  assert.deepEqual(seen.at(-1), { slot: first.slot, text: "third" });
  const fourth = ask("fourth");
  device.reply(device.dataOffset(2), 1, second.slot);
  await fourth;
  assert.equal(seen.at(-1)?.slot, second.slot, "a reply gives its slot back");
  device.close();
  closeSync(theirs);
});

test("closing from our side ends it once, and what comes afterwards harms nothing", async () => {
  const { device, theirs, ended, ask } = started(2);
  await ask("x");
  device.close();
  device.close();
  assert.equal(await ended, ECONNABORTED);
  assert.notEqual(device.reply(0, 16, -1), 0);
  device.returnSlot(0);
  closeSync(theirs);
});

test("it can be closed while a request is handed over", async () => {
  const [ours, theirs] = native.fuseSocketPair();
  const device: FuseDevice = createFuseDevice(ours, 2, DATA_BYTES_MAX);
  const ended = new Promise<number>((resolve) => {
    device.start({
      request() {
        device.close();
        return true;
      },
      sent() {},
      end: resolve,
    });
  });
  writeSync(theirs, "x");
  assert.equal(await ended, ECONNABORTED);
  closeSync(theirs);
});

test("a programmer's mistakes are errors, not crashes", () => {
  const [ours, theirs] = native.fuseSocketPair();
  for (const [slots, bytes] of [
    [1, 65536],
    [257, 65536],
    [4, 4095],
    [4, 5000],
    [4, 32 << 20],
  ] as const) {
    assert.throws(() => native.fuseCreateDevice(ours, slots, bytes), /out of range/);
  }
  const { device } = native.fuseCreateDevice(ours, 2, 65536);
  const poolBytes = 3 * (4096 + 65536);
  assert.throws(() => native.fuseReply(device, poolBytes, 1, -1), /outside of the pool/);
  assert.throws(() => native.fuseReply(device, 8, poolBytes, -1), /outside of the pool/);
  assert.throws(() => native.fuseReply(device, 0, 0xffffffff, -1), /outside of the pool/);
  assert.throws(() => native.fuseReply(device, 0, 1, 2), /outside of the pool/);
  assert.throws(() => native.fuseReplyWith(device, poolBytes, 1, Buffer.alloc(1)), /outside of the pool/);
  assert.throws(() => native.fuseReplyWith(device, 0, 1, "no buffer"));
  assert.throws(() => native.fuseReturnSlot(device, 2), /no such slot/);
  assert.throws(() => native.fuseReturnSlot(device, -1), /no such slot/);
  assert.throws(() => native.fuseReply({}, 0, 1, -1), /expected a FUSE device/);
  const nothing = () => 0;
  native.fuseStartDevice(device, {}, nothing, nothing, nothing);
  assert.throws(() => native.fuseStartDevice(device, {}, nothing, nothing, nothing), /started before/);
  (native as unknown as { fuseCloseDevice(device: object): void }).fuseCloseDevice(device);
  closeSync(theirs);
});
