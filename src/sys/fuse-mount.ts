/**
 * Mounting and unmounting a FUSE file system: mount(2) as root, fusermount3 for everybody else.
 *
 * Knows the kernel's and fusermount3's interfaces, not what is served. Nothing here touches a mount, but `isDead`, in a process
 * of its own.
 */
import { spawn } from "node:child_process";
import { constants as files } from "node:fs";
import { type FileHandle, open, writeFile } from "node:fs/promises";
import { constants } from "node:os";
import type { Clock } from "../base/clock.ts";
import { errnoName } from "../base/errno.ts";
import { FsError } from "../base/errors.ts";
import { loadAddon } from "./addon.ts";
import { mountAt } from "./mount-table.ts";

interface Native {
  fuseOpenDevice(): number;
  fuseCloseDescriptor(fd: number): number;
  fuseLockDescriptor(fd: number): number;
  fuseMount(source: string, path: string, type: string, flags: number, data: string): number;
  fuseUnmount(path: string, flags: number): Promise<number>;
  fuseSocketPair(): [number, number] | number;
  fuseReceiveDescriptor(socket: number): number;
  fuseProcessStatus(tid: number, target: Buffer): number;
}

/** mount(2) flags we use. @see linux/mount.h */
const MS_RDONLY = 1;
const MS_NOSUID = 2;
const MS_NODEV = 4;
const MS_NOEXEC = 8;
const MS_NOATIME = 1024;
const MNT_FORCE = 1;
const MNT_DETACH = 2;
const UMOUNT_NOFOLLOW = 8;

const HELPER = "fusermount3";
const HELPER_OUTPUT_BYTES_MAX = 64 * 1024;

export interface MountRequest {
  /** Canonical path of an empty directory. */
  path: string;
  /** What /proc/self/mounts shows first. */
  source: string;
  subtype: string;
  readOnly: boolean;
  allowOther: boolean;
  defaultPermissions: boolean;
  /** Set-user-id bits and device files of the drive count; only root can ask for it. */
  suid: boolean;
  dev: boolean;
  exec: boolean;
  atime: boolean;
  maxReadBytes: number;
}

const failure = (result: number, op: string, path?: string, text?: string) =>
  new FsError(errnoName(-result), text ?? op, path);

/** Whether mount(2) is ours to call. */
export function isRoot(): boolean {
  return process.geteuid?.() === 0;
}

/**
 * Keeps others who call this away from the mount point, until the caller closes what it gets: two that mount at the same time see nothing of each other in the
 * kernel's list.
 *
 * @returns undefined if the directory cannot be locked: then nobody is kept away.
 * @throws FsError EBUSY somebody has locked it.
 */
export async function lockMountPoint(path: string): Promise<FileHandle | undefined> {
  const folder = await open(path, files.O_RDONLY | files.O_DIRECTORY).catch(() => undefined);
  if (folder === undefined) return undefined;
  const result = loadAddon<Native>().fuseLockDescriptor(folder.fd);
  if (result === 0) return folder;
  await folder.close();
  if (result !== -constants.errno.EWOULDBLOCK) return undefined;
  throw new FsError("EBUSY", "somebody mounts here at this moment, or has locked the directory", path);
}

/** Mounts and returns the descriptor of the connection. @throws FsError with one clear line. */
export async function mountDevice(request: MountRequest): Promise<number> {
  return isRoot() ? mountDirectly(request) : mountByHelper(request);
}

function mountDirectly(request: MountRequest): number {
  const native = loadAddon<Native>();
  const fd = native.fuseOpenDevice();
  if (fd < 0) throw openFailure(-fd);
  const options = [`fd=${fd}`, "rootmode=40000", `user_id=${process.getuid?.()}`, `group_id=${process.getgid?.()}`];
  options.push(...commonOptions(request));
  const flags =
    (request.readOnly ? MS_RDONLY : 0) |
    (request.suid ? 0 : MS_NOSUID) |
    (request.dev ? 0 : MS_NODEV) |
    (request.exec ? 0 : MS_NOEXEC) |
    (request.atime ? 0 : MS_NOATIME);
  const result = native.fuseMount(request.source, request.path, `fuse.${request.subtype}`, flags, options.join(","));
  if (result < 0) {
    native.fuseCloseDescriptor(fd);
    throw failure(result, "mount", request.path, result === -constants.errno.EPERM ? "mount: not permitted" : "mount");
  }
  return fd;
}

function openFailure(errno: number): FsError {
  const { ENOENT, ENODEV, ENXIO } = constants.errno;
  if (errno === ENOENT || errno === ENODEV || errno === ENXIO) {
    return new FsError(
      "ENODEV",
      "there is no FUSE on this machine (load the module 'fuse', or pass the device in)",
      "/dev/fuse",
    );
  }
  return failure(-errno, "open", "/dev/fuse");
}

function commonOptions(request: MountRequest): string[] {
  const options = [`max_read=${request.maxReadBytes}`];
  if (request.defaultPermissions) options.push("default_permissions");
  if (request.allowOther) options.push("allow_other");
  return options;
}

/** fusermount3 reads `-o` with backslash escapes. */
const escapeOption = (text: string) => text.replace(/[\\,]/g, "\\$&");

