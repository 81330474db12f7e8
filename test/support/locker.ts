/**
 * A process that locks, reads and writes as a test tells it (locker.c), in a directory: a mount, or beside one.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { systemClock } from "../../src/base/clock.ts";
import { command } from "./child.ts";
import { makeTemp } from "./temp.ts";

const SOURCE = fileURLToPath(new URL("../../../test/support/locker.c", import.meta.url));
const ANSWER_MS_MAX = 30_000;

let built: Promise<string> | undefined;

/** The program, compiled once a test process. */
async function program(): Promise<string> {
  built ??= (async () => {
    // Removed when the process ends.
    const output = join(makeTemp("locker").path, "locker");
    await command("gcc", ["-O1", "-Wall", "-Werror", "-o", output, SOURCE]);
    return output;
  })();
  return built;
}

export interface Locker extends AsyncDisposable {
  readonly pid: number;
  /** Tells it a line of commands and waits for the answer, without "ok ". */
  tell(line: string): Promise<string>;
  /** The same for a command that is to wait: settled as soon as it does not. */
  ask(line: string): { readonly answer: Promise<string>; readonly isSettled: boolean };
  signal(signal: NodeJS.Signals): void;
  /** Kills it and waits until it is gone. */
  kill(): Promise<void>;
}

/** Starts one in `directory`. An answer that does not come within `answerMsMax` is the end of it. */
export async function startLocker(directory: string, { answerMsMax = ANSWER_MS_MAX } = {}): Promise<Locker> {
  const child = spawn(await program(), [], { cwd: directory, stdio: ["pipe", "pipe", "inherit"] });
  child.stdin.on("error", () => {}); // It was killed.
  const answers: ((answer: string) => void)[] = [];
  createInterface({ input: child.stdout }).on("line", (line) => answers.shift()?.(line));
  const exited = once(child, "exit").then(() => {
    for (const answer of answers.splice(0)) answer("gone");
  });
  const next = () => new Promise<string>((resolve) => answers.push(resolve));
  const pid = Number((await next()).slice(3));
  const tell = async (line: string) => {
    child.stdin.write(`${line}\n`);
    const isBounded = Number.isFinite(answerMsMax);
    const deadline = isBounded
      ? systemClock.after(answerMsMax, () => child.kill("SIGKILL"), { keepAlive: true })
      : undefined;
    const answer = await next();
    deadline?.stop();
    return answer.startsWith("ok ") ? answer.slice(3) : answer;
  };
  return {
    pid,
    tell,
    ask(line) {
      const asked = { answer: tell(line), isSettled: false };
      void asked.answer.then(() => {
        asked.isSettled = true;
      });
      return asked;
    },
    signal: (signal) => void child.kill(signal),
    kill: () => end(child, exited),
    [Symbol.asyncDispose]: () => end(child, exited),
  };
}

async function end(child: ChildProcess, exited: Promise<void>): Promise<void> {
  child.kill("SIGKILL");
  await exited;
}
