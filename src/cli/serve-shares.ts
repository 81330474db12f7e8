/**
 * serve = server(disk), for the commands that serve: from checked choices to a listening server and the URLs of its shares.
 */
import { hostname, networkInterfaces } from "node:os";
import type { Clock } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import { formatDriveUrl } from "../client/url.ts";
import { createDisk } from "../disk/disk.ts";
import { type Server, startServer } from "../server/server.ts";
import type { Squash } from "../server/squash.ts";
import type { FileSystem } from "../vfs/file-system.ts";
import { Exit, failure } from "./failure.ts";
import { isLoopback, type ListenAddress } from "./listen-address.ts";
import { STRONG_CHARS_MIN, type Token } from "./token.ts";

export interface ServeRequest {
  /** Share name to absolute path of its directory. */
  shares: ReadonlyMap<string, string>;
  listen: ListenAddress;
  token: Token;
  readOnly: boolean;
  squash: Squash;
  log: Log;
  clock: Clock;
}

export interface ServedShare {
  name: string;
  directory: string;
  /** With token. */
  url: string;
}

export interface Service {
  server: Server;
  shares: ServedShare[];
  close(): Promise<void>;
}

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

/**
 * Opens the directories and starts the server.
 *
 * @throws CommanderError ADDRESS, PATH
 */
export async function serveShares(request: ServeRequest): Promise<Service> {
  const { listen, log, clock, squash } = request;
  const disks = new Map<string, FileSystem>();
  const closeDisks = async () => {
    await Promise.all([...disks.values()].map((disk) => disk.close()));
  };
  try {
    for (const [name, directory] of request.shares) {
      const applyCredentials = process.getuid?.() === 0;
      disks.set(name, await createDisk({ directory, applyCredentials, log: log.room("disk") }));
    }
    const shares = new Map([...disks].map(([name, fileSystem]) => [name, { fileSystem, readOnly: request.readOnly }]));
    const token = Buffer.from(request.token.text);
    const server = await startServer({ shares, token, squash, listen, log, clock });
    return {
      server,
      shares: [...request.shares].map(([name, directory]) => ({
        name,
        directory,
        url: formatDriveUrl({
          token,
          host: reachableHost(listen.host),
          port: server.address.port,
          share: name,
        }),
      })),
      async close() {
        await server.close();
        await closeDisks();
      },
    };
  } catch (thrown) {
    await closeDisks();
    throw explainListen(thrown, listen);
  }
}

/** What a client can dial: an address of this machine where the server listens on all. */
function reachableHost(host: string): string {
  if (host !== "0.0.0.0" && host !== "::") return host;
  const addresses = Object.values(networkInterfaces()).flatMap((list) => list ?? []);
  return addresses.find(({ family, internal }) => family === "IPv4" && !internal)?.address ?? hostname();
}

function explainListen(thrown: unknown, { host, port }: ListenAddress): unknown {
  const { code, syscall } = thrown as NodeJS.ErrnoException;
  const place = `${host}:${port}`;
  if (code === "EADDRINUSE") {
    return failure(Exit.ADDRESS, `${place} is in use by another program; take another port with --listen ${host}:0`);
  }
  if (code === "EACCES" && syscall === "listen") {
    return failure(Exit.ADDRESS, `this user may not listen on ${place}; take a port above 1023 with --listen`);
  }
  if (code === "EADDRNOTAVAIL" || code === "ENOTFOUND" || code === "EAI_AGAIN") {
    return failure(Exit.ADDRESS, `${host} is no address of this machine; give one with --listen`);
  }
  return thrown;
}
