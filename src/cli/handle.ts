/**
 * `netdrive handle export PATH`, `handle cat [TICKET]`, `handle write [TICKET]`: one open file handed to another machine.
 *
 * Whoever has the ticket reads and writes by the same open as the program that holds the file: with its access, whatever has become of the file's name.
 */

import { realpathSync, statSync } from "node:fs";
import { addAbortSignal } from "node:stream";
import type { Command } from "commander";
import { systemClock } from "../base/clock.ts";
import { CloseCode, ConnectionError, FsError, ProtocolError } from "../base/errors.ts";
import { createLog, type LogLevel, printable } from "../base/log.ts";
import type { Attached } from "../client/attach.ts";
import type { Remote } from "../client/remote.ts";
import { formatDriveUrl } from "../client/url.ts";
import { MOUNT_TYPE, readMountTable } from "../sys/mount-table.ts";
import type { RequestContext } from "../vfs/file-system.ts";
import { describeChannels, weakest } from "./channel-security.ts";
import { askExport } from "./export-socket.ts";
import { Exit, failure } from "./failure.ts";
import { exportSocketOf, findRecord } from "./mount-registry.ts";
import { chooseTrust } from "./server-trust.ts";
import { print } from "./standard-output.ts";
import { catchStopSignals } from "./stop-signals.ts";
import { parseTicket, type Ticket } from "./ticket.ts";

const EXAMPLES = `
A ticket is good once, for one file, as long as it is open; a newer one for the same file makes it void. It needs no token.

Examples:
  netdrive handle export ./drive/log.txt                    prints a ticket
  netdrive handle export /proc/4711/fd/3                    of a file that has no name any more
  netdrive handle cat TICKET > copy
  NETDRIVE_TICKET=TICKET netdrive handle write --offset 100 < part
  netdrive --log-level info handle cat TICKET               says on standard error how the connection is protected`;

const NOT_GOOD = "the ticket is not good, or not any more: it was used, a newer one was made, or the file is closed";
/** For a server that is away. */
const PATIENCE_MS = 60_000;
const CHUNK_BYTES = 4 * 1024 * 1024;

interface TicketOptions {
  ca?: string;
  offset?: string;
  logLevel?: LogLevel;
}

export function addHandle(program: Command): void {
  const handle = program
    .command("handle")
    .description("Hand an open file of a drive to another machine.")
    .addHelpText("after", EXAMPLES)
    .action((_options, command: Command) => {
      const [word] = command.args;
      throw failure(Exit.USAGE, word === undefined ? "handle what?" : `unknown command 'handle ${printable(word)}'`);
    });
  handle
    .command("export")
    .description("Print a ticket for the open that a program holds on a file, or for a new one.")
    .argument("<path>", "a file on a drive of yours")
    .action(exportTicket);
  const ca = ["--ca <file>", "certificates of the CA that vouches for the server"] as const;
  handle
    .command("cat")
    .description("Print the file that a ticket is for.")
    .argument("[ticket]", "what 'handle export' printed; else NETDRIVE_TICKET")
    .option(...ca)
    .action((text: string | undefined, _options, command: Command) => withTicket(text, command, cat));
  handle
    .command("write")
    .description("Write standard input into the file that a ticket is for.")
    .argument("[ticket]", "what 'handle export' printed; else NETDRIVE_TICKET")
    .option("--offset <bytes>", "where to begin; without effect if the file was opened to append (default: 0)")
    .option(...ca)
    .action((text: string | undefined, _options, command: Command) => withTicket(text, command, write));
  for (const command of handle.commands) command.allowExcessArguments(false);
}

async function exportTicket(path: string): Promise<void> {
  const shown = printable(path);
  let real: string;
  let ino: bigint;
  let minor: number;
  try {
    const { dev, ino: number } = statSync(path, { bigint: true });
    // As makedev(3) has it.
    minor = Number((dev & 0xffn) | ((dev >> 12n) & 0xfff00n));
    ino = number;
    real = realpathOf(path);
  } catch (cause) {
    throw failure(Exit.PATH, `'${shown}' cannot be looked at: ${printable((cause as Error).message)}`);
  }
  const mount = readMountTable().find(({ type, deviceMinor }) => type === MOUNT_TYPE && deviceMinor === minor);
  const record = mount === undefined ? undefined : findRecord(mount.path);
  if (mount === undefined || record === undefined) {
    throw failure(Exit.PATH, `'${shown}' is on no drive of yours; 'netdrive list' shows them`);
  }
  const below = real.startsWith(`${mount.path}/`) ? real.slice(mount.path.length + 1).split("/") : [];
  const names = below.map((name) => Buffer.from(name, "utf8").toString("latin1"));
  const file = exportSocketOf(mount.path, record.daemon.pid);
  const answer = await askExport(file, { ino: String(ino), names }, systemClock);
  if (answer === undefined) throw failure(Exit.FAILED, "the drive's process does not answer; see 'netdrive status'");
  if ("error" in answer) throw failure(Exit.FAILED, `no ticket for '${shown}': ${printable(answer.error)}`);
  process.stdout.write(`${answer.ticket}\n`);
}

