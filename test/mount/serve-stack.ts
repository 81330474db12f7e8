/**
 * A process that mounts a file system: `serve-stack.js PATH JSON`, the JSON of StackOptions. Tests and benches do their I/O in other processes.
 *
 * It says one line of JSON when it is mounted, one at each SIGUSR2 (counters) and one when it has ended. SIGTERM unmounts.
 */
import { readdirSync, readlinkSync } from "node:fs";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { raceSignal } from "../../src/base/signals.ts";
import { createDisk } from "../../src/disk/disk.ts";
import { type FuseMountOptions, mountFuse } from "../../src/fuse/mount.ts";
import { NO_ATTR } from "../../src/vfs/attr.ts";
import type { FileSystem, RequestContext } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";

export interface StackOptions {
  /** Serve this directory; without it a MemoryFs. */
  directory?: string;
  /** The disk acts as its callers. */
  applyCredentials?: boolean;
  /** Names that begin with "hang" are never found, and nothing behind HANGING_OFFSET is ever read, until the request is aborted. */
  hangs?: boolean;
  /** Every lock can be had, and every file has changed since. */
  locks?: boolean;
  mountOptions?: Partial<FuseMountOptions>;
}

/** 1 MiB. */
const HANGING_OFFSET = 1 << 20;

function hanging(fileSystem: FileSystem): FileSystem {
  return new Proxy(fileSystem, {
    get(target, method) {
      const value = Reflect.get(target, method);
      if (method === "lookup") {
        return (ctx: RequestContext, parent: never, name: string) =>
          name.startsWith("hang")
            ? raceSignal(new Promise(() => {}), ctx.signal)
            : target.lookup(ctx, parent, name as never);
      }
      if (method === "read") {
        return (ctx: RequestContext, handle: never, offsetBytes: number, buffer: Buffer) =>
          offsetBytes >= HANGING_OFFSET
            ? raceSignal(new Promise(() => {}), ctx.signal)
            : target.read(ctx, handle, offsetBytes, buffer);
      }
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

function locking(fileSystem: FileSystem): FileSystem {
  return new Proxy(fileSystem, {
    get(target, method) {
      if (method === "setlk") return async () => NO_ATTR;
      const value = Reflect.get(target, method);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

const [path = "", json = "{}"] = process.argv.slice(2);
const options = JSON.parse(json) as StackOptions;
const { directory, applyCredentials = false, mountOptions = {} } = options;
const log = createLog({ level: "warn", clock: systemClock, room: "fuse" });
const say = (line: object) => process.stdout.write(`${JSON.stringify(line)}\n`);
/** Descriptors of the kinds a mount needs; Node opens others when it pleases. */
const descriptors = () =>
  readdirSync("/proc/self/fd").filter((fd) => {
    try {
      return /^(\/dev\/fuse|socket:)/.test(readlinkSync(`/proc/self/fd/${fd}`));
    } catch {
      return false;
    }
  }).length;
try {
  const memory = new MemoryFs();
  const disk = directory === undefined ? undefined : await createDisk({ directory, applyCredentials, log });
  const bare = options.hangs === true ? hanging(memory) : (disk ?? memory);
  const fileSystem = options.locks === true ? locking(bare) : bare;
  const source = directory ?? "memory";
  const descriptorsBefore = descriptors();
  const mount = await mountFuse({ fileSystem, path, source, log, clock: systemClock, mountOptions });
  let unmounted = Promise.resolve();
  process.once("SIGTERM", () => {
    unmounted = mount.unmount().catch((cause: unknown) => log.error("unmount", cause));
  });
  process.on("SIGUSR2", () => say(mount.counters()));
  say({ mounted: path });
  await mount.ended;
  await unmounted;
  const leftDescriptors = descriptors() - descriptorsBefore;
  // Releases follow the last reply.
  await new Promise((resolve) => setImmediate(resolve));
  say({ ...mount.counters(), ended: true, leftOpen: memory.openCount, leftDescriptors, disk: disk?.counters() });
  await fileSystem.close();
} catch (cause) {
  say({ failed: String(cause) });
  process.exitCode = 1;
}
