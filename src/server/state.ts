/**
 * What all channels of one server share.
 *
 * Sessions by id, the keys opens are sealed with, who the server is: with `--state` the keeper writes down what of it must outlive the process.
 */
import { randomBytes, randomFillSync } from "node:crypto";
import { BufferPool } from "../base/buffer-pool.ts";
import type { Clock } from "../base/clock.ts";
import { CloseCode } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { RateLimit } from "../base/rate-limit.ts";
import { type KeyContent, KeySeal } from "../resume/key-seal.ts";
import { PROOF_BYTES, tokenKey } from "../resume/proof.ts";
import { addonSeal } from "../sys/message-seal.ts";
import type { ChannelSecurity } from "../wire/messages.ts";
import { Closings } from "./closing.ts";
import { Guests } from "./guests.ts";
import type { ServerLimits } from "./limits.ts";
import { LoginGuard } from "./login-guard.ts";
import type { Open } from "./open.ts";
import { RevokedSessions } from "./revoked.ts";
import { Session, type SessionParts, type Share } from "./session.ts";
import type { Squash } from "./squash.ts";
import type { Keeper } from "./state/keeper.ts";
import type { Identity } from "./state/restore.ts";
import { accessOf, loginMark, noUsers, type UserDirectory } from "./users.ts";
import type { WriteCounters } from "./write-joiner.ts";

/** Bytes of ids of sessions, servers and boots. */
export const ID_BYTES = 16;
const CHALLENGE_BYTES = 16;
const CHALLENGES_AT_ONCE = 64;
/** The take-over count until shares move between servers. */
const FIRST_EPOCH = 1;
/** Ids of opens begin anew with each start of the server, and none comes twice. */
const OPENS_PER_START = 2 ** 32;
/** Format and kind of service blob: the section service is in the server itself. */
const BLOB_FORMAT = 1;
const BLOB_SAME_SERVER = 1;
/** Log lines that peers can cause. */
const PEER_LOG_BURST = 20;
const PEER_LOG_PER_SECOND = 1;

export interface ServerCounters extends WriteCounters {
  /** Requests answered since the start. */
  requests: number;
  receivedBytes: number;
  sentBytes: number;
  /** Connections refused or closed because of what the peer did. */
  refused: number;
  /** Of them, for a wrong token or password. */
  failedLogins: number;
  /** Attempts to log in that were not looked at, because of those before. */
  deferredLogins: number;
}

export class ServerState {
  readonly shares: ReadonlyMap<string, Share>;
  readonly squash: Squash;
  readonly limits: ServerLimits;
  readonly clock: Clock;
  readonly log: Log;
  /** Random if there is no token: then nobody knows it. */
  readonly tokenKey: Buffer;
  readonly users: UserDirectory;
  readonly guard = new LoginGuard();
  readonly security: ChannelSecurity;
  readonly pool: BufferPool;
  readonly counters: ServerCounters = {
    requests: 0,
    receivedBytes: 0,
    sentBytes: 0,
    refused: 0,
    failedLogins: 0,
    deferredLogins: 0,
    writes: 0,
    writtenSections: 0,
  };
  /** Who this server is; survives restarts with a state store. */
  readonly serverId: Buffer;
  /** This start of it. */
  readonly bootId = randomBytes(ID_BYTES);
  readonly serviceBlob: Buffer;
  /** Absent: nothing survives the process. */
  readonly keeper: Keeper | undefined;
  readonly guests = new Guests();
  readonly closings = new Closings(({ id }) => this.guests.closed(id));
  readonly revoked: RevokedSessions;
  readonly #seal: KeySeal;
  readonly #epoch: number;
  readonly #sessions = new Map<string, Session>();
  readonly #peerLog = new RateLimit({ burst: PEER_LOG_BURST, perSecond: PEER_LOG_PER_SECOND });
  readonly #challenges = Buffer.alloc(CHALLENGE_BYTES * CHALLENGES_AT_ONCE);
  #challengesUsed = CHALLENGES_AT_ONCE;
  #lastOpenId: number;

