/**
 * A connection of the client before its first byte: TCP, and TLS with a server that is who it must be.
 *
 * A packet that is sent into nothing is only sent again by the kernel after a second, and then ever later. So while a connection has no answer another one is
 * begun every RETRY_MS, and whenever the network has changed, and the first that is answered is it: when a line comes back, one is on its way soon.
 */
import { isIP, type Socket, connect as tcpConnect } from "node:net";
import { type ConnectionOptions, connect as connectTls, type TLSSocket } from "node:tls";
import type { Clock } from "../base/clock.ts";
import { CloseCode, ProtocolError } from "../base/errors.ts";
import type { Network } from "./network.ts";
import { fingerprintOf, tlsSettings } from "./tls-settings.ts";

/** How a server shows that it is who it must be: by its key, or by a certificate of a CA (PEM) for its host. */
export type Trust = { readonly fingerprint: string } | { readonly ca: string };

export interface Place {
  readonly host: string;
  readonly port: number;
}

const RETRY_MS = 250;
/** Connections under way at once. Bound on what a server that comes back has to take from one client. */
const ATTEMPTS_MAX = 8;

/** Connections that were begun for the same purpose, of which one will do. */
export class Attempts {
  readonly #begin: () => Socket;
  readonly #pending: Socket[] = [];
  readonly #settle: (result: Socket | Error) => void;

  /** `begin` begins one; `settle` is told the first that is connected, or the first error: both are the end. */
  constructor(begin: () => Socket, settle: (result: Socket | Error) => void) {
    this.#begin = begin;
    this.#settle = settle;
  }

  /** Begins one more. The first one stays whatever happens, for lines whose answer takes longer; of the others the oldest makes room. */
  add(): void {
    if (this.#pending.length === ATTEMPTS_MAX) this.#pending.splice(1, 1)[0]?.destroy();
    const socket = this.#begin();
    this.#pending.push(socket);
    const onError = (error: Error) => {
      if (this.#pending.includes(socket)) this.end(error);
    };
    // Stays: an error of one that is given up is nobody's.
    socket.on("error", onError);
    socket.once("connect", () => {
      if (this.#pending.includes(socket)) this.end(socket);
    });
  }

  /** Destroys all but the result. */
  end(result: Socket | Error): void {
    const pending = this.#pending.splice(0);
    for (const socket of pending) if (socket !== result) socket.destroy();
    if (pending.length > 0) this.#settle(result);
  }
}

/**
 * Connects; without `trust` nothing is encrypted. `onStop` gets what ends it with an error.
 *
 * @throws Node's errors; ProtocolError SECURITY: who is there does not have the key it must have.
 */
export async function connectTo(
  place: Place & { trust?: Trust | undefined; clock: Clock; network?: Network | undefined },
  onStop: (stop: (reason: Error) => void) => void,
): Promise<Socket> {
  const { host, port, trust, clock, network } = place;
  const tcp = await new Promise<Socket>((resolve, reject) => {
    const attempts = new Attempts(
      () => tcpConnect({ host, port, noDelay: true }),
      (result) => {
        timer.stop();
        changes?.stop();
        if (result instanceof Error) reject(result);
        else resolve(result);
      },
    );
    const timer = clock.every(RETRY_MS, () => attempts.add());
    const changes = network?.onChange(() => attempts.add());
    onStop((reason) => attempts.end(reason));
    attempts.add();
  });
  onStop((reason) => void tcp.destroy(reason));
  if (trust === undefined) return tcp;
  return encrypt(tcp, host, trust, `${host}:${port}`, onStop);
}

function encrypt(
  tcp: Socket,
  host: string,
  trust: Trust,
  place: string,
  onStop: (stop: (reason: Error) => void) => void,
): Promise<TLSSocket> {
  const isPinned = "fingerprint" in trust;
  const settings: ConnectionOptions = {
    ...tlsSettings(),
    ...(isPinned ? { rejectUnauthorized: false } : { ca: trust.ca }),
  };
  return new Promise((resolve, reject) => {
    const socket = connectTls({ ...settings, socket: tcp, host, ...(isIP(host) === 0 ? { servername: host } : {}) });
    onStop((reason) => void socket.destroy(reason));
    socket.once("error", reject);
    socket.once("close", () => reject(Object.assign(new Error("closed"), { code: "ECONNRESET" })));
    socket.once("secureConnect", () => {
      socket.off("error", reject);
      const wrong = isPinned ? wrongKey(socket, trust.fingerprint, place) : undefined;
      if (wrong === undefined) {
        resolve(socket);
        return;
      }
      socket.destroy();
      reject(wrong);
    });
  });
}

function wrongKey(socket: TLSSocket, fingerprint: string, place: string): ProtocolError | undefined {
  const certificate = socket.getPeerX509Certificate();
  const seen = certificate === undefined ? "no key" : fingerprintOf(certificate);
  if (seen === fingerprint) return undefined;
  return new ProtocolError(CloseCode.SECURITY, `the key of ${place} is ${seen} and should be ${fingerprint}`);
}
