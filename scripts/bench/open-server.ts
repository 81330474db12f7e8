/**
 * A server of a directory that has room for thousands of opens, in a process of its own: `netdrive serve` grants a quarter of its descriptors, which are 20,000 in
 * many containers. Without a state store.
 *
 * Says its port to its parent, and ends with it.
 */
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { createDisk } from "../../src/disk/disk.ts";
import { startServer } from "../../src/server/server.ts";

const [directory = "", token = "", opens = ""] = process.argv.slice(2);
const log = createLog({ level: "warn", clock: systemClock });
const limits = { handlesMax: Number(opens), nodeDescriptorsMax: Number(opens) / 2 };
const disk = await createDisk({ directory, applyCredentials: false, log, limits });
const server = await startServer({
  shares: new Map([["bench", { fileSystem: disk, readOnly: false }]]),
  token: Buffer.from(token),
  squash: "all",
  listen: { host: "127.0.0.1", port: 0 },
  log,
  clock: systemClock,
});
process.send?.(server.address.port);
process.on("disconnect", () => process.exit());
