/**
 * Sessions that are over because whoever opened them may not any more, for as long as their clients may come back and ask.
 *
 * Where frames are signed and not encrypted, a refusal could be anybody's on the line. So a client that comes back to such a session and knows its key
 * is told in a way that nobody else can: by a welcome, whose proof it checks, and a goodbye in a signed record behind it. It gets nothing else.
 */
import type { Clock } from "../base/clock.ts";
import type { SessionIdentity } from "./session.ts";
import { partsOfKey, sessionRecord } from "./state/records.ts";
import type { StateKey } from "./state/state-store.ts";

interface Login {
  readonly user: string;
  readonly share: string;
  readonly loginMark: Buffer;
}

export class RevokedSessions {
  readonly #clock: Clock;
  readonly #countMax: number;
  /** In the order of their ends. */
  readonly #sessions = new Map<string, SessionIdentity & { readonly untilMs: number }>();

  /** Of more than `countMax` the oldest is forgotten. */
  constructor(clock: Clock, countMax: number) {
    this.#clock = clock;
    this.#countMax = countMax;
  }

  add({ id, key, share, readOnly, keepMs }: SessionIdentity): void {
    const untilMs = this.#clock.monotonicMs() + keepMs;
    this.#sessions.set(id.toString("hex"), { id, key, share, readOnly, keepMs, untilMs });
    for (const oldest of this.#sessions.keys()) {
      if (this.#sessions.size <= this.#countMax) return;
      this.#sessions.delete(oldest);
    }
  }

  /** Those that the server before has left, and that `isCurrent` says no to. */
  addFrom(records: ReadonlyMap<StateKey, Buffer>, isCurrent: (login: Login) => boolean): void {
    for (const [key, value] of records) {
      const record = partsOfKey(key)?.of === "session" ? sessionRecord.decode(value) : undefined;
      if (record !== undefined && !isCurrent(record)) this.add({ ...record, readOnly: record.isReadOnly });
    }
  }

  find(id: Buffer): SessionIdentity | undefined {
    const name = id.toString("hex");
    const session = this.#sessions.get(name);
    if (session === undefined || session.untilMs > this.#clock.monotonicMs()) return session;
    this.#sessions.delete(name);
    return undefined;
  }
}
