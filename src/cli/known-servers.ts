/**
 * Servers this user has said yes to: which key is at which address, as ssh's known_hosts has it.
 *
 * A text file, one server a line: `HOST:PORT FINGERPRINT`; empty lines and lines that begin with '#' mean nothing. It is read when a URL names no key, and
 * written only when the user was asked.
 */
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { dirname, join } from "node:path";
import { printable } from "../base/log.ts";
import type { Place } from "../transport/connect.ts";
import { isFingerprint } from "../transport/tls-settings.ts";
import { Exit, failure } from "./failure.ts";

/** $NETDRIVE_KNOWN_SERVERS, else netdrive/known_servers in $XDG_CONFIG_HOME or ~/.config. */
export function knownServersFile(environment: NodeJS.ProcessEnv = process.env): string {
  const { NETDRIVE_KNOWN_SERVERS: given, XDG_CONFIG_HOME: config } = environment;
  return given || join(config || join(homedir(), ".config"), "netdrive/known_servers");
}

function nameOf({ host, port }: Place): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host.toLowerCase()}:${port}`;
}

/** The fingerprint of the key at a place; undefined if it is not known. @throws CommanderError PATH. */
export function findKnownServer(place: Place, file: string = knownServersFile()): string | undefined {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw failure(Exit.PATH, `the known servers cannot be read: ${printable((cause as Error).message)}`);
  }
  const name = nameOf(place);
  for (const [index, line] of text.split("\n").entries()) {
    const [server, fingerprint = ""] = line.trim().split(/\s+/);
    if (server !== name) continue;
    if (isFingerprint(fingerprint)) return fingerprint;
    throw failure(Exit.PATH, `line ${index + 1} of ${printable(file)} has no whole fingerprint; remove it`);
  }
  return undefined;
}

/** @throws CommanderError PATH. */
export function addKnownServer(place: Place, fingerprint: string, file: string = knownServersFile()): void {
  try {
    mkdirSync(dirname(file), { recursive: true, mode: 0o700 });
    appendFileSync(file, `${isLineOpen(file) ? "\n" : ""}${nameOf(place)} ${fingerprint}\n`, { mode: 0o600 });
  } catch (cause) {
    throw failure(Exit.PATH, `the known servers cannot be written: ${printable((cause as Error).message)}`);
  }
}

/** Whether the last line has no end, as some editors leave it. */
function isLineOpen(file: string): boolean {
  try {
    return /[^\n]$/.test(readFileSync(file, "utf8"));
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") return false;
    throw cause;
  }
}
