/**
 * The conformance suite over a plain directory: the truth. A case that fails here is a wrong test.
 */
import { startSyscallPosix } from "../support/syscall-posix.ts";
import { makeTemp } from "../support/temp.ts";
import { conformance } from "./suite.ts";

conformance("plain directory", async () => {
  const temp = makeTemp("plain");
  const { posix, close } = startSyscallPosix(temp.path);
  return {
    posix,
    close: async () => {
      await close();
      await temp.remove();
    },
  };
});
