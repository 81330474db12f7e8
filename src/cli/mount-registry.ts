/**
 * What is known of this user's mounts beside the kernel's list: which process serves one, from which URL, where it logs.
 *
 * One JSON file a mount, named by a digest of its path, in a folder only its owner may enter; written by the process that
 * serves the mount, removed by it at the end. It is a hint: the kernel's list says what is mounted, and a record whose
 * process and mount are both gone is removed by whoever sees it. No record holds a token.
 *
 * Log and sockets have the process in their names as well: one whose mount was detached while in use lives on beside the
 * one that serves the next mount at the same path. The record says which is meant.
 */
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { MOUNT_TYPE, readMountTable } from "../sys/mount-table.ts";
import { identify, isAlive, type ProcessIdentity } from "./process-table.ts";
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

/** A file of the process `pid` that serves a mount at `path`. */
const fileOf = (path: string, pid: number, end: string) => join(runtimeFolder(), `${digest(path)}.${pid}${end}`);
const STATUS_END = ".sock";
const EXPORT_END = ".export.sock";
const LOG_END = ".log";

/** Where the background daemon `pid` of a mount at `path` logs. */
export function logFileOf(path: string, pid: number): string {
  return fileOf(path, pid, LOG_END);
}

/** Where the process `pid` that serves the mount at `path` tells its figures. */
export function statusSocketOf(path: string, pid: number): string {
  return fileOf(path, pid, STATUS_END);
}

/** Where it gives out tickets for open files. */
export function exportSocketOf(path: string, pid: number): string {
  return fileOf(path, pid, EXPORT_END);
}

/** Removes what processes that are gone have left of mounts at `path`, but for the log of the last: why it ended may be of use. */
export function removeLeftovers(path: string): void {
  const start = `${digest(path)}.`;
  const pidOf = (name: string) => Number(/^\d+(?=\.)/.exec(name.slice(start.length))?.[0]);
  const left = readdirSync(runtimeFolder()).filter(
    (name) => name.startsWith(start) && pidOf(name) > 0 && identify(pidOf(name)) === undefined,
  );
  const changedMs = (name: string) => statSync(join(runtimeFolder(), name), { throwIfNoEntry: false })?.mtimeMs ?? 0;
  const logs = left.filter((name) => name.endsWith(LOG_END)).sort((one, other) => changedMs(other) - changedMs(one));
  for (const name of left) {
    const isLast = logs[0] !== undefined && name.startsWith(logs[0]);
    if (!isLast) rmSync(join(runtimeFolder(), name), { force: true });
  }
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

/** Removes the sockets of the process `pid` that served `path`, and the record if it is of that process. @returns the record, then. */
export function removeRecord(path: string, pid: number): MountRecord | undefined {
  for (const end of [STATUS_END, EXPORT_END]) rmSync(fileOf(path, pid, end), { force: true });
  const record = findRecord(path);
  if (record?.daemon.pid !== pid) return undefined;
  rmSync(recordFile(path), { force: true });
  return record;
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
    if (record === undefined) rmSync(file, { force: true });
    else removeRecord(record.path, record.daemon.pid);
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
