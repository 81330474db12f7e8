/** What the benches compare: a mount of the same exported directory, with the processes that carry it. */

import type { Security } from "../../src/wire/messages.ts";
import type { Daemon } from "./child.ts";
import { mountAt, unmount } from "./mounts.ts";
import { type Usage, usageOf, usageSince } from "./usage.ts";
import type { LinkShape, Workbench } from "./workbench.ts";

export interface PeerOptions {
  readonly workbench: Workbench;
  /** Between client and server; absent: plain loopback. */
  readonly link?: LinkShape | undefined;
  /** How netdrive's channels are protected; default: plain. */
  readonly security?: Security;
  /** Whether netdrive's server keeps what is open in a state store; default: yes. */
  readonly hasStore?: boolean;
  /** Further `-o` options of the client. */
  readonly mountOptions?: readonly string[];
}

/** CPU and memory of the two sides. */
export interface PeerUsage {
  readonly client: Usage;
  readonly server: Usage;
}

const UNUSED: Usage = { cpuS: 0, peakBytes: 0 };

export interface Peer {
  readonly name: string;
  /** One line for the results: version and options that matter. */
  readonly description: string;
  /** Where its files are seen; a path below the mount point, which stays the same over remounts. */
  readonly path: string;
  /** Ends the client and starts it anew, so that it has nothing cached. The server stays. */
  remount(): Promise<void>;
  usage(): PeerUsage;
  /** Ends client and server. Also done when the scope closes. */
  stop(): Promise<void>;
}

/** The exported directory itself: the floor, with neither client nor server. */
export function plainPeer(workbench: Workbench): Peer {
  return {
    name: "plain directory",
    description: "the exported directory itself, no drive",
    path: workbench.shared,
    remount: async () => {},
    usage: () => ({ client: UNUSED, server: UNUSED }),
    stop: async () => {},
  };
}

/** A peer whose client is one foreground process that mounts at `mountPoint`; most are. */
export class MountedPeer implements Peer {
  readonly name: string;
  readonly description: string;
  readonly path: string;
  readonly #server: Daemon | undefined;
  readonly #startClient: () => Daemon;
  readonly #onMounted: ((device: string) => Promise<void>) | undefined;
  #client: Daemon | undefined;

  constructor(options: {
    name: string;
    description: string;
    path: string;
    /** Absent when the client's process is the server too. */
    server?: Daemon;
    startClient: () => Daemon;
    /** Called with the mount's device (major:minor) each time. */
    onMounted?: (device: string) => Promise<void>;
  }) {
    this.name = options.name;
    this.description = options.description;
    this.path = options.path;
    this.#server = options.server;
    this.#startClient = options.startClient;
    this.#onMounted = options.onMounted;
  }

  async remount(): Promise<void> {
    await this.#endClient();
    const client = this.#startClient();
    this.#client = client;
    await client.until("a mount", () => mountAt(this.path) !== undefined);
    await this.#onMounted?.(mountAt(this.path)?.device ?? "");
  }

  usage(): PeerUsage {
    return {
      client: this.#client === undefined ? UNUSED : usageOf([this.#client.pid]),
      server: this.#server === undefined ? UNUSED : usageOf([this.#server.pid]),
    };
  }

  async stop(): Promise<void> {
    await this.#endClient();
    await this.#server?.stop();
  }

  async #endClient(): Promise<void> {
    const client = this.#client;
    if (client === undefined) return;
    this.#client = undefined;
    // A clean end: the file system is told, then the process ends by itself.
    await unmount(this.path);
    await client.ended(5000);
    await client.stop();
  }
}

/** Runs `work` and says what the peer used meanwhile. The peer must not be remounted in it. */
export async function withUsage<T>(peer: Peer, work: () => Promise<T>): Promise<{ value: T; usage: PeerUsage }> {
  const before = peer.usage();
  const value = await work();
  const after = peer.usage();
  return {
    value,
    usage: { client: usageSince(before.client, after.client), server: usageSince(before.server, after.server) },
  };
}
