/**
 * Sessions and opens: what a client has on the server. Neither belongs to a connection.
 *
 * States: `present` (it has channels) -> `away` (the last one was lost; its time runs) -> `late` (its time is over: whoever needs what it holds, or its
 * room, gets it; else it is kept all the same, up to a bound) -> ended. A channel leads from `away` and `late` back to `present`; a goodbye ends it at once. An open is
 * reached through handles, numbers of the session that all its channels may use; it is closed when its last handle is released and its requests have ended.
 */
import { strict as assert } from "node:assert";
import type { PoolUser } from "../base/buffer-pool.ts";
import type { Clock, Timer } from "../base/clock.ts";
import { type ErrnoName, errnoNumber } from "../base/errno.ts";
import { FsError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { type Attr, NO_ATTR } from "../vfs/attr.ts";
import type { FileSystem, RequestContext } from "../vfs/file-system.ts";
import type { Request } from "../wire/messages.ts";
import { Absences } from "./absences.ts";
import type { Closings } from "./closing.ts";
import type { LeasedNames } from "./leased-names.ts";
import { type LeaseOpen, type LeaseSession, LeaseTally, type ShareLeases } from "./leases.ts";
import type { Locking } from "./lock-requests.ts";
import type { LockOpen } from "./locks/node-locks.ts";
import type { LockSession, ShareLocks } from "./locks/share-locks.ts";
import type { AbsentOpens, DataVersion } from "./node-changes.ts";
import type { Open } from "./open.ts";
import type { ShareModes } from "./share-modes.ts";
import { type SessionChannel, SlotTable } from "./slot-table.ts";
import type { Keeper } from "./state/keeper.ts";
import { ToldChanges } from "./told-changes.ts";

/** A directory that is served. */
export interface Share {
  readonly name: string;
  readonly fileSystem: FileSystem;
  readonly readOnly: boolean;
  /** Files of it whose clients are away. */
  readonly absentOpens: AbsentOpens;
  /** What those who have files open let others do with them. */
  readonly modes: ShareModes;
  readonly leases: ShareLeases;
  readonly leasedNames: LeasedNames;
  readonly locks: ShareLocks;
  readonly locking: Locking;
}

const U32 = 2 ** 32;
/** Requests of the server itself. */
const OWN_CONTEXT: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };

type Presence =
  | { readonly t: "present" }
  /** `timer` ends the time it was promised. */
  | { readonly t: "away"; readonly sinceMs: number; readonly timer: Timer }
  /** `timer` ends the courtesy. */
  | { readonly t: "late"; readonly sinceMs: number; readonly timer: Timer }
  | { readonly t: "ended" };

export interface SessionParts {
  /** 16 random bytes. */
  readonly id: Buffer;
  /** The session's secret. */
  readonly key: Buffer;
  /** Of the client's process. */
  readonly clientId: Buffer;
  readonly share: Share;
  /** Who logged in with a password; empty: who knows the token. */
  readonly user: string;
  /** It was let in by a ticket, for this open and nothing else. */
  readonly guestOf: number | undefined;
  /** See ServerState.loginMark. */
  readonly loginMark: Buffer;
  /** By the share's or the user's rules. */
  readonly readOnly: boolean;
  /** Who it is, for people: a user or an address. */
  readonly label: string;
  readonly sectionBytes: number;
  readonly buffers: PoolUser;
  readonly opensMax: number;
  /** How long everything is kept for sure when the client is away, and how long at most after that. */
  readonly keepMs: number;
  readonly courtesyMs: number;
  readonly clock: Clock;
  readonly log: Log;
  /** Absent: nothing survives the server's process. */
  readonly keeper: Keeper | undefined;
  readonly closings: Closings;
  /** Called once, when the session ends: it is to be forgotten then. */
  readonly onEnd: (session: Session) => void;
}

/** What a session's welcome says, and what it is proven with. */
export interface SessionIdentity {
  readonly id: Buffer;
  readonly key: Buffer;
  readonly share: string;
  readonly readOnly: boolean;
  readonly keepMs: number;
}

