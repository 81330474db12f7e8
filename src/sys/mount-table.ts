/**
 * The kernel's list of mounts, read without touching a mount: a dead drive must not hang the command that removes it.
 */
import { readFileSync } from "node:fs";

/** What the kernel calls our mounts: "fuse." and the subtype. */
export const MOUNT_TYPE = "fuse.netdrive";

export interface MountEntry {
  /** Absolute, as the kernel sees it. */
  path: string;
  type: string;
  source: string;
  readOnly: boolean;
  deviceMajor: number;
  /** For FUSE the name of the connection in /sys/fs/fuse/connections. */
  deviceMinor: number;
}

/** Parses the text (latin1, so that no byte is lost) of /proc/self/mountinfo. @see proc(5) */
export function parseMountInfo(text: string): MountEntry[] {
  const entries: MountEntry[] = [];
  for (const line of text.split("\n")) {
    const [before, after] = line.split(" - ", 2).map((part) => part.split(" "));
    const [, , device, , path, options] = before ?? [];
    const [type, source] = after ?? [];
    if (device === undefined || path === undefined || options === undefined || type === undefined) continue;
    entries.push({
      path: plainText(path),
      type,
      source: plainText(source ?? ""),
      readOnly: options.split(",").includes("ro"),
      deviceMajor: Number(device.split(":")[0]),
      deviceMinor: Number(device.split(":")[1]),
    });
  }
  return entries;
}

/** The kernel writes space, tab, newline and backslash as octal. */
function plainText(text: string): string {
  const bytes = text.replace(/\\([0-7]{3})/g, (_, code: string) => String.fromCharCode(Number.parseInt(code, 8)));
  return Buffer.from(bytes, "latin1").toString("utf8");
}

/** All mounts of this process's namespace, oldest first. */
export function readMountTable(): MountEntry[] {
  return parseMountInfo(readFileSync("/proc/self/mountinfo", "latin1"));
}

/** The mount one sees at exactly `path`: the last one made there. */
export function mountAt(path: string): MountEntry | undefined {
  return readMountTable()
    .filter((entry) => entry.path === path)
    .at(-1);
}

/** Whether this very mount is what one sees at its path, as it was when the list was read. */
export function isStillAt({ path, type, deviceMinor }: Pick<MountEntry, "path" | "type" | "deviceMinor">): boolean {
  const there = mountAt(path);
  return there?.type === type && there.deviceMinor === deviceMinor;
}
