/**
 * The server's front door: HTTP/1.1, on which a client asks for an upgrade to UPGRADE_PROTOCOL and gets a byte link.
 *
 * With an identity one port takes both TLS and plain connections: the first byte tells which it is. Whether a plain one may be used is not decided
 * here but by the set-up of its channel, which can tell the client why not.
 *
 * Every other request gets a short plain answer that says nothing about shares or state. What came before the upgrade is bounded in time and in number:
 * of the peers that have not proven themselves, the oldest makes room for the newest.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { Clock } from "../base/clock.ts";
import { TlsContext } from "../sys/tls-context.ts";
import type { ByteLink } from "./byte-link.ts";
import type { Identity } from "./self-signed.ts";
import { SocketLink } from "./socket-link.ts";
import { tlsCiphers } from "./tls-settings.ts";
import { TlsStream } from "./tls-stream.ts";

export const UPGRADE_PROTOCOL = "netdrive/1";
export const UPGRADE_PATH = "/netdrive/1";

const SWITCHING = `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${UPGRADE_PROTOCOL}\r\n\r\n`;
/** Line and headers of a request. */
const HEADER_BYTES_MAX = 8 * 1024;
const REQUEST_TIMEOUT_MS = 10_000;
const CHECK_PERIOD_MS = 1000;
const BACKLOG = 511;
/** The first byte of a TLS connection: a record of its handshake. No HTTP request begins so. */
const TLS_HANDSHAKE = 0x16;

/** Peers that have not proven themselves. Bound: `max`; policy: the oldest is closed. */
export class Unproven {
  readonly #max: number;
  readonly #closers = new Map<object | string, () => void>();

  constructor(max: number) {
    this.#max = max;
  }

  get count(): number {
    return this.#closers.size;
  }

  add(peer: object | string, close: () => void): void {
    this.#closers.set(peer, close);
    if (this.#closers.size <= this.#max) return;
    for (const [oldest, closeOldest] of this.#closers) {
      this.#closers.delete(oldest);
      closeOldest();
      return;
    }
  }

  delete(peer: object | string): void {
    this.#closers.delete(peer);
  }
}

export interface Listener {
  readonly address: { readonly host: string; readonly port: number };
  /** Takes no more connections and drops those that were not upgraded. */
  close(): Promise<void>;
}

/** Listens; `onLink` gets every upgraded connection. @throws Node's error of listen(2) (EADDRINUSE, EACCES, ...). */
export async function listen(options: {
  host: string;
  port: number;
  /** With it, TLS is spoken to who begins so. */
  identity?: Identity | undefined;
  unproven: Unproven;
  onLink: (link: ByteLink) => void;
  clock: Clock;
}): Promise<Listener> {
  const { unproven, onLink } = options;
  const server = createServer({
    maxHeaderSize: HEADER_BYTES_MAX,
    headersTimeout: REQUEST_TIMEOUT_MS,
    requestTimeout: REQUEST_TIMEOUT_MS,
    connectionsCheckingInterval: CHECK_PERIOD_MS,
    keepAliveTimeout: REQUEST_TIMEOUT_MS,
    noDelay: true,
  });
  /** Those that were not upgraded, by where they come from: that is the same for a connection and for what TLS makes of it. */
  const sockets = new Map<string, Accepted>();
  const onAccepted = (socket: Accepted) => {
    const source = sourceOf(socket);
    sockets.set(source, socket);
    unproven.add(source, () => socket.destroy());
    socket.once("close", () => {
      // Somebody else may come from there by now.
      if (sockets.get(source) !== socket) return;
      sockets.delete(source);
      unproven.delete(source);
    });
  };
  if (options.identity !== undefined) speakTls(server, options.identity, options.clock, onAccepted);
  server.prependListener("connection", onAccepted);
  server.on("request", answer);
  server.on("clientError", (_error, socket: Duplex) => socket.destroy());
  server.on("upgrade", (request: IncomingMessage, socket: Accepted, head: Buffer) => {
    // A destroyed socket of the HTTP server says 'error' to nobody once it is ours.
    socket.on("error", () => socket.destroy());
    if (request.url !== UPGRADE_PATH || request.headers.upgrade?.toLowerCase() !== UPGRADE_PROTOCOL) {
      socket.end(plain(request.url === UPGRADE_PATH ? 426 : 404), () => socket.destroy());
      return;
    }
    // Who has gone since it asked is noticed here, or when it is answered.
    if (!socket.destroyed) socket.write(SWITCHING);
    if (socket.destroyed) return;
    sockets.delete(sourceOf(socket));
    unproven.delete(sourceOf(socket));
    onLink(new SocketLink(socket, head));
  });
  await started(server, options.host, options.port);
  const { address, port } = server.address() as AddressInfo;
  return {
    address: { host: address, port },
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets.values()) socket.destroy();
      await closed;
    },
  };
}

