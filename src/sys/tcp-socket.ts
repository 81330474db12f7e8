/**
 * A connected TCP socket of Node's, taken over: bytes land where they are wanted, and several buffers leave with one system call. With TLS, if it is to be
 * so: then what lands is decrypted, what leaves is encrypted, and hands are shaken before.
 *
 * No stream, no queue, no frame: one place for what comes, one send at a time. Why not Node's own: see native/tcp-socket.cc.
 */
import type { Socket } from "node:net";
import { errnoName } from "../base/errno.ts";
import { FsError } from "../base/errors.ts";
import { loadAddon } from "./addon.ts";
import type { TlsContext } from "./tls-context.ts";

/** Buffers one system call of the addon takes. */
const CHUNKS_MAX = 64;

interface Native {
  tcpAdopt(fd: number): object | number;
  tcpSecure(socket: object, context: object, host: string, first: Buffer): number;
  tcpStart(
    socket: object,
    receiver: object,
    onLanded: (bytes: number) => void,
    onSent: () => void,
    onEnd: (errno: number) => void,
    onSecured: () => void,
  ): number;
  tcpPlace(socket: object, place: Buffer): void;
  tcpRead(socket: object, on: number): number;
  tcpPump(socket: object): void;
  tcpSend(socket: object, ...chunks: Buffer[]): number;
  tcpShutdown(socket: object): void;
  tcpClose(socket: object): void;
  tlsReason(socket: object): string;
  tlsVerifyFailure(socket: object): string;
  tlsCipher(socket: object): string;
  tlsCertificate(socket: object): Buffer;
  tlsExport(socket: object, label: string, out: Buffer): number;
}

/** What a socket tells; none may throw. */
export interface TcpSocketEvents {
  /** So many bytes, at least 1, are at the start of the place. */
  landed(bytes: number): void;
  /** What `send` could not take at once has left. */
  sent(): void;
  /** Nothing more comes: the peer has ended its side (undefined), or the connection is broken. Once; `close` is still to be called. */
  ended(error: Error | undefined): void;
  /** Hands are shaken: from now on bytes may come and go. Only with TLS. */
  secured?(): void;
}

/** How TLS is begun. */
export interface TlsOptions {
  readonly context: TlsContext;
  /** Of a client: the name it asks for; empty for none. */
  readonly host: string;
  /** What the peer has said already. At most 64 KiB. */
  readonly first: Buffer;
}

export class TcpSocket {
  readonly #native = loadAddon<Native>();
  readonly #socket: object;
  #events: TcpSocketEvents;
  /** Kept alive for the addon. */
  #place: Buffer | undefined;
  #sending: readonly Buffer[] = [];
  #sentCount = 0;

  /** `fd`: of a connection, which gets another descriptor. @throws FsError. */
  constructor(fd: number, events: TcpSocketEvents, tls?: TlsOptions) {
    const socket = this.#native.tcpAdopt(fd);
    if (typeof socket === "number") throw new FsError(errnoName(-socket), "dup");
    this.#socket = socket;
    this.#events = events;
    const secured = tls === undefined ? 0 : this.#native.tcpSecure(socket, tls.context.native, tls.host, tls.first);
    if (secured < 0) throw new FsError(errnoName(-secured), "secure");
    const failure = this.#native.tcpStart(
      socket,
      this,
      (bytes) => this.#events.landed(bytes),
      () => this.#sendOn(),
      (errno) => this.#events.ended(errno === 0 ? undefined : this.#brokenBy(errno)),
      () => this.#events.secured?.(),
    );
    if (failure < 0) throw new FsError(errnoName(-failure), "watch");
  }

  /** From now on `events` are told. The socket must not be sending. */
  handOver(events: TcpSocketEvents): void {
    this.#events = events;
  }

  /** The peer's certificate (DER; undefined without one) and what is wrong with it, once secured. Empty: nothing is, to those the context believes. */
  peerCertificate(): { der: Buffer | undefined; failure: string } {
    const der = this.#native.tlsCertificate(this.#socket);
    return { der: der.length === 0 ? undefined : der, failure: this.#native.tlsVerifyFailure(this.#socket) };
  }

  /** What encrypts the connection, as RFC 8446 calls it, once secured. */
  cipher(): string {
    return this.#native.tlsCipher(this.#socket);
  }

  /** Bytes that only both ends can know, once secured: RFC 8446, 7.5, without a context. */
  exportKeyingMaterial(bytes: number, label: string): Buffer {
    const out = Buffer.alloc(bytes);
    const failure = this.#native.tlsExport(this.#socket, label, out);
    if (failure < 0) throw new FsError(errnoName(-failure), "export");
    return out;
  }

  /** Where the next bytes go, from now on; not empty. */
  place(place: Buffer): void {
    this.#place = place;
    this.#native.tcpPlace(this.#socket, place);
  }

  /** Reads, from the first time on that there is a place, or does not. */
  read(isOn: boolean): void {
    if (this.#place === undefined || this.#native.tcpRead(this.#socket, isOn ? 1 : 0) === 0) return;
    // Decrypted or not, it is here already; but nobody who says `read` expects `landed` before that returns.
    setImmediate(() => this.#native.tcpPump(this.#socket));
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
      if (result < 0) throw this.#brokenBy(-result);
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

  #brokenBy(errno: number): Error {
    const name = errnoName(errno);
    const reason = this.#native.tlsReason(this.#socket) || name;
    return Object.assign(new Error(`the connection broke: ${reason}`), { code: name });
  }
}

/** The descriptor of a connected socket; -1 if it has none any more, or still has to send what was written to it. */
export function descriptorOf(socket: Socket): number {
  // Not in the public types; the same since Node 10.
  const { _handle: handle } = socket as unknown as { _handle: { fd: number; writeQueueSize: number } | null };
  return handle === null || handle.writeQueueSize > 0 ? -1 : handle.fd;
}
