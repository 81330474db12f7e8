/**
 * Locks on the client: what its processes hold, as the server has confirmed it, and what they wait for.
 *
 * Who waits for a lock occupies nothing: the server says when the lock is reserved (`lockReady`), the caller has it from then on, and it is asked for
 * once more so that the server knows. After the session has come back everything that is waited for is asked for again.
 * A caller may lose interest at any moment and is let go at once. If the lock comes all the same, it is turned back into what its owner had there before;
 * until that is known, and done, the same owner's next request on the file waits.
 * A request that is given up because the server is away for too long (--timeout) leaves it in doubt what the server holds. Once the session is back
 * that is made what the ledger says, and until then, too, the same owner's next request on the file waits: what undoes the one would undo the other.
 *
 * INVARIANT: a ledger says what its owner holds on the server, but for requests that are under way, and what is in doubt.
 */
import { errnoName } from "../base/errno.ts";
import { ConnectionError, FsError, ProtocolError } from "../base/errors.ts";
import { type CancelSignal, raceSignal } from "../base/signals.ts";
import { type Attr, NO_ATTR } from "../vfs/attr.ts";
import type { NodeId, RequestContext } from "../vfs/file-system.ts";
import {
  LOCK_KINDS,
  LOCK_TYPES,
  type Lock,
  type LockOwner,
  type LockRange,
  overlaps,
  WHOLE_FILE,
} from "../vfs/lock.ts";
import { LockRanges } from "../vfs/lock-ranges.ts";
import { type Message, messages } from "../wire/codec.ts";
import type { CallName, Reply, Request } from "../wire/messages.ts";
import type { RemoteOpen } from "./remote-open.ts";
import type { SessionChannels } from "./session-channels.ts";

const U32 = 2 ** 32;
/** Stretches in doubt of one open; beyond, the whole file is. */
const DOUBTS_MAX = 16;
/** Wishes of one open that the server may know still. Those that came later, when it had been away for long, it will not. */
const DOUBTED_WAITS_MAX = 1024;
/** Owners that something is in doubt of. */
const DOUBTED_LEDGERS_MAX = 16_384;
/** Requests nobody waits for are made on behalf of the client itself. */
const NOBODYS: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };

/** Where it is not known what the server holds, since a request got no answer. */
interface Doubt {
  /** The one that was asked for first, as if to hold it. */
  readonly lock: Lock;
  readonly ranges: LockRanges<undefined>;
  /** What may be waited for, or reserved. */
  readonly waitIds: Set<number>;
}

/** What one owner has on one node. */
class Ledger {
  readonly node: NodeId;
  /** Of fcntl's locks their owner, of a flock its open. */
  readonly key: LockOwner | RemoteOpen;
  readonly ranges = new LockRanges<RemoteOpen>();
  /** Requests under way. */
  readonly calls = new Set<Promise<unknown>>();
  /** By the open it was asked through. */
  readonly doubts = new Map<RemoteOpen, Doubt>();
  /** Callers that are not answered. */
  users = 0;
  /** Settles when what became of abandoned requests is known, and undone. */
  settling: Promise<void> | undefined;

  constructor(node: NodeId, key: LockOwner | RemoteOpen) {
    this.node = node;
    this.key = key;
  }

  get isEmpty(): boolean {
    const isQuiet = this.calls.size === 0 && this.users === 0 && this.settling === undefined;
    return isQuiet && this.ranges.size === 0 && this.doubts.size === 0;
  }

  /** Whether nothing that was given up is still to be undone. */
  get isCertain(): boolean {
    return this.settling === undefined && this.doubts.size === 0;
  }

  /** Whether its owner has nothing in this range, for certain. */
  isFree(range: LockRange): boolean {
    if (this.calls.size > 0 || this.ranges.all.some((held) => overlaps(held, range))) return false;
    return ![...this.doubts.values()].some(({ ranges }) => ranges.all.some((doubted) => overlaps(doubted, range)));
  }

  /** `waitId` 0: nothing was to be waited for. */
  doubt(open: RemoteOpen, lock: Lock, waitId: number): void {
    const doubt = this.doubts.get(open) ?? {
      lock: { ...lock, type: "write" },
      ranges: new LockRanges(),
      waitIds: new Set(),
    };
    this.doubts.set(open, doubt);
    doubt.ranges.set(lock, "write", undefined);
    if (doubt.ranges.size > DOUBTS_MAX) doubt.ranges.set(WHOLE_FILE, "write", undefined);
    if (waitId !== 0 && doubt.waitIds.size < DOUBTED_WAITS_MAX) doubt.waitIds.add(waitId);
  }

