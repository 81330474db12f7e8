/**
 * The directory that `up` serves when it is given none: a few files to look at.
 *
 * What the user makes or changes in it is the user's: it is removed at the end only if it is still what was made.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";

const FILES = new Map([
  [
    "README.txt",
    [
      "This is a netdrive: the files here are served by one process and mounted by another.",
      "Make files, edit them, look at them from the other side. Ctrl-C in the other window unmounts it.",
      "",
      "Your own directory:  npx netdrive up DIR PATH",
      "",
    ].join("\n"),
  ],
  ["letters/to-a-friend.txt", "It works here as well.\n"],
  ["numbers/squares.csv", `n,square\n${Array.from({ length: 100 }, (_, n) => `${n},${n * n}`).join("\n")}\n`],
]);

/** Makes the sample and returns its path. */
export function makeSample(): string {
  const folder = mkdtempSync(join(tmpdir(), "netdrive-sample-"));
  for (const [path, text] of FILES) {
    mkdirSync(join(folder, path, ".."), { recursive: true });
    writeFileSync(join(folder, path), text);
  }
  return folder;
}

/** Removes an untouched sample; whether it is gone. */
export function removeSample(folder: string): boolean {
  const isUntouched = readdirSync(folder, { recursive: true, withFileTypes: true }).every((entry) => {
    if (entry.isDirectory()) return true;
    const path = relative(folder, join(entry.parentPath, entry.name));
    return entry.isFile() && FILES.get(path) === readFileSync(join(folder, path), "utf8");
  });
  if (isUntouched) rmSync(folder, { recursive: true, force: true });
  return isUntouched;
}
