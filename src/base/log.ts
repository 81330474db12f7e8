/**
 * Log lines on standard error: one line each, `time level room: text`, never on standard output.
 *
 * A logger is passed down, so that a test can collect lines. Control characters of peers and file names are escaped: a line stays one line.
 */
import { inspect } from "node:util";
import type { Clock } from "./clock.ts";

export const LOG_LEVELS = ["error", "warn", "info", "debug"] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

export interface Log {
  error(text: string, cause?: unknown): void;
  warn(text: string, cause?: unknown): void;
  info(text: string): void;
  debug(text: string): void;
  /** A logger for another room with the same level and sink. */
  room(name: string): Log;
}

/** Text with everything outside printable characters escaped, so that hostile bytes cannot forge or break a log line. */
export function printable(text: string): string {
  return text.replace(
    /[\p{Cc}\p{Cs}\u2028\u2029]/gu,
    (char) => `\\u${char.codePointAt(0)?.toString(16).padStart(4, "0")}`,
  );
}

/** What waits for a reader of standard error that does not read; lines beyond are lost. */
const UNREAD_BYTES_MAX = 1 << 20;

function writeToStandardError(line: string): void {
  if (process.stderr.writableLength < UNREAD_BYTES_MAX) process.stderr.write(`${line}\n`);
}

/** A logger that passes lines of `level` and worse to `sink` (default: standard error). */
export function createLog(options: {
  level: LogLevel;
  clock: Clock;
  room?: string;
  sink?: (line: string) => void;
}): Log {
  const { level, clock, room = "netdrive" } = options;
  const sink = options.sink ?? writeToStandardError;
  const threshold = LOG_LEVELS.indexOf(level);
  const write = (at: LogLevel, text: string, cause?: unknown) => {
    if (LOG_LEVELS.indexOf(at) > threshold) return;
    const time = new Date(clock.realtimeMs()).toISOString();
    const reason =
      cause === undefined ? "" : `: ${cause instanceof Error ? (cause.stack ?? cause.message) : inspect(cause)}`;
    sink(`${time} ${at} ${room}: ${printable(text + reason)}`);
  };
  return {
    error: (text, cause) => write("error", text, cause),
    warn: (text, cause) => write("warn", text, cause),
    info: (text) => write("info", text),
    debug: (text) => write("debug", text),
    room: (name) => createLog({ level, clock, room: name, sink }),
  };
}

/** A logger that drops everything. */
export const silentLog: Log = { error() {}, warn() {}, info() {}, debug() {}, room: () => silentLog };
