/**
 * Notices connections that are dead although nobody said so: a cable that was pulled, a laptop that slept, a NAT that forgot.
 *
 * As long as somebody waits for an answer, a connection that is silent for PING_AFTER_MS is pinged; one that nobody waits for, now and then; and all of them when
 * the network has changed. A ping without any sign
 * of the server, on whatever connection of the session, for LOST_AFTER_MS means that the link is lost. While other connections are heard from, one is given much longer: its
 * ping may stand behind megabytes on a slow line. It knows connections only as things that receive bytes. Pure, but for `ping` and `lost`.
 */

/** How often `look` is to be called while anybody waits for the server, and otherwise. */
export const LOOK_BUSY_MS = 500;
const PING_AFTER_MS = 1000;
const PING_IDLE_AFTER_MS = 10_000;
const LOST_AFTER_MS = 2500;
const LOST_ALONE_AFTER_MS = 30_000;
/** After the machine slept, and when the network has changed, a connection that is still there has answered by then, or is not there. */
const LOST_AWAKE_AFTER_MS = 1000;
/** The date went ahead of the monotonic clock by so much: the machine slept. */
const SLEEP_MS_MIN = 3000;

/** A connection as the heartbeat sees it. */
export interface Beating {
  /** Whether it is there at all. */
  readonly isUp: boolean;
  /** Whether anybody waits for an answer on it. */
  readonly isBusy: boolean;
  readonly receivedBytes: number;
  ping(): void;
  /** It is dead. */
  lost(reason: string): void;
}

interface Pulse {
  heardBytes: number;
  heardMs: number;
  /** When the ping that has no answer yet was sent. */
  pingedMs: number | undefined;
}

export class Heartbeat {
  readonly #pulses = new Map<Beating, Pulse>();
  #heardMs = 0;
  #realtimeAheadMs: number | undefined;
  #isAwakened = false;

  /** A connection has begun. */
  begin(beating: Beating, nowMs: number): void {
    this.#pulses.set(beating, { heardBytes: beating.receivedBytes, heardMs: nowMs, pingedMs: undefined });
    this.#heardMs = nowMs;
  }

  end(beating: Beating): void {
    this.#pulses.delete(beating);
  }

  /** Looks at all connections. `realtimeMs` is the date, which goes on while the machine sleeps. @returns whether it has slept since the last look. */
  look(nowMs: number, realtimeMs: number): boolean {
    const hasSlept = this.#hasSlept(realtimeMs - nowMs);
    if (hasSlept) this.#isAwakened = true;
    for (const [beating, pulse] of this.#pulses) this.#listen(beating, pulse, nowMs);
    for (const [beating, pulse] of this.#pulses) {
      if (!beating.isUp) continue;
      if (hasSlept) this.#ping(beating, pulse, nowMs);
      const silentMs = nowMs - pulse.heardMs;
      if (pulse.pingedMs === undefined) {
        if (silentMs >= (beating.isBusy ? PING_AFTER_MS : PING_IDLE_AFTER_MS)) this.#ping(beating, pulse, nowMs);
      } else if (this.#isLost(pulse.pingedMs, nowMs)) {
        beating.lost(`nothing was heard for ${(silentMs / 1000).toFixed(1)} s`);
      }
    }
    return hasSlept;
  }

  /** The network has changed: asks whether each connection is still there. One that should have answered before is not waited for any more. */
  stir(nowMs: number): void {
    for (const [beating, pulse] of this.#pulses) this.#listen(beating, pulse, nowMs);
    for (const [beating, pulse] of this.#pulses) {
      if (!beating.isUp) continue;
      if (pulse.pingedMs === undefined) this.#ping(beating, pulse, nowMs);
      else if (this.#isSilent(pulse.pingedMs, nowMs, LOST_AWAKE_AFTER_MS)) {
        beating.lost("it does not answer, and the network has changed");
      }
    }
  }

  #hasSlept(realtimeAheadMs: number): boolean {
    const before = this.#realtimeAheadMs ?? realtimeAheadMs;
    this.#realtimeAheadMs = realtimeAheadMs;
    return realtimeAheadMs - before >= SLEEP_MS_MIN;
  }

  #listen(beating: Beating, pulse: Pulse, nowMs: number): void {
    if (beating.receivedBytes === pulse.heardBytes) return;
    pulse.heardBytes = beating.receivedBytes;
    pulse.heardMs = nowMs;
    pulse.pingedMs = undefined;
    this.#heardMs = nowMs;
    this.#isAwakened = false;
  }

  #ping(beating: Beating, pulse: Pulse, nowMs: number): void {
    pulse.pingedMs = nowMs;
    beating.ping();
  }

  #isLost(pingedMs: number, nowMs: number): boolean {
    if (nowMs - pingedMs >= LOST_ALONE_AFTER_MS) return true;
    return this.#isSilent(pingedMs, nowMs, this.#isAwakened ? LOST_AWAKE_AFTER_MS : LOST_AFTER_MS);
  }

  /** Whether the server has said nothing at all since a ping. */
  #isSilent(pingedMs: number, nowMs: number, patienceMs: number): boolean {
    return nowMs - pingedMs >= patienceMs && this.#heardMs <= pingedMs;
  }
}
