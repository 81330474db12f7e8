/** Leases: what is granted beside what, what is broken by whom, and that nobody waits for longer than he must. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { silentLog } from "../../src/base/log.ts";
import { type LeaseOpen, type LeaseSession, LeaseTally, ShareLeases } from "../../src/server/leases.ts";
import { NodeOpens } from "../../src/server/node-opens.ts";
import { WRITE_FLAGS } from "../../src/server/share-modes.ts";
import type { Attr } from "../../src/vfs/attr.ts";
import { type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { attrOf } from "../support/attr.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { seeded } from "../support/seed.ts";

const BREAK_MS = 1000;
const { READ, WRITE } = OpenFlag;
const NODE = "n" as NodeId;

class Client implements LeaseSession {
  readonly label: string;
  readonly leases = new LeaseTally(0);
  awaySinceMs: number | undefined;
  /** What it was told, as [number, node, what is left]. */
  readonly heard: [breakId: number, node: NodeId, lease: Lease][] = [];
  /** Of which opens the lease was taken away without its word, as [number, open]. */
  readonly taken: [breakId: number, open: LeaseOpen][] = [];
  readonly changes: NodeId[] = [];
  readonly told = { changed: (node: NodeId) => this.changes.push(node) };

  constructor(label: string) {
    this.label = label;
  }

  get isAway(): boolean {
    return this.awaySinceMs !== undefined;
  }

  leaseTaken(open: LeaseOpen, breakId: number): void {
    this.taken.push([breakId, open]);
  }

  leaseReturned(): void {
    // The session's.
  }

  leaseBreak({ breakId, id, lease }: { breakId: number; id: NodeId; lease: Lease }): void {
    if (!this.isAway) this.heard.push([breakId, id, lease]);
  }
}

interface TestOpen extends LeaseOpen {
  readonly owner: Client;
  readonly holders: Client[];
  isIdle: boolean;
}

function stage({ leasesPerSessionMax = 100 } = {}) {
  const clock = new FakeClock();
  const opens = new NodeOpens<TestOpen>();
  const lowered: LeaseOpen[] = [];
  const limits = { leasesPerSessionMax, leaseBreakMs: BREAK_MS };
  const leases = new ShareLeases({
    opens: opens as NodeOpens<LeaseOpen>,
    clock,
    log: silentLog,
    limits,
    lowered: (open) => lowered.push(open),
    ended() {},
  });
  const open = (
    owner: Client,
    flags: number,
    wish: Lease,
    { node = NODE, attr }: { node?: NodeId; attr?: Attr } = {},
  ) => {
    const holders = [owner];
    const more = { kind: "file" as const, lease: Lease.NONE, knownAttr: undefined, changes: 0, isIdle: true };
    const made: TestOpen = { node, inner: 1 as HandleId, flags, owner, holders, ...more };
    leases.grant(made, wish, attr);
    opens.add(made);
    return made;
  };
  const close = (closed: TestOpen) => {
    opens.delete(closed);
    leases.closed(closed);
  };
  return { clock, opens, leases, lowered, open, close };
}

/** What has become of a wait. */
function watch(wait: Promise<unknown> | undefined): { isOver: boolean } {
  const state = { isOver: wait === undefined };
  void wait?.then(() => {
    state.isOver = true;
  });
  return state;
}

test("a read lease is had beside readers, a write lease alone, and none beside a writer", () => {
  const cases: [there: number, flags: number, wish: Lease, granted: Lease][] = [
    [READ, READ, Lease.READ, Lease.READ],
    [READ, READ | WRITE, Lease.WRITE, Lease.READ],
    [WRITE, READ, Lease.READ, Lease.NONE],
    [READ | OpenFlag.APPEND, READ, Lease.WRITE, Lease.NONE],
    [READ | WRITE, READ | WRITE, Lease.WRITE, Lease.NONE],
  ];
  for (const [there, flags, wish, granted] of cases) {
    const { open } = stage();
    const [a, b] = [new Client("a"), new Client("b")];
    open(a, there, Lease.NONE);
    assert.equal(open(b, flags, wish).lease, granted);
    assert.equal(open(b, READ, Lease.NONE).lease, Lease.NONE, "nothing that is not wished for");
    assert.equal(open(b, READ, Lease.WRITE, { node: "other" as NodeId }).lease, Lease.WRITE);
  }
});

test("opens of one session have leases beside each other, unless somebody else uses one of them", () => {
  const { open } = stage();
  const [a, b] = [new Client("a"), new Client("b")];
  const first = open(a, READ | WRITE, Lease.WRITE);
  assert.deepEqual([first.lease, open(a, READ | WRITE, Lease.WRITE).lease], [Lease.WRITE, Lease.WRITE]);
  first.holders.push(b);
  assert.equal(open(a, READ, Lease.READ).lease, Lease.NONE);
});

