/**
 * The client's session: sets its channels up, notices when they are lost, and brings the session back.
 *
 *     connecting --(the first set-up)--> ready
 *     ready --(the control connection is lost)--> away --(a connection has joined again)--> resuming --(all opens are resumed)--> ready
 *     resuming --(that connection is lost)--> away
 *     away --(the server does not know the session any more, and lets the client in again)--> resuming, with a new session
 *     away --(the server does not know the session, nor lets the client in again)--> over
 *     any --(close)--> over
 *
 * An io connection that is lost alone is brought back alone, without leaving `ready`. Attempts follow each other with growing pauses, which end when
 * the network or the machine comes back. Nothing is given up by itself: who waits gives up when its patience (--timeout) is over. What is on
 * the channels is call-channel.ts's; what is open is the file system's.
 */
import { randomBytes } from "node:crypto";
import type { Clock, Timer } from "../base/clock.ts";
import { ConnectionError, ProtocolError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { ByteLink } from "../transport/byte-link.ts";
import { Channel } from "../transport/channel.ts";
import type { Network } from "../transport/network.ts";
import type { Trace } from "../transport/trace.ts";
import type { Request, Security } from "../wire/messages.ts";
import { CallChannel } from "./call-channel.ts";
import { Heartbeat, LOOK_BUSY_MS } from "./heartbeat.ts";
import { type DialMore, failureOf, isExpected, Lane } from "./lane.ts";
import { type OpenTable, resumeOpens, showOpens } from "./resume-opens.ts";
import { SessionChannels } from "./session-channels.ts";
import {
  type Agreement,
  closedError,
  isProofRefused,
  type Proven,
  placeOf,
  type SetUpWish,
  setUpChannel,
} from "./set-up.ts";
import { Waiters } from "./waiters.ts";

const CLIENT_ID_BYTES = 16;
/** The calls' own credits and bytes bound what is unsent; nobody asks whether the channel is congested. */
const SEND_BYTES_MAX = Number.POSITIVE_INFINITY;
/** A connection that was lost sooner than this has proven nothing: the pauses go on growing. */
const SHORT_MS = 2000;
const VIOLATIONS_MAX = 3;
/** How long a goodbye may take. */
const CLOSE_TIMEOUT_MS = 2000;

type State =
  | { readonly t: "connecting" }
  | { readonly t: "ready" }
  | { readonly t: "away"; readonly sinceMs: number; readonly reason: Error }
  | { readonly t: "resuming"; readonly sinceMs: number }
  | { readonly t: "over" };

/** Who is told what concerns locks. */
interface LockTable {
  ready(notice: Request<"lockReady">): void;
  /** The session has come back. */
  returned(): void;
}

/** What the rest of the program may know of the state. */
export type SessionState = "connected" | "away" | "resuming" | "over";

export interface SessionOptions {
  readonly login: Extract<SetUpWish["proof"], { t: "token" | "password" | "ticket" }>;
  readonly share: string;
  readonly security: Readonly<Record<"control" | "io", Security>>;
  readonly sectionBytes: number;
  readonly credits: number;
  readonly ioChannels: number;
  readonly isPipelined: boolean;
  readonly keepMs: number;
  readonly setUpTimeoutMs: number;
  /** How long a call may wait while the server is away; Infinity: for ever. */
  readonly patienceMs: number;
  /** The links of all connections but the first; absent: there are no others, and a session that is lost is over. */
  readonly dial: DialMore | undefined;
  readonly clock: Clock;
  /** Tells when to ask whether the server is still there, or there again; absent: nobody does. */
  readonly network: Network | undefined;
  readonly log: Log;
  readonly trace: Trace | undefined;
  readonly signal: AbortSignal | undefined;
  readonly random: () => number;
}

export class ClientSession {
  readonly #options: SessionOptions;
  readonly #clientId = randomBytes(CLIENT_ID_BYTES);
  readonly #lanes: Lane[] = [];
  readonly #heartbeat = new Heartbeat();
  /** Every connection that is not gone. */
  readonly #connections = new Set<Channel>();
  #channels: SessionChannels | undefined;
  #opens: OpenTable | undefined;
  #locks: LockTable | undefined;
  #agreement: Agreement | undefined;
  /** With which everything that is open was resumed last. */
  #resumed: Agreement | undefined;
  #state: State = { t: "connecting" };
  #look: Timer | undefined;
  #network: Timer | undefined;
  /** Which session the server has said to be over, where only it can have: that one is not joined any more. */
  #revoked: Buffer | undefined;
  /** Those who pause between two attempts, or wait for the control channel. */
  readonly #waiters: Waiters;
  #resumes = 0;
  #onOver: (reason: Error | undefined) => void = () => {};
  /** Settles, never rejects, when the session is over; with the reason if it was not by `close`. */
  readonly over: Promise<Error | undefined>;
  onState: (state: SessionState, reason: Error | undefined) => void = () => {};

  constructor(options: SessionOptions) {
    this.#options = options;
    this.#waiters = new Waiters(options.clock);
    this.over = new Promise((resolve) => {
      this.#onOver = resolve;
    });
  }

  /** @throws before it is connected. */
  get channels(): SessionChannels {
    if (this.#channels === undefined) throw new Error("the session is not connected");
    return this.#channels;
  }

  get state(): SessionState {
    return this.#state.t === "ready" || this.#state.t === "connecting" ? "connected" : this.#state.t;
  }

  /** How often the session came back. */
  get resumes(): number {
    return this.#resumes;
  }

  /** Who keeps the opens, asked when they are to be resumed. */
  set opens(opens: OpenTable) {
    this.#opens = opens;
  }

  /** Who knows what is waited for. */
  set locks(locks: LockTable) {
    this.#locks = locks;
  }

  /** Sets all channels up, the first over `link`. @throws what set-up throws; then no connection is left. */
  async connect(link: ByteLink): Promise<void> {
    const { dial, ioChannels, random } = this.#options;
    const count = 1 + (dial === undefined ? 0 : ioChannels);
    try {
      for (let slotTable = 0; slotTable < count; slotTable += 1) {
        const lane = new Lane(slotTable, random);
        const next = slotTable === 0 ? link : await (dial as NonNullable<typeof dial>)("io");
        this.#lanes.push(lane);
        this.#agreement = await this.#setUp(lane, next, slotTable === 0 ? this.#options.login : this.#joinProof());
        lane.lost = (reason) => this.#cut(lane, reason);
      }
    } catch (error) {
      this.#enter({ t: "over" });
      for (const connection of this.#connections) connection.close({ code: 0, text: "goodbye" });
      throw error;
    }
    this.#resumed = this.#agreement;
    const [control, ...io] = this.#lanes.map(({ calls }) => calls as CallChannel);
    this.#channels = new SessionChannels(control as CallChannel, io, this.#options.security);
    this.#enter({ t: "ready" });
    this.#lookLater();
    this.#network = this.#options.network?.onChange(() => this.#stir());
    // One that was lost while the others were set up.
    for (const lane of this.#lanes) if (!lane.isUp) this.#wentDown(lane, lane.ending);
  }

  /** Says goodbye for good, and settles when every connection is gone; bounded in time. */
  async close(): Promise<void> {
    if (this.#state.t !== "over") this.#finish(undefined);
    const connections = [...this.#connections];
    const { clock } = this.#options;
    const cut = () => {
      for (const connection of connections) connection.destroy();
    };
    const timer = clock.after(CLOSE_TIMEOUT_MS, cut, { keepAlive: true });
    await Promise.all(connections.map((connection) => connection.gone));
    timer.stop();
  }

  #finish(reason: Error | undefined): void {
    this.#look?.stop();
    this.#network?.stop();
    this.#enter({ t: "over" });
    // Control last: its goodbye ends the session.
    const error = reason ?? closedError();
    for (const lane of [...this.#lanes].reverse()) lane.calls?.close(error);
    this.#waiters.wake();
    this.#onOver(reason);
  }

  #joinProof(): SetUpWish["proof"] {
    const { sessionKey: key, sessionId } = this.#agreement as Agreement;
    return { t: "join", key, sessionId };
  }

  /** Sets a connection up to carry the lane; held back if the lane had one before. `ahead` sends what is to leave behind the proof. */
  async #setUp(
    lane: Lane,
    link: ByteLink,
    proof: SetUpWish["proof"],
    ahead: (agreement: Agreement) => void = () => {},
  ): Promise<Agreement> {
    const { clock, trace, log: _log, ...options } = this.#options;
    const channel = new Channel(link, { clock, sendBytesMax: SEND_BYTES_MAX, trace });
    this.#connections.add(channel);
    void channel.gone.then(() => this.#connections.delete(channel));
    let agreed: Agreement | undefined;
    const attach = (agreement: Agreement, roundTripMs: number) => {
      lane.calls?.attach(channel, agreement, roundTripMs);
      if (proof.t !== "join") return;
      ahead(agreement);
      lane.calls?.sendOn();
    };
    const proven = (parts: Proven, roundTripMs: number) => {
      if (this.#isOver) throw closedError();
      if (lane.calls !== undefined) attach({ ...(this.#agreement as Agreement), ...parts }, roundTripMs);
    };
    const ready = (agreement: Agreement, roundTripMs: number) => {
      if (this.#isOver) throw closedError();
      agreed = agreement;
      if (lane.calls === undefined) lane.calls = this.#makeCalls(lane, channel, agreement, roundTripMs);
      else if (lane.calls.channel === channel) lane.calls.confirm(agreement);
      else attach(agreement, roundTripMs);
      lane.begunMs = clock.monotonicMs();
      this.#heartbeat.begin(lane, lane.begunMs);
      return lane.calls;
    };
    const wish: SetUpWish = {
      proof,
      kind: lane.kind,
      security: options.security[lane.role],
      slotTable: lane.slotTable,
      keepMs: options.keepMs,
      share: options.share,
      clientId: this.#clientId,
      sectionBytes: options.sectionBytes,
      credits: options.credits,
    };
    const isReturn = this.#state.t !== "connecting";
    const timeoutMs = isReturn ? Math.min(lane.attemptTimeoutMs, options.setUpTimeoutMs) : options.setUpTimeoutMs;
    // What ends connecting does not end a session that is brought back.
    const signal = isReturn ? undefined : options.signal;
    try {
      await setUpChannel({ channel, wish, proven, ready, timeoutMs, clock, signal });
      return agreed as Agreement;
    } catch (error) {
      lane.calls?.detach(channel, isProofRefused(error));
      throw error;
    }
  }

  #makeCalls(lane: Lane, channel: Channel, agreement: Agreement, roundTripMs: number): CallChannel {
    const { clock, isPipelined, log } = this.#options;
    return new CallChannel({
      channel,
      agreement,
      clock,
      events: {
        down: (reason) => this.#wentDown(lane, reason),
        orphan: (handle, { kindMade }, made) => this.#opens?.drop(handle, kindMade, placeOf(made)),
        lockReady: (notice) => this.#locks?.ready(notice),
        changed: ({ id }) => this.#opens?.changed(id),
        leaseBreak: (notice) => this.#opens?.leaseBreak(notice),
        heldUp: (calls) => log.warn(`requests given up, behind sections that hang in the server: ${calls}`),
      },
      isPipelined,
      roundTripMs,
    });
  }

  #cut(lane: Lane, reason: string): void {
    this.#options.log.warn(`${lane.role === "io" ? "an io" : "the control"} connection is dead: ${reason}`);
    lane.calls?.cut();
  }

  #wentDown(lane: Lane, reason: Error): void {
    this.#heartbeat.end(lane);
    lane.ending = reason;
    lane.endedMs = this.#options.clock.monotonicMs();
    if (this.#state.t === "over" || this.#state.t === "connecting") return;
    if (this.#options.dial === undefined) {
      this.#finish(reason);
      return;
    }
    this.#judge(lane, reason);
    // Behind a welcome everything is signed. In clear it may be anybody's word, and joining will tell.
    const isSigned = this.#options.security[lane.role] === "signed";
    if (isSigned && isProofRefused(reason)) this.#revoked = lane.calls?.agreement.sessionId;
    // Of the control connection it is told that the server is away, and why.
    if (lane.slotTable !== 0 && reason.cause instanceof ProtocolError) {
      this.#options.log.warn(`an io connection is lost: ${reason.message}`);
    }
    if (lane.slotTable === 0) {
      this.#enter({ t: "away", sinceMs: this.#awaySinceMs ?? this.#options.clock.monotonicMs(), reason });
      this.#lookLater();
    }
    if (!lane.isConnecting) void this.#reconnect(lane);
    // It may have waited for the control channel.
    else this.#waiters.wakeUntimed();
  }

  /** A server that breaks the rules again and again is not asked the same for ever. */
  #judge(lane: Lane, reason: Error): void {
    const wasShort = this.#options.clock.monotonicMs() - lane.begunMs < SHORT_MS;
    if (!wasShort) {
      lane.violations = 0;
      lane.hope();
    }
    if (!(reason instanceof ProtocolError)) return;
    lane.violations += 1;
    if (lane.violations < VIOLATIONS_MAX) return;
    lane.violations = 0;
    lane.calls?.failAll(reason);
  }

  get #awaySinceMs(): number | undefined {
    return this.#state.t === "away" || this.#state.t === "resuming" ? this.#state.sinceMs : undefined;
  }

  /** Tries until the lane is carried again, or the session is over. Never rejects. */
  async #reconnect(lane: Lane): Promise<void> {
    lane.isConnecting = true;
    while (!this.#isOver && !lane.isUp) {
      try {
        await this.#bringBack(lane);
      } catch (error) {
        if (this.#isOver) break;
        lane.calls?.cut();
        const isNew = lane.attempts === 0;
        const isAwaited = lane.isBusy || (lane.slotTable === 0 && this.#lanes.some(({ isBusy }) => isBusy));
        const pauseMs = lane.pauseMs(failureOf(error), this.#options.clock.monotonicMs(), isAwaited);
        const { log } = this.#options;
        const text = `reconnecting failed: ${error instanceof Error ? error.message : String(error)}`;
        if (isNew) log.warn(text);
        else log.debug(text);
        if (!isExpected(error)) log.error("reconnecting failed unexpectedly", error);
        await this.#waiters.wait(pauseMs);
      }
    }
    lane.isConnecting = false;
  }

  /** Waits while the control channel was lost, too: data that is sent before what is open is resumed would look like another's changes. */
  async #whenReady(lane: Lane): Promise<void> {
    while (lane.isUp && this.#state.t !== "ready" && !this.#isOver) {
      await this.#waiters.wait();
    }
  }

  get #isOver(): boolean {
    return this.#state.t === "over";
  }

  get #isRevoked(): boolean {
    return this.#revoked?.equals((this.#agreement as Agreement).sessionId) === true;
  }

  /** @throws what an attempt fails with, also what its connection was lost by behind the welcome: then nothing has come back. */
  async #bringBack(lane: Lane): Promise<void> {
    const { dial, log } = this.#options;
    // The control channel gets another session.
    while (lane.slotTable !== 0 && this.#isRevoked && !this.#isOver) await this.#waiters.wait();
    if (this.#isOver) return;
    const { attemptTimeoutMs: timeoutMs, isEager } = lane;
    const dialOne = async () => {
      const link = await (dial as NonNullable<typeof dial>)(lane.role, { timeoutMs, isEager });
      lane.isEager = !isEager;
      if (!this.#isOver) return link;
      link.destroy();
      throw closedError();
    };
    let shown: Promise<void> | undefined;
    const show = (proven: Agreement) => {
      shown = this.#show(lane, proven);
    };
    const join = async () =>
      this.#setUp(lane, await dialOne(), this.#joinProof(), lane.slotTable === 0 ? show : undefined);
    const joined = this.#isRevoked
      ? undefined
      : await join().catch((error: unknown) => {
          if (!isProofRefused(error) || lane.slotTable !== 0) throw error;
        });
    const agreement = joined ?? (await this.#logInAgain(lane, await dialOne()));
    const isNewSession = joined === undefined;
    lane.isEager = true;
    if (isNewSession) log.error("the server does not know this session any more: what was open there is gone");
    if (lane.slotTable === 0) await this.#resume(lane, agreement, isNewSession ? undefined : shown);
    else await this.#whenReady(lane);
    if (this.#isOver) return;
    // Welcome and end may come in one breath.
    if (!lane.isUp) throw lane.ending;
    lane.calls?.release();
    if (lane.slotTable !== 0) return;
    this.#resumes += 1;
    this.#enter({ t: "ready" });
    this.#locks?.returned();
    this.#waiters.wake();
  }

  /**
   * A new session in the place of one that is gone. The server's no is the end: asking again would be guessing. But where frames are signed a no may be
   * somebody else's, and what the server keeps is not given up for it: the same start of the server must know the session still.
   */
  async #logInAgain(lane: Lane, link: ByteLink): Promise<Agreement> {
    const { clock, security, login } = this.#options;
    const { bootId, keepMs } = this.#agreement as Agreement;
    const isKept = clock.monotonicMs() - (this.#awaySinceMs ?? clock.monotonicMs()) < keepMs;
    const isDoubtful = security.control === "signed" && isKept && !this.#isRevoked;
    try {
      const agreement = await this.#setUp(lane, link, login);
      if (!isDoubtful || !agreement.bootId.equals(bootId)) return agreement;
    } catch (error) {
      if (isProofRefused(error) && !isDoubtful) this.#finish(error as Error);
      throw error;
    }
    lane.calls?.channel?.close({ code: 0, text: "goodbye" });
    throw new ConnectionError("somebody refuses this session in the server's name", { retryable: true });
  }

  /** Shows what is open, before anything else is asked. */
  #show({ calls }: Lane, agreement: Agreement): Promise<void> {
    const shown =
      calls === undefined || this.#opens === undefined ? undefined : showOpens(calls, this.#opens, agreement);
    // A connection that is lost before it is set up fails that as well.
    shown?.catch(() => {});
    return shown ?? Promise.resolve();
  }

  /** Brings back what is open. `shown`: what it was shown for is answered; undefined: the session is a new one. */
  async #resume(control: Lane, agreement: Agreement, shown: Promise<void> | undefined): Promise<void> {
    if (this.#isOver) return;
    const isNewSession = shown === undefined;
    this.#agreement = agreement;
    if (control.isUp) this.#enter({ t: "resuming", sinceMs: this.#awaySinceMs ?? this.#options.clock.monotonicMs() });
    if (isNewSession) {
      for (const lane of this.#lanes) {
        lane.calls?.startOver();
        if (lane !== control) lane.calls?.cut();
      }
    }
    const opens = this.#opens;
    const calls = control.calls;
    if (opens === undefined || calls === undefined) return;
    // Not the last one that was tried: it may have been lost before all was opened again.
    const before = placeOf(this.#resumed as Agreement);
    await resumeOpens(calls, opens, { shown, before, present: placeOf(agreement), log: this.#options.log });
    this.#resumed = agreement;
  }

  #lookLater(): void {
    this.#look?.stop();
    this.#look = this.#options.clock.every(LOOK_BUSY_MS, () => this.#lookAround());
  }

  #lookAround(): void {
    const { clock, patienceMs } = this.#options;
    const nowMs = clock.monotonicMs();
    const hasSlept = this.#heartbeat.look(nowMs, clock.realtimeMs());
    for (const { calls } of this.#lanes) calls?.tick();
    if (this.#state.t === "ready" && this.#channels?.mayUseControl === true) {
      for (const lane of this.#lanes) if (lane.slotTable !== 0) lane.divertReads(nowMs);
    }
    const awaySinceMs = this.#awaySinceMs;
    if (awaySinceMs !== undefined && patienceMs !== Number.POSITIVE_INFINITY) {
      for (const { calls } of this.#lanes) calls?.expire(patienceMs, awaySinceMs);
    }
    if (hasSlept) this.#tryNow();
  }

  /** The network has changed. */
  #stir(): void {
    this.#heartbeat.stir(this.#options.clock.monotonicMs());
    this.#tryNow();
  }

  #tryNow(): void {
    for (const lane of this.#lanes) lane.hope();
    this.#waiters.wake();
  }

  /** The one writer of #state. */
  #enter(state: State): void {
    const before = this.state;
    this.#state = state;
    if (before === this.state) return;
    const { log } = this.#options;
    if (state.t === "away") log.warn(`the server is away: ${state.reason.message}`);
    if (state.t === "ready") log.info("the server is back");
    this.onState(this.state, state.t === "away" ? state.reason : undefined);
  }
}
