/**
 * `resume-cost`: what it costs that opens survive and that nobody listens: the state store, and TLS.
 *
 * With and without the store: one large file read and written over loopback, and small files opened, whose opens are written down. Over TLS: the same file
 * against sshfs, and over a link with delay against a plain channel.
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Bench, BenchContext } from "./bench.ts";
import type { Peer } from "./peer.ts";
import { startNetdrive } from "./peer-netdrive.ts";
import { startDrives, stopAll } from "./peers.ts";
import type { Goal, Report, Table } from "./report.ts";
import { figure, median, medianRatio, rotated, spread } from "./statistics.ts";
import { MIB, readCold, speedsOf, type Transfer, transferTable, UNMEASURED_RUN, writeNew } from "./transfers.ts";

/** As much as `stream` writes: a drive compiles and finds its window while it moves the first hundreds of MiB. */
const SIZE_MIB = 1024;
const QUICK_SIZE_MIB = 64;
const LINK = { roundTripMs: 50, rateBitsPerSecond: 1e9 };
const OPENS = 500;
/** On few cores the scheduler decides for a while how fast small operations are. */
const OPEN_ROUNDS = 5;
const WARM_UP_ROUNDS = 3;
const FILE_BYTES = 4096;

interface Series {
  readonly reads: Transfer[];
  readonly writes: Transfer[];
}

async function transfer(context: BenchContext, peers: readonly Peer[], bytes: number): Promise<Series> {
  const reads: Transfer[] = [];
  const writes: Transfer[] = [];
  for (let run = UNMEASURED_RUN; run < context.runCount; run += 1) {
    for (const peer of rotated(peers, run)) {
      const read = await readCold(context, peer, run, { name: "large", bytesMax: bytes });
      const write = await writeNew(context, peer, run, { bytes });
      if (run === UNMEASURED_RUN) continue;
      reads.push(read);
      writes.push(write);
    }
  }
  return { reads, writes };
}

/** Opens and closes files that the client has never seen. @returns microseconds each. */
async function openAll(context: BenchContext, peer: Peer, turn: string): Promise<number> {
  const { workbench } = context;
  const folder = `open-${turn}-${peer.name.replaceAll(/\W+/g, "-")}`;
  const beside = join(workbench.shared, folder);
  await mkdir(beside);
  await workbench.load("files", beside, "f", OPENS, FILE_BYTES);
  const { count, elapsedNs } = await workbench.load("read-small", join(peer.path, folder), "f", OPENS, FILE_BYTES);
  if (count !== OPENS) throw new Error(`${peer.name}: ${count} of ${OPENS} files were opened`);
  await rm(beside, { recursive: true });
  return elapsedNs / 1000 / OPENS;
}

/** By peer: one value a run. */
async function measureOpens(context: BenchContext, peers: readonly Peer[]): Promise<Map<string, number[]>> {
  for (let round = 0; round < WARM_UP_ROUNDS; round += 1) {
    for (const peer of peers) await openAll(context, peer, `warm-${round}`);
  }
  const values = new Map<string, number[]>(peers.map(({ name }) => [name, []]));
  for (let run = 0; run < context.runCount; run += 1) {
    const rounds = new Map<string, number[]>(peers.map(({ name }) => [name, []]));
    for (let round = 0; round < OPEN_ROUNDS; round += 1) {
      for (const peer of rotated(peers, run + round)) {
        rounds.get(peer.name)?.push(await openAll(context, peer, `${run}-${round}`));
      }
    }
    for (const [name, each] of rounds) values.get(name)?.push(median(each));
  }
  return values;
}

function openTable(opens: ReadonlyMap<string, number[]>, base: string): Table {
  const rows = [...opens].map(([name, values]) => [
    name,
    spread(values),
    figure(medianRatio(values, opens.get(base) ?? [])),
  ]);
  const columns = ["", "µs each (least-most)", `x ${base}`];
  return { caption: `open + read 4 KiB + close of a new name, ${OPEN_ROUNDS} x ${OPENS} a run`, columns, rows };
}

const KINDS = ["reads", "writes"] as const;
const SAYS = { reads: "read", writes: "write + fsync" } as const;

function ratios(
  series: Series,
  names: { own: string; base: string; what: string },
  limits: { must: number; aim: number },
): Goal[] {
  return KINDS.map((kind) => ({
    what: `${names.what}: ${SAYS[kind]}`,
    value: medianRatio(speedsOf(series[kind], names.own), speedsOf(series[kind], names.base)),
    ...limits,
    sense: "atLeast" as const,
    unit: `x ${names.base}`,
  }));
}

const pair = (what: string, { reads, writes }: Series, options: { peers: string[]; base: string }): Table[] => [
  transferTable({ caption: `${what}: sequential read`, transfers: reads, ...options }),
  transferTable({ caption: `${what}: sequential write + fsync`, transfers: writes, ...options }),
];

async function run(context: BenchContext): Promise<Report> {
  const { workbench } = context;
  const bytes = (context.sizeMib ?? (context.quick ? QUICK_SIZE_MIB : SIZE_MIB)) * MIB;
  await workbench.load("fill", join(workbench.shared, "large"), bytes);
  const [store, none] = ["netdrive", "netdrive without a store"];
  const stores = [await startNetdrive({ workbench }), await startNetdrive({ workbench, hasStore: false })];
  const opens = await measureOpens(context, stores);
  const stored = await transfer(context, stores, bytes);
  await stopAll(stores);
  const encrypted = await startDrives(context, ["netdrive tls", "sshfs"]);
  const tls = await transfer(context, encrypted, bytes);
  await stopAll(encrypted);
  const far = await startDrives(context, ["netdrive", "netdrive tls"], { link: LINK });
  const line = await transfer(context, far, bytes / 4);
  await stopAll(far);
  const open = medianRatio(opens.get(store) ?? [], opens.get(none) ?? []);
  return {
    title: "What the state store and TLS cost",
    notes: [
      "The exported directory is in memory (tmpfs): the disk here is the largest part of a write, and not the same twice. " +
        "The state store has durability `process`, which is the default, " +
        "and is on the disk. Opens: one thread, names new to the client, " +
        `${WARM_UP_ROUNDS} rounds unmeasured before, and one run of each transfer. The link is the simulator of link.ts: ${LINK.roundTripMs} ms, 1 Gbit/s of payload.`,
    ],
    peers: [...stores, ...encrypted].map(({ description }) => description),
    tables: [
      openTable(opens, none),
      ...pair("store", stored, { peers: [store, none], base: none }),
      ...pair("TLS", tls, { peers: ["netdrive tls", "sshfs"], base: "sshfs" }),
      ...pair(`${LINK.roundTripMs} ms`, line, { peers: ["netdrive tls", "netdrive"], base: "netdrive" }),
    ],
    goals: [
      { what: "an open with the store", value: open, must: 1.3, aim: 1.1, sense: "atMost", unit: `x ${none}` },
      ...ratios(stored, { own: store, base: none, what: "with the store" }, { must: 0.95, aim: 1 }),
      ...ratios(tls, { own: "netdrive tls", base: "sshfs", what: "over TLS" }, { must: 3, aim: 5 }),
      ...ratios(line, { own: "netdrive tls", base: "netdrive", what: "over TLS, 50 ms" }, { must: 0.95, aim: 0.98 }),
    ],
    data: { opens: Object.fromEntries(opens), stored, tls, line },
  };
}

export const resumeCostBench: Bench = {
  name: "resume-cost",
  summary: "what the state store costs data and opens, and TLS data, against without, sshfs and plain",
  place: "memory",
  run,
};
