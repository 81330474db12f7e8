/**
 * Kernel node numbers <-> NodeIds, with the kernel's lookup counts.
 *
 * A number is never used for a second node in the life of a mount, so an old number can be answered with ESTALE and never reaches
 * another file. The kernel holds a row by `lookups` references, which every delivered entry raises and FORGET lowers; rows without
 * references are gone, so the table is as large as the kernel's own cache. Pure: no I/O.
 */
import type { Attr } from "../vfs/attr.ts";
import type { NodeId } from "../vfs/file-system.ts";
import { ROOT_NODE } from "./abi.ts";
import type { PageState } from "./page-state.ts";

export interface NodeRow {
  readonly nodeid: number;
  readonly id: NodeId;
  /** INVARIANT: > 0 while the row is in the table. Infinite for the root. */
  lookups: number;
  /** When this mount last changed the node or, for a directory, its names: a value of `NodeTable.tick`. */
  changedAt: number;
  /** Until then (monotonic ms) we know that it has no file capabilities: this mount has just made it. */
  bareUntilMs: number;
  /** What is known of the kernel's pages of this node, once it was opened. */
  pages: PageState | undefined;
  /** How often the kernel was to drop its pages since the drop began that is under way; 0: there is none. */
  dropsWanted: number;
  /** Settles when that is done, and no other is wanted. */
  dropping: Promise<void> | undefined;
  /** Something of it was locked, since the kernel knows it. */
  hasLocked: boolean;
  /** Settles when what a closed file had locked is given up. */
  unlocking: Promise<void> | undefined;
  /** Attributes that came along: of a directory with a change of its names, of the root before the kernel asks. */
  attr: KeptAttr | undefined;
}

/** Attributes as of the moment `changedAt` in the order of changes, good for one answer until `untilMs`. */
interface KeptAttr {
  readonly attr: Attr;
  readonly changedAt: number;
  readonly untilMs: number;
}

function newRow(nodeid: number, id: NodeId, lookups: number): NodeRow {
  return {
    nodeid,
    id,
    lookups,
    changedAt: 0,
    bareUntilMs: 0,
    pages: undefined,
    dropsWanted: 0,
    dropping: undefined,
    hasLocked: false,
    unlocking: undefined,
    attr: undefined,
  };
}

/** Batches of forgotten ids are handed over at this size at the latest. */
export const FORGET_BATCH_MAX = 1024;

export class NodeTable {
  readonly root: NodeRow;
  readonly #byNumber = new Map<number, NodeRow>();
  readonly #byId = new Map<NodeId, NodeRow>();
  #next = ROOT_NODE + 1;
  #forgotten = new Set<NodeId>();
  #ticks = 0;
  #changedBeforeForgotten = 0;

  constructor(rootId: NodeId) {
    this.root = newRow(ROOT_NODE, rootId, Number.POSITIVE_INFINITY);
    this.#byNumber.set(ROOT_NODE, this.root);
    this.#byId.set(rootId, this.root);
  }

  /** Nodes the kernel knows, the root included. */
  get size(): number {
    return this.#byNumber.size;
  }

  /** Ids that wait for `takeForgotten`. */
  get forgottenCount(): number {
    return this.#forgotten.size;
  }

  get(nodeid: number): NodeRow | undefined {
    return this.#byNumber.get(nodeid);
  }

  find(id: NodeId): NodeRow | undefined {
    return this.#byId.get(id);
  }

  /** The row of `id`, made if need be, with one more reference; take it back by `forget` if the entry is not delivered. */
  enter(id: NodeId): NodeRow {
    let row = this.#byId.get(id);
    if (row === undefined) {
      row = newRow(this.#next++, id, 0);
      this.#byNumber.set(row.nodeid, row);
      this.#byId.set(id, row);
      this.#forgotten.delete(id);
    }
    row.lookups++;
    return row;
  }

  /** The kernel gives back `count` references. Returns false if it did not have as many. */
  forget(nodeid: number, count: number): boolean {
    const row = this.#byNumber.get(nodeid);
    if (row === undefined) return false;
    row.lookups -= count;
    if (row.lookups > 0) return true;
    this.#byNumber.delete(nodeid);
    this.#byId.delete(row.id);
    this.#forgotten.add(row.id);
    this.#changedBeforeForgotten = Math.max(this.#changedBeforeForgotten, row.changedAt);
    return row.lookups === 0;
  }

  /** Ids without references since the last call, for `FileSystem.forget`. */
  takeForgotten(): NodeId[] {
    const ids = [...this.#forgotten];
    this.#forgotten.clear();
    return ids;
  }

  /** The present moment in the order of changes. */
  get now(): number {
    return this.#ticks;
  }

  /** Notes that this mount changes `row` now. */
  changed(row: NodeRow | undefined): void {
    this.#ticks++;
    if (row !== undefined) row.changedAt = this.#ticks;
  }

  /**
   * Notes that a request that came at `startedAt` has changed names in `directory`, and keeps the attributes that its answer brought, if any.
   *
   * They are kept only if nothing else has changed the directory since the request came: else they may be from before that.
   */
  namesChanged(directory: NodeRow, startedAt: number, attr: Attr | undefined, untilMs: number): void {
    const isAlone = directory.changedAt <= startedAt;
    this.changed(directory);
    directory.attr = attr !== undefined && isAlone ? { attr, changedAt: this.#ticks, untilMs } : undefined;
  }

  /** Keeps attributes that came along with something else. */
  keepAttr(row: NodeRow, attr: Attr, untilMs: number): void {
    row.attr = { attr, changedAt: row.changedAt, untilMs };
  }

  /** Attributes that were kept, once, and how long they may be believed; undefined if there are none that still hold. */
  takeAttr(row: NodeRow, nowMs: number): { attr: Attr; validMs: number } | undefined {
    const kept = row.attr;
    row.attr = undefined;
    if (kept === undefined || kept.changedAt !== row.changedAt || kept.untilMs <= nowMs) return undefined;
    return { attr: kept.attr, validMs: kept.untilMs - nowMs };
  }

  /** Whether attributes of `id` fetched at `then` may still be given to the kernel: nothing was changed here since. */
  isUnchangedSince(id: NodeId, then: number): boolean {
    const row = this.#byId.get(id);
    return row === undefined ? this.#changedBeforeForgotten <= then : row.changedAt <= then;
  }

  /** Throws where an INVARIANT does not hold; for tests. */
  checkInvariants(): void {
    for (const [nodeid, row] of this.#byNumber) {
      if (!(row.lookups > 0)) throw new Error(`node ${nodeid} is in the table with ${row.lookups} references`);
      if (this.#byId.get(row.id) !== row || row.nodeid !== nodeid) throw new Error(`node ${nodeid} is not found by id`);
      if (this.#forgotten.has(row.id)) throw new Error(`node ${nodeid} is both known and forgotten`);
    }
    if (this.#byId.size !== this.#byNumber.size) throw new Error("the two directions of the table differ");
  }
}