test("a session has so many leases and no more", () => {
  const { open, close } = stage({ leasesPerSessionMax: 2 });
  const a = new Client("a");
  const [first] = [open(a, READ, Lease.READ), open(a, READ, Lease.READ)];
  assert.equal(open(a, READ, Lease.READ).lease, Lease.NONE);
  close(first);
  assert.equal(open(a, READ, Lease.READ).lease, Lease.READ);
});

test("who needs a file waits until its lease is given back, and the holder is told once for all who wait", async () => {
  const { leases, lowered, open, clock } = stage();
  const [a, b, c] = [new Client("a"), new Client("b"), new Client("c")];
  const held = [open(a, READ | WRITE, Lease.WRITE), open(a, READ, Lease.READ)];
  assert.equal(leases.break(a, NODE, Lease.NONE), undefined, "its own");
  const waits = [b, c].map((session) => watch(leases.break(session, NODE, Lease.READ)));
  assert.deepEqual(a.heard, [[1, NODE, Lease.READ]]);
  const strong = watch(leases.break(c, NODE, Lease.NONE));
  assert.deepEqual(a.heard, [
    [1, NODE, Lease.READ],
    [2, NODE, Lease.NONE],
  ]);
  assert.equal(leases.toldOf(held[0] as TestOpen), Lease.NONE, "a reply that leaves now says what will be");
  assert.equal(open(a, READ, Lease.READ).lease, Lease.NONE, "nothing new meanwhile");
  await settle();
  assert.deepEqual([waits, strong.isOver], [[{ isOver: false }, { isOver: false }], false]);
  leases.returned(a, 1);
  await settle();
  assert.deepEqual([waits, strong.isOver], [[{ isOver: true }, { isOver: true }], false]);
  assert.deepEqual(
    held.map(({ lease }) => lease),
    [Lease.READ, Lease.READ],
  );
  leases.returned(a, 77);
  leases.returned(b, 2);
  await settle();
  assert.equal(strong.isOver, false, "numbers are the session's own");
  leases.returned(a, 2);
  await settle();
  assert.equal(strong.isOver, true);
  assert.deepEqual(lowered, [held[0], held[0], held[1]]);
  assert.deepEqual([leases.figures, clock.pendingCount], [{ leases: 0, breaks: 0 }, 0]);
});

test("a lease is taken away after a time, later at once, until its session is heard from", async () => {
  const { leases, open, clock } = stage();
  const [a, b] = [new Client("a"), new Client("b")];
  const others = [1, 2].map((at) => open(a, READ, Lease.WRITE, { node: `${at}` as NodeId }));
  const held = [open(a, READ | WRITE, Lease.WRITE), open(a, READ, Lease.NONE)];
  const wait = watch(leases.break(b, NODE, Lease.NONE));
  clock.advance(BREAK_MS - 1);
  await settle();
  assert.equal(wait.isOver, false);
  clock.advance(1);
  await settle();
  assert.equal(wait.isOver, true);
  assert.equal(leases.break(b, "1" as NodeId, Lease.NONE), undefined, "it is not waited for again");
  assert.deepEqual(a.heard.at(-1), [2, "1" as NodeId, Lease.NONE], "but told");
  assert.deepEqual(
    a.taken,
    [...held, others[0]].map((each, at) => [at < 2 ? 1 : 2, each]),
    "it has not heard of it, whichever of its opens had the lease",
  );
  assert.deepEqual(
    others.map(({ lease }) => lease),
    [Lease.NONE, Lease.WRITE],
  );
  leases.returned(a, 1);
  assert.notEqual(leases.break(b, "2" as NodeId, Lease.NONE), undefined);
});

test("who sends what it has written is waited for longer, but not for ever", async () => {
  const { leases, open, clock } = stage();
  const [a, b] = [new Client("a"), new Client("b")];
  open(a, READ | WRITE, Lease.WRITE);
  const wait = watch(leases.break(b, NODE, Lease.READ));
  let rounds = 0;
  for (; !wait.isOver && rounds < 100; rounds += 1) {
    leases.changed(a, NODE);
    clock.advance(BREAK_MS);
    await settle();
  }
  assert.equal(rounds, 11);
  assert.deepEqual(a.taken, [], "what it knows stays true as long as it has a lease to read");
});

test("who is away has the time from when it left, and is told when it is back in time", async () => {
  const { leases, open, clock } = stage();
  const [a, b] = [new Client("a"), new Client("b")];
  const held = open(a, READ | WRITE, Lease.WRITE);
  a.awaySinceMs = clock.monotonicMs();
  clock.advance(BREAK_MS - 10);
  const wait = watch(leases.break(b, NODE, Lease.READ));
  assert.deepEqual(a.heard, []);
  a.awaySinceMs = undefined;
  leases.tellAgain(a);
  assert.deepEqual(a.heard, [[1, NODE, Lease.READ]]);
  leases.returned(a, 1);
  await settle();
  assert.deepEqual([wait.isOver, held.lease], [true, Lease.READ]);
  a.awaySinceMs = clock.monotonicMs();
  clock.advance(BREAK_MS);
  assert.equal(leases.break(b, NODE, Lease.NONE), undefined, "its time is over");
  assert.equal(held.lease, Lease.NONE);
});

