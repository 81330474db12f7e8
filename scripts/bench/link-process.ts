/**
 * The link simulator in a child process, so that its CPU time and its pauses are its own.
 *
 * INVARIANT: the child ends with its standard input, so it never outlives the process that started it.
 */
import { type ChildProcessByStdio, spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface, type Interface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { fileURLToPath } from "node:url";
import type { LinkStats, LinkWay } from "./link.ts";
import type { LinkTarget } from "./link-connection.ts";
import type { LinkTroublePlan } from "./link-schedule.ts";

const PROGRAM = fileURLToPath(new URL("./link-main.js", import.meta.url));

export class LinkProcess {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;
  readonly #reader: Interface;
  #address: LinkTarget | undefined;
  #turn: Promise<unknown> = Promise.resolve();

  private constructor(child: ChildProcessByStdio<Writable, Readable, null>) {
    this.#child = child;
    this.#reader = createInterface({ input: child.stdout });
    this.#lines = this.#reader[Symbol.asyncIterator]();
  }

  /** Starts a link to `target`. `commands` (see link-main.ts) are obeyed before the first connection. */
  static async start(target: LinkTarget, commands: readonly string[] = []): Promise<LinkProcess> {
    const child = spawn(process.execPath, [PROGRAM, `${target.host}:${target.port}`, ...commands], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const link = new LinkProcess(child);
    link.#address = (await link.#answer()) as LinkTarget;
    return link;
  }

  /** Where clients connect. */
  get address(): LinkTarget {
    if (this.#address === undefined) throw new Error("the link is not up");
    return this.#address;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async setDelay(delayMs: number, way?: LinkWay): Promise<void> {
    await this.#command(`delay ${delayMs} ${way ?? ""}`);
  }

  async setRate(bitsPerSecond: number, way?: LinkWay): Promise<void> {
    await this.#command(`rate ${bitsPerSecond === Number.POSITIVE_INFINITY ? "none" : bitsPerSecond} ${way ?? ""}`);
  }

  async stall(durationMs: number, way?: LinkWay): Promise<void> {
    await this.#command(`stall ${durationMs} ${way ?? ""}`);
  }

  async freeze(): Promise<void> {
    await this.#command("freeze");
  }

  async thaw(): Promise<void> {
    await this.#command("thaw");
  }

  async cut(): Promise<void> {
    await this.#command("cut");
  }

  async refuse(refusing: boolean): Promise<void> {
    await this.#command(`refuse ${refusing ? "on" : "off"}`);
  }

  async trouble(plan: LinkTroublePlan | undefined): Promise<void> {
    await this.#command(`trouble ${plan === undefined ? "off" : JSON.stringify(plan)}`);
  }

  /** Counters, and the CPU seconds the simulator itself has used. */
  async stats(): Promise<LinkStats & { cpuS: number }> {
    return (await this.#command("stats")) as LinkStats & { cpuS: number };
  }

  async close(): Promise<void> {
    const exited =
      this.#child.exitCode === null && this.#child.signalCode === null ? once(this.#child, "exit") : undefined;
    this.#child.stdin.end();
    await exited;
    this.#reader.close();
  }

  /** Answers come in the order of the commands. */
  #command(line: string): Promise<object> {
    const answered = this.#turn.then(async () => {
      this.#child.stdin.write(`${line}\n`);
      return this.#answer();
    });
    // A failed command is its caller's; the next one still has its turn.
    this.#turn = answered.catch(() => {});
    return answered;
  }

  async #answer(): Promise<object> {
    const { value, done } = await this.#lines.next();
    if (done === true) throw new Error("the link simulator has ended");
    const answer = JSON.parse(value as string) as { error?: string };
    if (answer.error !== undefined) throw new Error(`link simulator: ${answer.error}`);
    return answer;
  }
}
