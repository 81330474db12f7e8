/**
 * Child processes of a bench: each in a process group of its own, so that Ctrl-C reaches the bench alone, which then ends them in order by pid.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { systemClock, type Timer } from "../../src/base/clock.ts";
import type { Scope } from "./scope.ts";
import { hasChildren } from "./usage.ts";

/** What a program is given to end by itself. */
const GRACE_MS = 5000;
/** What its children are given before. */
const CHILDREN_MS = 1000;
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;

/** Settles after `ms`. */
export function pause(ms: number): Promise<void> {
  return new Promise((resolve) => void systemClock.after(ms, resolve, { keepAlive: true }));
}

/** Runs a program to its end. @returns its standard output. @throws when it fails, with what it said. */
export async function run(
  command: string,
  args: readonly string[],
  options: { cwd?: string; timeoutMs?: number; scope?: Scope } = {},
): Promise<string> {
  const child = spawn(command, args, { cwd: options.cwd, stdio: ["ignore", "pipe", "pipe"], detached: true });
  const done = options.scope?.defer(`ending ${command}`, () => void child.kill("SIGKILL"));
  const output: Buffer[] = [];
  const complaints: Buffer[] = [];
  let sizeBytes = 0;
  const collect = (into: Buffer[]) => (chunk: Buffer) => {
    sizeBytes += chunk.length;
    if (sizeBytes <= OUTPUT_BYTES_MAX) into.push(chunk);
  };
  child.stdout.on("data", collect(output));
  child.stderr.on("data", collect(complaints));
  let timer: Timer | undefined;
  if (options.timeoutMs !== undefined) timer = systemClock.after(options.timeoutMs, () => void child.kill("SIGKILL"));
  try {
    const [code, signal] = (await once(child, "close")) as [number | null, NodeJS.Signals | null];
    if (code === 0) return Buffer.concat(output).toString();
    const said = Buffer.concat(complaints).toString().trim();
    throw new Error(
      `${command} ${args.join(" ")} ended with ${signal ?? `code ${code}`}${said === "" ? "" : `: ${said}`}`,
    );
  } finally {
    timer?.stop();
    await done?.();
  }
}

/** A program that runs until it is stopped. */
export class Daemon {
  readonly name: string;
  readonly #child: ChildProcess;
  readonly #logPath: string;
  readonly #exited: Promise<void>;
  readonly #forget: () => Promise<void>;
  #hasExited = false;

  /** Starts it; what it says goes to `logPath`, of which an error message quotes the end. */
  constructor(options: {
    scope: Scope;
    name: string;
    command: string;
    args: readonly string[];
    logPath: string;
    env?: NodeJS.ProcessEnv;
    cwd?: string;
  }) {
    this.name = options.name;
    this.#logPath = options.logPath;
    const log = openSync(options.logPath, "a");
    this.#child = spawn(options.command, options.args, {
      stdio: ["ignore", log, log],
      detached: true,
      env: { ...process.env, ...options.env },
      cwd: options.cwd,
    });
    closeSync(log);
    this.#exited = new Promise((resolve) => {
      const settle = () => {
        this.#hasExited = true;
        resolve();
      };
      this.#child.once("exit", settle);
      this.#child.once("error", settle);
    });
    this.#forget = options.scope.defer(`ending ${options.name}`, () => this.#end());
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** Everything it has said so far. */
  output(): string {
    return readFileSync(this.#logPath, "utf8");
  }

  /** Waits until `ready` says yes, looking every few milliseconds. @throws when the program ends first or it takes too long. */
  async until(what: string, ready: () => boolean | Promise<boolean>, timeoutMs = 20_000): Promise<void> {
    const endMs = systemClock.monotonicMs() + timeoutMs;
    while (!(await ready())) {
      const said = () => this.output().trim().split("\n").slice(-5).join("\n");
      if (this.#hasExited) throw new Error(`${this.name} ended before ${what}: ${said()}`);
      if (systemClock.monotonicMs() > endMs) throw new Error(`${this.name}: no ${what} in ${timeoutMs} ms: ${said()}`);
      await pause(10);
    }
  }

  /** Waits for its end, at most `timeoutMs`. @returns whether it has ended. */
  async ended(timeoutMs: number): Promise<boolean> {
    let timer: Timer | undefined;
    const late = new Promise<void>((resolve) => {
      timer = systemClock.after(timeoutMs, resolve, { keepAlive: true });
    });
    await Promise.race([this.#exited, late]);
    timer?.stop();
    return this.#hasExited;
  }

  /** SIGTERM, then SIGKILL if that does not help. */
  stop(): Promise<void> {
    return this.#forget();
  }

  async #end(): Promise<void> {
    if (this.#hasExited) return;
    // A server that starts a process a connection must outlive them: they end with their connections, and nobody else waits for them.
    for (let waitedMs = 0; waitedMs < CHILDREN_MS && hasChildren(this.pid); waitedMs += 20) await pause(20);
    this.#child.kill("SIGTERM");
    if (await this.ended(GRACE_MS)) return;
    this.#child.kill("SIGKILL");
    await this.#exited;
  }
}
