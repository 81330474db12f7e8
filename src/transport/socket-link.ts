/**
 * A byte link over a connected TCP socket of Node, whose handle it takes over.
 *
 * Received bytes land where the receiver says; see adopt-socket.ts.
 */
import type { Socket } from "node:net";
import { adoptSocket, redirectSocket } from "./adopt-socket.ts";
import { type ByteLink, type LinkReceiver, UNBOUND } from "./byte-link.ts";

/** Time after which the kernel asks a silent peer whether it is there. */
const KEEP_ALIVE_MS = 15_000;

export class SocketLink implements ByteLink {
  readonly peer: string;
  readonly address: string;
  readonly binding = UNBOUND;
  readonly #raw: Socket;
  readonly #head: Buffer;
  #socket: Socket | undefined;
  #receiver: LinkReceiver | undefined;
  #error: Error | undefined;
  #isPaused = false;
  #isClosed = false;

  /** `head`: bytes of the peer that came with the upgrade. */
  constructor(socket: Socket, head: Buffer) {
    this.#raw = socket;
    this.#head = head;
    this.address = socket.remoteAddress ?? "?";
    this.peer = `${this.address}:${socket.remotePort ?? "?"}`;
  }

  start(receiver: LinkReceiver): void {
    this.#receiver = receiver;
    if (this.#raw.destroyed) {
      process.nextTick(() => this.#closed());
      return;
    }
    // What came with the upgrade, and what Node has read since.
    const early = Buffer.concat([this.#head, (this.#raw.read() as Buffer | null) ?? Buffer.alloc(0)]);
    const socket = adoptSocket(this.#raw, {
      place: () => receiver.place(),
      received: (bytes) => {
        receiver.landed(bytes);
        return !this.#isPaused;
      },
    });
    this.#socket = socket;
    socket.setKeepAlive(true, KEEP_ALIVE_MS);
    socket.on("error", (error) => {
      this.#error = error;
    });
    socket.once("end", () => socket.end());
    socket.once("close", () => this.#closed());
    if (early.length > 0) receiver.data(early);
    if (!this.#isPaused) socket.resume();
  }

  write(chunks: readonly Buffer[], sent: () => void): void {
    const socket = this.#socket;
    if (socket === undefined) {
      process.nextTick(sent);
      return;
    }
    const last = chunks.length - 1;
    if (last === 0) {
      socket.write(chunks[0] as Buffer, sent);
      return;
    }
    socket.cork();
    for (let index = 0; index < last; index += 1) socket.write(chunks[index] as Buffer);
    socket.write(chunks[last] as Buffer, sent);
    socket.uncork();
  }

  withdraw(): void {
    if (this.#socket !== undefined && this.#receiver !== undefined) {
      redirectSocket(this.#socket, this.#receiver.place());
    }
  }

  pause(): void {
    this.#isPaused = true;
    this.#socket?.pause();
  }

  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    this.#socket?.resume();
  }

  end(): void {
    (this.#socket ?? this.#raw).end();
  }

  destroy(): void {
    (this.#socket ?? this.#raw).destroy();
  }

  #closed(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#receiver?.closed(this.#error);
  }
}
