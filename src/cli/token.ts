/**
 * The secret that lets a client in: where `serve` has it from, and whether it is good enough.
 */
import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { CommanderError } from "commander";
import { printable } from "../base/log.ts";
import { Exit, failure } from "./failure.ts";
import { keepFile } from "./kept-file.ts";

/** Bytes of a token made here: 144 bits, 24 characters that need no escaping in a URL. */
const MADE_BYTES = 18;
/** A shorter token can be guessed by who can try often. */
export const STRONG_CHARS_MIN = 16;
const CHARS_MAX = 256;

export interface Token {
  text: string;
  /** Whether somebody chose or kept it, rather than it being made for this run. */
  isGiven: boolean;
}

/**
 * The token of the option, else of NETDRIVE_TOKEN, else the one kept in the state folder, else a new one (kept there, if
 * there is such a folder, so that a restarted server has the same URLs).
 *
 * @throws CommanderError USAGE a token that is empty, too long or not printable.
 */
export function chooseToken(options: { option?: string | undefined; stateFolder?: string | undefined }): Token {
  const { option, stateFolder } = options;
  const given = option ?? process.env["NETDRIVE_TOKEN"];
  if (given !== undefined) return { text: checkToken(given), isGiven: true };
  const made = randomBytes(MADE_BYTES).toString("base64url");
  if (stateFolder === undefined) return { text: made, isGiven: false };
  try {
    return { text: checkToken(keepFile(join(stateFolder, "token"), () => `${made}\n`).trim()), isGiven: true };
  } catch (cause) {
    if (cause instanceof CommanderError) throw cause;
    throw failure(
      Exit.PATH,
      `--state ${printable(stateFolder)} cannot be used: ${printable((cause as Error).message)}`,
    );
  }
}

function checkToken(text: string): string {
  if (text === "" || text.length > CHARS_MAX || !/^[!-~]+$/.test(text)) {
    throw failure(Exit.USAGE, `a token is 1 to ${CHARS_MAX} printable ASCII characters without space; choose another`);
  }
  return text;
}