test("changes beside the server are told to whom was told otherwise, once, and its own are no news", async () => {
  const { leases, open } = stage();
  const [a, b] = [new Client("a"), new Client("b")];
  let now = attrOf({ sizeBytes: 1 });
  const held = open(a, READ, Lease.READ, { attr: now });
  open(b, READ, Lease.READ, { attr: now });
  const look = () => leases.look(async () => now);
  await look();
  assert.deepEqual([a.changes, b.changes], [[], []]);
  now = attrOf({ sizeBytes: 2 });
  leases.toldAttr(b, NODE, now);
  held.isIdle = false;
  await look();
  assert.deepEqual([a.changes, b.changes], [[], []], "something of its own is under way");
  held.isIdle = true;
  await Promise.all([look(), look()]);
  await look();
  assert.deepEqual([a.changes, b.changes], [[NODE], []]);
  leases.toldAttr(a, NODE, now);
  leases.changed(a, NODE);
  now = attrOf({ sizeBytes: 3 });
  await look();
  assert.deepEqual([a.changes, b.changes], [[NODE], [NODE]]);
});

/** The same by lists, without a thought for cost: what is granted, broken and waited for. */
class Naive {
  readonly opens: { client: number; node: number; flags: number; lease: Lease }[] = [];
  breaks: { id: number; client: number; node: number; remains: Lease; dueMs: number }[] = [];
  /** What each client was told. */
  readonly told: Client["heard"][] = [[], [], []];
  readonly #deaf = new Set<number>();
  readonly #lastIds = [0, 0, 0];

  grant(client: number, node: number, flags: number, wish: Lease): void {
    const others = this.opens.filter((open) => open.node === node && open.client !== client);
    let lease = others.length > 0 && wish === Lease.WRITE ? Lease.READ : wish;
    if (others.some((open) => (open.flags & WRITE_FLAGS) !== 0)) lease = Lease.NONE;
    if (this.breaks.some((each) => each.node === node)) lease = Lease.NONE;
    this.opens.push({ client, node, flags, lease });
  }

