/**
 * One request under way on a channel; the context its handler and the share's file system see.
 *
 * Its abort signal exists only from the moment somebody asks for it, because most requests end without one.
 */
import { FsError } from "../base/errors.ts";
import { type CancelSignal, CancelSource } from "../base/signals.ts";
import type { Channel } from "../transport/channel.ts";
import type { Attr } from "../vfs/attr.ts";
import type { Caller, FileSystem, NodeId, RequestContext } from "../vfs/file-system.ts";
import type { Message } from "../wire/codec.ts";
import type { CallName } from "../wire/messages.ts";
import type { Open } from "./open.ts";
import type { Session } from "./session.ts";
import type { Appended } from "./state/intents.ts";

const NOTHING = Buffer.alloc(0);

/** What answers a request: the connection its channel has at the moment. */
export interface Answering {
  readonly channel: Channel;
  /** Of its set-up: what proofs are bound to. */
  readonly transcript: Buffer;
  answered(request: ServedRequest, answer: Record<string, unknown>): void;
  failed(request: ServedRequest, error: unknown): void;
}

export class ServedRequest implements RequestContext {
  readonly message: Message<CallName>;
  readonly session: Session;
  /** Changes when the client comes back over another connection while this runs. */
  connection: Answering;
  readonly tag: number;
  readonly section: number;
  readonly handle: number;
  /** As mapped by squash. */
  readonly caller: Caller;
  /** The open its handle names; present where the message needs one. */
  readonly open: Open | undefined;
  /** Fields of the request, with the payload where there is one. */
  readonly asked: Record<string, unknown>;
  /** The pooled buffer the payload came in; goes back when the request has settled. */
  payloadBuffer: Buffer | undefined;
  /** Called when the reply's payload has left, whether or not it arrived. */
  releaseReply: (() => void) | undefined;
  /** What it is about to do, as it was stored before; empty if it may run twice. */
  intent: Buffer = NOTHING;
  /** Where its data may be already; of an append whose server died. */
  appended: Appended | undefined;
  /** Nobody waits for its reply, which may leave with the next one. */
  isUnhurried = false;
  /** Its client has given it up: nobody is answered. */
  isOrphan = false;
  /** Called when it is canceled; set by whoever holds it at the moment. */
  onCancel: (() => void) | undefined;
  /** Of a directory whose names it has changed. */
  #directory: { readonly id: NodeId; readonly attr: Attr } | undefined;
  #source: CancelSource | undefined;
  #isCanceled = false;
  /** Its open was closed while it waited for its client. */
  #isLate = false;
  #onEnd: (() => void)[] = [];
  #hasEnded = false;

  constructor(parts: {
    message: Message<CallName>;
    session: Session;
    connection: Answering;
    tag: number;
    section: number;
    handle: number;
    caller: Caller;
    open: Open | undefined;
    asked: Record<string, unknown>;
  }) {
    this.message = parts.message;
    this.session = parts.session;
    this.connection = parts.connection;
    this.tag = parts.tag;
    this.section = parts.section;
    this.handle = parts.handle;
    this.caller = parts.caller;
    this.open = parts.open;
    this.asked = parts.asked;
  }

  get signal(): CancelSignal {
    if (this.#source === undefined) {
      this.#source = new CancelSource();
      if (this.#isCanceled) this.#source.abort();
    }
    return this.#source;
  }

  directoryChanged(id: NodeId, attr: Attr): void {
    this.#directory = { id, attr };
  }

  /** The attributes of a directory as the file system has told them with the change; undefined: it has not. */
  changedAttrOf(directory: NodeId): Attr | undefined {
    return this.#directory?.id === directory ? this.#directory.attr : undefined;
  }

  /** Takes the payload out of its answer: it is the request's only until the reply has left, and a reply that is kept is not worth more. */
  takePayload(answer: Record<string, unknown>): Buffer | undefined {
    if (this.message.row.payload !== "reply") return undefined;
    const payload = answer["payload"] as Buffer;
    answer["payload"] = NOTHING;
    return payload;
  }

  get channel(): Channel {
    return this.connection.channel;
  }

  get fs(): FileSystem {
    return this.session.share.fileSystem;
  }

  get isCanceled(): boolean {
    return this.#isCanceled;
  }

  cancel(): void {
    if (this.#isCanceled) return;
    this.#isCanceled = true;
    this.#source?.abort();
    this.onCancel?.();
  }

  /** @throws FsError EINTR; EBADF its open was closed while it waited `aside`. */
  throwIfCanceled(): void {
    if (this.#isCanceled) throw new FsError("EINTR", this.message.name);
    if (this.#isLate) throw new FsError("EBADF", this.message.name);
  }

  /** Waits for something that its client may keep from happening. Nobody who closes its open waits for that; `throwIfCanceled` is to follow. */
  async aside<T>(wait: Promise<T>): Promise<T> {
    this.open?.endRequest();
    try {
      return await wait;
    } finally {
      this.open?.beginRequest();
      this.#isLate = this.open?.handles === 0;
    }
  }

  /** Settles when the request has ended, however. */
  ended(): Promise<void> {
    if (this.#hasEnded) return Promise.resolve();
    return new Promise((resolve) => this.whenEnded(resolve));
  }

  /** Calls `tell` when the request ends, which it has not. */
  whenEnded(tell: () => void): void {
    this.#onEnd.push(tell);
  }

  /** What it was for is done, or has failed. */
  end(): void {
    this.#hasEnded = true;
    for (const tell of this.#onEnd) tell();
  }

  /** The open of a file. @throws FsError EISDIR, EBADF. */
  file(): Open {
    if (this.open?.kind === "directory") throw new FsError("EISDIR", this.message.name);
    if (this.open === undefined) throw new FsError("EBADF", this.message.name);
    return this.open;
  }

  /** The open of a directory. @throws FsError ENOTDIR, EBADF. */
  directory(): Open {
    if (this.open?.kind === "file") throw new FsError("ENOTDIR", this.message.name);
    if (this.open === undefined) throw new FsError("EBADF", this.message.name);
    return this.open;
  }

  /** A pooled buffer of at least `bytes`, when there is one. @throws FsError EINTR canceled while waiting. */
  takeBuffer(bytes: number): Promise<Buffer> {
    const taken = new Promise<Buffer>((resolve, reject) => {
      const giveUp = this.session.buffers.take(bytes, (buffer) => {
        this.onCancel = undefined;
        resolve(buffer);
      });
      this.onCancel = () => {
        giveUp();
        reject(new FsError("EINTR", this.message.name));
      };
    });
    return this.aside(taken);
  }
}
