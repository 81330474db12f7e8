/**
 * Set-up of a channel on the client: hello, proof, and the check of the server's proof before anything else is believed.
 *
 * States: `hello` (sent, awaiting the challenge) -> `auth` (proof sent, awaiting the welcome) -> `done`; with a password there is `password` (making the
 * proof, which takes a while) before `auth`. A goodbye, a wrong proof, silence or an abort end it. What a session that comes back has to say may be sent
 * behind the proof of `auth`; the server takes it if the proof is right.
 */
import { strict as assert } from "node:assert";
import { randomBytes } from "node:crypto";
import type { ByteReader } from "../base/byte-cursor.ts";
import type { Clock } from "../base/clock.ts";
import { CloseCode, ConnectionError, FsError, ProtocolError } from "../base/errors.ts";
import { frameKeys, keySecret, PROOF_BYTES, type Prover, proofsEqual, transcriptOf } from "../resume/proof.ts";
import { ITERATIONS_MAX, ITERATIONS_MIN, SALT_BYTES, scramKeys, scramProver } from "../resume/scram.ts";
import type { Channel, ChannelReceiver } from "../transport/channel.ts";
import { type BodyCodec, bodyBytes, checkReply, checkRequest, messageOf, messages } from "../wire/codec.ts";
import { emptyHeader, type FrameHeader } from "../wire/frame.ts";
import { BODY_BYTES_MAX, CREDITS_MIN, PROTOCOL_VERSION, payloadBytesMax, SECTION_BYTES_MIN } from "../wire/limits.ts";
import {
  ChannelKind,
  type Reply,
  type Request,
  SECURITY_NAMES,
  type Security,
  SQUASH_NAMES,
} from "../wire/messages.ts";

/** What a client asks for. */
export interface SetUpWish {
  /** `token`: opens a session with the key made of it; `password`: the same for a user; `ticket`: for one open; `join`: a further channel of a session. */
  readonly proof:
    | { readonly t: "token"; readonly key: Buffer }
    | { readonly t: "password"; readonly user: string; readonly password: string }
    | { readonly t: "ticket"; readonly key: Buffer; readonly resumeKey: Buffer }
    | { readonly t: "join"; readonly key: Buffer; readonly sessionId: Buffer };
  readonly kind: keyof typeof ChannelKind;
  /** How the channel is protected: `tls` exactly if its link is encrypted. */
  readonly security: Security;
  /** Which slot table of the session the channel carries; 0: control's. */
  readonly slotTable: number;
  /** How long the server is to keep what the client has open while it is away. */
  readonly keepMs: number;
  readonly share: string;
  /** 16 bytes, the same for all channels of this client. */
  readonly clientId: Buffer;
  readonly sectionBytes: number;
  readonly credits: number;
}

/** What both agreed on. */
export interface Agreement {
  readonly sessionId: Buffer;
  readonly sessionKey: Buffer;
  /** What both sides said to set this channel up, as a digest: names the channel in proofs. */
  readonly transcript: Buffer;
  readonly serverId: Buffer;
  readonly bootId: Buffer;
  readonly sectionBytes: number;
  readonly credits: number;
  /** Data the server holds for this session at most. */
  readonly bytesMax: number;
  /** How long the server keeps what the client has open while it is away. */
  readonly keepMs: number;
  readonly share: string;
  readonly readOnly: boolean;
  readonly squash: (typeof SQUASH_NAMES)[number];
  /** `flush` does nothing on this share. */
  readonly isFlushless: boolean;
  /** What one open has locked, no other one may change. */
  readonly mandatoryLocks: boolean;
}

/** What is agreed on before the server has proven itself. */
export type Proven = Pick<Agreement, "transcript" | "sectionBytes" | "credits">;

type State =
  | { readonly t: "hello" }
  | { readonly t: "password" }
  | { readonly t: "auth"; readonly challenge: Reply<"hello">; readonly transcript: Buffer; readonly prover: Prover }
  | { readonly t: "done" };

