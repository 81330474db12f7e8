/**
 * Small files in a state folder that are made once and then kept: found whole or not at all, also after a power cut.
 */
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { dirname } from "node:path";

/** The text of `file`, which is made for this user only, with its folder, if it is not there. When it returns it is on the disk. */
export function keepFile(file: string, make: () => string): string {
  if (existsSync(file)) return readFileSync(file, "utf8");
  const text = make();
  replaceFile(file, text);
  return text;
}

/** Puts a file of this text in the place of `file`, if there is one. When it returns it is on the disk. */
export function replaceFile(file: string, text: string): void {
  const folder = dirname(file);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const partial = `${file}.${process.pid}`;
  const descriptor = openSync(partial, "w", 0o600);
  try {
    writeSync(descriptor, text);
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
  renameSync(partial, file);
  for (const name of [folder, dirname(folder)]) syncNames(name);
}

function syncNames(folder: string): void {
  const descriptor = openSync(folder, "r");
  try {
    fsyncSync(descriptor);
  } finally {
    closeSync(descriptor);
  }
}
