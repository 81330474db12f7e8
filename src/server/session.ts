/**
 * Sessions and opens: what a client has on the server. Neither belongs to a connection.
 *
 * A session lives as long as it has channels, and a grace after; then everything of it is released. An open is reached through handles, numbers
 * of the session that all its channels may use; it is closed when its last handle is released and its requests have ended.
 */
import { strict as assert } from "node:assert";
import type { PoolUser } from "../base/buffer-pool.ts";
import type { Clock, Timer } from "../base/clock.ts";
import { FsError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import type { FileSystem, HandleId, NodeId, OpenFlags, RequestContext } from "../vfs/file-system.ts";
import type { WriteJoiner } from "./write-joiner.ts";

/** A directory that is served. */
export interface Share {
  readonly name: string;
  readonly fileSystem: FileSystem;
  readonly readOnly: boolean;
}

/** Something of a session that ends with it. */
export interface SessionChannel {
  /** Ends the channel; it leaves the session by `removeChannel`. */
  close(code: number, text: string): void;
}

const U32 = 2 ** 32;

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
  /** INVARIANT: 0 exactly if the open is closed or about to be. */
  handles = 0;
  /** Made with the first write. What it holds are requests under way, so that it is empty when the open is idle. */
  joiner: WriteJoiner | undefined;
  #requests = 0;
  #onIdle: (() => void) | undefined;

  constructor(parts: {
    id: number;
    kind: "file" | "directory";
    node: NodeId;
    inner: HandleId;
    flags: OpenFlags;
    openedAtMs: number;
    pid: number;
  }) {
    this.id = parts.id;
    this.kind = parts.kind;
    this.node = parts.node;
    this.inner = parts.inner;
    this.flags = parts.flags;
    this.openedAtMs = parts.openedAtMs;
    this.pid = parts.pid;
  }

  /** A request on the open begins; `endRequest` must follow. */
  beginRequest(): void {
    this.#requests += 1;
  }

  endRequest(): void {
    this.#requests -= 1;
    if (this.#requests === 0) this.#onIdle?.();
  }

  /** Settles when no request is under way. Nobody may begin one any more. */
  idle(): Promise<void> {
    if (this.#requests === 0) return Promise.resolve();
    return new Promise((resolve) => {
      this.#onIdle = resolve;
    });
  }
}

export class Session {
  /** 16 random bytes. */
  readonly id: Buffer;
  /** The session's secret. */
  readonly key: Buffer;
  readonly share: Share;
  /** Who logged in with a password; empty: who knows the token. */
  readonly user: string;
  /** By the share's or the user's rules. */
  readonly readOnly: boolean;
  readonly sectionBytes: number;
  readonly buffers: PoolUser;
  readonly channels = new Set<SessionChannel>();
  readonly #opens = new Map<number, Open>();
  readonly #opensMax: number;
  readonly #graceMs: number;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #onEnd: (session: Session) => void;
  #grace: Timer | undefined;
  #lastHandle = 0;
  /** Opens being made, which count against the limit. */
  #opening = 0;
  #isEnded = false;

  constructor(parts: {
    id: Buffer;
    key: Buffer;
    share: Share;
    user: string;
    readOnly: boolean;
    sectionBytes: number;
    buffers: PoolUser;
    opensMax: number;
    graceMs: number;
    clock: Clock;
    log: Log;
    /** Called once, when the session ends: it is to be forgotten then. */
    onEnd: (session: Session) => void;
  }) {
    this.id = parts.id;
    this.key = parts.key;
    this.share = parts.share;
    this.user = parts.user;
    this.readOnly = parts.readOnly;
    this.sectionBytes = parts.sectionBytes;
    this.buffers = parts.buffers;
    this.#opensMax = parts.opensMax;
    this.#graceMs = parts.graceMs;
    this.#clock = parts.clock;
    this.#log = parts.log;
    this.#onEnd = parts.onEnd;
  }

  get isEnded(): boolean {
    return this.#isEnded;
  }

  /** Handles the client has. */
  get handleCount(): number {
    return this.#opens.size;
  }

  addChannel(channel: SessionChannel): void {
    assert(!this.#isEnded, "an ended session takes no channel");
    this.channels.add(channel);
    this.#grace?.stop();
    this.#grace = undefined;
  }

  /** `isFinal`: the client said goodbye, so it will not come back. */
  removeChannel(channel: SessionChannel, isFinal: boolean): void {
    if (!this.channels.delete(channel) || this.channels.size > 0 || this.#isEnded) return;
    if (isFinal) this.#endSoon();
    else this.#grace = this.#clock.after(this.#graceMs, () => this.#endSoon());
  }

  /** Makes room for an open that is about to be made; `opened` or `openFailed` must follow. @throws FsError EMFILE. */
  reserveOpen(): void {
    if (this.#opens.size + this.#opening >= this.#opensMax) throw new FsError("EMFILE", "open");
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

  /** Another handle to an open. */
  addHandle(open: Open): number {
    let handle = this.#lastHandle;
    do {
      handle = (handle + 1) % U32;
    } while (handle === 0 || this.#opens.has(handle));
    this.#lastHandle = handle;
    this.#opens.set(handle, open);
    open.handles += 1;
    return handle;
  }

  find(handle: number): Open | undefined {
    return this.#opens.get(handle);
  }

  /** Invalidates a handle at once, and closes its open after the requests on it if it was the last. */
  async releaseHandle(ctx: RequestContext, handle: number): Promise<void> {
    const open = this.#opens.get(handle);
    if (open === undefined) throw new FsError("EBADF", "release");
    this.#opens.delete(handle);
    open.handles -= 1;
    if (open.handles > 0) return;
    await open.idle();
    const { fileSystem } = this.share;
    if (open.kind === "file") await fileSystem.release(ctx, open.inner);
    else await fileSystem.releasedir(ctx, open.inner);
  }

  /** Ends the session: channels, opens, buffers. Settles when everything is released. */
  async end(code: number, text: string): Promise<void> {
    if (this.#isEnded) return;
    this.#isEnded = true;
    this.#grace?.stop();
    for (const channel of [...this.channels]) channel.close(code, text);
    this.#onEnd(this);
    const ctx: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
    const releases = [...this.#opens.keys()].map((handle) => this.releaseHandle(ctx, handle));
    for (const result of await Promise.allSettled(releases)) {
      if (result.status === "rejected") this.#log.debug(`release at the end of a session failed: ${result.reason}`);
    }
    this.buffers.close();
  }

  /** An open made for a channel that died meanwhile: nobody knows its handle. */
  dropHandle(ctx: RequestContext, handle: number): void {
    this.releaseHandle(ctx, handle).catch((error: unknown) => this.#log.debug(`release failed: ${String(error)}`));
  }

  #endSoon(): void {
    this.end(0, "session is over").catch((error: unknown) => this.#log.error("ending a session failed", error));
  }
}
