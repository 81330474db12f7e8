/**
 * A kernel mount of a disk without a network between, served by a process of its own.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startService } from "./child.ts";
import { detach } from "./drive.ts";
import { makeTemp } from "./temp.ts";

const SERVER = fileURLToPath(new URL("serve-disk.js", import.meta.url));

/** The mount, the directory below it, and a local folder beside both. */
export interface MountedDisk extends AsyncDisposable {
  readonly path: string;
  readonly directory: string;
  readonly scratch: string;
  /** Unmounts; fails if the server had something to complain about. */
  close(): Promise<void>;
}

/** Mounts a new directory, for all users with their own identities. */
export async function startMountedDisk(): Promise<MountedDisk> {
  const temp = makeTemp("disk");
  const [directory, path, scratch] = ["served", "mount", "scratch"].map((name) => join(temp.path, name)) as [
    string,
    string,
    string,
  ];
  for (const folder of [directory, path, scratch]) mkdirSync(folder);
  const server = startService(process.execPath, ["--enable-source-maps", SERVER, directory, path], { cwd: "/" });
  const close = async () => {
    try {
      await server.end();
      detach(path);
    } finally {
      await temp.remove();
    }
    if (server.errors() !== "") throw new Error(`the server said:\n${server.errors()}`);
  };
  try {
    await server.firstLine;
    return { path, directory, scratch, close, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}
