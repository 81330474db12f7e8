/**
 * Which directories `serve` serves under which names: from the command line to checked, absolute paths.
 */
import { realpath, stat } from "node:fs/promises";
import { basename } from "node:path";
import { printable } from "../base/log.ts";
import { isShareName } from "../client/url.ts";
import type { Locking } from "../server/lock-requests.ts";
import { SHARE_NAME_BYTES_MAX } from "../wire/limits.ts";
import { Exit, failure } from "./failure.ts";

/**
 * Pairs directories with names: the one given at the same place, else the directory's own.
 *
 * @returns name to absolute path, in the order given.
 * @throws CommanderError USAGE, PATH
 */
export async function listShares(
  directories: readonly string[],
  names: readonly string[],
): Promise<Map<string, string>> {
  if (names.length > directories.length) {
    throw failure(
      Exit.USAGE,
      `${names.length} names for ${directories.length} directories; give one --name a DIR at most`,
    );
  }
  const shares = new Map<string, string>();
  for (const [index, directory] of directories.entries()) {
    const path = await checkDirectory(directory);
    const name = names[index] ?? basename(path);
    if (name === "") throw failure(Exit.USAGE, `'${directory}' has no name of its own; give one with --name`);
    checkName(name);
    const other = shares.get(name);
    if (other !== undefined) {
      throw failure(Exit.USAGE, `'${other}' and '${path}' would both be the share '${name}'; name them with --name`);
    }
    shares.set(name, path);
  }
  return shares;
}

/**
 * How locks are meant in each share: as said for it, or once for all.
 *
 * @throws CommanderError USAGE
 */
export function chooseLocking(names: readonly string[], given: readonly Locking[]): Map<string, Locking> {
  if (given.length > 1 && given.length !== names.length) {
    throw failure(
      Exit.USAGE,
      `${given.length} --locking for ${names.length} directories; give one for all, or one a DIR`,
    );
  }
  const [all = "advisory"] = given;
  return new Map(names.map((name, index) => [name, given[index] ?? all]));
}

async function checkDirectory(directory: string): Promise<string> {
  const shown = printable(directory);
  try {
    const path = await realpath(directory);
    if ((await stat(path)).isDirectory()) return path;
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") throw failure(Exit.PATH, `'${shown}' does not exist; give a directory to serve`);
    throw failure(Exit.PATH, `'${shown}' cannot be served: ${printable(message)}`);
  }
  throw failure(Exit.PATH, `'${shown}' is not a directory; give a directory to serve`);
}

function checkName(name: string): void {
  if (isShareName(name)) return;
  const rule = `a share's name has 1 to ${SHARE_NAME_BYTES_MAX} bytes, no '/' and no control character`;
  throw failure(Exit.USAGE, `'${printable(name)}' cannot name a share: ${rule}`);
}
