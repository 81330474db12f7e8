/**
 * How `netdrive handle export` asks a drive's process for a ticket: a socket beside the status socket, one line of JSON each way.
 *
 * Whoever reaches it could use the file anyway.
 */
import type { Server } from "node:net";
import type { Clock } from "../base/clock.ts";
import { askSocket, onLine, QUESTION_CHARS_MAX, sayLine, serveSocket } from "./drive-socket.ts";

/** A file of the drive, as seen from outside. */
export interface ExportRequest {
  /** Inode number, decimal. */
  readonly ino: string;
  /** Its path below the mount, one char a byte; empty: it has none any more. */
  readonly names: readonly string[];
}

export type ExportAnswer = { readonly ticket: string } | { readonly error: string };

const ANSWER_TIMEOUT_MS = 30_000;
const CONNECTIONS_MAX = 4;

/** Answers at the socket file `file` until closed. `answer` never rejects. */
export function serveExport(file: string, answer: (request: ExportRequest) => Promise<ExportAnswer>): Promise<Server> {
  return serveSocket(file, CONNECTIONS_MAX, (socket) =>
    onLine(socket, QUESTION_CHARS_MAX, (asked) => {
      if (!isRequest(asked)) socket.destroy();
      // `answer` never rejects.
      else void answer(asked).then((said) => sayLine(socket, said));
    }),
  );
}

/** Asks at `file`; undefined if nobody answers there in time. */
export async function askExport(
  file: string,
  question: ExportRequest,
  clock: Clock,
): Promise<ExportAnswer | undefined> {
  return (await askSocket(file, { clock, timeoutMs: ANSWER_TIMEOUT_MS, question })) as ExportAnswer | undefined;
}

function isRequest(asked: unknown): asked is ExportRequest {
  if (typeof asked !== "object" || asked === null) return false;
  const { ino, names } = asked as Partial<ExportRequest>;
  return typeof ino === "string" && Array.isArray(names) && names.every((name) => typeof name === "string");
}
