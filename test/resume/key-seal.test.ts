/** Sealed resume keys. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { KeySeal } from "../../src/resume/key-seal.ts";

const content = {
  openId: 2 ** 40 + 5,
  openedAtMs: 1_700_000_000_123,
  pid: 4321,
  epoch: 1,
  serverId: Buffer.alloc(16, 9),
};
const key = Buffer.alloc(32, 3);

test("a sealed key opens to what is in it", () => {
  const seal = new KeySeal(key, 7);
  assert.deepEqual(seal.unseal(seal.seal(content)), content);
});

test("a start opens what the starts before it have sealed, and not what a later one has", () => {
  const seals = Array.from({ length: 200 }, (_, start) => new KeySeal(key, start));
  const last = seals.at(-1) as KeySeal;
  for (const seal of seals) assert.deepEqual(last.unseal(seal.seal(content)), content);
  assert.equal((seals[198] as KeySeal).unseal(last.seal(content)), undefined);
});

test("two seals of one open differ, and hide what is in them", () => {
  const seal = new KeySeal(key, 1);
  const [first, second] = [seal.seal(content), seal.seal(content)];
  assert.notDeepEqual(first, second);
  assert.equal(first.indexOf(content.serverId), -1);
});

test("no vector comes twice", () => {
  const seal = new KeySeal(key, 1);
  const keys = [seal.seal(content), seal.seal({ ...content, openId: 6 })];
  assert.deepEqual(
    keys.map((sealed) => seal.unseal(sealed)?.openId),
    [content.openId, 6],
  );
  const vectors = keys.map((sealed) => sealed.toString("hex", 5, 17));
  assert.equal(new Set(vectors).size, 2);
});

test("a key with any bit flipped, cut, longer, or of another server is not opened", () => {
  const seal = new KeySeal(key, 1);
  const sealed = seal.seal(content);
  for (let bit = 0; bit < sealed.length * 8; bit += 1) {
    const flipped = Buffer.from(sealed);
    flipped.writeUInt8(flipped.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
    assert.equal(seal.unseal(flipped), undefined);
  }
  for (let length = 0; length < sealed.length; length += 1) {
    assert.equal(seal.unseal(sealed.subarray(0, length)), undefined);
  }
  assert.equal(seal.unseal(Buffer.concat([sealed, Buffer.alloc(1)])), undefined);
  assert.equal(new KeySeal(Buffer.alloc(32, 4), 1).unseal(sealed), undefined);
});
