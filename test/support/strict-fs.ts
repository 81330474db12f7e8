/**
 * A FileSystem in memory that loses with the power what was not synced, as POSIX allows: two states of everything, as it is and as it is on the disk.
 *
 * A sync of a directory brings its names to the disk, and the inodes they lead to as they were made; a sync of a file its data and attributes, and not its name.
 * What was not synced may be on the disk as well after a cut, by chance, each by itself; but what was done to one directory is there in the order it
 * was done, a rename is there whole or not at all, and what was appended begins at its beginning. Syncs fail on demand.
 *
 * Files that were unlinked while they were open are kept for the next start, as a disk does it: by names in a place of their own.
 */
import { FsError } from "../../src/base/errors.ts";
import type { Name } from "../../src/base/name.ts";
import { type Attr, S_IFDIR, S_IFMT } from "../../src/vfs/attr.ts";
import {
  type HandleId,
  type NewNode,
  type NodeId,
  OpenFlag,
  type OpenFlags,
  type RequestContext,
} from "../../src/vfs/file-system.ts";
import { MemoryFs, type MemoryNode } from "../fuse/memory-fs.ts";

/** The place of files that are open and have no name. */
const KEPT = "kept" as NodeId;

interface Inode {
  readonly attr: Attr;
  readonly data: Buffer;
  readonly xattrs: ReadonlyMap<Name, Buffer>;
}

type Place = readonly [directory: NodeId, name: Name];

/** What one call has done to names. */
interface Change {
  readonly directories: ReadonlySet<NodeId>;
  /** Who has each name now. */
  readonly names: readonly (readonly [...Place, NodeId | undefined])[];
}

function inodeOf({ attr, data, xattrs }: MemoryNode): Inode {
  return { attr: { ...attr }, data: Buffer.from(data.subarray(0, attr.sizeBytes)), xattrs: new Map(xattrs) };
}

function isDirectory({ attr }: { readonly attr: Attr }): boolean {
  return (attr.mode & S_IFMT) === S_IFDIR;
}

export class StrictFs extends MemoryFs {
  /** On the disk: what inodes hold, and the names in directories. */
  readonly #inodes = new Map<NodeId, Inode>();
  readonly #names = new Map<NodeId, Map<Name, NodeId>>();
  /** What was done to names and is not on the disk, in order. */
  #changes: Change[] = [];
  /** Inodes as they were made, which reach the disk with their first name. */
  readonly #born = new Map<NodeId, Inode>();
  syncs = 0;
  /** Syncs that fail from now on. */
  failing = 0;

  constructor() {
    super();
    this.#inodes.set(this.top.id, inodeOf(this.top));
  }