export class Session implements LockSession, LeaseSession {
  readonly id: Buffer;
  readonly key: Buffer;
  readonly clientId: Buffer;
  readonly share: Share;
  readonly user: string;
  readonly guestOf: number | undefined;
  readonly loginMark: Buffer;
  readonly readOnly: boolean;
  readonly label: string;
  readonly sectionBytes: number;
  readonly keepMs: number;
  readonly buffers: PoolUser;
  readonly channels = new Set<SessionChannel>();
  readonly slotTables = new Map<number, SlotTable>();
  readonly told = new ToldChanges((id) => this.slotTables.get(0)?.carrier?.notify("changed", { id }));
  readonly leases = new LeaseTally();
  readonly absences: Absences;
  readonly #parts: SessionParts;
  readonly #opens = new Map<number, Open>();
  /** The first handle of each open, by the open's id, and the further ones where there are any. */
  readonly #handles = new Map<number, number>();
  readonly #furtherHandles = new Map<number, Set<number>>();
  /** Handles by attaching. */
  readonly #attached = new Set<number>();
  #presence: Presence = { t: "present" };
  #lastHandle = 0;
  /** Opens being made, which count against the limit. */
  #opening = 0;
  /** What it was let in for is over: it ends with its last connection. */
  #isOver = false;

  constructor(parts: SessionParts) {
    this.id = parts.id;
    this.key = parts.key;
    this.clientId = parts.clientId;
    this.share = parts.share;
    this.user = parts.user;
    this.guestOf = parts.guestOf;
    this.loginMark = parts.loginMark;
    this.readOnly = parts.readOnly;
    this.label = parts.label;
    this.sectionBytes = parts.sectionBytes;
    this.keepMs = parts.keepMs;
    this.buffers = parts.buffers;
    this.absences = new Absences(this, parts.keeper);
    this.#parts = parts;
  }

  get identity(): SessionIdentity {
    const { id, key, share, readOnly, keepMs } = this;
    return { id, key, share: share.name, readOnly, keepMs };
  }

  get isEnded(): boolean {
    return this.#presence.t === "ended";
  }

  /** Since when it is nobody's for sure any more; undefined while it is somebody's. */
  get lateSinceMs(): number | undefined {
    return this.#presence.t === "late" ? this.#presence.sinceMs : undefined;
  }

  /** Since when it has no connection; long ago if its time is over. Undefined: it has one. */
  get awaySinceMs(): number | undefined {
    const presence = this.#presence;
    return presence.t === "late" ? Number.NEGATIVE_INFINITY : presence.t === "away" ? presence.sinceMs : undefined;
  }

  /** There is no control channel to tell anything by. */
  get isAway(): boolean {
    return this.slotTables.get(0)?.carrier === undefined;
  }

  /** What is reserved is written down before the client uses it; and the notice comes after the reply to whoever began to wait. */
  lockReady(waitId: number, outcome: Attr | ErrnoName, open: LockOpen): void {
    // It asks again when it is back.
    if (this.isAway) return;
    const { keeper } = this.#parts;
    const isReserved = typeof outcome !== "string";
    const notice = { waitId, errno: isReserved ? 0 : errnoNumber(outcome), attr: isReserved ? outcome : NO_ATTR };
    const tell = () => this.slotTables.get(0)?.carrier?.notify("lockReady", notice);
    if (isReserved) keeper?.locked(open as Open);
    if (keeper === undefined) tell();
    else keeper.whenKept(tell);
  }

  leaseBreak(notice: Request<"leaseBreak">): void {
    this.slotTables.get(0)?.carrier?.notify("leaseBreak", notice);
  }

