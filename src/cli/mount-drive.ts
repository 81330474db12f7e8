/**
 * mount = fuse(cached(remote)), for whoever mounts: connects, mounts, and keeps the drive until it is unmounted or told to stop.
 *
 * The process that runs this serves the mount and so must never use it itself.
 */
import type { Server } from "node:net";
import type { Clock } from "../base/clock.ts";
import { FsError } from "../base/errors.ts";
import { type Log, printable } from "../base/log.ts";
import { nameToText } from "../base/name.ts";
import { CachedFileSystem } from "../cache/cached.ts";
import { LastKnownFileSystem } from "../cache/last-known.ts";
import type { OpenEvents } from "../client/open-table.ts";
import { connectRemote, type Remote, type RemoteShare } from "../client/remote.ts";
import { parseDriveUrl } from "../client/url.ts";
import { DEFAULT_MOUNT_OPTIONS, type FuseMount, mountFuse } from "../fuse/mount.ts";
import { busyWait } from "../sys/busy-wait.ts";
import { optimizeEarly } from "../sys/optimize-early.ts";
import type { Trust } from "../transport/connect.ts";
import type { NodeId } from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";
import { withoutToken } from "./drive-url.ts";
import { exportOpen } from "./export-open.ts";
import { serveExport } from "./export-socket.ts";
import { Exit, failure, interruptedMount } from "./failure.ts";
import type { MountOptions } from "./mount-options.ts";
import {
  exportSocketOf,
  findRecord,
  makeRuntimeFolder,
  removeRecord,
  statusSocketOf,
  writeRecord,
} from "./mount-registry.ts";
import { identify } from "./process-table.ts";
import { RecoveryFiles, type Unsent } from "./recovery-files.ts";
import { serveStatus } from "./status-socket.ts";
import { aborted } from "./stop-signals.ts";
import { formatTicket } from "./ticket.ts";
import { takeDown } from "./unmount.ts";

const DETACHED_END_MS = 1000;
/** Defaults of `-o write_behind` and `-o read_ahead`: what a line of 1 Gbit/s and 150 ms holds, with room. */
const WRITE_BEHIND_BYTES = 32 * 1024 * 1024;
const READ_AHEAD_BYTES = 64 * 1024 * 1024;

/** Plain data: it travels to the daemon as JSON. */
export interface DriveRequest {
  /** With token. */
  url: string;
  /** Of the URL's user, if it has one. */
  password?: string;
  /** How the server shows that it is the one; absent if no connection is encrypted. */
  trust?: Trust;
  /** As `checkTarget` returned it. */
  path: string;
  options: MountOptions;
  /** Where the process logs; null in the foreground. */
  logFile: string | null;
}

/** What is known of a drive once it answers. */
export interface MountedDrive {
  /** Without token. */
  url: string;
  readOnly: boolean;
  /** Whose identity the server does not take from here. */
  squash: RemoteShare["squash"];
}

export interface KeepOptions {
  log: Log;
  clock: Clock;
  /** Give up or unmount, and return. */
  stop: AbortSignal;
  /** Do not wait for those who use the mount. */
  stopNow: AbortSignal;
  /** The mount answers. If this throws, nothing stays mounted. */
  onReady: (drive: MountedDrive) => void;
}

/**
 * Mounts, and returns when the mount is gone.
 *
 * A server that is away leaves the mount in place: what needs it waits until it is back. A mount that was detached while
 * in use ends with this process.
 *
 * @returns what was acknowledged and did not reach the server, if there is any.
 * @throws whatever kept it from becoming ready; then nothing is mounted.
 */
