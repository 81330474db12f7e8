/**
 * Where a password comes from: a file, standard input, the environment, or the person at the terminal. Never the command line, which others can read.
 */
import { readFileSync } from "node:fs";
import { printable } from "../base/log.ts";
import { Exit, failure } from "./failure.ts";
import { askSecret, isTerminal } from "./prompt.ts";

const STDIN_DESCRIPTOR = 0;
const PASSWORD_CHARS_MAX = 1024;

/**
 * The password of `--password-file` (`-`: standard input), else of NETDRIVE_PASSWORD, else asked for, until `signal` aborts.
 *
 * @throws CommanderError USAGE, PATH; FAILED interrupted.
 */
export async function readPassword(user: string, file: string | undefined, signal?: AbortSignal): Promise<string> {
  if (file !== undefined) return checked(firstLine(file));
  const given = process.env["NETDRIVE_PASSWORD"];
  if (given !== undefined) return checked(given);
  const advice = "give it with NETDRIVE_PASSWORD or --password-file";
  if (!isTerminal()) throw failure(Exit.USAGE, `the password of ${user} is needed and there is no terminal; ${advice}`);
  return checked(await askSecret(`Password of ${user}:`, signal));
}

/** A new password: as above, but asked for twice. */
export async function readNewPassword(user: string, file: string | undefined): Promise<string> {
  const password = await readPassword(user, file);
  const isAsked = file === undefined && process.env["NETDRIVE_PASSWORD"] === undefined;
  if (isAsked && (await askSecret("The same once more:")) !== password) {
    throw failure(Exit.USAGE, "the two passwords differ; try again");
  }
  return password;
}

function firstLine(file: string): string {
  try {
    return readFileSync(file === "-" ? STDIN_DESCRIPTOR : file, "utf8").split(/\r?\n/, 1)[0] ?? "";
  } catch (cause) {
    const why = printable((cause as Error).message);
    throw failure(Exit.PATH, `--password-file ${printable(file)} cannot be read: ${why}`);
  }
}

function checked(password: string): string {
  if (password !== "" && password.length <= PASSWORD_CHARS_MAX) return password;
  throw failure(Exit.USAGE, `a password has 1 to ${PASSWORD_CHARS_MAX} characters; give another`);
}
