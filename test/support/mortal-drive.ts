/**
 * A drive of processes whose server can be killed, ended and started again at its address, with what it had written down.
 */
import { join } from "node:path";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { openLevelStore } from "../../src/server/state/level-store.ts";
import { type KeyParts, partsOfKey } from "../../src/server/state/records.ts";
import type { Service } from "./child.ts";
import { type Drive, type DriveOptions, startDrive, startServe } from "./drive.ts";
import { makeTemp } from "./temp.ts";

export interface MortalDrive extends Drive {
  /** The server, the last one that was started. */
  readonly server: Service;
  /** Rejects when a server ends that nobody has killed or ended: whoever waits for something on the drive would wait for ever. Never resolves. */
  readonly crashed: Promise<never>;
  /** Kills the server as it is. */
  kill(): Promise<void>;
  /** Starts it again. Rejects if it does not start. */
  start(): Promise<void>;
  /** Ends mount and server, and reads what the server has written down. @returns how many records of each kind. */
  remains(): Promise<Partial<Record<KeyParts["of"] | "unknown", number>>>;
}

/**
 * Ports from below those that the kernel gives to whoever asks for any: while the server is dead nobody else gets its port, and no client that tries to
 * reach it can by chance connect to itself.
 */
const PORTS_FIRST = 12_000;
const PORT_COUNT = 20_000;

export async function startMortalDrive(options: Omit<DriveOptions, "serve" | "directory"> = {}): Promise<MortalDrive> {
  const temp = makeTemp("state");
  const listen = `127.0.0.1:${PORTS_FIRST + (process.pid % PORT_COUNT)}`;
  const state = join(temp.path, "state");
  const args = ["--state", state, "--listen", listen];
  const drive = await startDrive({ ...options, serve: args }).catch(async (error: unknown) => {
    await temp.remove();
    throw error;
  });
  let onCrash: (error: unknown) => void = () => {};
  const crashed = new Promise<never>((_, reject) => {
    onCrash = reject;
  });
  crashed.catch(() => undefined);
  let { service } = drive.served;
  service.crashed.catch(onCrash);
  const close = async () => {
    await drive.mounted.close();
    await service.end();
    await drive.close();
    await temp.remove();
  };
  return {
    ...drive,
    crashed,
    get server() {
      return service;
    },
    async kill() {
      await service.end("SIGKILL");
    },
    async start() {
      ({ service } = await startServe(drive.directory, "--squash", "none", ...args));
      service.crashed.catch(onCrash);
    },
    async remains() {
      await drive.mounted.close();
      await service.end();
      return recordCounts(join(state, "state"));
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

async function recordCounts(folder: string): ReturnType<MortalDrive["remains"]> {
  const log = createLog({ level: "warn", clock: systemClock });
  const { store, records } = await openLevelStore({ folder, durability: "process", clock: systemClock, log });
  await store.close();
  const counts: Awaited<ReturnType<MortalDrive["remains"]>> = {};
  for (const key of records.keys()) {
    const of = partsOfKey(key)?.of ?? "unknown";
    counts[of] = (counts[of] ?? 0) + 1;
  }
  return counts;
}
