/** `channel`: calls and sections over a socket to a server whose FileSystem does nothing, without FUSE: what the protocol itself costs. */
import { type ChildProcess, fork } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import type { Name } from "../../src/base/name.ts";
import { connectRemote, type Remote } from "../../src/client/remote.ts";
import { OpenFlag, type RequestContext } from "../../src/vfs/file-system.ts";
import type { Bench, BenchContext } from "./bench.ts";
import type { Report } from "./report.ts";
import { figure, median } from "./statistics.ts";

const PROGRAM = fileURLToPath(new URL("./channel-server.js", import.meta.url));
const TOKEN = "a token for one bench";
const CALLS = 20_000;
const QUICK_CALLS = 2000;
const SIZE_MIB = 2048;
const QUICK_SIZE_MIB = 128;
const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const AT_ONCE = 32;
const SECTIONS_AT_ONCE = 4;
const SMALL_BYTES = 4096;

const ctx: RequestContext = { caller: { uid: 1000, gid: 1000, groups: [4, 24, 27, 1000], pid: 4321 } };

/** One figure of one run. */
interface Sample {
  readonly what: string;
  readonly unit: string;
  readonly value: number;
  /** CPU microseconds a call, or seconds a GiB, of client and server. */
  readonly clientCpu: number;
  readonly serverCpu: number;
}

class Rig {
  readonly #server: ChildProcess;
  readonly remote: Remote;
  readonly #samples: Sample[];

  constructor(server: ChildProcess, remote: Remote, samples: Sample[]) {
    this.#server = server;
    this.remote = remote;
    this.#samples = samples;
  }

  /** `count` calls, `atOnce` of them under way. */
  async calls(what: string, count: number, atOnce: number, call: () => Promise<unknown>): Promise<void> {
    const { seconds, client, server } = await this.#measure(() => repeat(count, atOnce, call));
    const microseconds = 1e6 / count;
    const [unit, value] =
      atOnce === 1 ? (["us", seconds * microseconds] as const) : (["call/s", count / seconds] as const);
    this.#samples.push({ what, unit, value, clientCpu: client * microseconds, serverCpu: server * microseconds });
  }

