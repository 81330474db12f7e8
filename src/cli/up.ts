/**
 * `netdrive up [DIR PATH]`: server and drive on one machine, until Ctrl-C.
 *
 * The server is this process; the drive is another, because a process must never use a mount it serves, and the server may
 * be asked to.
 */
import { mkdirSync, rmdirSync } from "node:fs";
import { join, relative, sep } from "node:path";
import type { Command } from "commander";
import { type Clock, systemClock } from "../base/clock.ts";
import { createLog, type Log, type LogLevel, printable } from "../base/log.ts";
import { isStillAt, mountAt } from "../sys/mount-table.ts";
import type { ChannelSecurity } from "../wire/messages.ts";
import { Exit, failure } from "./failure.ts";
import { chooseIdentity } from "./identity.ts";
import { type Daemon, launchDaemon } from "./launch-daemon.ts";
import { parseMountOptions } from "./mount-options.ts";
import { removeRecord } from "./mount-registry.ts";
import { checkSystem, checkTarget } from "./mount-target.ts";
import { describeUnsent } from "./recovery-files.ts";
import { makeSample, removeSample } from "./sample.ts";
import type { Service } from "./serve-shares.ts";
import { listShares } from "./share-list.ts";
import { showStatus } from "./status-line.ts";
import { aborted, catchStopSignals, type StopSignals } from "./stop-signals.ts";
import { chooseToken } from "./token.ts";
import { takeDown } from "./unmount.ts";

const EXAMPLES = `
Without DIR and PATH it makes a small sample directory and mounts it at ./drive.

Examples:
  netdrive up
  netdrive up ~/photos ./drive
  netdrive up ~/photos ./drive -o ro`;

const SAMPLE_TARGET = "drive";

interface UpOptions {
  option?: string[];
  readOnly?: boolean;
  logLevel?: LogLevel;
}

export function addUp(program: Command): void {
  program
    .command("up")
    .description("Serve a directory on loopback and mount it, until Ctrl-C.")
    .argument("[dir]", "directory to serve")
    .argument("[path]", "where to mount it; made if it is not there")
    .option("-o, --option <opt,opt=value>", "mount options, as for 'netdrive mount'", collect)
    .option("--read-only", "the drive can change nothing")
    .addHelpText("after", EXAMPLES)
    .action(async (directory: string | undefined, path: string | undefined, _options, command: Command) => {
      await up(directory, path, command.optsWithGlobals<UpOptions>());
    });
}

const collect = (value: string, before: string[] = []) => [...before, value];
const say = (text: string) => void process.stdout.write(`${printable(text)}\n`);

async function up(directory: string | undefined, path: string | undefined, given: UpOptions): Promise<void> {
  if (directory !== undefined && path === undefined) {
    throw failure(Exit.USAGE, "give DIR and PATH, or neither for a sample");
  }
  const clock = systemClock;
  const signals = catchStopSignals(clock);
  const cleanUps: (() => void)[] = [];
  try {
    const served = directory ?? makeSampleToRemove(cleanUps);
    const target = path ?? SAMPLE_TARGET;
    const shares = await listShares([served], []);
    makeTarget(target, cleanUps);
    await runDrive({ shares, target, given, clock, signals });
  } finally {
    for (const cleanUp of cleanUps.reverse()) cleanUp();
    signals.release();
  }
}

function makeSampleToRemove(cleanUps: (() => void)[]): string {
  const sample = makeSample();
  cleanUps.push(() => {
    if (!removeSample(sample)) say(`your files of the sample are kept in ${sample}`);
  });
  return sample;
}

/** Makes the mount point if it is not there, to be removed again at the end. */
function makeTarget(target: string, cleanUps: (() => void)[]): void {
  try {
    mkdirSync(target);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "EEXIST") return;
    throw failure(Exit.PATH, `'${printable(target)}' cannot be made: ${printable(message)}`);
  }
  cleanUps.push(() => {
    try {
      rmdirSync(target);
    } catch {
      // Somebody put something there meanwhile; it is theirs.
    }
  });
}

interface Drive {
  shares: Map<string, string>;
  target: string;
  given: UpOptions;
  clock: Clock;
  signals: StopSignals;
}

async function runDrive({ shares, target, given, clock, signals }: Drive): Promise<void> {
  const options = parseMountOptions(given.option ?? []);
  if (given.readOnly === true) options.readOnly = true;
  const path = await checkTarget(target, options);
  const [directory = ""] = shares.values();
  if (isWithin(path, directory)) {
    throw failure(Exit.PATH, `'${printable(target)}' lies in the directory that is served; mount it elsewhere`);
  }
  await checkSystem(path, options);
  const log = createLog({ level: given.logLevel ?? "warn", clock });
  const { security } = options;
  const service = await serve(shares, security, log, clock);
  try {
    const [share] = service.shares;
    const { fingerprint } = service;
    const common = { url: share?.url ?? "", trust: { fingerprint }, path, options };
    const request = { ...common, isTied: true };
    const daemon = await launchDaemon({ ...request, logLevel: given.logLevel ?? "info" }, signals.stop);
    say(`${directory} is at ${path}; Ctrl-C unmounts it`);
    say(`mount it elsewhere on this machine with: netdrive mount ${share?.url} PATH`);
    await keep(service, daemon, { path, clock, signals });
    say(`${path} is unmounted`);
  } finally {
    await service.close();
  }
}

async function serve(
  shares: Map<string, string>,
  security: ChannelSecurity,
  log: Log,
  clock: Clock,
): Promise<Service & { fingerprint: string }> {
  // Root of this machine is root of the drive: whoever runs `up` has both sides in hand.
  const squash = process.getuid?.() === 0 ? "none" : "all";
  const listen = { host: "127.0.0.1", port: 0 };
  const token = { ...chooseToken({}), isGiven: false };
  const identity = chooseIdentity({ host: listen.host });
  const { serveShares } = await import("./serve-shares.ts");
  const admission = { token, identity, security, readOnly: false, squash } as const;
  const service = await serveShares({ shares, listen, ...admission, log, clock });
  return { ...service, fingerprint: identity.fingerprint };
}

/** Waits for the wish to end or the end of the drive, then leaves nothing. */
async function keep(
  service: Service,
  daemon: Daemon,
  options: { path: string; clock: Clock; signals: StopSignals },
): Promise<void> {
  const { path, clock, signals } = options;
  const mounted = mountAt(path);
  const status = showStatus(service.server, clock);
  await Promise.race([aborted(signals.stop), daemon.ended]);
  status.stop();
  const hasDied = !signals.stop.aborted && mounted !== undefined && isStillAt(mounted);
  await takeDown(mounted, { clock, stopNow: signals.stopNow, say });
  // Ends it also if somebody still uses the detached mount.
  daemon.end();
  await daemon.ended;
  const last = removeRecord(path, daemon.pid);
  if (last?.unsent !== undefined) throw failure(Exit.FAILED, describeUnsent(last.unsent, path, last.log));
  if (hasDied) {
    const { log } = daemon;
    throw failure(Exit.FAILED, `the process of the drive at '${printable(path)}' ended by itself; see ${log}`);
  }
}

/** Whether `path` is `folder` or below it; both absolute and without symbolic links. */
function isWithin(path: string, folder: string): boolean {
  const way = relative(folder, path);
  return way === "" || (way !== ".." && !way.startsWith(`..${sep}`) && join(folder, way) === path);
}
