/**
 * What a server remembers beyond its process, in its `--state` folder: opened before it serves, so that nobody is answered by a server that has forgotten.
 */
import { mkdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Clock } from "../base/clock.ts";
import { FsError } from "../base/errors.ts";
import { type Log, printable } from "../base/log.ts";
import type { ServerMemory } from "../server/server.ts";
import { openLevelStore } from "../server/state/level-store.ts";
import { LifeStamp } from "../server/state/life-stamp.ts";
import type { Durability } from "../server/state/state-store.ts";
import { Exit, failure } from "./failure.ts";
import { keepFile, replaceFile } from "./kept-file.ts";

/** @see proc_sys_kernel(5) */
const HOST_BOOT_ID = "/proc/sys/kernel/random/boot_id";
/** In the state folder: the start of the machine that the server was last started in. */
const BOOT_FILE = "boot-id";

/**
 * Opens the state store below `stateFolder`, which is made if it is not there.
 *
 * @throws CommanderError PATH the folder cannot be used, or another server uses it.
 */
export async function openMemory(options: {
  stateFolder: string;
  durability: Durability;
  clock: Clock;
  log: Log;
}): Promise<ServerMemory> {
  const { stateFolder, durability, clock, log } = options;
  const shown = printable(stateFolder);
  const folder = join(stateFolder, "state");
  try {
    mkdirSync(stateFolder, { recursive: true, mode: 0o700 });
    noteBoot(options);
    const { store, records } = await openLevelStore({ folder, durability, clock, log: log.room("state") });
    return { store, records, durability, life: new LifeStamp(folder, clock), hostBootId: hostBootId() };
  } catch (cause) {
    if (cause instanceof FsError && cause.errno === "EBUSY") {
      throw failure(Exit.PATH, `another server uses --state ${shown}; give each server a folder of its own`);
    }
    throw failure(Exit.PATH, `--state ${shown} cannot be used: ${printable((cause as Error).message)}`);
  }
}

/** Says what a restart of the machine means for what was kept. It is noted beside the store, which may have lost even that. */
function noteBoot({ stateFolder, durability, log }: { stateFolder: string; durability: Durability; log: Log }): void {
  const file = join(stateFolder, BOOT_FILE);
  const bootId = hostBootId();
  const before = keepFile(file, () => bootId);
  if (before === bootId) return;
  replaceFile(file, bootId);
  const kept =
    durability === "power"
      ? "what clients had open is kept"
      : "what clients had open may be lost if it was not shut down (--durability power keeps it)";
  log.warn(
    `this machine was started again since the server before: ${kept}; data that was not synced is EIO at the next fsync`,
  );
}

/** Empty where the system does not say. */
function hostBootId(): string {
  try {
    return readFileSync(HOST_BOOT_ID, "utf8").trim();
  } catch {
    return "";
  }
}
