/**
 * Small disks of their own for tests, mounted below a temporary directory: a tmpfs, or an ext4 in a file. Needs root.
 */
import { spawnSync } from "node:child_process";
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { command } from "./child.ts";
import { makeTemp } from "./temp.ts";

export interface SmallDisk extends AsyncDisposable {
  readonly path: string;
}

async function mounted(program: string, args: string[], path: string): Promise<AsyncDisposable> {
  const detach = () => void spawnSync("umount", ["--lazy", path], { stdio: "ignore" });
  process.prependListener("exit", detach);
  await command(program, [...args, path]);
  return {
    async [Symbol.asyncDispose]() {
      process.off("exit", detach);
      await command("umount", [path]);
    },
  };
}

/** A tmpfs of `sizeBytes`. */
export async function smallTmpfs(sizeBytes: number): Promise<SmallDisk> {
  const temp = makeTemp("tmpfs");
  const path = join(temp.path, "disk");
  mkdirSync(path);
  const mount = await mounted("mount", ["-t", "tmpfs", "-o", `size=${sizeBytes},mode=777`, "tmpfs"], path);
  return {
    path,
    async [Symbol.asyncDispose]() {
      await mount[Symbol.asyncDispose]();
      await temp.remove();
    },
  };
}

/** An ext4 of `sizeBytes`, made with more arguments of mkfs, in a file in `folder` that grows as it is filled. */
export async function smallExt4(folder: string, sizeBytes: number, ...mkfs: string[]): Promise<SmallDisk> {
  const [image, path] = [join(folder, "image"), join(folder, "disk")];
  mkdirSync(path);
  await command("truncate", ["-s", String(sizeBytes), image]);
  await command("mkfs.ext4", ["-q", "-F", "-m", "0", ...mkfs, image]);
  const mount = await mounted("mount", ["-o", "loop", image], path);
  return { path, [Symbol.asyncDispose]: () => mount[Symbol.asyncDispose]() };
}
