/**
 * The resume procedure as a table: who gets the file, and what the client is told that comes back to it.
 *
 * Each row is one open of a client that loses its connection, or whose server dies and is started again with what it had written down; then, in this order: the
 * client's time passes or does not, somebody else asks for the file before the client is back or does not, the client comes back, and somebody else asks
 * after that or does not. The disk is real, the clock is not. A lease keeps nobody out: he who asks waits for its holder, for a time.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { connectLink, type Remote } from "../../src/client/remote.ts";
import { createDisk, type Disk } from "../../src/disk/disk.ts";
import { openKey, resumeProof } from "../../src/resume/resume-proof.ts";
import { LinkServer } from "../../src/server/server.ts";
import { LifeStamp } from "../../src/server/state/life-stamp.ts";
import { partsOfKey } from "../../src/server/state/records.ts";
import { memoryLinkPair } from "../../src/transport/memory-link.ts";
import { type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { LOCK_END, LOCK_KINDS, LOCK_TYPES, type Lock, type LockOwner } from "../../src/vfs/lock.ts";
import { type BodyCodec, messageOf, messages } from "../../src/wire/codec.ts";
import type { Reply, Request } from "../../src/wire/messages.ts";
import type { ResumeResult, ResumeVerdict } from "../../src/wire/resume-fields.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { ctx, named, Peer, TOKEN } from "../support/link-drive.ts";
import { type Locker, startLocker } from "../support/locker.ts";
import { MemoryStore } from "../support/memory-store.ts";
import { makeTemp } from "../support/temp.ts";

const { READ, WRITE, APPEND, DENY_READ, DENY_WRITE } = OpenFlag;
const KEEP_MS = 5000;
const BREAK_MS = 1000;
const caller = { uid: 0, gid: 0, groups: [], pid: 1 };

/** Its real time is the one that files get. */
class TestClock extends FakeClock {
  override realtimeMs(): number {
    return systemClock.realtimeMs();
  }
}

/** The client that holds the file: it reads the replies to what it asks, and gives leases back at once. */
class Holder extends Peer {
  /** It says nothing to what it is told. */
  isDeaf = false;
  /** What is left of its lease, as it was told. */
  readonly breaks: Lease[] = [];
  #reply: ((reply: Record<string, unknown> | number) => void) | undefined;
  #tag = 0;

  override frame(header: Parameters<Peer["frame"]>[0], body: Parameters<Peer["frame"]>[1]): void {
    const at = body.offset;
    if (header.opcode === messages.leaseBreak.row.code) {
      const { breakId, lease } = messages.leaseBreak.request.read(body);
      body.offset = at;
      this.breaks.push(lease);
      if (!this.isDeaf) this.send("returnLease", { breakId });
    }
    if (header.flags === 1 && header.tag !== 0) {
      const codec = messageOf(header.opcode).reply as BodyCodec;
      this.#reply?.(header.status === 0 ? (codec.read(body) as Record<string, unknown>) : header.status);
      body.offset = at;
    }
    super.frame(header, body);
  }

  override payloadBegin(header: Parameters<Peer["frame"]>[0], body: Parameters<Peer["frame"]>[1]): Buffer {
    this.#reply?.(header.status);
    return super.payloadBegin(header, body);
  }

