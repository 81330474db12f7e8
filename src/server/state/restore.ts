/**
 * What a start of the server finds in its state store: the sessions of the server before, as if they had just lost their connections.
 *
 * Files are opened again, and what is kept of replies is put back into its slots, before anybody is listened to. What cannot be restored is left out, with a line in the
 * log, and deleted: its client is told that it is gone. A file whose client was away already is compared with what that has left. Where the client was there, a file whose times
 * are not after the last change that the server before acknowledged was left as it was by everybody else; of any other its client is told that it was changed.
 */
import { randomBytes, randomInt } from "node:crypto";
import { ByteReader, viewOf } from "../../base/byte-cursor.ts";
import type { Log } from "../../base/log.ts";
import type { Attr } from "../../vfs/attr.ts";
import { type FileSystem, OpenFlag, type RequestContext } from "../../vfs/file-system.ts";
import type { Lease } from "../../vfs/lease.ts";
import type { LockOwner } from "../../vfs/lock.ts";
import { type BodyCodec, messageOf } from "../../wire/codec.ts";
import { type DataVersion, isSame, versionOf } from "../node-changes.ts";
import { Open } from "../open.ts";
import type { Session } from "../session.ts";
import { withoutModes } from "../share-modes.ts";
import { ID_BYTES, type ServerState } from "../state.ts";
import type { LifeTimes } from "./life-stamp.ts";
import {
  attachedRecord,
  IDENTITY_KEY,
  type IdentityRecord,
  identityRecord,
  leaseRecord,
  leftKeyOf,
  leftRecord,
  locksRecord,
  type OpenRecord,
  openRecord,
  partsOfKey,
  type SessionRecord,
  sessionRecord,
  slotKeyOf,
  slotRecord,
} from "./records.ts";
import type { Durability, StateKey, StateStore } from "./state-store.ts";
import { Unfinished } from "./unfinished.ts";

const OWN_CONTEXT: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
/** Of the flags a file was opened with, what is done once. */
const ONCE_FLAGS = OpenFlag.TRUNC | OpenFlag.EXCL | OpenFlag.KILL_SUIDGID;
/** Beside the flags of a stored open: what was written through it may be lost. No OpenFlag. */
const LOST = 1 << 30;
const SECRET_BYTES = 32;
/** Files opened again at the same time. */
const OPENS_AT_ONCE = 64;

export interface Identity extends IdentityRecord {
  /** The machine was started again since the server before. */
  readonly isHostRestarted: boolean;
  /** And names may be lost that were acknowledged then. */
  readonly mayHaveLostNames: boolean;
}

/** What a start of the server has to go by. */
export interface Found {
  readonly store: StateStore;
  readonly records: ReadonlyMap<StateKey, Buffer>;
  readonly hostBootId: string;
  readonly durability?: Durability;
}

/**
 * Who the server is: as before, or new. Counts this start, and writes it down.
 *
 * After a restart of the machine the boot before stays written until `restore` has marked what may be lost: a start that dies in between changes nothing.
 */
export function identify({ store, records, hostBootId, durability }: Found): Identity {
  const bytes = records.get(IDENTITY_KEY);
  const before = bytes === undefined ? undefined : identityRecord.decode(bytes);
  const identity: IdentityRecord = {
    serverId: before?.serverId ?? randomBytes(ID_BYTES),
    sealSecret: before?.sealSecret ?? randomBytes(SECRET_BYTES),
    epoch: before?.epoch ?? 1,
    starts: (before?.starts ?? 0) + 1,
    hostBootId,
    areNamesSynced: durability === "power",
  };
  const { areNamesSynced = true } = before ?? {};
  const isHostRestarted = before !== undefined && before.hostBootId !== hostBootId;
  const written = { hostBootId: before?.hostBootId ?? hostBootId, areNamesSynced };
  if (!isHostRestarted) written.areNamesSynced &&= identity.areNamesSynced;
  store.put(IDENTITY_KEY, identityRecord.encode({ ...identity, ...written }));
  return { ...identity, isHostRestarted, mayHaveLostNames: isHostRestarted && !areNamesSynced };
}

