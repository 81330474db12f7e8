/**
 * Path resolution over a FileSystem: what the kernel's name lookup does before a file system is asked.
 *
 * Symbolic links are followed here, '.' and '..' are resolved here, trailing slashes are judged here; a FileSystem sees only
 * (parent, name). Nothing is cached: every component is looked up again, so that every permission is checked every time.
 *
 * @see path_resolution(7)
 */
import type { ErrnoName } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import { NAME_BYTES_MAX, type Name } from "../../src/base/name.ts";
import { S_IFDIR, S_IFLNK, S_IFMT } from "../../src/vfs/attr.ts";
import type { Entry, FileSystem, RequestContext } from "../../src/vfs/file-system.ts";

/** Bytes of the longest path with its NUL. @see PATH_MAX in linux/limits.h */
const PATH_BYTES_MAX = 4096;
/** Links followed in one resolution. @see MAXSYMLINKS in linux/namei.h */
const LINKS_MAX = 40;
const X_OK = 1;

/** The last component of a path, not yet looked up. `special`: it is '.', '..' or the starting directory itself. */
export interface Last {
  /** Directories from the root to the parent. */
  parents: readonly Entry[];
  parent: Entry;
  name: Name;
  special: "." | ".." | undefined;
  /** The path ended in '/': what it names must be a directory. */
  slash: boolean;
}

export const isDirectory = (entry: Entry) => (entry.attr.mode & S_IFMT) === S_IFDIR;
export const isLink = (entry: Entry) => (entry.attr.mode & S_IFMT) === S_IFLNK;

/** One resolution: counts links over the whole of it. */
export class Walk {
  readonly #fileSystem: FileSystem;
  readonly #ctx: RequestContext;
  readonly #op: string;
  #links = 0;

  constructor(fileSystem: FileSystem, ctx: RequestContext, op: string) {
    this.#fileSystem = fileSystem;
    this.#ctx = ctx;
    this.#op = op;
  }

  fail(errno: ErrnoName): FsError {
    return new FsError(errno, this.#op);
  }

  /** Everything but the last component. */
  async parent(path: string): Promise<Last> {
    if (path.length === 0) throw this.fail("ENOENT");
    if (path.length >= PATH_BYTES_MAX) throw this.fail("ENAMETOOLONG");
    return this.#toLast([await this.#fileSystem.root(this.#ctx)], path);
  }

  /** The node `path` names. */
  async node(path: string, options: { follow: boolean }): Promise<Entry> {
    return this.finish(await this.parent(path), options);
  }

  /** Looks the last component up, following links if asked to or if a slash followed. */
  async finish(last: Last, options: { follow: boolean }): Promise<Entry> {
    const { parents } = await this.#step(last.parents, last.name, options.follow || last.slash);
    const entry = parents.at(-1) as Entry;
    if (last.slash && !isDirectory(entry)) throw this.fail("ENOTDIR");
    return entry;
  }

  /** The last component of the link `entry`, found in `last.parents`. */
  async target(last: Last, entry: Entry): Promise<Last> {
    return this.#toLast(last.parents, await this.#readLink(entry), last.slash);
  }

  async #readLink(entry: Entry): Promise<string> {
    this.#links++;
    if (this.#links > LINKS_MAX) throw this.fail("ELOOP");
    const target = (await this.#fileSystem.readlink(this.#ctx, entry.id)).toString("latin1");
    if (target.startsWith("/")) throw new Error("the walker has no root directory: absolute links are not followed");
    return target;
  }

  /** Walks all but the last component of `path` from the directory at the end of `chain`. */
  async #toLast(chain: readonly Entry[], path: string, slashBefore = false): Promise<Last> {
    const components = path.split("/").filter((component) => component !== "");
    let parents = chain;
    const name = components.pop() ?? ".";
    for (const component of components) {
      ({ parents } = await this.#step(parents, component, true));
      if (!isDirectory(parents.at(-1) as Entry)) throw this.fail("ENOTDIR");
    }
    const slash = slashBefore || path.endsWith("/");
    const special = name === "." || name === ".." ? name : undefined;
    return { parents, parent: parents.at(-1) as Entry, name: name as Name, special, slash };
  }

  /** One component: the chain of directories after it, the node itself last. */
  async #step(chain: readonly Entry[], name: string, follow: boolean): Promise<{ parents: readonly Entry[] }> {
    const here = chain.at(-1) as Entry;
    if (name === "." || name === "..") {
      await this.#fileSystem.access(this.#ctx, here.id, X_OK);
      return { parents: name === "." || chain.length === 1 ? chain : chain.slice(0, -1) };
    }
    if (name.length > NAME_BYTES_MAX) throw this.fail("ENAMETOOLONG");
    const entry = await this.#fileSystem.lookup(this.#ctx, here.id, name as Name);
    if (!follow || !isLink(entry)) return { parents: [...chain, entry] };
    const target = await this.#readLink(entry);
    const last = await this.#toLast(chain, target);
    const { parents } = await this.#step(last.parents, last.name, true);
    if (last.slash && !isDirectory(parents.at(-1) as Entry)) throw this.fail("ENOTDIR");
    return { parents };
  }
}
