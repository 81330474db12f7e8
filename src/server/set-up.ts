/**
 * Set-up of a channel on the server: hello, challenge, proof, welcome.
 *
 * States: `hello` -> (hello) -> `auth` -> (proof is right) -> `done`: the channel is handed to a ServedChannel. Between `auth` and `done` a login may be
 * `waiting`, because others from there have failed (login-guard.ts). Anything else, or too slow, is refused with a goodbye. What a peer learns before
 * its proof is right is the same whether a share or a session exists or not.
 */
import { randomBytes } from "node:crypto";
import type { ByteReader } from "../base/byte-cursor.ts";
import type { Timer } from "../base/clock.ts";
import { CloseCode, ProtocolError } from "../base/errors.ts";
import { frameKeys, keySecret, PROOF_BYTES, transcriptOf, type Verifier } from "../resume/proof.ts";
import { ticketKey } from "../resume/resume-proof.ts";
import type { Channel, ChannelReceiver } from "../transport/channel.ts";
import { bodyBytes, checkRequest, messageOf, messages } from "../wire/codec.ts";
import { emptyHeader, type FrameHeader } from "../wire/frame.ts";
import {
  BODY_BYTES_MAX,
  CREDITS_MIN,
  PROTOCOL_VERSION,
  payloadBytesMax,
  SECTION_BYTES_MAX,
  SECTION_BYTES_MIN,
  USER_NAME_BYTES_MAX,
} from "../wire/limits.ts";
import {
  ChannelKind,
  FLAG_REPLY,
  type Handlers,
  type Reply,
  type Request,
  SECURITY_NAMES,
  SQUASH_NAMES,
} from "../wire/messages.ts";
import type { Open } from "./open.ts";
import { ServedChannel } from "./served-channel.ts";
import type { ServedRequest } from "./served-request.ts";
import type { Session, SessionIdentity } from "./session.ts";
import { ID_BYTES, type ServerState } from "./state.ts";
import { accessOf, challengeUser, loginMark, type User } from "./users.ts";

/** What the server can do beyond version 1; bits of the feature words. */
const FEATURES = 0;

type State =
  | { readonly t: "hello" }
  | {
      readonly t: "auth";
      readonly hello: Request<"hello">;
      readonly challenge: Reply<"hello">;
      readonly transcript: Buffer;
      /** The session to join; undefined if one is to be opened, or if there is no such session. */
      readonly joined: Session | undefined;
      /** The one it would have joined, to be told that it is over. */
      readonly revoked: SessionIdentity | undefined;
      /** Checks the proof; by a random key where there is no such session or user. */
      readonly verifier: Verifier;
      /** Who it is if the proof is right; undefined: who knows the token, or has a ticket. */
      readonly user: User | undefined;
      /** The open it has a ticket for. */
      readonly guestOf: Open | undefined;
      /** The challenge of the open that its ticket is made of; else empty. */
      readonly ticket: string;
    }
  | { readonly t: "waiting" }
  | { readonly t: "done" };

/** What a hello is answered with, and how the proof that follows is checked. */
interface Claim extends Pick<State & { t: "auth" }, "verifier" | "user" | "guestOf" | "ticket"> {
  readonly salt: Buffer;
  readonly iterations: number;
}

/** One channel until it is a session's, or refused. */
export class ServerSetUp implements ChannelReceiver {
  readonly #channel: Channel;
  readonly #state: ServerState;
  readonly #handlers: Handlers<ServedRequest>;
  readonly #onReady: (served: ServedChannel) => void;
  /** Of the whole set-up, then of the wait. */
  #timer: Timer;
  #at: State = { t: "hello" };

  /** `onReady` is called when the channel is a session's, if it gets so far. */
  constructor(
    channel: Channel,
    state: ServerState,
    handlers: Handlers<ServedRequest>,
    onReady: (served: ServedChannel) => void,
  ) {
    this.#channel = channel;
    this.#state = state;
    this.#handlers = handlers;
    this.#onReady = onReady;
    this.#timer = state.clock.after(state.limits.setupTimeoutMs, () => this.#refuse(CloseCode.TOO_SLOW, "too slow"));
    channel.start(this);
  }

  frame(header: FrameHeader, body: ByteReader): void {
    const message = messageOf(header.opcode);
    checkRequest(message, header, "client");
    if (message.name === "goodbye") {
      messages.goodbye.request.read(body);
      this.#channel.close({ code: 0, text: "goodbye" });
    } else if (message.name === "hello" && this.#at.t === "hello") {
      this.#hello(header, messages.hello.request.read(body));
    } else if (message.name === "auth" && this.#at.t === "auth") {
      this.#auth(this.#at, messages.auth.request.read(body));
    } else {
      throw new ProtocolError(CloseCode.STATE, `${message.name}: not now`);
    }
  }

