/**
 * The client's way to a server: an HTTP/1.1 upgrade with undici, over TLS unless told otherwise, after which the socket is a byte link.
 *
 * It knows no session. A server that is not who it must be hears nothing from us but the handshake of TLS.
 */
import type { Socket } from "node:net";
import { connect as connectTls, TLSSocket } from "node:tls";
import { buildConnector, Client } from "undici";
import type { Clock } from "../base/clock.ts";
import { CloseCode, ConnectionError, ProtocolError } from "../base/errors.ts";
import type { ByteLink } from "./byte-link.ts";
import { UPGRADE_PATH, UPGRADE_PROTOCOL } from "./listen.ts";
import { SocketLink } from "./socket-link.ts";
import { TlsLink } from "./tls-link.ts";
import { fingerprintOf, tlsSettings } from "./tls-settings.ts";

/** How a server shows that it is who it must be: by its key, or by a certificate of a CA (PEM) for its host. */
export type Trust = { readonly fingerprint: string } | { readonly ca: string };

export interface Place {
  readonly host: string;
  readonly port: number;
}

interface DialOptions extends Place {
  /** For everything until the upgrade is answered. */
  timeoutMs: number;
  clock: Clock;
  signal?: AbortSignal | undefined;
}

/**
 * Connects and upgrades. Without `trust` the connection is not encrypted.
 *
 * @throws ConnectionError nobody there, refused, timed out, aborted (the cause is the signal's reason); ProtocolError somebody else is there (SECURITY:
 *   who does not have the key or certificate it must have).
 */
export async function dial(options: DialOptions & { trust?: Trust | undefined }): Promise<ByteLink> {
  const { host, port, trust } = options;
  const place = `${host}:${port}`;
  const scheme = trust === undefined ? "http" : "https";
  const client = new Client(`${scheme}://${host.includes(":") ? `[${host}]` : host}:${port}`, {
    allowH2: false,
    headersTimeout: 0,
    bodyTimeout: 0,
    connect: trust === undefined ? { timeout: 0 } : trustingConnector(trust, place),
  });
  // `destroy` fails what is under way; the abort signal of an upgrade does not end a connect that hangs.
  const stop = (reason: Error) => void client.destroy(reason).catch(() => {});
  return withinTime(options, stop, async () => {
    try {
      const { headers, socket } = await client.upgrade({ path: UPGRADE_PATH, protocol: UPGRADE_PROTOCOL });
      if (headers["upgrade"] !== UPGRADE_PROTOCOL) {
        socket.destroy();
        throw new ProtocolError(CloseCode.MALFORMED, `${place} upgrades to something else`);
      }
      if (socket.destroyed) throw new ConnectionError(`${place} closed the connection`, { retryable: true });
      const nothing = Buffer.alloc(0);
      return socket instanceof TLSSocket ? new TlsLink(socket, nothing) : new SocketLink(socket as Socket, nothing);
    } catch (error) {
      throw asDialError(error, place);
    } finally {
      // The upgraded socket is no longer the client's; what is left of it must not keep the process alive.
      client.destroy().catch(() => {});
    }
  });
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

/** Connects with TLS and lets pass only who is to be trusted. */
function trustingConnector(trust: Trust, place: string): buildConnector.connector {
  const isPinned = "fingerprint" in trust;
  const { ALPNProtocols: _, ...settings } = tlsSettings();
  const connect = buildConnector({
    ...settings,
    timeout: 0,
    ...(isPinned ? { rejectUnauthorized: false } : { ca: trust.ca }),
  });
  return (options, callback) =>
    connect(options, (...[error, socket]) => {
      if (error !== null || !isPinned) {
        callback(...([error, socket] as Parameters<typeof callback>));
        return;
      }
      const certificate = (socket as TLSSocket).getPeerX509Certificate();
      const seen = certificate === undefined ? "no key" : fingerprintOf(certificate);
      if (seen === trust.fingerprint) {
        callback(null, socket);
        return;
      }
      socket.destroy();
      const text = `the key of ${place} is ${seen} and should be ${trust.fingerprint}`;
      callback(new ProtocolError(CloseCode.SECURITY, text), null);
    });
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
