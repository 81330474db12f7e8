/** `random`: 4 KiB reads at different places of a large file, none twice and none in the client's cache, by 1 and by 16 threads. */
import { join } from "node:path";
import type { Bench, BenchContext } from "./bench.ts";
import { type Peer, type PeerUsage, withUsage } from "./peer.ts";
import { startRelay } from "./peer-relay.ts";
import { startDrives } from "./peers.ts";
import type { Goal, Report, Table } from "./report.ts";
import { figure, median, medianRatio, rotated, spread } from "./statistics.ts";
import { BLOCK_BYTES, MIB } from "./transfers.ts";
import type { Measured } from "./workbench.ts";

const FILE_MIB = 1024;
const QUICK_FILE_MIB = 64;
const PAGE_BYTES = 4096;
const CASES = [
  { threads: 1, reads: 10_000 },
  { threads: 16, reads: 40_000 },
] as const;

interface Sample {
  readonly run: number;
  readonly threads: number;
  readonly peer: string;
  readonly measured: Measured;
  readonly usage: PeerUsage;
}

function perSecond({ measured }: Sample): number {
  return measured.count / (measured.elapsedNs / 1e9);
}

async function sample(context: BenchContext, peer: Peer, run: number, threads: number, reads: number): Promise<Sample> {
  const { workbench } = context;
  await workbench.load("read", join(workbench.shared, "large"), BLOCK_BYTES, 0, 0);
  await peer.remount();
  const path = join(peer.path, peer.name === "relay" ? "f" : "large");
  const load = () => workbench.load("random", path, reads, threads, run * 2);
  const { value, usage } = await workbench.withWarmMemory(reads * PAGE_BYTES, () => withUsage(peer, load));
  const result = { run, threads, peer: peer.name, measured: value, usage };
  context.say(`run ${run + 1}, ${threads} threads, ${peer.name}: ${figure(perSecond(result))} reads/s`);
  return result;
}

function table(samples: readonly Sample[], threads: number, peers: readonly string[]): Table {
  const of = (peer: string) => samples.filter((one) => one.threads === threads && one.peer === peer);
  const base = of("relay").map(perSecond);
  const rows = peers.flatMap((peer) => {
    const own = of(peer);
    if (own.length === 0) return [];
    const speeds = own.map(perSecond);
    const each = (value: (one: Sample) => number) => figure(median(own.map(value)));
    return [
      [
        peer,
        spread(speeds),
        base.length === own.length ? figure(medianRatio(speeds, base)) : "-",
        each(({ measured }) => measured.p50Ns / 1000),
        each(({ measured }) => measured.p99Ns / 1000),
        each(({ usage, measured }) => (usage.client.cpuS * 1e6) / measured.count),
        each(({ usage, measured }) => (usage.server.cpuS * 1e6) / measured.count),
      ],
    ];
  });
  const columns = ["", "reads/s (least-most)", "x relay", "p50 µs", "p99 µs", "client CPU µs", "server CPU µs"];
  return { caption: threads === 1 ? "1 thread" : `${threads} threads`, columns, rows };
}

function goals(samples: readonly Sample[]): Goal[] {
  const speeds = (peer: string, threads: number) =>
    samples.filter((one) => one.threads === threads && one.peer === peer).map(perSecond);
  const goal = (threads: number, rest: (own: number[], relay: number[]) => Goal): Goal[] => {
    const [own, relay] = [speeds("netdrive", threads), speeds("relay", threads)];
    return own.length === 0 || relay.length !== own.length ? [] : [rest(own, relay)];
  };
  return [
    ...goal(1, (own, relay) => ({
      what: "time of a read, 1 thread",
      value: medianRatio(relay, own),
      must: 2,
      aim: 1.4,
      sense: "atMost",
      unit: "x relay",
    })),
    ...goal(16, (own, relay) => ({
      what: "reads a second, 16 threads",
      value: medianRatio(own, relay),
      must: 0.5,
      aim: 0.8,
      sense: "atLeast",
      unit: "x relay",
    })),
  ];
}

async function run(context: BenchContext): Promise<Report> {
  const { workbench } = context;
  const fileMib = context.sizeMib ?? (context.quick ? QUICK_FILE_MIB : FILE_MIB);
  const file = join(workbench.shared, "large");
  await workbench.load("fill", file, fileMib * MIB);
  const relay = context.wants("relay") ? [await startRelay(workbench, file)] : [];
  const peers = [...relay, ...(await startDrives(context, ["netdrive", "sshfs"]))];
  const samples: Sample[] = [];
  for (let run = 0; run < context.runCount; run += 1) {
    for (const { threads, reads } of CASES) {
      const count = Math.min(context.quick ? reads / 10 : reads, (fileMib * MIB) / PAGE_BYTES);
      for (const peer of rotated(peers, run)) samples.push(await sample(context, peer, run, threads, count));
    }
  }
  const names = peers.map((peer) => peer.name);
  return {
    title: "Random 4 KiB reads over loopback",
    notes: [
      `A file of ${fileMib} MiB in the server's page cache; the client is mounted anew for each measurement and told that access is random, every ` +
        "read is of a different page. netdrive's channel is plain, sshfs encrypts.",
    ],
    peers: peers.map((peer) => peer.description),
    tables: CASES.map(({ threads }) => table(samples, threads, names)),
    goals: goals(samples),
    data: samples,
  };
}

export const randomBench: Bench = {
  name: "random",
  summary: "random 4 KiB reads, 1 and 16 threads, against the C relay",
  place: "memory",
  run,
};
