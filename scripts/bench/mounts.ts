/** Waiting for FUSE mounts and taking them away, without ever touching what is mounted (which could block on a dead peer). */
import { readFileSync } from "node:fs";
import { pause, run } from "./child.ts";

const UNMOUNT_ATTEMPTS = 40;

/** The mount at `path`, if there is one: its device (major:minor) and type. `table` is /proc/self/mountinfo. */
export function findMount(path: string, table: string): { device: string; type: string } | undefined {
  let found: { device: string; type: string } | undefined;
  for (const line of table.split("\n")) {
    const [left = "", right = ""] = line.split(" - ");
    const fields = left.split(" ");
    // Spaces and the like are written as octal escapes.
    const mountPoint = fields[4]?.replace(/\\([0-7]{3})/g, (_, code: string) =>
      String.fromCharCode(Number.parseInt(code, 8)),
    );
    if (mountPoint === path) found = { device: fields[2] ?? "", type: right.split(" ")[0] ?? "" };
  }
  return found;
}

/** The mount at `path` right now. */
export function mountAt(path: string): { device: string; type: string } | undefined {
  return findMount(path, readFileSync("/proc/self/mountinfo", "utf8"));
}

/** Takes away whatever is mounted at `path`; lazily when it stays busy. */
export async function unmount(path: string): Promise<void> {
  const command = process.getuid?.() === 0 ? ["umount"] : ["fusermount3", "-u"];
  for (let attempt = 0; mountAt(path) !== undefined; attempt += 1) {
    const lazily = attempt >= UNMOUNT_ATTEMPTS ? [process.getuid?.() === 0 ? "-l" : "-z"] : [];
    const [program = "", ...options] = [...command, ...lazily, path];
    try {
      await run(program, options, { timeoutMs: 5000 });
    } catch (error) {
      if (attempt > UNMOUNT_ATTEMPTS) throw error;
      await pause(50);
    }
  }
}
