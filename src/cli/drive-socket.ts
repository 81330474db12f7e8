/**
 * The unix sockets by which a drive's process answers other commands: a line of JSON, or one each way, a connection.
 *
 * Only the owner of the runtime folder can reach them.
 */
import { rmSync } from "node:fs";
import { connect as connectTo, createServer, type Server, type Socket } from "node:net";
import type { Clock } from "../base/clock.ts";

/** Questions are far smaller; more is not one of ours. */
export const QUESTION_CHARS_MAX = 64 * 1024;
/** An answer may name each file of a drive whose data could not be sent. */
const ANSWER_CHARS_MAX = 16 * 1024 * 1024;

/** Serves the socket file `file` until closed. Without it a drive still works, so an error is the caller's to log. */
export async function serveSocket(
  file: string,
  connectionsMax: number,
  connected: (socket: Socket) => void,
): Promise<Server> {
  rmSync(file, { force: true });
  const server = createServer((socket) => {
    // A caller that goes away early is no concern of the drive.
    socket.on("error", () => {});
    connected(socket);
  });
  server.maxConnections = connectionsMax;
  server.unref();
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(file, resolve);
  });
  return server;
}

/** Sends a value as a line, the last that is sent. */
export function sayLine(socket: Socket, value: unknown): void {
  socket.end(`${JSON.stringify(value)}\n`);
}

/** What the other side says first, as JSON; undefined if that is nothing, no JSON or too much. Calls `done` once. */
export function onLine(socket: Socket, charsMax: number, done: (value: unknown) => void): void {
  let text = "";
  let isDone = false;
  const end = (line: string | undefined) => {
    if (isDone) return;
    isDone = true;
    done(line === undefined ? undefined : parsed(line));
  };
  socket.setEncoding("utf8");
  socket.on("data", (chunk: string) => {
    const from = text.length;
    text += chunk;
    const at = text.indexOf("\n", from);
    if ((at < 0 ? text.length : at) > charsMax) end(undefined);
    else if (at >= 0) end(text.slice(0, at));
  });
  socket.on("close", () => end(undefined));
}

/** What the drive at `file` says, to `question` if there is one; undefined if it says nothing in time, or something else. */
export function askSocket(
  file: string,
  { clock, timeoutMs, question }: { clock: Clock; timeoutMs: number; question?: object },
): Promise<unknown> {
  return new Promise((resolve) => {
    const socket = connectTo(file);
    const timer = clock.after(timeoutMs, () => socket.destroy(), { keepAlive: true });
    // "close" follows.
    socket.on("error", () => {});
    if (question !== undefined) socket.write(`${JSON.stringify(question)}\n`);
    onLine(socket, ANSWER_CHARS_MAX, (value) => {
      timer.stop();
      socket.destroy();
      resolve(value);
    });
  });
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line);
  } catch {
    return undefined;
  }
}