  record(open: RemoteOpen, lock: Lock): void {
    if (lock.type === "unlock") this.ranges.clear(lock);
    else this.ranges.set(lock, lock.type, open);
  }
}

/** A lock somebody waits for. */
interface Wait {
  readonly id: number;
  readonly ledger: Ledger;
  readonly open: RemoteOpen;
  readonly lock: Lock;
  readonly resolve: (attr: Attr) => void;
  readonly reject: (error: unknown) => void;
  /** The request for it that was made last; settles with whether it was granted. */
  asked: Promise<boolean>;
  /** The caller has the lock: what was answered before says nothing any more. */
  isGranted: boolean;
}

type Answer = Reply<"setlk">;
type DoubtParts = readonly [ledger: Ledger, open: RemoteOpen, lock: Lock, waitId: number];

export class RemoteLocks {
  readonly #channels: Pick<SessionChannels, "call">;
  readonly #ledgers = new Map<NodeId, Map<LockOwner | RemoteOpen, Ledger>>();
  readonly #waits = new Map<number, Wait>();
  /** Had since `lockReady`, as the server has not heard yet. */
  readonly #confirming = new Set<Wait>();
  /** Somewhere it is in doubt what their owners hold. */
  readonly #doubted = new Set<Ledger>();
  #lastWaitId = 0;
  /** Somebody was told that he has a lock on this node, and has not. */
  onLost: (node: NodeId) => void = () => {};
  /** How often the session came back. */
  #returns = 0;

  constructor(channels: Pick<SessionChannels, "call">) {
    this.#channels = channels;
  }

