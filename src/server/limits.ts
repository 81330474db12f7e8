/**
 * What a server allows its clients, one by one and together.
 *
 * INVARIANT: sessionsMax * sessionBytesReserved <= bytesMax, so that every session can always make progress.
 */
import { strict as assert } from "node:assert";
import { pooledBytes } from "../base/buffer-pool.ts";
import { CREDITS_MAX, CREDITS_MIN, payloadBytesMax, SECTION_BYTES_MAX, SECTION_BYTES_MIN } from "../wire/limits.ts";
import { LOCKS_PER_OPEN_MAX } from "./state/records.ts";

export interface ServerLimits {
  /** The largest section agreed to; a client may ask for less. */
  sectionBytesMax: number;
  /** Requests a channel may have outstanding. */
  creditsMax: number;
  /** Data of one session in the server's memory. */
  sessionBytesMax: number;
  /** The part of it that is the session's whatever others do; at least one section. */
  sessionBytesReserved: number;
  /** Data of all sessions in the server's memory. */
  bytesMax: number;
  /** A user has half of them at most, and so have all guests together. */
  sessionsMax: number;
  channelsPerSessionMax: number;
  opensPerSessionMax: number;
  /** Ranges a session has locked, and locks it waits for. */
  locksPerSessionMax: number;
  lockWaitsPerSessionMax: number;
  /** Opens of a session with a lease; more get none. */
  leasesPerSessionMax: number;
  /** How long a session may take to give back a lease that others need, as long as it writes nothing. */
  leaseBreakMs: number;
  /** Connections that have not proven who they are. */
  unprovenMax: number;
  /** From the upgrade to the end of set-up. */
  setupTimeoutMs: number;
  /** How long the opens of a client that is away are kept for sure, at most; the client asks for a time. */
  keepMsMax: number;
  /** The same, of a client that a ticket let in. */
  guestKeepMsMax: number;
  /** How long a session is kept after that, as long as nobody needs what it holds, or its room. */
  courtesyMs: number;
  /** How long a closing server waits for requests to end and for clients to take their last frames. */
  closeTimeoutMs: number;
}

export const DEFAULT_SERVER_LIMITS: Readonly<ServerLimits> = {
  sectionBytesMax: 1024 * 1024,
  creditsMax: 128,
  sessionBytesMax: 32 * 1024 * 1024,
  sessionBytesReserved: 1024 * 1024,
  bytesMax: 128 * 1024 * 1024,
  sessionsMax: 64,
  channelsPerSessionMax: 16,
  opensPerSessionMax: 65_536,
  locksPerSessionMax: 16_384,
  lockWaitsPerSessionMax: 1024,
  leasesPerSessionMax: 1024,
  leaseBreakMs: 5000,
  unprovenMax: 64,
  setupTimeoutMs: 5000,
  keepMsMax: 3_600_000,
  guestKeepMsMax: 120_000,
  courtesyMs: 86_400_000,
  closeTimeoutMs: 2000,
};

/** The limits with defaults for what is not given. A combination that cannot work is a mistake of the program: it asserts. */
export function completeLimits(given: Partial<ServerLimits> | undefined): ServerLimits {
  const limits = { ...DEFAULT_SERVER_LIMITS, ...given };
  assert(limits.sectionBytesMax >= SECTION_BYTES_MIN && limits.sectionBytesMax <= SECTION_BYTES_MAX, "section size");
  assert(limits.creditsMax >= CREDITS_MIN && limits.creditsMax <= CREDITS_MAX, "credits");
  const largestBytes = payloadBytesMax(limits.sectionBytesMax);
  assert(pooledBytes(largestBytes) <= limits.sessionBytesReserved, "the largest payload fits into the reserve");
  assert(limits.sessionBytesMax < 2 ** 32, "a session's bytes can be said on the wire");
  assert(limits.sessionBytesReserved <= limits.sessionBytesMax, "the reserve is part of a session's bytes");
  assert(limits.sessionsMax * limits.sessionBytesReserved <= limits.bytesMax, "the reserves fit");
  // A lock splits another one in three at most, and what is asked at the same time is let in together.
  const locksMax = limits.locksPerSessionMax + 2 * (limits.lockWaitsPerSessionMax + limits.creditsMax);
  assert(locksMax <= LOCKS_PER_OPEN_MAX, "all locks of an open can be written down");
  return limits;
}
