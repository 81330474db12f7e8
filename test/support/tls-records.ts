/**
 * Records of TLS 1.3 by Node's cryptography: a second implementation of RFC 8446, 5 and 7, to compare with. It is slow, checks nothing and is told everything.
 *
 * And a peer that has shaken hands by Node's TLS and then goes on with these: so it says what Node's would never say, and sees what our end says.
 */
import { createCipheriv, createDecipheriv, createHmac } from "node:crypto";
import { once } from "node:events";
import type { Socket } from "node:net";
import { Duplex } from "node:stream";
import type { TestContext } from "node:test";
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from "node:tls";
import type { TlsContext } from "../../src/sys/tls-context.ts";
import { clientContext, connected, identity, openPort, serverContext, TlsEnd } from "./tls-ends.ts";

export const ALERT = 21;
export const HANDSHAKE = 22;
export const DATA = 23;
export const KEY_UPDATE = 24;
export const HEADER_BYTES = 5;
const TAG_BYTES = 16;
const IV_BYTES = 12;

export const SUITES = {
  TLS_AES_128_GCM_SHA256: { cipher: "aes-128-gcm", digest: "sha256", keyBytes: 16 },
  TLS_AES_256_GCM_SHA384: { cipher: "aes-256-gcm", digest: "sha384", keyBytes: 32 },
  TLS_CHACHA20_POLY1305_SHA256: { cipher: "chacha20-poly1305", digest: "sha256", keyBytes: 32 },
} as const;
export type SuiteName = keyof typeof SUITES;

/** What a record hides. */
export interface Inner {
  type: number;
  data: Buffer;
  /** Zeros behind the type. */
  padding?: number;
}

/** One direction: the records of one secret, and of those that follow from it. */
export class RecordKeys {
  readonly #suite: (typeof SUITES)[SuiteName];
  #secret: Buffer;
  number = 0;

  constructor(suite: SuiteName, secret: Buffer) {
    this.#suite = SUITES[suite];
    this.#secret = secret;
  }

  /** HKDF-Expand-Label without a context, RFC 8446, 7.1. */
  expand(label: string, bytes: number): Buffer {
    const name = Buffer.from(`tls13 ${label}`);
    const info = Buffer.concat([Buffer.from([bytes >> 8, bytes & 255, name.length]), name, Buffer.from([0, 1])]);
    return createHmac(this.#suite.digest, this.#secret).update(info).digest().subarray(0, bytes);
  }

  get #nonce(): Buffer {
    const nonce = this.expand("iv", IV_BYTES);
    const number = Buffer.alloc(IV_BYTES);
    number.writeBigUInt64BE(BigInt(this.number), IV_BYTES - 8);
    return Buffer.from(nonce.map((byte, index) => byte ^ (number[index] as number)));
  }

  seal({ type, data, padding = 0 }: Inner): Buffer {
    const text = Buffer.concat([data, Buffer.from([type]), Buffer.alloc(padding)]);
    const sealed = text.length + TAG_BYTES;
    const header = Buffer.from([DATA, 3, 3, sealed >> 8, sealed & 255]);
    const { cipher: name, keyBytes } = this.#suite;
    const cipher = createCipheriv(name as "aes-128-gcm", this.expand("key", keyBytes), this.#nonce, {
      authTagLength: TAG_BYTES,
    });
    cipher.setAAD(header, { plaintextLength: text.length });
    const body = Buffer.concat([cipher.update(text), cipher.final()]);
    this.number += 1;
    return Buffer.concat([header, body, cipher.getAuthTag()]);
  }

  /** Undefined if it is not the next one. */
  open(record: Buffer): Inner | undefined {
    const { cipher: name, keyBytes } = this.#suite;
    const cipher = createDecipheriv(name as "aes-128-gcm", this.expand("key", keyBytes), this.#nonce, {
      authTagLength: TAG_BYTES,
    });
    const body = record.subarray(HEADER_BYTES);
    if (body.length < TAG_BYTES) return undefined;
    cipher.setAAD(record.subarray(0, HEADER_BYTES), { plaintextLength: body.length - TAG_BYTES });
    cipher.setAuthTag(body.subarray(body.length - TAG_BYTES));
    let text: Buffer;
    try {
      text = Buffer.concat([cipher.update(body.subarray(0, body.length - TAG_BYTES)), cipher.final()]);
    } catch {
      return undefined;
    }
    this.number += 1;
    let end = text.length;
    while (text[end - 1] === 0) end -= 1;
    return { type: text[end - 1] as number, data: text.subarray(0, end - 1), padding: text.length - end };
  }

  /** The next secret. */
  renew(): void {
    this.#secret = this.expand("traffic upd", this.#secret.length);
    this.number = 0;
  }
}

/** The records that are whole in what was put together of `chunks`, one after the other; what is not stays for the next call. */
export function recordCutter(): (chunk: Buffer) => Buffer[] {
  let rest = Buffer.alloc(0);
  return (chunk) => {
    let all = Buffer.concat([rest, chunk]);
    const records: Buffer[] = [];
    while (all.length >= HEADER_BYTES && all.length >= HEADER_BYTES + all.readUInt16BE(3)) {
      const end = HEADER_BYTES + all.readUInt16BE(3);
      records.push(all.subarray(0, end));
      all = all.subarray(end);
    }
    rest = Buffer.from(all);
    return records;
  };
}