  /** The fields of the reply, or its status. */
  async ask<N extends "open" | "write" | "read" | "resume" | "setlk">(
    name: N,
    fields: Request<N>,
    handle = 0,
    payload?: Buffer,
  ): Promise<Record<string, unknown> | number> {
    this.#tag += 65_536;
    const replied = new Promise<Record<string, unknown> | number>((resolve) => {
      this.#reply = resolve;
    });
    this.send(name, fields, { tag: this.#tag, handle }, payload);
    return replied;
  }
}

/** A server, of which there may be one after the other, and its clients. */
class Stage implements AsyncDisposable {
  readonly clock = new TestClock();
  readonly #temp = makeTemp("resume-table");
  readonly #served = join(this.#temp.path, "served");
  readonly #state = join(this.#temp.path, "state");
  #store = new MemoryStore();
  #life: LifeStamp | undefined;
  #disk: Disk | undefined;
  #server: LinkServer | undefined;

  async start(): Promise<void> {
    const records = this.#store.records;
    this.#store = new MemoryStore(records);
    if (this.#disk === undefined) {
      for (const folder of [this.#served, this.#state]) mkdirSync(folder);
      writeFileSync(join(this.#served, "f"), "0123456789");
    }
    const applyCredentials = process.getuid?.() === 0;
    this.#disk = await createDisk({ directory: this.#served, applyCredentials, log: silentLog });
    this.#life = new LifeStamp(this.#state, this.clock);
    this.#server = new LinkServer({
      shares: new Map([["share", { fileSystem: this.#disk, readOnly: false }]]),
      token: TOKEN,
      squash: "none",
      log: silentLog,
      clock: this.clock,
      limits: { keepMsMax: KEEP_MS, courtesyMs: 3_600_000, leaseBreakMs: BREAK_MS },
      memory: { store: this.#store, records, life: this.#life, hostBootId: "one" },
    });
    await this.#server.restore();
  }

  /** What kill -9 does, and a start after it, and something in between. */
  async crash(between?: (served: string) => Promise<void>): Promise<void> {
    this.#store.die();
    this.#life?.close();
    await this.#disk?.close();
    await between?.(this.#served);
    await this.start();
  }

  /** Of how many opens locks are written down. */
  get lockRecords(): number {
    return [...this.#store.records.keys()].filter((key) => partsOfKey(key)?.of === "locks").length;
  }

  holder(): Holder {
    const links = memoryLinkPair(this.clock);
    this.#server?.accept(links.server);
    return new Holder(links.client, this.clock);
  }

  contender(): Promise<Remote> {
    const links = memoryLinkPair(this.clock);
    this.#server?.accept(links.server);
    const url = { token: TOKEN, share: "share" };
    return connectLink(links.client, { url, log: silentLog, clock: this.clock });
  }

  /** What somebody waits for who waits for a lease, if he does. */
  async passing<T>(act: Promise<T>, breaks = 1): Promise<T> {
    let isOver = false;
    const over = () => {
      isOver = true;
    };
    act.then(over, over);
    for (let ms = 0; ms <= breaks * BREAK_MS; ms += 100) {
      await settle();
      if (isOver) break;
      this.clock.advance(100);
    }
    return act;
  }

  /** A program on the server's machine writes the file. */
  writeBeside(text: string): void {
    writeFileSync(join(this.#served, "f"), text);
  }

  /** Waits until it is written down how so many opens were left by those who are away. */
  async left(count: number): Promise<void> {
    const kept = () => [...this.#store.records.keys()].filter((key) => partsOfKey(key)?.of === "left").length;
    for (let rounds = 0; rounds < 1000 && kept() !== count; rounds += 1) await settle();
    assert.equal(kept(), count);
  }

  get content(): string {
    return readFileSync(join(this.#served, "f"), "utf8");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#store.die();
    this.#life?.close();
    await this.#disk?.close();
    await this.#temp.remove();
  }
}

/** Somebody else opens the file, locks it if the holder did, and writes to it. @returns whether he got it. */
async function contend(stage: Stage, kind: Kind): Promise<boolean> {
  const remote = await stage.contender();
  const { fileSystem } = remote;
  const { id: parent } = await fileSystem.root(ctx);
  const { id } = await fileSystem.lookup(ctx, parent, named("f"));
  const opened = await fileSystem.open(ctx, id, WRITE).catch((error: { errno: string }) => {
    assert.equal(error.errno, "EBUSY");
    return undefined;
  });
  let isHad = opened !== undefined;
  if (opened !== undefined && kind === "locked") {
    assert.ok(fileSystem.setlk !== undefined);
    isHad = await fileSystem.setlk(ctx, opened.handle, WHOLE_FILE, false).then(
      () => true,
      (error: { errno: string }) => {
        assert.equal(error.errno, "EAGAIN");
        return false;
      },
    );
  }
  if (opened !== undefined && isHad) {
    await fileSystem.write(ctx, opened.handle, 2, Buffer.from("XY"));
    await fileSystem.release(ctx, opened.handle);
  }
  await remote.close();
  return isHad;
}

const KINDS = {
  read: READ,
  write: READ | WRITE,
  append: READ | WRITE | APPEND,
  locked: READ | WRITE,
  "share-denied": READ | WRITE | DENY_READ | DENY_WRITE,
  leased: READ | WRITE,
} as const;
type Kind = keyof typeof KINDS;

const WHOLE_FILE: Lock = {
  ...{ kind: "posix", type: "write", owner: 1n as LockOwner, pid: 1 },
  ...{ startBytes: 0n, endBytes: LOCK_END },
};

interface Row {
  readonly when: "in time" | "late";
  readonly asks: "nobody" | "before" | "after";
  /** Whether somebody else gets the file, and what the client is told. */
  readonly shared: readonly [isHad: boolean, verdict: ResumeVerdict];
  /** The same where the holder has locked the file, or denies it to others. */
  readonly denied: readonly [isHad: boolean, verdict: ResumeVerdict];
}

const ROWS: readonly Row[] = [
  { when: "in time", asks: "nobody", shared: [false, "unchanged"], denied: [false, "unchanged"] },
  { when: "in time", asks: "before", shared: [true, "changed"], denied: [false, "unchanged"] },
  { when: "in time", asks: "after", shared: [true, "unchanged"], denied: [false, "unchanged"] },
  { when: "late", asks: "nobody", shared: [false, "unchanged"], denied: [false, "unchanged"] },
  { when: "late", asks: "before", shared: [true, "changed"], denied: [true, "gone"] },
  { when: "late", asks: "after", shared: [true, "unchanged"], denied: [false, "unchanged"] },
];

for (const loss of ["the link is lost", "the server dies"] as const) {
  for (const row of ROWS) {
    for (const kind of Object.keys(KINDS) as Kind[]) {
      const [isHad, verdict] = kind === "share-denied" || kind === "locked" ? row.denied : row.shared;
      const asks = row.asks === "nobody" ? "nobody asks" : `somebody asks ${row.asks} it is back`;
      test(`${loss}, ${kind}, key ${row.when}, ${asks}: ${verdict}, and he ${isHad ? "gets" : "does not get"} it`, () =>
        play(loss === "the server dies", row, kind, isHad, verdict));
    }
  }
}

interface Held {
  readonly holder: Holder;
  readonly handle: number;
  readonly keys: Reply<"open">;
}

/** A client opens the file. */
async function hold(stage: Stage, kind: Kind): Promise<Held> {
  const holder = stage.holder();
  await holder.setUp({ keepMs: KEEP_MS });
  const finder = await stage.contender();
  const { id } = await finder.fileSystem.lookup(ctx, (await finder.fileSystem.root(ctx)).id, named("f"));
  await finder.close();
  const lease = kind === "leased" ? Lease.WRITE : Lease.NONE;
  const opened = await holder.ask("open", { caller, id, flags: KINDS[kind], contentBytesMax: 0, lease });
  const { handle } = holder.headers.at(-1) as { handle: number };
  const keys = opened as unknown as Reply<"open">;
  assert.equal(keys.lease, lease);
  return { holder, handle, keys };
}

/** It comes back, and shows its key. */
async function comeBack(stage: Stage, { holder, keys }: Held): Promise<{ back: Holder; result: ResumeResult }> {
  const back = stage.holder();
  const { sessionId, sessionKey } = holder;
  assert.match(await back.setUp({ sessionId, keepMs: KEEP_MS }, sessionKey), /^auth reply/);
  const { openId, resumeKey } = keys;
  const proof = resumeProof(openKey(sessionKey, openId), back.transcript, resumeKey);
  const { results } = (await back.ask("resume", { items: [{ resumeKey, proof }] })) as unknown as Reply<"resume">;
  return { back, result: results[0] as ResumeResult };
}

/** The holder locks the whole file. */
async function lock({ holder, handle }: Awaited<ReturnType<typeof hold>>): Promise<void> {
  const whole = { ...WHOLE_FILE, kind: LOCK_KINDS.indexOf("posix"), type: LOCK_TYPES.indexOf("write") };
  assert.equal(typeof (await holder.ask("setlk", { caller, ...whole, waitId: 0 }, handle)), "object");
}

async function play(isCrash: boolean, row: Row, kind: Kind, isHad: boolean, verdict: ResumeVerdict): Promise<void> {
  await using stage = new Stage();
  await stage.start();
  const held = await hold(stage, kind);
  const { holder, handle } = held;

  if (kind === "locked") await lock(held);

  holder.link.destroy();
  await settle();
  if (isCrash) await stage.crash();
  if (row.when === "late") stage.clock.advance(KEEP_MS + 1);
  await settle();
  let isTaken = row.asks === "before" && (await stage.passing(contend(stage, kind)));

  const { back, result } = await comeBack(stage, held);
  assert.equal(result.verdict, verdict);
  if (verdict === "changed") {
    assert.deepEqual(result.ranges, [{ offsetBytes: 2, lengthBytes: 2 }]);
    assert.equal(result.changedBy, "memory client");
  }
  // The lease is lost to whoever was first, and given back to whoever comes later.
  assert.equal(result.lease, row.asks === "before" ? Lease.NONE : held.keys.lease);
  if (row.asks === "after") isTaken = await contend(stage, kind);
  // First somebody looks it up.
  assert.deepEqual(back.breaks, row.asks === "after" && kind === "leased" ? [Lease.READ, Lease.NONE] : []);
  assert.equal(isTaken, isHad);
  if (verdict === "gone") {
    assert.equal(await back.ask("read", { caller, offsetBytes: 0, lengthBytes: 4 }, handle), 9, "EBADF");
    assert.equal(stage.content, "01XY456789");
    return;
  }
  assert.equal(result.handle, handle);
  await useIt(stage, back, kind, handle, isTaken);
}

/** The open does what it did before. */
async function useIt(stage: Stage, back: Holder, kind: Kind, handle: number, isTaken: boolean): Promise<void> {
  assert.equal(await back.ask("read", { caller, offsetBytes: 0, lengthBytes: 4 }, handle), 0);
  const written = await back.ask("write", { caller, offsetBytes: 0, killSuidgid: false }, handle, Buffer.from("!"));
  const rest = isTaken ? "1XY456789" : "123456789";
  if (kind === "read") assert.equal(written, 9, "EBADF");
  else assert.deepEqual(written, { writtenBytes: 1 });
  assert.equal(stage.content, kind === "read" ? `0${rest}` : kind === "append" ? `0${rest}!` : `!${rest}`);
}

/** Somebody else does something with the file, or with another one, and it is acknowledged. */
async function by(
  stage: Stage,
  act: (at: { other: Remote; root: NodeId; id: NodeId }) => Promise<void>,
): Promise<void> {
  const other = await stage.contender();
  const { id: root } = await other.fileSystem.root(ctx);
  const { id } = await other.fileSystem.lookup(ctx, root, named("f"));
  await act({ other, root, id });
  await other.close();
}

/** Data is acknowledged, but of another file. */
function writeElsewhere(stage: Stage): Promise<void> {
  return by(stage, async ({ other, root }) => {
    const made = await other.fileSystem.create(ctx, root, named("g"), WRITE, { mode: 0o100644, umask: 0 });
    await other.fileSystem.write(ctx, made.opened.handle, 0, Buffer.from("g"));
  });
}

const WHILE_AWAY: Record<string, readonly [act: (stage: Stage) => Promise<unknown>, verdict: ResumeVerdict]> = {
  "nobody touches the file, but another one is written": [writeElsewhere, "unchanged"],
  "somebody writes to the file": [(stage) => contend(stage, "write"), "changed"],
  "the file is written beside the server, and then another one through it": [
    (stage) => {
      stage.writeBeside("beside");
      return writeElsewhere(stage);
    },
    "changed",
  ],
  "the file gets other permissions and another name": [
    (stage) =>
      by(stage, async ({ other, root, id }) => {
        await other.fileSystem.setattr(ctx, id, { mode: 0o600 });
        await other.fileSystem.rename(ctx, root, named("f"), root, named("renamed"), 0);
      }),
    "unchanged",
  ],
};

for (const [what, [act, verdict]] of Object.entries(WHILE_AWAY)) {
  test(`a client is away, ${what}, and the server dies, twice: ${verdict}`, async () => {
    await using stage = new Stage();
    await stage.start();
    const held = await hold(stage, "write");
    held.holder.link.destroy();
    await stage.left(1);
    await act(stage);
    await stage.crash();
    await stage.left(1);
    await writeElsewhere(stage).catch(() => undefined);
    await stage.crash();
    let { back, result } = await comeBack(stage, held);
    assert.equal(result.verdict, verdict);
    await stage.crash();
    ({ back, result } = await comeBack(stage, held));
    assert.equal(result.verdict, verdict, "the reply may have been lost");
    await stage.left(verdict === "changed" ? 1 : 0);
    // It shows that it has heard of that.
    await back.ask("setlk", { caller, ...WHOLE_FILE, kind: 0, type: 2, waitId: 0 }, held.handle);
    await stage.left(0);
    back.link.destroy();
    await stage.left(1);
    assert.equal((await comeBack(stage, held)).result.verdict, "unchanged", "it knows");
  });
}

test("a client has lost its lease unheard, somebody writes to the file, and the server dies: changed", async () => {
  await using stage = new Stage();
  await stage.start();
  const held = await hold(stage, "leased");
  held.holder.isDeaf = true;
  assert.equal(await stage.passing(contend(stage, "leased"), 2), true);
  await stage.crash();
  const { result } = await comeBack(stage, held);
  assert.deepEqual([result.verdict, result.lease], ["changed", Lease.NONE]);
});

test("who was there when the server died is told nothing of what others had done before", async () => {
  await using stage = new Stage();
  await stage.start();
  const held = await hold(stage, "write");
  held.holder.link.destroy();
  await stage.left(1);
  await comeBack(stage, held);
  assert.equal(await contend(stage, "write"), true);
  await stage.crash();
  assert.equal((await comeBack(stage, held)).result.verdict, "unchanged");
});

test("a lock that a program beside the server took meanwhile is lost for good, also for the start after that", async (t) => {
  await using stage = new Stage();
  await stage.start();
  await lock(await hold(stage, "locked"));
  assert.equal(stage.lockRecords, 1);
  const programs: Locker[] = [];
  await stage.crash(async (served) => {
    const program = await startLocker(served);
    programs.push(program);
    t.after(() => program.kill());
    await program.tell("open 0 f rw");
    assert.equal(await program.tell("lock 0 posix write 0 0"), "ok");
  });
  assert.equal(stage.lockRecords, 0);
  for (const program of programs) await program.kill();
  await stage.crash();
  assert.equal(await contend(stage, "locked"), true);
});
