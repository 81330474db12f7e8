/**
 * `return`: how soon a client is served again when its link or its server comes back: real sockets and processes, no FUSE.
 *
 * A program reads a file all the time; then the link is cut for a while, silently or so that connections are refused, or the server is killed and started again. Measured
 * is the time from the return to the first byte that the program gets. And: how long it takes until thousands of opens are resumed.
 */
import { type ChildProcess, fork, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import type { Name } from "../../src/base/name.ts";
import { connectRemote, type Remote } from "../../src/client/remote.ts";
import { parseDriveUrl } from "../../src/client/url.ts";
import { type HandleId, OpenFlag, type RequestContext } from "../../src/vfs/file-system.ts";
import type { Bench, BenchContext } from "./bench.ts";
import { pause } from "./child.ts";
import { LinkProcess } from "./link-process.ts";
import type { Report } from "./report.ts";
import { figure, median, spread } from "./statistics.ts";
import { freePort, ROOT } from "./workbench.ts";

const COMMAND = join(ROOT, "dist/src/cli/main.js");
const OPEN_SERVER = fileURLToPath(new URL("./open-server.js", import.meta.url));
const TOKEN = "a-token-for-one-bench";
const HOST = "127.0.0.1";
const ROUND_TRIP_MS = 50;
const OUTAGE_MS = 3000;
const SHORT_OUTAGE_MS = 500;
/** So that the next loss is one of a connection that has been good for a while. */
const REST_MS = 2100;
const OPENS = 10_000;
const QUICK_OPENS = 1000;
/** Descriptors are few for so many opens: a server has one a file, and one an open. */
const OPENS_A_FILE = 2;
const OPENED_AT_ONCE = 64;
const READ_BYTES = 4096;
const READY_MS = 20_000;

const ctx: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: process.pid } };
const SECURITIES = ["plain", "tls"] as const;

/** `netdrive serve` of the bench's folder, at an address that stays. */
class Rig {
  readonly #context: BenchContext;
  readonly #args: readonly string[];
  readonly #port: number;
  #server: ChildProcess | undefined;
  url = "";

  private constructor(context: BenchContext, port: number, args: readonly string[]) {
    this.#context = context;
    this.#port = port;
    this.#args = args;
    context.workbench.scope.defer("ending the server", () => this.kill());
  }

  static async start(context: BenchContext, security: string): Promise<Rig> {
    const port = await freePort();
    const { shared, directory } = context.workbench;
    const where = [
      shared,
      "--name",
      "bench",
      "--listen",
      `${HOST}:${port}`,
      "--state",
      join(directory, `state-${port}`),
    ];
    const rig = new Rig(context, port, [...where, "--squash", "none", "--security", security]);
    await rig.startServer();
    return rig;
  }