/** A connection, or what TLS makes of it. */
type Accepted = Socket | TlsStream;

function sourceOf({ remoteAddress, remotePort, localAddress }: Accepted): string {
  return `${remoteAddress} ${remotePort} ${localAddress}`;
}

/** Makes a server of HTTP speak TLS with every connection that begins so. `onTls` gets what such a connection has become, before hands are shaken. */
function speakTls(
  server: Server,
  { certificate, key }: Identity,
  clock: Clock,
  onTls: (stream: TlsStream) => void,
): void {
  const [serveHttp] = server.listeners("connection") as [(this: Server, socket: Duplex) => void];
  server.removeAllListeners("connection");
  const context = TlsContext.ofServer({ ciphers: tlsCiphers(), certificate, key });
  const shakeHands = (raw: Socket) => {
    const stream = new TlsStream(raw, context);
    stream.on("error", () => stream.destroy());
    onTls(stream);
    const timer = clock.after(REQUEST_TIMEOUT_MS, () => stream.destroy());
    stream.once("close", () => timer.stop());
    stream.once("secure", () => {
      timer.stop();
      serveHttp.call(server, stream);
    });
  };
  server.on("connection", (raw: Socket) => {
    const onError = () => raw.destroy();
    const timer = clock.after(REQUEST_TIMEOUT_MS, onError);
    raw.once("close", () => timer.stop());
    raw.on("error", onError);
    // Who goes without a word is not waited for: HTTP's sockets stay half open otherwise.
    raw.on("end", onError);
    const onReadable = () => {
      const first = raw.read() as Buffer | null;
      if (first === null) return;
      raw.off("readable", onReadable);
      raw.off("end", onError);
      timer.stop();
      raw.unshift(first);
      if (first[0] === TLS_HANDSHAKE) {
        shakeHands(raw);
        return;
      }
      raw.off("error", onError);
      serveHttp.call(server, raw);
    };
    raw.on("readable", onReadable);
  });
}

function started(server: Server, host: string, port: number): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen({ host, port, backlog: BACKLOG }, () => {
      server.off("error", reject);
      resolve();
    });
  });
}

/** A whole answer to a request whose socket has been taken from the HTTP server. */
function plain(status: number): string {
  const text = `${STATUS_CODES[status] ?? ""}\n`;
  return `HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: ${text.length}\r\n\r\n${text}`;
}

function answer(request: IncomingMessage, response: ServerResponse): void {
  const isRoot = request.url === "/" && (request.method === "GET" || request.method === "HEAD");
  const isDoor = request.url === UPGRADE_PATH;
  const status = isRoot ? 200 : isDoor ? 426 : 404;
  const headers: Record<string, string> = { "content-type": "text/plain" };
  if (isDoor) headers["upgrade"] = UPGRADE_PROTOCOL;
  // A body would have to be read before the next request; nobody has reason to send one.
  headers["connection"] = "close";
  response.writeHead(status, headers);
  response.end(isRoot ? "This is a netdrive server. Mount it with 'netdrive mount'.\n" : `${STATUS_CODES[status]}\n`);
}
