/**
 * How channels are protected, as options say it - one level for all, or one for a kind of channel - and as people are told.
 */
import type { ChannelStatus } from "../client/remote.ts";
import { type ChannelSecurity, SECURITY_NAMES, type Security } from "../wire/messages.ts";
import { Exit, failure } from "./failure.ts";

/** What may be chosen, the strongest first. */
export const SECURITY_LEVELS: readonly Security[] = ["tls", "signed", "plain"];

/** The level of `--security` and its kin. @throws CommanderError USAGE. */
export function parseSecurity(name: string, value: string | undefined): Security {
  const level = SECURITY_LEVELS.find((known) => known === value);
  if (level !== undefined) return level;
  throw failure(Exit.USAGE, `${name} is ${SECURITY_LEVELS.join(", ")}; write it as ${name}=tls`);
}

/** For people: what kinds of channel there are and what protects each. */
export function describeChannels(channels: readonly ChannelStatus[]): string {
  return channels
    .map(({ kind, state, security, cipher }) => {
      const protection = cipher === undefined ? security : `${security} ${cipher.replace(/^TLS_/, "")}`;
      return `${kind} (${protection}${state === "open" ? "" : `, ${state}`})`;
    })
    .join(", ");
}

/** The weaker of what both kinds of channel have. */
export function weakest({ control, io }: ChannelSecurity): Security {
  return SECURITY_NAMES.indexOf(control) < SECURITY_NAMES.indexOf(io) ? control : io;
}
