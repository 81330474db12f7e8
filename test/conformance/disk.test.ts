/**
 * The conformance suite over disk, walked node by node.
 */
import { join } from "node:path";
import { silentLog } from "../../src/base/log.ts";
import { createDisk } from "../../src/disk/disk.ts";
import { makeTemp } from "../support/temp.ts";
import { walkerPosix } from "../support/walker.ts";
import { conformance } from "./suite.ts";

conformance("disk", async () => {
  const temp = makeTemp("disk");
  const fileSystem = await createDisk({
    directory: join(temp.path),
    applyCredentials: true,
    log: silentLog,
    keepsUnlinked: true,
  });
  return {
    posix: walkerPosix(fileSystem),
    close: async () => {
      await fileSystem.close();
      await temp.remove();
    },
  };
});
