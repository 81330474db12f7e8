/**
 * The life of one mount: checks, mounting, the session, unmounting, the end.
 *
 * The FileSystem stays its owner's: the mount releases what the kernel held of it, and does not close it.
 */
import { randomInt } from "node:crypto";
import { readdir, realpath, stat } from "node:fs/promises";
import { resolve } from "node:path";
import type { Clock } from "../base/clock.ts";
import { errnoName } from "../base/errno.ts";
import { FsError, toErrno } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { createFuseDevice, type FuseDevice } from "../sys/fuse-device.ts";
import {
  abortConnection,
  findMount,
  lockMountPoint,
  type MountedPath,
  type MountRequest,
  mountDevice,
  readProcessStatus,
  setReadAhead,
  unmountPath,
} from "../sys/fuse-mount.ts";
import { S_IFDIR, S_IFMT } from "../vfs/attr.ts";
import type { FileSystem, NodeId } from "../vfs/file-system.ts";
import { HANDLERS } from "./handlers.ts";
import { forgetNode } from "./notify.ts";
import { Session, type SessionCounters, type SessionOptions } from "./session.ts";

/** How long we wait for the kernel to begin after mounting. */
const INIT_TIMEOUT_MS = 30_000;
const REQUEST_BYTES_MAX = 1024 * 1024;
const SLOTS = 48;
/** Slots that the kernel's own requests leave to those of programs, and to data that was acknowledged and is still to be sent. */
const SLOTS_FOREGROUND = 24;

/** All of it optional; see DEFAULT_MOUNT_OPTIONS. */
export interface FuseMountOptions {
  readonly readOnly: boolean;
  /** Other users than the one who mounts may use it. */
  readonly allowOther: boolean;
  /** The kernel checks permissions by the attributes and access control lists it is shown, before it asks. */
  readonly defaultPermissions: boolean;
  /** How long the kernel may believe attributes and names without asking again. */
  readonly attrTimeoutMs: number;
  readonly entryTimeoutMs: number;
  /** The same for names that are not there; 0: not at all. */
  readonly negativeTimeoutMs: number;
  /** `fuse.SUBTYPE` is the type in /proc/self/mounts. */
  readonly subtype: string;
  /** Set-user-id bits and device files count; only for root. */
  readonly suid: boolean;
  readonly dev: boolean;
  readonly exec: boolean;
  readonly atime: boolean;
  /** Mount over a directory that is not empty. */
  readonly nonEmpty: boolean;
  /** Tell the FileSystem the supplementary groups of callers. */
  readonly forwardGroups: boolean;
  /** How far the kernel reads ahead of a sequential reader, where we may set it (root). */
  readonly readAheadBytes: number;
}

/** What the kernel reads ahead unless root says otherwise. @see VM_READAHEAD_PAGES in linux/mm.h */
export const KERNEL_READ_AHEAD_BYTES = 128 * 1024;

export const DEFAULT_MOUNT_OPTIONS: FuseMountOptions = {
  readOnly: false,
  allowOther: false,
  defaultPermissions: false,
  attrTimeoutMs: 1000,
  entryTimeoutMs: 1000,
  negativeTimeoutMs: 0,
  subtype: "netdrive",
  suid: false,
  dev: false,
  exec: true,
  atime: true,
  nonEmpty: false,
  forwardGroups: false,
  readAheadBytes: 4 * 1024 * 1024,
};

export interface FuseMount {
  /** As the kernel's list has it; undefined if that could not be read. */
  readonly mounted: MountedPath | undefined;
  /** Settles when the mount is gone, whoever ended it; never rejects. Nothing is asked of the FileSystem afterwards. */
  readonly ended: Promise<void>;
  /** Unmounts; if it is in use, it is taken out of sight and what uses it gets errors. @throws FsError EPERM and the like. */
  unmount(): Promise<void>;
  counters(): SessionCounters;
  /** Others have changed the node, or may now: the kernel drops the pages and attributes it has of it. Settles when it has, never rejects. */
  changedByOthers(id: NodeId): Promise<void>;
  /** How far the kernel reads ahead on this mount. */
  readonly readAheadBytes: number;
}

/**
 * Mounts `fileSystem` at `path` and returns when the kernel uses it.
 *
 * @throws FsError ENOENT, ENOTDIR, EACCES of the path; ENOTEMPTY; EBUSY a mount of this kind, alive or dead, is there or about
 *   to be; ENODEV no FUSE or no fusermount3; EPERM; and what `fileSystem.root` throws. If `signal` aborts before it is mounted, its reason or EINTR.
 */
