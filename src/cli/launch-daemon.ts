/**
 * Starts a mount daemon and waits for its report: the other side of mount-daemon.ts.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, renameSync } from "node:fs";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import { fileURLToPath } from "node:url";
import { DAEMON_COMMAND, type DaemonReport, type DaemonRequest, REPORT_DESCRIPTOR } from "./daemon-message.ts";
import { Exit, failure, interruptedMount } from "./failure.ts";
import type { MountedDrive } from "./mount-drive.ts";
import { logFileOf, makeRuntimeFolder, removeLeftovers } from "./mount-registry.ts";

export interface Daemon extends MountedDrive {
  pid: number;
  /** Where it logs. */
  log: string;
  /** Resolves when the process has ended. */
  ended: Promise<void>;
  /** Tells a tied daemon to end, whoever still uses the mount. */
  end(): void;
  /** Lets it go on alone; it no longer keeps this process alive. */
  release(): void;
}

/**
 * Starts the daemon and returns when the mount answers.
 *
 * If `stop` aborts before, the daemon gives up and leaves no mount.
 *
 * @throws CommanderError with the daemon's own reason.
 */
export async function launchDaemon(wanted: Omit<DaemonRequest, "logFile">, stop: AbortSignal): Promise<Daemon> {
  if (stop.aborted) throw interruptedMount();
  makeRuntimeFolder();
  removeLeftovers(wanted.path);
  // The daemon's number is known when it has its descriptors.
  const firstName = logFileOf(wanted.path, process.pid);
  const log = openSync(firstName, "a", 0o600);
  const main = fileURLToPath(new URL("main.js", import.meta.url));
  const child = spawn(process.execPath, [...process.execArgv, main, DAEMON_COMMAND], {
    // A session of its own: Ctrl-C of a terminal is for the command, not for the drive.
    detached: true,
    cwd: "/",
    stdio: ["pipe", "ignore", log, "pipe"],
  });
  closeSync(log);
  const logFile = logFileOf(wanted.path, child.pid ?? process.pid);
  renameSync(firstName, logFile);
  const request: DaemonRequest = { ...wanted, logFile };
  const ended = new Promise<void>((resolve) => {
    child.once("exit", () => resolve());
    // One that cannot be started never exits.
    child.once("error", () => resolve());
  });
  const end = () => child.stdin?.end();
  stop.addEventListener("abort", end);
  // A daemon that dies early closes its end; its exit says so.
  child.stdin?.on("error", () => {});
  child.stdin?.write(`${JSON.stringify(request)}\n`);
  try {
    const report = await readReport(child, logFile);
    if (!report.isReady) throw failure(report.exit, report.text);
    return { ...report, log: logFile, ended, end, release: () => letGo(child) };
  } catch (thrown) {
    await ended;
    throw thrown;
  } finally {
    stop.removeEventListener("abort", end);
  }
}

function readReport(child: ChildProcess, logFile: string): Promise<DaemonReport> {
  return new Promise((resolve, reject) => {
    child.once("error", (cause) => reject(failure(Exit.FAILED, `the daemon does not start: ${cause.message}`)));
    // After "exit", so that a report on its way is read first.
    const onClose = (code: number | null, signal: NodeJS.Signals | null) => {
      const how = `the daemon ended with ${signal ?? code} before it was ready`;
      reject(failure(Exit.FAILED, `${how}: ${lastLine(logFile) || "it said nothing"}`));
    };
    child.once("close", onClose);
    // Without a descriptor left it has no pipes; "error" comes.
    const reports = child.stdio?.[REPORT_DESCRIPTOR] as Readable | undefined;
    if (reports === undefined) return;
    createInterface({ input: reports }).once("line", (line) => {
      child.off("close", onClose);
      resolve(JSON.parse(line) as DaemonReport);
    });
  });
}

function lastLine(file: string): string {
  try {
    return readFileSync(file, "utf8").trimEnd().split("\n").at(-1) ?? "";
  } catch {
    return "";
  }
}

function letGo(child: ChildProcess): void {
  child.stdin?.destroy();
  (child.stdio[REPORT_DESCRIPTOR] as Readable).destroy();
  child.unref();
}
