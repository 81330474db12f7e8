/**
 * Filling slots with checked requests, and reading replies out of them.
 *
 * A request that is refused before it is run (bad name, unknown id, no free slot) has slot -1 and its errno kept here until `run` rejects with
 * it: so each method of the disk is one chain, and never throws instead of rejecting.
 */

import { constants } from "node:os";
import { putLatin1 } from "../base/byte-cursor.ts";
import type { ErrnoName } from "../base/errno.ts";
import { FsError } from "../base/errors.ts";
import { isEntryName, NAME_BYTES_MAX, type Name } from "../base/name.ts";
import type { CancelSignal } from "../base/signals.ts";
import {
  type Decode,
  type DiskEngine,
  NODE_KEY_BYTES,
  type OperationName,
  SLOT,
  type SlotData,
} from "../sys/disk-engine.ts";
import { type Attr, decodeAttr } from "../vfs/attr.ts";
import type { Caller, Entry, HandleId, NodeId, Opened, RequestContext, StatFs } from "../vfs/file-system.ts";
import { LOCK_TYPES, type NodeLock } from "../vfs/lock.ts";

/** Identities kept at a time; when there are more, all are forgotten and come back with their next request. */
const CREDENTIALS_MAX = 256;
/** @see NGROUPS_MAX in linux/limits.h */
const GROUPS_MAX = 65536;

const ENOENT = constants.errno.ENOENT;

/** The largest double that fits the kernel's signed 64 bits. */
const OFFSET_MAX = 2 ** 63 - 1024;

/** A slot's number, or -1 for a request that was refused. */
export type SlotIndex = number;

export class RequestSlots {
  readonly engine: DiskEngine;
  readonly #credentials = new Map<string, number>();
  readonly #applyCredentials: boolean;
  #lastCaller: Caller | undefined;
  #lastCredential = 0;
  #refused: ErrnoName = "EIO";

  constructor(engine: DiskEngine, applyCredentials: boolean) {
    this.engine = engine;
    this.#applyCredentials = applyCredentials;
  }

  /** A slot for a request of `ctx.caller`. */
  begin(ctx: RequestContext): SlotIndex {
    const credential = this.#applyCredentials ? this.#credential(ctx.caller) : 0;
    return credential < 0 ? this.refuse(-1, "EPERM") : this.#take(credential);
  }

