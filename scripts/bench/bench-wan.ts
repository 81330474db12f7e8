/** `wan`: a large file read and written over a link of 1 Gbit/s with 50 and 150 ms of round trip, as a share of the line. */
import { join } from "node:path";
import type { Bench, BenchContext } from "./bench.ts";
import { startDrives, stopAll } from "./peers.ts";
import type { Goal, Report, Table } from "./report.ts";
import { median, rotated } from "./statistics.ts";
import { MIB, readCold, speedsOf, type Transfer, transferTable, writeNew } from "./transfers.ts";

const SIZE_MIB = 512;
const QUICK_SIZE_MIB = 64;
const RATE_BITS_PER_SECOND = 1e9;
/** Peers that do not fill the line are given this long, or this part of the data. */
const SLOW_SECONDS_MAX = 15;
const SLOW_PART = 8;

const LINKS = [
  { roundTripMs: 50, must: 0.92, aim: 0.97 },
  { roundTripMs: 150, must: 0.85, aim: 0.95 },
] as const;

interface Series {
  readonly reads: Transfer[];
  readonly writes: Transfer[];
}

async function measure(
  context: BenchContext,
  roundTripMs: number,
  bytes: number,
): Promise<Series & { peers: string[] }> {
  const link = { roundTripMs, rateBitsPerSecond: RATE_BITS_PER_SECOND };
  context.say(`link of ${roundTripMs} ms`);
  const drives = await startDrives(context, ["netdrive", "sshfs", "rclone"], { link });
  const reads: Transfer[] = [];
  const writes: Transfer[] = [];
  for (let run = 0; run < context.runCount; run += 1) {
    for (const peer of rotated(drives, run)) {
      const secondsMax = peer.name === "netdrive" ? {} : { secondsMax: SLOW_SECONDS_MAX };
      reads.push(await readCold(context, peer, run, { name: "large", ...secondsMax }));
      // rclone acknowledges from a cache on the client's disk.
      if (peer.name === "rclone") continue;
      const part = peer.name === "netdrive" ? bytes : bytes / SLOW_PART;
      writes.push(await writeNew(context, peer, run, { bytes: part }));
    }
  }
  await stopAll(drives);
  return { reads, writes, peers: drives.map((peer) => peer.description) };
}

function tables(roundTripMs: number, { reads, writes }: Series): Table[] {
  const peers = ["netdrive", "sshfs", "rclone"];
  const common = { peers, lineBitsPerSecond: RATE_BITS_PER_SECOND };
  return [
    transferTable({ caption: `${roundTripMs} ms, sequential read`, transfers: reads, ...common }),
    transferTable({ caption: `${roundTripMs} ms, sequential write + fsync`, transfers: writes, ...common }),
  ];
}

function goals({ roundTripMs, must, aim }: (typeof LINKS)[number], series: Series): Goal[] {
  return (["reads", "writes"] as const).flatMap((kind) => {
    const speeds = speedsOf(series[kind], "netdrive");
    if (speeds.length === 0) return [];
    const what = `${roundTripMs} ms, ${kind === "reads" ? "read" : "write + fsync"}`;
    const value = (median(speeds) * 8e6) / RATE_BITS_PER_SECOND;
    return [{ what, value, must, aim, sense: "atLeast" as const, unit: "of the line" }];
  });
}

async function run(context: BenchContext): Promise<Report> {
  const { workbench } = context;
  const bytes = (context.sizeMib ?? (context.quick ? QUICK_SIZE_MIB : SIZE_MIB)) * MIB;
  await workbench.load("fill", join(workbench.shared, "large"), bytes);
  const measured = [];
  for (const link of LINKS) measured.push({ link, series: await measure(context, link.roundTripMs, bytes) });
  return {
    title: "Over 1 Gbit/s with 50 and 150 ms of round trip",
    notes: [
      "The link is the simulator of link.ts: delay and rate of the payload, both directions separately, no loss. Times include opening, the way there " +
        "and the last acknowledgement. Reads: in the server's page cache, the client freshly mounted. Peers that do not fill the line are read " +
        `for at most ${SLOW_SECONDS_MAX} s and write an eighth of the data. rclone writes to a cache on the client and is left out there.`,
      "Looking the name up, opening or making the file, and the first byte or the last acknowledgement take a round trip each, one after the other, of " +
        "any file system that does not answer before its server has: with 512 MiB that leaves 0.966 of the line at 50 ms and 0.905 at 150 ms.",
      await workbench.linkCost(),
    ],
    peers: measured[0]?.series.peers ?? [],
    tables: measured.flatMap(({ link, series }) => tables(link.roundTripMs, series)),
    goals: measured.flatMap(({ link, series }) => goals(link, series)),
    data: measured.map(({ link, series }) => ({ roundTripMs: link.roundTripMs, ...series })),
  };
}

export const wanBench: Bench = {
  name: "wan",
  summary: "read and write over 1 Gbit/s with 50 and 150 ms, as a share of the line",
  place: "disk",
  run,
};
