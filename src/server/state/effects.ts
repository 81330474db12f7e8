/**
 * What requests that must not run twice have done, brought to the disk before their replies are kept; with durability `power`. So a reply that is kept is
 * true after any power cut, and a request without one can be looked for on the disk. Plain writes keep no reply: they are fsync's.
 *
 * A sync is shared by all that was done before it began: while one of a directory is under way, whatever is done there waits for the next one, which is for all
 * of it (group commit). Queue: bounded by the requests there are; one sync of a node runs, one waits.
 */
import { FsError } from "../../base/errors.ts";
import { type FileSystem, type NodeId, OpenFlag, type OpenFlags, type RequestContext } from "../../vfs/file-system.ts";
import type { CallName } from "../../wire/messages.ts";
import type { Open } from "../open.ts";
import type { ServedRequest } from "../served-request.ts";

const OWN: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };

interface Asked {
  readonly id: NodeId;
  readonly parent: NodeId;
  readonly newParent: NodeId;
  readonly flags: OpenFlags;
  readonly targetHandle: number;
}

/** The nodes whose names or attributes a message changes. */
const TOUCHED: Partial<Record<CallName, (asked: Asked) => NodeId[]>> = {
  symlink: ({ parent }) => [parent],
  mknod: ({ parent }) => [parent],
  mkdir: ({ parent }) => [parent],
  create: ({ parent }) => [parent],
  tmpfile: ({ parent }) => [parent],
  link: ({ parent }) => [parent],
  unlink: ({ parent }) => [parent],
  rmdir: ({ parent }) => [parent],
  rename: ({ parent, newParent }) => (parent === newParent ? [parent] : [newParent, parent]),
  setattr: ({ id }) => [id],
  setxattr: ({ id }) => [id],
  removexattr: ({ id }) => [id],
};

/** Whether a request has to do with a disk before its reply is kept; of writes, those whose replies are kept. */
export function hasEffect({ message, asked }: ServedRequest): boolean {
  const { name } = message;
  if (name === "open") return truncates(asked as unknown as Asked);
  return TOUCHED[name] !== undefined || name === "fallocate" || name === "copyFileRange";
}

function truncates({ flags }: Asked): boolean {
  return (flags & OpenFlag.TRUNC) !== 0;
}

/** The open whose data a request has changed. */
function writtenBy(request: ServedRequest, asked: Asked, answer: Record<string, unknown>): Open | undefined {
  const { message, session } = request;
  if (message.name === "write" || message.name === "fallocate") return request.open;
  if (message.name === "copyFileRange") return session.find(asked.targetHandle);
  const isOpening = message.name === "open" || message.name === "create";
  return isOpening && truncates(asked) ? session.find(answer["handle"] as number) : undefined;
}

interface Sync {
  readonly done: Promise<void>;
  /** What is done from now on is not in it. */
  isBegun: boolean;
  /** The one after it. */
  next: Promise<void> | undefined;
}

/** Syncs by what they are of. */
export class SharedSyncs {
  readonly #syncs = new Map<string, Sync>();

  /** How many are under way or wait for one that is. */
  get size(): number {
    return this.#syncs.size;
  }

  /** Settles as a `sync` that begins after the call does; one that others have asked for, if there is one. */
  of(key: string, sync: () => Promise<void>): Promise<void> {
    const present = this.#syncs.get(key);
    if (present === undefined) return this.#begin(key, sync);
    if (!present.isBegun) return present.done;
    const begin = () => this.#begin(key, sync);
    present.next ??= present.done.then(begin, begin);
    return present.next;
  }

  #begin(key: string, sync: () => Promise<void>): Promise<void> {
    // What else is done in this turn of the event loop comes along.
    const done = new Promise<void>((resolve) => process.nextTick(resolve)).then(() => {
      entry.isBegun = true;
      return sync();
    });
    const entry: Sync = { done, isBegun: false, next: undefined };
    this.#syncs.set(key, entry);
    const end = () => {
      if (entry.next === undefined) this.#syncs.delete(key);
    };
    done.then(end, end);
    return done;
  }
}

export class Effects {
  readonly #syncs = new Map<FileSystem, SharedSyncs>();
  /** Directories that were made, until they are on the disk. */
  readonly #making = new Map<NodeId, Promise<void>>();

  /** Returns when what a request has done is on the disk; `isNaming`: it may have made its name. @throws FsError EIO it may not be there. */
  async settle(request: ServedRequest, answer: Record<string, unknown>, isNaming: boolean): Promise<void> {
    const { message, fs } = request;
    const asked = request.asked as unknown as Asked;
    const isOpened = message.name === "create" && !isNaming;
    // What was made just now has no data.
    const open = message.name === "create" && isNaming ? undefined : writtenBy(request, asked, answer);
    const written =
      open === undefined ? undefined : this.#of(fs).of(`${open.node} data`, () => fs.fsync(OWN, open.inner, true));
    const done = this.sync(fs, isOpened ? [] : (TOUCHED[message.name]?.(asked) ?? []));
    const made = message.name === "mkdir" ? (answer["id"] as NodeId) : undefined;
    if (made !== undefined) this.#making.set(made, done);
    try {
      await Promise.all([done, written]);
    } finally {
      if (made !== undefined) this.#making.delete(made);
    }
  }

  /** Returns when what was done to the nodes is on the disk, and they themselves are, if they were made only now. @throws FsError EIO. */
  async sync(fs: FileSystem, ids: readonly NodeId[]): Promise<void> {
    const { recovery } = fs;
    if (recovery === undefined) throw new FsError("EIO", "sync");
    const syncs = ids.map((id) => this.#of(fs).of(id, () => recovery.syncNode(OWN, id)));
    await Promise.all([...syncs, ...ids.map((id) => this.#making.get(id))]);
  }

  #of(fs: FileSystem): SharedSyncs {
    const syncs = this.#syncs.get(fs) ?? new SharedSyncs();
    this.#syncs.set(fs, syncs);
    return syncs;
  }
}
