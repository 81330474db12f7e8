/**
 * `metadata`: small operations that all go to the server: stat of a name never seen, open + read + close, create + write + close, and a
 * listing of a large directory with attributes.
 *
 * Nothing can come from a cache of a client: every loop has files of its own, made a moment before beside the drives and never named through
 * them. But netdrive reads a directory in which names are missed, under a lease, so that after a few files it does not ask for the name of one that is to be made.
 * sshfs keeps its default options (its directory cache may help it inside one listing, as it does for a user).
 */
import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";
import type { Bench, BenchContext } from "./bench.ts";
import { type Peer, type PeerUsage, plainPeer, withUsage } from "./peer.ts";
import { startNetdrive } from "./peer-netdrive.ts";
import { startRelay } from "./peer-relay.ts";
import { startSshfs } from "./peer-sshfs.ts";
import type { Goal, Report, Table } from "./report.ts";
import { figure, median, medianRatio, rotated, spread } from "./statistics.ts";
import type { Measured } from "./workbench.ts";

const FILE_BYTES = 4096;
/** Not measured. */
const WARM_UP_ROUNDS = 4;
interface Operation {
  readonly name: string;
  readonly title: string;
  /** The measured loop: words for load.c. */
  words(directory: string, prefix: string, count: number): (string | number)[];
  /** Whether files must be there before. */
  readonly prepared: boolean;
  /** Operations a round: of a directory the entries. */
  count(quick: boolean): number;
  /**
   * Each run measures every peer this often, in turns, and takes them together: on few cores an operation takes twice as long or half when the
   * scheduler puts the processes on one core or on two, and keeps them there for a while.
   */
  readonly roundCount: number;
  /** Time against sshfs. */
  readonly goal: { must: number; aim: number };
  readonly relayCan: boolean;
}

const OPERATIONS: readonly Operation[] = [
  {
    name: "stat",
    title: "stat of an uncached name",
    words: (directory, prefix, count) => ["stat", directory, prefix, count],
    prepared: true,
    count: (quick) => (quick ? 100 : 500),
    roundCount: 5,
    goal: { must: 0.6, aim: 0.3 },
    relayCan: true,
  },
  {
    name: "read",
    title: "open + read 4 KiB + close",
    words: (directory, prefix, count) => ["read-small", directory, prefix, count, FILE_BYTES],
    prepared: true,
    count: (quick) => (quick ? 100 : 500),
    roundCount: 5,
    goal: { must: 0.45, aim: 0.225 },
    relayCan: false,
  },
  {
    name: "create",
    title: "create + write 4 KiB + close",
    words: (directory, prefix, count) => ["create", directory, prefix, count, FILE_BYTES],
    prepared: false,
    count: (quick) => (quick ? 50 : 250),
    roundCount: 5,
    goal: { must: 0.6, aim: 0.3 },
    relayCan: false,
  },
  {
    name: "list",
    title: "readdir with attributes, an entry",
    words: (directory) => ["list", directory],
    prepared: true,
    count: (quick) => (quick ? 1000 : 10_000),
    roundCount: 2,
    goal: { must: 1, aim: 0.5 },
    relayCan: false,
  },
];

interface Sample {
  readonly run: number;
  readonly round: number;
  readonly operation: string;
  readonly peer: string;
  readonly measured: Measured;
  readonly usage: PeerUsage;
}

/** One loop over one peer, in a directory of its own that is gone afterwards. */
async function measure(
  context: BenchContext,
  operation: Operation,
  peer: Peer,
  turn: { run: number; round: number },
): Promise<Sample> {
  const { workbench } = context;
  const folder = `${operation.name}-${turn.run}-${turn.round}-${peer.name.replaceAll(/\W+/g, "-")}`;
  const prefix = `${folder}-`;
  const beside = join(workbench.shared, folder);
  const count = operation.count(context.quick);
  await mkdir(beside);
  if (operation.prepared) await workbench.load("files", beside, prefix, count, FILE_BYTES);
  // The relay has no directories: it knows every name below its root.
  const directory = peer.name === "relay" ? peer.path : join(peer.path, folder);
  const { value, usage } = await withUsage(peer, () => workbench.load(...operation.words(directory, prefix, count)));
  if (value.count !== count) throw new Error(`${peer.name}: ${operation.name} did ${value.count} of ${count}`);
  await rm(beside, { recursive: true });
  return { ...turn, operation: operation.name, peer: peer.name, measured: value, usage };
}

/** What a program does just after its start (loading, compiling) is not what it does all day. */
async function warmUp(context: BenchContext, operation: Operation, peers: readonly Peer[]): Promise<void> {
  for (let round = 0; round < (context.quick ? 1 : WARM_UP_ROUNDS); round += 1) {
    for (const peer of peers) {
      if (peer.name !== "relay" || operation.relayCan) await measure(context, operation, peer, { run: -1, round });
    }
  }
}

