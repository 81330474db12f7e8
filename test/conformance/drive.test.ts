/**
 * The conformance suite over a whole drive: `netdrive serve` and `netdrive mount` as processes of their own.
 */
import { startDrive } from "../support/drive.ts";
import { startSyscallPosix } from "../support/syscall-posix.ts";
import { conformance } from "./suite.ts";

conformance("drive", async () => {
  const drive = await startDrive();
  const { posix, close } = startSyscallPosix(drive.path);
  return {
    posix,
    isFuse: true,
    close: async () => {
      await close();
      await drive.close();
    },
  };
});
