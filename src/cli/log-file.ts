/**
 * The log of a background daemon: lines in a file that cannot fill the disk.
 *
 * When the file is full it becomes `FILE.1`, replacing the one before, so at most twice FILE_BYTES_MAX are kept. A line that
 * cannot be written is lost: a full disk must not take the drive down.
 */
import { closeSync, existsSync, fstatSync, openSync, renameSync, rmSync, writeSync } from "node:fs";

export const FILE_BYTES_MAX = 1 << 20;

export interface LogFile {
  /** Appends one line, or nothing once it is removed; for `createLog`. */
  write(line: string): void;
  /** Closes and removes it, with the one before: after a clean end nobody reads it. */
  remove(): void;
}

export function openLogFile(path: string, bytesMax: number = FILE_BYTES_MAX): LogFile {
  let file = openSync(path, "a", 0o600);
  let bytes = fstatSync(file).size;
  let isRemoved = false;
  const rotate = () => {
    // It is not there if the attempt before could not open the new one.
    if (existsSync(path)) renameSync(path, `${path}.1`);
    const next = openSync(path, "a", 0o600);
    // Only now: a number that is closed is soon somebody else's.
    closeSync(file);
    file = next;
    bytes = 0;
  };
  return {
    write(line) {
      if (isRemoved) return;
      try {
        if (bytes >= bytesMax) rotate();
        bytes += writeSync(file, `${line}\n`);
      } catch {
        // Disk full, or the folder is gone: the line is lost.
      }
    },
    remove() {
      if (!isRemoved) closeSync(file);
      isRemoved = true;
      rmSync(path, { force: true });
      rmSync(`${path}.1`, { force: true });
    },
  };
}