  /** @returns whether somebody is waited for. */
  break(contender: number, node: number, remains: Lease, nowMs: number): boolean {
    for (const client of [0, 1, 2]) {
      const isThere = this.breaks.some(
        (each) => each.client === client && each.node === node && each.remains <= remains,
      );
      if (client === contender || isThere || !this.#has(client, node, remains)) continue;
      const id = (this.#lastIds[client] as number) + 1;
      this.#lastIds[client] = id;
      this.told[client]?.push([id, `${node}` as NodeId, remains]);
      if (this.#deaf.has(client)) this.#lower(client, node, remains);
      else this.breaks.push({ id, client, node, remains, dueMs: nowMs + BREAK_MS });
    }
    return this.waits(contender, node, remains);
  }

  waits(contender: number, node: number, remains: Lease): boolean {
    return [0, 1, 2].some((client) => client !== contender && this.#has(client, node, remains));
  }

  returned(client: number, id: number): void {
    this.#deaf.delete(client);
    const found = this.breaks.find((each) => each.client === client && each.id === id);
    if (found !== undefined) this.#lower(client, found.node, found.remains);
  }

  close(at: number): void {
    this.opens.splice(at, 1);
    this.#forget();
  }

  passed(nowMs: number): void {
    for (const { client, node, remains, dueMs } of [...this.breaks].sort((a, b) => a.dueMs - b.dueMs)) {
      if (dueMs > nowMs || !this.#has(client, node, remains)) continue;
      this.#deaf.add(client);
      this.#lower(client, node, remains);
    }
  }

  #has(client: number, node: number, above: Lease): boolean {
    return this.opens.some((open) => open.client === client && open.node === node && open.lease > above);
  }

  #lower(client: number, node: number, remains: Lease): void {
    for (const open of this.opens) {
      if (open.client === client && open.node === node && open.lease > remains) open.lease = remains;
    }
    this.#forget();
  }

  #forget(): void {
    this.breaks = this.breaks.filter(({ client, node, remains }) => this.#has(client, node, remains));
  }
}

const FLAGS = [READ, WRITE, READ | WRITE];
const step = fc.record({
  op: fc.constantFrom("open", "open", "open", "change", "look", "return", "return", "close", "wait"),
  client: fc.nat({ max: 2 }),
  node: fc.nat({ max: 1 }),
  flags: fc.constantFrom(...FLAGS),
  wish: fc.constantFrom(Lease.NONE, Lease.READ, Lease.WRITE),
  pick: fc.nat(),
});
type Step = { op: string; client: number; node: number; flags: number; wish: Lease; pick: number };

/** Three clients at two files, each as the server lets it in. */
class History {
  readonly #stage = stage({ leasesPerSessionMax: 1000 });
  readonly #naive = new Naive();
  readonly #clients = ["a", "b", "c"].map((label) => new Client(label));
  /** In the same order as the model's; `isAnswered`: its client has it. */
  readonly #opens: { open: TestOpen; answered: { isOver: boolean } }[] = [];
  readonly #waits: { step: Step; remains: Lease; state: { isOver: boolean } }[] = [];

  async take(step: Step): Promise<void> {
    const { leases, clock } = this.#stage;
    const { op, client, node, flags, wish, pick } = step;
    const session = this.#clients[client] as Client;
    const id = `${node}` as NodeId;
    if (op === "open") {
      const remains = (flags & WRITE_FLAGS) === 0 ? Lease.READ : Lease.NONE;
      // One that must wait is left to whoever comes next: it is the wait that counts here.
      if (this.#contend(step, remains)) return;
      this.#naive.grant(client, node, flags, wish);
      const open = this.#stage.open(session, flags, wish, { node: id });
      this.#opens.push({ open, answered: watch(leases.break(session, id, remains)) });
    } else if (op === "change") this.#contend(step, Lease.NONE);
    else if (op === "look") this.#contend(step, Lease.READ);
    else if (op === "wait") {
      clock.advance(BREAK_MS / 2);
      this.#naive.passed(clock.monotonicMs());
    } else if (op === "close" && this.#opens.length > 0) {
      const at = pick % this.#opens.length;
      const [closed] = this.#opens.splice(at, 1);
      this.#naive.close(at);
      this.#stage.close((closed as { open: TestOpen }).open);
    } else if (op === "return" && session.heard.length > 0) {
      const [breakId] = session.heard[pick % session.heard.length] as [number, NodeId, Lease];
      leases.returned(session, breakId);
      this.#naive.returned(client, breakId);
    }
    await settle();
    this.#check();
  }

  #contend(step: Step, remains: Lease): boolean {
    const { leases, clock } = this.#stage;
    const session = this.#clients[step.client] as Client;
    const state = watch(leases.break(session, `${step.node}` as NodeId, remains));
    assert.equal(!state.isOver, this.#naive.break(step.client, step.node, remains, clock.monotonicMs()));
    if (!state.isOver) this.#waits.push({ step, remains, state });
    return !state.isOver;
  }

  #check(): void {
    const { leases } = this.#stage;
    assert.deepEqual(
      this.#opens.map(({ open }) => open.lease),
      this.#naive.opens.map(({ lease }) => lease),
    );
    assert.equal(leases.figures.breaks, this.#naive.breaks.length);
    assert.deepEqual(
      this.#clients.map(({ heard }) => heard),
      this.#naive.told,
    );
    assert.equal(leases.figures.leases, this.#naive.opens.filter(({ lease }) => lease !== Lease.NONE).length);
    for (const { step, remains, state } of this.#waits) {
      // What was granted since is another's to break.
      if (!state.isOver) assert.equal(this.#naive.waits(step.client, step.node, remains), true, "he waits for nobody");
    }
    for (const { open: a } of this.#opens) {
      for (const { open: b, answered } of this.#opens) {
        if (a.owner === b.owner || a.node !== b.node || !answered.isOver) continue;
        if (a.lease !== Lease.NONE) assert.equal(b.flags & WRITE_FLAGS, 0, "a lease beside somebody who writes");
        assert.notEqual(a.lease, Lease.WRITE, "a write lease beside somebody else");
      }
    }
  }

  /** Time passes: nobody waits any more, and nothing is left when everything is closed. */
  async end(): Promise<void> {
    const { clock, leases } = this.#stage;
    clock.advance(BREAK_MS);
    await settle();
    assert.ok(this.#waits.every(({ state }) => state.isOver));
    for (const { open } of this.#opens) this.#stage.close(open);
    assert.deepEqual([leases.figures, clock.pendingCount], [{ leases: 0, breaks: 0 }, 0]);
    for (const { leases: tally } of this.#clients) {
      assert.deepEqual([tally.count, tally.writes, tally.breaks.size], [0, 0, 0]);
    }
  }
}

test("over any history leases are those of a naive model, exclude what they must, and nobody waits for nothing", async (t) => {
  await fc.assert(
    fc.asyncProperty(fc.array(step, { maxLength: 40 }), async (steps) => {
      const history = new History();
      for (const each of steps) await history.take(each);
      await history.end();
    }),
    seeded(t, 300),
  );
});