  /** `bytes` moved by calls of 1 MiB. */
  async data(what: string, bytes: number, call: (buffer: Buffer) => Promise<unknown>): Promise<void> {
    const buffers = Array.from({ length: SECTIONS_AT_ONCE }, () => Buffer.alloc(MIB, 1));
    let next = 0;
    const one = () => {
      next = (next + 1) % buffers.length;
      return call(buffers[next] as Buffer);
    };
    const { seconds, client, server } = await this.#measure(() => repeat(bytes / MIB, SECTIONS_AT_ONCE, one));
    const gib = bytes / GIB;
    this.#samples.push({
      what,
      unit: "GB/s",
      value: bytes / 1e9 / seconds,
      clientCpu: client / gib,
      serverCpu: server / gib,
    });
  }

  async #measure(work: () => Promise<void>): Promise<{ seconds: number; client: number; server: number }> {
    const serverBefore = await this.#serverCpu();
    const before = process.cpuUsage();
    const startMs = systemClock.monotonicMs();
    await work();
    const seconds = (systemClock.monotonicMs() - startMs) / 1000;
    const { user, system } = process.cpuUsage(before);
    return { seconds, client: (user + system) / 1e6, server: (await this.#serverCpu()) - serverBefore };
  }

  async #serverCpu(): Promise<number> {
    this.#server.send("cpu");
    const [usage] = (await once(this.#server, "message")) as [NodeJS.CpuUsage];
    return (usage.user + usage.system) / 1e6;
  }
}

async function repeat(count: number, atOnce: number, call: () => Promise<unknown>): Promise<void> {
  let left = count;
  const worker = async () => {
    while (left > 0) {
      left -= 1;
      await call();
    }
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
}

async function oneRun(context: BenchContext, rig: Rig): Promise<void> {
  const { fileSystem } = rig.remote;
  const count = context.quick ? QUICK_CALLS : CALLS;
  const bytes = (context.sizeMib ?? (context.quick ? QUICK_SIZE_MIB : SIZE_MIB)) * MIB;
  const { id } = await fileSystem.root(ctx);
  const { handle } = await fileSystem.open(ctx, id, OpenFlag.READ | OpenFlag.WRITE);
  const small = Buffer.alloc(SMALL_BYTES);
  await rig.calls("getattr", count, 1, () => fileSystem.getattr(ctx, id));
  await rig.calls("lookup of a missing name", count, 1, () =>
    fileSystem.lookup(ctx, id, "missing" as Name).catch(() => {}),
  );
  await rig.calls("open, release", count, 1, async () => {
    const opened = await fileSystem.open(ctx, id, OpenFlag.READ);
    await fileSystem.release(ctx, opened.handle);
  });
  await rig.calls("read of 4 KiB", count, 1, () => fileSystem.read(ctx, handle, 0, small));
  await rig.calls(`getattr, ${AT_ONCE} at once`, 4 * count, AT_ONCE, () => fileSystem.getattr(ctx, id));
  await rig.data("reads of 1 MiB", bytes, (buffer) => fileSystem.read(ctx, handle, 0, buffer));
  await rig.data("writes of 1 MiB", bytes, (buffer) => fileSystem.write(ctx, handle, 0, buffer));
  await fileSystem.release(ctx, handle);
}

async function run(context: BenchContext): Promise<Report> {
  const samples: Sample[] = [];
  const server = fork(PROGRAM, [TOKEN]);
  try {
    const [port] = (await once(server, "message")) as [number];
    const remote = await connectRemote({
      url: { token: Buffer.from(TOKEN), host: "127.0.0.1", port, share: "share" },
      log: createLog({ level: "warn", clock: systemClock }),
      clock: systemClock,
    });
    // One more than asked for: the first warms the compilers up.
    for (let round = 0; round <= context.runCount; round += 1) {
      if (round === 1) samples.length = 0;
      context.say(round === 0 ? "warming up" : `run ${round} of ${context.runCount}`);
      await oneRun(context, new Rig(server, remote, samples));
    }
    await remote.close();
  } finally {
    server.disconnect();
    await once(server, "exit");
  }
  return report(samples);
}

function report(samples: readonly Sample[]): Report {
  const names = [...new Set(samples.map(({ what }) => what))];
  const of = (what: string) => samples.filter((sample) => sample.what === what);
  const middle = (what: string, part: "value" | "clientCpu" | "serverCpu") =>
    median(of(what).map((sample) => sample[part]));
  return {
    title: "The protocol alone: calls and sections over a socket, no FUSE, no disk",
    notes: ["CPU in microseconds a call, and in seconds a GiB for data; one process each for client and server."],
    peers: ["netdrive, plain channels over loopback"],
    tables: [
      {
        caption: "",
        columns: ["", "median", "unit", "CPU client", "CPU server"],
        rows: names.map((what) => [
          what,
          figure(middle(what, "value")),
          of(what)[0]?.unit ?? "",
          figure(middle(what, "clientCpu")),
          figure(middle(what, "serverCpu")),
        ]),
      },
    ],
    goals: [
      { what: "getattr round trip", value: middle("getattr", "value"), must: 50, aim: 25, sense: "atMost", unit: "us" },
      {
        what: "reads of 1 MiB",
        value: middle("reads of 1 MiB", "value"),
        must: 0.7,
        aim: 1,
        sense: "atLeast",
        unit: "GB/s",
      },
    ],
    data: samples,
  };
}

export const channelBench: Bench = {
  name: "channel",
  summary: "round trips and throughput of the protocol alone, without FUSE and disk",
  place: "memory",
  run,
};
