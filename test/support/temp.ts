/**
 * Temporary directories named netdrive-*, removed when their owner is done and at the latest when the process ends.
 *
 * Removal never crosses into a mount: what is still mounted below is an error of the test that left it, and is reported.
 */
import { chmodSync, mkdtempSync, realpathSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { readMountTable } from "../../src/sys/mount-table.ts";

/** A directory of its own; `remove` may be called more than once. */
export interface Temp extends AsyncDisposable {
  readonly path: string;
  remove(): Promise<void>;
}

const live = new Set<string>();

/** Mount points at or below `directory`, deepest first. */
export function mountsBelow(directory: string): string[] {
  const points = readMountTable().map(({ path }) => path);
  return points
    .filter((point) => point === directory || point.startsWith(`${directory}/`))
    .sort((a, b) => b.length - a.length);
}

function removeSync(path: string): void {
  const mounts = mountsBelow(path);
  if (mounts.length > 0) throw new Error(`still mounted below a temporary directory: ${mounts.join(", ")}`);
  rmSync(path, { recursive: true, force: true, maxRetries: 3 });
  live.delete(path);
}

process.on("exit", () => {
  for (const path of live) {
    try {
      removeSync(path);
    } catch (error) {
      process.stderr.write(`${error instanceof Error ? error.message : error}\n`);
    }
  }
});

/** Makes a temporary directory. Everybody may search it, because tests act as several users. */
export function makeTemp(label = "test"): Temp {
  const path = realpathSync(mkdtempSync(join(tmpdir(), `netdrive-${label}-`)));
  chmodSync(path, 0o755);
  live.add(path);
  const remove = async () => {
    if (live.has(path)) removeSync(path);
  };
  return { path, remove, [Symbol.asyncDispose]: remove };
}
