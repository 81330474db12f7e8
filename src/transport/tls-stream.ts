/**
 * A TLS connection as a stream of Node: from its handshake, over a connected TCP socket of Node which it takes over, until a link takes it over in turn
 * (socket-link.ts). In between HTTP is spoken over it, so it need not be fast.
 *
 * It trusts nobody and refuses nobody: who shook hands is asked for afterwards.
 */
import { X509Certificate } from "node:crypto";
import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import { descriptorOf, TcpSocket, type TcpSocketEvents, type TlsOptions } from "../sys/tcp-socket.ts";
import type { TlsContext } from "../sys/tls-context.ts";
import { bindingOf } from "./tls-settings.ts";

/** Time after which the kernel asks a silent peer whether it is there. */
const KEEP_ALIVE_MS = 15_000;
const PLACE_BYTES = 16 * 1024;

export class TlsStream extends Duplex {
  readonly remoteAddress: string | undefined;
  readonly remotePort: number | undefined;
  readonly localAddress: string | undefined;
  #socket: TcpSocket | undefined;
  #binding: Buffer | undefined;
  #cipher = "";
  readonly #place = Buffer.allocUnsafeSlow(PLACE_BYTES);
  #isReading = false;
  #hasEnded = false;
  /** Of the write under way. */
  #sent: ((error?: Error) => void) | undefined;

  /** `host`: the name a client asks for, if any. Emits 'secure' once, or 'error'. */
  constructor(raw: Socket, context: TlsContext, host = "") {
    super({ allowHalfOpen: true, emitClose: true });
    this.remoteAddress = raw.remoteAddress;
    this.remotePort = raw.remotePort;
    this.localAddress = raw.localAddress;
    const first = (raw.read() as Buffer | null) ?? Buffer.alloc(0);
    const fd = raw.destroyed ? -1 : descriptorOf(raw);
    if (fd >= 0) this.#begin(fd, raw, { context, host, first });
    else this.destroy(closedEarly());
    raw.destroy();
  }

  /** See ByteLink. From 'secure' on, also when the connection is gone. */
  get binding(): Buffer {
    if (this.#binding === undefined) throw new Error("no hands were shaken");
    return this.#binding;
  }

  /** See ByteLink. As `binding`. */
  get cipher(): string {
    return this.#cipher;
  }

  /**
   * The peer's certificate, if it has one, and what is wrong with it; empty if it is one of those the context believes. From 'secure' on, until the
   * connection is gone. @throws Error closed.
   */
  peerCertificate(): { certificate: X509Certificate | undefined; failure: string } {
    if (this.#socket === undefined || !this.#isSecured) throw closedEarly();
    const { der, failure } = this.#socket.peerCertificate();
    return { certificate: der === undefined ? undefined : new X509Certificate(der), failure };
  }

  /** Gives the socket away; nothing more comes or goes here. Undefined if it is gone, or still has to send what was written to it. */
  handOver(events: TcpSocketEvents): TcpSocket | undefined {
    const socket = this.#socket;
    if (socket === undefined || this.#sent !== undefined || this.writableLength > 0) return undefined;
    this.#socket = undefined;
    socket.read(false);
    socket.handOver(events);
    return socket;
  }

  override _read(): void {
    if (this.#isReading || this.#hasEnded) return;
    this.#isReading = true;
    if (this.#isSecured) this.#socket?.read(true);
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, sent: (error?: Error | null) => void): void {
    this.#sent = sent;
    if (this.#isSecured) this.#send([chunk]);
    else this.once("secure", () => this.#send([chunk]));
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket?.shutdown();
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#socket?.close();
    this.#socket = undefined;
    const sent = this.#sent;
    this.#sent = undefined;
    sent?.(error ?? closedEarly());
    done(error);
  }

  #begin(fd: number, raw: Socket, tls: TlsOptions): void {
    raw.setNoDelay(true);
    raw.setKeepAlive(true, KEEP_ALIVE_MS);
    const events: TcpSocketEvents = {
      landed: (bytes) => this.#landed(bytes),
      sent: () => this.#written(),
      ended: (error) => this.#end(error),
      secured: () => this.#secured(),
    };
    try {
      this.#socket = new TcpSocket(fd, events, tls);
    } catch (error) {
      this.destroy(error as Error);
    }
  }

  get #isSecured(): boolean {
    return this.#binding !== undefined;
  }

  #secured(): void {
    if (this.#socket === undefined) return;
    try {
      this.#binding = bindingOf(this.#socket);
      this.#cipher = this.#socket.cipher();
    } catch (error) {
      this.destroy(error as Error);
      return;
    }
    this.#socket.place(this.#place);
    this.emit("secure");
    if (this.#isReading) this.#socket?.read(true);
  }

  #landed(bytes: number): void {
    if (this.push(Buffer.from(this.#place.subarray(0, bytes)))) return;
    this.#isReading = false;
    this.#socket?.read(false);
  }

  #send(chunks: readonly Buffer[]): void {
    try {
      if (this.#socket?.send(chunks) !== false) this.#written();
    } catch (error) {
      this.destroy(error as Error);
    }
  }

  #written(): void {
    const sent = this.#sent;
    this.#sent = undefined;
    sent?.();
  }

  #end(error: Error | undefined): void {
    this.#hasEnded = true;
    if (error === undefined && this.#isSecured) this.push(null);
    else this.destroy(error ?? closedEarly());
  }
}

function closedEarly(): Error {
  return Object.assign(new Error("closed"), { code: "ECONNRESET" });
}
