/**
 * The client's way to a server: an HTTP/1.1 upgrade with undici, after which the socket is a byte link.
 *
 * It knows no session. TLS will be wrapped here.
 */
import type { Socket } from "node:net";
import { Client } from "undici";
import type { Clock } from "../base/clock.ts";
import { CloseCode, ConnectionError, ProtocolError } from "../base/errors.ts";
import type { ByteLink } from "./byte-link.ts";
import { UPGRADE_PATH, UPGRADE_PROTOCOL } from "./listen.ts";
import { SocketLink } from "./socket-link.ts";

/**
 * Connects and upgrades.
 *
 * @param options.timeoutMs  for everything until the upgrade is answered.
 * @throws ConnectionError nobody there, refused, timed out, aborted (the cause is the signal's reason); ProtocolError somebody else is there.
 */
export async function dial(options: {
  host: string;
  port: number;
  timeoutMs: number;
  clock: Clock;
  signal?: AbortSignal | undefined;
}): Promise<ByteLink> {
  const { host, port, timeoutMs, clock, signal } = options;
  const origin = `http://${host.includes(":") ? `[${host}]` : host}:${port}`;
  const place = `${host}:${port}`;
  const client = new Client(origin, { allowH2: false, connect: { timeout: 0 }, headersTimeout: 0, bodyTimeout: 0 });
  // `destroy` fails what is under way; the abort signal of an upgrade does not end a connect that hangs.
  let stopped: ConnectionError | undefined;
  const stop = (reason: ConnectionError) => {
    stopped ??= reason;
    client.destroy(reason).catch(() => {});
  };
  const timer = clock.after(
    timeoutMs,
    () => stop(new ConnectionError(`${place} did not answer within ${timeoutMs / 1000} s`, { retryable: true })),
    { keepAlive: true },
  );
  const onAbort = () => stop(new ConnectionError("given up", { retryable: false, cause: signal?.reason }));
  signal?.addEventListener("abort", onAbort);
  try {
    if (signal?.aborted === true) onAbort();
    const { headers, socket } = await client.upgrade({ path: UPGRADE_PATH, protocol: UPGRADE_PROTOCOL });
    if (headers["upgrade"] !== UPGRADE_PROTOCOL) {
      socket.destroy();
      throw new ProtocolError(CloseCode.MALFORMED, `${place} upgrades to something else`);
    }
    return new SocketLink(socket as Socket, Buffer.alloc(0));
  } catch (error) {
    throw stopped ?? asDialError(error, place);
  } finally {
    timer.stop();
    signal?.removeEventListener("abort", onAbort);
    // The upgraded socket is no longer the client's; what is left of it must not keep the process alive.
    client.destroy().catch(() => {});
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

function asDialError(error: unknown, place: string): Error {
  if (error instanceof ProtocolError) return error;
  const { code, message, name } = error as NodeJS.ErrnoException;
  if (message === "bad upgrade" || name === "HTTPParserError") {
    return new ProtocolError(CloseCode.MALFORMED, `${place} is not a netdrive server`, { cause: error });
  }
  if (code === "UND_ERR_SOCKET") {
    return new ConnectionError(`${place} closed the connection`, { retryable: true, cause: error });
  }
  const text = CONNECT_TEXT[code ?? ""] ?? `cannot be reached (${code ?? message})`;
  return new ConnectionError(`${place} ${text}`, { retryable: true, cause: error });
}