  async getlk(ctx: RequestContext, open: RemoteOpen, lock: Lock): Promise<Lock | undefined> {
    const fields = fieldsOf(ctx, lock);
    const message = messages.getlk as unknown as Message<CallName>;
    const parts = { message, fields, open, signal: ctx.signal };
    return this.#channels.call(parts, (reply) => {
      const { type, startBytes, endBytes, pid } = reply as unknown as Reply<"getlk">;
      const name = LOCK_TYPES[type];
      return name === undefined || name === "unlock" ? undefined : { ...lock, type: name, startBytes, endBytes, pid };
    });
  }

  /** As `FileSystem.setlk`. */
  async setlk(ctx: RequestContext, open: RemoteOpen, lock: Lock, wait: boolean): Promise<Attr> {
    const ledger = this.#ledgerOf(open, lock);
    ledger.users += 1;
    try {
      while (!ledger.isCertain) await this.#makeCertain(ctx, ledger, open, lock);
      if (lock.type === "unlock" && ledger.isFree(lock)) return NO_ATTR;
      if (wait && lock.type !== "unlock") return await this.#wait(ctx, ledger, open, lock);
      return await this.#try(ctx, ledger, open, lock);
    } finally {
      ledger.users -= 1;
      this.#forgetIfEmpty(ledger);
    }
  }

  /** A descriptor of `closer` was closed: he gives up all his fcntl locks on the node. Undefined: he has none. */
  flush(ctx: RequestContext, open: RemoteOpen, closer: LockOwner): Promise<void> | undefined {
    const ledger = this.#ledgers.get(open.node)?.get(closer);
    return ledger === undefined ? undefined : this.#unlockAll(ctx, ledger, open, closer);
  }

  /** The open is being released: nothing is known of its locks any more. @returns whether it has had any. */
  release(open: RemoteOpen): boolean {
    let hasLocks = false;
    for (const wait of this.#confirming) if (wait.open === open) this.#confirming.delete(wait);
    for (const ledger of this.#ledgers.get(open.node)?.values() ?? []) {
      const hasDoubts = ledger.doubts.delete(open);
      if (ledger.ranges.clearThrough(open).length > 0 || ledger.calls.size > 0 || hasDoubts) hasLocks = true;
      this.#forgetIfEmpty(ledger);
    }
    return hasLocks;
  }

  /** The server has given up the open: nobody gets a lock through it any more. */
  gone(open: RemoteOpen): void {
    for (const wait of [...this.#waits.values()]) {
      if (wait.open === open) this.#end(wait, new FsError("ESTALE", "setlk"));
    }
    this.release(open);
  }

  /** A lock that is waited for is reserved, or is not to be had. */
  ready({ waitId, errno, attr }: Request<"lockReady">): void {
    const wait = this.#waits.get(waitId);
    // One that nobody wants any more is being cancelled.
    if (wait === undefined) return;
    if (errno !== 0) {
      this.#end(wait, new FsError(errnoName(errno), "setlk"));
      return;
    }
    this.#granted(wait, attr);
    // It tells of what fails itself.
    void this.#confirm(wait);
  }

  /** Tells the server that a lock is had which is reserved. That is as long as the open lives, so there is no hurry. */
  async #confirm(wait: Wait): Promise<void> {
    const { id, ledger, open, lock } = wait;
    ledger.users += 1;
    this.#confirming.add(wait);
    try {
      const { waits } = await this.#request(NOBODYS, ledger, open, lock, id);
      // An unlock that the server had first has ended the reservation, and this was a new wish.
      if (!waits && this.#confirming.has(wait)) ledger.record(open, lock);
      if (!waits) return;
      // What its owner had there before he may have still: the ledger keeps the range, so that his unlock is sent.
      this.onLost(open.node);
      await this.#cancel(id);
    } catch (error) {
      const isOver = error instanceof FsError && (error.errno === "ESTALE" || error.errno === "EBADF");
      if (isOver) ledger.ranges.clearThrough(open);
      else if (!isUnanswered(error)) this.onLost(open.node);
      // What stays reserved would be ended only by an unlock of all of it.
      else if (this.#confirming.has(wait)) this.#doubt(ledger, open, lock, id);
    } finally {
      this.#confirming.delete(wait);
      ledger.users -= 1;
      this.#forgetIfEmpty(ledger);
    }
  }

  /**
   * The session has come back: what it waits for is asked for again, in case it was told something it did not hear, and what was given up meanwhile is
   * undone.
   */
  returned(): void {
    this.#returns += 1;
    for (const wait of this.#waits.values()) this.#ask(NOBODYS, wait);
    const doubted = [...this.#doubted];
    this.#doubted.clear();
    for (const ledger of doubted) this.#settle(ledger, () => this.#dispel(ledger));
  }

  /** What the owner gave up is undone. @throws as a request that is not answered, or is interrupted; an unlock without an answer is one all the same. */
  async #makeCertain(ctx: RequestContext, ledger: Ledger, open: RemoteOpen, lock: Lock): Promise<void> {
    try {
      // Changes nothing, and waits for the session for as long as the request itself would.
      if (ledger.settling === undefined) await this.#cancel(0, ctx.signal);
    } catch (error) {
      if (lock.type === "unlock" && isUnanswered(error)) this.#doubt(ledger, open, lock, 0);
      throw error;
    }
    if (ledger.settling === undefined) this.#settle(ledger, () => this.#dispel(ledger));
    if (ledger.settling !== undefined) await raceSignal(ledger.settling, ctx.signal);
  }

  /** Asks once. */
  async #try(ctx: RequestContext, ledger: Ledger, open: RemoteOpen, lock: Lock): Promise<Attr> {
    const asked = this.#request(ctx, ledger, open, lock, 0).then(({ attr }) => {
      // Not when the caller hears of it: what is undone meanwhile must leave him this one.
      if (ctx.signal?.aborted !== true) ledger.record(open, lock);
      return attr;
    });
    // A caller who has lost interest does not listen.
    asked.catch(() => {});
    try {
      return await raceSignal(asked, ctx.signal);
    } catch (error) {
      if (isUnanswered(error)) this.#doubt(ledger, open, lock, 0);
      else if (!(error instanceof FsError) && ctx.signal?.aborted === true) {
        const undo = async () => {
          await asked;
          await this.#undo(ledger, open, lock);
        };
        this.#settle(ledger, () => this.#orDoubt(undo(), ledger, open, lock, 0));
      }
      throw error;
    }
  }

  async #wait(ctx: RequestContext, ledger: Ledger, open: RemoteOpen, lock: Lock): Promise<Attr> {
    let id = this.#lastWaitId;
    do {
      id = (id + 1) % U32;
    } while (id === 0 || this.#waits.has(id));
    this.#lastWaitId = id;
    let wait: Wait | undefined;
    const granted = new Promise<Attr>((resolve, reject) => {
      wait = { id, ledger, open, lock, resolve, reject, asked: Promise.resolve(false), isGranted: false };
      this.#waits.set(id, wait);
      this.#ask(ctx, wait);
    });
    try {
      return await raceSignal(granted, ctx.signal);
    } catch (error) {
      if (wait !== undefined && this.#leave(wait)) this.#abandon(wait);
      throw error;
    }
  }

  /** Asks for what is waited for. */
  #ask(ctx: RequestContext, wait: Wait): void {
    const returns = this.#returns;
    const ask = async () => {
      try {
        const { waits, attr } = await this.#request(ctx, wait.ledger, wait.open, wait.lock, wait.id);
        if (!waits) {
          this.#granted(wait, attr);
          return true;
        }
        if (wait.isGranted) return true;
        // As flock(2) has it: what is to be exchanged is given up before anything is waited for.
        if (wait.lock.kind === "flock") wait.ledger.ranges.clear(WHOLE_FILE);
        // What the server had to say since may be lost.
        if (returns !== this.#returns && this.#waits.get(wait.id) === wait) this.#ask(NOBODYS, wait);
      } catch (error) {
        // Its reply might have said that it is had.
        if (isUnanswered(error) && !wait.isGranted) this.#doubt(wait.ledger, wait.open, wait.lock, wait.id);
        this.#end(wait, error);
      }
      return false;
    };
    wait.asked = ask();
  }

  /** The caller does not wait any more. */
  #abandon(wait: Wait): void {
    const { id, ledger, open, lock } = wait;
    const undo = async () => {
      if (await wait.asked) await this.#undo(ledger, open, lock);
      else await this.#cancel(id);
    };
    this.#settle(ledger, () => this.#orDoubt(undo(), ledger, open, lock, id));
  }

  async #cancel(waitId: number, signal?: CancelSignal): Promise<void> {
    const message = messages.cancelLock as unknown as Message<CallName>;
    await this.#channels.call({ message, fields: { waitId }, signal }, () => undefined);
  }

  #granted(wait: Wait, attr: Attr): void {
    if (!this.#leave(wait)) return;
    wait.isGranted = true;
    wait.ledger.record(wait.open, wait.lock);
    wait.resolve(attr);
  }

  #end(wait: Wait, error: unknown): void {
    if (this.#leave(wait)) wait.reject(error);
  }

  /** Whether it was still waited for. */
  #leave(wait: Wait): boolean {
    return this.#waits.delete(wait.id);
  }

  /** Finds out what became of an abandoned request and undoes it, before the owner's next request on the node. */
  #settle(ledger: Ledger, act: () => Promise<void>): void {
    // What others of this owner have asked for is to be known, and kept.
    const known = Promise.allSettled([ledger.settling, ...ledger.calls]);
    // Where it fails, and no doubt is left, the session, or the open, is no more, and so are its locks.
    const settling = known.then(act).catch(() => {});
    ledger.settling = settling;
    void settling.then(() => {
      if (ledger.settling === settling) ledger.settling = undefined;
      this.#forgetIfEmpty(ledger);
    });
  }

  /** A request got no answer: it is not known whether the server has heard of it. An unlock is one all the same. */
  #doubt(...[ledger, open, lock, waitId]: DoubtParts): void {
    if (this.#doubted.size < DOUBTED_LEDGERS_MAX || this.#doubted.has(ledger)) {
      this.#doubted.add(ledger);
      if (lock.type !== "unlock") ledger.doubt(open, lock, waitId);
      else {
        // It may be asked for through an open that is closed right after.
        for (const held of ledger.ranges.all) if (overlaps(held, lock)) ledger.doubt(held.through, lock, 0);
      }
    }
    if (lock.type === "unlock") ledger.record(open, lock);
  }

  /** Settles, never rejects, when `done` does. */
  async #orDoubt(done: Promise<void>, ...doubt: DoubtParts): Promise<void> {
    try {
      await done;
    } catch (error) {
      if (isUnanswered(error)) this.#doubt(...doubt);
    }
  }

  /** Makes the server hold what the ledger says, where that is in doubt. */
  async #dispel(ledger: Ledger): Promise<void> {
    const doubts = [...ledger.doubts];
    ledger.doubts.clear();
    for (const [open, { lock, ranges, waitIds }] of doubts) {
      for (const { type, startBytes, endBytes } of ranges.all) {
        const doubted = { ...lock, type, startBytes, endBytes };
        await this.#orDoubt(this.#undo(ledger, open, doubted), ledger, open, doubted, 0);
      }
      // Now, as what is reserved may be what its owner has.
      for (const id of waitIds) await this.#orDoubt(this.#cancel(id), ledger, open, lock, id);
    }
  }

  /** The lock was granted to nobody: the range is locked as its owner had it. */
  async #undo(ledger: Ledger, open: RemoteOpen, lock: Lock): Promise<void> {
    if (lock.type === "unlock") {
      ledger.record(open, lock);
      return;
    }
    const held = ledger.ranges.all.filter((range) => overlaps(range, lock));
    try {
      for (const { type, startBytes, endBytes } of ledger.ranges.pieces(lock)) {
        const through = held.find((range) => overlaps(range, { startBytes, endBytes }))?.through ?? open;
        await this.#request(NOBODYS, ledger, through, { ...lock, type, startBytes, endBytes }, 0);
      }
    } catch (error) {
      // There is no room for it to be as it was: he has the lock.
      if (error instanceof FsError && error.errno === "ENOLCK") ledger.record(open, lock);
      // A flock that was to be exchanged had been given up.
      if (error instanceof FsError && error.errno === "EAGAIN") this.onLost(ledger.node);
      throw error;
    }
  }

  async #unlockAll(ctx: RequestContext, ledger: Ledger, open: RemoteOpen, owner: LockOwner): Promise<void> {
    const lock: Lock = { ...WHOLE_FILE, kind: "posix", type: "unlock", owner, pid: 0 };
    ledger.users += 1;
    try {
      while (ledger.settling !== undefined) await ledger.settling;
      if (ledger.isFree(lock)) return;
      await this.#request({ caller: ctx.caller }, ledger, open, lock, 0);
    } catch (error) {
      if (isUnanswered(error)) this.#doubt(ledger, open, lock, 0);
      // Else the session, or the open, is no more, and so are its locks: for whoever closes a file that is as good.
    } finally {
      ledger.record(open, lock);
      ledger.users -= 1;
      this.#forgetIfEmpty(ledger);
    }
  }

  /** Without a signal: what was asked for must be known. */
  #request(ctx: RequestContext, ledger: Ledger, open: RemoteOpen, lock: Lock, waitId: number): Promise<Answer> {
    const message = messages.setlk as unknown as Message<CallName>;
    const parts = { message, fields: { ...fieldsOf(ctx, lock), waitId }, open };
    const call = this.#channels.call(parts, (reply) => reply as unknown as Answer);
    ledger.calls.add(call);
    const done = () => {
      ledger.calls.delete(call);
      this.#forgetIfEmpty(ledger);
    };
    call.then(done, done);
    return call;
  }

  #ledgerOf(open: RemoteOpen, { kind, owner }: Lock): Ledger {
    let ledgers = this.#ledgers.get(open.node);
    if (ledgers === undefined) {
      ledgers = new Map();
      this.#ledgers.set(open.node, ledgers);
    }
    const key = kind === "flock" ? open : owner;
    let ledger = ledgers.get(key);
    if (ledger === undefined) {
      ledger = new Ledger(open.node, key);
      ledgers.set(key, ledger);
    }
    return ledger;
  }

  #forgetIfEmpty(ledger: Ledger): void {
    const { node, key } = ledger;
    const ledgers = this.#ledgers.get(node);
    if (!ledger.isEmpty || ledgers?.get(key) !== ledger) return;
    ledgers.delete(key);
    this.#doubted.delete(ledger);
    if (ledgers.size === 0) this.#ledgers.delete(node);
  }
}

/** Whether the session may come back all the same, with what it has locked. */
function isUnanswered(error: unknown): boolean {
  return error instanceof ConnectionError || error instanceof ProtocolError;
}

function fieldsOf(
  { caller }: RequestContext,
  { kind, type, owner, startBytes, endBytes, pid }: Lock,
): Request<"getlk"> {
  return { caller, kind: LOCK_KINDS.indexOf(kind), type: LOCK_TYPES.indexOf(type), owner, startBytes, endBytes, pid };
}
