/** Sequential transfers: how they are measured, and the tables they make. */
import { rm, stat } from "node:fs/promises";
import { join } from "node:path";
import type { BenchContext } from "./bench.ts";
import { run } from "./child.ts";
import { type Peer, type PeerUsage, withUsage } from "./peer.ts";
import type { Table } from "./report.ts";
import { figure, median, medianRatio, spread } from "./statistics.ts";
import type { Workbench } from "./workbench.ts";

/** What an application hands over at once. */
export const BLOCK_BYTES = 1024 * 1024;
export const MIB = 1024 * 1024;
/** The number of a run before the first one: what a server does just after its start, compiling, is not what it does all day. */
export const UNMEASURED_RUN = -1;
/**
 * What a write takes of memory, in its own sizes: the cache of the drive and that of the server, and some for what is under way.
 *
 * With one size warm (`Workbench.withWarmMemory`) the copy into the server's cache took 0.92 s of processor a GB, whoever's server it was, where it
 * takes 0.1 s: in one hour of 2026 netdrive wrote 453 MB/s so, and 1047 with enough of it.
 */
const CACHES_OF_WRITE = 2.5;
/** Units of results are decimal, as those of lines and disks are. */
const MB = 1e6;

export interface Transfer {
  readonly run: number;
  readonly peer: string;
  readonly bytes: number;
  readonly seconds: number;
  readonly usage: PeerUsage;
}

/** Megabytes (10^6) a second. */
export function speedMbs({ bytes, seconds }: Transfer): number {
  return bytes / seconds / MB;
}

/** Those of one peer, in the order of the runs. */
export function speedsOf(transfers: readonly Transfer[], peer: string): number[] {
  return transfers.filter((transfer) => transfer.peer === peer).map(speedMbs);
}

/**
 * Reads `name` of the exported directory sequentially through `peer`: the server's page cache holds it, the client was mounted a moment ago.
 *
 * Ends at `bytesMax` or `secondsMax`, where given.
 */
export async function readCold(
  context: BenchContext,
  peer: Peer,
  run: number,
  file: { name: string; nameAtPeer?: string; bytesMax?: number; secondsMax?: number },
): Promise<Transfer> {
  const { workbench } = context;
  const source = join(workbench.shared, file.name);
  // The disk may still be writing it.
  await settle(workbench);
  await workbench.load("read", source, BLOCK_BYTES, file.bytesMax ?? 0, 0);
  await peer.remount();
  const path = join(peer.path, file.nameAtPeer ?? file.name);
  const load = () => workbench.load("read", path, BLOCK_BYTES, file.bytesMax ?? 0, file.secondsMax ?? 0);
  const bytes = file.bytesMax ?? (await stat(source)).size;
  const { value, usage } = await workbench.withWarmMemory(bytes, () => withUsage(peer, load));
  const transfer = { run, peer: peer.name, bytes: value.bytes, seconds: value.elapsedNs / 1e9, usage };
  context.say(`run ${run + 1}, read, ${peer.name}: ${figure(speedMbs(transfer))} MB/s`);
  return transfer;
}

/** Writes a new file through `peer`, with fsync and close, checks that it is there in its full size, and removes it. */
export async function writeNew(
  context: BenchContext,
  peer: Peer,
  run: number,
  file: { bytes: number; mode?: "buffered" | "direct" | "sync"; blockBytes?: number; path?: string },
): Promise<Transfer> {
  const { workbench } = context;
  const name = `written-${run}`;
  const { blockBytes = BLOCK_BYTES, mode = "buffered" } = file;
  const path = file.path ?? join(peer.path, name);
  const load = () => workbench.load("write", path, blockBytes, file.bytes, mode);
  await warmDisk(workbench, file.bytes);
  await settle(workbench);
  const { value, usage } = await workbench.withWarmMemory(CACHES_OF_WRITE * file.bytes, () => withUsage(peer, load));
  if (file.path === undefined) {
    await workbench.load("check", join(workbench.shared, name), blockBytes, file.bytes);
    await rm(join(workbench.shared, name));
  }
  const transfer = { run, peer: peer.name, bytes: value.bytes, seconds: value.elapsedNs / 1e9, usage };
  context.say(`run ${run + 1}, ${mode} write, ${peer.name}: ${figure(speedMbs(transfer))} MB/s`);
  return transfer;
}

/** Lets the disk finish what was written before, so that a measurement does not pay for the one before it. */
async function settle(workbench: Workbench): Promise<void> {
  await run("sync", ["-f", workbench.shared], { scope: workbench.scope });
}

/**
 * Writes a file beside the drives and removes it again, so that what is written next finds blocks and pages as the one before it did.
 *
 * Without that every other write of 1 GiB cost the server 1.2 to 1.9 s of processor instead of 0.5 to 0.7, on a virtual disk in 2026, whoever wrote it, and dd as
 * well. Warm memory alone is not enough: without this a TLS write into memory did 649 MB/s instead of 931.
 */
async function warmDisk(workbench: Workbench, bytes: number): Promise<void> {
  const path = join(workbench.shared, "warm");
  await workbench.load("write", path, BLOCK_BYTES, Math.ceil((1.2 * bytes) / MIB) * MIB, "buffered");
  await rm(path);
}

/** CPU seconds for a gigabyte (10^9 bytes). */
function cpuPerGb(transfers: readonly Transfer[], side: "client" | "server"): string {
  return figure(median(transfers.map(({ usage, bytes }) => usage[side].cpuS / (bytes / 1e9))));
}

function peakMib(transfers: readonly Transfer[], side: "client" | "server"): string {
  return figure(Math.max(...transfers.map(({ usage }) => usage[side].peakBytes)) / MIB);
}

/**
 * One row a peer: speed, ratio to `base` (run by run), CPU and memory of both sides; with `lineBitsPerSecond`, the share of the line as well.
 */
export function transferTable(options: {
  caption: string;
  transfers: readonly Transfer[];
  peers: readonly string[];
  base?: string;
  lineBitsPerSecond?: number;
}): Table {
  const { caption, transfers, peers, base, lineBitsPerSecond } = options;
  const baseSpeeds = base === undefined ? [] : speedsOf(transfers, base);
  const rows = peers.flatMap((peer) => {
    const own = transfers.filter((transfer) => transfer.peer === peer);
    if (own.length === 0) return [];
    const speeds = own.map(speedMbs);
    const ratio = baseSpeeds.length === own.length ? figure(medianRatio(speeds, baseSpeeds)) : "-";
    const share = lineBitsPerSecond === undefined ? "" : figure((median(speeds) * MB * 8) / lineBitsPerSecond);
    return [
      [
        peer,
        figure((own[0] as Transfer).bytes / MIB),
        spread(speeds),
        ...(lineBitsPerSecond === undefined ? [] : [share]),
        ...(base === undefined ? [] : [ratio]),
        cpuPerGb(own, "client"),
        cpuPerGb(own, "server"),
        peakMib(own, "client"),
        peakMib(own, "server"),
      ],
    ];
  });
  const columns = [
    "",
    "MiB",
    "MB/s (least-most)",
    ...(lineBitsPerSecond === undefined ? [] : ["of the line"]),
    ...(base === undefined ? [] : [`x ${base}`]),
    "client CPU s/GB",
    "server CPU s/GB",
    "client peak MiB",
    "server peak MiB",
  ];
  return { caption, columns, rows };
}
