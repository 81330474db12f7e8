/**
 * A file system mounted by a process of its own, for tests of the driver with real programs.
 *
 * Whatever happens, `end` leaves no mount and no process: a mount that does not go when its process is asked to is aborted and detached.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { systemClock } from "../../src/base/clock.ts";
import type { SessionCounters } from "../../src/fuse/session.ts";
import { findMount } from "../../src/sys/fuse-mount.ts";
import { shell } from "../support/child.ts";
import { makeTemp } from "../support/temp.ts";
import type { StackOptions } from "./serve-stack.ts";

const SERVER = fileURLToPath(new URL("serve-stack.js", import.meta.url));
const END_MS_MAX = 20_000;

export interface ServerEnd extends SessionCounters {
  ended: true;
  /** Opens a MemoryFs still had. */
  leftOpen: number;
  /** Descriptors the server still had, beyond those at its start. */
  leftDescriptors: number;
}

export interface Mounted {
  readonly path: string;
  readonly process: ChildProcess;
  /** Runs a bash script in the mount; $M is its path. Rejects if it fails. */
  shell(script: string): Promise<string>;
  counters(): Promise<SessionCounters>;
  /** What the server said last; settles when it has ended by itself or by `end`. */
  readonly ended: Promise<ServerEnd | undefined>;
  end(): Promise<ServerEnd | undefined>;
}

/** Starts a server for `stack` at `path`; `wrap` may put another program before it. */
export function startServer(path: string, stack: StackOptions, wrap = (command: string[]) => command) {
  const command = wrap([process.execPath, "--enable-source-maps", SERVER, path, JSON.stringify(stack)]);
  const server = spawn(command[0] as string, command.slice(1), { stdio: ["ignore", "pipe", "inherit"], cwd: "/" });
  const said: object[] = [];
  const waiting: ((line: object) => void)[] = [];
  const lines = createInterface({ input: server.stdout }).on("line", (text) => {
    const next = waiting.shift();
    if (next === undefined) said.push(JSON.parse(text));
    else next(JSON.parse(text));
  });
  const silence = { failed: "the server ended without a word" };
  let hasEnded = false;
  const exited = Promise.all([once(server, "close"), once(lines, "close")]).then(() => {
    hasEnded = true;
    for (const resolve of waiting.splice(0)) resolve(silence);
  });
  const nextLine = async (): Promise<object> => {
    const line = said.shift();
    if (line !== undefined) return line;
    return hasEnded ? silence : new Promise<object>((resolve) => waiting.push(resolve));
  };
  return { server, nextLine, exited };
}

/** Mounts what `stack` says, by default a MemoryFs. */
export async function mountStack(stack: StackOptions = {}): Promise<Mounted> {
  const temp = makeTemp("fuse");
  const path = join(temp.path, "mnt");
  mkdirSync(path);
  const { server, nextLine, exited } = startServer(path, stack);
  const first = await nextLine();
  if (!("mounted" in first)) {
    await exited;
    await temp.remove();
    throw new Error(JSON.stringify(first));
  }
  const ended = (async () => {
    await exited;
    const last = await nextLine();
    await temp.remove();
    return "ended" in last ? (last as ServerEnd) : undefined;
  })();
  return {
    path,
    process: server,
    ended,
    shell: async (script) => (await shell(`M=${path}; cd "$M"; ${script}`, { cwd: "/" })).stdout,
    async counters() {
      server.kill("SIGUSR2");
      return (await nextLine()) as SessionCounters;
    },
    async end() {
      const deadline = systemClock.after(END_MS_MAX, () => void forceEnd(path, server), { keepAlive: true });
      server.kill("SIGTERM");
      try {
        return await ended;
      } finally {
        deadline.stop();
      }
    },
  };
}

/** Ends a server and its mount for certain. */
export async function forceEnd(path: string, server: ChildProcess): Promise<void> {
  const mounted = await findMount(path);
  if (mounted !== undefined) {
    // Forced, it aborts the connection even if it fails.
    spawnSync("umount", ["-f", path]);
    spawnSync("umount", ["-l", path]);
  }
  server.kill("SIGKILL");
}
