/**
 * Where nodes were met: by which name, in which directory. For servers that do not know them any more.
 *
 * A node's id stays the same, but a server that has just started, or has seen too many nodes since, may not know where such a node is, and answers ESTALE. Then
 * the way to it is walked once more, from whatever the server knows, the root at the latest; if the same id is found there, the server knows it again. This is
 * told of names as they pass by, and keeps a bounded number of them, those met last. What is forgotten is kept for a while: names that are answered from what is known,
 * and answers under way while a node is forgotten, bring such nodes back without a word to this.
 */
import { FsError } from "../base/errors.ts";
import type { Name } from "../base/name.ts";
import { decodeDirents } from "../vfs/dirent-page.ts";
import type { Entry, NodeId } from "../vfs/file-system.ts";

const NODES_MAX = 1 << 18;
export const FORGOTTEN_MAX = 1 << 15;

interface Place {
  parent: NodeId;
  name: Name;
}

/** How often a node is looked for before it is taken for stale; a server that starts anew each time is not believed for ever. */
export const ATTEMPTS_MAX = 8;

/** How the way is walked. */
export interface Walker {
  root(): Promise<Entry>;
  lookup(parent: NodeId, name: Name): Promise<Entry>;
}

/** Nodes that are being looked for. */
export type Walks = Map<NodeId, Promise<boolean>>;

export class NodeNames {
  readonly #places = new Map<NodeId, Place>();
  /** INVARIANT: a name here is of a node that was met there last, or of none. */
  readonly #children = new Map<NodeId, Map<Name, NodeId>>();
  /** INVARIANT: each has a place; those forgotten longest ago are first. */
  readonly #forgotten = new Set<NodeId>();
  /** Nodes that are being looked for. */
  readonly #walks: Walks = new Map();

  /** The node has this name. */
  met(id: NodeId, parent: NodeId, name: Name): void {
    const place = this.#places.get(id);
    this.#forgotten.delete(id);
    if (place === undefined) {
      this.#places.set(id, { parent, name });
      if (this.#places.size > NODES_MAX) this.#dropOldest();
    } else if (place.parent === parent && place.name === name) {
      return;
    } else {
      this.#deleteChild(id, place);
      place.parent = parent;
      place.name = name;
    }
    const children = this.#children.get(parent);
    if (children === undefined) this.#children.set(parent, new Map([[name, id]]));
    else children.set(name, id);
  }

  /** All nodes of a page of a directory, checked as it is read. @throws ProtocolError MALFORMED. */
  metPage(directory: NodeId, page: Buffer): void {
    for (const { entry, name } of decodeDirents(page)) if (entry !== undefined) this.met(entry.id, directory, name);
  }

  /** A name was moved by this client; `isExchange`: the two changed places. */
  moved(from: Place, to: Place, isExchange: boolean): void {
    const id = this.#children.get(from.parent)?.get(from.name);
    const other = isExchange ? this.#children.get(to.parent)?.get(to.name) : undefined;
    if (id !== undefined) this.met(id, to.parent, to.name);
    if (other !== undefined) this.met(other, from.parent, from.name);
  }

  /** The node's last name, if it was met. */
  nameOf(id: NodeId): Name | undefined {
    return this.#places.get(id)?.name;
  }

  forget(ids: readonly NodeId[]): void {
    for (const id of ids) {
      if (!this.#places.has(id)) continue;
      this.#forgotten.delete(id);
      this.#forgotten.add(id);
    }
    for (const id of this.#forgotten) {
      if (this.#forgotten.size <= FORGOTTEN_MAX) return;
      this.#forget(id);
    }
  }

  /**
   * Makes the server know these nodes again. @returns false if one of them is not where it was met: it is stale indeed.
   *
   * `walks` are those that may be waited for; others than everybody's for who must not wait for everybody.
   */
  async find(ids: readonly NodeId[], walker: Walker, walks = this.#walks): Promise<boolean> {
    for (const id of ids) if (!(await this.#find(id, walker, walks))) return false;
    return true;
  }

  #find(id: NodeId, walker: Walker, walks: Walks): Promise<boolean> {
    let walk = walks.get(id);
    if (walk === undefined) {
      walk = this.#walk(id, walker, walks).finally(() => walks.delete(id));
      walks.set(id, walk);
    }
    return walk;
  }

  async #walk(id: NodeId, walker: Walker, walks: Walks): Promise<boolean> {
    const place = this.#places.get(id);
    // What has no name of its own is the root, or nothing.
    if (place === undefined) return (await walker.root()).id === id;
    const { parent, name } = place;
    // More often than once only where the server starts anew meanwhile.
    for (let attempt = 0; attempt < ATTEMPTS_MAX; attempt += 1) {
      const found = await lookup(walker, parent, name);
      if (found !== "stale") return found === id;
      if (!(await this.#find(parent, walker, walks))) return false;
    }
    return false;
  }

  #forget(id: NodeId): void {
    const place = this.#places.get(id);
    if (place === undefined) return;
    this.#places.delete(id);
    this.#forgotten.delete(id);
    this.#deleteChild(id, place);
  }

  /** The name may be another node's by now. */
  #deleteChild(id: NodeId, { parent, name }: Place): void {
    const children = this.#children.get(parent);
    if (children?.get(name) === id) children.delete(name);
    if (children?.size === 0) this.#children.delete(parent);
  }

  #dropOldest(): void {
    for (const id of this.#places.keys()) {
      this.#forget(id);
      return;
    }
  }
}

/** The id of a name; undefined: it is not to be had; "stale": the server does not know the directory. */
async function lookup(walker: Walker, parent: NodeId, name: Name): Promise<NodeId | "stale" | undefined> {
  try {
    return (await walker.lookup(parent, name)).id;
  } catch (error) {
    if (!(error instanceof FsError)) throw error;
    return error.errno === "ESTALE" ? "stale" : undefined;
  }
}
