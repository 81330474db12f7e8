/**
 * A ticket: one line that lets whoever has it use one open file of somebody's drive, once. It holds the open's keys, and where the server is, but neither
 * token nor password.
 */
import type { OpenTicket } from "../client/attach.ts";
import type { DriveUrl } from "../client/url.ts";
import { isShareName } from "../client/url.ts";
import { isFingerprint } from "../transport/tls-settings.ts";
import { RESUME_KEY_BYTES_MAX } from "../wire/limits.ts";
import { type ChannelSecurity, SECURITY_NAMES } from "../wire/messages.ts";
import { Exit, failure } from "./failure.ts";

export interface Ticket {
  readonly place: Pick<DriveUrl, "host" | "port" | "share" | "fingerprint">;
  readonly security: ChannelSecurity;
  readonly open: OpenTicket;
}

const PREFIX = "netdrive-ticket-1.";
const KEY_BYTES = 32;
const CHALLENGE_BYTES_MAX = 64;

/** As it travels; the names are short because it is read by nobody. */
interface TicketText {
  h: string;
  p: number;
  s: string;
  f?: string;
  c: string;
  d: string;
  r: string;
  k: string;
  n: string;
}

export function formatTicket({ place, security, open }: Ticket): string {
  const text: TicketText = {
    h: place.host,
    p: place.port,
    s: place.share,
    ...(place.fingerprint === undefined ? {} : { f: place.fingerprint }),
    c: security.control,
    d: security.io,
    r: open.resumeKey.toString("base64url"),
    k: open.key.toString("base64url"),
    n: open.challenge.toString("base64url"),
  };
  return PREFIX + Buffer.from(JSON.stringify(text)).toString("base64url");
}

/** @throws CommanderError USAGE it is none, or not whole. */
export function parseTicket(text: string): Ticket {
  const ticket = text.startsWith(PREFIX) ? read(text.slice(PREFIX.length)) : undefined;
  if (ticket === undefined) {
    throw failure(Exit.USAGE, "this is no whole ticket; take the line that 'netdrive handle export' printed");
  }
  return ticket;
}

function read(encoded: string): Ticket | undefined {
  const said = parsed(encoded);
  if (said === undefined) return undefined;
  const { h: host, p: port, s: share, f: fingerprint, c, d } = said;
  const [control, io] = [c, d].map((level) => SECURITY_NAMES.find((name) => name === level));
  const [resumeKey, key, challenge] = [said.r, said.k, said.n].map((part) => Buffer.from(part ?? "", "base64url"));
  const isPlace = typeof host === "string" && host !== "" && Number.isInteger(port) && port > 0 && port < 65_536;
  const isShare = typeof share === "string" && isShareName(share);
  if (!isPlace || !isShare || (fingerprint !== undefined && !isFingerprint(fingerprint))) return undefined;
  if (control === undefined || io === undefined) return undefined;
  if (resumeKey === undefined || key?.length !== KEY_BYTES || challenge === undefined) return undefined;
  if (resumeKey.length === 0 || resumeKey.length > RESUME_KEY_BYTES_MAX) return undefined;
  if (challenge.length === 0 || challenge.length > CHALLENGE_BYTES_MAX) return undefined;
  const place = { host, port, share, ...(fingerprint === undefined ? {} : { fingerprint }) };
  return { place, security: { control, io }, open: { resumeKey, key, challenge } };
}

function parsed(encoded: string): TicketText | undefined {
  try {
    const value = JSON.parse(Buffer.from(encoded, "base64url").toString("utf8")) as TicketText | null;
    if (typeof value !== "object" || value === null || typeof value.p !== "number") return undefined;
    const { p: _, ...texts } = value;
    return Object.values(texts).every((part) => typeof part === "string") ? value : undefined;
  } catch {
    return undefined;
  }
}
