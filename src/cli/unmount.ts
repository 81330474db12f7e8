/**
 * Taking a drive off its mount point.
 *
 * Works whether the server answers, the daemon lives, or neither: this process never looks inside the mount. The system call runs
 * on a thread of its own, so also the process that serves the mount may unmount it.
 */
import { existsSync } from "node:fs";
import { realpath } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import type { Clock } from "../base/clock.ts";
import { FsError } from "../base/errors.ts";
import { printable } from "../base/log.ts";
import { raceSignal } from "../base/signals.ts";
import { abortConnection, isDead, unmountPath } from "../sys/fuse-mount.ts";
import { isStillAt, MOUNT_TYPE, type MountEntry, mountAt } from "../sys/mount-table.ts";
import { Exit, failure } from "./failure.ts";
import { findRecord, type MountRecord, removeRecord } from "./mount-registry.ts";
import { isAlive, type ProcessIdentity, usersOf } from "./process-table.ts";
import { describeUnsent } from "./recovery-files.ts";

export interface UnmountOptions {
  clock: Clock;
  /** Detach now, even if it is in use: who uses it keeps it until done. */
  lazy?: boolean;
  /** Give up requests that are not answered, and what they would have written. */
  force?: boolean;
  /** Tells the user what takes long. */
  say: (text: string) => void;
}

/** How long a daemon usually takes at most to end after its mount is gone. */
const DAEMON_END_MS = 5_000;
const LOOK_EVERY_MS = 20;
/** How long `takeDown`, or an unmount by force, waits for those who use the mount. */
const BUSY_MS = 5_000;
const BUSY_LOOK_EVERY_MS = 200;
const USERS_SHOWN_MAX = 5;

/** `path` as the kernel's list has it, also if a dead mount is there. @throws CommanderError PATH. */
export async function canonicalPath(path: string): Promise<string> {
  const parent = async () => join(await realpath(dirname(path)), basename(path));
  try {
    return await realpath(path).catch((cause: NodeJS.ErrnoException) => {
      if (cause.code === "ENOENT") throw cause;
      return parent();
    });
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === "ENOENT") {
      throw failure(Exit.PATH, `'${printable(path)}' does not exist; make it with mkdir, or check its spelling`);
    }
    throw failure(Exit.PATH, `'${printable(path)}' cannot be used: ${printable((cause as Error).message)}`);
  }
}

/**
 * Unmounts the drive at `path` and waits until its daemon has ended.
 *
 * @returns a remark for the user, if there is one.
 * @throws CommanderError PATH: no netdrive mount, or in use (says by whom); SYSTEM: not this user's; FAILED: it is
 *   unmounted, and not all that was written has reached the server (says where it is), or its daemon did not end well.
 */
export async function unmountDrive(path: string, options: UnmountOptions): Promise<string | undefined> {
  const canonical = await canonicalPath(path);
  const shown = printable(path);
  const entry = mountAt(canonical);
  if (entry === undefined) throw failure(Exit.PATH, `nothing is mounted at '${shown}'; see 'netdrive list'`);
  if (entry.type !== MOUNT_TYPE) {
    throw failure(Exit.PATH, `'${shown}' is a mount of ${entry.type}, not of netdrive; use umount(8)`);
  }
  const record = findRecord(canonical);
  const isServed = record !== undefined && isAlive(record.daemon);
  if (options.force === true) await abortConnection(entry);
  const isServing = async () => (record === undefined ? !(await isDead(canonical, options.clock)) : isServed);
  const remark = await detach(entry, { ...options, shown, isServing });
  if (record === undefined) {
    if (options.lazy === true) return remark;
    return remark ?? `it is not known here which process served '${shown}': if it still sends, it was not waited for`;
  }
  // A lazily detached mount lives on until its last user is gone, and so does its daemon.
  const isKilled = options.lazy !== true && !(await waitForEnd(record.daemon, options));
  const last = removeRecord(canonical, record.daemon.pid);
  if (!isServed || options.lazy === true) return remark;
  if (isKilled) return `process ${record.daemon.pid} did not answer and was killed: what it had not sent is lost`;
  checkEnd(record, last);
  return remark;
}

/** Whether a daemon that is gone has ended well. @throws CommanderError FAILED: it has not, or could not send everything. */
function checkEnd({ path, log }: MountRecord, last: MountRecord | undefined): void {
  if (last?.unsent !== undefined) throw failure(Exit.FAILED, describeUnsent(last.unsent, path, log));
  // It removes its log when it ends well.
  if (log === null || !existsSync(log)) return;
  throw failure(
    Exit.FAILED,
    `the process of the drive at '${printable(path)}' did not end well; see ${printable(log)}`,
  );
}