/** What is known of the server before. */
export interface Before {
  /** When it was last seen alive. */
  readonly times: LifeTimes | undefined;
  readonly isHostRestarted: boolean;
  readonly mayHaveLostNames: boolean;
}

/** Puts everything back. */
export async function restore(
  state: ServerState,
  { store, records }: Found,
  before: Before,
  identity: Identity,
): Promise<void> {
  const restoring = new Restoring(state, store, before);
  for (const [key, value] of records) if (partsOfKey(key)?.of === "session") restoring.session(key, value);
  for (const [key, value] of records) if (partsOfKey(key)?.of === "slot") restoring.slot(key, value);
  for (const [key, value] of records) if (partsOfKey(key)?.of === "left") restoring.left(key, value);
  const opens = [...records].filter(([key]) => partsOfKey(key)?.of === "open");
  for (let at = 0; at < opens.length; at += OPENS_AT_ONCE) {
    await Promise.all(opens.slice(at, at + OPENS_AT_ONCE).map(([key, value]) => restoring.open(key, value)));
  }
  for (const [key, value] of records) if (partsOfKey(key)?.of === "attached") restoring.attached(key, value);
  for (const [key, value] of records) if (partsOfKey(key)?.of === "locks") await restoring.locks(key, value);
  if (before.isHostRestarted) store.put(IDENTITY_KEY, identityRecord.encode(identity));
  await restoring.requests();
  restoring.leases(records);
  restoring.end();
  await Promise.all([...state.shares.values()].map(({ fileSystem }) => sweep(fileSystem, state.log)));
}

/** What was kept for opens that nobody comes back to goes. */
async function sweep(fileSystem: FileSystem, log: Log): Promise<void> {
  await fileSystem.recovery?.sweep(OWN_CONTEXT).catch((error: unknown) => {
    log.warn(`files kept for an earlier start could not be removed: ${String(error)}`);
  });
}

class Restoring {
  readonly #state: ServerState;
  readonly #store: StateStore;
  readonly #before: Before;
  readonly #log: Log;
  readonly #sessions: Session[] = [];
  readonly #restoredOpens = new Map<number, Open>();
  /** What each open was granted; to be left when all opens are there. */
  readonly #granted = new Map<Open, { lease: Lease; attr: Attr }>();
  /** Of opens, for those who were there when the server before died. */
  readonly #versions = new Map<number, DataVersion | "unknown">();
  /** What those have left who were away already. */
  readonly #left = new Map<StateKey, DataVersion | "unknown">();
  readonly #unfinished: Unfinished;
  #opens = 0;
  #lost = 0;

  constructor(state: ServerState, store: StateStore, before: Before) {
    this.#state = state;
    this.#store = store;
    this.#before = before;
    this.#log = state.log;
    this.#unfinished = new Unfinished(state);
  }

  session(key: StateKey, bytes: Buffer): void {
    const record = sessionRecord.decode(bytes);
    const session = record === undefined ? undefined : this.#sessionOf(record);
    if (record === undefined || session === undefined) {
      this.#leaveOut(key, "a session");
      return;
    }
    this.#sessions.push(session);
    // Handles that were released are written down nowhere.
    session.beginHandles(randomInt(2 ** 32));
    if (!this.#before.mayHaveLostNames && !record.mayHaveLostNames) return;
    this.#state.keeper?.lostNames.add(session);
    this.#state.keeper?.session(session);
  }

  #sessionOf(record: SessionRecord): Session | undefined {
    const state = this.#state;
    const share = state.shares.get(record.share);
    const { loginMark } = record;
    const isAllowed = state.loginMark(record.user, record.share)?.equals(loginMark) === true;
    const buffers = share === undefined || !isAllowed ? undefined : state.pool.addUser();
    if (share === undefined || buffers === undefined) return undefined;
    const session = state.makeSession({
      ...{ id: record.id, key: record.key, clientId: record.clientId, user: record.user, label: record.label },
      ...{ loginMark, share, readOnly: record.isReadOnly || share.readOnly, sectionBytes: record.sectionBytes },
      ...{ keepMs: Math.min(record.keepMs, state.limits.keepMsMax), buffers, guestOf: record.guestOf },
    });
    for (const { number, credits } of record.slotTables) session.slotTable(number, credits);
    return session;
  }

