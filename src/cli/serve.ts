/**
 * `netdrive serve DIR...`
 */
import { type Command, InvalidArgumentError, Option } from "commander";
import { systemClock } from "../base/clock.ts";
import { createLog, type LogLevel } from "../base/log.ts";
import { raceSignal } from "../base/signals.ts";
import type { Locking } from "../server/lock-requests.ts";
import type { Squash } from "../server/squash.ts";
import { DURABILITIES, type Durability } from "../server/state/state-store.ts";
import type { ChannelSecurity } from "../wire/messages.ts";
import { parseSecurity, SECURITY_LEVELS } from "./channel-security.ts";
import { checkExposure, chooseSquash } from "./exposure.ts";
import { Exit, failure } from "./failure.ts";
import { chooseIdentity } from "./identity.ts";
import { DEFAULT_LISTEN, parseListenAddress } from "./listen-address.ts";
import type { ServedShare } from "./serve-shares.ts";
import { chooseLocking, listShares } from "./share-list.ts";
import { aborted, catchStopSignals } from "./stop-signals.ts";
import { chooseToken, type Token } from "./token.ts";
import { WatchedUsers } from "./users-file.ts";

const EXAMPLES = `
Prints the URL of each share when it is ready. Whoever has a URL has the files: without the token in it nobody gets in. What follows
fp= is the fingerprint of the server's key, by which clients know it.

Examples:
  netdrive serve ~/photos ~/music
  netdrive serve --name films --read-only /srv/films
  NETDRIVE_TOKEN=$(cat secret) netdrive serve --listen 192.168.1.5:7378 /srv/files`;

interface ServeOptions {
  name?: string[];
  listen: string;
  /** False: no token. */
  token?: string | false;
  state?: string;
  durability?: Durability;
  security?: string;
  controlSecurity?: string;
  ioSecurity?: string;
  cert?: string;
  key?: string;
  readOnly?: boolean;
  squash?: Squash;
  locking?: Locking[];
  json?: boolean;
  logLevel?: LogLevel;
}

export function addServe(program: Command): void {
  program
    .command("serve")
    .description("Serve directories, each as a share.")
    .argument("<dir...>", "directories to serve")
    .option("--name <name>", "name of a share, in the order of the DIRs (default: the directory's)", collect)
    .option("--listen <host:port>", "where to listen; port 0: the system picks one", DEFAULT_LISTEN)
    .option("--token <token>", "the secret that lets clients in (or NETDRIVE_TOKEN; default: a new one each start)")
    .option("--no-token", "only users get in, who are added with 'netdrive user add'")
    .option(
      "--state <dir>",
      "directory of the server's own: keeps token, key, and what clients have open, from one start to the next",
    )
    .addOption(
      new Option("--durability <what>", "what kept state survives: the death of the process, or of power too").choices([
        ...DURABILITIES,
      ]),
    )
    .option("--security <level>", `the least that clients may do with: ${SECURITY_LEVELS.join(", ")} (default: tls)`)
    .option("--control-security <level>", "the same, for everything but data alone")
    .option("--io-security <level>", "the same, for data alone")
    .option("--cert <file>", "certificate (PEM), with --key; else one of its own")
    .option("--key <file>", "private key of --cert (PEM)")
    .option("--read-only", "clients may change nothing")
    .addOption(
      new Option(
        "--squash <who>",
        "whose identity is not the client's: root, all or none (as root: root, else all)",
      ).choices(["root", "all", "none"]),
    )
    .addOption(
      new Option(
        "--locking <how>",
        "advisory or mandatory: what one client has locked, no other may write to; for all DIRs, or one a DIR",
      ).argParser(collectLocking),
    )
    .option("--json", "print one JSON object: url, urls, host, port, pid, shares")
    .addHelpText("after", EXAMPLES)
    .action(async (directories: string[], _options, command: Command) => {
      await serve(directories, command.optsWithGlobals<ServeOptions>());
    });
}