  payloadBegin(): Buffer {
    throw new ProtocolError(CloseCode.STATE, "no payload during set-up");
  }

  payloadEnd(): void {
    // No payload begins.
  }

  closed(error: Error | undefined): void {
    this.#timer.stop();
    if (error instanceof ProtocolError) this.#state.blame(`${this.#channel.peer} refused: ${error.message}`);
  }

  /** Closes; the text is the log's as well as the peer's. */
  #refuse(code: CloseCode, text: string): void {
    this.#state.blame(`${this.#channel.peer} refused: ${text}`);
    this.#channel.close({ code, text });
  }

  #hello(header: FrameHeader, hello: Request<"hello">): void {
    checkHello(hello);
    const weakness = this.#weaknessOf(hello);
    if (weakness !== undefined) {
      this.#refuse(CloseCode.SECURITY, weakness);
      return;
    }
    const { limits } = this.#state;
    const joined = hello.sessionId.length === 0 ? undefined : this.#state.findSession(hello.sessionId);
    const isSigned = SECURITY_NAMES[hello.security] === "signed";
    const revoked = isSigned && joined === undefined ? this.#state.revoked.find(hello.sessionId) : undefined;
    const sectionBytes = joined?.sectionBytes ?? Math.min(hello.sectionBytes, limits.sectionBytesMax);
    const { salt, iterations, ...claim } = this.#claimOf(hello, joined?.key ?? revoked?.key);
    const challenge: Reply<"hello"> = {
      version: PROTOCOL_VERSION,
      features: hello.features & FEATURES,
      serverNonce: randomBytes(PROOF_BYTES),
      sectionBytes: sectionBytes - (sectionBytes % SECTION_BYTES_MIN),
      credits: joined?.slotTables.get(hello.slotTable)?.credits ?? Math.min(hello.credits, limits.creditsMax),
      salt,
      iterations,
    };
    const { request, reply } = messages.hello;
    const transcript = transcriptOf(
      this.#channel.binding,
      bodyBytes(request, hello),
      bodyBytes(reply as NonNullable<typeof reply>, challenge),
    );
    this.#at = { t: "auth", hello, challenge, transcript, joined, revoked, ...claim };
    this.#channel.send(
      { ...emptyHeader(), opcode: header.opcode, flags: FLAG_REPLY, tag: header.tag },
      reply,
      challenge,
    );
  }

  /** What keeps a channel that is protected as `hello` says from being served; undefined if nothing does. */
  #weaknessOf(hello: Request<"hello">): string | undefined {
    const isEncrypted = this.#channel.binding.length > 0;
    const level = SECURITY_NAMES[hello.security];
    if (level === undefined || isEncrypted !== (level === "tls")) return "the channel is not what its hello says";
    const kind = hello.channelKind === ChannelKind.IO ? "io" : "control";
    const least = this.#state.security[kind];
    if (hello.security < SECURITY_NAMES.indexOf(least)) {
      return `${kind} channels of this server are ${least} at least, not ${level}`;
    }
    return hello.user !== "" && !isEncrypted ? "a password is taken on an encrypted connection only" : undefined;
  }

  /** Who the client says it is, and how that is checked. `sessionKey`: of the session it names. */
  #claimOf(hello: Request<"hello">, sessionKey: Buffer | undefined): Claim {
    const byKey = { user: undefined, guestOf: undefined, ticket: "", salt: Buffer.alloc(0), iterations: 0 };
    if (hello.sessionId.length > 0) {
      return { ...byKey, verifier: keySecret(sessionKey ?? randomBytes(PROOF_BYTES), "join") };
    }
    const { users, tokenKey } = this.#state;
    if (hello.resumeKey.length > 0) {
      const guestOf = this.#state.findOpen(hello.resumeKey);
      const isGood = guestOf !== undefined && guestOf.challenge !== "";
      const key = isGood ? ticketKey(guestOf.key, Buffer.from(guestOf.challenge, "latin1")) : randomBytes(PROOF_BYTES);
      return { ...byKey, guestOf, ticket: guestOf?.challenge ?? "", verifier: keySecret(key, "open") };
    }
    if (hello.user === "") return { ...byKey, verifier: keySecret(tokenKey, "open") };
    return { guestOf: undefined, ticket: "", ...challengeUser(users, hello.user) };
  }

  #auth(at: State & { t: "auth" }, { proof }: Request<"auth">): void {
    if (!isGuessable(at.hello)) {
      this.#judge(at, proof);
      return;
    }
    const { guard, clock, counters } = this.#state;
    const waitMs = guard.admit(this.#channel.address, clock.monotonicMs());
    if (waitMs === undefined) {
      counters.deferredLogins += 1;
      this.#refuse(CloseCode.BUSY, "too many failed logins; try again later");
    } else if (waitMs === 0) {
      this.#judge(at, proof);
    } else {
      this.#at = { t: "waiting" };
      this.#timer.stop();
      this.#timer = clock.after(waitMs, () => this.#judge(at, proof));
    }
  }

  #judge(at: State & { t: "auth" }, proof: Buffer): void {
    const key = at.verifier.check(at.transcript, proof);
    const isLogin = isGuessable(at.hello);
    if (key === undefined) {
      if (isLogin) this.#state.counters.failedLogins += 1;
      this.#refuse(CloseCode.AUTHENTICATION, wrongProof(at.hello));
      return;
    }
    if (isLogin) this.#state.guard.succeeded(this.#channel.address, this.#state.clock.monotonicMs());
    if (at.revoked !== undefined) {
      this.#turnAway(at, at.revoked);
      return;
    }
    const session = at.hello.sessionId.length === 0 ? this.#open(at, key) : this.#join(at);
    if (session !== undefined) this.#welcome(at, session);
  }

  /** Tells who would come back to a session that it is over, so that it can be believed. */
  #turnAway(at: State & { t: "auth" }, revoked: SessionIdentity): void {
    this.#sayWelcome(at, revoked, { isFlushless: false, mandatoryLocks: false });
    this.#refuse(CloseCode.AUTHENTICATION, "the login of this session is not good any more");
  }

  #sayWelcome(
    at: State & { t: "auth" },
    session: SessionIdentity,
    share: { readonly isFlushless: boolean; readonly mandatoryLocks: boolean },
  ): void {
    const { serverId, bootId, limits, squash } = this.#state;
    const welcome: Reply<"auth"> = {
      sessionId: session.id,
      serverId,
      bootId,
      bytesMax: limits.sessionBytesMax,
      keepMs: session.keepMs,
      readOnly: session.readOnly,
      squash: SQUASH_NAMES.indexOf(squash),
      flushless: share.isFlushless,
      mandatoryLocks: share.mandatoryLocks,
      share: session.share,
      proof: Buffer.alloc(PROOF_BYTES),
    };
    const reply = messages.auth.reply as NonNullable<typeof messages.auth.reply>;
    welcome.proof = at.verifier.serverProof(at.transcript, bodyBytes(reply, welcome).subarray(0, -PROOF_BYTES));
    this.#at = { t: "done" };
    this.#timer.stop();
    const channel = this.#channel;
    channel.send({ ...emptyHeader(), opcode: messages.auth.row.code, flags: FLAG_REPLY }, reply, welcome);
    if (SECURITY_NAMES[at.hello.security] === "signed") channel.sign(frameKeys(session.key, at.transcript, "server"));
  }

  #welcome(at: State & { t: "auth" }, session: Session): void {
    const { share } = session;
    const isFlushless = share.fileSystem.isFlushless === true;
    const mandatoryLocks = share.locking === "mandatory";
    this.#sayWelcome(at, session.identity, { isFlushless, mandatoryLocks });
    const channel = this.#channel;
    channel.accept({
      bodyBytesMax: BODY_BYTES_MAX,
      payloadBytesMax: payloadBytesMax(session.sectionBytes),
    });
    const table = session.slotTable(at.hello.slotTable, at.challenge.credits);
    this.#state.keeper?.session(session);
    const served = new ServedChannel({
      channel,
      session,
      state: this.#state,
      handlers: this.#handlers,
      table,
      transcript: at.transcript,
    });
    channel.handOver(served);
    this.#onReady(served);
  }

  /** A new session, with this key, for a client that has proven who it is. */
  #open(at: State & { t: "auth" }, key: Buffer): Session | undefined {
    const state = this.#state;
    const share = state.shares.get(at.hello.share);
    const access = at.user === undefined ? "rw" : accessOf(at.user, at.hello.share);
    const login = at.guestOf?.owner.loginMark ?? loginMark(at.user?.storedKey ?? state.tokenKey, access ?? "ro");
    if (access !== undefined && !this.#isStillGood(at, login)) {
      this.#refuse(CloseCode.AUTHENTICATION, wrongProof(at.hello));
      return undefined;
    }
    const isElsewhere = at.guestOf !== undefined && at.guestOf.owner.share !== share;
    if (share === undefined || access === undefined || isElsewhere) {
      this.#refuse(CloseCode.UNKNOWN_SHARE, `no share '${at.hello.share}' here`);
      return undefined;
    }
    const { guestOf, user, ticket } = at;
    if (guestOf !== undefined) state.guests.takePlace(guestOf, ticket);
    const hasRoom = state.makeRoom(user?.name ?? "", guestOf !== undefined);
    const buffers = hasRoom ? state.pool.addUser() : undefined;
    if (buffers === undefined) {
      this.#refuse(CloseCode.BUSY, "too many clients");
      return undefined;
    }
    const { keepMsMax, guestKeepMsMax } = state.limits;
    const session = state.makeSession({
      id: randomBytes(ID_BYTES),
      key,
      clientId: at.hello.clientId,
      share,
      user: at.guestOf?.owner.user ?? at.user?.name ?? "",
      loginMark: login,
      guestOf: guestOf?.id,
      challenge: ticket,
      readOnly: share.readOnly || access === "ro" || at.guestOf?.owner.readOnly === true,
      label: at.user?.name ?? this.#channel.peer,
      sectionBytes: at.challenge.sectionBytes,
      buffers,
      keepMs: Math.min(at.hello.keepMs, keepMsMax, guestOf === undefined ? keepMsMax : guestKeepMsMax),
    });
    const who = at.user === undefined ? this.#channel.peer : `${at.user.name} at ${this.#channel.peer}`;
    const what = at.guestOf === undefined ? "" : `, for a file that ${at.guestOf.owner.label} has open`;
    state.log.info(`${who} opened share '${share.name}'${what}`);
    return session;
  }

  /** Whether what the proof was checked with is still what it is to be checked with: the users may have been changed since the challenge, and an open closed. */
  #isStillGood({ hello, user, guestOf, ticket }: State & { t: "auth" }, login: Buffer): boolean {
    const state = this.#state;
    if (guestOf === undefined) return state.loginMark(user?.name ?? "", hello.share)?.equals(login) === true;
    return (
      state.isCurrent(guestOf.owner) && state.findOpen(hello.resumeKey) === guestOf && guestOf.challenge === ticket
    );
  }

  /** The session of a client that has proven its key. */
  #join(at: State & { t: "auth" }): Session | undefined {
    const { joined } = at;
    const isOpen = joined !== undefined && !joined.isEnded && this.#state.isCurrent(joined);
    if (!isOpen || joined.share.name !== at.hello.share) {
      this.#refuse(CloseCode.AUTHENTICATION, wrongProof(at.hello));
      return undefined;
    }
    if (at.hello.slotTable >= this.#state.limits.channelsPerSessionMax) {
      this.#refuse(CloseCode.BUSY, "too many channels");
      return undefined;
    }
    return joined;
  }
}

