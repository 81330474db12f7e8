/**
 * The leases of one share: who may believe what he knows of an open file without asking, and how that ends.
 *
 * A lease is granted with an open and ends with it. Before somebody else does what a lease says he does not, the lease is broken: its session is told, sends what it has not
 * sent, forgets what it knows, and gives the lease back; or it is taken away, when that takes too long. Meanwhile whoever needs it waits, and nobody
 * else. What asks for a break is lease-requests.ts's.
 *
 *     granted --(somebody else)--> told --(given back, or the open is closed)--> less, or none
 *                                  told --(its time is over)--> less, or none; what is given back later is of no interest
 *
 * INVARIANT: as long as a session has a lease of a file, no other one has the file open for writing; as long as it has a write lease, no other one has it open
 * at all. But for opens that are being made: theirs are answered when it holds. So what is done through an open needs to ask for no lease.
 */
import { randomInt } from "node:crypto";
import type { Clock, Timer } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import type { Attr } from "../vfs/attr.ts";
import type { HandleId, NodeId, OpenFlags } from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";
import type { Request } from "../wire/messages.ts";
import { isSame } from "./node-changes.ts";
import type { NodeOpens } from "./node-opens.ts";
import { WRITE_FLAGS } from "./share-modes.ts";

const U32 = 2 ** 32;
/** How often the time for giving back begins anew while the session sends what it has written: of as much as write-behind may hold, a slow line may take long. */
const EXTENSIONS_MAX = 10;
/** Files that are looked at together. */
const LOOKS_AT_ONCE = 64;

/** What one session has. */
export class LeaseTally {
  /** Opens with a lease, and those of them with a write lease. */
  count = 0;
  writes = 0;
  /** What it was told to give back, by number. */
  readonly breaks = new Map<number, Break>();
  lastBreakId: number;
  /** It has let a time pass, and nothing was heard from it since: it is not waited for. */
  isDeaf = false;

  /** Numbers begin anywhere: a client may still be about to answer those of a server, or a session, before. */
  constructor(lastBreakId = randomInt(U32)) {
    this.lastBreakId = lastBreakId;
  }
}

/** What leases need to know of a session. */
export interface LeaseSession {
  readonly label: string;
  readonly leases: LeaseTally;
  /** It has no control channel. */
  readonly isAway: boolean;
  /** Since when it has no connection; undefined: it has one. */
  readonly awaySinceMs: number | undefined;
  leaseBreak(notice: Request<"leaseBreak">): void;
  /** All leases of a file that it has an open of were taken away, and it has not said that it knows: see `leaseBreak` of this number. */
  leaseTaken(open: LeaseOpen, breakId: number): void;
  /** It has said that it knows. */
  leaseReturned(breakId: number): void;
  readonly told: { changed(node: NodeId): void };
}

/** Who is beside the server: in the way of every lease, and without any. */
export const OUTSIDER: LeaseSession = {
  label: "somebody beside the server",
  leases: new LeaseTally(),
  isAway: false,
  awaySinceMs: undefined,
  leaseBreak() {},
  leaseTaken() {},
  leaseReturned() {},
  told: { changed() {} },
};

export interface LeaseOpen {
  readonly kind: "file" | "directory";
  readonly node: NodeId;
  /** The open of the share's file system. */
  readonly inner: HandleId;
  readonly flags: OpenFlags;
  /** Whose lease it is. */
  readonly owner: LeaseSession;
  readonly holders: readonly LeaseSession[];
  readonly isIdle: boolean;
  lease: Lease;
  knownAttr: Attr | undefined;
  changes: number;
}

/** What a session was told to give back. */
interface Break {
  readonly id: number;
  readonly session: LeaseSession;
  readonly node: NodeId;
  /** What is left of its leases of the node. */
  readonly remains: Lease;
  readonly done: Promise<void>;
  readonly finish: () => void;
  timer: Timer;
  extensions: number;
  /** Of its opens, when the timer was set. */
  changes: number;
}

