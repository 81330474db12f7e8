/** `memory`: the most memory client and server ever hold while a file of 4 GiB is streamed through them, over loopback and over a long line. */
import { join } from "node:path";
import type { Bench, BenchContext } from "./bench.ts";
import { startDrives, stopAll } from "./peers.ts";
import type { Goal, Report, Table } from "./report.ts";
import { figure } from "./statistics.ts";
import { MIB, readCold, speedMbs, type Transfer, writeNew } from "./transfers.ts";
import type { LinkShape } from "./workbench.ts";

const SIZE_MIB = 4096;
const QUICK_SIZE_MIB = 256;
/** The long line needs the most data under way; a part of the file shows it. */
const LINE_PART = 4;
const LINE: LinkShape = { roundTripMs: 150, rateBitsPerSecond: 1e9 };

interface Case {
  readonly name: string;
  readonly transfer: Transfer;
}

async function measure(context: BenchContext, bytes: number, link: LinkShape | undefined): Promise<Case[]> {
  const where = link === undefined ? "loopback" : `${link.roundTripMs} ms, 1 Gbit/s`;
  const cases: Case[] = [];
  for (let run = 0; run < context.runCount; run += 1) {
    // New processes for each run and direction: their peak is that of one transfer.
    const reading = await startDrives(context, ["netdrive", "sshfs"], { link });
    for (const peer of reading) {
      const secondsMax = peer.name === "netdrive" ? {} : { secondsMax: 20 };
      const transfer = await readCold(context, peer, run, { name: "large", bytesMax: bytes, ...secondsMax });
      cases.push({ name: `read, ${where}`, transfer });
    }
    await stopAll(reading);
    const writing = await startDrives(context, ["netdrive", "sshfs"], { link });
    for (const peer of writing) {
      const part = peer.name === "netdrive" ? bytes : bytes / 8;
      cases.push({ name: `write, ${where}`, transfer: await writeNew(context, peer, run, { bytes: part }) });
    }
    await stopAll(writing);
  }
  return cases;
}

/** The greatest of all runs: a peak is not averaged. */
function peakMib(cases: readonly Case[], peer: string, side: "client" | "server"): number {
  const own = cases.filter(({ transfer }) => transfer.peer === peer);
  return Math.max(...own.map(({ transfer }) => transfer.usage[side].peakBytes)) / MIB;
}

function table(cases: readonly Case[]): Table {
  const names = [...new Set(cases.map(({ name }) => name))];
  const rows = names.flatMap((name) => {
    const these = cases.filter((one) => one.name === name);
    return [...new Set(these.map(({ transfer }) => transfer.peer))].map((peer) => {
      const own = these.filter(({ transfer }) => transfer.peer === peer);
      const first = own[0] as Case;
      const sides = (["client", "server"] as const).map((side) => figure(peakMib(own, peer, side)));
      return [`${name}: ${peer}`, figure(first.transfer.bytes / MIB), figure(speedMbs(first.transfer)), ...sides];
    });
  });
  return {
    caption: "Peak resident memory",
    columns: ["", "MiB moved", "MB/s", "client peak MiB", "server peak MiB"],
    rows,
  };
}

async function run(context: BenchContext): Promise<Report> {
  const bytes = (context.sizeMib ?? (context.quick ? QUICK_SIZE_MIB : SIZE_MIB)) * MIB;
  await context.workbench.load("fill", join(context.workbench.shared, "large"), bytes);
  const cases = [...(await measure(context, bytes, undefined)), ...(await measure(context, bytes / LINE_PART, LINE))];
  const goals: Goal[] = context.wants("netdrive")
    ? (["client", "server"] as const).map((side) => ({
        what: `peak memory of the ${side}`,
        value: peakMib(cases, "netdrive", side),
        must: 200,
        aim: 120,
        sense: "atMost",
        unit: "MiB",
      }))
    : [];
  return {
    title: "Memory while streaming",
    notes: [
      "VmHWM of each side's processes, started anew for every transfer, the greatest of all runs. It is what is resident at the peak, the code of " +
        "the runtime included. sshfs moves an eighth of the data when writing and reads for at most 20 s.",
    ],
    peers: [],
    tables: [table(cases)],
    goals,
    data: cases,
  };
}

export const memoryBench: Bench = {
  name: "memory",
  summary: "peak memory of client and server while 4 GiB are streamed",
  place: "disk",
  run,
};
