/**
 * Opens of a disk found again by another process: `Recovery` over the disk's own operations.
 */
import { FsError } from "../base/errors.ts";
import type { Name } from "../base/name.ts";
import { NODE_KEY_BYTES } from "../sys/disk-engine.ts";
import {
  type Entry,
  type FileSystem,
  type HandleId,
  type NodeId,
  type Opened,
  OpenFlag,
  type OpenFlags,
  type RequestContext,
} from "../vfs/file-system.ts";
import { NODE_RECORD_BYTES_MAX, type Recovery } from "../vfs/recovery.ts";
import { asEntry, nothing, type RequestSlots } from "./request-slots.ts";

/** What made the file and its contents when it was first opened, and must not happen again. */
const FIRST_TIME_FLAGS = OpenFlag.TRUNC | OpenFlag.EXCL | OpenFlag.KILL_SUIDGID;
/** The right of the process itself. */
const OWN_CALLER = { uid: 0, gid: 0, groups: [], pid: 0 };
const OWNER_READ_WRITE = 0o600;
const PERMISSION_BITS = 0o7777;

export class DiskRecovery implements Recovery {
  readonly #slots: RequestSlots;
  readonly #disk: FileSystem;
  readonly #scratch = Buffer.allocUnsafeSlow(NODE_RECORD_BYTES_MAX);

  constructor(slots: RequestSlots, disk: FileSystem) {
    this.#slots = slots;
    this.#disk = disk;
  }

  describe(handle: HandleId): Buffer {
    return this.#slots.engine.describe(handle, this.#scratch);
  }

  describeNode(id: NodeId): Buffer {
    const key = Buffer.from(id, "latin1");
    if (key.length !== NODE_KEY_BYTES) throw new FsError("ESTALE", "describe");
    return this.#slots.engine.describe(key, this.#scratch);
  }

  peek(parent: NodeId, name: Name): Entry | "nobody" | undefined {
    return this.#slots.peek(parent, name);
  }

  recall(ctx: RequestContext, record: Buffer): Promise<Entry> {
    return this.#slots.run("recall", this.#slots.begin(ctx), asEntry, record, ctx.signal);
  }

  async syncNode(ctx: RequestContext, id: NodeId): Promise<void> {
    try {
      await this.#slots.run("syncNode", this.#slots.onNode(ctx, id), nothing, undefined, ctx.signal);
    } catch (error) {
      // What was done to a node that is gone meanwhile is to be on the disk all the same.
      if (!(error instanceof FsError && (error.errno === "ESTALE" || error.errno === "ENOENT"))) throw error;
      await this.#disk.syncfs(ctx, id);
    }
  }

  sweep(ctx: RequestContext): Promise<void> {
    return this.#slots.run("sweepKept", this.#slots.begin(ctx), nothing, undefined, ctx.signal);
  }

  async reopen(ctx: RequestContext, id: NodeId, flags: OpenFlags): Promise<Opened> {
    const own: RequestContext = { caller: OWN_CALLER, signal: ctx.signal };
    const again = flags & ~FIRST_TIME_FLAGS;
    try {
      return await this.#disk.open(own, id, again);
    } catch (error) {
      // Root may open whatever it likes. A file's owner may not, but may let himself.
      if (!(error instanceof FsError && error.errno === "EACCES")) throw error;
    }
    const mode = (await this.#disk.getattr(own, id)).mode & PERMISSION_BITS;
    await this.#disk.setattr(own, id, { mode: mode | OWNER_READ_WRITE });
    try {
      return await this.#disk.open(own, id, again);
    } finally {
      await this.#disk.setattr(own, id, { mode });
    }
  }
}
