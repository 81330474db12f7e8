/**
 * Where the data of READ and WRITE requests is while they are served: in the request's slot, or in memory beside when slots become scarce.
 *
 * Some slots are never given to data, so that interrupts, forgets and everything short always get through, even if every program on
 * the mount waits for a link that is down. Both kinds are bounded: when they are used up, data takes the reserved slots as well, and the kernel keeps
 * what does not fit.
 */
import type { FuseDevice } from "../sys/fuse-device.ts";
import type { KernelRequest } from "./request.ts";

/** Slots that data does not take while there is memory. */
const SLOTS_RESERVED = 4;
/** Memory for data beyond the slots. */
export const HEAP_BYTES_MAX = 64 * 1024 * 1024;

export class DataRoom {
  readonly #slotsMax: number;
  /** INVARIANT: requests with `claimed`. */
  #slotsHeld = 0;
  /** INVARIANT: the bytes taken and not freed, 0..HEAP_BYTES_MAX. */
  #heapBytes = 0;

  constructor(device: FuseDevice) {
    this.#slotsMax = Math.max(1, device.slotCount - SLOTS_RESERVED);
  }

  get heapBytes(): number {
    return this.#heapBytes;
  }

  /** Whether the request keeps its slot for `bytes` of data until its reply; if not, it has to take memory. */
  claim(request: KernelRequest, bytes: number): boolean {
    if (this.#slotsHeld >= this.#slotsMax && this.#heapBytes + bytes <= HEAP_BYTES_MAX) return false;
    request.claimed = true;
    request.keptSlot = true;
    this.#slotsHeld++;
    return true;
  }

  /** The slot to give back now that the request is answered; -1 if it kept none. */
  unclaim(request: KernelRequest): number {
    if (!request.claimed) return -1;
    request.claimed = false;
    this.#slotsHeld--;
    return request.slot;
  }

  take(bytes: number): Buffer {
    this.#heapBytes += bytes;
    return Buffer.allocUnsafe(bytes);
  }

  free(bytes: number): void {
    this.#heapBytes -= bytes;
  }
}
