/** Pooled buffers: bounds, reserves, turns. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { BufferPool, type PoolUser, pooledBytes } from "../../src/base/buffer-pool.ts";
import { seeded } from "../support/seed.ts";

const KIB = 1024;
const LIMITS = { bytesMax: 256 * KIB, bytesPerUserMax: 128 * KIB, bytesPerUserReserved: 32 * KIB, usersMax: 4 };

function users(pool: BufferPool, count: number): PoolUser[] {
  return Array.from({ length: count }, () => pool.addUser() as PoolUser);
}

test("a buffer is the smallest power of four times 4 KiB that is enough", () => {
  assert.deepEqual([1, 4096, 4097, 16_384, 16_385, 1 << 20, (1 << 20) + 1].map(pooledBytes), [
    4096,
    4096,
    16_384,
    16_384,
    65_536,
    1 << 20,
    1 << 22,
  ]);
});

test("a user gets its own maximum and no more, and its waiters are served in order", () => {
  const pool = new BufferPool(LIMITS);
  const [user] = users(pool, 1) as [PoolUser];
  const buffers = Array.from({ length: 8 }, () => user.tryTake(16 * KIB));
  assert.ok(buffers.every((buffer) => buffer !== undefined));
  assert.equal(user.tryTake(1), undefined);
  const order: string[] = [];
  user.take(16 * KIB, () => order.push("first"));
  user.take(1, () => order.push("second"));
  const giveUp = user.take(1, () => order.push("gone"));
  user.take(1, () => order.push("third"));
  assert.equal(user.tryTake(1), undefined, "nobody passes a waiter");
  giveUp();
  user.give(buffers[0] as Buffer);
  assert.deepEqual(order, ["first"]);
  user.give(buffers[1] as Buffer);
  assert.deepEqual(order, ["first", "second", "third"]);
});

test("a user that gives nothing back leaves others their reserve", () => {
  const pool = new BufferPool(LIMITS);
  const [a, b, c, d] = users(pool, 4) as [PoolUser, PoolUser, PoolUser, PoolUser];
  for (const greedy of [a, b]) while (greedy.tryTake(16 * KIB) !== undefined);
  assert.ok(pool.lentBytes <= LIMITS.bytesMax - 2 * LIMITS.bytesPerUserReserved);
  for (const modest of [c, d]) {
    const first = modest.tryTake(16 * KIB);
    const second = modest.tryTake(16 * KIB);
    assert.ok(first !== undefined && second !== undefined);
    assert.equal(modest.tryTake(4 * KIB), undefined);
    modest.give(first);
    assert.ok(modest.tryTake(16 * KIB) !== undefined);
  }
  assert.ok(pool.lentBytes <= LIMITS.bytesMax);
});

test("waiting users take turns", () => {
  const pool = new BufferPool({ ...LIMITS, bytesMax: 160 * KIB, bytesPerUserMax: 96 * KIB });
  const [a, b, c] = users(pool, 3) as [PoolUser, PoolUser, PoolUser];
  const held: Buffer[] = [];
  for (let buffer = a.tryTake(16 * KIB); buffer !== undefined; buffer = a.tryTake(16 * KIB)) held.push(buffer);
  const order: string[] = [];
  for (const [user, name] of [
    [b, "b"],
    [c, "c"],
  ] as const) {
    for (let index = 0; index < 4; index += 1) user.take(16 * KIB, () => order.push(name));
  }
  assert.equal(order.join(""), "bbcc", "their reserves");
  a.give(held.pop() as Buffer);
  a.give(held.pop() as Buffer);
  assert.equal(order.join(""), "bbccbc");
});

test("users are bounded; a closed one goes when its last buffer is back", () => {
  const pool = new BufferPool(LIMITS);
  const [first] = users(pool, 4) as [PoolUser];
  assert.equal(pool.addUser(), undefined);
  const buffer = first.tryTake(1) as Buffer;
  first.close();
  first.close();
  assert.equal(pool.addUser(), undefined);
  first.give(buffer);
  assert.ok(pool.addUser() !== undefined);
  assert.equal(pool.addUser(), undefined);
});

test("buffers kept for later make room when another size is wanted", () => {
  const pool = new BufferPool({
    bytesMax: 64 * KIB,
    bytesPerUserMax: 64 * KIB,
    bytesPerUserReserved: 64 * KIB,
    usersMax: 1,
  });
  const [user] = users(pool, 1) as [PoolUser];
  const small = Array.from({ length: 16 }, () => user.tryTake(1) as Buffer);
  for (const buffer of small) user.give(buffer);
  const again = user.tryTake(1) as Buffer;
  assert.ok(small.includes(again));
  user.give(again);
  assert.equal((user.tryTake(64 * KIB) as Buffer).length, 64 * KIB);
});

test("whatever is taken and given, the bounds hold and at rest nothing is lent", (t) => {
  const action = fc.record({
    user: fc.nat({ max: 3 }),
    bytes: fc.integer({ min: 1, max: 16 * KIB }),
    kind: fc.constantFrom("try", "take", "give", "giveUp"),
  });
  fc.assert(
    fc.property(fc.array(action, { maxLength: 200 }), (actions) => {
      const pool = new BufferPool(LIMITS);
      const all = users(pool, 4);
      const held: Buffer[][] = [[], [], [], []];
      const waits: (() => void)[][] = [[], [], [], []];
      for (const { user: at, bytes, kind } of actions) {
        const user = all[at] as PoolUser;
        const mine = held[at] as Buffer[];
        if (kind === "try") {
          const buffer = user.tryTake(bytes);
          if (buffer !== undefined) mine.push(buffer);
        } else if (kind === "take") waits[at]?.push(user.take(bytes, (buffer) => mine.push(buffer)));
        else if (kind === "give" && mine.length > 0) user.give(mine.shift() as Buffer);
        else waits[at]?.pop()?.();
        assert.ok(pool.lentBytes <= LIMITS.bytesMax);
        for (const [index, one] of all.entries()) {
          const bytesHeld = (held[index] as Buffer[]).reduce((sum, buffer) => sum + buffer.length, 0);
          assert.equal(one.usedBytes, bytesHeld);
          assert.ok(bytesHeld <= LIMITS.bytesPerUserMax);
          assert.ok(!one.isWaiting || bytesHeld > 0, "nobody waits who has nothing");
        }
      }
      for (let round = 0; round < 400; round += 1) {
        for (const [index, one] of all.entries()) {
          const buffer = held[index]?.shift();
          if (buffer !== undefined) one.give(buffer);
        }
      }
      assert.equal(pool.lentBytes, 0);
      assert.ok(all.every((one) => !one.isWaiting));
    }),
    seeded(t, 200),
  );
});
