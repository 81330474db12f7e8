/**
 * Whole drives for tests: `netdrive serve` and `netdrive mount` as processes of their own, and the certainty that they go away.
 *
 * Whatever happens in a test, `close` leaves no mount, no process and no file: a mount that does not end by itself has its connection
 * aborted and is detached. The test process itself never makes a call into a mount: programs do.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync, readdirSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { LinkProcess } from "../../scripts/bench/link-process.ts";
import { readMountTable } from "../../src/sys/mount-table.ts";
import { type Service, startService } from "./child.ts";
import { makeTemp, mountsBelow, type Temp } from "./temp.ts";

const MAIN = fileURLToPath(new URL("../../src/cli/main.js", import.meta.url));

/** Arguments for Node to run the command. */
export const netdrive = (...args: string[]): string[] => [MAIN, ...args];

const points = new Set<string>();

// Before the folders below the mounts are removed.
process.prependListener("exit", () => {
  for (const point of points) detach(point);
});

/** Takes a mount away by force: requests in flight fail, whoever uses it is left with errors. */
export function detach(point: string): void {
  for (const { path, deviceMinor } of readMountTable()) {
    if (path !== point) continue;
    try {
      writeFileSync(`/sys/fs/fuse/connections/${deviceMinor}/abort`, "1");
    } catch {
      // The connection ended meanwhile.
    }
    spawnSync("umount", ["--lazy", point], { stdio: "ignore" });
  }
  points.delete(point);
}

/** A running server of one share. */
export interface ServedShare {
  readonly url: string;
  readonly port: number;
  readonly service: Service;
}

/** The command, started by `inside` and its arguments if there are any. */
function startCommand(inside: readonly string[], ...args: string[]): Service {
  const [program = "", ...rest] = [...inside, process.execPath, ...netdrive(...args)];
  return startService(program, rest, { cwd: "/" });
}

/** Starts `netdrive serve` for `directory` on a free port of loopback, with more arguments if wanted. */
export function startServe(directory: string, ...args: string[]): Promise<ServedShare> {
  return startServeInside([], directory, ...args);
}

/** The same as an argument of another program. */
export async function startServeInside(
  inside: readonly string[],
  directory: string,
  ...args: string[]
): Promise<ServedShare> {
  const service = startCommand(inside, "serve", directory, "--listen", "127.0.0.1:0", "--json", ...args);
  try {
    const { url, port, shares } = JSON.parse(await service.firstLine) as {
      url?: string;
      port: number;
      shares?: { url: string }[];
    };
    return { url: url ?? shares?.[0]?.url ?? "", port, service };
  } catch (error) {
    await service.end("SIGKILL");
    throw error;
  }
}

/** A running mount. */
export interface MountedDrive {
  readonly path: string;
  readonly service: Service;
  /** Unmounts and waits for the process. */
  close(): Promise<void>;
}

/** Starts `netdrive mount` of `url` at `path` in the foreground and waits until it answers. */
export function startMount(url: string, path: string, ...args: string[]): Promise<MountedDrive> {
  return startMountInside([], url, path, ...args);
}

/** The same as an argument of another program. */
export async function startMountInside(
  inside: readonly string[],
  url: string,
  path: string,
  ...args: string[]
): Promise<MountedDrive> {
  points.add(path);
  const service = startCommand(inside, "mount", url, path, "--foreground", "--json", ...args);
  const close = async () => {
    await service.end();
    detach(path);
  };
  try {
    await service.firstLine;
    return { path, service, close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** A server and a mount of it. */
export interface Drive extends AsyncDisposable {
  /** Where it is mounted. */
  readonly path: string;
  /** What is served, on the local disk. */
  readonly directory: string;
  /** A local folder for the test's own files, removed with the drive. */
  readonly scratch: string;
  readonly served: ServedShare;
  readonly mounted: MountedDrive;
  /** What the mount reaches its server through, if one was asked for. */
  readonly link: LinkProcess | undefined;
  /** Ends both, and asserts that nothing is left. */
  close(): Promise<void>;
}

export interface DriveOptions {
  /** More arguments of `netdrive serve` and `netdrive mount`. */
  serve?: string[];
  mount?: string[];
  /** What is served instead of a new directory. */
  directory?: string;
  /** Puts a simulated link between the two, which obeys these commands (scripts/bench/link-main.ts) before the first connection. */
  link?: string[];
}

/** Serves a new directory and mounts it: as root, for all users, with their own identities. */
export async function startDrive(options: DriveOptions = {}): Promise<Drive> {
  const temp: Temp = makeTemp("drive");
  const [own, path, scratch] = ["served", "mount", "scratch"].map((name) => join(temp.path, name)) as [
    string,
    string,
    string,
  ];
  for (const folder of [own, path, scratch]) mkdirSync(folder);
  const directory = options.directory ?? own;
  let served: ServedShare | undefined;
  let mounted: MountedDrive | undefined;
  let link: LinkProcess | undefined;
  const close = async () => {
    try {
      await mounted?.close();
      await link?.close();
      await served?.service.end();
      const left = mountsBelow(temp.path);
      for (const point of left) detach(point);
      if (left.length > 0) throw new Error(`mounts left behind: ${left.join(", ")}`);
    } finally {
      await temp.remove();
    }
  };
  try {
    served = await startServe(directory, "--squash", "none", ...(options.serve ?? []));
    let { url } = served;
    if (options.link !== undefined) {
      link = await LinkProcess.start({ host: "127.0.0.1", port: served.port }, options.link);
      url = url.replace(`127.0.0.1:${served.port}`, `127.0.0.1:${link.address.port}`);
    }
    mounted = await startMount(url, path, "--allow-other", ...(options.mount ?? []));
    return { path, directory, scratch, served, mounted, link, close, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}

/** Sockets a process has open; for leak checks. Its other descriptors come and go with the files it serves. */
export function socketCount(pid: number): number {
  return descriptors(pid).filter(({ target }) => target.startsWith("socket:")).length;
}

/**
 * Files without a name that a process keeps, of those that were below `directory`. That a target is "(deleted)" does not say so: the file may have another
 * name by then, as all have that git makes.
 */
export function namelessCount(pid: number, directory: string): number {
  const hasNone = ({ path }: Descriptor) => statSync(path, { throwIfNoEntry: false })?.nlink === 0;
  return descriptors(pid).filter(
    (each) => each.target.startsWith(`${directory}/`) && each.target.endsWith(" (deleted)") && hasNone(each),
  ).length;
}

interface Descriptor {
  /** Below /proc. */
  readonly path: string;
  /** What it refers to; empty if it was closed meanwhile. */
  readonly target: string;
}

function descriptors(pid: number): Descriptor[] {
  const folder = `/proc/${pid}/fd`;
  return readdirSync(folder).map((fd) => {
    const path = join(folder, fd);
    try {
      return { path, target: readlinkSync(path) };
    } catch {
      return { path, target: "" };
    }
  });
}
