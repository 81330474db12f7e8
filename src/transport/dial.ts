/**
 * The client's way to a server: an HTTP/1.1 upgrade, over TLS unless told otherwise, after which the socket is a byte link. With undici, which waits for the
 * server's yes, or, to come back to a server, without waiting (upgrading-link.ts).
 *
 * It knows no session. A server that is not who it must be hears nothing from us but the handshake of TLS.
 */
import type { Socket } from "node:net";
import { connect as connectTls, TLSSocket } from "node:tls";
import { Client } from "undici";
import type { Clock } from "../base/clock.ts";
import { CloseCode, ConnectionError, ProtocolError } from "../base/errors.ts";
import type { ByteLink } from "./byte-link.ts";
import { connectTo, type Place, type Trust } from "./connect.ts";
import { UPGRADE_PATH, UPGRADE_PROTOCOL } from "./listen.ts";
import type { Network } from "./network.ts";
import { SocketLink } from "./socket-link.ts";
import { TlsLink } from "./tls-link.ts";
import { fingerprintOf, tlsSettings } from "./tls-settings.ts";
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
        if (socket.destroyed) throw new ConnectionError(`${place} closed the connection`, { retryable: true });
        const nothing = Buffer.alloc(0);
        const link = socket instanceof TLSSocket ? new TlsLink(socket, nothing) : new SocketLink(socket, nothing);
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
async function upgrade(socket: Socket, host: string, port: number): Promise<void> {
  const scheme = socket instanceof TLSSocket ? "https" : "http";
  const client = new Client(`${scheme}://${authority(host, port)}`, {
    allowH2: false,
    headersTimeout: 0,
    bodyTimeout: 0,
    // Not before it returns: undici would not look whether there is anything to send.
    connect: (_options, callback) => queueMicrotask(() => callback(null, socket)),
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
  const { host, port } = options;
  const place = `${host}:${port}`;
  let stop = (_reason: Error) => {};
  return withinTime(
    options,
    (reason) => stop(reason),
    () =>
      new Promise((resolve, reject) => {
        const socket = connectTls({ host, port, rejectUnauthorized: false, ...tlsSettings() });
        stop = (reason) => void socket.destroy(reason);
        socket.once("secureConnect", () => {
          const certificate = socket.getPeerX509Certificate();
          socket.destroy();
          if (certificate === undefined) reject(new ProtocolError(CloseCode.SECURITY, `${place} shows no certificate`));
          else resolve(fingerprintOf(certificate));
        });
        socket.once("error", (error) => reject(asDialError(error, place)));
      }),
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
};

/** What Node says of a certificate that does not pass: its own codes and those of OpenSSL (X509_V_ERR_*). */
const IS_CERTIFICATE_CODE =
  /^(ERR_TLS_CERT_|CERT_|UNABLE_TO_|SELF_SIGNED_|DEPTH_ZERO_|INVALID_|HOSTNAME_|ERROR_IN_CERT)/;

function asDialError(error: unknown, place: string): Error {
  if (error instanceof ProtocolError || error instanceof ConnectionError) return error;
  const { code = "", message, name } = error as NodeJS.ErrnoException;
  if (message === "bad upgrade" || name === "HTTPParserError") {
    return new ProtocolError(CloseCode.MALFORMED, `${place} is not a netdrive server`, { cause: error });
  }
  if (IS_CERTIFICATE_CODE.test(code)) {
    const text = `the certificate of ${place} is not good: ${message.split("\n", 1)[0]}`;
    return new ProtocolError(CloseCode.SECURITY, text, { cause: error });
  }
  if (code === "EPROTO" || code.startsWith("ERR_SSL_")) {
    return new ProtocolError(CloseCode.MALFORMED, `${place} does not speak TLS 1.3`, { cause: error });
  }
  if (code === "UND_ERR_SOCKET") {
    return new ConnectionError(`${place} closed the connection`, { retryable: true, cause: error });
  }
  const text = CONNECT_TEXT[code] ?? `cannot be reached (${code || message})`;
  return new ConnectionError(`${place} ${text}`, { retryable: true, cause: error });
}
