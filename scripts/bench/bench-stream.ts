/**
 * `stream`: one large file read and written from start to end over loopback, against the C relay (the floor) and sshfs.
 *
 * Reads find the file in the server's page cache and nothing on the client, which is mounted anew for each. Writes end with fsync: what is
 * measured includes the server's disk, the same for all; the plain directory shows what that does without a drive. `stream-memory`: the writes once more
 * into a directory in memory, where no disk is measured.
 */
import { truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Bench, BenchContext } from "./bench.ts";
import { type Peer, plainPeer } from "./peer.ts";
import { startRelay } from "./peer-relay.ts";
import { startDrives } from "./peers.ts";
import type { Goal, Report } from "./report.ts";
import { medianRatio, rotated } from "./statistics.ts";
import { MIB, readCold, speedsOf, type Transfer, transferTable, UNMEASURED_RUN, writeNew } from "./transfers.ts";

const READ_MIB = 2048;
const QUICK_READ_MIB = 128;

async function readAll(context: BenchContext, drives: readonly Peer[], readBytes: number): Promise<Transfer[]> {
  const { workbench } = context;
  const file = join(workbench.shared, "large");
  await workbench.load("fill", file, readBytes);
  const relay = context.wants("relay") ? [await startRelay(workbench, file)] : [];
  const transfers: Transfer[] = [];
  for (let run = UNMEASURED_RUN; run < context.runCount; run += 1) {
    for (const peer of rotated([...relay, ...drives], run)) {
      const nameAtPeer = peer.name === "relay" ? "f" : "large";
      const transfer = await readCold(context, peer, run, { name: "large", nameAtPeer });
      if (run !== UNMEASURED_RUN) transfers.push(transfer);
    }
  }
  for (const peer of relay) await peer.stop();
  return transfers;
}

async function writeAll(context: BenchContext, drives: readonly Peer[], bytes: number): Promise<Transfer[]> {
  const { workbench } = context;
  const backing = join(workbench.directory, "relay-backing");
  await writeFile(backing, "");
  const relay = context.wants("relay") ? [await startRelay(workbench, backing)] : [];
  // rclone acknowledges from a cache on the client's disk.
  const plain = context.wants("plain") ? [plainPeer(workbench)] : [];
  const writers = [...plain, ...relay, ...drives.filter((peer) => peer.name !== "rclone")];
  const transfers: Transfer[] = [];
  for (let run = UNMEASURED_RUN; run < context.runCount; run += 1) {
    for (const peer of rotated(writers, run)) {
      if (peer.name === "relay") {
        await truncate(backing, 0);
        await peer.remount();
      }
      const path = peer.name === "relay" ? { path: join(peer.path, "f") } : {};
      const transfer = await writeNew(context, peer, run, { bytes, ...path });
      if (run !== UNMEASURED_RUN) transfers.push(transfer);
    }
  }
  for (const peer of relay) await peer.stop();
  return transfers;
}

function goals(reads: readonly Transfer[], writes: readonly Transfer[]): Goal[] {
  const goal = (
    what: string,
    transfers: readonly Transfer[],
    base: string,
    must: number,
    aim: number,
    peer = "netdrive",
  ): Goal[] => {
    const [own, other] = [speedsOf(transfers, peer), speedsOf(transfers, base)];
    if (own.length === 0 || other.length !== own.length) return [];
    return [{ what, value: medianRatio(own, other), must, aim, sense: "atLeast", unit: `x ${base}` }];
  };
  return [
    ...goal("sequential read", reads, "relay", 0.65, 0.9),
    ...goal("sequential write + fsync", writes, "relay", 0.8, 0.95),
    ...goal("sequential read", reads, "sshfs", 6, 12),
    ...goal("sequential write + fsync", writes, "sshfs", 6, 12),
    ...goal("sequential read over TLS", reads, "sshfs", 3, 5, "netdrive tls"),
    ...goal("sequential write + fsync over TLS", writes, "sshfs", 3, 5, "netdrive tls"),
  ];
}

async function run(context: BenchContext): Promise<Report> {
  const readBytes = (context.sizeMib ?? (context.quick ? QUICK_READ_MIB : READ_MIB)) * MIB;
  const drives = await startDrives(context, ["netdrive", "netdrive signed", "netdrive tls", "sshfs", "rclone"]);
  const reads = await readAll(context, drives, readBytes);
  const writes = await writeAll(context, drives, readBytes / 2);
  const peers = ["plain directory", "relay", ...drives.map((peer) => peer.name)];
  return {
    title: "Sequential reading and writing over loopback",
    notes: [
      "1 MiB at a time, one thread, after one run that is not measured: servers have served before. " +
        "Read: in the server's page cache, the client freshly mounted. Write: a new file, fsync and close included. " +
        "Plain: the exported directory itself, which for writes is the disk's own speed. " +
        "The relay is C with neither protocol nor safety, one process for both sides (its CPU is in the client's column); the channel of " +
        "netdrive is plain, that of netdrive signed is signed, that of netdrive tls encrypted, as sshfs's is. rclone writes to a cache on the client and is left out there.",
    ],
    peers: drives.map((peer) => peer.description),
    tables: [
      transferTable({ caption: "Sequential read", transfers: reads, peers, base: "relay" }),
      transferTable({ caption: "Sequential write + fsync", transfers: writes, peers, base: "relay" }),
    ],
    goals: goals(reads, writes),
    data: { reads, writes },
  };
}

async function runInMemory(context: BenchContext): Promise<Report> {
  const bytes = ((context.sizeMib ?? (context.quick ? QUICK_READ_MIB : READ_MIB)) * MIB) / 2;
  const drives = await startDrives(context, ["netdrive", "netdrive tls", "sshfs"]);
  const writes = await writeAll(context, drives, bytes);
  const peers = ["plain directory", "relay", ...drives.map((peer) => peer.name)];
  return {
    title: "Sequential writing over loopback, into memory",
    notes: [
      "As `stream`, with the exported directory in memory (tmpfs), so that no disk is measured: fsync has nothing to do there.",
    ],
    peers: drives.map((peer) => peer.description),
    tables: [transferTable({ caption: "Sequential write + fsync", transfers: writes, peers, base: "relay" })],
    goals: goals([], writes),
    data: { writes },
  };
}

export const streamMemoryBench: Bench = {
  name: "stream-memory",
  summary: "sequential write over loopback into a directory in memory, against the C relay and sshfs",
  place: "memory",
  run: runInMemory,
};

export const streamBench: Bench = {
  name: "stream",
  summary: "sequential read and write + fsync over loopback, against the C relay and sshfs",
  place: "disk",
  run,
};
