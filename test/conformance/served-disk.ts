/**
 * remote(disk) as a stack: a server of a disk and a client of it in one process, over memory or over a loopback socket.
 */
import assert from "node:assert/strict";
import { systemClock } from "../../src/base/clock.ts";
import { silentLog } from "../../src/base/log.ts";
import { CachedFileSystem } from "../../src/cache/cached.ts";
import { connectLink, connectRemote, type Remote } from "../../src/client/remote.ts";
import { createDisk, type Disk } from "../../src/disk/disk.ts";
import { LinkServer, type ServerFigures, type ServerOptions, startServer } from "../../src/server/server.ts";
import { memoryLinkPair } from "../../src/transport/memory-link.ts";
import { makeTemp } from "../support/temp.ts";
import { walkerPosix } from "../support/walker.ts";
import type { Stack } from "./suite.ts";

const SHARE = "share";
const TOKEN = Buffer.from("a token for tests only");

/** A connected client and the server it talks to. */
interface Link {
  remote: Remote;
  server: { close(): Promise<void>; counters(): ServerFigures };
}

async function overMemory(options: ServerOptions): Promise<Link> {
  const server = new LinkServer(options);
  const link = memoryLinkPair();
  server.accept(link.server);
  const url = { token: TOKEN, share: SHARE };
  return { remote: await connectLink(link.client, { url, log: silentLog, clock: systemClock }), server };
}

async function overSocket(options: ServerOptions): Promise<Link> {
  const server = await startServer({ ...options, listen: { host: "127.0.0.1", port: 0 } });
  const url = { token: TOKEN, share: SHARE, ...server.address };
  return { remote: await connectRemote({ url, log: silentLog, clock: systemClock }), server };
}

/** Nothing may be left of a stack whose cases have all closed what they opened. */
async function end(disk: Disk, { remote, server }: Link, cached: CachedFileSystem | undefined): Promise<void> {
  assert.equal(remote.status().opens, 0);
  await cached?.close();
  if (cached !== undefined) assert.deepEqual(cached.figures, { dirtyBytes: 0, readAheadBytes: 0 });
  await remote.close();
  await server.close();
  const { channels, sessions, handles, bufferBytes } = server.counters();
  assert.deepEqual(
    { channels, sessions, handles, bufferBytes },
    { channels: 0, sessions: 0, handles: 0, bufferBytes: 0 },
  );
  assert.equal(disk.counters().handles, 0);
}

/** A window and sections so small that full windows, parts and order all count; reading ahead as if the line were long. */
function cachedDrive(remote: Remote): CachedFileSystem {
  return new CachedFileSystem(remote.fileSystem, {
    attrTimeoutMs: 1000,
    sectionBytes: 4096,
    writeBehindBytesMax: 64 * 1024,
    readAheadBytesMax: 1024 * 1024,
    lineBytes: () => 512 * 1024,
    kernelReadAheadBytes: () => 0,
    log: silentLog,
    clock: systemClock,
  });
}

/** Starts the stack over `kind` of link, with a cache in front if wanted. */
export async function startServedDisk(kind: "memory" | "socket", options: { isCached?: boolean } = {}): Promise<Stack> {
  const temp = makeTemp(kind);
  const disk = await createDisk({ directory: temp.path, applyCredentials: true, log: silentLog });
  const serverOptions: ServerOptions = {
    shares: new Map([[SHARE, { fileSystem: disk, readOnly: false }]]),
    token: TOKEN,
    squash: "none",
    log: silentLog,
    clock: systemClock,
  };
  const link = await (kind === "memory" ? overMemory(serverOptions) : overSocket(serverOptions));
  const cached = options.isCached === true ? cachedDrive(link.remote) : undefined;
  return {
    posix: walkerPosix(cached ?? link.remote.fileSystem),
    close: async () => {
      try {
        await end(disk, link, cached);
      } finally {
        await disk.close();
        await temp.remove();
      }
    },
  };
}
