/** What processes have used, from /proc: CPU time and the most memory they ever held. Children count with their parents. */
import { readdirSync, readFileSync } from "node:fs";

export interface Usage {
  /** User and system time, in seconds. */
  readonly cpuS: number;
  /** The sum over the processes of the most each ever had in memory (VmHWM), in bytes. */
  readonly peakBytes: number;
}

/** USER_HZ; the kernel shows times in these to every program, on every architecture Node runs on. */
const TICKS_PER_SECOND = 100;

interface ProcessStat {
  readonly parentPid: number;
  readonly sessionId: number;
  readonly cpuTicks: number;
}

/** The fields of /proc/PID/stat that count; undefined when the process is gone. `text` is the file's content. */
export function parseProcessStat(text: string): ProcessStat | undefined {
  // The second field is the name in parentheses, which may itself contain both.
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const [parentPid = Number.NaN, sessionId = Number.NaN] = [fields[1], fields[3]].map(Number);
  const cpuTicks = fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0);
  return Number.isFinite(parentPid + cpuTicks) ? { parentPid, sessionId, cpuTicks } : undefined;
}

function read(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    // The process has ended meanwhile.
    return undefined;
  }
}

function peakBytes(pid: number): number {
  const match = /^VmHWM:\s+(\d+) kB$/m.exec(read(`/proc/${pid}/status`) ?? "");
  return Number(match?.[1] ?? 0) * 1024;
}

/** All processes of the machine that could be read. */
function processTable(): Map<number, ProcessStat> {
  const stats = new Map<number, ProcessStat>();
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const stat = parseProcessStat(read(`/proc/${name}/stat`) ?? "");
    if (stat !== undefined) stats.set(Number(name), stat);
  }
  return stats;
}

/** `pids` as far as they run, and everything below them. */
function withDescendants(pids: readonly number[], stats: ReadonlyMap<number, ProcessStat>): Set<number> {
  const found = new Set(pids.filter((pid) => stats.has(pid)));
  for (let grown = true; grown; ) {
    grown = false;
    for (const [pid, { parentPid }] of stats) {
      if (found.has(pid) || !found.has(parentPid)) continue;
      found.add(pid);
      grown = true;
    }
  }
  return found;
}

/** Whether `pid` has started processes that still run or have not been waited for. */
export function hasChildren(pid: number): boolean {
  return withDescendants([pid], processTable()).size > 1;
}

/**
 * The sum over `pids` and everything they have started that still runs (and what of it has ended and been waited for).
 *
 * A process that leads a session stands for the whole of it: sshfs lets go of its ssh by forking twice, which stays in its session only.
 */
export function usageOf(pids: readonly number[]): Usage {
  const stats = processTable();
  const members = [...stats].filter(([, { sessionId }]) => pids.includes(sessionId)).map(([pid]) => pid);
  let cpuTicks = 0;
  let peak = 0;
  for (const pid of withDescendants([...pids, ...members], stats)) {
    cpuTicks += stats.get(pid)?.cpuTicks ?? 0;
    peak += peakBytes(pid);
  }
  return { cpuS: cpuTicks / TICKS_PER_SECOND, peakBytes: peak };
}

/** What was used between two looks; the peak is that of the second. */
export function usageSince(before: Usage, after: Usage): Usage {
  return { cpuS: Math.max(0, after.cpuS - before.cpuS), peakBytes: after.peakBytes };
}
