/** One channel of the client's session and the connection that carries it, if there is one, as the session (session.ts) and its heartbeat see it. */
import { Backoff } from "../base/backoff.ts";
import type { CallChannel } from "./call-channel.ts";

const BACKOFF = { firstMs: 20, maxMs: 1000, factor: 2, jitter: 0.25 };
/** A server that is not reached is tried so often at first: the line may come back at any moment, and a packet into nothing costs nobody anything. */
const BACKOFF_EARLY_MS = 250;
const EARLY_ATTEMPTS = 240;
/** When the server has not been there for long, it is not asked so often. */
const BACKOFF_LATE_MS = 5000;
const LATE_ATTEMPTS = 480;
/** Attempts end after these times, in turn: soon, because a packet sent into nothing is only sent again after seconds; or late, for lines that are slow. */
const ATTEMPT_TIMEOUTS_MS: readonly number[] = [2000, 2000, 5000, 10_000];

export class Lane {
  readonly kind: "CONTROL" | "IO";
  readonly slotTable: number;
  calls: CallChannel | undefined;
  isConnecting = false;
  readonly #backoff: Backoff;
  /** When the present connection, or the last one, began. */
  begunMs = 0;
  /** Whether the next attempt says its hello at once; after one that did in vain it waits for the server's yes to HTTP, in case somebody in the way wants that. */
  isEager = true;
  /** Connections in a row that ended soon, because the server broke the rules. */
  violations = 0;

  constructor(slotTable: number, random: () => number) {
    this.kind = slotTable === 0 ? "CONTROL" : "IO";
    this.slotTable = slotTable;
    this.#backoff = new Backoff(BACKOFF, random);
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

  /** How long to wait after an attempt that failed. `isAnswered`: there was a server, which is not to be pressed. */
  pauseMs(isAnswered: boolean): number {
    const { attempts } = this;
    if (attempts >= LATE_ATTEMPTS) return this.#backoff.nextMs(BACKOFF_LATE_MS, BACKOFF_LATE_MS);
    return this.#backoff.nextMs(isAnswered || attempts >= EARLY_ATTEMPTS ? BACKOFF.maxMs : BACKOFF_EARLY_MS);
  }

  /** Something has changed: attempts come quickly again. */
  hope(): void {
    this.#backoff.reset();
  }
}