function collectLocking(value: string, before: Locking[] = []): Locking[] {
  if (value === "advisory" || value === "mandatory") return [...before, value];
  throw new InvalidArgumentError("Allowed choices are advisory, mandatory.");
}

const collect = (value: string, before: string[] = []) => [...before, value];

const interrupted = () => failure(Exit.FAILED, "interrupted; nothing was served");

async function serve(directories: string[], options: ServeOptions): Promise<void> {
  const clock = systemClock;
  const log = createLog({ level: options.logLevel ?? "warn", clock });
  // The argument list, token included, is for everybody here to read; the title replaces it.
  process.title = `netdrive serve ${directories.join(" ")}`;
  const listen = parseListenAddress(options.listen);
  const users = options.state === undefined ? undefined : new WatchedUsers(options.state, { clock, log });
  const hasUsers = users !== undefined && users.count > 0;
  const token = chooseAdmission(options, hasUsers);
  const squash = chooseSquash(options.squash);
  const shares = await listShares(directories, options.name ?? []);
  const security = chooseSecurity(options);
  const warning = checkExposure(listen, { token, hasUsers, security });
  const identity = chooseIdentity({ ...options, stateFolder: options.state, host: listen.host });
  const signals = catchStopSignals(clock);
  const { stop, stopNow } = signals;
  stopNow.addEventListener("abort", () => {
    signals.release();
    process.exit(Exit.FAILED);
  });
  const readOnly = options.readOnly === true;
  const locking = chooseLocking([...shares.keys()], options.locking ?? []);
  // Loaded late, here and elsewhere: a command starts in half the time if it needs neither server nor client.
  const { serveShares } = await import("./serve-shares.ts");
  try {
    if (stop.aborted) throw interrupted();
    const starting = serveShares({
      ...(users === undefined ? {} : { users }),
      ...{ shares, listen, token, identity, security, readOnly, locking, squash, log, clock },
      stateFolder: options.state,
      durability: options.durability ?? "process",
    });
    // What it remembers can take long to read. Nobody is served yet, and whatever it does meanwhile may be cut off: it would be by a crash.
    const service = await raceSignal(starting, stop).catch((cause: unknown) => {
      throw stop.aborted ? interrupted() : cause;
    });
    if (warning !== undefined) process.stderr.write(`netdrive: ${warning}\n`);
    announce(service.shares, { ...options, host: service.server.address.host, port: service.server.address.port });
    await aborted(stop);
    await service.close();
  } finally {
    users?.close();
    // If the disk holds up the process's end, the next signal is not caught.
    signals.release();
  }
}

/** The token; undefined if only users get in. @throws CommanderError USAGE. */
function chooseAdmission({ token, state }: ServeOptions, hasUsers: boolean): Token | undefined {
  if (token !== false) return chooseToken({ option: token, stateFolder: state });
  if (hasUsers) return undefined;
  throw failure(
    Exit.USAGE,
    "with --no-token and no users nobody gets in; add one with 'netdrive user add NAME --state DIR'",
  );
}

/** The least that each kind of channel must have. @throws CommanderError USAGE. */
function chooseSecurity({ security, controlSecurity, ioSecurity }: ServeOptions): ChannelSecurity {
  const level = parseSecurity("--security", security ?? "tls");
  return {
    control: parseSecurity("--control-security", controlSecurity ?? level),
    io: parseSecurity("--io-security", ioSecurity ?? level),
  };
}

function announce(shares: ServedShare[], options: { json?: boolean; readOnly?: boolean; host: string; port: number }) {
  const urls = shares.map(({ url }) => url);
  const { host, port, readOnly = false } = options;
  const object = {
    url: urls[0],
    urls,
    host,
    port,
    pid: process.pid,
    shares: shares.map((share) => ({ ...share, readOnly })),
  };
  process.stdout.write(options.json === true ? `${JSON.stringify(object)}\n` : `${urls.join("\n")}\n`);
}
