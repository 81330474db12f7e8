/**
 * A process that mounts a disk without any network between: `serve-disk.js DIRECTORY PATH`. Says one line when it is mounted; SIGTERM unmounts.
 */
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { createDisk } from "../../src/disk/disk.ts";
import { mountFuse } from "../../src/fuse/mount.ts";

const [directory = "", path = ""] = process.argv.slice(2);
const log = createLog({ level: "warn", clock: systemClock });
const fileSystem = await createDisk({ directory, applyCredentials: true, log: log.room("disk") });
try {
  const mount = await mountFuse({
    fileSystem,
    path,
    source: directory,
    log: log.room("fuse"),
    clock: systemClock,
    mountOptions: { allowOther: true, defaultPermissions: true, forwardGroups: true, suid: true, dev: true },
  });
  process.once("SIGTERM", () => void mount.unmount().catch((cause: unknown) => log.error("unmount", cause)));
  process.stdout.write("mounted\n");
  await mount.ended;
} finally {
  await fileSystem.close();
}
