/**
 * The conformance suite over a kernel mount of disk, without a network between: what fuse and disk make of each other.
 */
import { startMountedDisk } from "../support/mounted-disk.ts";
import { startSyscallPosix } from "../support/syscall-posix.ts";
import { conformance } from "./suite.ts";

conformance("fuse(disk)", async () => {
  const mounted = await startMountedDisk();
  const { posix, close } = startSyscallPosix(mounted.path);
  return {
    posix,
    isFuse: true,
    close: async () => {
      await close();
      await mounted.close();
    },
  };
});