async function mountByHelper(request: MountRequest): Promise<number> {
  const native = loadAddon<Native>();
  const pair = native.fuseSocketPair();
  if (typeof pair === "number") throw failure(pair, "socketpair");
  const [ours, theirs] = pair;
  try {
    const options = [
      ...commonOptions(request),
      `fsname=${escapeOption(request.source)}`,
      `subtype=${escapeOption(request.subtype)}`,
    ];
    options.push("nosuid", "nodev");
    if (request.readOnly) options.push("ro");
    if (!request.exec) options.push("noexec");
    if (!request.atime) options.push("noatime");
    await runHelper(["-o", options.join(","), "--", request.path], request.path, theirs);
    const fd = native.fuseReceiveDescriptor(ours);
    if (fd < 0) throw failure(fd, `${HELPER}: no descriptor came`, request.path);
    return fd;
  } finally {
    native.fuseCloseDescriptor(ours);
    native.fuseCloseDescriptor(theirs);
  }
}

/** Runs fusermount3; its last line of complaint becomes the error. */
function runHelper(args: string[], path: string, descriptor?: number): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(HELPER, args, {
      stdio: ["ignore", "ignore", "pipe", descriptor ?? "ignore"],
      env: { ...process.env, _FUSE_COMMFD: "3", LC_ALL: "C" },
    });
    let output = "";
    child.stderr?.on("data", (chunk: Buffer) => {
      if (output.length < HELPER_OUTPUT_BYTES_MAX) output += chunk.toString();
    });
    child.on("error", (cause: NodeJS.ErrnoException) => {
      const missing = cause.code === "ENOENT";
      reject(
        new FsError(
          missing ? "ENODEV" : "EIO",
          missing ? `${HELPER} is not installed (package fuse3), and only root can do without it` : HELPER,
          path,
          { cause },
        ),
      );
    });
    child.on("close", (code) => {
      if (code === 0) resolve();
      else reject(helperFailure(output, path));
    });
  });
}

function helperFailure(output: string, path: string): FsError {
  const text =
    output
      .trim()
      .split("\n")
      .at(-1)
      ?.replace(/^fusermount3: /, "") ?? "";
  const errno = /not permitted|allow_other/i.test(text)
    ? "EPERM"
    : /permission denied|no write access/i.test(text)
      ? "EACCES"
      : /busy/i.test(text)
        ? "EBUSY"
        : /not found in|not mounted|invalid argument/i.test(text)
          ? "EINVAL"
          : /device not found|failed to open \/dev\/fuse/i.test(text)
            ? "ENODEV"
            : "EIO";
  return new FsError(errno, `${HELPER}: ${text === "" ? "failed" : text}`, path);
}

/** Unmounts. @throws FsError EBUSY in use; EINVAL not mounted; EPERM. */
export async function unmountPath(path: string, options?: { detach?: boolean }): Promise<void> {
  if (!isRoot()) {
    await runHelper(["-u", ...(options?.detach === true ? ["-z"] : []), "--", path], path);
    return;
  }
  const result = await loadAddon<Native>().fuseUnmount(
    path,
    UMOUNT_NOFOLLOW | (options?.detach === true ? MNT_DETACH : 0),
  );
  if (result < 0) throw failure(result, "umount", path);
}

/** Ends the connection under a mount of another process: everything that waits in it fails. Best effort. */
export async function abortConnection(mounted: MountedPath): Promise<void> {
  try {
    await writeFile(`/sys/fs/fuse/connections/${mounted.deviceMinor}/abort`, "1");
  } catch {
    // Without fusectl root has the forced unmount, which aborts first; others must wait for the end of the process.
    if (isRoot()) await loadAddon<Native>().fuseUnmount(mounted.path, UMOUNT_NOFOLLOW | MNT_FORCE);
  }
}

/** Exit code of a process that was told that the connection has ended. */
const IS_DEAD = 3;
const DEAD_ERRORS = ["ENOTCONN", "ECONNABORTED"];
const ASK = `
try { require("node:fs").statfsSync(process.argv[1]) }
catch ({ code }) { if (${JSON.stringify(DEAD_ERRORS)}.includes(code)) process.exitCode = ${IS_DEAD} }`;
const ASK_TIMEOUT_MS = 5_000;

/**
 * Whether nobody serves the mount at `path` any more. A mount whose process hangs is not dead, nor is one that does not let
 * us in.
 *
 * The kernel has no list that says so. It tells who asks something of the mount, at once if the connection has ended; where it
 * has not, the answer may never come, so a process of its own asks, and is killed.
 */
export function isDead(path: string, clock: Clock): Promise<boolean> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ["-e", ASK, path], { stdio: "ignore" });
    const settle = (isIt: boolean) => {
      timer.stop();
      resolve(isIt);
    };
    const timer = clock.after(
      ASK_TIMEOUT_MS,
      () => {
        child.kill("SIGKILL");
        // It may stay where it waits.
        child.unref();
        resolve(false);
      },
      { keepAlive: true },
    );
    child.once("error", () => settle(false));
    child.once("exit", (code) => settle(code === IS_DEAD));
  });
}

export interface MountedPath {
  path: string;
  type: string;
  source: string;
  deviceMajor: number;
  deviceMinor: number;
}

/** The topmost mount exactly at `path`, without touching it. */
export async function findMount(path: string): Promise<MountedPath | undefined> {
  return mountAt(path);
}

/** Raises how far the kernel reads ahead on this mount; 128 KiB by default. Best effort: only root may. */
export async function setReadAhead(mounted: MountedPath, bytes: number): Promise<boolean> {
  try {
    const folder = `/sys/class/bdi/${mounted.deviceMajor}:${mounted.deviceMinor}`;
    await writeFile(`${folder}/read_ahead_kb`, String(Math.floor(bytes / 1024)));
    return true;
  } catch {
    return false;
  }
}

let native: Native | undefined;

/** Reads /proc/TID/status of a thread that waits for us into `target`; returns the bytes, or -errno. */
export function readProcessStatus(tid: number, target: Buffer): number {
  native ??= loadAddon<Native>();
  return native.fuseProcessStatus(tid, target);
}
