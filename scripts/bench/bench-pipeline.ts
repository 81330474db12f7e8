/** `pipeline`: what sending sections without waiting is worth: an unbuffered write over 10 ms, against `-o pipeline=off`. */
import type { Bench, BenchContext } from "./bench.ts";
import { startNetdrive } from "./peer-netdrive.ts";
import { stopAll } from "./peers.ts";
import type { Goal, Report } from "./report.ts";
import { medianRatio, rotated } from "./statistics.ts";
import { MIB, speedsOf, type Transfer, transferTable, writeNew } from "./transfers.ts";

const ROUND_TRIP_MS = 10;
const SIZE_MIB = 128;
const QUICK_SIZE_MIB = 16;
/** What the application writes at once: more than a round trip's worth of sections, as a backup or a copy does. */
const BLOCK_MIB = 32;
const OFF = "pipeline=off";

async function run(context: BenchContext): Promise<Report> {
  const { workbench } = context;
  const bytes = (context.sizeMib ?? (context.quick ? QUICK_SIZE_MIB : SIZE_MIB)) * MIB;
  const link = { roundTripMs: ROUND_TRIP_MS };
  const peers = [
    await startNetdrive({ workbench, link }),
    await startNetdrive({ workbench, link, mountOptions: [OFF] }),
  ];
  const transfers: Transfer[] = [];
  for (let run = 0; run < context.runCount; run += 1) {
    for (const peer of rotated(peers, run)) {
      const blockBytes = Math.min(bytes, BLOCK_MIB * MIB);
      transfers.push(await writeNew(context, peer, run, { bytes, mode: "direct", blockBytes }));
    }
  }
  const names = peers.map((peer) => peer.name);
  const [on = "", off = ""] = names;
  await stopAll(peers);
  const value = medianRatio(speedsOf(transfers, on), speedsOf(transfers, off));
  const goal: Goal = { what: "unbuffered write", value, must: 10, aim: 30, sense: "atLeast", unit: `x ${OFF}` };
  return {
    title: "Sections without waiting, against one at a time",
    notes: [
      `Unbuffered (O_DIRECT) writes of ${BLOCK_MIB} MiB each and an fsync over a link with ${ROUND_TRIP_MS} ms of round trip and no limit of its rate. ` +
        `With \`-o ${OFF}\` a section is sent when the one before is acknowledged.`,
    ],
    peers: peers.map((peer) => peer.description),
    tables: [transferTable({ caption: "Unbuffered write", transfers, peers: names, base: off })],
    goals: [goal],
    data: transfers,
  };
}

export const pipelineBench: Bench = {
  name: "pipeline",
  summary: "unbuffered write over 10 ms, pipelined against one section at a time",
  place: "disk",
  run,
};
