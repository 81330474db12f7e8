/**
 * One line that tells what a server is doing, rewritten each second on a terminal; nothing where there is none.
 */
import type { Clock } from "../base/clock.ts";

/** The counters it shows; each only grows. */
export interface ServedCounters {
  readonly requests: number;
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

interface Terminal {
  isTTY?: boolean;
  columns?: number;
  write(text: string): unknown;
}

const PERIOD_MS = 1000;
const ERASE = "\r\x1b[2K";

/** Shows the line until stopped; stopping leaves an empty line to write on. */
export function showStatus(
  server: { counters(): ServedCounters },
  clock: Clock,
  terminal: Terminal = process.stdout,
): { stop(): void } {
  if (terminal.isTTY !== true) return { stop() {} };
  let last = { ...server.counters() };
  let lastMs = clock.monotonicMs();
  const timer = clock.every(PERIOD_MS, () => {
    const now = { ...server.counters() };
    const nowMs = clock.monotonicMs();
    const line = formatStatus(last, now, (nowMs - lastMs) / 1000);
    terminal.write(`${ERASE}${line.slice(0, (terminal.columns ?? 80) - 1)}`);
    last = now;
    lastMs = nowMs;
  });
  return {
    stop() {
      timer.stop();
      terminal.write(ERASE);
    },
  };
}

/** What happened between two readings, `seconds` apart: what the server sends is read by the drive. */
export function formatStatus(before: ServedCounters, now: ServedCounters, seconds: number): string {
  const perSecond = (count: number) => (seconds > 0 ? count / seconds : 0);
  const requests = Math.round(perSecond(now.requests - before.requests));
  const read = formatBytes(perSecond(now.sentBytes - before.sentBytes));
  const written = formatBytes(perSecond(now.receivedBytes - before.receivedBytes));
  return `${requests} requests/s, read ${read}/s, written ${written}/s, ${now.requests} requests so far`;
}

function formatBytes(bytes: number): string {
  const units = ["B", "kB", "MB", "GB"];
  let scaled = bytes;
  let unit = 0;
  while (scaled >= 999.5 && unit < units.length - 1) {
    scaled /= 1000;
    unit++;
  }
  return `${scaled.toFixed(unit === 0 || scaled >= 99.95 ? 0 : 1)} ${units[unit]}`;
}