  #take(credential: number): SlotIndex {
    const slot = this.engine.take();
    if (slot < 0) return this.refuse(-1, "ENOBUFS");
    this.engine.u32[(slot * SLOT.size + SLOT.credential) >>> 2] = credential;
    this.engine.u32[(slot * SLOT.size + SLOT.name_bytes) >>> 2] = 0;
    this.engine.u32[(slot * SLOT.size + SLOT.target_name_bytes) >>> 2] = 0;
    return slot;
  }

  /** Gives the slot back; `run` will reject with `errno`. */
  refuse(slot: SlotIndex, errno: ErrnoName): SlotIndex {
    if (slot >= 0) this.engine.give(slot);
    this.#refused = errno;
    return -1;
  }

  /** A slot for a request on node `id`. */
  onNode(ctx: RequestContext, id: NodeId): SlotIndex {
    return this.id(this.begin(ctx), SLOT.id, id);
  }

  /** A slot for a request on the entry `name` of directory `parent`. */
  onEntry(ctx: RequestContext, parent: NodeId, name: Name): SlotIndex {
    return this.name(this.onNode(ctx, parent), SLOT.name_bytes, SLOT.name, name);
  }

  /** A slot for a request on an open. */
  onHandle(ctx: RequestContext, handle: HandleId): SlotIndex {
    const slot = this.begin(ctx);
    if (slot >= 0) this.u32(slot, SLOT.handle, handle);
    return slot;
  }

  /** A slot for a request about a lock of the node of an open. */
  onLock(ctx: RequestContext, handle: HandleId, { kind, type, startBytes, endBytes }: NodeLock): SlotIndex {
    const slot = this.onHandle(ctx, handle);
    if (slot < 0) return slot;
    this.u32(slot, SLOT.flags, kind === "flock" ? 1 : 0);
    this.u32(slot, SLOT.mode, LOCK_TYPES.indexOf(type));
    this.engine.view.setBigUint64(slot * SLOT.size + SLOT.lock_start, startBytes, true);
    this.engine.view.setBigUint64(slot * SLOT.size + SLOT.lock_end, endBytes, true);
    return slot;
  }

  id(slot: SlotIndex, field: number, id: NodeId): SlotIndex {
    if (slot < 0) return slot;
    if (id.length !== NODE_KEY_BYTES) return this.refuse(slot, "ESTALE");
    putLatin1(this.engine.bytes, slot * SLOT.size + field, id);
    return slot;
  }

  name(slot: SlotIndex, bytesField: number, field: number, name: Name): SlotIndex {
    if (slot < 0) return slot;
    if (name.length > NAME_BYTES_MAX) return this.refuse(slot, "ENAMETOOLONG");
    if (!isEntryName(name)) return this.refuse(slot, "EINVAL");
    this.engine.u32[(slot * SLOT.size + bytesField) >>> 2] = name.length;
    putLatin1(this.engine.bytes, slot * SLOT.size + field, name);
    return slot;
  }

  /** The name of an extended attribute: no '/' rule. ERANGE is what setxattr(2) says of a wrong length. */
  xattrName(slot: SlotIndex, name: Name): SlotIndex {
    if (slot < 0) return slot;
    if (name.length === 0 || name.length > NAME_BYTES_MAX) return this.refuse(slot, "ERANGE");
    if (/[\0]|[^\0-\xff]/.test(name)) return this.refuse(slot, "EINVAL");
    this.u32(slot, SLOT.name_bytes, name.length);
    this.engine.bytes.write(name, slot * SLOT.size + SLOT.name, name.length, "latin1");
    return slot;
  }

  /**
   * An offset, length or size of a file: an integer that is not negative; EINVAL otherwise, as the kernel says.
   *
   * Beyond 2^53 a number is not exact, and beyond what any disk holds: the kernel finds the right error for it (EFBIG, ENXIO, EINVAL).
   */
  position(slot: SlotIndex, field: number, value: number): SlotIndex {
    if (slot < 0) return slot;
    if (!(Number.isInteger(value) && value >= 0)) return this.refuse(slot, "EINVAL");
    this.f64(slot, field, Math.min(value, OFFSET_MAX));
    return slot;
  }

  u32(slot: SlotIndex, field: number, value: number): void {
    this.engine.u32[(slot * SLOT.size + field) >>> 2] = value;
  }

  f64(slot: SlotIndex, field: number, value: number): void {
    this.engine.f64[(slot * SLOT.size + field) >>> 3] = value;
  }

  /** Who has the name `name`, as the process itself sees it, if that can be told without waiting; undefined: it cannot, or there is an error to be told. */
  peek(parent: NodeId, name: Name): Entry | "nobody" | undefined {
    const slot = this.name(this.id(this.#take(0), SLOT.id, parent), SLOT.name_bytes, SLOT.name, name);
    if (slot < 0) return undefined;
    const result = this.engine.attempt("lookup", slot);
    const found = result < 0 ? undefined : asEntry(this.engine, slot);
    this.engine.give(slot);
    return result === -ENOENT ? "nobody" : found;
  }

  run<T>(
    name: OperationName,
    slot: SlotIndex,
    decode: Decode<T>,
    data?: SlotData,
    signal?: CancelSignal | undefined,
  ): Promise<T> {
    if (slot < 0) return Promise.reject(new FsError(this.#refused, name));
    return this.engine.run(name, slot, decode, data, signal);
  }

  /** As `run`, of a request that changes names in `directory`: the caller is told what became of that. */
  change<T>(
    name: OperationName,
    slot: SlotIndex,
    ctx: RequestContext,
    directory: NodeId,
    decode: Decode<T>,
    data?: SlotData,
  ): Promise<T> {
    return this.run(name, slot, telling(ctx, directory, decode), data, ctx.signal);
  }

  /** The number of the caller's identity, or -1 if it cannot be one. */
  #credential(caller: Caller): number {
    if (caller === this.#lastCaller) return this.#lastCredential;
    const { uid, gid, groups } = caller;
    if (!isId(uid) || !isId(gid) || groups.length > GROUPS_MAX || !groups.every(isId)) return -1;
    const key = `${uid},${gid},${groups.join()}`;
    let credential = this.#credentials.get(key);
    if (credential === undefined) {
      if (this.#credentials.size >= CREDENTIALS_MAX) {
        this.engine.clearCredentials();
        this.#credentials.clear();
      }
      credential = this.engine.credential(uid, gid, groups);
      this.#credentials.set(key, credential);
    }
    this.#lastCaller = caller;
    this.#lastCredential = credential;
    return credential;
  }
}

/** Whether `value` can be a user or group; 2^32-1 means "none". */
function isId(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value < 0xffffffff;
}

export function nothing(): void {}

/** The operation's own result: bytes done, an offset. */
export function asCount(_engine: DiskEngine, _slot: number, result: number): number {
  return result;
}

export function asAttr(engine: DiskEngine, slot: number): Attr {
  return decodeAttr(engine.view, slot * SLOT.size + SLOT.attr);
}

export function asEntry(engine: DiskEngine, slot: number): Entry {
  const at = slot * SLOT.size + SLOT.reply_id;
  const id = engine.bytes.toString("latin1", at, at + NODE_KEY_BYTES) as NodeId;
  return { id, attr: asAttr(engine, slot) };
}

/** Reads the reply of a request that changes names in `directory`, and tells the caller what became of that. */
function telling<T>(ctx: RequestContext, directory: NodeId, decode: Decode<T>): Decode<T> {
  if (ctx.directoryChanged === undefined) return decode;
  return (engine, slot, result) => {
    const attr = decodeAttr(engine.view, slot * SLOT.size + SLOT.directory);
    if (attr.mode !== 0) ctx.directoryChanged?.(directory, attr);
    return decode(engine, slot, result);
  };
}

export function asHandle(engine: DiskEngine, slot: number): HandleId {
  return engine.u32[(slot * SLOT.size + SLOT.reply_handle) >>> 2] as HandleId;
}

export function asOpened(engine: DiskEngine, slot: number): Opened {
  return { handle: asHandle(engine, slot), attr: asAttr(engine, slot) };
}

export function asCreated(engine: DiskEngine, slot: number): { entry: Entry; opened: Opened } {
  return { entry: asEntry(engine, slot), opened: asOpened(engine, slot) };
}

/** The lock that was found, if any: only fcntl's can be. */
export function asNodeLock(engine: DiskEngine, slot: number): NodeLock | undefined {
  const at = slot * SLOT.size;
  const type = LOCK_TYPES[engine.u32[(at + SLOT.mode) >>> 2] as number];
  if (type === undefined || type === "unlock") return undefined;
  const startBytes = engine.view.getBigUint64(at + SLOT.lock_start, true);
  const endBytes = engine.view.getBigUint64(at + SLOT.lock_end, true);
  return { kind: "posix", type, startBytes, endBytes };
}

export function asStatFs(engine: DiskEngine, slot: number): StatFs {
  const at = (slot * SLOT.size + SLOT.statfs) >>> 3;
  const value = (index: number) => engine.f64[at + index] as number;
  return {
    blockBytes: value(0),
    fragmentBytes: value(1),
    blocks: value(2),
    blocksFree: value(3),
    blocksAvailable: value(4),
    files: value(5),
    filesFree: value(6),
    nameBytesMax: value(7),
  };
}