  /** Brings a node to the disk, and what is kept of open files. */
  async syncNode(id: NodeId): Promise<void> {
    this.syncs += 1;
    if (this.failing > 0) {
      this.failing -= 1;
      throw new FsError("EIO", "sync");
    }
    const wanted = new Set([KEPT, id]);
    const due = new Set<Change>();
    // What a change needs is before it.
    for (const change of [...this.#changes].reverse()) {
      if (![...change.directories].some((directory) => wanted.has(directory))) continue;
      due.add(change);
      for (const directory of change.directories) wanted.add(directory);
    }
    this.#settle((change) => due.has(change));
    const node = this.nodes.get(id);
    if (node !== undefined) this.#inodes.set(id, inodeOf(node));
  }

  /**
   * Cuts the power: what was not synced is gone, or was written all the same, as `survives` says of each. All that was open is closed.
   */
  cut(survives: () => boolean): void {
    const held = new Set<NodeId>();
    this.#settle(({ directories }) => {
      const isThere = ![...directories].some((directory) => held.has(directory)) && survives();
      if (!isThere) for (const directory of directories) held.add(directory);
      return isThere;
    });
    this.#changes = [];
    for (const [id, node] of this.nodes) {
      const before = this.#inodes.get(id);
      if (before !== undefined && survives()) this.#inodes.set(id, partOf(before, inodeOf(node), survives));
    }
    this.opens.clear();
    this.#born.clear();
    this.#rebuild();
  }

  /** Lets go of what is kept for opens that nobody has. */
  sweepKept(): void {
    const opened = new Set([...this.opens.values()].map(({ node }) => node.id));
    for (const { id, attr } of [...this.nodes.values()]) {
      if (attr.nlink > 0 || opened.has(id)) continue;
      this.nodes.delete(id);
      this.#note([[KEPT, id as string as Name, undefined]]);
    }
  }

  /** Applies those of the changes to the disk. */
  #settle(isDue: (change: Change) => boolean): void {
    const left: Change[] = [];
    for (const change of this.#changes) {
      if (!isDue(change)) {
        left.push(change);
        continue;
      }
      for (const [directory, name, id] of change.names) {
        const names = this.#names.get(directory) ?? new Map<Name, NodeId>();
        this.#names.set(directory, names);
        if (id === undefined) names.delete(name);
        else names.set(name, id);
        const born = id === undefined || this.#inodes.has(id) ? undefined : this.#born.get(id);
        if (id !== undefined && born !== undefined) this.#inodes.set(id, born);
      }
    }
    this.#changes = left;
  }

  /** Everything is as it is on the disk. */
  #rebuild(): void {
    this.nodes.clear();
    const nodeOf = (id: NodeId): MemoryNode => {
      const there = this.nodes.get(id);
      if (there !== undefined) return there;
      const inode = this.#inodes.get(id);
      if (inode === undefined) throw new Error(`a name leads to ${id}, which is not on the disk`);
      const { attr, data, xattrs } = inode;
      const made = { id, attr: { ...attr }, data: Buffer.from(data), parent: undefined };
      const node: MemoryNode = id === this.top.id ? this.top : { ...made, entries: new Map(), xattrs: new Map(xattrs) };
      this.nodes.set(id, node);
      node.attr.nlink = isDirectory(inode) ? 2 : 0;
      node.entries.clear();
      for (const [name, childId] of this.#names.get(id) ?? []) {
        const child = nodeOf(childId);
        node.entries.set(name, child);
        child.parent = node;
        if (isDirectory(child)) node.attr.nlink += 1;
        else child.attr.nlink += 1;
      }
      return node;
    };
    nodeOf(this.top.id);
    for (const id of this.#names.get(KEPT)?.values() ?? []) nodeOf(id);
    for (const id of this.#inodes.keys()) if (!this.nodes.has(id)) this.#inodes.delete(id);
  }

  #idAt([directory, name]: Place): NodeId | undefined {
    return this.nodes.get(directory)?.entries.get(name)?.id;
  }

  /** Does something to these names, at once, and notes what it was. */
  #naming<T>(places: readonly Place[], act: () => Promise<T>): Promise<T> {
    const before = places.map((place) => this.#idAt(place));
    const result = act();
    for (const [id, node] of this.nodes) {
      if (!this.#inodes.has(id) && !this.#born.has(id)) this.#born.set(id, inodeOf(node));
    }
    const names = places.flatMap((place, at): Change["names"] => {
      const id = this.#idAt(place);
      return id === before[at] ? [] : [[...place, id]];
    });
    const nameless = before.flatMap((id): Change["names"] => {
      const node = id === undefined ? undefined : this.nodes.get(id);
      return node?.attr.nlink !== 0 || isDirectory(node) ? [] : [[KEPT, node.id as string as Name, node.id]];
    });
    this.#note([...names, ...nameless]);
    return result;
  }

  #note(names: Change["names"]): void {
    if (names.length > 0) this.#changes.push({ directories: new Set(names.map(([directory]) => directory)), names });
  }

  override symlink(ctx: RequestContext, parent: NodeId, name: Name, target: Buffer) {
    return this.#naming([[parent, name]], () => super.symlink(ctx, parent, name, target));
  }

  override mknod(
    ctx: RequestContext,
    parent: NodeId,
    name: Name,
    made: NewNode & { rdevMajor: number; rdevMinor: number },
  ) {
    return this.#naming([[parent, name]], () => super.mknod(ctx, parent, name, made));
  }

  override mkdir(ctx: RequestContext, parent: NodeId, name: Name, made: NewNode) {
    return this.#naming([[parent, name]], () => super.mkdir(ctx, parent, name, made));
  }

  override create(ctx: RequestContext, parent: NodeId, name: Name, flags: OpenFlags, made: NewNode) {
    return this.#naming([[parent, name]], () => super.create(ctx, parent, name, flags, made));
  }

  override unlink(ctx: RequestContext, parent: NodeId, name: Name) {
    return this.#naming([[parent, name]], () => super.unlink(ctx, parent, name));
  }

  override rmdir(ctx: RequestContext, parent: NodeId, name: Name) {
    return this.#naming([[parent, name]], () => super.rmdir(ctx, parent, name));
  }

  override link(ctx: RequestContext, id: NodeId, parent: NodeId, name: Name) {
    return this.#naming([[parent, name]], () => super.link(ctx, id, parent, name));
  }

  override rename(ctx: RequestContext, parent: NodeId, name: Name, newParent: NodeId, newName: Name, flags: number) {
    const places: Place[] = [
      [parent, name],
      [newParent, newName],
    ];
    return this.#naming(places, () => super.rename(ctx, parent, name, newParent, newName, flags));
  }

  override async fsync(_ctx: RequestContext, handle: HandleId): Promise<void> {
    const open = this.opens.get(handle);
    if (open === undefined) throw new FsError("EBADF", "fsync");
    await this.syncNode(open.node.id);
  }

  override fsyncdir(ctx: RequestContext, handle: HandleId): Promise<void> {
    return this.fsync(ctx, handle);
  }

  /** As Recovery's: truncates nothing. */
  reopen(ctx: RequestContext, id: NodeId, flags: OpenFlags) {
    return this.open(ctx, id, flags & ~(OpenFlag.TRUNC | OpenFlag.EXCL));
  }
}

/** A file of which something was written and not synced. */
function partOf(before: Inode, now: Inode, survives: () => boolean): Inode {
  const isAppended =
    now.data.length > before.data.length && now.data.subarray(0, before.data.length).equals(before.data);
  if (!isAppended || survives()) return now;
  const sizeBytes = before.data.length + ((now.data.length - before.data.length) >>> 1);
  return { ...now, data: now.data.subarray(0, sizeBytes), attr: { ...now.attr, sizeBytes } };
}
