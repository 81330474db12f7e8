/**
 * What /proc/TID/status says of a thread that waits for us: its supplementary groups, and whether it is being killed. Pure parsing.
 *
 * @see proc_pid_status(5)
 */

/** Room for the file; the line of groups may have 65,536 numbers in theory, and is cut after this. */
export const STATUS_BYTES = 16 * 1024;

const SIGKILL = 9;
/** Signals that by default do not end a process: SIGCHLD, SIGCONT, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGURG, SIGWINCH. */
const HARMLESS = [17, 18, 19, 20, 21, 22, 23, 28];

const bit = (signal: number) => 1n << BigInt(signal - 1);
const HARMLESS_MASK = HARMLESS.reduce((mask, signal) => mask | bit(signal), 0n);

function field(status: string, name: string): string | undefined {
  const at = status.indexOf(`\n${name}:\t`);
  if (at < 0) return undefined;
  const start = at + name.length + 3;
  const end = status.indexOf("\n", start);
  // A line without its end was cut.
  return end < 0 ? undefined : status.slice(start, end);
}

/** The supplementary groups; undefined if the text does not say. */
export function parseGroups(status: string): number[] | undefined {
  const line = field(status, "Groups")?.trim();
  if (line === undefined) return undefined;
  return line === "" ? [] : line.split(" ").map(Number);
}

/** Whether a signal is pending that will end the thread as soon as its system call returns. */
export function isDying(status: string): boolean {
  const mask = (name: string) => BigInt(`0x${field(status, name) ?? "0"}`);
  const pending = mask("SigPnd") | mask("ShdPnd");
  if ((pending & bit(SIGKILL)) !== 0n) return true;
  return (pending & ~mask("SigBlk") & ~mask("SigIgn") & ~mask("SigCgt") & ~HARMLESS_MASK) !== 0n;
}
