/**
 * A file system mounted by a process of its own, for tests of the driver with real programs.
 *
 * Whatever happens, `end` leaves no mount and no process: a mount that does not go when its process is asked to is aborted and detached.
 */
import { type ChildProcess, execFile, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { systemClock } from "../../src/base/clock.ts";
import type { SessionCounters } from "../../src/fuse/session.ts";
import { findMount } from "../../src/sys/fuse-mount.ts";
import { makeTemp } from "../support/temp.ts";
import type { StackOptions } from "./serve-stack.ts";

const SERVER = fileURLToPath(new URL("serve-stack.js", import.meta.url));
const PROGRAM_MS_MAX = 60_000;
const END_MS_MAX = 20_000;

export interface ServerEnd extends SessionCounters {
  ended: true;
  /** Opens the file system still had. */
  leftOpen: number;
}

export interface Mounted {
  readonly path: string;
  readonly process: ChildProcess;
  /** Runs a bash script, with the mount as working directory's name in $M. Rejects if it fails. */
  shell(script: string): Promise<string>;
  counters(): Promise<SessionCounters>;
  /** What the server said last; settles when it has ended by itself or by `end`. */
  readonly ended: Promise<ServerEnd>;
  end(): Promise<ServerEnd>;
}

/** Runs a program to its end, and returns what it printed. */
export async function run(program: string, args: string[], options: { uid?: number; gid?: number; cwd?: string } = {}) {
  const { stdout } = await promisify(execFile)(program, args, {
    ...options,
    timeout: PROGRAM_MS_MAX,
    killSignal: "SIGKILL",
    maxBuffer: 64 << 20,
  });
  return stdout;
}

/** Mounts what `stack` says, by default a MemoryFs. */
export async function mountStack(stack: StackOptions = {}): Promise<Mounted> {
  const temp = makeTemp("fuse");
  const path = join(temp.path, "mnt");
  mkdirSync(path);
  const server = spawn(process.execPath, ["--enable-source-maps", SERVER, path, JSON.stringify(stack)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const lines = createInterface({ input: server.stdout });
  const said: unknown[] = [];
  const waiting: ((line: unknown) => void)[] = [];
  lines.on("line", (text) => {
    const line = JSON.parse(text);
    const next = waiting.shift();
    if (next === undefined) said.push(line);
    else next(line);
  });
  const nextLine = async (): Promise<unknown> =>
    said.length > 0 ? said.shift() : new Promise((resolve) => waiting.push(resolve));
  const exited = once(server, "exit");
  const first = await Promise.race([nextLine(), exited.then(() => ({ failed: "the server ended" }))]);
  if (!Object.hasOwn(first as object, "mounted")) {
    await exited;
    await temp.remove();
    throw new Error(JSON.stringify(first));
  }
  const ended = (async () => {
    await exited;
    await temp.remove();
    return said.pop() as ServerEnd;
  })();
  return {
    path,
    process: server,
    ended,
    shell: (script) => run("bash", ["-euo", "pipefail", "-c", `M=${path}; cd "$M"; ${script}`]),
    async counters() {
      const line = nextLine();
      server.kill("SIGUSR2");
      return (await line) as SessionCounters;
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

async function forceEnd(path: string, server: ChildProcess): Promise<void> {
  const mounted = await findMount(path);
  if (mounted !== undefined) {
    writeFileSync(`/sys/fs/fuse/connections/${mounted.deviceMinor}/abort`, "1");
    spawnSync("umount", ["-l", path]);
  }
  server.kill("SIGKILL");
}
