/**
 * A server in memory that dies at any step one chooses - between a call of its file system and its effect, between the effect and the answer, before
 * and after records go down, and before and after they are synced - and the one after it, which knows what was down. Files and clients go on. A fake clock.
 *
 * With a machine, its power may go as well: then files and records are what was synced. Steps are counted over all starts. A server that is dead does nothing more:
 * its calls never end, its records never go down.
 */
import { ConnectionError, FsError } from "../../src/base/errors.ts";
import { createLog } from "../../src/base/log.ts";
import type { OpenTicket } from "../../src/client/attach.ts";
import { connectLink, type Remote } from "../../src/client/remote.ts";
import { LinkServer } from "../../src/server/server.ts";
import type { StateFigures, StateKey, StateStore } from "../../src/server/state/state-store.ts";
import { type FaultyLink, memoryLinkPair } from "../../src/transport/memory-link.ts";
import { type FileSystem, type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import type { Recovery } from "../../src/vfs/recovery.ts";
import { FakeClock, settle } from "./fake-clock.ts";
import { TOKEN } from "./link-drive.ts";
import { StrictFs } from "./strict-fs.ts";

const ONCE_FLAGS = OpenFlag.TRUNC | OpenFlag.EXCL;
const never = new Promise<never>(() => {});

/** One start of the server. */
class Start {
  isAlive = true;
  readonly links: FaultyLink[] = [];
  server: LinkServer | undefined;
}

type Step = () => void;

/** Thrown by a step to unwind a start that has died. */
class Death extends Error {}

/** What a machine is to its server. */
export interface Machine {
  /** Whether it is the power that is lost with the next death, and not just the process. */
  isCut(): boolean;
  /** Whether something reached the disk although it was not synced. */
  survives(): boolean;
}

type Records = Map<StateKey, Buffer>;

/** The store of one start over records that outlive it. */
class MortalStore implements StateStore {
  readonly #records: Records;
  /** Of a machine: what its disk has of them. */
  readonly #synced: Records | undefined;
  readonly #start: Start;
  readonly #step: Step;
  #batch: [StateKey, Buffer | undefined][] = [];
  #waiting: (() => void)[] = [];

  constructor(records: Records, synced: Records | undefined, start: Start, step: Step) {
    this.#records = records;
    this.#synced = synced;
    this.#start = start;
    this.#step = step;
  }

  add(key: StateKey, value: Buffer): void {
    this.#change(key, value);
  }

  put(key: StateKey, value: Buffer): void {
    this.#change(key, value);
  }

  delete(key: StateKey): void {
    this.#change(key, undefined);
  }

  afterCommit(done: () => void): void {
    if (this.#batch.length === 0) done();
    else this.#waiting.push(done);
  }

  figures(): StateFigures {
    return { changes: 0, batches: 0, batchBytes: 0, isGivenUp: false };
  }

  async close(): Promise<void> {
    await new Promise<void>((resolve) => this.afterCommit(resolve));
  }

  #change(key: StateKey, value: Buffer | undefined): void {
    if (!this.#start.isAlive) return;
    if (this.#batch.length === 0) process.nextTick(() => this.#commit());
    this.#batch.push([key, value]);
  }

  #commit(): void {
    try {
      this.#step();
      apply(this.#batch, this.#records);
      this.#step();
      if (this.#synced !== undefined) {
        apply(this.#batch, this.#synced);
        this.#step();
      }
    } catch (error) {
      if (error instanceof Death) return;
      throw error;
    }
    this.#batch = [];
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const done of waiting) done();
  }
}

function apply(batch: readonly [StateKey, Buffer | undefined][], records: Records): void {
  for (const [key, value] of batch) {
    if (value === undefined) records.delete(key);
    else records.set(key, value);
  }
}

function copy(from: Records, to: Records): void {
  to.clear();
  for (const [key, value] of from) to.set(key, value);
}

/** The file system as one start sees it. */
function mortalFs(files: StrictFs, start: Start, step: Step): FileSystem {
  const nodes = new Map<HandleId, NodeId>();
  const recovery: Recovery = {
    describe(handle) {
      const id = nodes.get(handle);
      if (id === undefined) throw new FsError("EBADF", "describe");
      return Buffer.from(id);
    },
    describeNode: (id) => Buffer.from(id),
    // A look is a moment in which the server can die.
    peek: () => undefined,
    async recall(ctx, record) {
      const id = record.toString() as NodeId;
      return { id, attr: await files.getattr(ctx, id) };
    },
    reopen: (ctx, id, flags) => fileSystem.open(ctx, id, flags & ~ONCE_FLAGS),
    syncNode: async (_ctx, id) => void (await call("syncNode", [id])),
    sweep: async () => {
      if (start.isAlive) files.sweepKept();
    },
  };
  const call = async (name: string, args: unknown[]): Promise<unknown> => {
    try {
      step();
      // As with a disk, what was told before may go down first.
      await new Promise(setImmediate);
      const result = await (files as unknown as Record<string, (...args: unknown[]) => Promise<unknown>>)[name]?.(
        ...args,
      );
      const made = result as { entry?: { id: NodeId }; opened?: { handle: HandleId }; handle?: HandleId };
      const handle = made?.opened?.handle ?? made?.handle;
      if (handle !== undefined) nodes.set(handle, made.entry?.id ?? (args[1] as NodeId));
      step();
      return result;
    } catch (error) {
      if (error instanceof Death || !start.isAlive) return never;
      throw error;
    }
  };
  const fileSystem = new Proxy(files as unknown as Record<string, unknown>, {
    get(target, name) {
      if (name === "recovery") return recovery;
      if (name === "forget" || name === "then" || typeof target[String(name)] !== "function")
        return target[String(name)];
      return (...args: unknown[]) => call(String(name), args);
    },
  }) as unknown as FileSystem;
  return fileSystem;
}

export interface MortalServer {
  readonly files: StrictFs;
  readonly records: ReadonlyMap<StateKey, Buffer>;
  /** Steps so far. */
  readonly steps: number;
  readonly deaths: number;
  readonly lines: string[];
  /** `ticket`: what it comes in by, instead of the token. It is worth nothing to another start. */
  connect(ticket?: OpenTicket): Promise<Remote>;
  /** The server dies now. */
  die(): void;
  /** Lets time pass until it settles. @throws what it rejects with; or that it does not settle. */
  during<T>(work: Promise<T>): Promise<T>;
}

/** A server that dies at the steps `deathsAt`, which ascend; each time another one takes its place when a client dials. */
export async function mortalServer(
  deathsAt: readonly number[],
  hostBootId: (start: number) => string = () => "",
  machine?: Machine,
): Promise<MortalServer> {
  const clock = new FakeClock();
  const lines: string[] = [];
  const log = createLog({ level: "info", clock, sink: (line) => lines.push(line) });
  const files = new StrictFs();
  const records: Records = new Map();
  const synced: Records | undefined = machine === undefined ? undefined : new Map();
  let boots = 0;
  const deaths = [...deathsAt];
  const counters = { steps: 0, deaths: 0 };
  let present: Start | undefined;

  const die = (start: Start) => {
    start.isAlive = false;
    counters.deaths += 1;
    present = undefined;
    for (const link of start.links) link.destroy();
    if (machine?.isCut() !== true) return;
    boots += 1;
    files.cut(() => machine.survives());
    if (!machine.survives()) copy(synced ?? new Map(), records);
  };
  const begin = async (): Promise<Start> => {
    const start = new Start();
    const step = () => {
      if (!start.isAlive) throw new Death();
      counters.steps += 1;
      if (counters.steps !== deaths[0]) return;
      deaths.shift();
      die(start);
      throw new Death();
    };
    present = start;
    // A start brings all that it finds to the disk.
    if (synced !== undefined) copy(records, synced);
    const fileSystem = mortalFs(files, start, step);
    const store = new MortalStore(records, synced, start, step);
    const durability = machine === undefined ? "process" : "power";
    const bootId = machine === undefined ? hostBootId(counters.deaths) : `boot ${boots}`;
    const memory = { store, records: new Map(records), durability, life: undefined, hostBootId: bootId } as const;
    start.server = new LinkServer({
      shares: new Map([["share", { fileSystem, readOnly: false }]]),
      token: TOKEN,
      squash: "none",
      log,
      clock,
      limits: { keepMsMax: 600_000, courtesyMs: 600_000 },
      memory,
    });
    // A start that dies while it restores never ends it.
    await Promise.race([start.server.restore(), diedSoon(start)]);
    return start;
  };
  /** Settles when the start has died. */
  const diedSoon = async (start: Start) => {
    while (start.isAlive && start.links.length === 0) await settle();
  };
  let starting: Promise<Start> | undefined;
  const dial = async () => {
    if (present === undefined) starting = begin();
    const start = (await starting) as Start;
    if (!start.isAlive) throw new ConnectionError("nobody listens", { retryable: true });
    const link = memoryLinkPair(clock);
    start.links.push(link.server);
    start.server?.accept(link.server);
    return link.client;
  };
  return {
    files,
    records,
    lines,
    get steps() {
      return counters.steps;
    },
    get deaths() {
      return counters.deaths;
    },
    die() {
      if (present !== undefined) die(present);
    },
    async connect(ticket) {
      const url = { token: ticket === undefined ? TOKEN : Buffer.from("not the token"), share: "share" };
      const byTicket = ticket === undefined ? {} : { ticket };
      const wish = { sectionBytes: 65_536, credits: 16, random: () => 0, ioChannels: 1 };
      const security = { control: "plain", io: "plain" } as const;
      // Whoever does not get in at first has nothing to come back to, and tries again.
      for (;;) {
        try {
          return await connectLink(await dial(), { ...wish, ...byTicket, security, url, clock, log }, dial);
        } catch (error) {
          if (counters.deaths === 0) throw error;
        }
      }
    },
    async during(work) {
      let isSettled = false;
      const settled = work.finally(() => {
        isSettled = true;
      });
      settled.catch(() => undefined);
      for (let at = 0; at < 3000 && !isSettled; at += 1) {
        await settle();
        if (!isSettled) clock.advance(100);
      }
      if (!isSettled) throw new Error(`not settled after ${counters.steps} steps\n${lines.slice(-20).join("\n")}`);
      return settled;
    },
  };
}
