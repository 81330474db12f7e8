/**
 * Questions about other processes, answered from /proc: who is alive, and who uses a mount.
 *
 * Only links and text of /proc are read; nothing here follows a path into a mount.
 */
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** A process that cannot be confused with a later one of the same number. */
export interface ProcessIdentity {
  pid: number;
  /** Start time in clock ticks since boot: field 22 of /proc/PID/stat. */
  startTicks: number;
}

/** The identity of the live process `pid`; undefined if there is none (a zombie is none). */
export function identify(pid: number): ProcessIdentity | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  } catch {
    return undefined;
  }
  // The name in parentheses may hold anything; state is the first field after it.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (fields[0] === "Z" || fields[0] === "X") return undefined;
  return { pid, startTicks: Number(fields[19]) };
}

/** Whether the very process `known` is alive. */
export function isAlive(known: ProcessIdentity): boolean {
  return identify(known.pid)?.startTicks === known.startTicks;
}

/** Processes with a directory, file or mapping at or below `path`, as "name (pid)"; only those we may look at. */
export function usersOf(path: string): string[] {
  const users: string[] = [];
  for (const pid of readdirSync("/proc")) {
    if (/^\d+$/.test(pid) && Number(pid) !== process.pid && isUsing(pid, path)) {
      users.push(`${nameOf(pid)} (${pid})`);
    }
  }
  return users;
}

function isUsing(pid: string, path: string): boolean {
  const isInside = (used: string) => used === path || used.startsWith(path === "/" ? path : `${path}/`);
  const links = ["cwd", "root", "exe", ...entriesOf(`/proc/${pid}/fd`).map((fd) => `fd/${fd}`)];
  if (links.some((link) => isInside(linkOf(`/proc/${pid}/${link}`)))) return true;
  try {
    const maps = readFileSync(`/proc/${pid}/maps`, "utf8");
    return maps.split("\n").some((line) => isInside(line.slice(line.indexOf("/"))));
  } catch {
    return false;
  }
}

function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}

function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return "";
  }
}

function nameOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/comm`, "utf8").trim();
  } catch {
    return "a process";
  }
}
