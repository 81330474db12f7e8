/**
 * A FuseDevice without a kernel: tests put requests in and get the replies out, and may refuse replies as the kernel does.
 */
import { ERRNO } from "../../src/base/errno.ts";
import { OUT_HEADER_BYTES } from "../../src/fuse/abi.ts";
import type { DeviceEvents, FuseDevice } from "../../src/sys/fuse-device.ts";

const HEAD_BYTES = 80;
const PAGE_BYTES = 4096;
const DATA_BYTES_MAX = 512 * 1024;

/** A reply as the kernel would see it. */
export interface Reply {
  unique: number;
  /** Positive; 0: success. */
  errno: number;
  body: Buffer;
}

export class FakeDevice implements FuseDevice {
  readonly slotCount: number;
  readonly dataBytesMax = DATA_BYTES_MAX;
  readonly pool: Buffer;
  /** In the order they were sent. */
  readonly replies: Reply[] = [];
  /** Errno for coming replies instead of taking them: ENOENT is 2. */
  refuse = 0;
  /** What was sent by `notifyLater`, and its errno for coming ones. */
  readonly notices: Buffer[] = [];
  refuseNotices = 0;
  readonly #free: number[] = [];
  readonly #waiting = new Map<number, (reply: Reply) => void>();
  #events: DeviceEvents = { request: () => true, sent() {}, end() {} };

  constructor(slotCount = 8) {
    this.slotCount = slotCount;
    this.pool = Buffer.alloc((slotCount + 1) * (PAGE_BYTES + DATA_BYTES_MAX));
    for (let slot = 0; slot < slotCount; slot++) this.#free.push(slot);
  }

  get freeSlots(): number {
    return this.#free.length;
  }

  requestOffset(slot: number): number {
    return slot * (PAGE_BYTES + DATA_BYTES_MAX) + PAGE_BYTES - HEAD_BYTES;
  }

  dataOffset(slot: number): number {
    return slot * (PAGE_BYTES + DATA_BYTES_MAX) + PAGE_BYTES;
  }

  start(events: DeviceEvents): void {
    this.#events = events;
  }

  reply(offset: number, bytes: number, slot: number): number {
    const refused = this.#take(Buffer.from(this.pool.subarray(offset, offset + bytes)));
    if (slot >= 0) this.returnSlot(slot);
    return refused;
  }

  replyLater(offset: number, bytes: number, slot: number): number {
    setImmediate(() => {
      this.#events.sent(slot, this.#take(Buffer.from(this.pool.subarray(offset, offset + bytes))));
    });
    return 0;
  }

  replyWith(offset: number, bytes: number, payload: Buffer): number {
    return this.#take(Buffer.concat([this.pool.subarray(offset, offset + bytes), payload]));
  }

  async notifyLater(message: Buffer): Promise<number> {
    this.notices.push(Buffer.from(message));
    await new Promise((resolve) => setImmediate(resolve));
    return this.refuseNotices;
  }

  returnSlot(slot: number): void {
    if (this.#free.includes(slot)) throw new Error(`slot ${slot} came back twice`);
    this.#free.push(slot);
  }

  #take(bytes: Buffer): number {
    if (this.refuse !== 0) return this.refuse;
    if (bytes.readUInt32LE(0) !== bytes.length) return 22;
    const reply = {
      unique: Number(bytes.readBigUInt64LE(8)),
      errno: Math.abs(bytes.readInt32LE(4)),
      body: bytes.subarray(OUT_HEADER_BYTES),
    };
    this.replies.push(reply);
    this.#waiting.get(reply.unique)?.(reply);
    this.#waiting.delete(reply.unique);
    return 0;
  }

  /** Hands over raw bytes as a request. */
  inject(bytes: Buffer): void {
    const slot = this.#free.pop();
    if (slot === undefined) throw new Error("no free slot: the kernel would wait");
    bytes.copy(this.pool, this.requestOffset(slot));
    if (this.#events.request(slot, bytes.length)) this.returnSlot(slot);
  }

  /** Hands over a request and waits for its reply. */
  ask(bytes: Buffer): Promise<Reply> {
    const reply = new Promise<Reply>((resolve) => {
      this.#waiting.set(Number(bytes.readBigUInt64LE(8)), resolve);
    });
    this.inject(bytes);
    return reply;
  }

  end(errno: number): void {
    this.#events.end(errno);
  }

  close(): void {
    this.end(ERRNO.ECONNABORTED);
  }
}

let lastUnique = 0;

/** A whole request: header and body. */
export function requestBytes(
  opcode: number,
  body: Buffer,
  header: { unique?: number; node?: number; uid?: number; gid?: number; pid?: number } = {},
): Buffer {
  lastUnique += 2;
  const bytes = Buffer.alloc(40 + body.length);
  bytes.writeUInt32LE(bytes.length, 0);
  bytes.writeUInt32LE(opcode, 4);
  bytes.writeBigUInt64LE(BigInt(header.unique ?? lastUnique), 8);
  bytes.writeBigUInt64LE(BigInt(header.node ?? 1), 16);
  bytes.writeUInt32LE(header.uid ?? 1000, 24);
  bytes.writeUInt32LE(header.gid ?? 1001, 28);
  bytes.writeUInt32LE(header.pid ?? 4242, 32);
  body.copy(bytes, 40);
  return bytes;
}

/** Bytes from lines of hex, each with a comment after two spaces. */
export function hex(text: string): Buffer {
  const digits = text
    .split("\n")
    .map((line) => line.trim().split("  ")[0] ?? "")
    .join("");
  return Buffer.from(digits.replaceAll(" ", ""), "hex");
}
