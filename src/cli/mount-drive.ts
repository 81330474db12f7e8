/**
 * mount = fuse(remote), for whoever mounts: connects, mounts, and keeps the drive until it is unmounted or told to stop.
 *
 * The process that runs this serves the mount and so must never use it itself.
 */
import type { Clock } from "../base/clock.ts";
import { FsError } from "../base/errors.ts";
import { type Log, printable } from "../base/log.ts";
import { connectRemote, type Remote } from "../client/remote.ts";
import { parseDriveUrl } from "../client/url.ts";
import { type FuseMount, mountFuse } from "../fuse/mount.ts";
import { withoutToken } from "./drive-url.ts";
import { Exit, failure } from "./failure.ts";
import type { MountOptions } from "./mount-options.ts";
import { removeRecord, writeRecord } from "./mount-registry.ts";
import { identify } from "./process-table.ts";
import { aborted } from "./stop-signals.ts";
import { pause, takeDown } from "./unmount.ts";

const DETACHED_END_MS = 1000;

/** Plain data: it travels to the daemon as JSON. */
export interface DriveRequest {
  /** With token. */
  url: string;
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
}

export interface KeepOptions {
  log: Log;
  clock: Clock;
  /** Give up or unmount, and return. */
  stop: AbortSignal;
  /** Do not wait for those who use the mount. */
  stopNow: AbortSignal;
  /** The mount answers. */
  onReady: (drive: MountedDrive) => void;
}

/**
 * Mounts, and returns when the mount is gone.
 *
 * A link that ends for good leaves the mount in place: its requests fail until it is unmounted.
 *
 * @returns whether the mount has ended. If not, it was detached while in use, and ends with this process.
 * @throws whatever kept it from becoming ready; then nothing is mounted.
 */
export async function keepDrive(request: DriveRequest, keep: KeepOptions): Promise<boolean> {
  const { path, options } = request;
  const remote = await connectRemote({
    url: parseDriveUrl(request.url),
    readOnly: options.readOnly,
    log: keep.log,
    clock: keep.clock,
    signal: keep.stop,
  }).catch((cause: unknown) => {
    throw keep.stop.aborted ? interrupted() : cause;
  });
  try {
    const mount = await mountRemote(remote, request, keep);
    announce(remote, request, keep);
    // Settles at the latest when the remote is closed below, and never rejects.
    void remote.closed.then((cause) => {
      if (cause !== undefined) keep.log.error(`the server is gone: ${cause.message}; unmount ${printable(path)}`);
    });
    await Promise.race([mount.ended, aborted(keep.stop)]);
    if (keep.stop.aborted) await takeDown(path, { ...keep, say: keep.log.warn });
    return await end(mount, keep);
  } finally {
    removeRecord(path, process.pid);
    await remote.close();
  }
}

const interrupted = () => failure(Exit.FAILED, "interrupted; nothing is mounted");

/** Ends what is left of the mount; whether it has. */
async function end(mount: FuseMount, { log, clock }: KeepOptions): Promise<boolean> {
  const ended = mount.unmount().then(
    () => true,
    (cause: unknown) => {
      log.error("the mount did not end well", cause);
      return false;
    },
  );
  return Promise.race([ended, pause(clock, DETACHED_END_MS).then(() => false)]);
}

function announce({ share }: Remote, { url, path, logFile }: DriveRequest, { clock, onReady }: KeepOptions): void {
  const daemon = identify(process.pid) ?? { pid: process.pid, startTicks: 0 };
  const { readOnly } = share;
  const shownUrl = withoutToken(url);
  writeRecord({ path, url: shownUrl, readOnly, daemon, sinceMs: clock.realtimeMs(), log: logFile });
  onReady({ url: shownUrl, readOnly });
}

async function mountRemote(
  remote: Remote,
  { url, path, options }: DriveRequest,
  keep: KeepOptions,
): Promise<FuseMount> {
  const { share, fileSystem } = remote;
  const { attrTimeoutMs, entryTimeoutMs } = options;
  // Where the server trusts the ids it is told, the kernel can check permissions itself, by the same rules.
  const isTrusted = share.squash === "none";
  if (keep.stop.aborted) throw interrupted();
  try {
    return await mountFuse({
      fileSystem,
      path,
      source: withoutToken(url),
      log: keep.log.room("fuse"),
      clock: keep.clock,
      mountOptions: {
        readOnly: share.readOnly,
        allowOther: options.allowOther,
        nonEmpty: options.nonEmpty,
        defaultPermissions: isTrusted,
        forwardGroups: isTrusted,
        ...(attrTimeoutMs === undefined ? {} : { attrTimeoutMs }),
        ...(entryTimeoutMs === undefined ? {} : { entryTimeoutMs }),
      },
    });
  } catch (cause) {
    if (!(cause instanceof FsError)) throw cause;
    throw failure(Exit.SYSTEM, `cannot mount at '${printable(path)}': ${printable(cause.message)}`);
  }
}
