/**
 * A call that carries a section, or a whole request that is no larger: watched from its sending to its end, and given up when it stays without an answer.
 *
 * A read without an answer is tried once more, on another channel. A write is not: the server may still execute the first attempt, after
 * later writes of the same range; whether it did is unknown, which is what ETIMEDOUT says.
 */
import { FsError } from "../base/errors.ts";
import { Call, type CallParts, type Fields, type Result } from "./call.ts";
import type { SectionWatch, WatchedSection } from "./section-watch.ts";
import type { SessionChannels } from "./session-channels.ts";

/** What carries sections, who watches them, and for how long. */
export interface SectionCarrier {
  readonly channels: SessionChannels;
  readonly watch: SectionWatch;
  /** How long a section may go without an answer, all attempts together; Infinity: for ever. */
  readonly answerMs: number;
}

/** How often a section of a request is sent at most. */
export function attemptsOf(kind: "read" | "write", channels: SessionChannels): number {
  return kind === "read" && channels.wayCount > 1 ? 2 : 1;
}

export abstract class SectionCall extends Call implements WatchedSection {
  protected readonly carrier: SectionCarrier;
  override readonly patienceMs: number;
  sentMs = 0;

  constructor(parts: CallParts, carrier: SectionCarrier, attempts: number) {
    super(parts);
    this.carrier = carrier;
    this.patienceMs = carrier.answerMs / attempts;
  }

  override started(): void {
    this.carrier.watch.sent(this);
  }

  override answered(reply: Fields, payload: Buffer): void {
    this.carrier.watch.settled(this, true);
    this.succeeded(reply, payload);
  }

  override failed(error: Error): void {
    this.carrier.watch.settled(this, !this.isAbandoned && error instanceof FsError);
    this.ended(error);
  }

  /** As `answered`. */
  protected abstract succeeded(reply: Fields, payload: Buffer): void;
  /** As `failed`; with `isOverdue`: ETIMEDOUT. */
  protected abstract ended(error: Error): void;
}

/** A request that is one section. */
class LoneSection extends SectionCall {
  readonly #parts: CallParts;
  readonly #result: Result<number>;
  readonly #resolve: (bytes: number) => void;
  readonly #reject: (error: Error) => void;
  readonly #attempts: number;
  readonly #attempt: number;

  constructor(
    parts: CallParts,
    carrier: SectionCarrier,
    rest: {
      result: Result<number>;
      resolve: (bytes: number) => void;
      reject: (error: Error) => void;
      attempts: number;
      attempt: number;
    },
  ) {
    super(parts, carrier, rest.attempts);
    this.#parts = parts;
    this.#result = rest.result;
    this.#resolve = rest.resolve;
    this.#reject = rest.reject;
    this.#attempts = rest.attempts;
    this.#attempt = rest.attempt;
  }

  protected succeeded(reply: Fields, payload: Buffer): void {
    this.#resolve(this.#result(reply, payload, this.handle));
  }

  protected ended(error: Error): void {
    if (!this.isOverdue || this.#attempt >= this.#attempts) {
      this.#reject(error);
      return;
    }
    const [result, resolve, reject] = [this.#result, this.#resolve, this.#reject];
    const rest = { result, resolve, reject, attempts: this.#attempts, attempt: this.#attempt + 1 };
    const again = new LoneSection(this.#parts, this.carrier, rest);
    again.avoids = this.channel;
    this.carrier.channels.begin(again);
  }
}

/** Runs a request that is one section. @returns its bytes, as `result` finds them in the reply. */
export function runLoneSection(
  carrier: SectionCarrier,
  kind: "read" | "write",
  parts: CallParts,
  result: Result<number>,
): Promise<number> {
  return new Promise((resolve, reject) => {
    const attempts = attemptsOf(kind, carrier.channels);
    carrier.channels.begin(new LoneSection(parts, carrier, { result, resolve, reject, attempts, attempt: 1 }));
  });
}
