/**
 * Where a bench works: a temporary directory with the exported directory inside, the compiled C programs, and the scope that undoes it all.
 *
 * INVARIANT: everything a bench leaves on the machine is below `directory` or `lasting`, is a process of `scope`, or a mount of `scope`.
 */
import { existsSync, statSync } from "node:fs";
import { mkdir, mkdtemp, realpath, rm } from "node:fs/promises";
import { createServer } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { Daemon, run } from "./child.ts";
import type { LinkTarget } from "./link-connection.ts";
import { LinkProcess } from "./link-process.ts";
import { mountAt, unmount } from "./mounts.ts";
import type { Scope } from "./scope.ts";
import { figure } from "./statistics.ts";

/** The checkout the bench belongs to; this file runs from dist/scripts/bench. */
export const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
/** No single step of a bench takes this long; it ends a step that hangs. */
const STEP_MS_MAX = 15 * 60_000;

/** Two directions alike: half the round trip each way. */
export interface LinkShape {
  readonly roundTripMs: number;
  /** Bits per second; absent: no limit. */
  readonly rateBitsPerSecond?: number;
}

/** What a measured loop of load.c says; times in nanoseconds. */
export interface Measured {
  readonly count: number;
  readonly bytes: number;
  readonly elapsedNs: number;
  readonly p50Ns: number;
  readonly p99Ns: number;
}

export class Workbench {
  readonly scope: Scope;
  /** The temporary directory. */
  readonly directory: string;
  /** A temporary directory on a disk: `directory`, if that is on one. For what a server keeps on the disk whatever it serves. */
  readonly lasting: string;
  /** What every peer exports. */
  readonly shared: string;
  readonly #loadPath: string;
  readonly #links: LinkProcess[] = [];
  #warmCount = 0;
  #nameCount = 0;
  readonly relayPath: string;

  private constructor(
    scope: Scope,
    { directory, lasting }: { directory: string; lasting: string },
    tools: { load: string; relay: string },
  ) {
    this.scope = scope;
    this.directory = directory;
    this.lasting = lasting;
    this.shared = join(directory, "shared");
    this.#loadPath = tools.load;
    this.relayPath = tools.relay;
  }

  /** Makes one below `parent`, with a lasting directory below another. */
  static async create(scope: Scope, parent: string, lastingParent = parent): Promise<Workbench> {
    const tools = { load: await compile("load"), relay: await compile("relay") };
    const make = async (above: string): Promise<string> => {
      const directory = await realpath(await mkdtemp(join(above, "netdrive-bench-")));
      scope.defer(`removing ${directory}`, () => rm(directory, { recursive: true, force: true }));
      return directory;
    };
    const directory = await make(parent);
    const lasting = lastingParent === parent ? directory : await make(lastingParent);
    const bench = new Workbench(scope, { directory, lasting }, tools);
    await mkdir(bench.shared);
    return bench;
  }

  /** A name for files and folders of one peer: nobody else in this bench has it. Not a port, which is free again for the next one. */
  newName(kind: string): string {
    return `${kind}-${this.#nameCount++}`;
  }

  /** A path for a mount; what is mounted there at the end is taken away. */
  async mountPoint(name: string): Promise<string> {
    const path = join(this.directory, `mnt-${name}`);
    await mkdir(path);
    this.scope.defer(`unmounting ${path}`, async () => {
      if (mountAt(path) !== undefined) await unmount(path);
    });
    return path;
  }

  /** The address to dial for `target` over a link of this shape; the target itself without one. */
  async route(target: LinkTarget, link: LinkShape | undefined): Promise<LinkTarget> {
    if (link === undefined) return target;
    const process = await LinkProcess.start(target, [
      `delay ${link.roundTripMs / 2}`,
      `rate ${link.rateBitsPerSecond ?? "none"}`,
    ]);
    this.scope.defer("ending the link", () => process.close());
    this.#links.push(process);
    return process.address;
  }

  /** A sentence on what the links of this bench have cost themselves. */
  async linkCost(): Promise<string> {
    const stats = await Promise.all(this.#links.map((link) => link.stats()));
    const cpuS = stats.reduce((sum, each) => sum + each.cpuS, 0);
    const bytes = stats.reduce((sum, { up, down }) => sum + up.deliveredBytes + down.deliveredBytes, 0);
    return `The simulator of the link took ${figure((cpuS * 1e9) / bytes)} s of processor a GB itself.`;
  }

  /** Runs a loop of load.c in its own process. */
  async load(...words: (string | number)[]): Promise<Measured> {
    const options = { timeoutMs: STEP_MS_MAX, scope: this.scope, cwd: this.directory };
    return parseMeasured(await run(this.#loadPath, words.map(String), options));
  }

  /**
   * Does `work`, for which `bytes` of memory, or half of what is free, are cheap to take.
   *
   * A virtual machine hands memory that lies free back to its host and pays for every page it takes again: 0.8 s a GiB where this was found (an EPYC
   * in 2026), four times what writing it costs. Who was measured after a pause paid, and who followed another's large cache did not.
   */
  async withWarmMemory<T>(bytes: number, work: () => Promise<T>): Promise<T> {
    const logPath = join(this.directory, `warm-${this.#warmCount++}.log`);
    const args = ["warm", String(bytes)];
    const holder = new Daemon({ scope: this.scope, name: "load warm", command: this.#loadPath, args, logPath });
    try {
      await holder.until("memory", () => holder.output() !== "");
      return await work();
    } finally {
      await holder.stop();
    }
  }
}

/** Reads load.c's line of key=value; what is missing is 0. */
export function parseMeasured(line: string): Measured {
  const values = new Map<string, number>();
  for (const [, key = "", value] of line.matchAll(/(\w+)=(\d+)/g)) values.set(key, Number(value));
  const get = (key: string) => values.get(key) ?? 0;
  return {
    count: get("count"),
    bytes: get("bytes"),
    elapsedNs: get("elapsed_ns"),
    p50Ns: get("p50_ns"),
    p99Ns: get("p99_ns"),
  };
}

/** Builds scripts/bench/NAME.c with gcc -O2 unless the program is newer. @returns the program. */
async function compile(name: string): Promise<string> {
  const source = join(ROOT, "scripts/bench", `${name}.c`);
  const program = join(ROOT, "dist/bench", name);
  if (existsSync(program) && statSync(program).mtimeMs > statSync(source).mtimeMs) return program;
  await mkdir(join(ROOT, "dist/bench"), { recursive: true });
  await run(process.env["CC"] ?? "gcc", ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", program, source]);
  return program;
}

/** A TCP port of loopback that was free a moment ago, for programs that cannot say which one they took. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === "string") throw new Error("no port");
  return address.port;
}
