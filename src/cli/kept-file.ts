/**
 * Small files in a state folder that are made once and then kept: found whole or not at all, also after a power cut.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname } from "node:path";
import { syncFolderNow } from "../sys/sync-folder.ts";

/**
 * The text of `file`, which is made for this user only, with its folder, if it is not there. When it returns it is on the disk. Of two that make it at the same
 * time one is first, and both have that one's.
 */
export function keepFile(file: string, make: () => string): string {
  if (!existsSync(file)) {
    putFile(file, make(), (partial) => {
      try {
        linkSync(partial, file);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
      } finally {
        unlinkSync(partial);
      }
    });
  }
  return readFileSync(file, "utf8");
}

/** Puts a file of this text in the place of `file`, if there is one. When it returns it is on the disk. */
export function replaceFile(file: string, text: string): void {
  putFile(file, text, (partial) => renameSync(partial, file));
}

/** Writes the text beside `file`; `place` gives it its name. */
function putFile(file: string, text: string, place: (partial: string) => void): void {
  const folder = dirname(file);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const partial = `${file}.${process.pid}`;
  const descriptor = openSync(partial, "w", 0o600);
  try {
    writeFileSync(descriptor, text);
    fsyncSync(descriptor);
  } catch (error) {
    rmSync(partial, { force: true });
    throw error;
  } finally {
    closeSync(descriptor);
  }
  place(partial);
  syncFolderNow(folder);
  try {
    syncFolderNow(dirname(folder));
  } catch (error) {
    // A folder that is not for this user to read: most likely somebody else made `folder` there, and before. If not, its own sync takes its name along.
    if ((error as NodeJS.ErrnoException).code !== "EACCES") throw error;
  }
}
