/**
 * How a drive tells its figures to `netdrive status`: a socket that answers every connection with one line of JSON.
 *
 * The drive's process answers from memory, so it answers also when the server does not.
 */
import type { Server } from "node:net";
import type { Clock } from "../base/clock.ts";
import type { RemoteStatus } from "../client/remote.ts";
import type { SessionState } from "../client/session.ts";
import { askSocket, sayLine, serveSocket } from "./drive-socket.ts";

/** Sizes in bytes, times in milliseconds; the rest are counts. */
export interface DriveStatus {
  path: string;
  /** Without token. */
  url: string;
  readOnly: boolean;
  /** Whether the server is there; "resuming" on the way back. */
  state: SessionState;
  /** Milliseconds since 1970. */
  sinceMs: number;
  remote: RemoteStatus;
  /** The size of a section and how many requests may be outstanding on a channel, as negotiated. */
  sectionBytes: number;
  credits: number;
  /** Acknowledged to applications and not yet on the server. */
  dirtyBytes: number;
  readAheadBytes: number;
  /** Files with data that was acknowledged here and that the server did not take. */
  recovered: readonly string[];
  /** What the kernel asked of this mount since the start. */
  kernel: {
    requests: number;
    errors: number;
    inFlight: number;
    nodes: number;
    bytesRead: number;
    bytesWritten: number;
  };
}

const ANSWER_TIMEOUT_MS = 2000;
const CONNECTIONS_MAX = 16;

/** Answers at the socket file `file` until closed. Without it a drive still works, so an error is the caller's to log. */
export function serveStatus(file: string, status: () => DriveStatus): Promise<Server> {
  return serveSocket(file, CONNECTIONS_MAX, (socket) => sayLine(socket, status()));
}

/** Asks at `file`; undefined if nobody answers there in time, or with something else. */
export async function askStatus(file: string, clock: Clock): Promise<DriveStatus | undefined> {
  const status = (await askSocket(file, { clock, timeoutMs: ANSWER_TIMEOUT_MS })) as DriveStatus | null | undefined;
  return typeof status?.path === "string" && typeof status.remote === "object" ? status : undefined;
}