/** Without symbolic links; as it is where the file has no name. */
function realpathOf(path: string): string {
  try {
    return realpathSync(path);
  } catch {
    return path;
  }
}

type UseContext = RequestContext & { readonly signal: AbortSignal };
type Use = (remote: Remote, attached: Attached, ctx: UseContext, options: TicketOptions) => Promise<void>;

async function withTicket(text: string | undefined, command: Command, use: Use): Promise<void> {
  // The argument list, ticket included, is for everybody here to read; the title replaces it.
  process.title = `netdrive handle ${command.name()}`;
  const options = command.optsWithGlobals<TicketOptions>();
  const given = text ?? process.env["NETDRIVE_TICKET"];
  if (given === undefined) throw failure(Exit.USAGE, "no ticket given; as an argument or by NETDRIVE_TICKET");
  const ticket = parseTicket(given.trim());
  const offset = options.offset ?? "0";
  if (!/^\d{1,15}$/.test(offset)) throw failure(Exit.USAGE, "--offset is a number of bytes; write it as --offset 4096");
  const signals = catchStopSignals(systemClock);
  const ctx: UseContext = {
    caller: { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, groups: [], pid: process.pid },
    signal: signals.stop,
  };
  let remote: Remote | undefined;
  try {
    remote = await connect(ticket, options, signals.stop);
    const attached = await remote.attach(ctx, ticket.open);
    await use(remote, attached, ctx, options);
    await remote.fileSystem.release(ctx, attached.handle);
  } catch (error) {
    throw signals.stop.aborted ? failure(Exit.FAILED, "interrupted") : explained(error);
  } finally {
    await remote?.close();
    signals.release();
  }
}

async function connect(ticket: Ticket, { ca, logLevel }: TicketOptions, signal: AbortSignal): Promise<Remote> {
  const { place, security, open } = ticket;
  const clock = systemClock;
  const log = createLog({ level: logLevel ?? "warn", clock });
  const url = { ...place, token: Buffer.from("-") };
  const trust = await chooseTrust({ url: formatDriveUrl(url), security, ca, clock, signal });
  const { connectRemote } = await import("../client/remote.ts");
  const wish = { url, ticket: open, security, clock, log, signal, timeoutMs: PATIENCE_MS };
  const remote = await connectRemote({ ...wish, ...(trust === undefined ? {} : { trust }) });
  const said = `connected to ${place.host}:${place.port}; channels: ${describeChannels(remote.status().channels)}`;
  if (weakest(security) === "tls") log.info(said);
  // Who made the ticket has chosen that, not who uses it.
  else log.warn(`not everything is encrypted: ${said}`);
  return remote;
}

/** The server's words for a ticket it does not take are about whatever it was asked. */
function explained(error: unknown): unknown {
  const cause = error instanceof ConnectionError ? error.cause : error;
  const isRefused = cause instanceof ProtocolError && cause.closeCode === CloseCode.AUTHENTICATION;
  const isStale = error instanceof FsError && error.errno === "ESTALE";
  if (isRefused || isStale) return failure(Exit.REFUSED, NOT_GOOD);
  if (error instanceof FsError && error.errno === "EBADF") {
    return failure(Exit.REFUSED, "whoever made the ticket has not opened the file for this");
  }
  return error;
}

const cat: Use = async ({ fileSystem }, { handle }, ctx) => {
  for (let at = 0; ; ) {
    const chunk = Buffer.allocUnsafe(CHUNK_BYTES);
    const bytes = await fileSystem.read(ctx, handle, at, chunk);
    if (bytes === 0) return;
    await print(chunk.subarray(0, bytes), ctx.signal);
    at += bytes;
  }
};

const write: Use = async ({ fileSystem }, { handle }, ctx, { offset = "0" }) => {
  let at = Number(offset);
  const input: AsyncIterable<Buffer> = addAbortSignal(ctx.signal, process.stdin);
  for await (const chunk of input) {
    for (let done = 0; done < chunk.length; ) {
      const bytes = await fileSystem.write(ctx, handle, at, chunk.subarray(done));
      done += bytes;
      at += bytes;
    }
  }
  // When this command returns 0, the bytes are on the server's disk.
  await fileSystem.fsync(ctx, handle, true);
};
