/**
 * Whether a drive can be mounted at a path by this user on this system: everything that can be known before trying.
 */
import { access, constants, lstat, open, readdir, readFile } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { printable } from "../base/log.ts";
import { MOUNT_TYPE, mountAt } from "../sys/mount-table.ts";
import { Exit, failure } from "./failure.ts";
import type { MountOptions } from "./mount-options.ts";
import { canonicalPath } from "./unmount.ts";

const DEVICE = "/dev/fuse";

/**
 * The path to mount at, absolute and without symbolic links.
 *
 * @throws CommanderError PATH, SYSTEM
 */
export async function checkTarget(path: string, options: Pick<MountOptions, "nonEmpty">): Promise<string> {
  const shown = printable(path);
  const canonical = await canonicalPath(path);
  if (mountAt(canonical)?.type === MOUNT_TYPE) {
    throw failure(Exit.PATH, `'${shown}' is already mounted; unmount it first with 'netdrive umount ${shown}'`);
  }
  if (!(await lstat(canonical)).isDirectory()) {
    throw failure(Exit.PATH, `'${shown}' is not a directory; mount at an empty directory`);
  }
  let names: string[];
  try {
    names = options.nonEmpty ? [] : await readdir(canonical);
  } catch (cause) {
    throw failure(Exit.SYSTEM, `'${shown}' cannot be read by this user: ${printable((cause as Error).message)}`);
  }
  if (names.length > 0) {
    throw failure(
      Exit.PATH,
      `'${shown}' is not empty; mount at an empty directory, or hide what is there: -o nonempty`,
    );
  }
  return canonical;
}

/**
 * Checks that this user can mount here at all.
 *
 * @throws CommanderError SYSTEM
 */
export async function checkSystem(
  target: string,
  options: Pick<MountOptions, "allowOther" | "suid" | "dev">,
): Promise<void> {
  await checkDevice();
  if (process.getuid?.() === 0) return;
  if (options.suid || options.dev) {
    throw failure(Exit.SYSTEM, "only root may mount with -o suid or -o dev; leave them out");
  }
  if (!(await isProgram("fusermount3"))) {
    throw failure(Exit.SYSTEM, "a user other than root mounts through fusermount3; install the package fuse3");
  }
  if (options.allowOther && !/^\s*user_allow_other\b/m.test(await readFile("/etc/fuse.conf", "utf8").catch(() => ""))) {
    throw failure(Exit.SYSTEM, "allow_other needs the line 'user_allow_other' in /etc/fuse.conf; add it as root");
  }
  try {
    await access(target, constants.W_OK);
  } catch {
    throw failure(Exit.SYSTEM, `'${printable(target)}' is not this user's to mount at; take a directory of your own`);
  }
}

/** Opened for a moment: in a container it may be there and forbidden. */
async function checkDevice(): Promise<void> {
  try {
    await (await open(DEVICE, "r+")).close();
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const isMissing = code === "ENOENT" || code === "ENODEV" || code === "ENXIO";
    const what = isMissing ? `there is no ${DEVICE}` : `this user may not open ${DEVICE} (${code})`;
    const advice = "load the module with 'modprobe fuse', or start the container with --device /dev/fuse";
    throw failure(Exit.SYSTEM, `${what}; ${isMissing ? advice : "it should have mode 0666"}`);
  }
}

async function isProgram(name: string): Promise<boolean> {
  for (const folder of (process.env["PATH"] ?? "").split(delimiter)) {
    const isHere = await access(join(folder, name), constants.X_OK).then(
      () => true,
      () => false,
    );
    if (isHere) return true;
  }
  return false;
}
