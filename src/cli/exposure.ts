/**
 * What a server lets others do, decided before it starts: whom it trusts, and whether it may be reached from elsewhere.
 */
import type { Squash } from "../server/squash.ts";
import type { ChannelSecurity } from "../wire/messages.ts";
import { weakest } from "./channel-security.ts";
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

/** Who and what gets in. */
export interface Admission {
  /** Undefined: no token does. */
  readonly token: Token | undefined;
  readonly hasUsers: boolean;
  /** The least that channels must have. */
  readonly security: ChannelSecurity;
}

/**
 * What must be true before anybody but this machine may connect: there are users, or somebody chose a token that cannot be guessed.
 *
 * @returns a warning to show, if there is one.
 * @throws CommanderError USAGE
 */
export function checkExposure(listen: ListenAddress, { token, hasUsers, security }: Admission): string | undefined {
  const isWeak = token !== undefined && token.text.length < STRONG_CHARS_MIN;
  if (isLoopback(listen.host)) return isWeak ? "the token is short and can be guessed by other users here" : undefined;
  const place = `--listen ${listen.host} lets other machines connect`;
  if (token?.isGiven === false && !hasUsers) {
    throw failure(Exit.USAGE, `${place}; choose the token with --token, NETDRIVE_TOKEN or --state, or add users`);
  }
  if (isWeak) throw failure(Exit.USAGE, `${place}; take a token of ${STRONG_CHARS_MIN} characters or more`);
  const level = weakest(security);
  return level === "tls" ? undefined : `${place}, and clients may go without encryption: only on a network you trust`;
}
