/**
 * Two byte links joined in memory, with faults on demand: for tests and for programs that are client and server in one process.
 *
 * Bytes arrive in later microtasks, or after `delayMs` of the given clock; what one side reads is a copy of what the other wrote. The bytes
 * under way in a direction are bounded by `capacityBytes`, beyond which `sent` is not called until the reader takes some.
 */
import type { Clock } from "../base/clock.ts";
import { type ByteLink, type LinkReceiver, UNBOUND } from "./byte-link.ts";

/** What one direction does to the bytes; may be changed at any time. */
export interface Faults {
  /** Chunks are cut to this size; 0: delivered as written. */
  splitBytes: number;
  /** Time under way. Needs a clock. */
  delayMs: number;
  /** The link breaks after this many bytes were delivered in this direction. */
  cutAtByte: number;
  /** Nothing beyond this many bytes is delivered in this direction until it is raised, and `kick()`. */
  stallAtByte: number;
  /** Bytes vanish and `sent` is called as if nothing were wrong: a half-open link. */
  isDropping: boolean;
  /** Nothing is delivered nor reported as sent until `false` and `kick()`. */
  isStalled: boolean;
}

const CAPACITY_BYTES = 256 * 1024;

class MemoryLink implements ByteLink {
  readonly peer: string;
  readonly address = "memory";
  binding = UNBOUND;
  readonly cipher = "";
  readonly faults: Faults = {
    splitBytes: 0,
    delayMs: 0,
    cutAtByte: Number.POSITIVE_INFINITY,
    stallAtByte: Number.POSITIVE_INFINITY,
    isDropping: false,
    isStalled: false,
  };
  readonly #clock: Clock | undefined;
  #other: MemoryLink | undefined;
  #receiver: LinkReceiver | undefined;
  /** Our bytes on the way to the other side. */
  #queue: Buffer[] = [];
  #queuedBytes = 0;
  #deliveredBytes = 0;
  #sent: (() => void) | undefined;
  #isPaused = false;
  #isEnded = false;
  #isGone = false;
  #isDue = false;

  constructor(peer: string, clock: Clock | undefined) {
    this.peer = peer;
    this.#clock = clock;
  }

  join(other: MemoryLink): void {
    this.#other = other;
  }

  start(receiver: LinkReceiver): void {
    this.#receiver = receiver;
    this.#other?.kick();
  }

  write(chunks: readonly Buffer[], sent: () => void): void {
    if (this.#isGone || this.#isEnded) {
      queueMicrotask(sent);
      return;
    }
    if (!this.faults.isDropping) {
      for (const chunk of chunks) {
        this.#queue.push(Buffer.from(chunk));
        this.#queuedBytes += chunk.length;
      }
    }
    this.#sent = sent;
    this.kick();
  }

  withdraw(): void {
    // Chunks are pushed; no place is lent.
  }

  pause(): void {
    this.#isPaused = true;
  }

  resume(): void {
    this.#isPaused = false;
    this.#other?.kick();
  }

  end(): void {
    this.#isEnded = true;
    this.kick();
  }

  destroy(): void {
    this.#break(undefined);
  }

  /** Goes on after a change of `faults`. */
  kick(): void {
    if (this.#isDue || this.#isGone) return;
    this.#isDue = true;
    if (this.faults.delayMs > 0) this.#clock?.after(this.faults.delayMs, this.#step);
    else queueMicrotask(this.#step);
  }

  readonly #step = (): void => {
    this.#isDue = false;
    if (this.faults.isStalled || this.#isGone) return;
    this.#reportSent();
    const other = this.#other as MemoryLink;
    if (other.#receiver === undefined || other.#isPaused) return;
    const chunk = this.#takeChunk();
    if (chunk !== undefined) {
      this.#deliveredBytes += chunk.length;
      other.#receiver.data(chunk);
      if (this.#deliveredBytes >= this.faults.cutAtByte) this.#break(new Error("cut by a test"));
      else this.kick();
    } else if (this.#isEnded) {
      // Our direction is closed; the peer's channel closes its own, as a socket does at end of stream.
      if (other.#isEnded && other.#queue.length === 0) this.#break(undefined);
      else other.end();
    }
  };

  #reportSent(): void {
    const sent = this.#sent;
    if (sent === undefined || this.#queuedBytes > CAPACITY_BYTES) return;
    this.#sent = undefined;
    sent();
  }

  #takeChunk(): Buffer | undefined {
    const first = this.#queue[0];
    if (first === undefined) return undefined;
    const { splitBytes, cutAtByte, stallAtByte } = this.faults;
    if (this.#deliveredBytes >= stallAtByte) return undefined;
    const bytes = Math.min(
      first.length,
      splitBytes === 0 ? first.length : splitBytes,
      Math.max(0, cutAtByte - this.#deliveredBytes),
      stallAtByte - this.#deliveredBytes,
    );
    if (bytes === first.length) this.#queue.shift();
    else this.#queue[0] = first.subarray(bytes);
    this.#queuedBytes -= bytes;
    return first.subarray(0, bytes);
  }

  /** Both ends learn of it, in a later microtask. */
  #break(error: Error | undefined): void {
    for (const link of [this, this.#other as MemoryLink]) {
      if (link.#isGone) continue;
      link.#isGone = true;
      const sent = link.#sent;
      link.#sent = undefined;
      link.#queue = [];
      queueMicrotask(() => {
        sent?.();
        link.#receiver?.closed(error);
      });
    }
  }
}

/** A link and the knobs of the direction that leads away from it. */
export interface FaultyLink extends ByteLink {
  readonly faults: Faults;
  /** As if the link were encrypted: to be set to the same on both ends before they are used. */
  binding: Buffer;
  kick(): void;
}

/** Two ends of one link. The clock is needed for delays only. */
export function memoryLinkPair(clock?: Clock): { client: FaultyLink; server: FaultyLink } {
  const client = new MemoryLink("memory server", clock);
  const server = new MemoryLink("memory client", clock);
  client.join(server);
  server.join(client);
  return { client, server };
}
