/**
 * The conformance suite over a kernel mount of disk, without a network between: what fuse and disk make of each other.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startService } from "../support/child.ts";
import { detach } from "../support/drive.ts";
import { startSyscallPosix } from "../support/syscall-posix.ts";
import { makeTemp } from "../support/temp.ts";
import { conformance } from "./suite.ts";

const SERVER = fileURLToPath(new URL("../support/serve-disk.js", import.meta.url));

conformance("fuse(disk)", async () => {
  const temp = makeTemp("fuse-disk");
  const [directory, path] = [join(temp.path, "served"), join(temp.path, "mount")];
  for (const folder of [directory, path]) mkdirSync(folder);
  const server = startService(process.execPath, ["--enable-source-maps", SERVER, directory, path], { cwd: "/" });
  const calls = startSyscallPosix(path);
  const close = async () => {
    await calls.close();
    await server.end();
    detach(path);
    if (server.errors() !== "") process.stderr.write(server.errors());
    await temp.remove();
  };
  try {
    await server.firstLine;
    return { posix: calls.posix, isFuse: true, close };
  } catch (error) {
    await close();
    throw error;
  }
});