async function startPeers(context: BenchContext): Promise<Peer[]> {
  const { workbench } = context;
  const peers: Peer[] = [];
  if (context.wants("plain")) peers.push(plainPeer(workbench));
  if (context.wants("relay")) {
    const backing = join(workbench.directory, "relay-file");
    await workbench.load("fill", backing, FILE_BYTES);
    peers.push(await startRelay(workbench, backing));
  }
  if (context.wants("sshfs")) {
    peers.push(await startSshfs({ workbench }));
    peers.push(await startSshfs({ workbench, mountOptions: ["dir_cache=no"] }));
  }
  if (context.wants("netdrive")) peers.push(await startNetdrive({ workbench }));
  return peers;
}

/** A peer's figures of an operation, one value a run, in microseconds an operation. */
interface Series {
  readonly mean: number[];
  readonly p50: number[];
  readonly p99: number[];
  readonly clientCpu: number[];
  readonly serverCpu: number[];
}

function seriesOf(samples: readonly Sample[], operation: Operation, peer: string): Series {
  const series: Series = { mean: [], p50: [], p99: [], clientCpu: [], serverCpu: [] };
  for (let run = 0; ; run += 1) {
    const own = samples.filter(
      (sample) => sample.run === run && sample.operation === operation.name && sample.peer === peer,
    );
    if (own.length === 0) return series;
    const count = own.reduce((sum, { measured }) => sum + measured.count, 0);
    const perOperation = (value: (sample: Sample) => number) => own.reduce((sum, one) => sum + value(one), 0) / count;
    series.mean.push(perOperation(({ measured }) => measured.elapsedNs / 1000));
    series.p50.push(median(own.map(({ measured }) => measured.p50Ns / 1000)));
    series.p99.push(median(own.map(({ measured }) => measured.p99Ns / 1000)));
    series.clientCpu.push(perOperation(({ usage }) => usage.client.cpuS * 1e6));
    series.serverCpu.push(perOperation(({ usage }) => usage.server.cpuS * 1e6));
  }
}

function tableOf(operation: Operation, samples: readonly Sample[], peers: readonly Peer[], quick: boolean): Table {
  const sshfs = seriesOf(samples, operation, "sshfs");
  const rows = peers.flatMap(({ name }) => {
    const { mean, p50, p99, clientCpu, serverCpu } = seriesOf(samples, operation, name);
    if (mean.length === 0) return [];
    const ratio = sshfs.mean.length === 0 ? Number.NaN : medianRatio(mean, sshfs.mean);
    const ratioOfMedians = sshfs.mean.length === 0 ? Number.NaN : medianRatio(p50, sshfs.p50);
    // A listing is one operation; it has no distribution.
    const within = [p50, p99].map((values) => figure(median(values) || Number.NaN));
    const cpu = [clientCpu, serverCpu].map((values) => figure(median(values)));
    return [[name, spread(mean), figure(ratio), ...within, figure(ratioOfMedians), ...cpu]];
  });
  const columns = [
    "",
    "µs each (least-most)",
    "x sshfs",
    "p50",
    "p99",
    "p50 x sshfs",
    "client CPU µs",
    "server CPU µs",
  ];
  return { caption: `${operation.title}, ${operation.roundCount} x ${operation.count(quick)} a run`, columns, rows };
}

function goalsOf(samples: readonly Sample[]): Goal[] {
  return OPERATIONS.flatMap((operation) => {
    const own = seriesOf(samples, operation, "netdrive").mean;
    const sshfs = seriesOf(samples, operation, "sshfs").mean;
    if (own.length === 0 || sshfs.length === 0) return [];
    const value = medianRatio(own, sshfs);
    return [{ what: operation.title, value, ...operation.goal, sense: "atMost" as const, unit: "x sshfs" }];
  });
}

async function run(context: BenchContext): Promise<Report> {
  const peers = await startPeers(context);
  for (const operation of OPERATIONS) await warmUp(context, operation, peers);
  const samples: Sample[] = [];
  for (let run = 0; run < context.runCount; run += 1) {
    for (const operation of OPERATIONS) {
      const able = peers.filter((peer) => peer.name !== "relay" || operation.relayCan);
      for (let round = 0; round < operation.roundCount; round += 1) {
        for (const peer of rotated(able, run + round)) {
          samples.push(await measure(context, operation, peer, { run, round }));
        }
      }
      const each = able.map(
        ({ name }) => `${name} ${figure(seriesOf(samples, operation, name).mean[run] ?? Number.NaN)}`,
      );
      context.say(`run ${run + 1}, ${operation.name}, µs: ${each.join(", ")}`);
    }
  }
  return {
    title: "Small operations, uncached, over loopback",
    notes: [
      "One thread, one operation after the other; all names are new to the client, the exported directory is in memory (tmpfs) so that no disk " +
        `is measured, and each peer has done ${WARM_UP_ROUNDS} rounds unmeasured before. The plain directory and the relay (FUSE alone, no network ` +
        "for a stat) are floors. sshfs encrypts, netdrive's channel is plain here. netdrive learns the names of a directory in which some were missed, under a " +
        "lease, and does not ask for those of files that are made there then.",
    ],
    peers: peers.map((peer) => peer.description),
    tables: OPERATIONS.map((operation) => tableOf(operation, samples, peers, context.quick)),
    goals: goalsOf(samples),
    data: samples,
  };
}

export const metadataBench: Bench = {
  name: "metadata",
  summary: "stat, open+read+close, create+write+close and listings, uncached, against sshfs",
  place: "memory",
  run,
};
