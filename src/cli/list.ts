/**
 * `netdrive list`: the mounts of this machine, from the kernel's list, with what the registry knows of them.
 */
import type { Command } from "commander";
import { printable } from "../base/log.ts";
import { MOUNT_TYPE, readMountTable } from "../sys/mount-table.ts";
import { findRecord, readRecords } from "./mount-registry.ts";
import { isAlive } from "./process-table.ts";

interface ListedMount {
  path: string;
  /** Without token. */
  url: string;
  readOnly: boolean;
  /** "dead": the process that served it is gone; only `umount` helps. "unknown": another user's. */
  state: "mounted" | "dead" | "unknown";
  pid: number | null;
  /** ISO 8601, UTC. */
  since: string | null;
  log: string | null;
}

function listMounts(): ListedMount[] {
  // Removes records of what is gone.
  readRecords();
  return readMountTable()
    .filter(({ type }) => type === MOUNT_TYPE)
    .map(({ path, source, readOnly }) => {
      const record = findRecord(path);
      if (record === undefined) {
        return { path, url: source, readOnly, state: "unknown", pid: null, since: null, log: null };
      }
      return {
        path,
        url: record.url,
        readOnly,
        state: isAlive(record.daemon) ? "mounted" : "dead",
        pid: record.daemon.pid,
        since: new Date(record.sinceMs).toISOString(),
        log: record.log,
      };
    });
}

function formatTable(mounts: ListedMount[]): string {
  const head = ["PATH", "URL", "STATE", "PID", "SINCE", "LOG"];
  const rows = mounts.map(({ path, url, state, readOnly, pid, since, log }) => {
    const shown = readOnly && state === "mounted" ? "read-only" : state;
    return [path, url, shown, String(pid ?? "-"), since?.replace(/\.\d+Z$/, "Z") ?? "-", log ?? "-"].map(printable);
  });
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => row[column]?.length ?? 0)));
  return [head, ...rows]
    .map((row) =>
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

export function addList(program: Command): void {
  program
    .command("list")
    .description("Show the drives mounted on this machine.")
    .option("--json", "as JSON: path, url, readOnly, state (mounted, dead, unknown), pid, since, log")
    .addHelpText("after", "\nExample:\n  netdrive list --json")
    .action((options: { json?: boolean }) => {
      const mounts = listMounts();
      if (options.json === true) process.stdout.write(`${JSON.stringify(mounts)}\n`);
      else process.stdout.write(mounts.length === 0 ? "no drive is mounted\n" : `${formatTable(mounts)}\n`);
    });
}
