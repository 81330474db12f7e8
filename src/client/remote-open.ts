/**
 * The client's side of an open: the server's handle for it, what is needed to come back to it, and when it may be released.
 *
 * Callers know it by a number of their own, so that it can get another handle of the server without their notice.
 */
import type { Caller, HandleId, NodeId, OpenFlags } from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";

/** What the server gave with the open; opaque. */
export interface OpenKeys {
  readonly openId: number;
  readonly resumeKey: Buffer;
  readonly serviceBlob: Buffer;
  readonly challenge: Buffer;
}

export class RemoteOpen {
  /** What callers know it by. */
  readonly id: HandleId;
  readonly kind: "file" | "directory";
  readonly node: NodeId;
  readonly flags: OpenFlags;
  /** Who opened it. */
  readonly caller: Caller;
  /** The server's number for it on this session. */
  handle: number;
  /** Of a file; directories have none. */
  keys: OpenKeys | undefined;
  /** The open's own key, where it was handed to this client: it has attached to the open, and the session's key does not make it. */
  readonly attachedBy: Buffer | undefined;
  /** As far as the server has not asked it back. */
  lease: Lease;
  /** Of a directory that was opened again, and of what came for nobody: in which session, and at which start of the server, it has its handle. */
  reopenedIn: string | undefined;
  /** The server has given it up: whoever still uses it gets ESTALE. */
  isGone = false;
  /** Something was written since the last flush. */
  isWritten = false;
  #calls = 0;
  #onIdle: (() => void) | undefined;

  constructor(parts: {
    id: HandleId;
    kind: "file" | "directory";
    node: NodeId;
    handle: number;
    flags: OpenFlags;
    caller: Caller;
    keys?: OpenKeys;
    attachedBy?: Buffer;
    lease?: Lease;
  }) {
    this.id = parts.id;
    this.kind = parts.kind;
    this.node = parts.node;
    this.handle = parts.handle;
    this.flags = parts.flags;
    this.caller = parts.caller;
    this.keys = parts.keys;
    this.attachedBy = parts.attachedBy;
    this.lease = parts.lease ?? Lease.NONE;
  }

  /** A call on the open begins; `endCall` follows when its reply is here. */
  beginCall(): void {
    this.#calls += 1;
  }

  endCall(): void {
    this.#calls -= 1;
    if (this.#calls === 0 && this.#onIdle !== undefined) {
      const onIdle = this.#onIdle;
      this.#onIdle = undefined;
      onIdle();
    }
  }

  /** Calls `onIdle` once, when no call is under way; perhaps at once. */
  whenIdle(onIdle: () => void): void {
    if (this.#calls === 0) onIdle();
    else this.#onIdle = onIdle;
  }
}
