/**
 * `netdrive status [PATH]`: what the drives of this machine are doing, as their processes tell.
 */
import { realpathSync } from "node:fs";
import type { Command } from "commander";
import { systemClock } from "../base/clock.ts";
import { printable } from "../base/log.ts";
import { describeChannels } from "./channel-security.ts";
import { Exit, failure } from "./failure.ts";
import { readRecords, statusSocketOf } from "./mount-registry.ts";
import { askStatus, type DriveStatus } from "./status-socket.ts";

/** A drive whose process does not answer: it is dead, or hangs. */
interface SilentDrive {
  path: string;
  url: string;
  state: "silent";
}

const MIB = 2 ** 20;

export function addStatus(program: Command): void {
  program
    .command("status")
    .description("Show what mounted drives are doing: channels, round trip, throughput, what is outstanding.")
    .argument("[path]", "one drive; all of this user's without it")
    .option("--json", "as JSON, one object a drive; sizes in bytes, times in milliseconds")
    .addHelpText("after", "\nExamples:\n  netdrive status\n  netdrive status ./drive --json")
    .action(async (path: string | undefined, options: { json?: boolean }) => {
      const drives = await askDrives(path);
      if (options.json === true) process.stdout.write(`${JSON.stringify(drives)}\n`);
      else if (drives.length === 0) process.stdout.write("no drive is mounted\n");
      else for (const drive of drives) process.stdout.write(`${format(drive)}\n`);
      if (drives.some(({ state }) => state === "silent")) process.exitCode = Exit.FAILED;
    });
}

async function askDrives(path: string | undefined): Promise<(DriveStatus | SilentDrive)[]> {
  const wanted = path === undefined ? undefined : resolved(path);
  const records = readRecords().filter((record) => wanted === undefined || record.path === wanted);
  if (wanted !== undefined && records.length === 0) {
    throw failure(Exit.PATH, `no drive of yours is mounted at '${printable(wanted)}'; see 'netdrive list'`);
  }
  return Promise.all(
    records.map(async (record) => {
      const { path, url, daemon } = record;
      return (await askStatus(statusSocketOf(path, daemon.pid), systemClock)) ?? { path, url, state: "silent" };
    }),
  );
}

/** Without touching what is mounted there, which may not answer: only the folder it is in is looked at. */
function resolved(path: string): string {
  const trimmed = path.replace(/(.)\/+$/, "$1");
  const cut = trimmed.lastIndexOf("/");
  const [folder, name] = cut < 0 ? [".", trimmed] : [trimmed.slice(0, cut) || "/", trimmed.slice(cut + 1)];
  if (name === "." || name === ".." || name === "") return realpathSync(trimmed);
  try {
    return `${realpathSync(folder).replace(/\/$/, "")}/${name}`;
  } catch {
    throw failure(Exit.PATH, `there is no '${printable(folder)}'; give the path that 'netdrive list' shows`);
  }
}

function format(drive: DriveStatus | SilentDrive): string {
  const head = `${printable(drive.path)}  ${printable(drive.url)}`;
  if (drive.state === "silent") return `${head}\n  its process does not answer; 'netdrive umount' ends it`;
  const { remote, kernel } = drive;
  const roundTrip = remote.roundTripMs === undefined ? "not measured" : `${remote.roundTripMs.toFixed(2)} ms`;
  const mib = (bytes: number) => `${(bytes / MIB).toFixed(1)} MiB`;
  return [
    head,
    `  ${drive.state}${drive.readOnly ? ", read-only" : ""}; channels: ${describeChannels(remote.channels)}; round trip ${roundTrip}`,
    `  outstanding: ${remote.requestsOutstanding} requests, ${remote.sectionsOutstanding} sections of ${mib(drive.sectionBytes)},` +
      ` ${mib(remote.inFlightBytes)} of a window of ${mib(remote.windowBytes)}; ${drive.credits} credits a channel`,
    `  not yet on the server: ${mib(drive.dirtyBytes)}; read ahead: ${mib(drive.readAheadBytes)};` +
      ` best recent rate ${mib(remote.bytesPerSecond)}/s`,
    `  open: ${remote.opens}; leased: ${remote.leases.write} to write, ${remote.leases.read} to read`,
    ...drive.recovered.map((path) => `  not taken by the server, kept in ${printable(path)}`),
    `  read ${mib(kernel.bytesRead)}, written ${mib(kernel.bytesWritten)}, ${kernel.requests} requests of the kernel`,
  ].join("\n");
}
