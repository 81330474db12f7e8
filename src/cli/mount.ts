/**
 * `netdrive mount URL PATH`
 */
import type { Command } from "commander";
import { systemClock } from "../base/clock.ts";
import { createLog, type LogLevel, printable } from "../base/log.ts";
import { parseDriveUrl } from "../client/url.ts";
import { parseSecurity, SECURITY_LEVELS } from "./channel-security.ts";
import { DAEMON_COMMAND } from "./daemon-message.ts";
import { readDriveUrl } from "./drive-url.ts";
import { Exit, failure } from "./failure.ts";
import { launchDaemon } from "./launch-daemon.ts";
import type { DriveRequest, MountedDrive } from "./mount-drive.ts";
import {
  MOUNT_OPTIONS_HELP,
  type MountOptions,
  parseChannels,
  parseMountOptions,
  parseSeconds,
} from "./mount-options.ts";
import { checkSystem, checkTarget } from "./mount-target.ts";
import { readPassword } from "./password.ts";
import { describeUnsent } from "./recovery-files.ts";
import { chooseTrust } from "./server-trust.ts";
import { catchStopSignals } from "./stop-signals.ts";

const EXAMPLES = `
Options of -o: ${MOUNT_OPTIONS_HELP.join(", ")}.
Returns when the mount answers; the drive is then served in the background until 'netdrive umount'.

Examples:
  netdrive mount 'netdrive://TOKEN@HOST:7378/photos?fp=FINGERPRINT' ./drive
  netdrive mount netdrive://USER:@HOST:7378/photos ./drive        asks for the password
  NETDRIVE_TOKEN=$(cat secret) netdrive mount netdrive://HOST:7378/photos ./drive --ca ca.pem
  netdrive mount URL ./drive -o ro,attr_timeout=10`;

const SQUASHED = "netdrive: for this server root is nobody (serve --squash root), other users are themselves";

interface MountCommandOptions {
  option?: string[];
  foreground?: boolean;
  readOnly?: boolean;
  allowOther?: boolean;
  channels?: string;
  timeout?: string;
  security?: string;
  ca?: string;
  passwordFile?: string;
  json?: boolean;
  logLevel?: LogLevel;
}

export function addMount(program: Command): void {
  program
    .command("mount")
    .description("Mount a share as a drive.")
    .argument("<url>", "what 'netdrive serve' printed, or with USER: in the place of the token")
    .argument("<path>", "an empty directory")
    .option("-o, --option <opt,opt=value>", "mount options, as mount(8) takes them", collect)
    .option("--foreground", "serve the drive from this process, until Ctrl-C or umount")
    .option("--read-only", "the same as -o ro")
    .option("--allow-other", "the same as -o allow_other: other users may use it")
    .option("--channels <n>", "the same as -o channels=N: connections for data beside the one for everything else")
    .option("--timeout <seconds>", "the same as -o timeout=SECONDS: how long a read or write may wait for its answer")
    .option("--security <level>", `the same as -o security=LEVEL: ${SECURITY_LEVELS.join(", ")}`)
    .option(
      "--ca <file>",
      "certificates of the CA that vouches for the server, instead of a key known by ?fp= or before",
    )
    .option(
      "--password-file <file>",
      "where the user's password is; -: standard input (or NETDRIVE_PASSWORD; else asked for)",
    )
    .option("--json", "print one JSON object when it is mounted: path, url, readOnly, squash, pid, log")
    .addHelpText("after", EXAMPLES)
    .action(async (url: string, path: string, _options, command: Command) => {
      await mount(url, path, command.optsWithGlobals<MountCommandOptions>());
    });
  program.command(DAEMON_COMMAND, { hidden: true }).action(async () => {
    const { runMountDaemon } = await import("./mount-daemon.ts");
    await runMountDaemon();
  });
}

const collect = (value: string, before: string[] = []) => [...before, value];

async function mount(urlText: string, path: string, given: MountCommandOptions): Promise<void> {
  process.title = `netdrive mount ${path}`;
  const url = readDriveUrl(urlText);
  const options = parseMountOptions(given.option ?? []);
  if (given.readOnly === true) options.readOnly = true;
  if (given.allowOther === true) options.allowOther = true;
  if (given.timeout !== undefined) options.timeoutMs = parseSeconds("timeout", given.timeout);
  if (given.channels !== undefined) options.channels = parseChannels(given.channels);
  if (given.security !== undefined) {
    const level = parseSecurity("--security", given.security);
    options.security = { control: level, io: level };
  }
  const target = await checkTarget(path, options);
  await checkSystem(target, options);
  const clock = systemClock;
  const signals = catchStopSignals(clock);
  const access = await chooseAccess(url, options, given, signals.stop);
  const request: DriveRequest = { url, ...access, path: target, options, logFile: null };
  const announce = (drive: MountedDrive & { pid: number; log: string | null }) => {
    const text = given.json === true ? JSON.stringify({ path: target, ...drive }) : `${drive.url} is at ${target}`;
    process.stdout.write(`${given.json === true ? text : printable(text)}\n`);
    // Said now, because root would otherwise learn it from "Permission denied".
    if (drive.squash === "root" && !drive.readOnly && process.getuid?.() === 0) process.stderr.write(`${SQUASHED}\n`);
  };
  if (given.foreground === true) {
    const log = createLog({ level: given.logLevel ?? "warn", clock });
    const onReady = (drive: MountedDrive) => announce({ ...drive, pid: process.pid, log: null });
    const { keepDrive } = await import("./mount-drive.ts");
    const unsent = await keepDrive(request, { log, clock, ...signals, onReady });
    if (unsent !== undefined) throw failure(Exit.FAILED, describeUnsent(unsent, target, null));
  } else {
    const daemonRequest = { ...request, logLevel: given.logLevel ?? "info", isTied: false } as const;
    const daemon = await launchDaemon(daemonRequest, signals.stop);
    daemon.release();
    const { url: shownUrl, pid, squash, readOnly, log } = daemon;
    announce({ url: shownUrl, readOnly, squash, pid, log });
  }
  signals.release();
}

/** The user's password, and how the server is known: what the drive's own process could not ask for. */
async function chooseAccess(
  url: string,
  { security }: MountOptions,
  given: MountCommandOptions,
  signal: AbortSignal,
): Promise<Pick<DriveRequest, "password" | "trust">> {
  const { user } = parseDriveUrl(url);
  if (user !== undefined && security.control !== "tls") {
    throw failure(Exit.USAGE, "a password is said on an encrypted connection only; leave out security, or use a token");
  }
  const trust = await chooseTrust({ url, security, ca: given.ca, clock: systemClock, signal });
  const password = user === undefined ? undefined : await readPassword(user, given.passwordFile, signal);
  return { ...(password === undefined ? {} : { password }), ...(trust === undefined ? {} : { trust }) };
}
