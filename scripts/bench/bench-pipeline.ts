/** `pipeline`: what sending sections without waiting is worth: an unbuffered write over 10 ms, against `-o pipeline=off`. */
import type { Bench, BenchContext } from "./bench.ts";
import { startNetdrive } from "./peer-netdrive.ts";
import { stopAll } from "./peers.ts";
import type { Goal, Report } from "./report.ts";
import { medianRatio, rotated } from "./statistics.ts";
import { MIB, speedsOf, type Transfer, transferTable, UNMEASURED_RUN, writeNew } from "./transfers.ts";

const ROUND_TRIP_MS = 10;
const SIZE_MIB = 1024;
const QUICK_SIZE_MIB = 128;
/** What the application writes at once: many round trips' worth of sections, so that the wait for the last of them is not what is measured. */
const BLOCK_MIB = 128;
const OFF = "pipeline=off";
/** With the larger one, one section a round trip is 100 MB/s already, and ten times that is more than a machine with two processors carries. */
const SECTIONS = ["64k", "1m"] as const;
/** What one at a time writes of the data: it is slow, and the round trip makes every part of it alike. */
const SLOW_PART = { "64k": 64, "1m": 8 } as const;

interface Pair {
  readonly section: (typeof SECTIONS)[number];
  readonly names: readonly [on: string, off: string];
  readonly transfers: Transfer[];
  readonly peers: readonly string[];
}

async function measure(context: BenchContext, section: Pair["section"], bytes: number): Promise<Pair> {
  const { workbench } = context;
  const link = { roundTripMs: ROUND_TRIP_MS };
  const size = `section=${section}`;
  const on = await startNetdrive({ workbench, link, mountOptions: [size] });
  const off = await startNetdrive({ workbench, link, mountOptions: [size, OFF] });
  const transfers: Transfer[] = [];
  for (let run = UNMEASURED_RUN; run < context.runCount; run += 1) {
    for (const peer of rotated([on, off], run)) {
      const part = peer === off ? bytes / SLOW_PART[section] : bytes;
      const blockBytes = Math.min(part, BLOCK_MIB * MIB);
      const transfer = await writeNew(context, peer, run, { bytes: part, mode: "direct", blockBytes });
      if (run !== UNMEASURED_RUN) transfers.push(transfer);
    }
  }
  await stopAll([on, off]);
  return { section, names: [on.name, off.name], transfers, peers: [on.description, off.description] };
}

function goal({ section, names, transfers }: Pair): Goal {
  const [on, off] = names;
  const value = medianRatio(speedsOf(transfers, on), speedsOf(transfers, off));
  const what = `unbuffered write, sections of ${section}`;
  return { what, value, must: 10, aim: 30, sense: "atLeast", unit: `x ${OFF}` };
}

async function run(context: BenchContext): Promise<Report> {
  const bytes = (context.sizeMib ?? (context.quick ? QUICK_SIZE_MIB : SIZE_MIB)) * MIB;
  const { workbench } = context;
  const pairs: Pair[] = [];
  for (const section of SECTIONS) pairs.push(await measure(context, section, bytes));
  return {
    title: "Sections without waiting, against one at a time",
    notes: [
      `Unbuffered (O_DIRECT) writes of up to ${BLOCK_MIB} MiB each and an fsync over a link with ${ROUND_TRIP_MS} ms of round trip and no limit of its rate, ` +
        "into a directory in memory (tmpfs), so that no disk is measured, after one run that is not measured. " +
        `With \`-o ${OFF}\` a section is sent when the one before is acknowledged. Both sides of a comparison use the same size of section. 64 KiB is what a ` +
        "request of common network file systems carries, and there the round trip is what counts. With 1 MiB, netdrive's default, one section a round trip is " +
        "100 MB/s already, so the ratio is bounded by what the machine carries.",
      await workbench.linkCost(),
    ],
    peers: pairs.flatMap((pair) => pair.peers),
    tables: pairs.map(({ section, names, transfers }) =>
      transferTable({ caption: `Unbuffered write, sections of ${section}`, transfers, peers: names, base: names[1] }),
    ),
    goals: pairs.map(goal),
    data: pairs,
  };
}

export const pipelineBench: Bench = {
  name: "pipeline",
  summary: "unbuffered write over 10 ms, pipelined against one section at a time",
  place: "memory",
  run,
};
