/** The file system in memory, with those who watch names in its directories. */
import type { Name } from "../../src/base/name.ts";
import type { HandleId, NodeId } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";

type Method<N extends keyof MemoryFs> = MemoryFs[N] extends (...args: infer A) => infer R ? (...args: A) => R : never;

export class WatchedFs extends MemoryFs {
  readonly watchers = new Map<NodeId, Set<(name: Name) => void>>();

  watchNames(handle: HandleId, changed: (name: Name | undefined) => void): { close(): void } {
    const id = this.opens.get(handle)?.node.id as NodeId;
    const watchers = this.watchers.get(id) ?? new Set();
    this.watchers.set(id, watchers.add(changed));
    return {
      close: () => {
        watchers.delete(changed);
        if (watchers.size === 0) this.watchers.delete(id);
      },
    };
  }

  override create: Method<"create"> = (...args) => this.#tell(args[1], args[2], super.create(...args));
  override mkdir: Method<"mkdir"> = (...args) => this.#tell(args[1], args[2], super.mkdir(...args));
  override symlink: Method<"symlink"> = (...args) => this.#tell(args[1], args[2], super.symlink(...args));
  override mknod: Method<"mknod"> = (...args) => this.#tell(args[1], args[2], super.mknod(...args));
  override link: Method<"link"> = (...args) => this.#tell(args[2], args[3], super.link(...args));
  override unlink: Method<"unlink"> = (...args) => this.#tell(args[1], args[2], super.unlink(...args));
  override rename: Method<"rename"> = (...args) =>
    this.#tell(args[3], args[4], this.#tell(args[1], args[2], super.rename(...args)));

  /** The watchers are told when it is done. */
  #tell<T>(id: NodeId, name: Name, done: Promise<T>): Promise<T> {
    void done.then(
      () => {
        for (const changed of this.watchers.get(id) ?? []) changed(name);
      },
      () => {},
    );
    return done;
  }
}
