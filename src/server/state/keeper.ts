/**
 * Puts what must survive the server's process into its state store: sessions, opens, and the replies to requests that must not run twice.
 *
 * It is told as things happen and writes records; the store takes those of one turn of the event loop down together. A reply that is kept is sent
 * when its record is down (`whenKept`). What a start of the server finds is restore.ts's.
 */
import { FsError } from "../../base/errors.ts";
import type { Attr } from "../../vfs/attr.ts";
import { type NodeId, OpenFlag } from "../../vfs/file-system.ts";
import type { BodyCodec } from "../../wire/codec.ts";
import { borrowedBody, messageOf, messages } from "../../wire/codec.ts";
import { type DataVersion, versionOf } from "../node-changes.ts";
import type { Open } from "../open.ts";
import type { ServedRequest } from "../served-request.ts";
import type { Session } from "../session.ts";
import type { KeptReply, SlotTable } from "../slot-table.ts";
import { Effects, hasEffect } from "./effects.ts";
import { type Intent, intentOf, intentRecord, isIntended } from "./intents.ts";
import type { LifeStamp } from "./life-stamp.ts";
import { LostNames } from "./lost-names.ts";
import { linesOf, NameLine } from "./name-line.ts";
import {
  attachedKeyOf,
  attachedRecord,
  LOCKS_PER_OPEN_MAX,
  leaseKeyOf,
  leaseRecord,
  leftKeyOf,
  leftRecord,
  locksKeyOf,
  locksRecord,
  openKeyOf,
  openRecord,
  sessionKeyOf,
  sessionRecord,
  slotKeyOf,
  slotRecord,
} from "./records.ts";
import type { Durability, StateStore } from "./state-store.ts";

const NOTHING = Buffer.alloc(0);
const SLOT_MASK = 0xffff;
const TURN_SHIFT = 16;

export class Keeper {
  readonly store: StateStore;
  readonly lostNames = new LostNames();
  /** Opens through which something is locked, by file. */
  readonly #lockedOpens = new Map<NodeId, Set<Open>>();
  readonly #life: LifeStamp | undefined;
  readonly #names = new NameLine();
  #isClosed = false;
  /** There where what is kept is to survive the power. */
  readonly effects: Effects | undefined;

  constructor(store: StateStore, life: LifeStamp | undefined, durability: Durability = "process") {
    this.store = store;
    this.#life = life;
    this.effects = durability === "power" ? new Effects() : undefined;
  }

  /** A session was made, or has another channel. */
  session(session: Session): void {
    const { id, key, clientId, user, loginMark, label, share, readOnly, guestOf, sectionBytes, keepMs } = session;
    const slotTables = [...session.slotTables.values()].map(({ number, credits }) => ({ number, credits }));
    const record = {
      id,
      key,
      clientId,
      user,
      loginMark,
      label,
      share: share.name,
      isReadOnly: readOnly,
      guestOf,
      mayHaveLostNames: this.lostNames.has(session),
      sectionBytes,
      keepMs,
      slotTables,
    };
    this.store.put(sessionKeyOf(id), sessionRecord.encode(record));
  }

  /** A session has ended, and its opens were closed. */
  sessionEnded(session: Session): void {
    this.store.delete(sessionKeyOf(session.id));
    for (const { number, slots } of session.slotTables.values()) {
      for (const [at, slot] of slots.entries()) if (slot.isStored) this.store.delete(slotKeyOf(session.id, number, at));
    }
  }

  /** A handle by attaching was released. */
  detached(session: Session, handle: number): void {
    this.store.delete(attachedKeyOf(session.id, handle));
  }

  closed(open: Open): void {
    if (open.kind !== "file") return;
    this.store.delete(openKeyOf(open.id));
    this.#forgetLocks(open);
    if (open.hasStoredLease) this.store.delete(leaseKeyOf(open.id));
    open.hasStoredLease = false;
  }

