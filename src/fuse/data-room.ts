/**
 * Where the data of READ and WRITE requests is while they are served: in the request's slot, or in memory beside when slots become scarce.
 *
 * Some slots are never given to data, so that interrupts, forgets and everything short always get through, even if every program on
 * the mount waits for a link that is down. Both kinds are bounded: when they are used up, data takes the reserved slots as well, and the kernel keeps
 * what does not fit.
 *
 * The slot of a WRITE may be lent, so that its data need not be copied to outlive the reply; half of all slots at most, which leaves the others to requests.
 */
import type { FuseDevice } from "../sys/fuse-device.ts";
import type { KernelRequest } from "./request.ts";

/** Slots that data does not take while there is memory. */
const SLOTS_RESERVED = 4;
/** Memory for data beyond the slots. */
export const HEAP_BYTES_MAX = 64 * 1024 * 1024;

export class DataRoom {
  readonly #device: FuseDevice;
  readonly #slotsMax: number;
  readonly #loansMax: number;
  /** INVARIANT: slots with loans, 0..#loansMax. */
  #slotsLent = 0;
  /** INVARIANT: requests with `claimed`, or with loans. */
  #slotsHeld = 0;
  /** INVARIANT: the bytes taken and not freed, 0..HEAP_BYTES_MAX. */
  #heapBytes = 0;

  constructor(device: FuseDevice) {
    this.#device = device;
    this.#loansMax = Math.floor(device.slotCount / 2);
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

  /** The slot to give back now that the request is answered; -1 if it kept none, or somebody else has it. */
  unclaim(request: KernelRequest): number {
    if (!request.claimed) return -1;
    request.claimed = false;
    if (request.loans > 0) return -1;
    this.#slotsHeld--;
    return request.slot;
  }

  /** Leaves the slot of a request that has claimed it to somebody until the result is called, which may be long after its reply; undefined: too many are. */
  lend(request: KernelRequest): (() => void) | undefined {
    if (!request.claimed) return undefined;
    if (request.loans === 0) {
      if (this.#slotsLent >= this.#loansMax) return undefined;
      this.#slotsLent++;
    }
    request.loans++;
    return () => {
      request.loans--;
      if (request.loans > 0) return;
      this.#slotsLent--;
      if (request.claimed) return;
      this.#slotsHeld--;
      this.#device.returnSlot(request.slot);
    };
  }

  take(bytes: number): Buffer {
    this.#heapBytes += bytes;
    return Buffer.allocUnsafe(bytes);
  }

  free(bytes: number): void {
    this.#heapBytes -= bytes;
  }
}