export async function keepDrive(request: DriveRequest, keep: KeepOptions): Promise<Unsent | undefined> {
  const { options } = request;
  const remote = await connectRemote({
    url: parseDriveUrl(request.url),
    ...(request.password === undefined ? {} : { password: request.password }),
    ...(request.trust === undefined ? {} : { trust: request.trust }),
    security: options.security,
    readOnly: options.readOnly,
    isPipelined: options.pipeline,
    leases: options.leases,
    ...(options.channels === undefined ? {} : { ioChannels: options.channels }),
    ...(options.sectionBytes === undefined ? {} : { sectionBytes: options.sectionBytes }),
    ...(options.timeoutMs === undefined ? {} : { answerTimeoutMs: options.timeoutMs, timeoutMs: options.timeoutMs }),
    log: keep.log,
    clock: keep.clock,
    signal: keep.stop,
  }).catch((cause: unknown) => {
    throw keep.stop.aborted ? interruptedMount() : cause;
  });
  let mount: FuseMount | undefined;
  let status: Server | undefined;
  let exporting: Server | undefined;
  const nameOf = (id: NodeId) => remote.nameOf(id);
  const recovered = new RecoveryFiles({ clock: keep.clock, log: keep.log.room("recovery"), nameOf });
  const known = new LastKnownFileSystem(remote.fileSystem, keep.clock);
  remote.onState((state) => {
    if (state !== "connected") known.serverAway();
  });
  const drive = cachedDrive({ remote, known }, options, keep, recovered, () => mount?.readAheadBytes ?? 0);
  const forget = async (node: NodeId) => {
    known.changedByOthers(node);
    drive.changedByOthers(node);
    await mount?.changedByOthers(node);
  };
  tellOfOthers(remote, keep.log, {
    // Never rejects.
    changed: (node) => void forget(node),
    leaseLost: (node, remains) => {
      if (remains !== Lease.NONE) return;
      known.leaseLost(node);
      // As if it had been given back. Never rejects.
      void forget(node);
    },
    async leaseBroken(node, remains) {
      if (remains === Lease.NONE) known.leaseLost(node);
      await drive.sendUnsent(node);
      if (remains !== Lease.NONE) return;
      await forget(node);
      // The kernel may have written pages that a program had changed in its memory.
      await drive.sendUnsent(node);
    },
  });
  optimizeEarly();
  busyWait();
  try {
    mount = await mountDrive(drive, remote.share, request, keep);
    try {
      status = await tellStatus({ remote, drive, mount, request, recovered }, keep);
      exporting = await giveOutTickets({ remote, drive, request }, keep);
      announce(remote, request, keep);
    } catch (cause) {
      // Nobody was told of the mount, so nobody would take it down.
      await takeDown(mount.mounted, { ...keep, say: keep.log.warn });
      await end(mount, keep);
      throw cause;
    }
    await Promise.race([mount.ended, aborted(keep.stop)]);
    if (keep.stop.aborted) await takeDown(mount.mounted, { ...keep, say: keep.log.warn });
    await end(mount, keep);
  } finally {
    status?.close();
    exporting?.close();
    await closeDrive(drive, recovered, request, keep);
  }
  return recovered.unsent;
}

/** Sends what is still to be sent. What could not be is said to who waits for the end of this process. */
async function closeDrive(
  drive: CachedFileSystem,
  recovered: RecoveryFiles,
  { path }: DriveRequest,
  { log }: KeepOptions,
): Promise<void> {
  const record = removeRecord(path, process.pid);
  await drive.close();
  const { unsent } = recovered;
  // By now another drive may be mounted there.
  if (record === undefined || unsent === undefined || findRecord(path) !== undefined) return;
  try {
    writeRecord({ ...record, unsent });
  } catch (cause) {
    log.warn("'netdrive umount' will not say where unsent data is kept", cause);
  }
}

/** Answers `netdrive status`. A drive without works as well, so a failure is only logged. */
async function tellStatus(
  parts: { remote: Remote; drive: CachedFileSystem; mount: FuseMount; request: DriveRequest; recovered: RecoveryFiles },
  { log, clock }: KeepOptions,
): Promise<Server | undefined> {
  const { remote, drive, mount, request, recovered } = parts;
  const { readOnly, sectionBytes, credits } = remote.share;
  const { path } = request;
  const url = withoutToken(request.url);
  const sinceMs = clock.realtimeMs();
  try {
    makeRuntimeFolder();
    return await serveStatus(statusSocketOf(path, process.pid), () => ({
      ...{ path, url, readOnly, state: remote.state, sinceMs, sectionBytes, credits },
      remote: remote.status(),
      ...drive.figures,
      recovered: recovered.paths,
      kernel: mount.counters(),
    }));
  } catch (cause) {
    log.warn("'netdrive status' will not work for this drive", cause);
    return undefined;
  }
}

/** Answers `netdrive handle export`. A drive without works as well, so a failure is only logged. */
async function giveOutTickets(
  { remote, drive, request }: { remote: Remote; drive: CachedFileSystem; request: DriveRequest },
  { log, clock }: KeepOptions,
): Promise<Server | undefined> {
  const { host, port, share } = parseDriveUrl(request.url);
  const { trust, path } = request;
  const fingerprint = trust !== undefined && "fingerprint" in trust ? { fingerprint: trust.fingerprint } : {};
  const place = { host, port, share, ...fingerprint };
  try {
    makeRuntimeFolder();
    return await serveExport(exportSocketOf(path, process.pid), async (wanted) => {
      try {
        const open = await exportOpen({ remote, drive, clock }, wanted);
        return { ticket: formatTicket({ place, security: request.options.security, open }) };
      } catch (error) {
        return { error: error instanceof Error ? error.message : String(error) };
      }
    });
  } catch (cause) {
    log.warn("'netdrive handle export' will not work for this drive", cause);
    return undefined;
  }
}