  constructor(parts: {
    identity?: Identity | undefined;
    keeper?: Keeper | undefined;
    shares: ReadonlyMap<string, Share>;
    token: Buffer | undefined;
    users?: UserDirectory;
    security?: ChannelSecurity;
    squash: Squash;
    limits: ServerLimits;
    clock: Clock;
    log: Log;
  }) {
    const { identity } = parts;
    this.serverId = identity?.serverId ?? randomBytes(ID_BYTES);
    this.serviceBlob = Buffer.concat([Buffer.from([BLOB_FORMAT, BLOB_SAME_SERVER]), this.serverId]);
    this.keeper = parts.keeper;
    this.#seal = new KeySeal(identity?.sealSecret ?? randomBytes(32), identity?.starts ?? 1, addonSeal);
    this.#epoch = identity?.epoch ?? FIRST_EPOCH;
    this.#lastOpenId = (identity?.starts ?? 0) * OPENS_PER_START;
    this.shares = parts.shares;
    this.squash = parts.squash;
    this.limits = parts.limits;
    this.clock = parts.clock;
    this.log = parts.log;
    this.revoked = new RevokedSessions(parts.clock, parts.limits.sessionsMax);
    this.tokenKey = parts.token === undefined ? randomBytes(PROOF_BYTES) : tokenKey(parts.token);
    this.users = parts.users ?? noUsers();
    this.users.onChange = () => this.#endRevoked();
    this.security = parts.security ?? { control: "plain", io: "plain" };
    this.pool = new BufferPool({
      bytesMax: parts.limits.bytesMax,
      bytesPerUserMax: parts.limits.sessionBytesMax,
      bytesPerUserReserved: parts.limits.sessionBytesReserved,
      usersMax: parts.limits.sessionsMax,
    });
  }

