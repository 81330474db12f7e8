/**
 * Programs run by tests: commands that are waited for, and servers that live as long as a test.
 *
 * Nothing outlives the test process: what still runs when it exits is killed.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { systemClock } from "../../src/base/clock.ts";

const services = new Set<ChildProcess>();
/** Each leads a process group. */
const commands = new Set<ChildProcess>();

process.on("exit", () => {
  for (const child of services) child.kill("SIGKILL");
  for (const child of commands) killGroup(child);
});

// A test process that is told to go cleans up as one that ends.
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) process.once(signal, () => process.exit(1));

/** How long a server may take to say that it is ready, and to end when it is told to. */
const READY_MS = 20_000;
const END_MS = 15_000;
const COMMAND_MS = 120_000;
const OUTPUT_CHARS_MAX = 64 << 20;

export interface CommandOptions {
  cwd?: string;
  env?: NodeJS.ProcessEnv;
  input?: string;
  uid?: number;
  gid?: number;
  timeoutMs?: number;
  /** Exit codes that are not a failure; 0 if absent. */
  codes?: readonly number[];
}

/** What a command printed, and its exit code. */
export interface CommandResult {
  stdout: string;
  stderr: string;
  code: number;
}

/**
 * A program in a directory, entered by the child after it is a program of its own: spawn's `cwd` holds up this process until the child is there, for ever
 * if the directory is on a drive whose server this process is about to start.
 */
function startedIn(cwd: string | undefined, program: string, args: readonly string[]): [string, readonly string[]] {
  return cwd === undefined ? [program, args] : ["env", ["--chdir", cwd, program, ...args]];
}

/** Ends a program and all that it started, which share its process group. */
function killGroup(child: ChildProcess): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, "SIGKILL");
  } catch {
    // All of them have ended.
  }
}

/** Runs a program to its end. Rejects, with everything it printed, if it fails or takes too long: then all that it started is killed. */
export async function command(
  program: string,
  args: readonly string[],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const { input = "", codes = [0], timeoutMs = COMMAND_MS, cwd, ...rest } = options;
  // Not execFile, which makes no process group.
  const child = spawn(...startedIn(cwd, program, args), { ...rest, detached: true });
  commands.add(child);
  const deadline = systemClock.after(timeoutMs, () => killGroup(child), { keepAlive: true });
  const output = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (chunk: string) => {
      output[name] += chunk;
      if (output[name].length > OUTPUT_CHARS_MAX) killGroup(child);
    });
  }
  child.stdin.on("error", () => undefined);
  child.stdin.end(input);
  const [code, how] = await new Promise<[number | null, string]>((resolve) => {
    child.once("error", (error) => resolve([null, error.message]));
    child.once("close", (exit, signal) => resolve([exit, signal ?? `code ${exit}`]));
  });
  deadline.stop();
  commands.delete(child);
  if (code !== null && codes.includes(code)) return { ...output, code };
  const limit = code === null ? ` (it may take ${timeoutMs} ms)` : "";
  const said = `${output.stdout.slice(-4000)}\n${output.stderr.slice(-4000)}`;
  throw new Error(`${program} ${args.join(" ")}: ${how}${limit}\n${said}`);
}

/** Runs a shell script that stops at the first failure. */
export async function shell(script: string, options: CommandOptions = {}): Promise<CommandResult> {
  return command("bash", ["--norc", "-euo", "pipefail", "-c", script], options);
}

/** A program that runs until it is ended. */
export interface Service {
  readonly pid: number;
  readonly process: ChildProcess;
  /** The first line on standard output. Rejects if the program ends before, or takes too long. */
  readonly firstLine: Promise<string>;
  /** Resolves with the exit code or signal. */
  readonly exited: Promise<number | NodeJS.Signals | null>;
  /** Rejects, with what it said, if it ends before `end` was called. Never resolves. */
  readonly crashed: Promise<never>;
  /** Settles when it has printed this line. Rejects if it ends before; without a time limit of its own. */
  line(text: string): Promise<void>;
  /** Writes to its standard input, where it has one. */
  tell(text: string): void;
  /** All that it printed on standard error so far. */
  errors(): string;
  /** Asks it to end and waits; kills it if it does not. */
  end(signal?: NodeJS.Signals): Promise<number | NodeJS.Signals | null>;
}

/** Starts a program. The caller awaits `firstLine` or `exited`. */
export function startService(
  program: string,
  args: readonly string[],
  options: { env?: NodeJS.ProcessEnv; cwd?: string; uid?: number; gid?: number; hasInput?: boolean } = {},
): Service {
  const { hasInput = false, cwd, ...settings } = options;
  const child = spawn(...startedIn(cwd, program, args), {
    ...settings,
    stdio: [hasInput ? "pipe" : "ignore", "pipe", "pipe"],
  });
  if (child.stdout === null || child.stderr === null) throw new Error("pipes were asked for");
  const { stdout } = child;
  let output = "";
  let onOutput = () => {};
  services.add(child);
  let errors = "";
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    errors = (errors + chunk).slice(-100_000);
  });
  const exited = once(child, "exit").then(([code, signal]) => {
    services.delete(child);
    return (code ?? signal) as number | NodeJS.Signals | null;
  });
  const firstLine = new Promise<string>((resolve, reject) => {
    const fail = (reason: string) => reject(new Error(`${program} ${args.join(" ")}: ${reason}\n${errors}`));
    const deadline = systemClock.after(READY_MS, () => fail(`not ready within ${READY_MS} ms`), { keepAlive: true });
    stdout.setEncoding("utf8").on("data", (chunk: string) => {
      output += chunk;
      const end = output.indexOf("\n");
      if (end < 0) return;
      deadline.stop();
      resolve(output.slice(0, end));
      onOutput();
    });
    child.on("error", (error) => fail(error.message));
    child.on("close", (code, signal) => {
      deadline.stop();
      fail(`ended with ${signal ?? code}`);
    });
  });
  let isAsked = false;
  const crashed = new Promise<never>((_, reject) => {
    // Not its exit: what it said last may come behind.
    child.once("close", (code, signal) => {
      if (!isAsked)
        reject(new Error(`${program} ${args.join(" ")}: ended by itself, with ${signal ?? code}\n${errors}`));
    });
  });
  crashed.catch(() => undefined);
  // Whoever does not wait for the line is told of the end by `exited`.
  firstLine.catch(() => undefined);
  return {
    pid: child.pid ?? -1,
    process: child,
    firstLine,
    exited,
    crashed,
    errors: () => errors,
    async line(text) {
      const closed = once(stdout, "close");
      while (!output.split("\n").includes(text)) {
        if (stdout.destroyed) throw new Error(`${program} ended without '${text}'\n${errors}`);
        const more = new Promise<void>((resolve) => {
          onOutput = resolve;
        });
        await Promise.race([more, closed]);
      }
    },
    tell: (text) => void child.stdin?.write(text),
    async end(signal = "SIGTERM") {
      isAsked = true;
      const deadline = systemClock.after(END_MS, () => child.kill("SIGKILL"), { keepAlive: true });
      child.kill(signal);
      const how = await exited;
      deadline.stop();
      return how;
    },
  };
}
