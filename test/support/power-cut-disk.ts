/**
 * An ext4 of its own whose power can be cut: what was not synced is gone. Needs root.
 *
 * It lies in a file behind a loop device. A copy of that file at any moment has what the kernel had sent to the device until then, and not what was only in its memory;
 * mounted, its journal is replayed as after a power cut. The journal is not written by time, only by syncs. A sync of one file takes the names of others along, as
 * ext4 does.
 */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { command } from "./child.ts";
import { makeTemp } from "./temp.ts";

const SIZE = "128M";
const OPTIONS = "loop,commit=900";

export interface PowerCutDisk extends AsyncDisposable {
  readonly path: string;
  /** Puts in the place of the disk what it would have after a power cut now. Nobody may use it. */
  cut(): Promise<void>;
}

export async function startPowerCutDisk(): Promise<PowerCutDisk> {
  const temp = makeTemp("power");
  const path = join(temp.path, "disk");
  mkdirSync(path);
  let cuts = 0;
  const image = () => join(temp.path, `image-${cuts}`);
  await command("truncate", ["-s", SIZE, image()]);
  await command("mkfs.ext4", ["-q", "-F", "-m", "0", image()]);
  await command("mount", ["-o", OPTIONS, image(), path]);
  return {
    path,
    async cut() {
      const before = image();
      cuts += 1;
      await command("cp", ["--sparse=always", before, image()]);
      await command("umount", [path]);
      await command("rm", [before]);
      await command("mount", ["-o", OPTIONS, image(), path]);
    },
    async [Symbol.asyncDispose]() {
      await command("umount", [path]);
      await temp.remove();
    },
  };
}
