/**
 * Word from the kernel (inotify) that a name in a directory has come, gone or been moved, or who may search it has changed, whoever did it.
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
 * `changed` may not throw; without a name: any may have, or the attributes of the directory itself.
 *
 * @returns undefined: the kernel does not tell, or watches too much already.
 */
export function watchNames(descriptor: number, changed: (name: Name | undefined) => void): NameWatch | undefined {
  try {
    const self = String(descriptor);
    const watcher = watch(`/proc/self/fd/${self}`, { persistent: false, encoding: "latin1" });
    watcher.on("change", (event, name) => {
      // What is told of the directory itself, a change of its attributes for one, has the name it was given here.
      if (typeof name !== "string" || name === self) changed(undefined);
      else if (event === "rename") changed(name as Name);
    });
    watcher.on("error", () => changed(undefined));
    return watcher;
  } catch {
    return undefined;
  }
}