async function detach(
  { path }: MountEntry,
  options: UnmountOptions & { shown: string; isServing: () => Promise<boolean> },
): Promise<string | undefined> {
  const { shown, lazy = false, force = false, clock } = options;
  // Those whose requests were given up need a moment to see it and leave.
  const deadlineMs = clock.monotonicMs() + (force ? BUSY_MS : 0);
  try {
    let isUnmounted = await tryUnmount(path, lazy);
    for (; !isUnmounted && clock.monotonicMs() < deadlineMs; isUnmounted = await tryUnmount(path, lazy)) {
      await pause(clock, BUSY_LOOK_EVERY_MS);
    }
    if (!isUnmounted) {
      const users = namesOfUsers(path);
      if (await options.isServing()) {
        const advice = "end them, or detach it all the same with 'netdrive umount --lazy'";
        throw failure(Exit.PATH, `'${shown}' is in use by ${users}; ${advice}`);
      }
      await tryUnmount(path, true);
      return `nobody served '${shown}' any more and it was in use by ${users}: it was detached`;
    }
  } catch (cause) {
    if (!(cause instanceof FsError)) throw cause;
    throw failure(Exit.SYSTEM, `'${shown}' cannot be unmounted by this user: ${printable(cause.message)}`);
  }
  return undefined;
}

/** Unmounts; false if it is in use. A mount that is gone already is unmounted. @throws FsError */
async function tryUnmount(path: string, lazy: boolean): Promise<boolean> {
  try {
    await unmountPath(path, { detach: lazy });
  } catch (cause) {
    if (mountAt(path)?.type !== MOUNT_TYPE) return true;
    if (cause instanceof FsError && cause.errno === "EBUSY") return false;
    throw cause;
  }
  return true;
}

function namesOfUsers(path: string): string {
  const users = usersOf(path);
  if (users.length === 0) return "a process that cannot be seen";
  const more = users.length > USERS_SHOWN_MAX ? ` and ${users.length - USERS_SHOWN_MAX} more` : "";
  return `${users.slice(0, USERS_SHOWN_MAX).join(", ")}${more}`;
}

/** Waits for the daemon, which may still have to send what was written; with `force` only for a while. @returns whether it ended by itself. */
async function waitForEnd(daemon: ProcessIdentity, { clock, force, say }: UnmountOptions): Promise<boolean> {
  const lateMs = clock.monotonicMs() + DAEMON_END_MS;
  let isLate = false;
  for (; isAlive(daemon); await pause(clock, LOOK_EVERY_MS)) {
    if (isLate || clock.monotonicMs() < lateMs) continue;
    isLate = true;
    if (force === true) process.kill(daemon.pid, "SIGKILL");
    else say(`it is unmounted, and process ${daemon.pid} still sends what was written; Ctrl-C leaves it to that`);
  }
  return !(isLate && force === true);
}

/**
 * Unmounts because whoever keeps the mount ends: says who uses it, waits a little for them, then detaches it all the same.
 *
 * Only this very mount: a later one at the same path is left alone. Never rejects: what fails is said.
 */
export async function takeDown(
  mounted: Pick<MountEntry, "path" | "type" | "deviceMinor"> | undefined,
  options: { clock: Clock; stopNow: AbortSignal; say: (text: string) => void },
): Promise<void> {
  if (mounted === undefined) return;
  const { path } = mounted;
  const { clock, stopNow, say } = options;
  const deadlineMs = clock.monotonicMs() + BUSY_MS;
  try {
    for (let isFirst = true; isStillAt(mounted); isFirst = false) {
      const isLast = stopNow.aborted || clock.monotonicMs() >= deadlineMs;
      if (await tryUnmount(path, isLast)) {
        if (isLast) say(`'${printable(path)}' was detached while it was in use`);
        return;
      }
      if (isFirst) say(`'${printable(path)}' is in use by ${namesOfUsers(path)}; waiting ${BUSY_MS / 1000} s for them`);
      await raceSignal(pause(clock, BUSY_LOOK_EVERY_MS), stopNow).catch(() => {});
    }
  } catch (cause) {
    say(`'${printable(path)}' cannot be unmounted: ${printable((cause as Error).message)}`);
  }
}

/** Resolves after `delayMs`. */
function pause(clock: Clock, delayMs: number): Promise<void> {
  return new Promise((resolve) => void clock.after(delayMs, resolve, { keepAlive: true }));
}
