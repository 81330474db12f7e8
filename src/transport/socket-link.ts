/**
 * A byte link over a connected TCP socket of Node, or over TLS past its handshake; it takes either over.
 *
 * Received bytes land where the receiver says, and what is written leaves without a queue in between; see sys/tcp-socket.ts.
 */
import type { Socket } from "node:net";
import { descriptorOf, TcpSocket, type TcpSocketEvents } from "../sys/tcp-socket.ts";
import { type ByteLink, type LinkReceiver, UNBOUND } from "./byte-link.ts";
import { TlsStream } from "./tls-stream.ts";

/** Time after which the kernel asks a silent peer whether it is there. */
const KEEP_ALIVE_MS = 15_000;

export class SocketLink implements ByteLink {
  readonly peer: string;
  readonly address: string;
  readonly binding: Buffer;
  readonly cipher: string;
  readonly #raw: Socket | TlsStream;
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
  constructor(socket: Socket | TlsStream, head: Buffer) {
    this.#raw = socket;
    this.#head = head;
    this.binding = socket instanceof TlsStream ? socket.binding : UNBOUND;
    this.cipher = socket instanceof TlsStream ? socket.cipher : "";
    this.address = socket.remoteAddress ?? "?";
    this.peer = `${this.address}:${socket.remotePort ?? "?"}`;
  }

  start(receiver: LinkReceiver): void {
    this.#receiver = receiver;
    const raw = this.#raw;
    // What came with the upgrade, and what Node has read since.
    const early = raw.destroyed ? this.#head : Buffer.concat([this.#head, (raw.read() as Buffer | null) ?? UNBOUND]);
    let failure: Error | undefined;
    try {
      this.#socket = takeOver(raw, {
        landed: (bytes) => {
          receiver.landed(bytes);
          this.#landNext();
        },
        sent: () => this.#written(),
        ended: (error) => this.#ended(error),
      });
    } catch (error) {
      failure = error as Error;
    }
    raw.destroy();
    if (this.#socket === undefined) {
      process.nextTick(() => this.#close(failure));
      return;
    }
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

/** Undefined if the socket is gone, or still has to send what was written to it. @throws FsError: no descriptor is left (EMFILE, ENFILE), no memory. */
function takeOver(raw: Socket | TlsStream, events: TcpSocketEvents): TcpSocket | undefined {
  if (raw.destroyed) return undefined;
  if (raw instanceof TlsStream) return raw.handOver(events);
  const fd = descriptorOf(raw);
  if (fd < 0) return undefined;
  raw.setNoDelay(true);
  raw.setKeepAlive(true, KEEP_ALIVE_MS);
  return new TcpSocket(fd, events);
}
