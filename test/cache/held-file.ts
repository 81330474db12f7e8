/**
 * A FileSystem with files in memory whose writes and reads are held until the test lets them go, in any order.
 *
 * Only what the cache calls on an open file is there; anything else fails loudly because there is nothing behind it.
 */

import type { ErrnoName } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import type { Name } from "../../src/base/name.ts";
import type { Attr } from "../../src/vfs/attr.ts";
import type {
  Entry,
  FileSystem,
  HandleId,
  NodeId,
  Opened,
  OpenFlags,
  RequestContext,
} from "../../src/vfs/file-system.ts";
import { ForwardingFileSystem } from "../../src/vfs/forwarding-file-system.ts";

export const CTX: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 1 } };

/** A request that waits for the test. */
export interface Held {
  readonly op: "read" | "write";
  readonly offsetBytes: number;
  readonly lengthBytes: number;
  /** Does it, or fails it, or does only so many bytes of it. */
  go(error?: ErrnoName | number): void;
}

export function attrOf(sizeBytes: number): Attr {
  const time = {
    atimeSec: 0,
    mtimeSec: 0,
    ctimeSec: 0,
    btimeSec: 0,
    atimeNsec: 0,
    mtimeNsec: 0,
    ctimeNsec: 0,
    btimeNsec: 0,
  };
  const owner = { uid: 0, gid: 0, rdevMajor: 0, rdevMinor: 0 };
  return { inoLow: 7, inoHigh: 0, sizeBytes, blocks: 0, ...time, mode: 0o100644, nlink: 1, ...owner, blksize: 4096 };
}

export class HeldFile extends ForwardingFileSystem {
  content = Buffer.alloc(0);
  /** When it was changed, by its attributes. */
  mtimeNsec = 0;
  /** What comes along with an open. */
  openContent: Buffer | undefined;
  readonly held: Held[] = [];
  /** Called when a write or read comes. */
  began: () => void = () => {};
  readonly log: string[] = [];
  readonly id = "file" as NodeId;
  /** What each name is; any other is another file. Absent: all are this one. */
  names: Record<string, NodeId> | undefined;
  /** Whether requests may follow writes; those that do are noted as such. */
  follows = false;
  /** What follows writes gets no answer, whatever becomes of these. */
  isStuck = false;
  /** What the next fsync fails with. */
  syncError: ErrnoName | undefined;
  #nextHandle = 1;

  constructor() {
    super({} as FileSystem);
  }

  override async open(_ctx: RequestContext, _id: NodeId, _flags: OpenFlags): Promise<Opened> {
    this.log.push("open");
    const attr = { ...attrOf(this.content.length), mtimeNsec: this.mtimeNsec };
    const opened = { handle: this.#nextHandle++ as HandleId, attr };
    return this.openContent === undefined ? opened : { ...opened, content: this.openContent };
  }

  override async create(ctx: RequestContext, _parent: NodeId, _name: Name, flags: OpenFlags) {
    const opened = await this.open(ctx, this.id, flags);
    return { entry: { id: this.id, attr: opened.attr }, opened };
  }

  override async lookup(_ctx: RequestContext, _parent: NodeId, name: Name): Promise<Entry> {
    this.log.push("lookup");
    const id = this.names === undefined ? this.id : (this.names[name] ?? ("other" as NodeId));
    return { id, attr: attrOf(this.content.length) };
  }

  override async rename(): Promise<void> {
    this.log.push("rename");
  }

  override get canFollowWrites(): boolean {
    return this.follows;
  }

  override async link(): Promise<Entry> {
    this.log.push("link");
    return { id: this.id, attr: attrOf(this.content.length) };
  }

  override async unlink(): Promise<void> {
    this.log.push("unlink");
  }

  override async getattr(ctx: RequestContext): Promise<Attr> {
    await this.#follow(ctx, "getattr");
    return attrOf(this.content.length);
  }

  override async setattr(_ctx: RequestContext, _id: NodeId, change: { sizeBytes?: number }): Promise<Attr> {
    this.log.push("setattr");
    if (change.sizeBytes !== undefined) this.content = this.content.subarray(0, change.sizeBytes);
    return attrOf(this.content.length);
  }

  override async setxattr(): Promise<void> {
    this.log.push("setxattr");
  }

  override async removexattr(): Promise<void> {
    this.log.push("removexattr");
  }

  override async flush(): Promise<void> {
    this.log.push("flush");
  }

  override async fsync(ctx: RequestContext): Promise<void> {
    await this.#follow(ctx, "fsync");
    const error = this.syncError;
    this.syncError = undefined;
    if (error !== undefined) throw new FsError(error, "fsync");
  }

  override async release(): Promise<void> {
    this.log.push("release");
  }

  override async close(): Promise<void> {
    this.log.push("close");
  }

  override write(_ctx: RequestContext, _handle: HandleId, offsetBytes: number, data: Buffer): Promise<number> {
    return this.#hold("write", offsetBytes, data.length, () => {
      const end = offsetBytes + data.length;
      if (end > this.content.length)
        this.content = Buffer.concat([this.content, Buffer.alloc(end - this.content.length)]);
      data.copy(this.content, offsetBytes);
      return data.length;
    });
  }

  override read(ctx: RequestContext, _handle: HandleId, offsetBytes: number, target: Buffer): Promise<number> {
    const reading = this.#hold("read", offsetBytes, target.length, () =>
      this.content.copy(target, 0, Math.min(offsetBytes, this.content.length)),
    );
    const held = this.held.at(-1);
    ctx.signal?.addEventListener("abort", () => held?.go("EINTR"));
    return reading;
  }

  /** Lets everything go until nothing is held, also what comes up meanwhile. */
  async releaseAll(): Promise<void> {
    while (this.held.length > 0) {
      this.held[0]?.go();
      await new Promise((resolve) => setImmediate(resolve));
    }
  }

  /** A request that follows writes ends after those that are held now. */
  async #follow(ctx: RequestContext, op: string): Promise<void> {
    this.log.push(ctx.followsWrites === true ? `${op} behind ${this.held.length}` : op);
    if (ctx.followsWrites !== true) return;
    const before = [...this.held];
    while (before.some((held) => this.held.includes(held)) || this.isStuck) {
      await new Promise((resolve) => setImmediate(resolve));
      if (ctx.signal?.aborted === true) throw new FsError("EINTR", op);
    }
  }

  #hold(op: "read" | "write", offsetBytes: number, lengthBytes: number, act: () => number): Promise<number> {
    this.log.push(op);
    this.began();
    return new Promise((resolve, reject) => {
      const held: Held = {
        op,
        offsetBytes,
        lengthBytes,
        go: (error) => {
          const index = this.held.indexOf(held);
          if (index < 0) return;
          this.held.splice(index, 1);
          if (error === undefined) resolve(act());
          else if (typeof error === "number") resolve(error);
          else reject(new FsError(error, op));
        },
      };
      this.held.push(held);
    });
  }
}
