/**
 * Word from the kernel (inotify) that a name in a directory has come, gone or been moved, whoever did it.
 *
 * It comes a moment after the change. What the kernel drops because nobody has read 16,384 words that came before (fs.inotify.max_queued_events) is not known to be missing.
 */
import { watch } from "node:fs";
import type { Name } from "../base/name.ts";

export interface NameWatch {
  /** Nothing is told from now on. */
  close(): void;
}

/**
 * Watches the directory that this process has open as `descriptor`, which may be closed afterwards. Keeps no process alive.
 *
 * `changed` may not throw; without a name: any may have, and nothing else is told.
 *
 * @returns undefined: the kernel does not tell, or watches too much already.
 */
export function watchNames(descriptor: number, changed: (name: Name | undefined) => void): NameWatch | undefined {
  try {
    const watcher = watch(`/proc/self/fd/${descriptor}`, { persistent: false, encoding: "latin1" });
    watcher.on("change", (event, name) => {
      if (event === "rename") changed(typeof name === "string" ? (name as Name) : undefined);
    });
    watcher.on("error", () => changed(undefined));
    return watcher;
  } catch {
    return undefined;
  }
}
