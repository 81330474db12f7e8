/**
 * A tree of files such as people have, and a text that says everything about a tree: for tests that copy one and compare.
 */
import { chmodSync, linkSync, lutimesSync, mkdirSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { command, shell } from "./child.ts";

/** Spreads bits; the same numbers on every machine. */
const spread = (index: number) => Math.imul(index + 1, 0x9e3779b1) >>> 0;

const NAMES = ["plain", "with space", "ümlaut-€", "new\nline", "-dash", "quote'\"", ".hidden", "UPPER"];
const MODES = [0o644, 0o600, 0o755, 0o664, 0o400, 0o640, 0o777, 0o4755];

function content(index: number): Buffer {
  const random = spread(index);
  // Mostly small, a few empty, some large, as in source trees.
  const size = random % 31 === 0 ? 0 : random % 97 === 0 ? 200_000 + (random % 100_000) : random % 6000;
  const line = `${index} ${random} the quick brown fox\n`;
  return Buffer.alloc(size, line);
}

/** Makes `fileCount` files in directories of 40 below `directory`, with links of both kinds, odd names, modes and times. */
export function makeTree(directory: string, fileCount: number): void {
  mkdirSync(directory, { recursive: true });
  const folders = new Map<string, number>();
  for (let i = 0; i < fileCount; i++) {
    const group = Math.floor(i / 40);
    const folder = join(directory, `group ${group % 12}`, `part-${group}`);
    if (!folders.has(folder)) mkdirSync(folder, { recursive: true });
    folders.set(folder, group);
    const path = join(folder, `${NAMES[i % NAMES.length]}-${i}`);
    writeFileSync(path, content(i));
    chmodSync(path, MODES[spread(i) % MODES.length] as number);
    const seconds = 1_500_000_000 + (spread(i) % 200_000_000) + (i % 1000) / 1000;
    utimesSync(path, seconds, seconds + 0.25);
    if (i % 50 === 0) linkSync(path, join(folder, `hard-${i}`));
    if (i % 25 === 0) {
      const link = join(folder, `soft-${i}`);
      symlinkSync(i % 75 === 0 ? "nowhere/at all" : `${NAMES[i % NAMES.length]}-${i}`, link);
      lutimesSync(link, seconds, seconds);
    }
  }
  const empty = join(directory, "empty");
  mkdirSync(empty);
  utimesSync(empty, 1_600_000_000, 1_600_000_000);
  for (const [folder, group] of folders) utimesSync(folder, 1_600_000_000 + group, 1_600_000_000.5 + group);
}

/**
 * Kind, mode, owner, link count, size, mtime to the nanosecond, target and SHA-256 of everything below `directory`, sorted.
 *
 * Read by programs, never by this process.
 */
export async function manifest(directory: string, options: { times?: boolean } = {}): Promise<string[]> {
  const { times = true } = options;
  // The size of a directory is the disk's own business.
  const common = `%P %y %m %U:%G %n${times ? " %T@" : ""}`;
  const find = [
    "-mindepth",
    "1",
    "(",
    "-type",
    "d",
    "-printf",
    `${common}\\0`,
    ")",
    "-o",
    "-printf",
    `${common} %s %l\\0`,
  ];
  const listed = await command("find", [".", ...find], { cwd: directory });
  const sums = await shell("find . -type f -print0 | sort -z | xargs -0 -r sha256sum --zero", { cwd: directory });
  return [...listed.stdout.split("\0").sort(), ...sums.stdout.split("\0")].filter((line) => line !== "");
}
