/** A mounted StrictFs, by a process of its own: a disk that drops every name and byte that was not synced when its power is cut. */
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { startService } from "./child.ts";
import type { PowerCutDisk } from "./power-cut-disk.ts";
import { makeTemp } from "./temp.ts";

const SERVER = fileURLToPath(new URL("serve-strict.js", import.meta.url));

/** `chance`: of what was not synced to be there all the same. */
export async function startStrictDisk(chance = 0): Promise<PowerCutDisk> {
  const temp = makeTemp("strict");
  const path = join(temp.path, "disk");
  mkdirSync(path);
  const service = startService(process.execPath, ["--enable-source-maps", SERVER, path, String(chance)], { cwd: "/" });
  await service.firstLine;
  let mounts = 1;
  return {
    path,
    async cut() {
      mounts += 1;
      service.process.kill("SIGUSR2");
      await service.line(`mounted ${mounts}`);
    },
    async [Symbol.asyncDispose]() {
      await service.end();
      await temp.remove();
    },
  };
}
