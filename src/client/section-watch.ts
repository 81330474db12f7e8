/**
 * Notices sections that stay without an answer although the server answers others.
 *
 * Time counts only while the server is heard from: a link that stalls or is gone and a server that is frozen are not a section's fault, and others see
 * to them. A section waits behind those sent before it on its channel, however slow the line; so its time begins when the last of them that
 * is answered has been. It keeps no buffer and decides nothing: who has sent a section is told, once, that it is overdue.
 */
import type { Clock, Timer } from "../base/clock.ts";
import type { Log } from "../base/log.ts";

/** A section on its way, as the watch sees it. */
export interface WatchedSection {
  /** What it is sent over; sections of one channel are taken by the server in the order they were sent. */
  readonly channel: object | undefined;
  /** How long it may go without an answer, milliseconds. */
  readonly patienceMs: number;
  /** The watch's own: when it was sent, by the time that counts. */
  sentMs: number;
  /** It has waited for longer than its patience, and is not watched any more. */
  overdue(): void;
}

/** How often the watch looks, at most. */
const LOOK_MS = 1000;
/** Looks while a section's patience lasts, at least. */
const LOOKS_MIN = 8;
/** What one sign of the server proves: that it was there this long before, at most. */
const SIGN_MS = 5000;

/** The sections of one channel. */
interface Lane {
  /** In the order they were sent. */
  readonly sections: Set<WatchedSection>;
  /** When the first of them was last answered. */
  firstAnsweredMs: number;
}

export class SectionWatch {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #heardBytes: () => number;
  readonly #lookMs: number;
  readonly #lanes = new Map<object, Lane>();
  /** Time that counts, milliseconds. */
  #nowMs = 0;
  #heard = 0;
  #heardAtMs = 0;
  #timer: Timer | undefined;

  /** `heardBytes` changes whenever the server says anything, on whatever channel. `patienceMs`: the shortest of all sections. */
  constructor(options: { clock: Clock; log: Log; heardBytes: () => number; patienceMs: number }) {
    this.#clock = options.clock;
    this.#log = options.log;
    this.#heardBytes = options.heardBytes;
    this.#lookMs = Math.max(1, Math.min(LOOK_MS, options.patienceMs / LOOKS_MIN));
  }

  /** The section was sent; `settled` or its `overdue` follows. */
  sent(section: WatchedSection): void {
    const { channel } = section;
    if (channel === undefined || section.patienceMs === Number.POSITIVE_INFINITY) return;
    let lane = this.#lanes.get(channel);
    if (lane === undefined) {
      lane = { sections: new Set(), firstAnsweredMs: 0 };
      this.#lanes.set(channel, lane);
    }
    lane.sections.add(section);
    if (this.#timer === undefined) this.#start();
    section.sentMs = this.#nowMs;
  }

  /** The section was answered, or has ended otherwise; one that is not watched changes nothing. */
  settled(section: WatchedSection, isAnswered: boolean): void {
    const lane = section.channel === undefined ? undefined : this.#lanes.get(section.channel);
    if (lane === undefined) return;
    const { sections } = lane;
    if (isAnswered && sections.values().next().value === section) lane.firstAnsweredMs = this.#nowMs;
    sections.delete(section);
    // After an answer others will most likely follow, and the timer is worth keeping.
    if (!isAnswered && [...this.#lanes.values()].every((each) => each.sections.size === 0)) this.stop();
  }

  /** Watches nothing any more. */
  stop(): void {
    this.#timer?.stop();
    this.#timer = undefined;
    this.#lanes.clear();
  }

  #start(): void {
    this.#heard = this.#heardBytes();
    this.#heardAtMs = this.#clock.monotonicMs();
    this.#timer = this.#clock.every(this.#lookMs, () => this.#look());
  }

  #look(): void {
    this.#listen();
    const overdue: WatchedSection[] = [];
    for (const [channel, { sections, firstAnsweredMs }] of this.#lanes) {
      for (const section of sections) {
        const sinceMs = Math.max(section.sentMs, firstAnsweredMs);
        // What was sent between two looks counts from the earlier one.
        if (this.#nowMs - sinceMs >= section.patienceMs + this.#lookMs) overdue.push(section);
      }
      for (const section of overdue) sections.delete(section);
      if (sections.size === 0) this.#lanes.delete(channel);
    }
    if (this.#lanes.size === 0) this.stop();
    if (overdue.length === 0) return;
    const seconds = Math.round((overdue[0]?.patienceMs ?? 0) / 1000);
    this.#log.warn(`sections without an answer for ${seconds} s, while the server answers others: ${overdue.length}`);
    for (const section of overdue) section.overdue();
  }

  /** Lets time go on if the server was heard from. */
  #listen(): void {
    const heard = this.#heardBytes();
    if (heard === this.#heard) return;
    const nowMs = this.#clock.monotonicMs();
    this.#nowMs += Math.min(nowMs - this.#heardAtMs, SIGN_MS);
    this.#heard = heard;
    this.#heardAtMs = nowMs;
  }
}