  get sessions(): Iterable<Session> {
    return this.#sessions.values();
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  /** A session that the server knows until it ends. */
  makeSession(
    parts: Omit<
      SessionParts,
      "guestOf" | "opensMax" | "courtesyMs" | "clock" | "log" | "keeper" | "closings" | "onEnd"
    > & {
      guestOf?: number | undefined;
      /** The challenge that let it in to that open, if it is known. */
      challenge?: string | undefined;
    },
  ): Session {
    const { limits, clock, log, keeper, closings } = this;
    const session = new Session({
      ...parts,
      guestOf: parts.guestOf,
      ...{ opensMax: limits.opensPerSessionMax, courtesyMs: limits.courtesyMs, clock, log, keeper, closings },
      onEnd: (ended) => {
        this.#sessions.delete(ended.id.toString("hex"));
        this.guests.delete(ended);
        log.info(`the session of ${ended.label} on share '${ended.share.name}' is over`);
      },
    });
    this.#sessions.set(session.id.toString("hex"), session);
    if (session.guestOf !== undefined) this.guests.add(session, parts.challenge ?? "");
    return session;
  }

  findSession(id: Buffer): Session | undefined {
    return this.#sessions.get(id.toString("hex"));
  }

  /** What a login to a share is made with now (user empty: the token); undefined: it is refused. A session whose login had another mark is over. */
  loginMark(user: string, share: string): Buffer | undefined {
    if (user === "") return loginMark(this.tokenKey, "rw");
    const known = this.users.find(user);
    const access = known === undefined ? undefined : accessOf(known, share);
    return known === undefined || access === undefined ? undefined : loginMark(known.storedKey, access);
  }

  /** Whether who opened the session could open it now. */
  isCurrent({ user, share, loginMark }: Session): boolean {
    return this.loginMark(user, share.name)?.equals(loginMark) === true;
  }

  #endRevoked(): void {
    for (const session of [...this.#sessions.values()]) {
      if (this.isCurrent(session)) continue;
      this.revoked.add(session.identity);
      this.log.warn(`the session of ${session.label} ends: the user was changed or removed`);
      session
        .end(CloseCode.AUTHENTICATION, "the user was changed or removed")
        .catch((error: unknown) => this.log.error("ending a session failed", error));
    }
  }

  /** Makes room for a session of this user (empty: the token), or of a guest. @returns whether there is. */
  makeRoom(user: string, isGuest: boolean): boolean {
    const { sessionsMax } = this.limits;
    // Everybody may have the token, so that who has it cannot be told from others.
    const isBounded = isGuest || user !== "";
    const isLike = (session: Session) =>
      isGuest ? session.guestOf !== undefined : session.guestOf === undefined && session.user === user;
    const alike = isBounded ? [...this.#sessions.values()].filter(isLike) : [];
    if (alike.length >= Math.ceil(sessionsMax / 2) && !this.#endOldest(alike)) return false;
    return this.sessionCount < sessionsMax || this.#endOldest(this.#sessions.values());
  }

  /** Ends that of the sessions that has been nobody's for longest. @returns whether there is one. */
  #endOldest(sessions: Iterable<Session>): boolean {
    let oldest: Session | undefined;
    for (const session of sessions) {
      const { lateSinceMs } = session;
      if (lateSinceMs !== undefined && lateSinceMs < (oldest?.lateSinceMs ?? Number.POSITIVE_INFINITY))
        oldest = session;
    }
    if (oldest === undefined) return false;
    const { label, share } = oldest;
    this.log.info(`what ${label} had open on share '${share.name}' makes room for others`);
    oldest.endSoon(CloseCode.BUSY, "others need the room");
    return true;
  }

  nextOpenId(): number {
    this.#lastOpenId += 1;
    return this.#lastOpenId;
  }

  /** What the client gets with an open: its resume key, where its sections are served, and a challenge for attaching. */
  keysOf(open: Open): { openId: number; resumeKey: Buffer; serviceBlob: Buffer; challenge: Buffer } {
    const { id: openId, openedAtMs, pid } = open;
    const resumeKey = this.#seal.seal({ openId, openedAtMs, pid, epoch: this.#epoch, serverId: this.serverId });
    return { openId, resumeKey, serviceBlob: this.serviceBlob, challenge: this.challengeFor(open) };
  }

  /** A new challenge for attaching to an open; the one before is void. */
  challengeFor(open: Open): Buffer {
    const challenge = this.#challenge();
    open.challenge = challenge.toString("latin1");
    return challenge;
  }

  /** The open that a resume key of this server is of, whoever has it. */
  findOpen(resumeKey: Buffer): Open | undefined {
    const content = this.unseal(resumeKey);
    return content === undefined ? undefined : this.openOf(content.openId);
  }

  /** The open with this id, whoever has it. */
  openOf(id: number): Open | undefined {
    for (const session of this.#sessions.values()) {
      const found = session.findOpen(id);
      if (found !== undefined) return found.open;
    }
    return undefined;
  }

  /** What a resume key of this server says; undefined for anything else. */
  unseal(resumeKey: Buffer): KeyContent | undefined {
    const content = this.#seal.unseal(resumeKey);
    return content?.serverId.equals(this.serverId) === true ? content : undefined;
  }

  /** Logs what a peer did wrong, at a bounded rate. */
  blame(text: string): void {
    this.counters.refused += 1;
    const suppressed = this.#peerLog.tryTake(this.clock.monotonicMs());
    if (suppressed < 0) return;
    this.log.warn(suppressed === 0 ? text : `${text} (and ${suppressed} lines like this not shown)`);
  }

  /** Random bytes are made many at a time: one call costs more than the bytes. */
  #challenge(): Buffer {
    if (this.#challengesUsed === CHALLENGES_AT_ONCE) {
      randomFillSync(this.#challenges);
      this.#challengesUsed = 0;
    }
    const start = this.#challengesUsed * CHALLENGE_BYTES;
    this.#challengesUsed += 1;
    return Buffer.from(this.#challenges.subarray(start, start + CHALLENGE_BYTES));
  }
}