export class ShareLeases {
  readonly #opens: NodeOpens<LeaseOpen>;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #limits: { readonly leasesPerSessionMax: number; readonly leaseBreakMs: number };
  readonly #lowered: (open: LeaseOpen) => void;
  readonly #ended: (open: LeaseOpen) => void;
  readonly #breaks = new Map<NodeId, Set<Break>>();
  /** Of all sessions, as LeaseTally has them. */
  #count = 0;
  #writes = 0;
  #isLooking = false;

  /** `opens` are all there are; `lowered` is told of each whose lease has become less while it is open, `ended` of each that has none any more. */
  constructor(parts: {
    opens: NodeOpens<LeaseOpen>;
    clock: Clock;
    log: Log;
    limits: { readonly leasesPerSessionMax: number; readonly leaseBreakMs: number };
    lowered: (open: LeaseOpen) => void;
    ended: (open: LeaseOpen) => void;
  }) {
    this.#opens = parts.opens;
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#limits = parts.limits;
    this.#lowered = parts.lowered;
    this.#ended = parts.ended;
  }

  get figures(): { leases: number; breaks: number } {
    let breaks = 0;
    for (const some of this.#breaks.values()) breaks += some.size;
    return { leases: this.#count, breaks };
  }

  /** Whether any session but this one has a lease; a write lease. */
  othersHave({ leases }: LeaseSession): boolean {
    return this.#count > leases.count;
  }

  othersWrite({ leases }: LeaseSession): boolean {
    return this.#writes > leases.writes;
  }

  /** Whether any other session has a write lease of this node. */
  isWritten(session: LeaseSession, node: NodeId): boolean {
    for (const { lease, owner } of this.#opens.of(node) ?? []) {
      if (lease === Lease.WRITE && owner !== session) return true;
    }
    return false;
  }

  /** Gives an open that is new as much of what it wishes for as others leave. `attr`: of the file, as its client is told with the open. */
  grant(open: LeaseOpen, wish: Lease, attr: Attr | undefined): void {
    const { owner, node } = open;
    const tally = owner.leases;
    if (wish === Lease.NONE || tally.count >= this.#limits.leasesPerSessionMax) return;
    if (this.#breaks.size > 0 && this.#breaks.has(node)) return;
    let lease = wish;
    for (const other of this.#opens.of(node) ?? []) {
      if (other === open || !isOthers(other, owner)) continue;
      if ((other.flags & WRITE_FLAGS) !== 0) return;
      lease = Lease.READ;
    }
    open.lease = lease;
    open.knownAttr = attr;
    this.#count += 1;
    tally.count += 1;
    if (lease !== Lease.WRITE) return;
    this.#writes += 1;
    tally.writes += 1;
  }

  /** The open is no more. */
  closed(open: LeaseOpen): void {
    if (open.lease === Lease.NONE) return;
    this.#lower(open, Lease.NONE);
    if (this.#breaks.size === 0) return;
    for (const each of [...(this.#breaks.get(open.node) ?? [])]) this.#finishIfDone(each);
  }

  /**
   * Breaks what other sessions than `session` have of a node, down to `remains`.
   *
   * @returns settles when they have given it back, or it was taken away; undefined: they have nothing of the kind.
   */
  break(session: LeaseSession, node: NodeId, remains: Lease): Promise<unknown> | undefined {
    if (!this.othersHave(session)) return undefined;
    let waits: Promise<void>[] | undefined;
    for (const { kind, lease, owner } of this.#opens.of(node) ?? []) {
      if (lease <= remains || owner === session) continue;
      // Of a directory nobody believes anything while he is away.
      const isForgotten = kind === "directory" && owner.isAway;
      const done = this.#broken(owner, node, remains, isForgotten ? 0 : this.#patienceMs(owner));
      if (done === undefined) continue;
      waits ??= [];
      waits.push(done);
    }
    return waits && Promise.all(waits);
  }

  /** A session gives back what it was told to. Numbers that are not known are of what was taken away. */
  returned(session: LeaseSession, breakId: number): void {
    const { leases } = session;
    leases.isDeaf = false;
    session.leaseReturned(breakId);
    const each = leases.breaks.get(breakId);
    if (each !== undefined) this.#end(each);
  }

  /** A session has a new control channel: what it was told may have been lost with the one before. */
  tellAgain({ leases }: LeaseSession): void {
    leases.isDeaf = false;
    for (const each of leases.breaks.values()) tell(each);
  }

  /** The lease of an open as its session believes it when it has heard everything it was told. */
  toldOf({ lease, owner, node }: LeaseOpen): Lease {
    let told: Lease = lease;
    if (this.#breaks.size === 0) return told;
    for (const { session, remains } of this.#breaks.get(node) ?? []) {
      if (session === owner && remains < told) told = remains;
    }
    return told;
  }

  /** A session was told the attributes of a node. */
  toldAttr(session: LeaseSession, node: NodeId, attr: Attr): void {
    if (session.leases.count === 0) return;
    for (const open of this.#opens.of(node) ?? []) if (isLeaseOf(open, session)) open.knownAttr = attr;
  }

  /** A session has changed a node, and what it was told of it is not so any more. */
  changed(session: LeaseSession, node: NodeId): void {
    if (session.leases.count === 0) return;
    // With every write: most files are open once.
    const only = this.#opens.only(node);
    if (only !== undefined) changedBy(session, only);
    else for (const open of this.#opens.of(node) ?? []) changedBy(session, open);
  }

  /**
   * Looks at files with leases whether somebody beside the server has changed them, and tells those who may believe what they were told; to be called again and again.
   *
   * Of a client that is away its verdict tells.
   */
  async look(attrOf: (open: LeaseOpen) => Promise<Attr | undefined>): Promise<void> {
    if (this.#count === 0 || this.#isLooking) return;
    this.#isLooking = true;
    const known = [...this.#opens.all].filter(({ knownAttr, owner }) => knownAttr !== undefined && !owner.isAway);
    for (let at = 0; at < known.length; at += LOOKS_AT_ONCE) {
      await Promise.all(known.slice(at, at + LOOKS_AT_ONCE).map((each) => this.#lookAt(each, attrOf)));
    }
    this.#isLooking = false;
  }

  async #lookAt(open: LeaseOpen, attrOf: (open: LeaseOpen) => Promise<Attr | undefined>): Promise<void> {
    const { knownAttr, owner, node } = open;
    if (knownAttr === undefined || open.lease === Lease.NONE || !open.isIdle) return;
    const attr = await attrOf(open);
    // What it has changed itself, or was told since, is no news.
    if (attr === undefined || open.knownAttr !== knownAttr || !open.isIdle || isSame(attr, knownAttr)) return;
    open.knownAttr = undefined;
    owner.told.changed(node);
  }

  #broken(session: LeaseSession, node: NodeId, remains: Lease, waitMs: number): Promise<void> | undefined {
    for (const each of this.#breaks.get(node) ?? []) {
      if (each.session === session && each.remains <= remains) return each.done;
    }
    const { leases } = session;
    leases.lastBreakId = (leases.lastBreakId + 1) >>> 0;
    const id = leases.lastBreakId;
    if (waitMs <= 0) {
      this.#take({ id, session, node, remains });
      // It is to know, whenever it hears of it.
      session.leaseBreak({ breakId: id, id: node, lease: remains });
      return undefined;
    }
    let finish = () => {};
    const done = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const changes = this.#changesOf(session, node);
    const timer = this.#clock.after(waitMs, () => this.#expire(each));
    const each: Break = { id, session, node, remains, done, finish, timer, extensions: 0, changes };
    const some = this.#breaks.get(node);
    if (some === undefined) this.#breaks.set(node, new Set([each]));
    else some.add(each);
    leases.breaks.set(id, each);
    tell(each);
    return done;
  }

  /** How long a session is waited for. One that is away has that long from when it left. */
  #patienceMs({ leases, awaySinceMs }: LeaseSession): number {
    if (leases.isDeaf) return 0;
    const { leaseBreakMs } = this.#limits;
    return awaySinceMs === undefined ? leaseBreakMs : awaySinceMs + leaseBreakMs - this.#clock.monotonicMs();
  }

  #changesOf(session: LeaseSession, node: NodeId): number {
    let changes = 0;
    for (const open of this.#opens.of(node) ?? []) if (open.owner === session) changes += open.changes;
    return changes;
  }

  #expire(each: Break): void {
    const { session, node } = each;
    const changes = this.#changesOf(session, node);
    if (changes > each.changes && each.extensions < EXTENSIONS_MAX) {
      each.extensions += 1;
      each.changes = changes;
      each.timer = this.#clock.after(this.#limits.leaseBreakMs, () => this.#expire(each));
      return;
    }
    session.leases.isDeaf = true;
    this.#log.warn(`${session.label} has not given back the lease of a file that others need: it is taken away`);
    this.#take(each);
    this.#end(each);
  }

  /** Lowers leases that were not given back. What others do to the file from now on their session has not heard of, if none remains. */
  #take({ id, session, node, remains }: Pick<Break, "id" | "session" | "node" | "remains">): void {
    for (const open of remains === Lease.NONE ? (this.#opens.of(node) ?? []) : []) {
      if (open.owner === session && open.kind === "file") session.leaseTaken(open, id);
    }
    this.#lowerAll(session, node, remains);
  }

  #end({ session, node, remains }: Break): void {
    this.#lowerAll(session, node, remains);
    for (const each of [...(this.#breaks.get(node) ?? [])]) this.#finishIfDone(each);
  }

  #lowerAll(session: LeaseSession, node: NodeId, remains: Lease): void {
    for (const open of this.#opens.of(node) ?? []) {
      if (open.owner !== session || open.lease <= remains) continue;
      this.#lower(open, remains);
      this.#lowered(open);
    }
  }

  /** The one place where a lease becomes less. */
  #lower(open: LeaseOpen, lease: Lease): void {
    const { leases } = open.owner;
    if (open.lease === Lease.WRITE) {
      leases.writes -= 1;
      this.#writes -= 1;
    }
    open.lease = lease;
    if (lease !== Lease.NONE) return;
    open.knownAttr = undefined;
    leases.count -= 1;
    this.#count -= 1;
    this.#ended(open);
  }

  #finishIfDone(each: Break): void {
    const { id, session, node, remains, timer, finish } = each;
    for (const { owner, lease } of this.#opens.of(node) ?? []) if (owner === session && lease > remains) return;
    timer.stop();
    session.leases.breaks.delete(id);
    const some = this.#breaks.get(node);
    some?.delete(each);
    if (some?.size === 0) this.#breaks.delete(node);
    finish();
  }
}

/** Whether anybody but the session uses the open. */
function isOthers({ holders, owner }: LeaseOpen, session: LeaseSession): boolean {
  return owner !== session || holders.some((holder) => holder !== session);
}

/** Directories are watched, so what a session was told of them is not compared (leased-names.ts). */
function isLeaseOf({ kind, owner, lease }: LeaseOpen, session: LeaseSession): boolean {
  return kind === "file" && owner === session && lease !== Lease.NONE;
}

function changedBy(session: LeaseSession, open: LeaseOpen): void {
  if (!isLeaseOf(open, session)) return;
  open.knownAttr = undefined;
  open.changes += 1;
}

function tell({ id: breakId, session, node: id, remains: lease }: Break): void {
  session.leaseBreak({ breakId, id, lease });
}
