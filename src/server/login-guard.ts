/**
 * Makes guessing slow: who has failed to log in waits before the next attempt is looked at. Pure; it knows addresses and time, not who logs in as whom.
 *
 * Every attempt counts as a failure until it is known to be none. A source (an address, or an IPv6 /64) has FREE_FAILURES, one of which comes back every
 * FORGIVE_MS; beyond them each attempt waits twice as long as the one before, up to WAIT_MS_MAX, one after the other. All sources together have a
 * budget as well, for attacks from many places; it does not count for a source that has logged in before, so that such an attack locks nobody out who
 * was here. Who would have to wait for longer than WAIT_MS_MAX is told to come again: nothing is locked for longer than an attack lasts. Both tables
 * are bounded; the source not seen for longest is forgotten.
 */
import { LRUCache } from "lru-cache";
import { sourceOf } from "../base/ip-address.ts";

const FREE_FAILURES = 5;
const FORGIVE_MS = 30_000;
const FIRST_WAIT_MS = 250;
/** Also how long a good client waits at most, whatever others do. */
export const WAIT_MS_MAX = 4000;
/** Failures of all sources together that are free, and how many a second after that. */
const BUDGET = 50;
const BUDGET_PER_SECOND = 2;
const SOURCES_MAX = 4096;
const TRUSTED_MAX = 1024;

interface Source {
  failures: number;
  /** When `failures` was counted. */
  countedMs: number;
  /** When the next attempt may be looked at. */
  nextMs: number;
}

export class LoginGuard {
  readonly #sources = new LRUCache<string, Source>({ max: SOURCES_MAX });
  /** Sources that have logged in. */
  readonly #trusted = new LRUCache<string, true>({ max: TRUSTED_MAX });
  #budget = BUDGET;
  #budgetMs = 0;

  /** An attempt from `address` begins. @returns how long it waits before it is looked at, ms; undefined: it must not be looked at. */
  admit(address: string, nowMs: number): number | undefined {
    const name = sourceOf(address);
    const source = this.#sourceAt(name, nowMs);
    const isTrusted = this.#trusted.has(name);
    const waitMs = Math.max(0, source.nextMs - nowMs, isTrusted ? 0 : this.#budgetWaitMs(nowMs));
    if (waitMs > WAIT_MS_MAX) return undefined;
    source.nextMs = nowMs + waitMs + pauseAfter(source.failures);
    source.failures += 1;
    if (!isTrusted) this.#budget -= 1;
    return waitMs;
  }

  /** An attempt that was admitted was right. */
  succeeded(address: string, nowMs: number): void {
    const name = sourceOf(address);
    const source = this.#sourceAt(name, nowMs);
    // Its own count only: who has one right password must not get free guesses at others by using it.
    source.failures = Math.max(0, source.failures - 1);
    if (!this.#trusted.has(name)) this.#budget = Math.min(BUDGET, this.#budget + 1);
    this.#trusted.set(name, true);
  }

  #sourceAt(name: string, nowMs: number): Source {
    let source = this.#sources.get(name);
    if (source === undefined) {
      source = { failures: 0, countedMs: nowMs, nextMs: nowMs };
      this.#sources.set(name, source);
    }
    source.failures = Math.max(0, source.failures - (nowMs - source.countedMs) / FORGIVE_MS);
    source.countedMs = nowMs;
    return source;
  }

  /** How long it takes until the budget of all has room for one more. */
  #budgetWaitMs(nowMs: number): number {
    const earned = (Math.max(0, nowMs - this.#budgetMs) / 1000) * BUDGET_PER_SECOND;
    this.#budget = Math.min(BUDGET, this.#budget + earned);
    this.#budgetMs = nowMs;
    return Math.max(0, ((1 - this.#budget) / BUDGET_PER_SECOND) * 1000);
  }
}

/** How long the attempt after one with so many failures before it waits. */
function pauseAfter(failures: number): number {
  const beyond = Math.floor(failures) + 1 - FREE_FAILURES;
  return beyond < 0 ? 0 : Math.min(WAIT_MS_MAX, FIRST_WAIT_MS * 2 ** beyond);
}
