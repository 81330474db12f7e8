/**
 * What is known of this user's mounts beside the kernel's list: which process serves one, from which URL, where it logs.
 *
 * One JSON file a mount, named by a digest of its path, in a folder only its owner may enter; written by the process that
 * serves the mount, removed by it at the end. It is a hint: the kernel's list says what is mounted, and a record whose
 * process and mount are both gone is removed by whoever sees it. No record holds a token.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { MOUNT_TYPE, readMountTable } from "../sys/mount-table.ts";
import { isAlive, type ProcessIdentity } from "./process-table.ts";
import type { Unsent } from "./recovery-files.ts";

export interface MountRecord {
  /** Absolute, without symbolic links: as the kernel's list has it. */
  path: string;
  /** Without token. */
  url: string;
  readOnly: boolean;
  daemon: ProcessIdentity;
  /** Milliseconds since 1970. */
  sinceMs: number;
  /** Where the daemon logs; null in the foreground. */
  log: string | null;
  /** What the daemon could not send: its last word, for who waits for its end. */
  unsent?: Unsent;
}

/** The folder of records and logs: $NETDRIVE_RUNTIME, else /run/netdrive for root, else the user's own. */
export function runtimeFolder(environment: NodeJS.ProcessEnv = process.env): string {
  const { NETDRIVE_RUNTIME: given, XDG_RUNTIME_DIR: runtime } = environment;
  if (given) return given;
  if (process.getuid?.() === 0) return "/run/netdrive";
  return runtime ? join(runtime, "netdrive") : join(homedir(), ".local/state/netdrive");
}

/** The runtime folder, made if it is not there. */
export function makeRuntimeFolder(): string {
  const folder = runtimeFolder();
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  return folder;
}

const digest = (path: string) => createHash("sha256").update(path).digest("hex").slice(0, 16);
const recordFile = (path: string) => join(runtimeFolder(), `${digest(path)}.json`);

/** Where a background daemon of a mount at `path` logs. */
export function logFileOf(path: string): string {
  return join(runtimeFolder(), `${digest(path)}.log`);
}

/** Where the process that serves the mount at `path` tells its figures. */
export function statusSocketOf(path: string): string {
  return join(runtimeFolder(), `${digest(path)}.sock`);
}

/** Where it gives out tickets for open files. */
export function exportSocketOf(path: string): string {
  return join(runtimeFolder(), `${digest(path)}.export.sock`);
}

/** Leaves no part of it behind if it fails. */
export function writeRecord(record: MountRecord): void {
  makeRuntimeFolder();
  const file = recordFile(record.path);
  const partial = `${file}.${process.pid}`;
  try {
    writeFileSync(partial, `${JSON.stringify(record)}\n`, { mode: 0o600 });
    renameSync(partial, file);
  } catch (cause) {
    rmSync(partial, { force: true });
    throw cause;
  }
}

/** Removes the record of `path`, and the sockets beside it, if it is of the process `pid`. @returns the record, then. */
export function removeRecord(path: string, pid: number): MountRecord | undefined {
  const record = findRecord(path);
  if (record?.daemon.pid !== pid) return undefined;
  removeFiles(recordFile(path));
  return record;
}

function removeFiles(record: string): void {
  for (const end of [".json", ".sock", ".export.sock"]) rmSync(record.replace(/\.json$/, end), { force: true });
}

export function findRecord(path: string): MountRecord | undefined {
  return readRecord(recordFile(path));
}

/** All records that still mean something; the others are removed. */
export function readRecords(): MountRecord[] {
  let names: string[];
  try {
    names = readdirSync(runtimeFolder()).filter((name) => name.endsWith(".json"));
  } catch {
    return [];
  }
  const mounted = new Set(readMountTable().flatMap(({ path, type }) => (type === MOUNT_TYPE ? [path] : [])));
  return names.flatMap((name) => {
    const file = join(runtimeFolder(), name);
    const record = readRecord(file);
    if (record !== undefined && (mounted.has(record.path) || isAlive(record.daemon))) return [record];
    removeFiles(file);
    return [];
  });
}

/** The record in `file`; undefined if it is not there or not one. */
function readRecord(file: string): MountRecord | undefined {
  try {
    const record = JSON.parse(readFileSync(file, "utf8")) as MountRecord;
    const isWhole = typeof record.path === "string" && typeof record.url === "string" && record.daemon.pid > 0;
    return isWhole ? record : undefined;
  } catch {
    return undefined;
  }
}
