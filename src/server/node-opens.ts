/**
 * All open files of a share, by node: what share modes and leases look at before somebody gets a file.
 */
import type { NodeId } from "../vfs/file-system.ts";

export class NodeOpens<O extends { readonly node: NodeId }> {
  /** One open as itself: most files have no more. */
  readonly #byNode = new Map<NodeId, O | Set<O>>();

  add(open: O): void {
    const there = this.#byNode.get(open.node);
    if (there instanceof Set) there.add(open);
    else this.#byNode.set(open.node, there === undefined ? open : new Set([there, open]));
  }

  /** @returns whether it was there. */
  delete(open: O): boolean {
    const there = this.#byNode.get(open.node);
    if (there instanceof Set ? !there.delete(open) : there !== open) return false;
    if (!(there instanceof Set) || there.size === 0) this.#byNode.delete(open.node);
    return true;
  }

  /** The opens of one node; not to be kept. */
  of(node: NodeId): Iterable<O> | undefined {
    const there = this.#byNode.get(node);
    return there === undefined || there instanceof Set ? there : [there];
  }

  /** The open of a node that is open once; undefined: look at all of them. */
  only(node: NodeId): O | undefined {
    const there = this.#byNode.get(node);
    return there instanceof Set ? undefined : there;
  }

  get all(): Iterable<O> {
    return this.#each();
  }

  *#each(): Iterable<O> {
    for (const there of this.#byNode.values()) {
      if (there instanceof Set) yield* there;
      else yield there;
    }
  }
}
