/** The line that tells what a server is doing. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { formatStatus, showStatus } from "../../src/cli/status-line.ts";

const ZERO = { requests: 0, receivedBytes: 0, sentBytes: 0 };

test("figures are of the time between two readings", () => {
  const before = { requests: 100, receivedBytes: 1000, sentBytes: 5_000_000 };
  const now = { requests: 150, receivedBytes: 3000, sentBytes: 2_005_000_000 };
  assert.equal(formatStatus(before, now, 2), "25 requests/s, read 1.0 GB/s, written 1.0 kB/s, 150 requests so far");
  assert.equal(formatStatus(ZERO, ZERO, 0), "0 requests/s, read 0 B/s, written 0 B/s, 0 requests so far");
});

test("bytes keep two or three digits at every size", () => {
  const shown = (sentBytes: number) =>
    formatStatus(ZERO, { ...ZERO, sentBytes }, 1).match(/read (.*)\/s, written/)?.[1];
  const sizes = [999, 1000, 9949, 99_949, 99_950, 999_499, 999_500, 5e12].map(shown);
  assert.deepEqual(sizes, ["999 B", "1.0 kB", "9.9 kB", "99.9 kB", "100 kB", "999 kB", "1.0 MB", "5000 GB"]);
});

test("a terminal sees the line each second and is left clean, anything else sees nothing", () => {
  let fire = () => {};
  let stopped = false;
  const clock = {
    monotonicMs: () => 0,
    realtimeMs: () => 0,
    after: () => ({ stop() {} }),
    every(_periodMs: number, callback: () => void) {
      fire = callback;
      return {
        stop() {
          stopped = true;
        },
      };
    },
  };
  const written: string[] = [];
  const terminal = { isTTY: true, columns: 20, write: (text: string) => written.push(text) };
  const status = showStatus({ counters: () => ZERO }, clock, terminal);
  fire();
  assert.deepEqual(written, ["\r\x1b[2K0 requests/s, read "]);
  status.stop();
  assert.equal(written.at(-1), "\r\x1b[2K");
  assert.ok(stopped);
  const file = { write: () => assert.fail("nothing is written") };
  showStatus({ counters: () => ZERO }, clock, file).stop();
});
