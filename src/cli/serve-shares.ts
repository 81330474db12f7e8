/**
 * serve = server(disk), for the commands that serve: from checked choices to a listening server and the URLs of its shares.
 */
import { hostname, networkInterfaces } from "node:os";
import type { Clock } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import { type DriveUrl, formatDriveUrl } from "../client/url.ts";
import { createDisk } from "../disk/disk.ts";
import type { Locking } from "../server/lock-requests.ts";
import { type Server, startServer } from "../server/server.ts";
import type { Squash } from "../server/squash.ts";
import type { Durability } from "../server/state/state-store.ts";
import type { UserDirectory } from "../server/users.ts";
import { busyWait } from "../sys/busy-wait.ts";
import { optimizeEarly } from "../sys/optimize-early.ts";
import type { FileSystem } from "../vfs/file-system.ts";
import type { ChannelSecurity } from "../wire/messages.ts";
import { Exit, failure } from "./failure.ts";
import type { ChosenIdentity } from "./identity.ts";
import type { ListenAddress } from "./listen-address.ts";
import { openMemory } from "./server-memory.ts";
import type { Token } from "./token.ts";

export interface ServeRequest {
  /** Share name to absolute path of its directory. */
  shares: ReadonlyMap<string, string>;
  listen: ListenAddress;
  /** Undefined: only users get in. */
  token: Token | undefined;
  users?: UserDirectory;
  identity: ChosenIdentity;
  /** The least that channels must have. */
  security: ChannelSecurity;
  readOnly: boolean;
  /** By share; advisory where nothing is said. */
  locking?: ReadonlyMap<string, Locking>;
  squash: Squash;
  /** Where the server keeps what must survive its process; undefined: nothing does. */
  stateFolder?: string | undefined;
  /** What is kept there survives the death of the process, or of the machine as well. */
  durability?: Durability;
  log: Log;
  clock: Clock;
}

export interface ServedShare {
  name: string;
  directory: string;
  /** With token, if there is one, and fingerprint. */
  url: string;
}

export interface Service {
  server: Server;
  shares: ServedShare[];
  close(): Promise<void>;
}

/**
 * Opens the directories and starts the server.
 *
 * @throws CommanderError ADDRESS, PATH
 */
export async function serveShares(request: ServeRequest): Promise<Service> {
  const { listen, log, clock, squash, identity, users, security } = request;
  const disks = new Map<string, FileSystem>();
  const closeDisks = async () => {
    await Promise.all([...disks.values()].map((disk) => disk.close()));
  };
  const { stateFolder, durability = "process" } = request;
  const memory = stateFolder === undefined ? undefined : await openMemory({ stateFolder, durability, clock, log });
  try {
    for (const [name, directory] of request.shares) {
      const applyCredentials = process.getuid?.() === 0;
      const keepsUnlinked = memory !== undefined && !request.readOnly;
      disks.set(name, await createDisk({ directory, applyCredentials, keepsUnlinked, log: log.room("disk") }));
    }
    const { readOnly } = request;
    const shares = new Map(
      [...disks].map(([name, fileSystem]) => {
        const locking = request.locking?.get(name) ?? "advisory";
        return [name, { fileSystem, readOnly, locking }];
      }),
    );
    const token = request.token === undefined ? undefined : Buffer.from(request.token.text);
    const admission = { token, security, identity, ...(users === undefined ? {} : { users }) };
    optimizeEarly();
    busyWait();
    const server = await startServer({
      ...{ shares, ...admission, squash, listen, log, clock },
      ...(memory === undefined ? {} : { memory }),
    });
    return {
      server,
      shares: [...request.shares].map(([name, directory]) => ({
        name,
        directory,
        url: urlOf({
          token,
          host: reachableHost(listen.host),
          port: server.address.port,
          share: name,
          fingerprint: identity.fingerprint,
        }),
      })),
      async close() {
        await server.close();
        await closeDisks();
      },
    };
  } catch (thrown) {
    await closeDisks();
    await memory?.store.close();
    throw explainListen(thrown, listen);
  }
}

/** Where there is no token the user must be put into the URL. */
function urlOf({ token, ...url }: Omit<DriveUrl, "token" | "user"> & { token: Buffer | undefined }): string {
  return formatDriveUrl(token === undefined ? { token: Buffer.alloc(0), user: "USER", ...url } : { token, ...url });
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
