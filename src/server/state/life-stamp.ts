/**
 * When the server was last alive, and when it last changed data: two times in a file of their own.
 *
 *     u64 ms since 1970 of the last sign of life   u64 of the last change of data that was acknowledged   u32 CRC-32 of both
 *
 * So a server that starts knows how long it was away, and that a file whose times are not after the last change was left as it is by everybody else.
 * It is written at most once a turn of the event loop, at the same place, which costs 2 us; it survives the death of the process, and after one of
 * the machine is only older than the truth. Times are compared as whole milliseconds.
 */
import { closeSync, constants, openSync, readSync, writeSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "node:zlib";
import type { Clock, Timer } from "../../base/clock.ts";

const STAMP_BYTES = 20;
const PERIOD_MS = 1000;
const FILE = "last-alive";

export interface LifeTimes {
  readonly aliveAtMs: number;
  readonly changedAtMs: number;
}

export class LifeStamp {
  /** Of the server before; undefined if there was none, or the file is damaged. */
  readonly before: LifeTimes | undefined;
  readonly #clock: Clock;
  readonly #fd: number;
  readonly #timer: Timer;
  readonly #stamp = Buffer.alloc(STAMP_BYTES);
  #changedAtMs = 0;
  #isDue = false;
  #isClosed = false;

  /** `folder`: of the state store. Times are of the clock's realtime. */
  constructor(folder: string, clock: Clock) {
    this.#clock = clock;
    this.#fd = openSync(join(folder, FILE), constants.O_RDWR | constants.O_CREAT, 0o600);
    this.before = readTimes(this.#fd);
    this.#changedAtMs = this.before?.changedAtMs ?? 0;
    this.#write();
    this.#timer = clock.every(PERIOD_MS, this.#write);
  }

  /** Data was changed, and is about to be acknowledged at the end of this turn of the event loop or later. */
  changed(): void {
    if (this.#isDue || this.#isClosed) return;
    this.#isDue = true;
    process.nextTick(this.#writeChange);
  }

  close(): void {
    if (this.#isClosed) return;
    this.#write();
    this.#isClosed = true;
    this.#timer.stop();
    closeSync(this.#fd);
  }

  readonly #writeChange = (): void => {
    this.#isDue = false;
    const nowMs = Math.trunc(this.#clock.realtimeMs());
    // It says so already.
    if (nowMs === this.#changedAtMs) return;
    this.#changedAtMs = nowMs;
    this.#write();
  };

  readonly #write = (): void => {
    if (this.#isClosed) return;
    const stamp = this.#stamp;
    stamp.writeBigUInt64LE(BigInt(Math.trunc(this.#clock.realtimeMs())), 0);
    stamp.writeBigUInt64LE(BigInt(Math.trunc(this.#changedAtMs)), 8);
    stamp.writeUInt32LE(crc32(stamp.subarray(0, 16)), 16);
    try {
      writeSync(this.#fd, stamp, 0, STAMP_BYTES, 0);
    } catch {
      // An older time is as true, and less useful. A disk that fails is told of by the store.
    }
  };
}

function readTimes(fd: number): LifeTimes | undefined {
  const stamp = Buffer.alloc(STAMP_BYTES);
  if (readSync(fd, stamp, 0, STAMP_BYTES, 0) < STAMP_BYTES) return undefined;
  if (crc32(stamp.subarray(0, 16)) !== stamp.readUInt32LE(16)) return undefined;
  return { aliveAtMs: Number(stamp.readBigUInt64LE(0)), changedAtMs: Number(stamp.readBigUInt64LE(8)) };
}
