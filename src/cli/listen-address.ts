/**
 * Where `serve` listens: HOST:PORT as given on the command line, and whether it is this machine only.
 */
import { isIP } from "node:net";
import { Exit, failure } from "./failure.ts";

export interface ListenAddress {
  /** A name or an address, without brackets. */
  host: string;
  /** 0: the system picks one. */
  port: number;
}

/** The port netdrive servers listen on unless told otherwise. */
export const DEFAULT_PORT = 7378;
export const DEFAULT_LISTEN = `127.0.0.1:${DEFAULT_PORT}`;

const PORT_MAX = 65_535;

/**
 * Reads HOST:PORT; an IPv6 address stands in brackets.
 *
 * @throws CommanderError USAGE
 */
export function parseListenAddress(text: string): ListenAddress {
  const match = /^(?:\[([^\]]+)\]|([^:[\]\s/@]+)):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  const host = match?.[1] ?? match?.[2];
  const isBad = host === undefined || port > PORT_MAX || (match?.[1] !== undefined && isIP(host) !== 6);
  if (isBad) {
    throw failure(Exit.USAGE, `--listen '${text}' is no HOST:PORT; write it as ${DEFAULT_LISTEN} or [::1]:0`);
  }
  return { host, port };
}

/** Whether only this machine can reach `host`. A name other than localhost counts as reachable by others. */
export function isLoopback(host: string): boolean {
  if (isIP(host) === 4) return host.startsWith("127.");
  return host === "::1" || host.toLowerCase() === "localhost";
}
