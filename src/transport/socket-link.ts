/**
 * A byte link over a connected TCP socket of Node, which it takes over.
 *
 * Received bytes land where the receiver says, and what is written leaves without a queue in between; see sys/tcp-socket.ts.
 */
import type { Socket } from "node:net";
import { descriptorOf, TcpSocket } from "../sys/tcp-socket.ts";
import { type ByteLink, type LinkReceiver, UNBOUND } from "./byte-link.ts";

/** Time after which the kernel asks a silent peer whether it is there. */
const KEEP_ALIVE_MS = 15_000;

export class SocketLink implements ByteLink {
  readonly peer: string;
  readonly address: string;
  readonly binding = UNBOUND;
  readonly #raw: Socket;
  readonly #head: Buffer;
  #socket: TcpSocket | undefined;
  #receiver: LinkReceiver | undefined;
  #place: Buffer | undefined;
  /** Of the write under way. */
  #sent: (() => void) | undefined;
  #isPaused = false;
  /** We have nothing more to say. */
  #isEnding = false;
  /** Nor has the peer. */
  #hasEnded = false;
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
    const fd = this.#raw.destroyed ? -1 : descriptorOf(this.#raw);
    if (fd < 0) {
      process.nextTick(() => this.#close(undefined));
      return;
    }
    // What came with the upgrade, and what Node has read since.
    const early = Buffer.concat([this.#head, (this.#raw.read() as Buffer | null) ?? Buffer.alloc(0)]);
    this.#raw.setNoDelay(true);
    this.#raw.setKeepAlive(true, KEEP_ALIVE_MS);
    this.#socket = new TcpSocket(fd, {
      landed: (bytes) => {
        receiver.landed(bytes);
        this.#landNext();
      },
      sent: () => this.#written(),
      ended: (error) => this.#ended(error),
    });
    this.#raw.destroy();
    if (early.length > 0) receiver.data(early);
    this.#landNext();
    if (!this.#isPaused) this.#socket?.read(true);
  }

  write(chunks: readonly Buffer[], sent: () => void): void {
    const socket = this.#socket;
    if (socket === undefined || this.#isEnding) {
      process.nextTick(sent);
      return;
    }
    this.#sent = sent;
    try {
      if (socket.send(chunks)) this.#written();
    } catch (error) {
      process.nextTick(() => this.#close(error as Error));
    }
  }

  withdraw(): void {
    this.#landNext();
  }

  pause(): void {
    this.#isPaused = true;
    this.#socket?.read(false);
  }

  resume(): void {
    if (!this.#isPaused) return;
    this.#isPaused = false;
    if (!this.#hasEnded) this.#socket?.read(true);
  }

  end(): void {
    if (this.#socket === undefined) {
      this.#raw.end();
      return;
    }
    this.#isEnding = true;
    if (this.#sent === undefined) this.#finish();
  }

  destroy(): void {
    if (this.#socket === undefined) this.#raw.destroy();
    else process.nextTick(() => this.#close(undefined));
  }

  /** Where the next bytes go, if that has changed. */
  #landNext(): void {
    if (this.#socket === undefined || this.#receiver === undefined) return;
    const place = this.#receiver.place();
    if (place === this.#place) return;
    this.#place = place;
    this.#socket.place(place);
  }

  #written(): void {
    const sent = this.#sent;
    this.#sent = undefined;
    sent?.();
    if (this.#isEnding && this.#sent === undefined) this.#finish();
  }

  #ended(error: Error | undefined): void {
    this.#hasEnded = true;
    if (error !== undefined) this.#close(error);
    else this.end();
  }

  /** Everything of ours has left. */
  #finish(): void {
    if (this.#hasEnded) process.nextTick(() => this.#close(undefined));
    else this.#socket?.shutdown();
  }

  #close(error: Error | undefined): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.#socket?.close();
    this.#socket = undefined;
    this.#place = undefined;
    const sent = this.#sent;
    this.#sent = undefined;
    sent?.();
    this.#receiver?.closed(error);
  }
}