/** Closing codes for which trying again may help. */
const RETRYABLE: ReadonlySet<number> = new Set([CloseCode.BUSY, CloseCode.SHUTDOWN, CloseCode.TOO_SLOW]);

const PASSWORD_IN_CLEAR = "a password is said on an encrypted connection only";

/** A session at one start of the server: what directories are open in. */
export function placeOf({ sessionId, bootId }: Agreement): string {
  return Buffer.concat([sessionId, bootId]).toString("hex");
}

/** Whether the server refused a proof: it has no such session, or does not know this token, or user and password. */
export function isProofRefused(error: unknown): boolean {
  const cause = error instanceof ConnectionError ? error.cause : error;
  return cause instanceof ProtocolError && cause.closeCode === CloseCode.AUTHENTICATION;
}

/** What calls fail with after the error that ended their connection. */
export function overError(cause: Error): Error {
  if (cause instanceof ConnectionError) return cause;
  return new ConnectionError("the connection was closed", { retryable: true, cause });
}

/** After the drive was closed, for whoever still asks. */
export function closedError(): ConnectionError {
  return new ConnectionError("the drive is closed", { retryable: false });
}

/** For whom no connection is there. */
export function awayError(): ConnectionError {
  return new ConnectionError("the server cannot be reached", { retryable: true });
}

/** The error that a server's goodbye means for what was asked of it; its cause has the code. */
export function goodbyeError(peer: string, code: number, reason: string): ConnectionError {
  const cause = new ProtocolError(code as CloseCode, reason);
  return new ConnectionError(`${peer} closed the connection: ${reason}`, { retryable: RETRYABLE.has(code), cause });
}

/**
 * Sets a channel up and hands it to the receiver that `ready` makes, before any later frame is read.
 *
 * @throws ConnectionError refused, lost, too slow; ProtocolError the server breaks the rules or does not know the secret; FsError EINTR aborted.
 */
export function setUpChannel<T extends ChannelReceiver>(options: {
  channel: Channel;
  wish: SetUpWish;
  /** The proof has left, and whatever is sent now leaves behind it: what is agreed on so far. For channels that join a session and are not signed. */
  proven?: ((proven: Proven, roundTripMs: number) => void) | undefined;
  /** `roundTripMs`: the shorter of the two of the set-up. */
  ready: (agreement: Agreement, roundTripMs: number) => T;
  timeoutMs: number;
  clock: Clock;
  signal?: AbortSignal | undefined;
}): Promise<T> {
  return new Promise((resolve, reject) => {
    const settle = (result: T | Error) => {
      timer.stop();
      options.signal?.removeEventListener("abort", onAbort);
      if (result instanceof Error) reject(result);
      else resolve(result);
    };
    const setUp = new ClientSetUp(options, settle);
    const seconds = options.timeoutMs / 1000;
    const timer = options.clock.after(
      options.timeoutMs,
      () =>
        setUp.giveUp(new ConnectionError(`${options.channel.peer} said nothing for ${seconds} s`, { retryable: true })),
      { keepAlive: true },
    );
    const onAbort = () => setUp.giveUp(new FsError("EINTR", "connect"));
    options.signal?.addEventListener("abort", onAbort);
    if (options.signal?.aborted === true) onAbort();
    else setUp.start();
  });
}

class ClientSetUp<T extends ChannelReceiver> implements ChannelReceiver {
  readonly #channel: Channel;
  readonly #clock: Clock;
  readonly #wish: SetUpWish;
  readonly #proven: ((proven: Proven, roundTripMs: number) => void) | undefined;
  readonly #ready: (agreement: Agreement, roundTripMs: number) => T;
  readonly #hello: Request<"hello">;
  #settle: ((result: T | Error) => void) | undefined;
  #at: State = { t: "hello" };
  #askedMs = 0;
  #roundTripMs = Number.POSITIVE_INFINITY;

