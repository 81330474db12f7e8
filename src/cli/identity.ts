/**
 * The key and certificate by which clients know a server: given, kept in the state folder, or made for this run.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { CommanderError } from "commander";
import { printable } from "../base/log.ts";
import { type Identity, makeIdentity } from "../transport/self-signed.ts";
import { fingerprintOf } from "../transport/tls-settings.ts";
import { Exit, failure } from "./failure.ts";
import { keepFile } from "./kept-file.ts";

/** In the state folder: certificate and key one after the other, for the server's user only. */
const IDENTITY_FILE = "identity.pem";

export interface ChosenIdentity extends Identity {
  /** Of the key, for URLs. */
  readonly fingerprint: string;
}

/**
 * The identity of `--cert` and `--key`, else the one kept in the state folder, else a new one for `host` (kept there, if there is such a
 * folder, so that a restarted server is still the one its clients know).
 *
 * @throws CommanderError USAGE, PATH
 */
export function chooseIdentity(options: {
  cert?: string | undefined;
  key?: string | undefined;
  stateFolder?: string | undefined;
  host: string;
}): ChosenIdentity {
  const { cert, key, stateFolder, host } = options;
  if ((cert === undefined) !== (key === undefined)) {
    throw failure(Exit.USAGE, "--cert and --key belong together; give both or neither");
  }
  if (cert !== undefined && key !== undefined) {
    return checked({ certificate: read("--cert", cert), key: read("--key", key) }, `${cert} and ${key}`);
  }
  if (stateFolder === undefined) return checked(makeFor(host), "");
  const file = join(stateFolder, IDENTITY_FILE);
  try {
    const kept = keepFile(file, () => {
      const { certificate, key } = makeFor(host);
      return `${certificate}${key}`;
    });
    return checked({ certificate: kept, key: kept }, file);
  } catch (cause) {
    if (cause instanceof CommanderError) throw cause;
    const why = printable((cause as Error).message);
    throw failure(Exit.PATH, `--state ${printable(stateFolder)} cannot be used: ${why}`);
  }
}

function makeFor(host: string): Identity {
  const names = ["localhost", "127.0.0.1", "::1", hostname()];
  return makeIdentity(host === "0.0.0.0" || host === "::" ? names : [...new Set([...names, host])]);
}

function read(option: string, path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw failure(Exit.PATH, `${option} ${printable(path)} cannot be read: ${printable((cause as Error).message)}`);
  }
}

function checked(identity: Identity, where: string): ChosenIdentity {
  try {
    const certificate = new X509Certificate(identity.certificate);
    if (!certificate.checkPrivateKey(createPrivateKey(identity.key))) throw new Error("they do not belong together");
    return { ...identity, fingerprint: fingerprintOf(certificate) };
  } catch (cause) {
    const why = printable((cause as Error).message.split("\n", 1)[0] ?? "");
    throw failure(Exit.PATH, `no certificate and key in ${printable(where)}: ${why}; give others, or remove them`);
  }
}
