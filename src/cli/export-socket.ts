/**
 * How `netdrive handle export` asks a drive's process for a ticket: a unix socket beside the status socket, one line of JSON each way.
 *
 * Only the owner of the runtime folder can reach it: he could use the file anyway.
 */
import { rmSync } from "node:fs";
import { connect as connectTo, createServer, type Server, type Socket } from "node:net";
import type { Clock } from "../base/clock.ts";

/** A file of the drive, as seen from outside. */
export interface ExportRequest {
  /** Inode number, decimal. */
  readonly ino: string;
  /** Its path below the mount, one char a byte; empty: it has none any more. */
  readonly names: readonly string[];
}

export type ExportAnswer = { readonly ticket: string } | { readonly error: string };

const LINE_BYTES_MAX = 64 * 1024;
const ANSWER_TIMEOUT_MS = 30_000;
const CONNECTIONS_MAX = 4;

/** Answers at the socket file `file` until closed. `answer` never rejects. */
export async function serveExport(
  file: string,
  answer: (request: ExportRequest) => Promise<ExportAnswer>,
): Promise<Server> {
  rmSync(file, { force: true });
  const server = createServer((socket) => {
    // A caller that goes away early is no concern of the drive.
    socket.on("error", () => {});
    onLine(socket, (line) => {
      const request = line === undefined ? undefined : parseRequest(line);
      if (request === undefined) socket.destroy();
      // `answer` never rejects.
      else void answer(request).then((said) => socket.end(`${JSON.stringify(said)}\n`));
    });
  });
  server.maxConnections = CONNECTIONS_MAX;
  server.unref();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(file, resolve);
  });
  return server;
}

/** Asks at `file`; undefined if nobody answers there in time. */
export function askExport(file: string, request: ExportRequest, clock: Clock): Promise<ExportAnswer | undefined> {
  return new Promise((resolve) => {
    const socket = connectTo(file);
    const settle = (answer: ExportAnswer | undefined) => {
      timer.stop();
      socket.destroy();
      resolve(answer);
    };
    const timer = clock.after(ANSWER_TIMEOUT_MS, () => settle(undefined), { keepAlive: true });
    socket.on("error", () => settle(undefined));
    socket.write(`${JSON.stringify(request)}\n`);
    onLine(socket, (line) => settle(line === undefined ? undefined : (JSON.parse(line) as ExportAnswer)));
  });
}

/** Calls `done` once: with the first line, or undefined if there is none. */
function onLine(socket: Socket, done: (line: string | undefined) => void): void {
  let text = "";
  let isDone = false;
  const end = (line: string | undefined) => {
    if (isDone) return;
    isDone = true;
    done(line);
  };
  socket.setEncoding("utf8");
  socket.on("data", (chunk: string) => {
    text += chunk;
    const at = text.indexOf("\n");
    if (at >= 0) end(text.slice(0, at));
    else if (text.length > LINE_BYTES_MAX) end(undefined);
  });
  socket.on("end", () => end(undefined));
}

function parseRequest(line: string): ExportRequest | undefined {
  try {
    const { ino, names } = JSON.parse(line) as ExportRequest;
    const isWhole = typeof ino === "string" && Array.isArray(names) && names.every((name) => typeof name === "string");
    return isWhole ? { ino, names } : undefined;
  } catch {
    return undefined;
  }
}
