/**
 * A process that mounts a MemoryFs: `serve-memory.js PATH [JSON of mount options]`. Says one line of JSON when it is mounted and one when it
 * has ended; SIGTERM unmounts. Tests and benches do their I/O in other processes.
 */
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { mountFuse } from "../../src/fuse/mount.ts";
import { MemoryFs } from "./memory-fs.ts";

const [path = "", settings = "{}"] = process.argv.slice(2);
const fileSystem = new MemoryFs();
const log = createLog({ level: "warn", clock: systemClock, room: "fuse" });
try {
  const mountOptions = JSON.parse(settings);
  const mount = await mountFuse({ fileSystem, path, source: "memory", log, clock: systemClock, mountOptions });
  process.once("SIGTERM", () => void mount.unmount().catch((cause: unknown) => log.error("unmount", cause)));
  process.on("SIGUSR2", () => process.stdout.write(`${JSON.stringify(mount.counters())}\n`));
  process.stdout.write(`${JSON.stringify({ mounted: path })}\n`);
  await mount.ended;
  process.stdout.write(`${JSON.stringify({ ...mount.counters(), ended: true, leftOpen: fileSystem.openCount })}\n`);
} catch (cause) {
  process.stdout.write(`${JSON.stringify({ failed: String(cause) })}\n`);
  process.exitCode = 1;
}
