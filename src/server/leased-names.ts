/**
 * Directories that are open with a lease: their client knows all names in them, and asks for no other.
 *
 * Sessions break each other's leases before they give a name (lease-requests.ts). Programs beside the server ask nobody, so each such directory is watched as long as the
 * lease lasts: when a name is told of that the lease's own session has not given or taken, the lease is broken, a moment later than it should be. A name
 * that the session has named is one that its client knows, whatever happens to it.
 */
import type { Name } from "../base/name.ts";
import type { FileSystem, NodeId } from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";
import { type LeaseOpen, type LeaseSession, OUTSIDER, type ShareLeases } from "./leases.ts";

/** Directories of a share that are watched; beyond that no leases of directories are granted. */
const DIRECTORIES_MAX = 1024;
/** Names that sessions have given or taken, in one directory and in all of a share: with more the lease of the directory ends. */
const NAMED_MAX = 16_384;
const NAMED_TOTAL_MAX = 262_144;
/** Requests that name something are remembered as long as so many others follow: what they do may be told of when the lease has begun. */
const RECENT_MAX = 64;

interface LeasedDirectory {
  readonly open: LeaseOpen;
  readonly named: Set<Name>;
  watch: { close(): void } | undefined;
}

export class LeasedNames {
  readonly #fileSystem: FileSystem;
  readonly #leases: () => Pick<ShareLeases, "break">;
  readonly #byNode = new Map<NodeId, LeasedDirectory[]>();
  #count = 0;
  #namedCount = 0;
  readonly #recent: { session: LeaseSession; parent: NodeId; name: Name }[] = [];
  #nextRecent = 0;

  constructor(fileSystem: FileSystem, leases: () => Pick<ShareLeases, "break">) {
    this.#fileSystem = fileSystem;
    this.#leases = leases;
  }

  /** A directory is to be leased; it is watched from before its names are read. @returns false: that cannot be. */
  begin(open: LeaseOpen): boolean {
    if (this.#count >= DIRECTORIES_MAX) return false;
    const directory: LeasedDirectory = { open, named: new Set(), watch: undefined };
    directory.watch = this.#fileSystem.watchNames?.(open.inner, (name) => this.#changed(directory, name));
    if (directory.watch === undefined) return false;
    for (const { session, parent, name } of this.#recent) {
      if (session === open.owner && parent === open.node) directory.named.add(name);
    }
    this.#namedCount += directory.named.size;
    this.#count += 1;
    const others = this.#byNode.get(open.node);
    if (others === undefined) this.#byNode.set(open.node, [directory]);
    else others.push(directory);
    return true;
  }

  /** The lease is over, or was not granted. */
  end(open: LeaseOpen): void {
    const directories = this.#byNode.get(open.node);
    const index = directories?.findIndex((each) => each.open === open) ?? -1;
    if (directories === undefined || index < 0) return;
    const [directory] = directories.splice(index, 1);
    directory?.watch?.close();
    this.#namedCount -= directory?.named.size ?? 0;
    this.#count -= 1;
    if (directories.length === 0) this.#byNode.delete(open.node);
  }

  /** A session is about to give a name, or to take it away. */
  named(session: LeaseSession, parent: NodeId, name: Name): void {
    this.#recent[this.#nextRecent] = { session, parent, name };
    this.#nextRecent = (this.#nextRecent + 1) % RECENT_MAX;
    for (const { open, named } of this.#byNode.get(parent) ?? []) {
      if (open.owner !== session || named.has(name)) continue;
      if (named.size >= NAMED_MAX || this.#namedCount >= NAMED_TOTAL_MAX) {
        this.#break(parent);
        continue;
      }
      named.add(name);
      this.#namedCount += 1;
    }
  }

  #changed({ open, named, watch }: LeasedDirectory, name: Name | undefined): void {
    if (watch === undefined || (name !== undefined && named.has(name))) return;
    this.#break(open.node);
  }

  #break(node: NodeId): void {
    // Never rejects, and nobody waits for it.
    void this.#leases().break(OUTSIDER, node, Lease.NONE);
  }
}
