/**
 * A connected TCP socket of Node's, taken over: bytes land where they are wanted, and several buffers leave with one system call.
 *
 * No stream, no queue, no frame: one place for what comes, one send at a time. Why not Node's own: see native/tcp-socket.cc.
 */
import type { Socket } from "node:net";
import { errnoName } from "../base/errno.ts";
import { FsError } from "../base/errors.ts";
import { loadAddon } from "./addon.ts";

/** Buffers one system call of the addon takes. */
const CHUNKS_MAX = 64;

interface Native {
  tcpAdopt(fd: number): object | number;
  tcpStart(
    socket: object,
    receiver: object,
    onLanded: (bytes: number) => void,
    onSent: () => void,
    onEnd: (errno: number) => void,
  ): number;
  tcpPlace(socket: object, place: Buffer): void;
  tcpRead(socket: object, on: number): void;
  tcpSend(socket: object, ...chunks: Buffer[]): number;
  tcpShutdown(socket: object): void;
  tcpClose(socket: object): void;
}

/** What a socket tells; none may throw. */
export interface TcpSocketEvents {
  /** So many bytes, at least 1, are at the start of the place. */
  landed(bytes: number): void;
  /** What `send` could not take at once has left. */
  sent(): void;
  /** Nothing more comes: the peer has ended its side (undefined), or the connection is broken. Once; `close` is still to be called. */
  ended(error: Error | undefined): void;
}

export class TcpSocket {
  readonly #native = loadAddon<Native>();
  readonly #socket: object;
  readonly #events: TcpSocketEvents;
  /** Kept alive for the addon. */
  #place: Buffer | undefined;
  #sending: readonly Buffer[] = [];
  #sentCount = 0;

  /** `fd`: of a connection, which gets another descriptor. @throws FsError. */
  constructor(fd: number, events: TcpSocketEvents) {
    const socket = this.#native.tcpAdopt(fd);
    if (typeof socket === "number") throw new FsError(errnoName(-socket), "dup");
    this.#socket = socket;
    this.#events = events;
    const failure = this.#native.tcpStart(
      socket,
      this,
      (bytes) => events.landed(bytes),
      () => this.#sendOn(),
      (errno) => events.ended(errno === 0 ? undefined : brokenBy(errno)),
    );
    if (failure < 0) throw new FsError(errnoName(-failure), "watch");
  }

  /** Where the next bytes go, from now on; not empty. */
  place(place: Buffer): void {
    this.#place = place;
    this.#native.tcpPlace(this.#socket, place);
  }

  /** Reads, from the first time on that there is a place, or does not. */
  read(isOn: boolean): void {
    if (this.#place !== undefined) this.#native.tcpRead(this.#socket, isOn ? 1 : 0);
  }

  /** Sends `chunks`, borrowed until they have left: now (true), or later (false; `sent` says when). One send at a time. @throws Error broken. */
  send(chunks: readonly Buffer[]): boolean {
    this.#sending = chunks;
    this.#sentCount = 0;
    return this.#sendSome();
  }

  /** Ends our side. */
  shutdown(): void {
    this.#native.tcpShutdown(this.#socket);
  }

  /** Nothing is told from now on. */
  close(): void {
    this.#native.tcpClose(this.#socket);
    this.#place = undefined;
    this.#sending = [];
  }

  #sendSome(): boolean {
    const chunks = this.#sending;
    while (this.#sentCount < chunks.length) {
      const some = chunks.length <= CHUNKS_MAX ? chunks : chunks.slice(this.#sentCount, this.#sentCount + CHUNKS_MAX);
      this.#sentCount += some.length;
      const result = this.#native.tcpSend(this.#socket, ...some);
      if (result < 0) throw brokenBy(-result);
      if (result === 0) return false;
    }
    this.#sending = [];
    return true;
  }

  #sendOn(): void {
    try {
      if (this.#sendSome()) this.#events.sent();
    } catch (error) {
      this.#events.ended(error as Error);
    }
  }
}

/** The descriptor of a connected socket; -1 if it has none any more, or still has to send what was written to it. */
export function descriptorOf(socket: Socket): number {
  // Not in the public types; the same since Node 10.
  const { _handle: handle } = socket as unknown as { _handle: { fd: number; writeQueueSize: number } | null };
  return handle === null || handle.writeQueueSize > 0 ? -1 : handle.fd;
}

function brokenBy(errno: number): Error {
  const name = errnoName(errno);
  return Object.assign(new Error(`the connection broke: ${name}`), { code: name });
}
