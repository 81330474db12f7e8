/**
 * The server's front door: HTTP/1.1, on which a client asks for an upgrade to UPGRADE_PROTOCOL and gets a byte link.
 *
 * Every other request gets a short plain answer that says nothing about shares or state. What came before the upgrade is bounded in time and in number:
 * of the peers that have not proven themselves, the oldest makes room for the newest.
 */
import { createServer, type IncomingMessage, type Server, type ServerResponse, STATUS_CODES } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { ByteLink } from "./byte-link.ts";
import { SocketLink } from "./socket-link.ts";

export const UPGRADE_PROTOCOL = "netdrive/1";
export const UPGRADE_PATH = "/netdrive/1";

const SWITCHING = `HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${UPGRADE_PROTOCOL}\r\n\r\n`;
/** Line and headers of a request. */
const HEADER_BYTES_MAX = 8 * 1024;
const REQUEST_TIMEOUT_MS = 10_000;
const CHECK_PERIOD_MS = 1000;
const BACKLOG = 511;

/** Peers that have not proven themselves. Bound: `max`; policy: the oldest is closed. */
export class Unproven {
  readonly #max: number;
  readonly #closers = new Map<object, () => void>();

  constructor(max: number) {
    this.#max = max;
  }

  get count(): number {
    return this.#closers.size;
  }

  add(peer: object, close: () => void): void {
    this.#closers.set(peer, close);
    if (this.#closers.size <= this.#max) return;
    for (const [oldest, closeOldest] of this.#closers) {
      this.#closers.delete(oldest);
      closeOldest();
      return;
    }
  }

  delete(peer: object): void {
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
  unproven: Unproven;
  onLink: (link: ByteLink) => void;
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
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    unproven.add(socket, () => socket.destroy());
    socket.once("close", () => {
      sockets.delete(socket);
      unproven.delete(socket);
    });
  });
  server.on("request", answer);
  server.on("clientError", (_error, socket: Duplex) => socket.destroy());
  server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
    // A destroyed socket of the HTTP server says 'error' to nobody once it is ours.
    socket.on("error", () => socket.destroy());
    if (request.url !== UPGRADE_PATH || request.headers.upgrade?.toLowerCase() !== UPGRADE_PROTOCOL) {
      socket.end(plain(request.url === UPGRADE_PATH ? 426 : 404), () => socket.destroy());
      return;
    }
    socket.write(SWITCHING);
    sockets.delete(socket as Socket);
    unproven.delete(socket);
    onLink(new SocketLink(socket as Socket, head));
  });
  await started(server, options.host, options.port);
  const { address, port } = server.address() as AddressInfo;
  return {
    address: { host: address, port },
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      for (const socket of sockets) socket.destroy();
      await closed;
    },
  };
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
