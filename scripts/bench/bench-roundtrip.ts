/** `roundtrip`: sequential reading at 1 Gbit/s over round trips from 0 to 200 ms, for netdrive, sshfs and rclone, and the plot in the README. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Bench, BenchContext } from "./bench.ts";
import { startDrives, stopAll } from "./peers.ts";
import { type Line, linePlot } from "./plot.ts";
import type { Report, Table } from "./report.ts";
import { figure, median, rotated } from "./statistics.ts";
import { MIB, readCold, speedsOf, type Transfer } from "./transfers.ts";
import { ROOT } from "./workbench.ts";

const SIZE_MIB = 512;
const QUICK_SIZE_MIB = 64;
const ROUND_TRIPS_MS = [0, 10, 25, 50, 75, 100, 150, 200] as const;
const QUICK_ROUND_TRIPS_MS = [0, 50] as const;
const RATE_BITS_PER_SECOND = 1e9;
const SECONDS_MAX = 8;
/** Colours that stay apart for colour-blind eyes and in grey (Okabe and Ito). */
const COLOURS: Record<string, string> = { netdrive: "#0072b2", sshfs: "#d55e00", rclone: "#009e73" };

interface Point {
  readonly roundTripMs: number;
  readonly transfers: Transfer[];
}

async function measure(context: BenchContext, roundTripMs: number): Promise<Point & { peers: string[] }> {
  context.say(`link of ${roundTripMs} ms`);
  const link = { roundTripMs, rateBitsPerSecond: RATE_BITS_PER_SECOND };
  const drives = await startDrives(context, ["netdrive", "sshfs", "rclone"], { link });
  const transfers: Transfer[] = [];
  for (let run = 0; run < context.runCount; run += 1) {
    for (const peer of rotated(drives, run))
      transfers.push(await readCold(context, peer, run, { name: "large", secondsMax: SECONDS_MAX }));
  }
  await stopAll(drives);
  return { roundTripMs, transfers, peers: drives.map((peer) => peer.description) };
}

function namesOf(points: readonly Point[]): string[] {
  return [...new Set(points.flatMap(({ transfers }) => transfers.map(({ peer }) => peer)))].toSorted();
}

function table(points: readonly Point[]): Table {
  const rows = namesOf(points).map((name) => [
    name,
    ...points.map(({ transfers }) => figure(median(speedsOf(transfers, name)))),
  ]);
  return {
    caption: "MB/s over the round trip",
    columns: ["", ...points.map((point) => `${point.roundTripMs} ms`)],
    rows,
  };
}

function plot(points: readonly Point[]): string {
  const lines: Line[] = namesOf(points).map((name) => ({
    name,
    colour: COLOURS[name] ?? "#444444",
    points: points.map(({ roundTripMs, transfers }) => ({ x: roundTripMs, y: median(speedsOf(transfers, name)) })),
  }));
  return linePlot({
    title: "Reading one large file over a 1 Gbit/s line",
    xTitle: "round trip, ms",
    yTitle: "MB/s",
    yMax: 140,
    reference: { y: RATE_BITS_PER_SECOND / 8e6, name: "the line" },
    lines,
  });
}

async function run(context: BenchContext): Promise<Report> {
  const bytes = (context.sizeMib ?? (context.quick ? QUICK_SIZE_MIB : SIZE_MIB)) * MIB;
  await context.workbench.load("fill", join(context.workbench.shared, "large"), bytes);
  const points = [];
  for (const roundTripMs of context.quick ? QUICK_ROUND_TRIPS_MS : ROUND_TRIPS_MS)
    points.push(await measure(context, roundTripMs));
  const svg = context.quick
    ? join(context.workbench.directory, "throughput.svg")
    : join(ROOT, "scripts/bench/throughput.svg");
  await writeFile(svg, plot(points));
  return {
    title: "Throughput over the round trip",
    notes: [
      `Sequential read of up to ${bytes / MIB} MiB, at most ${SECONDS_MAX} s, through the link simulator at 1 Gbit/s; in the server's page cache, the ` +
        "client freshly mounted. Plot: throughput.svg beside this file. netdrive's channel is plain, sshfs encrypts.",
    ],
    peers: points[0]?.peers ?? [],
    tables: [table(points)],
    goals: [],
    data: points,
  };
}

export const roundTripBench: Bench = {
  name: "roundtrip",
  summary: "throughput over round trips from 0 to 200 ms for netdrive, sshfs and rclone, with a plot",
  place: "disk",
  run,
};