export async function mountFuse(options: {
  fileSystem: FileSystem;
  path: string;
  source: string;
  log: Log;
  clock: Clock;
  mountOptions?: Partial<FuseMountOptions>;
  /** The mount is not wanted any more. */
  signal?: AbortSignal;
}): Promise<FuseMount> {
  const { fileSystem, source, log, clock, signal } = options;
  const settings = { ...DEFAULT_MOUNT_OPTIONS, ...options.mountOptions };
  const path = await checkMountPoint(options.path, settings);
  const caller = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0, groups: [], pid: process.pid };
  const root = await fileSystem.root({ caller, signal });
  const rootUntilMs = clock.monotonicMs() + settings.attrTimeoutMs;
  if ((root.attr.mode & S_IFMT) !== S_IFDIR) throw new FsError("ENOTDIR", "what is mounted is no directory");
  const request = { ...settings, path, source, maxReadBytes: REQUEST_BYTES_MAX };
  const { fd, mounted } = await mountAlone(request, signal);
  let session: Session;
  try {
    session = startSession(fd, { ...settings, fileSystem, rootId: root.id, log, clock });
  } catch (cause) {
    await unmountPath(path, { detach: true }).catch(() => {}); // The cause is what matters.
    throw cause;
  }
  // The kernel's first question is about the root, and on a long line it is worth a round trip.
  session.nodes.keepAttr(session.nodes.root, root.attr, rootUntilMs);
  const isThere = async () => {
    const there = await findMount(path);
    return there !== undefined && there.deviceMinor === mounted?.deviceMinor;
  };
  const ended = (async () => {
    log.debug(`the mount at ${path} ended: ${errnoName(await session.ended)}`);
    try {
      // After an abort the dead mount is still in the way.
      if (await isThere()) await unmountPath(path, { detach: true });
    } catch (cause) {
      log.warn(`a dead mount is left at ${path}`, cause);
    }
  })();
  const mount = {
    mounted,
    readAheadBytes: KERNEL_READ_AHEAD_BYTES,
    ended,
    unmount: () => unmount(path, mounted, isThere, session.device, ended),
    counters: () => session.counters(),
    changedByOthers: (id: NodeId) => forgetNode(session, id),
  };
  await untilInitialized(session, mount, clock);
  const { readAheadBytes } = settings;
  if (mounted !== undefined && readAheadBytes > 0 && (await setReadAhead(mounted, readAheadBytes))) {
    mount.readAheadBytes = readAheadBytes;
  }
  return mount;
}

/** Mounts, if nobody else has since the mount point was looked at. */
async function mountAlone(
  request: MountRequest,
  signal: AbortSignal | undefined,
): Promise<{ fd: number; mounted: MountedPath | undefined }> {
  const lock = await lockMountPoint(request.path);
  try {
    await refuseSecondMount(request.path, request.subtype);
    signal?.throwIfAborted();
    const fd = await mountDevice(request);
    return { fd, mounted: await findMount(request.path).catch(() => undefined) };
  } finally {
    await lock?.close();
  }
}

/** Begins to serve the mount whose descriptor is `fd`. @throws what keeps it from that; the mount is still there then. */
function startSession(
  fd: number,
  options: FuseMountOptions & Pick<SessionOptions, "fileSystem" | "rootId" | "log" | "clock">,
): Session {
  const session = new Session(
    {
      ...options,
      device: createFuseDevice(fd, SLOTS, REQUEST_BYTES_MAX),
      generation: randomInt(1, 2 ** 31),
      posixAcl: options.defaultPermissions,
      backgroundMax: SLOTS - SLOTS_FOREGROUND,
      readStatus: readProcessStatus,
    },
    HANDLERS,
  );
  session.start();
  return session;
}

/** Waits until the kernel has begun; if it does not, nothing is left mounted. */
async function untilInitialized(session: Session, mount: FuseMount, clock: Clock): Promise<void> {
  const timer = clock.after(INIT_TIMEOUT_MS, () => session.device.close());
  try {
    await session.initialized;
  } catch (cause) {
    await mount.unmount().catch(() => {}); // The cause is what matters.
    throw cause;
  } finally {
    timer.stop();
  }
}

/** The canonical path of a directory that can be mounted over. Looks at it while it is not ours. */
async function checkMountPoint(path: string, settings: FuseMountOptions): Promise<string> {
  let canonical: string;
  try {
    // Looking at a mount whose link is down may take as long as the link is; so the table of mounts is asked first.
    await refuseSecondMount(resolve(path), settings.subtype);
    canonical = await realpath(path);
    await refuseSecondMount(canonical, settings.subtype);
    if (!(await stat(canonical)).isDirectory())
      throw new FsError("ENOTDIR", "the mount point is not a directory", path);
    if (!settings.nonEmpty && (await readdir(canonical)).length > 0) {
      throw new FsError("ENOTEMPTY", "the mount point is not empty", path);
    }
  } catch (cause) {
    if (cause instanceof FsError) throw cause;
    const errno = toErrno(cause);
    const text = errno === "ENOTCONN" ? "a dead mount is here; unmount it first" : "the mount point cannot be used";
    throw new FsError(errno, text, path, { cause });
  }
  return canonical;
}

async function refuseSecondMount(path: string, subtype: string): Promise<void> {
  const there = await findMount(path);
  if (there?.type !== `fuse.${subtype}`) return;
  throw new FsError("EBUSY", `something is mounted here already, unmount it first: ${there.source}`, path);
}

async function unmount(
  path: string,
  mounted: MountedPath | undefined,
  isThere: () => Promise<boolean>,
  device: FuseDevice,
  ended: Promise<void>,
): Promise<void> {
  if (await isThere()) {
    try {
      await unmountPath(path);
    } catch (error) {
      if (!(error instanceof FsError) || error.errno !== "EBUSY") throw error;
      // The end of the device is not the end of the connection while a thread of ours still waits for a page (fuse-notifier.h): who asks for the page again
      // would wait for nobody, and the thread for him. What is left of the mount is detached at the end.
      if (mounted !== undefined) await abortConnection(mounted);
      device.close();
    }
  } else {
    // Detached by somebody else, and still in use.
    device.close();
  }
  await ended;
}
