/**
 * Drive URLs: netdrive://TOKEN@HOST:PORT/NAME?fp=FINGERPRINT, or USER: in the place of TOKEN.
 *
 * Token and name are percent-encoded UTF-8; a ':' in what stands before the '@' says that it is a user, whose password no URL holds. The fingerprint, of the
 * server's key, may be left out. There is no default: a URL without a token or user, a port or a name is a mistake somebody made.
 */
import { isFingerprint } from "../transport/tls-settings.ts";
import { SHARE_NAME_BYTES_MAX, USER_NAME_BYTES_MAX } from "../wire/limits.ts";

export interface DriveUrl {
  /** The bytes both sides know; the server is given the same. Empty where there is a user. */
  readonly token: Buffer;
  /** Who logs in with a password, which no URL holds. */
  readonly user?: string;
  /** A name, an IPv4 address, or an IPv6 address without brackets. */
  readonly host: string;
  readonly port: number;
  /** The share's name. */
  readonly share: string;
  /** Of the server's key. */
  readonly fingerprint?: string;
}

const SCHEME = "netdrive:";
const FORM = "a drive URL is netdrive://TOKEN@HOST:PORT/NAME or netdrive://USER:@HOST:PORT/NAME";
const TOKEN_BYTES_MAX = 1024;
const HOST_NAME = /^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?$/;
const IPV6 = /^\[([0-9A-Fa-f:.]+(?:%25[A-Za-z0-9_.-]+)?)\]$/;

/** A URL that cannot be used; the message is one line for people and never holds the token. */
export class DriveUrlError extends TypeError {
  override readonly name = "DriveUrlError";
}

function decoded(part: string, what: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw new DriveUrlError(`the ${what} in the drive URL has a '%' that encodes nothing; ${FORM}`);
  }
}

/** @throws DriveUrlError. */
export function parseDriveUrl(text: string): DriveUrl {
  const fail = (what: string) => new DriveUrlError(`${what}; ${FORM}`);
  if (/[\s\p{Cc}]/u.test(text)) throw fail("the drive URL has a space or a control character in it");
  if (!text.toLowerCase().startsWith(`${SCHEME}//`)) throw fail(`the drive URL does not begin with ${SCHEME}//`);
  const [rest = "", query] = text.slice(SCHEME.length + 2).split(/\?(.*)/s, 2);
  if (/[#]/.test(text)) throw fail("the drive URL has a '#', which means nothing here");
  const slash = rest.indexOf("/");
  const authority = slash < 0 ? rest : rest.slice(0, slash);
  const path = slash < 0 ? "" : rest.slice(slash + 1);
  const at = authority.lastIndexOf("@");
  if (at < 0) throw fail("the drive URL has no token or user");
  const who = parseWho(authority.slice(0, at), fail);
  const { host, port } = parsePlace(authority.slice(at + 1), fail);
  const name = path.endsWith("/") ? path.slice(0, -1) : path;
  if (name === "") throw fail("the drive URL names no share");
  if (name.includes("/")) throw fail("the drive URL has more than a share's name after the port");
  const share = decoded(name, "share's name");
  if (!isShareName(share)) throw fail("the drive URL's share has no possible name");
  return { ...who, host, port, share, ...parseQuery(query, fail) };
}

function parseWho(text: string, fail: (what: string) => DriveUrlError): Pick<DriveUrl, "token" | "user"> {
  const colon = text.indexOf(":");
  if (colon >= 0) {
    const user = decoded(text.slice(0, colon), "user");
    if (colon < text.length - 1) throw fail("a password has no place in a URL, where others see it: leave it out");
    if (!isUserName(user)) throw fail("the drive URL's user has no possible name");
    return { token: Buffer.alloc(0), user };
  }
  const token = Buffer.from(decoded(text, "token"), "utf8");
  if (token.length === 0) throw fail("the drive URL has an empty token");
  if (token.length > TOKEN_BYTES_MAX) throw fail(`the token is longer than ${TOKEN_BYTES_MAX} bytes`);
  return { token };
}

function parseQuery(query: string | undefined, fail: (what: string) => DriveUrlError): Pick<DriveUrl, "fingerprint"> {
  if (query === undefined) return {};
  const [, fingerprint] = /^fp=(.*)$/.exec(query) ?? [];
  if (fingerprint === undefined) throw fail("the drive URL has a '?' with something else than fp=FINGERPRINT");
  if (!isFingerprint(fingerprint)) throw fail("what follows fp= in the drive URL is not a whole fingerprint");
  return { fingerprint };
}

function parsePlace(place: string, fail: (what: string) => DriveUrlError): { host: string; port: number } {
  const colon = place.lastIndexOf(":");
  if (colon < 0 || place.endsWith("]")) throw fail("the drive URL has no port");
  const digits = place.slice(colon + 1);
  const port = Number(digits);
  if (!/^[0-9]{1,5}$/.test(digits) || port < 1 || port > 65_535) throw fail(`'${digits}' is not a port (1 to 65535)`);
  const name = place.slice(0, colon);
  if (name === "") throw fail("the drive URL has no host");
  const ipv6 = IPV6.exec(name)?.[1];
  if (ipv6 === undefined && !HOST_NAME.test(name)) throw fail(`'${name}' is not a host`);
  return { host: ipv6 === undefined ? name : ipv6.replace("%25", "%"), port };
}

/** Whether a share can be called `name`: 1..255 bytes of text without '/', NUL or other control characters, and not '.' or '..'. */
export function isShareName(name: string): boolean {
  const bytes = Buffer.byteLength(name, "utf8");
  return bytes > 0 && bytes <= SHARE_NAME_BYTES_MAX && name !== "." && name !== ".." && !/[/\p{Cc}\p{Cs}]/u.test(name);
}

/** Whether a user can be called `name`: 1..64 letters, digits, '_', '.' and '-' of ASCII, beginning with none of the last two. */
export function isUserName(name: string): boolean {
  return name.length <= USER_NAME_BYTES_MAX && /^[A-Za-z0-9_][A-Za-z0-9_.-]*$/.test(name);
}

/** The URL as `parseDriveUrl` reads it. */
export function formatDriveUrl(url: DriveUrl): string {
  const host = url.host.includes(":") ? `[${url.host.replace("%", "%25")}]` : url.host;
  const who = url.user === undefined ? encodeURIComponent(url.token.toString("utf8")) : `${url.user}:`;
  const query = url.fingerprint === undefined ? "" : `?fp=${url.fingerprint}`;
  return `${SCHEME}//${who}@${host}:${url.port}/${encodeURIComponent(url.share)}${query}`;
}
