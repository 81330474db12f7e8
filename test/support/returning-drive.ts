/**
 * A client in memory that comes back by itself, on a fake clock: every connection it makes can be seen, harmed and cut, and new ones refused.
 */
import { ConnectionError } from "../../src/base/errors.ts";
import { connectLink, type Remote, type RemoteOptions } from "../../src/client/remote.ts";
import type { ServerLimits } from "../../src/server/limits.ts";
import type { LinkServer, ServerMemory } from "../../src/server/server.ts";
import { type FaultyLink, memoryLinkPair } from "../../src/transport/memory-link.ts";
import { type FileSystem, type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { settle } from "./fake-clock.ts";
import { ctx, type LinkDrive, linkDrive, named, TOKEN } from "./link-drive.ts";

export interface Connection {
  readonly kind: "control" | "io";
  /** Knobs of what the client sends. */
  readonly client: FaultyLink;
  /** Knobs of what the server sends. */
  readonly server: FaultyLink;
}

export interface ReturningDrive extends LinkDrive {
  readonly remote: Remote;
  /** Every connection there ever was, in order; control first. */
  readonly connections: Connection[];
  /** While true nothing, or nothing of one kind, can be dialled: nobody answers, or, with `isRefusing`, a machine says that nobody listens. */
  isDown: boolean | Connection["kind"];
  isRefusing: boolean;
  /** Attempts to dial, also in vain. */
  readonly dials: readonly { readonly kind: Connection["kind"]; readonly atMs: number }[];
  /** What the client talks to from the next connection on. */
  target: LinkServer;
  /** Is told of each new connection before its first byte. */
  onConnection: (connection: Connection) => void;
  /** Cuts every connection, and lets both sides see it. */
  cut(): Promise<void>;
  /** Lets time pass in small steps, until `isDone` or for `maxMs`. */
  pass(maxMs: number, isDone?: () => boolean): Promise<void>;
}

export async function returningDrive(
  options: {
    fileSystem?: FileSystem;
    limits?: Partial<ServerLimits>;
    client?: Partial<RemoteOptions>;
    memory?: ServerMemory;
    /** Is told of every connection, the first ones included, with its number. */
    onConnection?: (connection: Connection, index: number) => void;
  } = {},
): Promise<ReturningDrive> {
  const { fileSystem, client = {}, memory } = options;
  const limits = { keepMsMax: 600_000, courtesyMs: 600_000, ...options.limits };
  const parts = fileSystem === undefined ? { limits } : { fileSystem, limits };
  const drive = linkDrive(memory === undefined ? parts : { ...parts, memory });
  await drive.server.restore();
  const { clock, log } = drive;
  const connections: Connection[] = [];
  const dials: ReturningDrive["dials"][number][] = [];
  const state: Pick<ReturningDrive, "isDown" | "isRefusing" | "target" | "onConnection"> = {
    isDown: false,
    isRefusing: false,
    target: drive.server,
    onConnection: (connection) => options.onConnection?.(connection, connections.length - 1),
  };
  const dial = async (kind: Connection["kind"] = "control") => {
    dials.push({ kind, atMs: clock.monotonicMs() });
    const cause = state.isRefusing ? Object.assign(new Error("refused"), { code: "ECONNREFUSED" }) : undefined;
    if (state.isDown === true || state.isDown === kind)
      throw new ConnectionError("nobody is there", { retryable: true, cause });
    const connection = { kind, ...memoryLinkPair(clock) };
    connections.push(connection);
    state.onConnection(connection);
    state.target.accept(connection.server);
    return connection.client;
  };
  const url = { token: TOKEN, share: "share" };
  const wish = { sectionBytes: 65_536, credits: 16, random: () => 0, ...client };
  const remote = await connectLink(await dial(), { ...wish, url, clock, log }, dial);
  const cut = async () => {
    for (const { client: link } of connections) link.destroy();
    await settle();
  };
  const pass = async (maxMs: number, isDone = () => false) => {
    for (let at = 0; at < maxMs && !isDone(); at += 100) {
      clock.advance(100);
      await settle();
    }
  };
  return Object.assign(state, drive, { remote, connections, dials, cut, pass });
}

export const NEW_FILE = { mode: 0o100644, umask: 0 };
export const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;

/** Makes a file of that name in the share's root and keeps it open, to read and to write. */
export async function fileOn(
  { remote }: ReturningDrive,
  name = "f",
): Promise<{ root: NodeId; id: NodeId; handle: HandleId }> {
  const { id: root } = await remote.fileSystem.root(ctx);
  const { entry, opened } = await remote.fileSystem.create(ctx, root, named(name), READ_WRITE, NEW_FILE);
  return { root, id: entry.id, handle: opened.handle };
}