  leaseTaken(open: LeaseOpen, breakId: number): void {
    if (this.#handles.has((open as Open).id)) this.absences.leaseTaken(open as Open, breakId);
  }

  leaseReturned(breakId: number): void {
    this.absences.leaseReturned(breakId);
  }

  /** Handles the client has. */
  get handleCount(): number {
    return this.#opens.size;
  }

  /** The slot table of this number, made with `credits` slots when it is first asked for. */
  slotTable(number: number, credits: number): SlotTable {
    let table = this.slotTables.get(number);
    if (table === undefined) {
      table = new SlotTable(number, credits);
      this.slotTables.set(number, table);
    }
    return table;
  }

  addChannel(channel: SessionChannel): void {
    assert(!this.isEnded, "an ended session takes no channel");
    this.channels.add(channel);
    this.share.locks.reconsider(this);
    if (this.#presence.t === "present") return;
    this.#enter({ t: "present" });
    this.#parts.log.info(`${this.label} is back on share '${this.share.name}'`);
  }

  /** `isFinal`: the client said goodbye, so it will not come back. */
  removeChannel(channel: SessionChannel, isFinal: boolean): void {
    if (!this.channels.delete(channel) || this.isEnded) return;
    if (isFinal) this.endSoon(0, "goodbye");
    else if (this.channels.size === 0) this.#leave();
  }

  /** No request of a channel runs any more. */
  requestsEnded(): void {
    if (this.#presence.t !== "away" && this.#presence.t !== "late") return;
    for (const { running } of this.slotTables.values()) if (running > 0) return;
    this.absences.requestsEnded();
  }

  /** Ends now unless it is being answered; then with its last connection. */
  endIdle(code: number, text: string): void {
    this.#isOver = true;
    if (this.channels.size === 0 || [...this.slotTables.values()].every(({ running }) => running === 0)) {
      this.endSoon(code, text);
    }
  }

  #leave(): void {
    if (this.#isOver) {
      this.endSoon(0, "what it was let in for is over");
      return;
    }
    const { clock, keepMs, courtesyMs, log } = this.#parts;
    const sinceMs = clock.monotonicMs();
    const late = () => {
      const timer = clock.after(courtesyMs, () => this.endSoon(0, "the client did not come back"));
      this.#enter({ t: "late", sinceMs: clock.monotonicMs(), timer });
      this.share.locks.reconsider(this);
    };
    this.#enter({ t: "away", sinceMs, timer: clock.after(keepMs, late) });
    log.info(`${this.label} is away from share '${this.share.name}'; its ${this.#opens.size} opens are kept`);
    this.absences.leave(this.#opens.values());
    this.requestsEnded();
  }

  /** Somebody else asks for what an open keeps from him (`why`, for the log): gives it up if everybody's time is over; who comes back learns that. @returns whether. */
  giveUp(open: Open, why: string): boolean {
    if (open.holders.some(({ lateSinceMs }) => lateSinceMs === undefined)) return false;
    for (const holder of [...open.holders]) holder.#drop(open, why);
    return true;
  }

  #drop(open: Open, why: string): void {
    this.#parts.log.warn(`a file that ${this.label} has open on share '${this.share.name}' is given up: ${why}`);
    const first = this.#handles.get(open.id) as number;
    for (const handle of [first, ...(this.#furtherHandles.get(open.id) ?? [])]) this.dropHandle(OWN_CONTEXT, handle);
  }

  /** The one writer of #presence. */
  #enter(presence: Presence): void {
    const before = this.#presence;
    if (before.t === "away" || before.t === "late") before.timer.stop();
    this.#presence = presence;
  }

  /** Makes room for an open that is about to be made; `opened` or `openFailed` must follow. @throws FsError EMFILE. */
  reserveOpen(): void {
    if (this.#opens.size + this.#opening >= this.#parts.opensMax) throw new FsError("EMFILE", "open");
    this.#opening += 1;
  }

  openFailed(): void {
    this.#opening -= 1;
  }

  /** Gives an open its first handle. */
  opened(open: Open): number {
    this.#opening -= 1;
    return this.addHandle(open);
  }

  /** An open of the server before, with a handle it had: first the one it was opened with, then those by attaching. `isKept`: the version is kept. */
  restored(open: Open, handle: number, version: DataVersion | "unknown", isKept: boolean): void {
    this.#give(open, handle);
    if (open.handles === 1) this.share.modes.add(open);
    else this.#attached.add(handle);
    this.absences.begin(open, version, isKept);
  }

  /**
   * New handles are those after this one. Of a session of the server before: its client may still ask for handles that are gone, or releases one once more, and no
   * other open is to have it.
   */
  beginHandles(last: number): void {
    this.#lastHandle = last;
  }

  /** Everything of the server before is here: the client is away. */
  restoredAll(): void {
    this.#leave();
  }

  /** Another handle to an open. */
  addHandle(open: Open): number {
    let handle = this.#lastHandle;
    do {
      handle = (handle + 1) % U32;
    } while (handle === 0 || this.#opens.has(handle));
    this.#lastHandle = handle;
    this.#give(open, handle);
    return handle;
  }

  #give(open: Open, handle: number): void {
    this.#opens.set(handle, open);
    open.handles += 1;
    const further = this.#furtherHandles.get(open.id);
    if (further !== undefined) further.add(handle);
    else if (this.#handles.has(open.id)) this.#furtherHandles.set(open.id, new Set([handle]));
    else {
      this.#handles.set(open.id, handle);
      open.holders.push(this);
    }
  }

  /** @returns whether the session has no handle of the open any more. */
  #take(open: Open, handle: number): boolean {
    this.#opens.delete(handle);
    open.handles -= 1;
    const further = this.#furtherHandles.get(open.id);
    if (further === undefined) {
      this.#handles.delete(open.id);
      open.holders.splice(open.holders.indexOf(this), 1);
      return true;
    }
    if (!further.delete(handle)) {
      const [next] = further as Iterable<number> as [number];
      further.delete(next);
      this.#handles.set(open.id, next);
    }
    if (further.size === 0) this.#furtherHandles.delete(open.id);
    return false;
  }

  /** A handle to an open of whatever session. @throws FsError EMFILE. */
  attach(open: Open): number {
    this.reserveOpen();
    this.#opening -= 1;
    const handle = this.addHandle(open);
    this.#attached.add(handle);
    return handle;
  }

  /** The open of this session with this id, and a handle of it. */
  findOpen(id: number): { handle: number; open: Open } | undefined {
    const handle = this.#handles.get(id);
    const open = handle === undefined ? undefined : this.#opens.get(handle);
    return handle === undefined || open === undefined ? undefined : { handle, open };
  }

  find(handle: number): Open | undefined {
    return this.#opens.get(handle);
  }

  /** Invalidates a handle at once, and closes its open if it was the last. @returns whether somebody may have waited for that. */
  async releaseHandle(ctx: RequestContext, handle: number): Promise<boolean> {
    const open = this.#opens.get(handle);
    if (open === undefined) throw new FsError("EBADF", "release");
    if (this.#attached.delete(handle)) this.#parts.keeper?.detached(this, handle);
    if (this.#take(open, handle)) {
      this.absences.cameBack(open);
      this.told.closed(open.node, this.#opens.values());
      // What its owner has closed is not kept beyond the server's process, whoever else has it.
      if (open.owner === this) this.#parts.keeper?.closed(open);
    }
    if (open.handles > 0) return false;
    return this.#parts.closings.close(ctx, open);
  }

  /** Ends the session: channels, opens, buffers. Settles when everything is released. */
  async end(code: number, text: string): Promise<void> {
    if (this.isEnded) return;
    this.#enter({ t: "ended" });
    for (const channel of [...this.channels]) channel.close(code, text);
    for (const { slots } of this.slotTables.values()) for (const { request } of slots) request?.cancel();
    this.buffers.close();
    this.#parts.onEnd(this);
    this.#parts.keeper?.sessionEnded(this);
    const waits = this.share.locks.endSession(this);
    const releases = [...this.#opens.keys()].map((handle) => this.releaseHandle(OWN_CONTEXT, handle));
    for (const result of await Promise.allSettled(releases)) {
      if (result.status === "rejected") {
        this.#parts.log.debug(`release at the end of a session failed: ${result.reason}`);
      }
    }
    await waits;
  }

  /** An open made for a channel that died meanwhile: nobody knows its handle. */
  dropHandle(ctx: RequestContext, handle: number): void {
    this.releaseHandle(ctx, handle).catch((error: unknown) =>
      this.#parts.log.debug(`release failed: ${String(error)}`),
    );
  }

  /** The same, without waiting. */
  endSoon(code: number, text: string): void {
    this.end(code, text).catch((error: unknown) => this.#parts.log.error("ending a session failed", error));
  }
}
