/**
 * Ends of TLS connections over loopback: ours, of which everything is remembered, and a line between them that somebody sits on.
 *
 * Everything is closed with the test.
 */
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import type { TestContext } from "node:test";
import { descriptorOf, TcpSocket } from "../../src/sys/tcp-socket.ts";
import { TlsContext } from "../../src/sys/tls-context.ts";
import { makeIdentity } from "../../src/transport/self-signed.ts";
import { tlsCiphers } from "../../src/transport/tls-settings.ts";

const HOST = "127.0.0.1";
const PLACE_BYTES = 100_000;

export const identity = makeIdentity([HOST, "localhost"]);
const ciphers = tlsCiphers();
export const serverContext = TlsContext.ofServer({ ciphers, ...identity });
export const clientContext = TlsContext.ofClient({ ciphers, ca: identity.certificate });

/** One end of ours. It reads from the handshake on, unless it `isIdle`. */
export class TlsEnd {
  readonly socket: TcpSocket;
  readonly landings: Buffer[] = [];
  bytes = 0;
  isSecured = false;
  /** Undefined until it has ended. */
  outcome: { error: Error | undefined } | undefined;
  /** Called after everything that happens. */
  onEvent = () => {};
  isSending = false;
  #sent: (() => void) | undefined;
  readonly #place: Buffer;

  constructor(
    raw: Socket,
    context: TlsContext,
    { host = "", isIdle = false, first = Buffer.alloc(0), placeBytes = PLACE_BYTES } = {},
  ) {
    this.#place = Buffer.alloc(placeBytes);
    const events = {
      landed: (bytes: number) => {
        this.landings.push(Buffer.from(this.#place.subarray(0, bytes)));
        this.bytes += bytes;
        this.onEvent();
      },
      sent: () => {
        this.#sent?.();
        this.onEvent();
      },
      ended: (error: Error | undefined) => {
        this.outcome = { error };
        this.onEvent();
      },
      secured: () => {
        this.isSecured = true;
        if (!isIdle) this.read();
        this.onEvent();
      },
    };
    this.socket = new TcpSocket(descriptorOf(raw), events, { context, host, first });
    raw.destroy();
  }

  get received(): Buffer {
    return Buffer.concat(this.landings);
  }

  read(): void {
    this.socket.place(this.#place);
    this.socket.read(true);
  }

  /** Settles when all has left. */
  async send(...chunks: Buffer[]): Promise<void> {
    this.isSending = true;
    const left = new Promise<void>((resolve) => {
      this.#sent = resolve;
    });
    if (!this.socket.send(chunks)) await left;
    this.isSending = false;
  }

  /** Settles when it is so; `what` is asked after everything that happens. */
  until(what: (end: this) => boolean): Promise<void> {
    return new Promise((resolve) => {
      this.onEvent = () => {
        if (what(this)) resolve();
      };
      this.onEvent();
    });
  }

  secured(): Promise<void> {
    return this.until(({ isSecured }) => isSecured);
  }

  async ended(): Promise<Error | undefined> {
    await this.until(({ outcome }) => outcome !== undefined);
    return this.outcome?.error;
  }
}

/** A port whose connections `onSocket` gets. */
export async function openPort(t: TestContext, onSocket: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
    socket.on("error", () => {});
    onSocket(socket);
  });
  server.listen(0, HOST);
  await once(server, "listening");
  t.after(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  return (server.address() as AddressInfo).port;
}

/** A connected socket; not to be waited for at the end of the test. */
export async function connected(t: TestContext, port: number): Promise<Socket> {
  const socket = connect({ port, host: HOST, noDelay: true });
  socket.on("error", () => {});
  t.after(() => socket.destroy());
  await once(socket, "connect");
  return socket;
}

/** What happens to bytes on their way: `pass` says what goes on, and may do more with the two sockets. */
export type Line = (bytes: Buffer, from: Socket, to: Socket, direction: "up" | "down") => Promise<void> | void;

/** A port that leads to another one over a line. Up is to there. */
export function openLine(t: TestContext, port: number, pass: Line): Promise<number> {
  return openPort(t, (client) => {
    const server = connect({ port, host: HOST, noDelay: true });
    t.after(() => server.destroy());
    server.on("error", () => {});
    void carry(client, server, (bytes, from, to) => pass(bytes, from, to, "up"));
    void carry(server, client, (bytes, from, to) => pass(bytes, from, to, "down"));
  });
}

async function carry(
  from: Socket,
  to: Socket,
  pass: (bytes: Buffer, from: Socket, to: Socket) => Promise<void> | void,
) {
  try {
    for await (const bytes of from as AsyncIterable<Buffer>) await pass(bytes, from, to);
    to.end();
  } catch {
    to.destroy();
  }
}

/** Two ends of ours that talk to each other. */
export async function tlsPair(
  t: TestContext,
  options: { line?: Line; client?: TlsContext; server?: TlsContext; isIdle?: boolean; placeBytes?: number } = {},
): Promise<{ client: TlsEnd; server: TlsEnd }> {
  const accepted: { take: (end: TlsEnd) => void } = { take: () => {} };
  const server = new Promise<TlsEnd>((resolve) => {
    accepted.take = resolve;
  });
  const port = await openPort(t, (raw) => accepted.take(new TlsEnd(raw, options.server ?? serverContext, options)));
  const way = options.line === undefined ? port : await openLine(t, port, options.line);
  const client = new TlsEnd(await connected(t, way), options.client ?? clientContext, options);
  t.after(async () => {
    client.socket.close();
    (await server).socket.close();
  });
  return { client, server: await server };
}