  slot(key: StateKey, bytes: Buffer): void {
    const parts = partsOfKey(key);
    const record = slotRecord.decode(bytes);
    if (parts?.of !== "slot" || record === undefined) {
      this.#leaveOut(key, "a reply");
      return;
    }
    const session = this.#state.findSession(parts.session);
    const slot = session?.slotTables.get(parts.table)?.slots[parts.slot];
    if (session === undefined || slot === undefined) {
      this.#leaveOut(key, undefined);
      return;
    }
    slot.isStored = true;
    const { opcode, handle, section, turn, reply } = record;
    if (reply === undefined) {
      if (!this.#unfinished.add(session, parts.table, parts.slot, slot, record)) this.#leaveOut(key, "a request");
      return;
    }
    const { made, status, body } = reply;
    slot.turn = turn;
    try {
      const codec = messageOf(opcode).reply as BodyCodec;
      const answer = status === 0 ? (codec.read(reader(body)) as Record<string, unknown>) : undefined;
      slot.kept = { opcode, handle, section, made, status, answer };
      if (answer !== undefined) this.#unfinished.finished(session, record, answer);
    } catch {
      this.#leaveOut(key, "a reply");
    }
  }

  left(key: StateKey, bytes: Buffer): void {
    const record = leftRecord.decode(bytes);
    if (record === undefined) this.#leaveOut(key, "what a client has left");
    else this.#left.set(key, record.version ?? "unknown");
  }

  async open(key: StateKey, bytes: Buffer): Promise<void> {
    const record = openRecord.decode(bytes);
    const session = record === undefined ? undefined : this.#state.findSession(record.session);
    const [handle] = record?.handles ?? [];
    if (record === undefined || session === undefined || handle === undefined) {
      this.#leaveOut(key, session === undefined ? undefined : "an open");
      return;
    }
    try {
      const mayHaveLost = this.#mayHaveLost(record);
      await this.#reopen(record, session, handle, mayHaveLost);
      if (mayHaveLost) this.#store.put(key, openRecord.encode({ ...record, flags: record.flags | LOST }));
      this.#opens += 1;
    } catch (thrown) {
      this.#lost += 1;
      this.#log.debug(`open ${record.id} of ${session.label} cannot be restored: ${String(thrown)}`);
      this.#store.delete(key);
    }
  }

  /** Whether acknowledged data may be gone with the machine's memory; once that is so, also for later starts. */
  #mayHaveLost({ flags }: OpenRecord): boolean {
    const isLazy = (flags & OpenFlag.WRITE) !== 0 && (flags & (OpenFlag.SYNC | OpenFlag.DSYNC)) === 0;
    return (this.#before.isHostRestarted && isLazy) || (flags & LOST) !== 0;
  }

  async #reopen(record: OpenRecord, session: Session, handle: number, mayHaveLost: boolean): Promise<void> {
    const { recovery } = session.share.fileSystem;
    if (recovery === undefined) throw new Error("the share cannot find files again");
    const { id: node } = await recovery.recall(OWN_CONTEXT, record.nodeRecord);
    const flags = record.flags & ~ONCE_FLAGS & ~LOST;
    const { handle: inner, attr } = await recovery.reopen(OWN_CONTEXT, node, withoutModes(flags));
    const { id, kind, openedAtMs, pid } = record;
    const open = new Open({ id, owner: session, kind, node, inner, flags, openedAtMs, pid });
    open.mayHaveLostData = mayHaveLost;
    this.#restoredOpens.set(id, open);
    this.#granted.set(open, { lease: record.lease, attr });
    const version = this.#isLeftAlone(attr, record) ? versionOf(attr) : "unknown";
    this.#versions.set(id, version);
    this.#restored(session, open, handle, version);
  }

  attached(key: StateKey, bytes: Buffer): void {
    const parts = partsOfKey(key);
    const openId = attachedRecord.decode(bytes);
    const session = parts?.of === "attached" ? this.#state.findSession(parts.session) : undefined;
    if (parts?.of !== "attached" || openId === undefined || session === undefined) {
      this.#leaveOut(key, openId === undefined ? "a handle" : undefined);
      return;
    }
    const open = this.#restoredOpens.get(openId);
    const isAllowed = open?.owner.share === session.share && (session.guestOf ?? openId) === openId;
    if (open !== undefined && isAllowed) {
      this.#restored(session, open, parts.handle, this.#versions.get(openId) ?? "unknown");
      return;
    }
    this.#store.delete(key);
  }

