/**
 * Taking a drive off its mount point, by programs that have the right to and never by a call of this process into the mount.
 *
 * Works whether the server answers, the daemon lives, or neither: nothing here looks inside the mount.
 */
import { execFile } from "node:child_process";
import { realpath, writeFile } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Clock } from "../base/clock.ts";
import { printable } from "../base/log.ts";
import { Exit, failure } from "./failure.ts";
import { findRecord, removeRecord } from "./mount-registry.ts";
import { MOUNT_TYPE, type MountEntry, mountAt } from "./mount-table.ts";
import { isAlive, type ProcessIdentity, usersOf } from "./process-table.ts";

export interface UnmountOptions {
  clock: Clock;
  /** Detach now, even if it is in use: who uses it keeps it until done. */
  lazy?: boolean;
  /** Give up requests that are not answered, and what they would have written. */
  force?: boolean;
}

/** How long a daemon may take to end after its mount is gone. */
const DAEMON_END_MS = 10_000;
const LOOK_EVERY_MS = 20;

/** `path` as the kernel's list has it, also if a dead mount is there. */
export async function canonicalPath(path: string): Promise<string> {
  try {
    return await realpath(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT")
      throw failure(Exit.PATH, `'${printable(path)}' does not exist`);
    return join(await realpath(dirname(path)), basename(path));
  }
}

/**
 * Unmounts the drive at `path` and waits until its daemon has ended.
 *
 * @returns a remark for the user, if there is one.
 * @throws CommanderError PATH: not a netdrive mount, or in use (says by whom).
 */
export async function unmountDrive(path: string, options: UnmountOptions): Promise<string | undefined> {
  const canonical = await canonicalPath(path);
  const entry = mountAt(canonical);
  if (entry === undefined) throw failure(Exit.PATH, `nothing is mounted at '${printable(path)}'; see 'netdrive list'`);
  if (entry.type !== MOUNT_TYPE) {
    throw failure(Exit.PATH, `'${printable(path)}' is a mount of ${entry.type}, not of netdrive; use umount(8)`);
  }
  const daemon = findRecord(canonical)?.daemon;
  if (options.force === true) await abortConnection(entry);
  const remark = await detach(canonical, {
    lazy: options.lazy === true,
    isServed: daemon !== undefined && isAlive(daemon),
  });
  if (daemon !== undefined) {
    // A lazily detached mount lives on until its last user is gone, and so does its daemon.
    if (options.lazy !== true) await waitForEnd(daemon, options.clock);
    removeRecord(canonical, daemon.pid);
  }
  return remark;
}

async function detach(path: string, options: { lazy: boolean; isServed: boolean }): Promise<string | undefined> {
  const result = await runUnmount(path, options.lazy);
  if (result === "done") return undefined;
  if (result !== "busy") throw failure(Exit.SYSTEM, `'${printable(path)}' cannot be unmounted: ${printable(result)}`);
  const users = usersOf(path).slice(0, 5).join(", ") || "a process that cannot be seen";
  if (options.isServed) {
    const advice = `end them, or detach it all the same with 'netdrive umount --lazy'`;
    throw failure(Exit.PATH, `'${printable(path)}' is in use by ${users}; ${advice}`);
  }
  const second = await runUnmount(path, true);
  if (second !== "done") throw failure(Exit.SYSTEM, `'${printable(path)}' cannot be unmounted: ${printable(second)}`);
  return `the daemon is gone and ${users} still used '${printable(path)}': it was detached`;
}

/** Runs the program that may unmount; the one line it says if it fails for another reason than use. */
export async function runUnmount(path: string, lazy: boolean): Promise<"done" | "busy" | string> {
  const isRoot = process.getuid?.() === 0;
  const program = isRoot ? "umount" : "fusermount3";
  // No helper and no look at the path: a dead mount answers to neither.
  const args = isRoot ? ["-i", "-c", ...(lazy ? ["-l"] : [])] : ["-u", "-q", ...(lazy ? ["-z"] : [])];
  return new Promise((resolve) => {
    const environment = { ...process.env, LC_ALL: "C" };
    execFile(program, [...args, "--", path], { env: environment, cwd: "/" }, (error, _, errors) => {
      if (error === null || mountAt(path)?.type !== MOUNT_TYPE) resolve("done");
      else if (/busy/i.test(errors)) resolve("busy");
      else resolve(errors.trim().split("\n").at(-1) || error.message);
    });
  });
}

/** Makes the kernel fail every request of the mount, those in flight included. */
async function abortConnection({ deviceMinor }: MountEntry): Promise<void> {
  try {
    await writeFile(`/sys/fs/fuse/connections/${deviceMinor}/abort`, "1");
  } catch (cause) {
    throw failure(Exit.SYSTEM, `the kernel does not let this user give up the requests: ${(cause as Error).message}`);
  }
}

/** Waits for the daemon; one that does not end by itself is told to, then made to. */
async function waitForEnd(daemon: ProcessIdentity, clock: Clock): Promise<void> {
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    const deadlineMs = clock.monotonicMs() + DAEMON_END_MS;
    while (isAlive(daemon)) {
      if (clock.monotonicMs() >= deadlineMs) {
        process.kill(daemon.pid, signal);
        break;
      }
      await pause(clock, LOOK_EVERY_MS);
    }
  }
}

/** Resolves after `delayMs`. */
export function pause(clock: Clock, delayMs: number): Promise<void> {
  return new Promise((resolve) => void clock.after(delayMs, resolve, { keepAlive: true }));
}
