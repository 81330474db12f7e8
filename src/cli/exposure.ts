/**
 * What a server lets others do, decided before it starts: whom it trusts, and whether it may be reached from elsewhere.
 */
import type { Squash } from "../server/squash.ts";
import { Exit, failure } from "./failure.ts";
import { isLoopback, type ListenAddress } from "./listen-address.ts";
import { STRONG_CHARS_MIN, type Token } from "./token.ts";

/** Who the callers act as unless told otherwise: an unprivileged server can act as nobody but its own user. */
export function chooseSquash(given: Squash | undefined): Squash {
  const isRoot = process.getuid?.() === 0;
  if (isRoot || given === "all") return given ?? "root";
  if (given === undefined) return "all";
  throw failure(Exit.USAGE, `--squash ${given} needs a server that runs as root; leave it out, or start it as root`);
}

/**
 * What must be true before anybody but this machine may connect: somebody chose a token that cannot be guessed.
 *
 * @returns a warning to show, if there is one.
 * @throws CommanderError USAGE
 */
export function checkExposure(listen: ListenAddress, token: Token): string | undefined {
  const isWeak = token.text.length < STRONG_CHARS_MIN;
  if (isLoopback(listen.host)) return isWeak ? "the token is short and can be guessed by other users here" : undefined;
  const place = `--listen ${listen.host} lets other machines connect`;
  if (!token.isGiven) throw failure(Exit.USAGE, `${place}; choose the token with --token, NETDRIVE_TOKEN or --state`);
  if (isWeak) throw failure(Exit.USAGE, `${place}; take a token of ${STRONG_CHARS_MIN} characters or more`);
  return `${place}, and what travels is not encrypted yet, the token included: only on a network you trust`;
}
