/**
 * /dev/fuse as JavaScript sees it: slots with requests in, replies out. No opcode is known here.
 *
 * The addon reads requests into the slots when the event loop finds some; `DeviceEvents` says which ones. A slot belongs to JavaScript from then until it is
 * given back, by a reply that names it or by `returnSlot`. The pool is one ArrayBuffer: slots, and a scratch slot after the last one
 * in which small replies are put together; sending those is synchronous, so one is enough.
 */
import { errnoName, errnoNumber } from "../base/errno.ts";
import { FsError } from "../base/errors.ts";
import { loadAddon } from "./addon.ts";

/** struct fuse_in_header and struct fuse_write_in lie before the page-aligned data of a slot. */
const HEAD_BYTES = 80;
const PAGE_BYTES = 4096;
/** A ticket and an errno make one number. Requests in flight are fewer than tickets. */
const TICKET_SHIFT = 12;
const ERRNO_MASK = (1 << TICKET_SHIFT) - 1;
const TICKETS = 1 << 18;

interface Native {
  fuseCreateDevice(
    fd: number,
    slotCount: number,
    dataBytesMax: number,
  ): {
    device: object;
    pool: ArrayBuffer;
    poolOffset: number;
    batch: ArrayBuffer;
    returned: ArrayBuffer;
    sent: ArrayBuffer;
    slotBytes: number;
  };
  fuseStartDevice(
    device: object,
    receiver: object,
    onBatch: (count: number) => number,
    onSent: (count: number) => void,
    onEnd: (errno: number) => void,
  ): number;
  fuseCloseDevice(device: object): void;
  fuseReply(device: object, offset: number, bytes: number, slot: number): number;
  fuseReplyLater(device: object, offset: number, bytes: number, slot: number): number;
  fuseNotifyLater(device: object, bytes: Buffer, ticket: number, onNotified: (done: number) => void): number;
  fuseReplyWith(device: object, offset: number, bytes: number, payload: Buffer): number;
  fuseReturnSlot(device: object, slot: number): void;
}

/** What a device tells; none may throw. */
export interface DeviceEvents {
  /** A slot holds a request of so many bytes; returns whether the slot is given back now. */
  request(slot: number, bytes: number): boolean;
  /** A reply of `replyLater` was sent: 0, or the errno of the kernel's refusal. The slot is still JavaScript's. */
  sent(slot: number, refusal: number): void;
  /**
   * Comes once, when the connection to the kernel has ended: ENODEV after an unmount, ECONNABORTED after an abort. The descriptor is
   * closed then, and nothing is told any more of replies under way.
   */
  end(errno: number): void;
}

/** What the request loop needs of a device; tests put their own in its place. */
export interface FuseDevice {
  readonly slotCount: number;
  /** The most data bytes of one request or reply. */
  readonly dataBytesMax: number;
  /** All slots and the scratch slot. */
  readonly pool: Buffer;
  /** Where in `pool` the request of a slot starts. */
  requestOffset(slot: number): number;
  /** Where in `pool` the page-aligned data of a slot starts; the scratch slot is number `slotCount`. */
  dataOffset(slot: number): number;
  /**
   * Sends `bytes` of the pool from `offset` as one reply; `slot`, unless -1, is given back by it.
   *
   * @returns 0, or the errno of the kernel's refusal: ENOENT if nobody waits for this reply any more.
   */
  reply(offset: number, bytes: number, slot: number): number;
  /** The same for a large reply out of `slot`, by another thread: see DeviceEvents.sent. Returns 0, or why it cannot be. */
  replyLater(offset: number, bytes: number, slot: number): number;
  /** The same with a payload behind; it is copied before this returns. */
  replyWith(offset: number, bytes: number, payload: Buffer): number;
  /**
   * Sends a message that is no reply and that the kernel may take its time with, 64 bytes at most, by another thread.
   *
   * @returns 0, or the errno of the kernel's refusal, or why it cannot be; never rejects. ENODEV when the connection ends.
   */
  notifyLater(message: Buffer): Promise<number>;
  returnSlot(slot: number): void;
  /** Starts reading. */
  start(events: DeviceEvents): void;
  /** Ends the connection from our side: what waits in the mount fails, `onEnd` is told ECONNABORTED. */
  close(): void;
}

/** Takes over `fd`, a mounted /dev/fuse: it is closed when the connection ends. */
export function createFuseDevice(fd: number, slotCount: number, dataBytesMax: number): FuseDevice {
  const native = loadAddon<Native>();
  const made = native.fuseCreateDevice(fd, slotCount, dataBytesMax);
  const { device, slotBytes } = made;
  const pool = Buffer.from(made.pool, made.poolOffset, (slotCount + 1) * slotBytes);
  const batch = new Int32Array(made.batch);
  const returned = new Int32Array(made.returned);
  const sent = new Int32Array(made.sent);
  let ended = false;
  let end = (_errno: number) => {};
  /** By ticket: those who wait for a message to be taken. */
  const notifying = new Map<number, (errno: number) => void>();
  let lastTicket = 0;
  const onNotified = (done: number) => {
    const ticket = done >> TICKET_SHIFT;
    notifying.get(ticket)?.(done & ERRNO_MASK);
    notifying.delete(ticket);
  };
  return {
    slotCount,
    dataBytesMax,
    pool,
    requestOffset: (slot) => slot * slotBytes + PAGE_BYTES - HEAD_BYTES,
    dataOffset: (slot) => slot * slotBytes + PAGE_BYTES,
    reply: (offset, bytes, slot) => native.fuseReply(device, offset, bytes, slot),
    replyLater: (offset, bytes, slot) => native.fuseReplyLater(device, offset, bytes, slot),
    replyWith: (offset, bytes, payload) => native.fuseReplyWith(device, offset, bytes, payload),
    notifyLater: (message) =>
      new Promise((resolve) => {
        lastTicket = (lastTicket + 1) % TICKETS;
        const failure = ended ? errnoNumber("ENODEV") : native.fuseNotifyLater(device, message, lastTicket, onNotified);
        if (failure === 0) notifying.set(lastTicket, resolve);
        else resolve(failure);
      }),
    returnSlot(slot) {
      if (!ended) native.fuseReturnSlot(device, slot);
    },
    start(events) {
      const onBatch = (count: number) => {
        let back = 0;
        for (let i = 0; i < count; i++) {
          const slot = batch[2 * i] as number;
          if (events.request(slot, batch[2 * i + 1] as number)) returned[back++] = slot;
        }
        return back;
      };
      const onSent = (count: number) => {
        for (let i = 0; i < count; i++) events.sent(sent[2 * i] as number, sent[2 * i + 1] as number);
      };
      end = (errno) => {
        ended = true;
        for (const resolve of notifying.values()) resolve(errnoNumber("ENODEV"));
        notifying.clear();
        events.end(errno);
      };
      const failure = native.fuseStartDevice(device, {}, onBatch, onSent, end);
      if (failure < 0) throw new FsError(errnoName(-failure), "watch", "/dev/fuse");
    },
    close() {
      if (ended) return;
      native.fuseCloseDevice(device);
      end(errnoNumber("ECONNABORTED"));
    },
  };
}
