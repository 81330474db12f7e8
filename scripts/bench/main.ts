/**
 * Runs a bench with peers of its own and writes what it found to RESULTS.md.
 *
 *     npm run bench -- NAME [--runs N] [--quick] [--size MIB] [--peers a,b] [--directory DIR] [--json] [--no-save]
 *
 * Ctrl-C and failures end every process, mount and temporary file before the command returns.
 */
import { existsSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { systemClock } from "../../src/base/clock.ts";
import type { Bench, BenchContext } from "./bench.ts";
import { channelBench } from "./bench-channel.ts";
import { memoryBench } from "./bench-memory.ts";
import { metadataBench } from "./bench-metadata.ts";
import { pipelineBench } from "./bench-pipeline.ts";
import { randomBench } from "./bench-random.ts";
import { resumeCostBench } from "./bench-resume-cost.ts";
import { returnBench } from "./bench-return.ts";
import { roundTripBench } from "./bench-roundtrip.ts";
import { streamBench, streamMemoryBench } from "./bench-stream.ts";
import { wanBench } from "./bench-wan.ts";
import { describeMachine } from "./machine.ts";
import { toMarkdown } from "./report.ts";
import { saveSection } from "./results.ts";
import { Scope } from "./scope.ts";
import { ROOT, Workbench } from "./workbench.ts";

const BENCHES: readonly Bench[] = [
  metadataBench,
  streamBench,
  streamMemoryBench,
  randomBench,
  wanBench,
  pipelineBench,
  memoryBench,
  roundTripBench,
  resumeCostBench,
  returnBench,
  channelBench,
];
const RUN_COUNT = 5;
const MEMORY_DIRECTORY = "/dev/shm";

/** A mistake in how the command was called. */
class UsageError extends Error {}

function usage(): string {
  return [
    "usage: npm run bench -- NAME [--runs N] [--quick] [--size MIB] [--peers a,b] [--directory DIR] [--json] [--no-save]",
    "",
    ...BENCHES.map((bench) => `  ${bench.name.padEnd(12)} ${bench.summary}`),
    "",
    "--quick measures once with little data and saves nothing; --size changes how much data a bench moves.",
    "",
  ].join("\n");
}

function positive(text: string | undefined, option: string): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!Number.isInteger(value) || value < 1)
    throw new UsageError(`${option} wants a positive whole number, not '${text}'`);
  return value;
}

function parse(args: string[]) {
  const { values, positionals } = parseArgs({
    args,
    allowPositionals: true,
    options: {
      runs: { type: "string" },
      quick: { type: "boolean", default: false },
      size: { type: "string" },
      peers: { type: "string" },
      directory: { type: "string" },
      json: { type: "boolean", default: false },
      "no-save": { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  });
  const [name, ...rest] = positionals;
  if (values.help) return { help: true } as const;
  const bench = BENCHES.find((candidate) => candidate.name === name);
  if (bench === undefined) throw new UsageError(name === undefined ? "which bench?" : `there is no bench '${name}'`);
  if (rest.length > 0) throw new UsageError(`one bench at a time, not '${rest.join(" ")}' as well`);
  return {
    help: false,
    bench,
    runCount: positive(values.runs, "--runs") ?? (values.quick ? 1 : RUN_COUNT),
    quick: values.quick,
    sizeMib: positive(values.size, "--size"),
    peers: values.peers?.split(","),
    directory: values.directory,
    json: values.json,
    save: !values.quick && !values["no-save"],
  } as const;
}

/** How the command is written down: as someone else would type it. */
function commandLine(args: readonly string[]): string {
  return `npm run bench -- ${args.filter((arg) => arg !== "--json").join(" ")}`;
}

async function benchmark(scope: Scope, args: string[]): Promise<void> {
  const options = parse(args);
  if (options.help) {
    process.stdout.write(usage());
    return;
  }
  const inMemory = options.bench.place === "memory" && existsSync(MEMORY_DIRECTORY);
  const disk = options.directory ?? tmpdir();
  const place = options.directory === undefined && inMemory ? MEMORY_DIRECTORY : disk;
  const workbench = await Workbench.create(scope, place, disk);
  const context: BenchContext = {
    workbench,
    runCount: options.runCount,
    quick: options.quick,
    sizeMib: options.sizeMib,
    wants: (peer) => options.peers === undefined || options.peers.includes(peer),
    say: (text) => void process.stderr.write(`${text}\n`),
  };
  const report = await options.bench.run(context);
  const facts = {
    command: commandLine(args),
    machine: describeMachine(),
    date: new Date(systemClock.realtimeMs()).toISOString().slice(0, 10),
  };
  const text = toMarkdown(report, facts);
  if (options.json)
    process.stdout.write(`${JSON.stringify({ bench: options.bench.name, ...facts, ...report }, null, 2)}\n`);
  else process.stdout.write(`${report.title}\n\n${text}`);
  if (!options.save) return;
  const heading = `${options.bench.name}: ${report.title}`;
  await saveSection(join(ROOT, "scripts/bench/RESULTS.md"), heading, text);
}

async function main(): Promise<void> {
  const scope = new Scope();
  const interrupted = new Promise<never>((_, reject) => {
    for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
      process.once(signal, () => reject(new Error(`interrupted by ${signal}`)));
    }
  });
  const work = benchmark(scope, process.argv.slice(2));
  // When interrupted, the work fails as its processes are ended; that failure says nothing new.
  work.catch(() => {});
  try {
    await Promise.race([work, interrupted]);
  } finally {
    await scope.close();
  }
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
    if (error instanceof UsageError) process.stderr.write(usage());
    process.exit(1);
  },
);