/** A peer of ours whose every record behind the handshake the test says and sees. */
export class RecordPeer {
  readonly ours: TlsEnd;
  /** What it seals with, and what it opens with. */
  readonly sealing: RecordKeys;
  readonly opening: RecordKeys;
  /** What our end has said. */
  readonly heard: Inner[] = [];
  /** Of data, in all. */
  bytes = 0;
  /** Our end has closed the connection. */
  hasEnded = false;
  readonly #raw: Socket;
  readonly #cut = recordCutter();
  #onEvent = () => {};

  private constructor(ours: TlsEnd, raw: Socket, sealing: RecordKeys, opening: RecordKeys) {
    this.ours = ours;
    this.#raw = raw;
    this.sealing = sealing;
    this.opening = opening;
    raw.on("data", (chunk: Buffer) => this.#hear(chunk));
    raw.once("close", () => {
      this.hasEnded = true;
      this.#onEvent();
    });
  }

  /** To an end of ours that is the server, or the client. */
  static async make(
    t: TestContext,
    role: "server" | "client",
    { context, ...options }: { context?: TlsContext; placeBytes?: number; isIdle?: boolean } = {},
  ): Promise<RecordPeer> {
    const accepted: Socket[] = [];
    const ends: TlsEnd[] = [];
    const port = await openPort(t, (raw) => {
      if (role === "client") accepted.push(raw);
      else ends.push(new TlsEnd(raw, context ?? serverContext, options));
    });
    const raw = await connected(t, port);
    if (role === "client") {
      ends.push(new TlsEnd(raw, context ?? clientContext, options));
      while (accepted.length === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    const ours = ends;
    const theirs = role === "client" ? (accepted[0] as Socket) : raw;
    const { secrets, suite } = await shakeHands(theirs, role);
    while (ours[0] === undefined) await new Promise((resolve) => setImmediate(resolve));
    await ours[0].secured();
    t.after(() => ours[0]?.socket.close());
    const client = new RecordKeys(suite, secrets("CLIENT_TRAFFIC_SECRET_0"));
    const server = new RecordKeys(suite, secrets("SERVER_TRAFFIC_SECRET_0"));
    return role === "server"
      ? new RecordPeer(ours[0], theirs, client, server)
      : new RecordPeer(ours[0], theirs, server, client);
  }

  /** Says records: each that is a buffer as it is, the others sealed. */
  say(...records: (Inner | Buffer)[]): void {
    this.#raw.write(Buffer.concat(records.map((each) => (Buffer.isBuffer(each) ? each : this.sealing.seal(each)))));
  }

  /** Says nothing more. */
  finish(): void {
    this.#raw.end();
  }

  /** Takes nothing from the socket until `resume`. */
  pause(): void {
    this.#raw.pause();
  }

  resume(): void {
    this.#raw.resume();
  }

  /** Settles when it is so; `what` is asked after everything that is heard. */
  until(what: (peer: this) => boolean): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#onEvent = () => {
        if (what(this)) resolve();
        else if (this.hasEnded) reject(new Error("our end has closed the connection"));
      };
      this.#onEvent();
    });
  }

  /** The data of what was heard. */
  get data(): Buffer {
    return Buffer.concat(this.heard.filter(({ type }) => type === DATA).map(({ data }) => data));
  }

  #hear(chunk: Buffer): void {
    for (const record of this.#cut(chunk)) {
      const inner = this.opening.open(record);
      if (inner === undefined) throw new Error("a record of ours that is not right");
      this.heard.push(inner);
      if (inner.type === DATA) this.bytes += inner.data.length;
      if (inner.type === HANDSHAKE && inner.data[0] === KEY_UPDATE) this.opening.renew();
    }
    this.#onEvent();
  }
}

/** Node's TLS, over `raw` and as far as the handshake goes; what it says behind that (tickets, goodbye) is not said. `role`: the other end's. */
async function shakeHands(
  raw: Socket,
  role: "server" | "client",
): Promise<{ suite: SuiteName; secrets: (name: string) => Buffer }> {
  const log: string[] = [];
  let hasSpoken = false;
  let isOver = false;
  const tunnel = new Duplex({
    read: () => {},
    write: (chunk: Buffer, _encoding, done) => {
      hasSpoken = true;
      if (!isOver) raw.write(chunk);
      done();
    },
  });
  const carry = (chunk: Buffer) => {
    // The client's last word, behind which a server says no more of the handshake.
    if (role === "client" && hasSpoken) isOver = true;
    tunnel.push(chunk);
  };
  raw.on("data", carry);
  const onKeys = (line: Buffer) => log.push(line.toString());
  let socket: TLSSocket;
  if (role === "server") {
    socket = connectTls({ socket: tunnel, rejectUnauthorized: false });
    socket.on("keylog", onKeys);
    await once(socket, "secureConnect");
  } else {
    const server = createTlsServer({ cert: identity.certificate, key: identity.key, ALPNProtocols: ["http/1.1"] });
    server.on("keylog", onKeys);
    server.emit("connection", tunnel);
    [socket] = (await once(server, "secureConnection")) as [TLSSocket];
  }
  isOver = true;
  raw.off("data", carry);
  const suite = socket.getCipher().standardName as SuiteName;
  socket.on("error", () => {});
  socket.destroy();
  return { suite, secrets: (name) => secretIn(log, name) };
}

function secretIn(log: readonly string[], name: string): Buffer {
  const line = log.find((each) => each.startsWith(`${name} `)) ?? "";
  return Buffer.from(line.trim().split(" ").at(-1) ?? "", "hex");
}
