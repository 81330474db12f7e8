/**
 * How a mount knows that the server is the one it means: by the key the URL names, a key this user has said yes to, or a CA.
 *
 * Decided before the drive's own process starts, which has nobody to ask.
 */
import { readFileSync } from "node:fs";
import type { Clock } from "../base/clock.ts";
import { printable } from "../base/log.ts";
import { parseDriveUrl } from "../client/url.ts";
import type { Place, Trust } from "../transport/connect.ts";
import { fingerprintAt } from "../transport/dial.ts";
import type { ChannelSecurity } from "../wire/messages.ts";
import { Exit, failure, interruptedMount } from "./failure.ts";
import { addKnownServer, findKnownServer } from "./known-servers.ts";
import { askYesNo, isTerminal } from "./prompt.ts";

const ASK_TIMEOUT_MS = 10_000;

/**
 * What the server must show; undefined if no channel is encrypted.
 *
 * @throws CommanderError UNTRUSTED a key nobody has said yes to; PATH; and as `fingerprintAt`.
 */
export async function chooseTrust(options: {
  url: string;
  security: ChannelSecurity;
  /** File of CA certificates. */
  ca?: string | undefined;
  clock: Clock;
  signal: AbortSignal;
}): Promise<Trust | undefined> {
  const { security, ca, clock, signal } = options;
  if (security.control !== "tls" && security.io !== "tls") return undefined;
  if (ca !== undefined) return { ca: readCa(ca) };
  const { host, port, fingerprint } = parseDriveUrl(options.url);
  const place = { host, port };
  const known = fingerprint ?? findKnownServer(place);
  if (known !== undefined) return { fingerprint: known };
  const seen = await fingerprintAt({ ...place, timeoutMs: ASK_TIMEOUT_MS, clock, signal }).catch((cause: unknown) => {
    throw signal.aborted ? interruptedMount() : cause;
  });
  await ask(place, seen, signal);
  return { fingerprint: seen };
}

async function ask(place: Place, seen: string, signal: AbortSignal): Promise<void> {
  const name = printable(`${place.host}:${place.port}`);
  if (isTerminal()) {
    process.stderr.write(`The server at ${name} is not known here. Its key is\n  ${seen}\n`);
    const question = "Is it the one that 'netdrive serve' printed after fp=, and shall it be remembered?";
    if (await askYesNo(question, signal)) {
      addKnownServer(place, seen);
      return;
    }
    throw failure(Exit.UNTRUSTED, `${name} is not trusted; take the URL that 'netdrive serve' printed`);
  }
  const advice = `if that is the one 'netdrive serve' printed, add ?fp=${seen} to the URL`;
  throw failure(Exit.UNTRUSTED, `${name} is not known here, and its key is ${seen}; ${advice}`);
}

function readCa(file: string): string {
  const shown = printable(file);
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (cause) {
    throw failure(Exit.PATH, `--ca ${shown} cannot be read: ${printable((cause as Error).message)}`);
  }
  if (!text.includes("-----BEGIN CERTIFICATE-----")) {
    throw failure(Exit.PATH, `--ca ${shown} holds no certificate; give a file in PEM form`);
  }
  return text;
}