  #restored(session: Session, open: Open, handle: number, version: DataVersion | "unknown"): void {
    const key = leftKeyOf(session.id, open.id);
    const left = this.#left.get(key);
    this.#left.delete(key);
    session.restored(open, handle, left ?? version, left !== undefined);
  }

  /** Leases are in force again before anybody is listened to, but for those that are in the way of what was done when the server before died. */
  leases(records: Found["records"]): void {
    for (const [key, value] of records) {
      const parts = partsOfKey(key);
      if (parts?.of !== "lease") continue;
      const open = this.#restoredOpens.get(parts.id);
      const lease = leaseRecord.decode(value);
      const granted = open === undefined ? undefined : this.#granted.get(open);
      if (open === undefined || granted === undefined || lease === undefined) {
        this.#leaveOut(key, lease === undefined ? "a lease" : undefined);
        continue;
      }
      open.hasStoredLease = true;
      granted.lease = lease;
    }
    for (const [open, { lease, attr }] of this.#granted) {
      open.owner.share.leases.grant(open, lease, attr);
      if (open.lease < lease) this.#state.keeper?.leaseLowered(open);
    }
  }

  /** Whether nobody can have changed the file after the server before did, or since it was opened. */
  #isLeftAlone(attr: Attr, { version }: OpenRecord): boolean {
    if (version !== undefined && isSame(version, versionOf(attr))) return true;
    const latestMs = Math.max(
      attr.mtimeSec * 1000 + Math.trunc(attr.mtimeNsec / 1e6),
      attr.ctimeSec * 1000 + Math.trunc(attr.ctimeNsec / 1e6),
    );
    return this.#before.times !== undefined && latestMs <= this.#before.times.changedAtMs;
  }

  /** Locks are taken again before anybody else can ask for them; programs beside the server may have been quicker. */
  async locks(key: StateKey, bytes: Buffer): Promise<void> {
    const parts = partsOfKey(key);
    const locks = locksRecord.decode(bytes);
    const open = parts?.of === "locks" ? this.#restoredOpens.get(parts.id) : undefined;
    if (locks === undefined || open === undefined) {
      this.#leaveOut(key, locks === undefined ? "locks" : undefined);
      return;
    }
    const { owner, node } = open;
    // So that the record goes if all are lost.
    open.hasStoredLocks = true;
    const held = locks.map((lock) => ({ ...lock, owner: lock.owner as LockOwner }));
    const lost = await owner.share.locks.restore(owner, open, held);
    this.#state.keeper?.locked(open);
    if (lost.length > 0) {
      this.#log.warn(
        `${owner.label} has lost ${lost.length} locks of node ${Buffer.from(node, "latin1").toString("hex")} to others`,
      );
    }
  }

  /** What was under way when the server before died. */
  async requests(): Promise<void> {
    const done = await this.#unfinished.resolve((session, table, at) => {
      this.#store.delete(slotKeyOf(session.id, table, at));
    });
    if (done > 0) this.#log.info(`${done} requests were done before the server before died, and are answered now`);
  }

  #leaveOut(key: StateKey, what: string | undefined): void {
    if (what !== undefined) this.#log.warn(`${what} in the state store cannot be used; it is left out`);
    this.#store.delete(key);
  }

  end(): void {
    // Of opens that are no more.
    for (const key of this.#left.keys()) this.#store.delete(key);
    for (const session of this.#sessions) session.restoredAll();
    for (const { guestOf } of this.#sessions) {
      if (guestOf !== undefined && this.#state.openOf(guestOf) === undefined) this.#state.guests.closed(guestOf);
    }
    if (this.#sessions.length === 0) return;
    const lost = this.#lost === 0 ? "" : `; ${this.#lost} are gone`;
    this.#log.warn(`${this.#sessions.length} sessions are kept from before, with ${this.#opens} open files${lost}`);
  }
}

function reader(body: Buffer): ByteReader {
  return new ByteReader().reset(body, viewOf(body), 0, body.length);
}
