/** Who gets a lock, who waits and in which order, against a model that keeps every byte of every locker by itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Locker, LockSpace, reachedFrom, type Waiter, type Wish } from "../../../src/server/locks/lock-space.ts";
import type { HeldType } from "../../../src/vfs/lock.ts";
import { seeded } from "../../support/seed.ts";

const BYTES = 8;
const LOCKERS = 5;
const SPACES = 2;

type Open = string;
type Bytes = (HeldType | undefined)[];

const wish = (locker: Locker<Open>, type: HeldType, start: number, end: number, through = "open"): Wish<Open> => ({
  locker,
  through,
  type,
  startBytes: BigInt(start),
  endBytes: BigInt(end),
});

/** Spaces and lockers as a server keeps them, beside a model of plain arrays. */
class Room {
  readonly spaces = Array.from({ length: SPACES }, () => new LockSpace<Open>());
  readonly lockers = Array.from({ length: LOCKERS }, () => new Locker<Open>());
  readonly reserved: Waiter<Open>[] = [];
  /** By space, locker and byte. */
  readonly model: Bytes[][] = this.spaces.map(() => this.lockers.map(() => new Array(BYTES).fill(undefined) as Bytes));
  granted = 0;
  failed = 0;

  bytesOf(space: LockSpace<Open>, locker: Locker<Open>): Bytes {
    return this.model[this.spaces.indexOf(space)]?.[this.lockers.indexOf(locker)] as Bytes;
  }

  fill({ locker, startBytes, endBytes }: Wish<Open>, space: LockSpace<Open>, type: HeldType | undefined): void {
    this.bytesOf(space, locker).fill(type, Number(startBytes), Number(endBytes) + 1);
  }

  /** Whether the model has something of others in the way. */
  isBlocked(space: LockSpace<Open>, asked: Wish<Open>): boolean {
    const inWay = (type: HeldType | undefined) => type !== undefined && (type === "write" || asked.type === "write");
    const isHeld = this.lockers.some(
      (locker) =>
        locker !== asked.locker &&
        this.bytesOf(space, locker)
          .slice(Number(asked.startBytes), Number(asked.endBytes) + 1)
          .some(inWay),
    );
    return (
      isHeld ||
      this.reserved.some(
        (other) =>
          other.space === space &&
          other.locker !== asked.locker &&
          inWay(other.type) &&
          other.startBytes <= asked.endBytes &&
          asked.startBytes <= other.endBytes,
      )
    );
  }

  ask(space: LockSpace<Open>, asked: Wish<Open>, wait: boolean): void {
    const isBlocked = space.obstacle(asked) !== undefined;
    assert.equal(isBlocked, this.isBlocked(space, asked));
    if (!isBlocked && !(wait && space.isBehind(asked))) {
      space.hold(asked);
      this.fill(asked, space, asked.type);
      this.checkDeadlocks(space, asked.locker);
    } else if (wait) {
      if (space.isDeadlock(asked)) this.failed += 1;
      else space.wait({ ...asked, space });
    }
    this.wakeAll();
  }

  unlock(space: LockSpace<Open>, asked: Wish<Open>): void {
    space.unlock(asked.locker, asked);
    this.fill(asked, space, undefined);
    this.wakeAll();
  }

  dismiss(waiter: Waiter<Open>): void {
    const at = this.reserved.indexOf(waiter);
    assert.equal(waiter.space.dismiss(waiter), at >= 0);
    if (at >= 0) this.reserved.splice(at, 1);
    this.wakeAll();
  }

  /** The locker asks again for what is reserved. */
  take(waiter: Waiter<Open>): void {
    this.reserved.splice(this.reserved.indexOf(waiter), 1);
    assert.equal(waiter.space.dismiss(waiter), true);
    waiter.space.hold(waiter);
    this.fill(waiter, waiter.space, waiter.type);
    this.granted += 1;
    // What he held more strongly may suit somebody now.
    this.wakeAll();
  }

  /** Until nobody can be helped any more. */
  wakeAll(): void {
    for (let changed = true; changed; ) {
      changed = false;
      for (const space of this.spaces) {
        for (const waiter of [...space.waiters]) {
          if (!space.waiters.includes(waiter) || space.obstacle(waiter) !== undefined || space.isBehind(waiter))
            continue;
          space.reserve(waiter);
          this.reserved.push(waiter);
          this.checkDeadlocks(space, waiter.locker);
          changed = true;
        }
      }
    }
  }

