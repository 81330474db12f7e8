/** One channel of the client's session and the connection that carries it, if there is one, as the session (session.ts) and its heartbeat see it. */
import { Backoff } from "../base/backoff.ts";
import { ConnectionError, ProtocolError } from "../base/errors.ts";
import type { ByteLink } from "../transport/byte-link.ts";
import type { CallChannel } from "./call-channel.ts";

/** So long is a connection that was lost alone waited for: what is short must not find control's line full of data for every loss. */
const DIVERT_AFTER_MS = 5000;
const BACKOFF = { firstMs: 20, maxMs: 1000, factor: 2, jitter: 0.25 };
/** A server that is not reached is tried so often at first: the line may come back at any moment, and a packet into nothing costs nobody anything. */
const BACKOFF_EARLY_MS = 250;
const EARLY_MS = 60_000;
/**
 * Where a machine says that nobody listens, somebody may at any moment: it was there before, so it is being started again, or a line behind it is. To be told
 * so costs its kernel a packet, and nobody a wait; us, half a millisecond of a processor. While a program waits, for that there is more at first.
 */
const BACKOFF_REFUSED_MS: readonly {
  readonly untilMs: number;
  readonly maxMs: number;
  readonly awaitedMaxMs: number;
}[] = [
  { untilMs: 5000, maxMs: 25, awaitedMaxMs: 8 },
  { untilMs: 10_000, maxMs: 25, awaitedMaxMs: 25 },
  { untilMs: EARLY_MS, maxMs: 100, awaitedMaxMs: 100 },
];
/** What a machine says where nobody listens, also in undici's words. */
const REFUSALS: ReadonlySet<string> = new Set(["ECONNREFUSED", "ECONNRESET", "EPIPE", "UND_ERR_SOCKET"]);
/** When the server has not been there for long, it is not asked so often. */
const BACKOFF_LATE_MS = 5000;
const LATE_MS = 300_000;
/** Attempts without waiting for HTTP in a row, beyond the first, that may be in vain: where the line is away, they are not to blame. */
const EAGER_AGAIN_MAX: Readonly<Record<Failure, number>> = { silent: 1, refused: 3, answered: 0 };
/** Attempts end after these times, in turn: soon, because a packet sent into nothing is only sent again after seconds; or late, for lines that are slow. */
const ATTEMPT_TIMEOUTS_MS: readonly number[] = [2000, 2000, 5000, 10_000];

/** What came of an attempt: nothing, or a machine's word that nobody listens there, or a server's own no. */
export type Failure = "silent" | "refused" | "answered";

/**
 * How further connections of a session are made. `attempt`: of a lane that is brought back; `isEager`: what is said first need not wait for the server's
 * yes to the connection.
 */
export type DialMore = (kind: "control" | "io", attempt?: { timeoutMs: number; isEager: boolean }) => Promise<ByteLink>;

/** Whether an attempt may fail like this without a fault in this program. */
export function isExpected(error: unknown): boolean {
  return error instanceof ConnectionError || error instanceof ProtocolError;
}

export function failureOf(error: unknown): Failure {
  const cause = error instanceof ConnectionError ? error.cause : error;
  if (cause instanceof ProtocolError) return "answered";
  return cause instanceof Error && REFUSALS.has((cause as NodeJS.ErrnoException).code ?? "") ? "refused" : "silent";
}

export class Lane {
  readonly kind: "CONTROL" | "IO";
  readonly slotTable: number;
  calls: CallChannel | undefined;
  isConnecting = false;
  readonly #backoff: Backoff;
  /** When the first attempt of those that failed did. */
  #failedMs = 0;
  /** When the present connection, or the last one, began. */
  begunMs = 0;
  /**
   * Whether the next attempt says its hello at once; after some that did in vain it waits for the server's yes to HTTP, in case somebody in the way wants that.
   */
  isEager = true;
  #eagerAgain = 0;
  /** When the last connection was lost, and by what. */
  endedMs = 0;
  ending: Error = new ConnectionError("lost", { retryable: true });
  /** Connections in a row that ended soon, because the server broke the rules. */
  violations = 0;

  constructor(slotTable: number, random: () => number) {
    this.kind = slotTable === 0 ? "CONTROL" : "IO";
    this.slotTable = slotTable;
    this.#backoff = new Backoff(BACKOFF, random);
  }

  get role(): "control" | "io" {
    return this.kind === "IO" ? "io" : "control";
  }

  get isUp(): boolean {
    return this.calls?.isOpen === true;
  }

  get isBusy(): boolean {
    return this.calls?.isBusy === true;
  }

  get receivedBytes(): number {
    return this.calls?.channel?.receivedBytes ?? 0;
  }

  ping(): void {
    this.calls?.notify("ping", { echo: 0 });
  }

  /** Set by the session. */
  lost: (reason: string) => void = () => {};

  /** Attempts to bring it back that failed. */
  get attempts(): number {
    return this.#backoff.attempts;
  }

  /** How long the next attempt may take. */
  get attemptTimeoutMs(): number {
    return ATTEMPT_TIMEOUTS_MS[this.attempts % ATTEMPT_TIMEOUTS_MS.length] as number;
  }

  /** How long to wait after an attempt that failed just now. A server that is there is not to be pressed. `isAwaited`: a program waits for it. */
  pauseMs(failure: Failure, nowMs: number, isAwaited: boolean): number {
    if (this.attempts === 0) this.#failedMs = nowMs;
    const isEagerAgain = !this.isEager && this.#eagerAgain < EAGER_AGAIN_MAX[failure];
    this.#eagerAgain = isEagerAgain ? this.#eagerAgain + 1 : 0;
    if (isEagerAgain) this.isEager = true;
    const sinceMs = nowMs - this.#failedMs;
    if (sinceMs >= LATE_MS) return this.#backoff.nextMs(BACKOFF_LATE_MS, BACKOFF_LATE_MS);
    if (failure === "answered" || sinceMs >= EARLY_MS) return this.#backoff.nextMs();
    const refused = BACKOFF_REFUSED_MS.find(({ untilMs }) => sinceMs < untilMs);
    if (failure !== "refused" || refused === undefined) return this.#backoff.nextMs(BACKOFF_EARLY_MS);
    return this.#backoff.nextMs(isAwaited ? refused.awaitedMaxMs : refused.maxMs);
  }

  /** Has those who read by it try another way, where it was lost long ago. Not for writes: what follows them counts on their order. */
  divertReads(nowMs: number): void {
    if (this.isUp || nowMs - this.endedMs < DIVERT_AFTER_MS) return;
    for (const call of this.calls?.outstanding ?? []) {
      if (call.message.name === "read" && call.avoids === undefined) call.overdue();
    }
  }

  /** Something has changed: attempts come quickly again. */
  hope(): void {
    this.#backoff.reset();
  }
}
