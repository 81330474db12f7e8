/**
 * An open: the server's state for one opened file or directory. It is reached through handles, which are its sessions' (session.ts).
 *
 * It belongs to the session it was made in, whoever else has handles of it, and outlives connections. It is closed when its last handle is released and its requests have ended.
 */
import { openKey } from "../resume/resume-proof.ts";
import type { Attr } from "../vfs/attr.ts";
import type { HandleId, NodeId, OpenFlags } from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";
import type { Session } from "./session.ts";
import type { WriteJoiner } from "./write-joiner.ts";

/** The server's state for one opened file or directory. */
export class Open {
  /** Of the server, never used again. */
  readonly id: number;
  readonly kind: "file" | "directory";
  readonly node: NodeId;
  /** The open of the share's file system. */
  readonly inner: HandleId;
  readonly flags: OpenFlags;
  readonly openedAtMs: number;
  /** Process that opened, at the client. */
  readonly pid: number;
  /** Of all sessions. INVARIANT: 0 exactly if the open is closed or about to be. */
  handles = 0;
  /** Sessions that have handles of it; mostly its owner alone. */
  readonly holders: Session[] = [];
  /** The session it was made in. */
  readonly owner: Session;
  /** The state store has a record of its locks. */
  hasStoredLocks = false;
  /** What its session may believe of the file; see leases.ts. */
  lease: Lease = Lease.NONE;
  /** The lease is less than what it was granted, and the state store has a record of that. */
  hasStoredLease = false;
  /** With a lease: the attributes that the session was told last, and may believe; undefined: it has changed the file since. */
  knownAttr: Attr | undefined;
  /** How often its session has changed the file, as far as it has leases of it. */
  changes = 0;
  /** The machine was started again since the file was opened for writing: what was acknowledged may be lost, and the next fsync says so. */
  mayHaveLostData = false;
  /** Made with the first write. What it holds are requests under way, so that it is empty when the open is idle. */
  joiner: WriteJoiner | undefined;
  /** The challenge given out last, as latin1: good for one `attach`. Empty: none. */
  challenge = "";
  #requests = 0;
  #onIdle: (() => void) | undefined;

  constructor(parts: {
    id: number;
    owner: Session;
    kind: "file" | "directory";
    node: NodeId;
    inner: HandleId;
    flags: OpenFlags;
    openedAtMs: number;
    pid: number;
  }) {
    this.id = parts.id;
    this.owner = parts.owner;
    this.kind = parts.kind;
    this.node = parts.node;
    this.inner = parts.inner;
    this.flags = parts.flags;
    this.openedAtMs = parts.openedAtMs;
    this.pid = parts.pid;
  }

  /** What a client must know to come back to it. */
  get key(): Buffer {
    return openKey(this.owner.key, this.id);
  }

  /** A request on the open begins; `endRequest` must follow. */
  beginRequest(): void {
    this.#requests += 1;
  }

  endRequest(): void {
    this.#requests -= 1;
    if (this.#requests === 0) this.#onIdle?.();
  }

  get isIdle(): boolean {
    return this.#requests === 0;
  }

  /** Settles when no request is under way. Nobody may begin one any more. */
  idle(): Promise<void> {
    if (this.#requests === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }
}