  checkDeadlocks(space: LockSpace<Open>, locker: Locker<Open>): void {
    if (locker.waiters.size === 0) return;
    for (const waiter of [...space.waiters]) {
      if (!space.isDeadlock(waiter)) continue;
      space.dismiss(waiter);
      this.failed += 1;
    }
  }

  get waiters(): Waiter<Open>[] {
    return this.spaces.flatMap(({ waiters }) => waiters);
  }

  check(): void {
    for (const space of this.spaces) {
      space.checkInvariants();
      for (const locker of this.lockers) {
        const bytes: Bytes = new Array(BYTES).fill(undefined);
        for (const { startBytes, endBytes, type } of space.rangesOf(locker)?.all ?? []) {
          bytes.fill(type, Number(startBytes), Number(endBytes) + 1);
        }
        assert.deepEqual(bytes, this.bytesOf(space, locker));
      }
    }
    for (const locker of this.lockers) {
      const blockers = new Set<Locker<Open>>();
      for (const waiter of locker.waiters) {
        if (waiter.space.isReserved(waiter)) continue;
        for (const obstacle of waiter.space.obstacles(waiter)) blockers.add(obstacle.locker);
      }
      assert.equal(reachedFrom(blockers, "held")?.has(locker), false, "nobody waits for himself");
    }
    for (const waiter of this.waiters) {
      const { space } = waiter;
      const earlier = space.waiters.slice(0, space.waiters.indexOf(waiter));
      const inWay = earlier.filter(
        (other) =>
          other.locker !== waiter.locker &&
          (other.type === "write" || waiter.type === "write") &&
          other.startBytes <= waiter.endBytes &&
          waiter.startBytes <= other.endBytes,
      );
      assert.ok(this.isBlocked(space, waiter) || inWay.length > 0, "nobody waits for nothing");
    }
  }

  /** Every locker that waits for nothing gives up what it has, as long as there is one: then nobody may be left waiting. */
  wind(): void {
    for (let rounds = 0; this.waiters.length > 0 || this.reserved.length > 0; rounds += 1) {
      assert.ok(rounds < 1000, "it comes to an end");
      for (const waiter of [...this.reserved]) this.take(waiter);
      const free = this.lockers.filter((locker) => locker.waiters.size === 0);
      assert.ok(free.length > 0, "somebody can go on");
      for (const locker of free) {
        for (const space of this.spaces) this.unlock(space, wish(locker, "write", 0, BYTES - 1));
      }
      this.check();
    }
  }
}

const step = fc.record({
  op: fc.constantFrom("try", "wait", "wait", "wait", "unlock", "cancel", "take", "take"),
  space: fc.nat({ max: SPACES - 1 }),
  locker: fc.nat({ max: LOCKERS - 1 }),
  type: fc.constantFrom<HeldType>("read", "write"),
  from: fc.nat({ max: BYTES - 1 }),
  to: fc.nat({ max: BYTES - 1 }),
  pick: fc.nat(),
});

test("locks of many lockers in several files never conflict, deadlocks are found, and everybody's turn comes", (t) => {
  let granted = 0;
  let failed = 0;
  fc.assert(
    fc.property(fc.array(step, { minLength: 10, maxLength: 80, size: "max" }), (steps) => {
      const room = new Room();
      for (const { op, space: at, locker, type, from, to, pick } of steps) {
        const space = room.spaces[at] as LockSpace<Open>;
        const asked = wish(room.lockers[locker] as Locker<Open>, type, Math.min(from, to), Math.max(from, to));
        if (op === "try" || op === "wait") room.ask(space, asked, op === "wait");
        else if (op === "unlock") room.unlock(space, asked);
        else {
          const some = op === "take" ? room.reserved : [...room.waiters, ...room.reserved];
          const waiter = some[pick % some.length];
          if (waiter === undefined) continue;
          if (op === "take") room.take(waiter);
          else room.dismiss(waiter);
        }
        room.check();
      }
      room.wind();
      granted += room.granted;
      failed += room.failed;
      for (const locker of room.lockers) assert.equal(locker.waiters.size, 0);
    }),
    seeded(t, 1500),
  );
  t.diagnostic(`${granted} waits granted, ${failed} deadlocks found`);
  assert.ok(granted > 500 && failed > 50, "the histories are of use");
});