/** Ends what is left of the mount. Does not wait long for one that was detached while in use. */
function end(mount: FuseMount, { log, clock }: KeepOptions): Promise<void> {
  return new Promise((resolve) => {
    const timer = clock.after(DETACHED_END_MS, resolve, { keepAlive: true });
    void mount
      .unmount()
      .catch((cause: unknown) => log.error("the mount did not end well", cause))
      .then(() => {
        timer.stop();
        resolve();
      });
  });
}

/** Says that the drive is there. @throws CommanderError FAILED it is not wanted any more; and what `onReady` throws. */
function announce({ share }: Remote, { url, path, logFile }: DriveRequest, keep: KeepOptions): void {
  if (keep.stop.aborted) throw interruptedMount();
  const daemon = identify(process.pid) ?? { pid: process.pid, startTicks: 0 };
  const { readOnly, squash } = share;
  const shownUrl = withoutToken(url);
  writeRecord({ path, url: shownUrl, readOnly, daemon, sinceMs: keep.clock.realtimeMs(), log: logFile });
  keep.onReady({ url: shownUrl, readOnly, squash });
}

/** What others did to open files is told to those who cache them, and, if it was while the server was away, to people. */
function tellOfOthers(
  remote: Remote,
  log: Log,
  caches: Required<Pick<OpenEvents, "leaseBroken" | "leaseLost">> & { changed(node: NodeId): void },
): void {
  const { changed, leaseBroken, leaseLost } = caches;
  remote.events = {
    leaseBroken,
    leaseLost,
    changed: (node, { changedBy }) => {
      changed(node);
      const by = changedBy === "" ? "" : ` by ${printable(changedBy)}`;
      log.warn(`'${shownName(remote, node)}' was changed${by} while the server was away`);
    },
    changedThroughOpen: changed,
    gone: (_handle, node) => {
      leaseLost(node, Lease.NONE);
      log.error(`'${shownName(remote, node)}' is not open on the server any more: programs that use it get ESTALE`);
    },
  };
}

function shownName(remote: Remote, node: NodeId): string {
  const name = remote.nameOf(node);
  return name === undefined ? "a file" : printable(nameToText(name));
}

/** The remote with read-ahead and write-behind. */
function cachedDrive(
  { remote, known }: { remote: Remote; known: LastKnownFileSystem },
  options: MountOptions,
  { log, clock }: KeepOptions,
  recovered: RecoveryFiles,
  kernelReadAheadBytes: () => number,
): CachedFileSystem {
  const { pipeline, sync } = options;
  // A write that somebody else's lock may refuse must not be acknowledged before.
  const isEarly = pipeline && !sync && !remote.share.mandatoryLocks;
  return new CachedFileSystem(known, {
    sectionBytes: remote.share.sectionBytes,
    writeBehindBytesMax: isEarly ? (options.writeBehindBytes ?? WRITE_BEHIND_BYTES) : 0,
    readAheadBytesMax: pipeline ? (options.readAheadBytes ?? READ_AHEAD_BYTES) : 0,
    kernelReadAheadBytes,
    attrTimeoutMs: options.attrTimeoutMs ?? DEFAULT_MOUNT_OPTIONS.attrTimeoutMs,
    lineBytes: remote.lineBytes,
    keepLost: (id, offsetBytes, data) => recovered.save(id, offsetBytes, data),
    clock,
    log: log.room("cache"),
  });
}

async function mountDrive(
  fileSystem: CachedFileSystem,
  share: RemoteShare,
  { url, path, options }: DriveRequest,
  keep: KeepOptions,
): Promise<FuseMount> {
  const { attrTimeoutMs, entryTimeoutMs, allowOther, nonEmpty, suid, dev, exec, atime } = options;
  // Where users are themselves on the server, the kernel checks permissions as well, by the same rules: what it has cached for one user it would
  // show to another otherwise. Root, if the server makes it nobody, passes here and is judged there.
  const isTrusted = share.squash !== "all";
  if (keep.stop.aborted) throw interruptedMount();
  try {
    return await mountFuse({
      fileSystem,
      path,
      source: withoutToken(url),
      log: keep.log.room("fuse"),
      clock: keep.clock,
      mountOptions: {
        ...{ allowOther, nonEmpty, suid, dev, exec, atime },
        readOnly: share.readOnly,
        defaultPermissions: isTrusted,
        forwardGroups: isTrusted,
        ...(attrTimeoutMs === undefined ? {} : { attrTimeoutMs }),
        ...(entryTimeoutMs === undefined ? {} : { entryTimeoutMs }),
      },
      signal: keep.stop,
    });
  } catch (cause) {
    if (keep.stop.aborted) throw interruptedMount();
    if (!(cause instanceof FsError)) throw cause;
    throw failure(
      cause.errno === "EBUSY" ? Exit.PATH : Exit.SYSTEM,
      `cannot mount at '${printable(path)}': ${printable(cause.message)}`,
    );
  }
}