  constructor(
    parts: Pick<Parameters<typeof setUpChannel<T>>[0], "channel" | "clock" | "wish" | "proven" | "ready">,
    settle: (result: T | Error) => void,
  ) {
    const { wish } = parts;
    this.#channel = parts.channel;
    this.#clock = parts.clock;
    this.#wish = wish;
    this.#proven = parts.proven;
    this.#ready = parts.ready;
    this.#settle = settle;
    this.#hello = {
      magic: "netdrive",
      versionMin: PROTOCOL_VERSION,
      versionMax: PROTOCOL_VERSION,
      features: 0,
      channelKind: ChannelKind[wish.kind],
      security: SECURITY_NAMES.indexOf(wish.security),
      clientId: wish.clientId,
      clientNonce: randomBytes(PROOF_BYTES),
      sectionBytes: wish.sectionBytes,
      credits: wish.credits,
      sessionId: wish.proof.t === "join" ? wish.proof.sessionId : Buffer.alloc(0),
      slotTable: wish.slotTable,
      keepMs: wish.keepMs,
      share: wish.share,
      user: wish.proof.t === "password" ? wish.proof.user : "",
      resumeKey: wish.proof.t === "ticket" ? wish.proof.resumeKey : Buffer.alloc(0),
    };
  }

  start(): void {
    const { security, proof } = this.#wish;
    const isEncrypted = this.#channel.binding.length > 0;
    assert(isEncrypted === (security === "tls"), "the server is told what the link is");
    if (proof.t === "password" && !isEncrypted) {
      this.giveUp(new ProtocolError(CloseCode.SECURITY, PASSWORD_IN_CLEAR));
      return;
    }
    this.#channel.start(this);
    this.#ask("hello", this.#hello);
  }

  giveUp(error: Error): void {
    this.#finish(error);
    this.#channel.destroy();
  }

  frame(header: FrameHeader, body: ByteReader): void {
    const message = messageOf(header.opcode);
    if (message.name === "goodbye") {
      checkRequest(message, header, "server");
      const { code, reason } = messages.goodbye.request.read(body);
      this.#finish(goodbyeError(this.#channel.peer, code, reason));
      this.#channel.close({ code: 0, text: "goodbye" });
      return;
    }
    checkReply(message, header);
    if (header.status !== 0 || header.tag !== 0 || header.handle !== 0 || header.section !== 0) {
      throw new ProtocolError(CloseCode.MALFORMED, `${message.name}: header of a reply to nothing`);
    }
    this.#roundTripMs = Math.min(this.#roundTripMs, this.#clock.monotonicMs() - this.#askedMs);
    if (message.name === "hello" && this.#at.t === "hello") this.#challenge(body);
    else if (message.name === "auth" && this.#at.t === "auth") this.#welcome(this.#at, body);
    else throw new ProtocolError(CloseCode.STATE, `${message.name}: not now`);
  }

  payloadBegin(): Buffer {
    throw new ProtocolError(CloseCode.STATE, "no payload during set-up");
  }

  payloadEnd(): void {
    // No payload begins.
  }

  closed(error: Error | undefined): void {
    this.#finish(error ?? new ConnectionError(`connection to ${this.#channel.peer} closed`, { retryable: true }));
  }

  #ask<N extends "hello" | "auth">(name: N, values: Request<N>): void {
    const { row, request } = messages[name];
    this.#askedMs = this.#clock.monotonicMs();
    this.#channel.send({ ...emptyHeader(), opcode: row.code }, request as BodyCodec<Request<N>>, values);
  }

  #finish(result: T | Error): void {
    const settle = this.#settle;
    this.#settle = undefined;
    settle?.(result);
  }

  #challenge(body: ByteReader): void {
    const { request, reply } = messages.hello;
    const codec = reply as NonNullable<typeof reply>;
    const challenge = codec.read(body);
    const { version, features, sectionBytes, credits } = challenge;
    if (version !== PROTOCOL_VERSION || features !== 0) {
      throw new ProtocolError(CloseCode.VERSION, `the server chose version ${version}, features ${features}`);
    }
    const isSectionRight =
      sectionBytes >= SECTION_BYTES_MIN &&
      sectionBytes <= this.#wish.sectionBytes &&
      sectionBytes % SECTION_BYTES_MIN === 0;
    if (!isSectionRight || credits < CREDITS_MIN || credits > this.#wish.credits) {
      throw new ProtocolError(CloseCode.LIMIT, `the server chose sections of ${sectionBytes}, ${credits} credits`);
    }
    const { proof } = this.#wish;
    const transcript = transcriptOf(
      this.#channel.binding,
      bodyBytes(request, this.#hello),
      bodyBytes(codec, challenge),
    );
    if (proof.t !== "password") {
      this.#prove(challenge, transcript, keySecret(proof.key, proof.t === "join" ? "join" : "open"));
      return;
    }
    checkWork(challenge);
    this.#at = { t: "password" };
    scramKeys(proof.password, challenge.salt, challenge.iterations).then(
      (keys) => this.#prove(challenge, transcript, scramProver(keys)),
      (error: Error) => this.giveUp(error),
    );
  }

  #prove(challenge: Reply<"hello">, transcript: Buffer, prover: Prover): void {
    if (this.#settle === undefined) return;
    this.#at = { t: "auth", challenge, transcript, prover };
    this.#ask("auth", { proof: prover.clientProof(transcript) });
    const { sectionBytes, credits } = challenge;
    // Nobody signs before the welcome.
    const maySendAhead = this.#wish.proof.t === "join" && this.#wish.security !== "signed";
    if (maySendAhead) this.#proven?.({ transcript, sectionBytes, credits }, this.#roundTripMs);
  }

  #welcome(at: State & { t: "auth" }, body: ByteReader): void {
    const codec = messages.auth.reply as NonNullable<typeof messages.auth.reply>;
    const welcome = codec.read(body);
    const proof = at.prover.serverProof(at.transcript, bodyBytes(codec, welcome).subarray(0, -PROOF_BYTES));
    if (!proofsEqual(proof, welcome.proof)) {
      const { t } = this.#wish.proof;
      const secret = t === "join" ? "session" : t;
      throw new ProtocolError(
        CloseCode.AUTHENTICATION,
        `the server does not know the ${secret}: it is not the one you mean`,
      );
    }
    const squash = SQUASH_NAMES[welcome.squash];
    const isExpected = this.#wish.proof.t !== "join" || this.#hello.sessionId.equals(welcome.sessionId);
    if (
      squash === undefined ||
      welcome.share !== this.#wish.share ||
      !isExpected ||
      welcome.bytesMax < at.challenge.sectionBytes
    ) {
      throw new ProtocolError(CloseCode.MALFORMED, "auth: the welcome does not fit the hello");
    }
    this.#at = { t: "done" };
    const agreement: Agreement = {
      sessionId: welcome.sessionId,
      sessionKey: at.prover.sessionKey(at.transcript),
      transcript: at.transcript,
      serverId: welcome.serverId,
      bootId: welcome.bootId,
      sectionBytes: at.challenge.sectionBytes,
      credits: at.challenge.credits,
      bytesMax: welcome.bytesMax,
      keepMs: welcome.keepMs,
      share: welcome.share,
      readOnly: welcome.readOnly,
      squash,
      isFlushless: welcome.flushless,
      mandatoryLocks: welcome.mandatoryLocks,
    };
    if (this.#wish.security === "signed") {
      this.#channel.sign(frameKeys(agreement.sessionKey, agreement.transcript, "client"));
    }
    this.#channel.accept({
      bodyBytesMax: BODY_BYTES_MAX,
      payloadBytesMax: payloadBytesMax(agreement.sectionBytes),
    });
    const receiver = this.#ready(agreement, this.#roundTripMs);
    this.#channel.handOver(receiver);
    this.#finish(receiver);
  }
}

/** What a server may ask of who knows a password. @throws ProtocolError LIMIT. */
function checkWork({ salt, iterations }: Reply<"hello">): void {
  if (salt.length < SALT_BYTES || iterations < ITERATIONS_MIN || iterations > ITERATIONS_MAX) {
    const asked = `a salt of ${salt.length} bytes and ${iterations} iterations`;
    throw new ProtocolError(CloseCode.LIMIT, `the server chose ${asked} for the password`);
  }
}