test("readers that come later stand behind a writer that waits, and go together after it", () => {
  const space = new LockSpace<Open>();
  const [holder, writer, first, second] = [0, 1, 2, 3].map(() => new Locker<Open>()) as [
    Locker<Open>,
    Locker<Open>,
    Locker<Open>,
    Locker<Open>,
  ];
  space.hold(wish(holder, "read", 0, 7));
  space.wait({ ...wish(writer, "write", 0, 7), space });
  const readers = [first, second].map((locker) => ({ ...wish(locker, "read", 0, 3), space }));
  for (const reader of readers) {
    assert.equal(space.obstacle(reader), undefined);
    assert.equal(space.isBehind(reader), true);
    space.wait(reader);
  }
  space.unlock(holder, wish(holder, "read", 0, 7));
  const [waiting] = space.waiters as [Waiter<Open>];
  assert.equal(space.isBehind(waiting), false);
  space.reserve(waiting);
  assert.ok(readers.every((reader) => space.obstacle(reader)?.locker === writer));
  space.dismiss(waiting);
  assert.ok(readers.every((reader) => space.obstacle(reader) === undefined && !space.isBehind(reader)));
});

test("who holds what an earlier one waits for does not stand behind him", () => {
  const space = new LockSpace<Open>();
  const [holder, writer] = [new Locker<Open>(), new Locker<Open>()];
  space.hold(wish(holder, "read", 0, 3));
  space.wait({ ...wish(writer, "write", 0, 7), space });
  const more = wish(holder, "read", 0, 5);
  assert.equal(space.isDeadlock(more), false);
  assert.equal(space.isBehind(more), false, "they would wait for each other");
});

test("who is away is passed over and keeps his place", () => {
  const space = new LockSpace<Open>();
  let isAway = true;
  const [absent, present] = [new Locker<Open>({ isAway: () => isAway }), new Locker<Open>()];
  space.wait({ ...wish(absent, "write", 0, 7), space });
  const asked = { ...wish(present, "write", 0, 7), space };
  assert.equal(space.isBehind(asked), false);
  isAway = false;
  assert.equal(space.isBehind(asked), true);
});

test("everything made through an open goes with it, and nothing else", () => {
  const space = new LockSpace<Open>();
  const tally = { count: 0 };
  const [a, b] = [new Locker<Open>({ tally }), new Locker<Open>({ tally })];
  space.hold(wish(a, "write", 0, 3, "one"));
  space.hold(wish(a, "write", 4, 7, "two"));
  space.wait({ ...wish(b, "write", 2, 2, "one"), space });
  space.wait({ ...wish(b, "read", 5, 5, "two"), space });
  assert.equal(tally.count, 2);
  const gone = space.dropThrough("one");
  assert.deepEqual(
    gone.map(({ startBytes, endBytes }) => [startBytes, endBytes]),
    [[0n, 3n]],
  );
  assert.deepEqual(
    space.waiters.map(({ through }) => through),
    ["two"],
  );
  assert.equal(tally.count, 1);
  space.dropThrough("two");
  assert.ok(space.isEmpty);
  assert.equal(tally.count, 0);
});

test("hundreds who wait for one lock are served in the order they came", () => {
  const space = new LockSpace<Open>();
  const holder = new Locker<Open>();
  space.hold(wish(holder, "write", 0, 7));
  const waiters = Array.from({ length: 1000 }, () => ({ ...wish(new Locker<Open>(), "write", 0, 7), space }));
  for (const waiter of waiters) {
    assert.equal(space.isDeadlock(waiter), false);
    space.wait(waiter);
  }
  space.unlock(holder, wish(holder, "write", 0, 7));
  for (const waiter of waiters) {
    const next = space.waiters.find((one) => space.obstacle(one) === undefined && !space.isBehind(one));
    assert.equal(next, waiter);
    space.reserve(waiter);
    space.dismiss(waiter);
  }
});
