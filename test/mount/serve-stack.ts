/**
 * A process that mounts a file system: `serve-stack.js PATH JSON`, the JSON of StackOptions. Tests and benches do their I/O in other processes.
 *
 * It says one line of JSON when it is mounted, one at each SIGUSR2 (counters) and one when it has ended. SIGTERM unmounts.
 */
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { createDisk } from "../../src/disk/disk.ts";
import { type FuseMountOptions, mountFuse } from "../../src/fuse/mount.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";

export interface StackOptions {
  /** Serve this directory; without it a MemoryFs. */
  directory?: string;
  /** The disk acts as its callers. */
  applyCredentials?: boolean;
  mountOptions?: Partial<FuseMountOptions>;
}

const [path = "", json = "{}"] = process.argv.slice(2);
const { directory, applyCredentials = false, mountOptions = {} } = JSON.parse(json) as StackOptions;
const log = createLog({ level: "warn", clock: systemClock, room: "fuse" });
const say = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`);
try {
  const memory = new MemoryFs();
  const disk = directory === undefined ? undefined : await createDisk({ directory, applyCredentials, log });
  const fileSystem = disk ?? memory;
  const source = directory ?? "memory";
  const mount = await mountFuse({ fileSystem, path, source, log, clock: systemClock, mountOptions });
  process.once("SIGTERM", () => void mount.unmount().catch((cause: unknown) => log.error("unmount", cause)));
  process.on("SIGUSR2", () => say(mount.counters()));
  say({ mounted: path });
  await mount.ended;
  // Releases follow the last reply.
  await new Promise((resolve) => setImmediate(resolve));
  say({ ...mount.counters(), ended: true, leftOpen: memory.openCount, disk: disk?.counters() });
  await fileSystem.close();
} catch (cause) {
  say({ failed: String(cause) });
  process.exitCode = 1;
}