  /** A session is away, and has left the file of an open like this; undefined: others have changed it since. */
  left(session: Session, open: Open, version: DataVersion | undefined): void {
    if (this.#isClosed || open.kind !== "file" || session.share.fileSystem.recovery === undefined) return;
    this.store.put(leftKeyOf(session.id, open.id), leftRecord.encode({ version }));
  }

  /** It is back, and knows what others did. */
  cameBack(session: Session, open: Open): void {
    if (!this.#isClosed) this.store.delete(leftKeyOf(session.id, open.id));
  }

  /** There is less left of the lease of an open: before whoever needed that is answered. */
  leaseLowered(open: Open): void {
    // Of directories nothing is kept, nor of what is being closed.
    if (open.kind !== "file" || open.handles === 0) return;
    open.hasStoredLease = true;
    this.store.put(leaseKeyOf(open.id), leaseRecord.encode(open.lease));
  }

  /** What is locked or reserved through an open has changed; a process's lock may have moved there from another open of the file. */
  locked(open: Open): void {
    const opens = this.#lockedOpens.get(open.node) ?? new Set();
    // One that is being closed loses all it has.
    if (open.handles > 0) this.#lockedOpens.set(open.node, opens.add(open));
    for (const each of [...opens]) {
      const locks = each.owner.share.locks.locksOf(each);
      if (locks.length === 0) this.#forgetLocks(each);
      else {
        // Only several sessions that lock through one open have more: what is beyond ends with the process.
        each.hasStoredLocks = true;
        this.store.put(locksKeyOf(each.id), locksRecord.encode(locks.slice(0, LOCKS_PER_OPEN_MAX)));
      }
    }
  }

  #forgetLocks(open: Open): void {
    const opens = this.#lockedOpens.get(open.node);
    opens?.delete(open);
    if (opens?.size === 0) this.#lockedOpens.delete(open.node);
    if (!open.hasStoredLocks) return;
    open.hasStoredLocks = false;
    this.store.delete(locksKeyOf(open.id));
  }

  /** Data was changed, and is about to be acknowledged. */
  changed(): void {
    this.#life?.changed();
  }

  /** Whether a request is to be run by `once`. */
  minds(request: ServedRequest): boolean {
    const { message, asked, open } = request;
    return isIntended(message.name, asked, open) || (this.effects !== undefined && hasEffect(request));
  }

  /**
   * Runs a request so that the next start can tell whether it was done: after others about the same name, and after it is written down what it is about to do. Where
   * what is kept survives the power, what it has done is on the disk when this returns.
   */
  async once(
    table: SlotTable,
    request: ServedRequest,
    run: () => Promise<Record<string, unknown>>,
  ): Promise<Record<string, unknown>> {
    const { message, asked, open, session } = request;
    let isNaming = true;
    if (isIntended(message.name, asked, open)) {
      const turn = this.#names.enter(request, linesOf(request));
      if (turn !== undefined) await turn;
      isNaming = await this.#intends(table, request);
      request.throwIfCanceled();
    }
    const answer = await run();
    if (this.effects === undefined) return answer;
    try {
      await this.effects.settle(request, answer, isNaming);
    } catch (error) {
      if (message.row.handle === "made") session.dropHandle(request, answer["handle"] as number);
      throw error;
    }
    return answer;
  }

  /**
   * Looks at what is there and writes down what a request is about to do, if it must not run twice; returns when that is down.
   *
   * @returns false: it will change no name.
   */
  async #intends(table: SlotTable, request: ServedRequest): Promise<boolean> {
    const intended = { name: request.message.name, caller: request.caller, asked: request.asked, open: request.open };
    let intent: Intent | undefined;
    try {
      const looked = intentOf(request.fs, intended);
      intent = looked instanceof Promise ? await looked : looked;
    } catch (error) {
      if (error instanceof FsError) return true;
      throw error;
    }
    // Another request may have its slot by now.
    if (intent === undefined || request.isOrphan) return intent !== undefined;
    // What was begun before the server died began where it began then.
    intent.sizeBytes = request.appended?.startBytes ?? intent.sizeBytes;
    request.intent = intentRecord.encode(intent);
    const { session, tag, section, handle, message } = request;
    const turn = tag >>> TURN_SHIFT;
    const record = { turn, opcode: message.row.code, handle, section, reply: undefined, intent: request.intent };
    this.store.put(slotKeyOf(session.id, table.number, tag & SLOT_MASK), slotRecord.encode(record));
    await new Promise<void>((resolve) => this.whenKept(resolve));
    table.slotOf(tag).isStored = true;
    return true;
  }

  /** The last request of a slot has this reply. What it made is kept together with it: whoever has no reply makes another. */
  replied(session: Session, table: number, tag: number, reply: KeptReply, intent: Buffer): void {
    const { opcode, handle, section, status, made, answer } = reply;
    const open = made === 0 ? undefined : session.find(made);
    if (open?.kind === "file") {
      if (opcode === messages.attach.row.code)
        this.store.put(attachedKeyOf(session.id, made), attachedRecord.encode(open.id));
      else this.#opened(session, open, made, answer?.["attr"] as Attr);
    }
    const codec = messageOf(opcode).reply as BodyCodec | undefined;
    const body = answer === undefined || codec === undefined ? NOTHING : borrowedBody(codec, answer);
    const record = {
      turn: tag >>> TURN_SHIFT,
      opcode,
      handle,
      section,
      reply: { status, made, body },
      intent,
    };
    this.store.put(slotKeyOf(session.id, table, tag & SLOT_MASK), slotRecord.encode(record));
  }

  /** A file was opened, and has this handle. What the file system cannot find again is not kept. */
  #opened(session: Session, open: Open, handle: number, attr: Attr): void {
    const nodeRecord = recordOf(open);
    if (nodeRecord === undefined) return;
    const { id, kind, node, flags, openedAtMs, pid, lease } = open;
    const record = {
      id,
      session: session.id,
      handles: [handle],
      kind,
      node,
      nodeRecord,
      flags,
      openedAtMs,
      pid,
      lease,
      version: versionOf(attr),
    };
    this.store.add(openKeyOf(id), openRecord.encode(record));
  }

  /** The store is about to be closed: what a look at a file tells after this is not kept. */
  close(): void {
    this.#isClosed = true;
  }

  /** Calls `done` when everything told before is down. */
  whenKept(done: () => void): void {
    this.store.afterCommit(done);
  }
}

/** What the file system finds the file of an open again by; undefined: it cannot, or the path is too long. */
function recordOf({ owner, inner }: Open): Buffer | undefined {
  try {
    return owner.share.fileSystem.recovery?.describe(inner);
  } catch (error) {
    if (error instanceof FsError) return undefined;
    throw error;
  }
}

/** Whether the reply is kept beyond the death of the process: where running the request once more would do more than it did. */
export function isStored({ message, open }: ServedRequest): boolean {
  if (message.name === "write") return open !== undefined && (open.flags & OpenFlag.APPEND) !== 0;
  return message.name !== "opendir" && open?.kind !== "directory";
}