/** Whether it is a token or a password that is proven; the keys of sessions and of opens cannot be guessed. */
function isGuessable({ sessionId, resumeKey }: Request<"hello">): boolean {
  return sessionId.length === 0 && resumeKey.length === 0;
}

/** Why a proof is refused; the same whether what it is a proof of exists or not. */
function wrongProof({ user, resumeKey }: Request<"hello">): string {
  if (resumeKey.length > 0) return "a ticket that was used, or whose file is closed";
  return user === "" ? "wrong token, or no such session" : "wrong user or password";
}

/** @throws ProtocolError. */
function checkHello(hello: Request<"hello">): void {
  const { versionMin, versionMax, channelKind, sectionBytes, credits, sessionId, slotTable, user, resumeKey } = hello;
  if (versionMin > PROTOCOL_VERSION || versionMax < PROTOCOL_VERSION) {
    throw new ProtocolError(CloseCode.VERSION, `this server speaks version ${PROTOCOL_VERSION}`);
  }
  if (sessionId.length !== 0 && sessionId.length !== ID_BYTES) {
    throw new ProtocolError(CloseCode.MALFORMED, `session id of ${sessionId.length} bytes`);
  }
  if ((user !== "" || resumeKey.length > 0) && sessionId.length > 0) {
    throw new ProtocolError(CloseCode.MALFORMED, "a channel joins a session by the session's key");
  }
  if (user !== "" && resumeKey.length > 0) throw new ProtocolError(CloseCode.MALFORMED, "a user with a ticket");
  if (Buffer.byteLength(user) > USER_NAME_BYTES_MAX) throw new ProtocolError(CloseCode.LIMIT, "user's name too long");
  const isControl = channelKind === ChannelKind.CONTROL;
  if (!isControl && (channelKind !== ChannelKind.IO || sessionId.length === 0)) {
    throw new ProtocolError(CloseCode.MALFORMED, "a session begins with a control channel");
  }
  if (isControl !== (slotTable === 0)) throw new ProtocolError(CloseCode.MALFORMED, `slot table ${slotTable}`);
  if (sectionBytes < SECTION_BYTES_MIN || sectionBytes > SECTION_BYTES_MAX || credits < CREDITS_MIN) {
    throw new ProtocolError(CloseCode.LIMIT, `sections of ${sectionBytes} bytes, ${credits} credits`);
  }
}
