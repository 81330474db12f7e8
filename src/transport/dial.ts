/**
 * The client's way to a server: an HTTP/1.1 upgrade, over TLS unless told otherwise, after which the socket is a byte link. With undici, which waits for the
 * server's yes, or, to come back to a server, without waiting (upgrading-link.ts).
 *
 * It knows no session. A server that is not who it must be hears nothing from us but the handshake of TLS.
 */
import type { Socket } from "node:net";
import { Client } from "undici";
import type { Clock } from "../base/clock.ts";
import { CloseCode, ConnectionError, ProtocolError } from "../base/errors.ts";
import type { ByteLink } from "./byte-link.ts";
import { connectTls, connectTo, type Place, type Trust } from "./connect.ts";
import { UPGRADE_PATH, UPGRADE_PROTOCOL } from "./listen.ts";
import type { Network } from "./network.ts";
import { SocketLink } from "./socket-link.ts";
import { fingerprintOf } from "./tls-settings.ts";
import { TlsStream } from "./tls-stream.ts";
import { UpgradingLink } from "./upgrading-link.ts";

interface DialOptions extends Place {
  /** For everything until the upgrade is answered. */
  timeoutMs: number;
  clock: Clock;
  network?: Network | undefined;
  signal?: AbortSignal | undefined;
}

/**
 * Connects and upgrades. Without `trust` the connection is not encrypted. `isEager`: for a server that was there before; the upgrade is asked for
 * with the first bytes that are written to the link, and what is wrong with the answer is told by its end.
 *
 * @throws ConnectionError nobody there, refused, timed out, aborted (the cause is the signal's reason); ProtocolError somebody else is there (SECURITY:
 *   who does not have the key or certificate it must have).
 */
export async function dial(options: DialOptions & { trust?: Trust | undefined; isEager?: boolean }): Promise<ByteLink> {
  const { host, port, isEager = false } = options;
  const place = `${host}:${port}`;
  let stop = (_reason: Error) => {};
  return withinTime(
    options,
    (reason) => stop(reason),
    async () => {
      try {
        const socket = await connectTo(options, (stopIt) => {
          stop = stopIt;
        });
        if (!isEager) await upgrade(socket, host, port);
        if (socket.destroyed) throw Object.assign(new Error("closed"), { code: "ECONNRESET" });
        const link = new SocketLink(socket, Buffer.alloc(0));
        return isEager ? new UpgradingLink(link, authority(host, port)) : link;
      } catch (error) {
        throw asDialError(error, place);
      }
    },
  );
}

function authority(host: string, port: number): string {
  return `${host.includes(":") ? `[${host}]` : host}:${port}`;
}

/** Asks for the upgrade of a connection and waits for it. */
async function upgrade(socket: Socket | TlsStream, host: string, port: number): Promise<void> {
  const scheme = socket instanceof TlsStream ? "https" : "http";
  const client = new Client(`${scheme}://${authority(host, port)}`, {
    allowH2: false,
    headersTimeout: 0,
    bodyTimeout: 0,
    // Not before it returns: undici would not look whether there is anything to send.
    connect: (_options, callback) => queueMicrotask(() => callback(null, socket as Socket)),
  });
  try {
    const { headers } = await client.upgrade({ path: UPGRADE_PATH, protocol: UPGRADE_PROTOCOL });
    if (headers["upgrade"] === UPGRADE_PROTOCOL) return;
    socket.destroy();
    throw new ProtocolError(CloseCode.MALFORMED, `${authority(host, port)} upgrades to something else`);
  } finally {
    // The upgraded socket is no longer the client's; what is left of it must not keep the process alive.
    client.destroy().catch(() => {});
  }
}

/** Connects only to learn which key is there: nothing is believed of it. @throws as `dial`. */
export async function fingerprintAt(options: DialOptions): Promise<string> {
  const place = `${options.host}:${options.port}`;
  let stop = (_reason: Error) => {};
  return withinTime(
    options,
    (reason) => stop(reason),
    async () => {
      try {
        const { stream, certificate } = await connectTls(options, undefined, (stopIt) => {
          stop = stopIt;
        });
        stream.destroy();
        if (certificate !== undefined) return fingerprintOf(certificate);
        throw new ProtocolError(CloseCode.SECURITY, `${place} shows no certificate`);
      } catch (error) {
        throw asDialError(error, place);
      }
    },
  );
}

/** Runs `work`, and stops it when time is over or the signal aborts. */
async function withinTime<T>(
  { host, port, timeoutMs, clock, signal }: DialOptions,
  stop: (reason: Error) => void,
  work: () => Promise<T>,
): Promise<T> {
  let stopped: ConnectionError | undefined;
  const onStop = (reason: ConnectionError) => {
    stopped ??= reason;
    stop(reason);
  };
  const late = `${host}:${port} did not answer within ${timeoutMs / 1000} s`;
  const timer = clock.after(timeoutMs, () => onStop(new ConnectionError(late, { retryable: true })), {
    keepAlive: true,
  });
  const onAbort = () => onStop(new ConnectionError("given up", { retryable: false, cause: signal?.reason }));
  signal?.addEventListener("abort", onAbort);
  try {
    if (signal?.aborted === true) onAbort();
    if (stopped !== undefined) throw stopped;
    return await work();
  } catch (error) {
    throw stopped ?? error;
  } finally {
    timer.stop();
    signal?.removeEventListener("abort", onAbort);
  }
}

const CONNECT_TEXT: Readonly<Record<string, string>> = {
  ECONNREFUSED: "refuses the connection: is the server running?",
  ENOTFOUND: "is not a known host",
  EAI_AGAIN: "cannot be looked up: no name server answers",
  EHOSTUNREACH: "cannot be reached",
  ENETUNREACH: "cannot be reached: no route",
  ETIMEDOUT: "does not answer",
  ECONNRESET: "closed the connection",
  EPIPE: "closed the connection",
};

function asDialError(error: unknown, place: string): Error {
  if (error instanceof ProtocolError || error instanceof ConnectionError) return error;
  const { code = "", message, name } = error as NodeJS.ErrnoException;
  if (message === "bad upgrade" || name === "HTTPParserError") {
    return new ProtocolError(CloseCode.MALFORMED, `${place} is not a netdrive server`, { cause: error });
  }
  if (code === "EPROTO") {
    return new ProtocolError(CloseCode.MALFORMED, `${place} does not speak TLS 1.3`, { cause: error });
  }
  if (code === "UND_ERR_SOCKET") {
    return new ConnectionError(`${place} closed the connection`, { retryable: true, cause: error });
  }
  const text = CONNECT_TEXT[code] ?? `cannot be reached (${code || message})`;
  return new ConnectionError(`${place} ${text}`, { retryable: true, cause: error });
}
