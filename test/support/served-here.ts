/**
 * A drive whose server runs in the test's own process, so that the test can disturb the file system behind it and see its counters.
 *
 * The mount is a process of its own, as ever, and the test process makes no call into it.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { formatDriveUrl } from "../../src/client/url.ts";
import { createDisk } from "../../src/disk/disk.ts";
import type { ServerLimits } from "../../src/server/limits.ts";
import { type Server, startServer } from "../../src/server/server.ts";
import type { FileSystem } from "../../src/vfs/file-system.ts";
import { detach, type MountedDrive, startMount } from "./drive.ts";
import { makeTemp, mountsBelow } from "./temp.ts";

const TOKEN = Buffer.from("token-of-a-test-0123456789");
const HOST = "127.0.0.1";

/** A server in this process, of one disk. */
export interface ServedHere extends AsyncDisposable {
  readonly url: string;
  readonly server: Server;
  /** What the server logged. */
  readonly lines: readonly string[];
  close(): Promise<void>;
}

export interface ServeOptions {
  /** Puts something around the disk; default: nothing. */
  disturb?: (disk: FileSystem) => FileSystem;
  limits?: Partial<ServerLimits>;
}

/** Serves a directory to whoever has the URL, without encryption. */
export async function serveHere(directory: string, { disturb, limits }: ServeOptions = {}): Promise<ServedHere> {
  const lines: string[] = [];
  const log = createLog({ level: "info", clock: systemClock, sink: (line) => lines.push(line) });
  const disk = await createDisk({ directory, applyCredentials: true, log });
  const fileSystem = disturb === undefined ? disk : disturb(disk);
  const server = await startServer({
    shares: new Map([["share", { fileSystem, readOnly: false }]]),
    token: TOKEN,
    squash: "none",
    listen: { host: HOST, port: 0 },
    log,
    clock: systemClock,
    ...(limits === undefined ? {} : { limits }),
  });
  const close = async () => {
    await server.close();
    await disk.close();
  };
  const url = formatDriveUrl({ token: TOKEN, host: HOST, port: server.address.port, share: "share" });
  return { url, server, lines, close, [Symbol.asyncDispose]: close };
}

/** The same, mounted. */
export interface DriveHere extends ServedHere {
  readonly path: string;
  readonly directory: string;
  readonly scratch: string;
  readonly mounted: MountedDrive;
}

/** Serves a new directory and mounts it, with more arguments of `netdrive mount` if wanted. */
export async function startDriveHere(options: ServeOptions & { mount?: string[] } = {}): Promise<DriveHere> {
  const temp = makeTemp("here");
  const [directory, path, scratch] = ["served", "mount", "scratch"].map((name) => join(temp.path, name)) as [
    string,
    string,
    string,
  ];
  for (const folder of [directory, path, scratch]) mkdirSync(folder);
  let served: ServedHere | undefined;
  let mounted: MountedDrive | undefined;
  const close = async () => {
    try {
      await mounted?.close();
      await served?.close();
      const left = mountsBelow(temp.path);
      for (const point of left) detach(point);
      if (left.length > 0) throw new Error(`mounts left behind: ${left.join(", ")}`);
    } finally {
      await temp.remove();
    }
  };
  try {
    served = await serveHere(directory, options);
    const plain = ["--security", "plain"];
    mounted = await startMount(served.url, path, "--allow-other", ...plain, ...(options.mount ?? []));
    return { ...served, path, directory, scratch, mounted, close, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}
