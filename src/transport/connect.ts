/**
 * A connection of the client before its first byte: TCP, and TLS with a server that is who it must be.
 *
 * A packet that is sent into nothing is only sent again by the kernel after a second, and then ever later. So while a connection has no answer another one is
 * begun every RETRY_MS, and whenever the network has changed, and the first that is answered is it: when a line comes back, one is on its way soon.
 */
import type { X509Certificate } from "node:crypto";
import { isIP, type Socket, connect as tcpConnect } from "node:net";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import type { Clock } from "../base/clock.ts";
import { CloseCode, ProtocolError } from "../base/errors.ts";
import { TlsContext } from "../sys/tls-context.ts";
import type { Network } from "./network.ts";
import { fingerprintOf, tlsCiphers } from "./tls-settings.ts";
import { TlsStream } from "./tls-stream.ts";

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

/** Where to, and what tells when to try again. */
interface Target extends Place {
  readonly clock: Clock;
  readonly network?: Network | undefined;
}

type OnStop = (stop: (reason: Error) => void) => void;

/**
 * Connects; without `trust` nothing is encrypted. `onStop` gets what ends it with an error.
 *
 * @throws Node's errors; ProtocolError SECURITY: who is there does not have the key or the certificate it must have.
 */
export async function connectTo(
  place: Target & { trust?: Trust | undefined },
  onStop: OnStop,
): Promise<Socket | TlsStream> {
  const { host, port, trust } = place;
  if (trust === undefined) return connectTcp(place, onStop);
  const { stream, certificate, failure } = await connectTls(place, "ca" in trust ? trust.ca : undefined, onStop);
  const wrong =
    "fingerprint" in trust
      ? wrongKey(certificate, trust.fingerprint, `${host}:${port}`)
      : wrongCertificate(certificate, failure, host, `${host}:${port}`);
  if (wrong === undefined) return stream;
  stream.destroy();
  throw wrong;
}

async function connectTcp({ host, port, clock, network }: Target, onStop: OnStop): Promise<Socket> {
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
  return tcp;
}

interface Met {
  readonly stream: TlsStream;
  readonly certificate: X509Certificate | undefined;
  /** What is wrong with the certificate, to those who believe in `ca`. */
  readonly failure: string;
}

/** Shakes hands with whoever is there. `ca`: PEM. @throws as `connectTo`, but whoever is there is good enough. */
export async function connectTls(place: Target, ca: string | undefined, onStop: OnStop): Promise<Met> {
  const { host } = place;
  const context = TlsContext.ofClient({ ciphers: tlsCiphers(), ca });
  const tcp = await connectTcp(place, onStop);
  const stream = new TlsStream(tcp, context, isIP(host) === 0 ? host : "");
  onStop((reason) => void stream.destroy(reason));
  await new Promise<void>((resolve, reject) => {
    stream.once("secure", resolve);
    // Stays: an error of a stream that is given up is nobody's.
    stream.on("error", reject);
    stream.once("close", () => reject(Object.assign(new Error("closed"), { code: "ECONNRESET" })));
  });
  return { stream, ...stream.peerCertificate() };
}

function wrongKey(
  certificate: X509Certificate | undefined,
  fingerprint: string,
  place: string,
): ProtocolError | undefined {
  const seen = certificate === undefined ? "no key" : fingerprintOf(certificate);
  if (seen === fingerprint) return undefined;
  return new ProtocolError(CloseCode.SECURITY, `the key of ${place} is ${seen} and should be ${fingerprint}`);
}

function wrongCertificate(
  certificate: X509Certificate | undefined,
  failure: string,
  host: string,
  place: string,
): ProtocolError | undefined {
  const text = certificate === undefined ? "there is none" : failure || wrongName(certificate, host);
  if (text === undefined) return undefined;
  return new ProtocolError(CloseCode.SECURITY, `the certificate of ${place} is not good: ${text}`);
}

function wrongName(certificate: X509Certificate, host: string): string | undefined {
  return checkServerIdentity(host, certificate.toLegacyObject() as PeerCertificate)?.message.split("\n", 1)[0];
}
