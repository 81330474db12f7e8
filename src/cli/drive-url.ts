/**
 * Drive URLs as people give them and as they may be shown: the token from the environment, and never in a list. Nor is the fingerprint, which says
 * nothing to who reads a list.
 */
import { DriveUrlError, formatDriveUrl, parseDriveUrl } from "../client/url.ts";
import { Exit, failure } from "./failure.ts";

/**
 * The whole URL, with the token of NETDRIVE_TOKEN if `text` has none.
 *
 * @throws CommanderError USAGE
 */
export function readDriveUrl(text: string): string {
  const token = process.env["NETDRIVE_TOKEN"];
  const isBare = /^netdrive:\/\/[^@/]*\//i.test(text);
  const whole = isBare && token ? text.replace("//", () => `//${encodeURIComponent(token)}@`) : text;
  try {
    return formatDriveUrl(parseDriveUrl(whole));
  } catch (cause) {
    if (!(cause instanceof DriveUrlError)) throw cause;
    const advice = isBare ? `${cause.message}, or without TOKEN@ with NETDRIVE_TOKEN` : cause.message;
    throw failure(Exit.USAGE, advice);
  }
}

/** What may be shown of a URL. */
export function withoutToken(url: string): string {
  return url.replace(/\/\/[^@/]*@/, "//").replace(/\?.*/s, "");
}
