/**
 * How a drive tells its figures to `netdrive status`: a unix socket that answers every connection with one line of JSON.
 *
 * Only the owner of the runtime folder can reach it. The drive's process answers from memory, so it answers also when the server does not.
 */
import { rmSync } from "node:fs";
import { connect as connectTo, createServer, type Server } from "node:net";
import type { Clock } from "../base/clock.ts";
import type { RemoteStatus } from "../client/remote.ts";
import type { SessionState } from "../client/session.ts";

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

/** A status is far smaller; more is not one of ours. */
const STATUS_BYTES_MAX = 64 * 1024;
const ANSWER_TIMEOUT_MS = 2000;
const CONNECTIONS_MAX = 16;

/** Answers at the socket file `file` until closed. Without it a drive still works, so an error is the caller's to log. */
export async function serveStatus(file: string, status: () => DriveStatus): Promise<Server> {
  rmSync(file, { force: true });
  const server = createServer((socket) => {
    // A caller that goes away early is no concern of the drive.
    socket.on("error", () => {});
    socket.end(`${JSON.stringify(status())}\n`);
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.unref();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(file, resolve);
  });
  return server;
}

/** Asks at `file`; undefined if nobody answers there in time, or with something else. */
export function askStatus(file: string, clock: Clock): Promise<DriveStatus | undefined> {
  return new Promise((resolve) => {
    let text = "";
    const socket = connectTo(file);
    const settle = (status: DriveStatus | undefined) => {
      timer.stop();
      socket.destroy();
      resolve(status);
    };
    const timer = clock.after(ANSWER_TIMEOUT_MS, () => settle(undefined), { keepAlive: true });
    socket.setEncoding("utf8");
    socket.on("error", () => settle(undefined));
    socket.on("data", (chunk: string) => {
      text += chunk;
      if (text.length > STATUS_BYTES_MAX) settle(undefined);
    });
    socket.on("end", () => settle(parseStatus(text)));
  });
}

function parseStatus(text: string): DriveStatus | undefined {
  try {
    const status = JSON.parse(text) as DriveStatus;
    return typeof status.path === "string" && typeof status.remote === "object" ? status : undefined;
  } catch {
    return undefined;
  }
}
