/**
 * What a mount daemon and its starter say to each other: one line of JSON each way.
 */
import type { LogLevel } from "../base/log.ts";
import type { Exit } from "./failure.ts";
import type { DriveRequest, MountedDrive } from "./mount-drive.ts";

/** What the starter writes. */
export interface DaemonRequest extends DriveRequest {
  logFile: string;
  logLevel: LogLevel;
  /** The daemon ends when its starter does. */
  isTied: boolean;
}

/** What the daemon writes, once. */
export type DaemonReport =
  | ({ isReady: true; pid: number } & MountedDrive)
  | { isReady: false; exit: Exit; text: string };

export const REPORT_DESCRIPTOR = 3;
/** Names the daemon's entry on the command line; not for users. */
export const DAEMON_COMMAND = "mount-daemon";
