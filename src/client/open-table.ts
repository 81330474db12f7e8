/**
 * What the callers of the remote file system have open, by the numbers they know it by, which stay the same however often the session comes back.
 */
import { FsError } from "../base/errors.ts";
import type { Caller, HandleId, NodeId, OpenFlags } from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";
import type { Request } from "../wire/messages.ts";
import type { ResumeResult } from "../wire/resume-fields.ts";
import type { NodeNames, Walker } from "./node-names.ts";
import { RemoteLeases } from "./remote-leases.ts";
import { type OpenKeys, RemoteOpen } from "./remote-open.ts";
import type { OpenTable } from "./resume-opens.ts";
import { closedError } from "./set-up.ts";

const U32 = 2 ** 32;

/** Told what others did to files that are open here. */
export interface OpenEvents {
  /** While the server was away, somebody else has changed the data of this node; no ranges: any part of it. */
  changed(node: NodeId, result: Pick<ResumeResult, "ranges" | "changedBy">): void;
  /** Somebody else has changed the data of this node just now, through an open of this client that he has a handle of, too. */
  changedThroughOpen?(node: NodeId): void;
  /**
   * Somebody else needs a node: of its leases there is no more left than this. Settles when what was unsent is sent, and nothing is known of the file
   * that the lease was needed for.
   */
  leaseBroken?(node: NodeId, remains: Lease): Promise<void>;
  /** The leases of a node were taken away while the server was away, down to this one. */
  leaseLost?(node: NodeId, remains: Lease): void;
  /** An open is no more: everything on it fails with ESTALE. */
  gone(handle: HandleId, node: NodeId): void;
}

export interface NewOpen {
  readonly kind: RemoteOpen["kind"];
  readonly node: NodeId;
  /** The server's number for it. */
  readonly handle: number;
  readonly flags: OpenFlags;
  readonly caller: Caller;
  readonly keys?: OpenKeys;
  readonly attachedBy?: Buffer;
  readonly lease?: Lease;
}

export class RemoteOpens implements OpenTable {
  readonly #opens = new Map<HandleId, RemoteOpen>();
  #lastHandle = 0;
  #isClosed = false;
  /** Not known to callers any more, but the server has not answered their release. */
  readonly #released = new Set<RemoteOpen>();
  readonly #names: NodeNames;
  readonly #drop: OpenTable["drop"];
  readonly #onGone: (open: RemoteOpen) => void;
  readonly leases: RemoteLeases;
  events: OpenEvents | undefined;

  /** `names` know where nodes are; `drop` releases a handle that nobody wants; `onGone` is told of opens that are no more; `giveBack` tells the server. */
  constructor(
    names: NodeNames,
    drop: OpenTable["drop"],
    onGone: (open: RemoteOpen) => void,
    giveBack: (breakId: number) => void,
  ) {
    this.#names = names;
    this.#drop = drop;
    this.#onGone = onGone;
    this.leases = new RemoteLeases(() => this.#opens.values(), giveBack);
  }

  get size(): number {
    return this.#opens.size;
  }

  get all(): Iterable<RemoteOpen> {
    return this.#opens.values();
  }

  /** An open that callers know from now on. */
  add(parts: NewOpen): RemoteOpen {
    let id = this.#lastHandle as HandleId;
    do {
      id = ((id + 1) % U32) as HandleId;
    } while (id === 0 || this.#opens.has(id));
    this.#lastHandle = id;
    const open = new RemoteOpen({ id, ...parts });
    this.#opens.set(id, open);
    return open;
  }

  /** @throws FsError EBADF there is none; ESTALE the server has given it up. ConnectionError: after `close`. */
  find(op: string, handle: HandleId): RemoteOpen {
    const open = this.#opens.get(handle);
    if (open === undefined) throw this.#missing(op);
    if (open.isGone) throw new FsError("ESTALE", op);
    return open;
  }

  /** Takes an open out, gone or not. @throws FsError EBADF there is none. ConnectionError: after `close`. */
  take(op: string, handle: HandleId): RemoteOpen {
    const open = this.#opens.get(handle);
    if (open === undefined) throw this.#missing(op);
    this.#opens.delete(handle);
    this.#released.add(open);
    return open;
  }

  /** An open of nobody's that is to be released. */
  addReleased(open: RemoteOpen): void {
    this.#released.add(open);
  }

  /** The release of an open has settled. */
  ended(open: RemoteOpen): void {
    this.#released.delete(open);
  }

  /** There are none from now on, because the drive is closed: that is no mistake of whoever still uses one, whose data may be kept elsewhere. */
  close(): void {
    this.#isClosed = true;
    this.#opens.clear();
  }

  resumed(open: RemoteOpen, result: ResumeResult): void {
    // The server names the session's first handle of the open, which need not be this one.
    if (open.attachedBy === undefined) open.handle = result.handle;
    if (open.keys !== undefined) open.keys = { ...open.keys, challenge: result.challenge };
    if (result.lease < open.lease) {
      open.lease = result.lease;
      this.events?.leaseLost?.(open.node, result.lease);
    }
    if (result.verdict === "changed") this.events?.changed(open.node, result);
  }

  leaseBreak(notice: Request<"leaseBreak">): void {
    this.leases.break(notice, async (node, remains) => this.events?.leaseBroken?.(node, remains));
  }

  changed(node: NodeId): void {
    this.events?.changedThroughOpen?.(node);
  }

  gone(open: RemoteOpen): void {
    open.isGone = true;
    open.lease = Lease.NONE;
    this.#onGone(open);
    this.events?.gone(open.id, open.node);
  }

  findNode(node: NodeId, walker: Walker): Promise<boolean> {
    return this.#names.find([node], walker, new Map());
  }

  handlesLost(kind: RemoteOpen["kind"], present: string): void {
    for (const open of this.#released) if (open.kind === kind && open.reopenedIn !== present) open.isGone = true;
  }

  drop(handle: number, kind: RemoteOpen["kind"], place: string): void {
    this.#drop(handle, kind, place);
  }

  #missing(op: string): Error {
    return this.#isClosed ? closedError() : new FsError("EBADF", op);
  }
}