  /** Settles as soon as it says that it listens. */
  async startServer(): Promise<void> {
    const env = { ...process.env, XDG_STATE_HOME: this.#context.workbench.directory };
    const stdio = ["ignore", "pipe", "ignore"] as const;
    const child = spawn(process.execPath, [COMMAND, "serve", ...this.#args], { stdio: [...stdio], env });
    this.#server = child;
    const late = systemClock.after(READY_MS, () => void child.kill("SIGKILL"));
    const [said] = (await once(child.stdout as NodeJS.ReadableStream, "data")) as [Buffer];
    late.stop();
    this.url = said.toString().trim();
  }

  async kill(): Promise<void> {
    const child = this.#server;
    this.#server = undefined;
    if (child === undefined || child.exitCode !== null) return;
    child.kill("SIGKILL");
    await once(child, "exit");
  }

  /** A client, through `link`. */
  connect(link: LinkProcess): Promise<Remote> {
    const url = { ...parseDriveUrl(this.url), ...link.address };
    const { fingerprint } = url;
    const trust = fingerprint !== undefined && !this.#args.includes("plain") ? { trust: { fingerprint } } : {};
    return connectRemote({ url, ...trust, log: silentLog, clock: systemClock });
  }

  /** What carries the client's connections. */
  async link(roundTripMs: number): Promise<LinkProcess> {
    const link = await LinkProcess.start({ host: HOST, port: this.#port }, [`delay ${roundTripMs / 2}`]);
    this.#context.workbench.scope.defer("ending the link", () => link.close());
    return link;
  }
}

/** Reads one page after the other until it is stopped. */
class Reader {
  readonly #remote: Remote;
  readonly #handle: HandleId;
  #isOn = true;
  #onRead = () => {};
  readonly #done: Promise<void>;

  constructor(remote: Remote, handle: HandleId) {
    this.#remote = remote;
    this.#handle = handle;
    this.#done = this.#readOn();
  }

  /** Settles when the next read has ended. */
  next(): Promise<void> {
    return new Promise((resolve) => {
      this.#onRead = resolve;
    });
  }

  async stop(): Promise<void> {
    this.#isOn = false;
    await this.#done;
  }

  async #readOn(): Promise<void> {
    const target = Buffer.alloc(READ_BYTES);
    while (this.#isOn) {
      await this.#remote.fileSystem.read(ctx, this.#handle, 0, target);
      this.#onRead();
    }
  }
}

/** How the line or the server goes, and how it comes back. */
interface Outage {
  readonly says: string;
  readonly outageMs: number;
  readonly roundTripMs: number;
  begin(rig: Rig, link: LinkProcess): Promise<void>;
  /** @returns when it was back. */
  end(rig: Rig, link: LinkProcess): Promise<number>;
}

/** What is told to a process takes effect after now. */
async function backFromNow(work: Promise<void>): Promise<number> {
  const nowMs = systemClock.monotonicMs();
  await work;
  return nowMs;
}

const refused = {
  begin: async (_rig: unknown, link: LinkProcess) => {
    await link.refuse(true);
    await link.cut();
  },
  end: (_rig: unknown, link: LinkProcess) => backFromNow(link.refuse(false)),
};

const OUTAGES: readonly Outage[] = [
  {
    says: `silent line, ${ROUND_TRIP_MS} ms`,
    outageMs: OUTAGE_MS,
    roundTripMs: ROUND_TRIP_MS,
    begin: async (_rig, link) => {
      await link.freeze();
      await link.cut();
    },
    end: (_rig, link) => backFromNow(link.thaw()),
  },
  { says: `refused, ${ROUND_TRIP_MS} ms`, outageMs: OUTAGE_MS, roundTripMs: ROUND_TRIP_MS, ...refused },
  {
    says: "server killed, loopback",
    outageMs: SHORT_OUTAGE_MS,
    roundTripMs: 0,
    begin: (rig) => rig.kill(),
    end: (rig) => rig.startServer().then(() => systemClock.monotonicMs()),
  },
];

/** @returns milliseconds from the return to the first byte. */
async function oneReturn(rig: Rig, link: LinkProcess, reader: Reader, outage: Outage): Promise<number> {
  await reader.next();
  await outage.begin(rig, link);
  await pause(outage.outageMs);
  const read = reader.next().then(() => systemClock.monotonicMs());
  const returnedMs = await outage.end(rig, link);
  return Math.max(0, (await read) - returnedMs);
}

async function measureReturns(context: BenchContext, security: string): Promise<Map<string, number[]>> {
  const values = new Map<string, number[]>();
  const rig = await Rig.start(context, security);
  for (const outage of OUTAGES) {
    const link = await rig.link(outage.roundTripMs);
    const remote = await rig.connect(link);
    const { id } = await remote.fileSystem.root(ctx);
    const { id: file } = await remote.fileSystem.lookup(ctx, id, "file" as Name);
    const { handle } = await remote.fileSystem.open(ctx, file, OpenFlag.READ);
    const reader = new Reader(remote, handle);
    const each: number[] = [];
    for (let run = 0; run < context.runCount; run += 1) {
      each.push(await oneReturn(rig, link, reader, outage));
      await pause(REST_MS);
    }
    context.say(`${security}, ${outage.says}: ${each.map(figure).join(" ")} ms`);
    values.set(outage.says, each);
    await reader.stop();
    await remote.close();
    await link.close();
  }
  await rig.kill();
  return values;
}

async function openAll({ fileSystem }: Remote, opens: number): Promise<void> {
  const { id: root } = await fileSystem.root(ctx);
  const { id: folder } = await fileSystem.lookup(ctx, root, "many" as Name);
  let next = 0;
  const worker = async () => {
    while (next < opens) {
      const name = `f${Math.floor(next++ / OPENS_A_FILE)}` as Name;
      await fileSystem.open(ctx, (await fileSystem.lookup(ctx, folder, name)).id, OpenFlag.READ);
    }
  };
  await Promise.all(Array.from({ length: OPENED_AT_ONCE }, worker));
}

/** @returns milliseconds from the link's return until every open is resumed, over loopback and in clear. */
async function resumeAll(context: BenchContext, opens: number): Promise<number[]> {
  const { scope, shared } = context.workbench;
  const server = fork(OPEN_SERVER, [shared, TOKEN, String(opens)]);
  scope.defer("ending the server", async () => {
    if (server.exitCode !== null) return;
    server.disconnect();
    await once(server, "exit");
  });
  const [port] = (await once(server, "message")) as [number];
  const link = await LinkProcess.start({ host: HOST, port });
  scope.defer("ending the link", () => link.close());
  const url = { token: Buffer.from(TOKEN), share: "bench", ...link.address };
  const remote = await connectRemote({ url, log: silentLog, clock: systemClock });
  await openAll(remote, opens);
  const each: number[] = [];
  for (let run = 0; run < context.runCount; run += 1) {
    await refused.begin(undefined, link);
    await pause(SHORT_OUTAGE_MS);
    const back = new Promise<void>((resolve) => remote.onState((state) => state === "connected" && resolve()));
    const returnedMs = await refused.end(undefined, link);
    await back;
    each.push(systemClock.monotonicMs() - returnedMs);
    await pause(REST_MS);
  }
  context.say(`${opens} opens: ${each.map(figure).join(" ")} ms`);
  if (remote.status().opens !== opens) throw new Error(`${remote.status().opens} of ${opens} opens were resumed`);
  await remote.close();
  return each;
}

async function makeFiles(context: BenchContext, opens: number): Promise<void> {
  const { shared } = context.workbench;
  await writeFile(join(shared, "file"), Buffer.alloc(READ_BYTES, 1));
  await mkdir(join(shared, "many"));
  await context.workbench.load("files", join(shared, "many"), "f", opens / OPENS_A_FILE, 1);
}

async function run(context: BenchContext): Promise<Report> {
  const opens = context.quick ? QUICK_OPENS : OPENS;
  await makeFiles(context, opens);
  const returns = new Map<string, Map<string, number[]>>();
  for (const security of SECURITIES) {
    returns.set(security, await measureReturns(context, security));
  }
  const resumed = await resumeAll(context, opens);
  const rows = OUTAGES.map(({ says }) => [
    says,
    ...SECURITIES.map((security) => spread(returns.get(security)?.get(says) ?? [])),
  ]);
  const many = [`${opens} opens resumed, loopback`, spread(resumed), "-"];
  const [silent, refusal] = OUTAGES as readonly [Outage, Outage];
  const firstByteMs = [2 * ROUND_TRIP_MS + 50, 2 * ROUND_TRIP_MS + 25] as const;
  const goal = (what: string, values: number[] | undefined, must: number, aim: number) =>
    ({ what, value: median(values ?? []), must, aim, sense: "atMost", unit: "ms" }) as const;
  return {
    title: "How soon a client is served again",
    notes: [
      `From the return to the first byte that a program gets, which reads all the time; the line is away for ${OUTAGE_MS / 1000} s, and is the simulator of link.ts. Where it is ` +
        "silent, connections are there when it is back; where it refuses them, they take a round trip, and TLS takes one more. The last row: until the last of all opens is " +
        "resumed. No FUSE; the server has a state store, but for the last row.",
    ],
    peers: ["netdrive, client library against `netdrive serve`"],
    tables: [
      { caption: "", columns: ["", ...SECURITIES.map((name) => `${name}, ms (least-most)`)], rows: [...rows, many] },
    ],
    goals: [
      goal(`first byte, ${silent.says}`, returns.get("plain")?.get(silent.says), ...firstByteMs),
      goal(`first byte, ${refusal.says}`, returns.get("plain")?.get(refusal.says), ...firstByteMs),
      goal("all opens resumed", resumed, 2000, 1000),
    ],
    data: { returns: [...returns].map(([security, each]) => [security, [...each]]), resumed },
  };
}

export const returnBench: Bench = {
  name: "return",
  summary: "the time from a link's or a server's return to the first byte, and until all opens are resumed",
  place: "disk",
  run,
};
