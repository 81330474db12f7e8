/**
 * `Posix` over a FileSystem, for disk and remote: does what the kernel's VFS does between a system call and a file system.
 *
 * It checks what the kernel checks itself (access modes of descriptors, flag combinations, special names) and leaves everything else
 * - permissions, existence, errno of the operation - to the FileSystem, because that is what is tested.
 */
import type { ErrnoName } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import { NAME_BYTES_MAX, type Name } from "../../src/base/name.ts";
import { type Attr, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK } from "../../src/vfs/attr.ts";
import { type Entry, type FileSystem, type HandleId, OpenFlag, RenameFlag } from "../../src/vfs/file-system.ts";
import { type Fd, type Identity, O, type Posix, ROOT, type SetTime } from "./posix.ts";
import { isDirectory, isLink, type Last, Walk } from "./walk.ts";
import { type FileTable, OpenFileCalls } from "./walker-files.ts";

/** A walker below the root of `fileSystem`, as root. The caller closes `fileSystem`. */
export function walkerPosix(fileSystem: FileSystem): Posix {
  return ordered(new Walker(fileSystem, new Map(), ROOT, ""), new Map());
}

/** The last call of each process: an identity's calls wait for each other, as those of one thread do. */
type Queues = Map<string, Promise<unknown>>;

function ordered(walker: Walker, queues: Queues): Posix {
  const { uid, gid, groups = [], process: number = 0 } = walker.identity;
  const key = `${uid} ${gid} ${groups.join(",")} ${number}`;
  return new Proxy<Posix>(walker, {
    get(_target, property) {
      const value: unknown = Reflect.get(walker, property, walker);
      if (typeof value !== "function") return value;
      if (property === "as" || property === "below") {
        return (arg: never) => ordered(value.call(walker, arg) as Walker, queues);
      }
      return (...args: unknown[]) => {
        const result = (queues.get(key) ?? Promise.resolve()).then(() => retrying(() => value.apply(walker, args)));
        // The next call waits for the end of this one, whatever it is.
        queues.set(
          key,
          result.catch(() => undefined),
        );
        return result;
      };
    },
  });
}

/** As the kernel does: a call that met a node which was deleted after its name was looked up is made once more. @see retry_estale */
async function retrying<T>(call: () => Promise<T>): Promise<T> {
  try {
    return await call();
  } catch (error) {
    if (!(error instanceof FsError && error.errno === "ESTALE")) throw error;
    return call();
  }
}

function openFlagBits(flags: number, caller: Identity): number {
  const access = flags & O.ACCMODE;
  let bits = 0;
  if (access === O.RDONLY || access === O.RDWR) bits |= OpenFlag.READ;
  if (access === O.WRONLY || access === O.RDWR) bits |= OpenFlag.WRITE;
  if (flags & O.APPEND) bits |= OpenFlag.APPEND;
  if (flags & O.EXCL) bits |= OpenFlag.EXCL;
  if ((flags & O.SYNC) === O.SYNC) bits |= OpenFlag.SYNC;
  else if (flags & O.DSYNC) bits |= OpenFlag.DSYNC;
  if (flags & O.DIRECT) bits |= OpenFlag.DIRECT;
  if (flags & O.NOATIME) bits |= OpenFlag.NOATIME;
  if (flags & O.TRUNC) bits |= OpenFlag.TRUNC | (caller.uid === 0 ? 0 : OpenFlag.KILL_SUIDGID);
  return bits;
}

class Walker extends OpenFileCalls implements Posix {
  readonly #base: string;

  constructor(fileSystem: FileSystem, files: FileTable, identity: Identity, base: string) {
    super(fileSystem, files, identity);
    this.#base = base;
  }

  as(identity: Identity): Walker {
    return new Walker(this.fileSystem, this.files, identity, this.#base);
  }

  below(path: string): Walker {
    return new Walker(this.fileSystem, this.files, this.identity, `${this.#base}${path}/`);
  }

  // --- Paths ---

  #walk(op: string): Walk {
    return new Walk(this.fileSystem, this.ctx, op);
  }

  #path(path: string): string {
    return path === "" ? "" : this.#base + path;
  }

  async #node(op: string, path: string, follow = true): Promise<Entry> {
    return this.#walk(op).node(this.#path(path), { follow });
  }

  /** The place of a new name; EEXIST if there is one. A trailing slash is right only for a directory. */
  async #newName(op: string, path: string, directory: boolean): Promise<Last> {
    const walk = this.#walk(op);
    const last = await walk.parent(this.#path(path));
    if (last.special !== undefined) throw walk.fail("EEXIST");
    if (last.name.length > NAME_BYTES_MAX) throw walk.fail("ENAMETOOLONG");
    const found = await this.#peek(last);
    if (found !== undefined) throw walk.fail("EEXIST");
    if (last.slash && !directory) throw walk.fail("ENOENT");
    return last;
  }

  async #peek(last: Last): Promise<Entry | undefined> {
    try {
      return await this.fileSystem.lookup(this.ctx, last.parent.id, last.name);
    } catch (error) {
      if (error instanceof FsError && error.errno === "ENOENT") return undefined;
      throw error;
    }
  }

  #newNode(mode: number) {
    return { mode: mode & 0o7777, umask: this.identity.umask ?? 0o022 };
  }

  // --- Opening ---

  async open(path: string, rawFlags: number, mode = 0o666): Promise<Fd> {
    const fail = (errno: ErrnoName) => new FsError(errno, "open");
    const flags = rawFlags & O.PATH ? rawFlags & (O.PATH | O.DIRECTORY | O.NOFOLLOW) : rawFlags;
    if ((flags & O.TMPFILE) === O.TMPFILE) return this.#openTmpfile(path, flags, mode);
    if ((flags & 0o20000000) !== 0) throw fail("EINVAL");
    if (flags & O.CREAT && flags & O.DIRECTORY) throw fail("EINVAL");
    const walk = this.#walk("open");
    let last = await walk.parent(this.#path(path));
    if (flags & O.CREAT && (last.slash || last.special !== undefined)) throw fail("EISDIR");
    for (;;) {
      if (last.name.length > NAME_BYTES_MAX) throw fail("ENAMETOOLONG");
      const entry = last.special === undefined ? await this.#peek(last) : await walk.finish(last, { follow: true });
      if (entry === undefined) {
        if (!(flags & O.CREAT)) throw fail("ENOENT");
        return this.#create(last, flags, mode);
      }
      if (flags & O.CREAT && flags & O.EXCL) throw fail("EEXIST");
      if (!isLink(entry) || (flags & O.NOFOLLOW && !last.slash)) {
        if (last.slash && !isDirectory(entry)) throw fail("ENOTDIR");
        return this.#openNode(entry, flags);
      }
      last = await walk.target(last, entry);
      if (flags & O.CREAT && (last.slash || last.special !== undefined)) throw fail("EISDIR");
    }
  }

  async #openTmpfile(path: string, flags: number, mode: number): Promise<Fd> {
    if ((flags & O.ACCMODE) === O.RDONLY || flags & O.CREAT) throw new FsError("EINVAL", "open");
    const parent = await this.#node("open", path);
    if (!isDirectory(parent)) throw new FsError("ENOTDIR", "open");
    const bits = openFlagBits(flags, this.identity);
    const { entry, opened } = await this.fileSystem.tmpfile(this.ctx, parent.id, bits, this.#newNode(mode));
    return this.#add(entry, flags, opened.handle);
  }

  async #create(last: Last, flags: number, mode: number): Promise<Fd> {
    const bits = openFlagBits(flags, this.identity);
    const { parent, name } = last;
    const { entry, opened } = await this.fileSystem.create(this.ctx, parent.id, name, bits, this.#newNode(mode));
    return this.#add(entry, flags, opened.handle);
  }

  async #openNode(entry: Entry, flags: number): Promise<Fd> {
    const fail = (errno: ErrnoName) => new FsError(errno, "open");
    const type = entry.attr.mode & S_IFMT;
    if (flags & O.DIRECTORY && type !== S_IFDIR) throw fail("ENOTDIR");
    if (flags & O.PATH) return this.#add(entry, flags, undefined);
    if (type === S_IFLNK) throw fail("ELOOP");
    if (type === S_IFDIR) {
      if ((flags & O.ACCMODE) !== O.RDONLY || flags & (O.CREAT | O.TRUNC)) throw fail("EISDIR");
      return this.#add(entry, flags, await this.fileSystem.opendir(this.ctx, entry.id));
    }
    if (type === S_IFSOCK) throw fail("ENXIO");
    if (type !== S_IFREG) throw new Error("devices and fifos are opened by the kernel, not by the file system");
    const bits = openFlagBits(flags, this.identity) & ~OpenFlag.EXCL;
    const opened = await this.fileSystem.open(this.ctx, entry.id, bits);
    return this.#add(entry, flags, opened.handle);
  }

  #add(entry: Entry, flags: number, handle: HandleId | undefined): Fd {
    let fd = 3;
    while (this.files.has(fd)) fd++;
    this.files.set(fd, { id: entry.id, flags, handle, mode: entry.attr.mode, positionBytes: 0 });
    return fd;
  }

  // --- Attributes ---

  async stat(path: string): Promise<Attr> {
    return (await this.#node("stat", path)).attr;
  }

  async lstat(path: string): Promise<Attr> {
    return (await this.#node("lstat", path, false)).attr;
  }

  async statfs(path: string) {
    return this.fileSystem.statfs(this.ctx, (await this.#node("statfs", path)).id);
  }

  async access(path: string, mask: number): Promise<void> {
    if (mask & ~7) throw new FsError("EINVAL", "access");
    const { id } = await this.#node("access", path);
    if (mask !== 0) await this.fileSystem.access(this.ctx, id, mask);
  }

  async chmod(path: string, mode: number): Promise<void> {
    await this.setattr((await this.#node("chmod", path)).id, { mode: mode & 0o7777 });
  }

  async chown(path: string, uid: number, gid: number): Promise<void> {
    const { id, attr } = await this.#node("chown", path);
    await this.setattr(id, this.owner(attr, uid, gid));
  }

  async lchown(path: string, uid: number, gid: number): Promise<void> {
    const { id, attr } = await this.#node("lchown", path, false);
    await this.setattr(id, this.owner(attr, uid, gid));
  }

  async truncate(path: string, sizeBytes: number): Promise<void> {
    if (sizeBytes < 0) throw new FsError("EINVAL", "truncate");
    const { id, attr } = await this.#node("truncate", path);
    const type = attr.mode & S_IFMT;
    if (type === S_IFDIR) throw new FsError("EISDIR", "truncate");
    if (type !== S_IFREG) throw new FsError("EINVAL", "truncate");
    await this.setattr(id, { sizeBytes, killSuidgid: this.identity.uid !== 0 });
  }

  async utimens(path: string, atime: SetTime, mtime: SetTime): Promise<void> {
    await this.setTimes((await this.#node("utimensat", path)).id, atime, mtime);
  }

  async lutimens(path: string, atime: SetTime, mtime: SetTime): Promise<void> {
    await this.setTimes((await this.#node("utimensat", path, false)).id, atime, mtime);
  }

  // --- Names ---

  async mkdir(path: string, mode = 0o777): Promise<void> {
    const { parent, name } = await this.#newName("mkdir", path, true);
    await this.fileSystem.mkdir(this.ctx, parent.id, name, this.#newNode(mode));
  }

  async mknod(path: string, mode: number, major = 0, minor = 0): Promise<void> {
    const type = mode & S_IFMT;
    if (type === S_IFDIR) throw new FsError("EPERM", "mknod");
    if (type === S_IFLNK) throw new FsError("EINVAL", "mknod");
    const { parent, name } = await this.#newName("mknod", path, false);
    const node = {
      mode: (type === 0 ? S_IFREG : type) | (mode & 0o7777),
      umask: this.identity.umask ?? 0o022,
      rdevMajor: type === S_IFIFO ? 0 : major,
      rdevMinor: type === S_IFIFO ? 0 : minor,
    };
    await this.fileSystem.mknod(this.ctx, parent.id, name, node);
  }

  async symlink(target: string, path: string): Promise<void> {
    if (target.length === 0) throw new FsError("ENOENT", "symlink");
    if (target.length >= 4096) throw new FsError("ENAMETOOLONG", "symlink");
    const { parent, name } = await this.#newName("symlink", path, false);
    await this.fileSystem.symlink(this.ctx, parent.id, name, Buffer.from(target, "latin1"));
  }

  async readlink(path: string): Promise<string> {
    const entry = await this.#node("readlink", path, false);
    if (!isLink(entry)) throw new FsError("EINVAL", "readlink");
    return (await this.fileSystem.readlink(this.ctx, entry.id)).toString("latin1");
  }

  async link(from: string, to: string): Promise<void> {
    const { id, attr } = await this.#node("link", from, false);
    const { parent, name } = await this.#newName("link", to, false);
    if ((attr.mode & S_IFMT) === S_IFDIR) throw new FsError("EPERM", "link");
    await this.fileSystem.link(this.ctx, id, parent.id, name);
  }

  async linkFd(fd: Fd, to: string): Promise<void> {
    const file = this.files.get(fd);
    if (file === undefined) throw new FsError("EBADF", "linkat");
    const { parent, name } = await this.#newName("linkat", to, false);
    if ((file.mode & S_IFMT) === S_IFDIR) throw new FsError("EPERM", "linkat");
    await this.fileSystem.link(this.ctx, file.id, parent.id, name);
  }

  async unlink(path: string): Promise<void> {
    const walk = this.#walk("unlink");
    const last = await walk.parent(this.#path(path));
    if (last.special !== undefined) throw walk.fail("EISDIR");
    if (last.name.length > NAME_BYTES_MAX) throw walk.fail("ENAMETOOLONG");
    if (last.slash) {
      const entry = await this.fileSystem.lookup(this.ctx, last.parent.id, last.name);
      throw walk.fail(isDirectory(entry) ? "EISDIR" : "ENOTDIR");
    }
    await this.fileSystem.unlink(this.ctx, last.parent.id, last.name);
  }

  async rmdir(path: string): Promise<void> {
    const walk = this.#walk("rmdir");
    const last = await walk.parent(this.#path(path));
    if (last.special === ".") throw walk.fail("EINVAL");
    if (last.special === "..") throw walk.fail("ENOTEMPTY");
    if (last.name.length > NAME_BYTES_MAX) throw walk.fail("ENAMETOOLONG");
    await this.fileSystem.rmdir(this.ctx, last.parent.id, last.name);
  }

  async rename(from: string, to: string, flags = 0): Promise<void> {
    const walk = this.#walk("rename");
    const { NOREPLACE, EXCHANGE, WHITEOUT } = RenameFlag;
    if (flags & ~(NOREPLACE | EXCHANGE | WHITEOUT)) throw walk.fail("EINVAL");
    if (flags & EXCHANGE && flags & (NOREPLACE | WHITEOUT)) throw walk.fail("EINVAL");
    const source = await walk.parent(this.#path(from));
    const target = await walk.parent(this.#path(to));
    if (source.special !== undefined || target.special !== undefined) {
      throw walk.fail(target.special !== undefined && flags & NOREPLACE ? "EEXIST" : "EBUSY");
    }
    for (const { name } of [source, target]) if (name.length > NAME_BYTES_MAX) throw walk.fail("ENAMETOOLONG");
    if (source.slash || target.slash) {
      const moved = await this.fileSystem.lookup(this.ctx, source.parent.id, source.name);
      if (!isDirectory(moved)) throw walk.fail("ENOTDIR");
    }
    const [a, b] = [source, target];
    await this.fileSystem.rename(this.ctx, a.parent.id, a.name, b.parent.id, b.name, flags);
  }

  // --- Extended attributes ---

  async getxattr(path: string, name: string): Promise<Buffer> {
    return this.#getxattr(await this.#node("getxattr", path), name);
  }

  async lgetxattr(path: string, name: string): Promise<Buffer> {
    return this.#getxattr(await this.#node("lgetxattr", path, false), name);
  }

  async #getxattr(entry: Entry, name: string): Promise<Buffer> {
    return this.fileSystem.getxattr(this.ctx, entry.id, this.#xattrName("getxattr", name));
  }

  #xattrName(op: string, name: string): Name {
    if (name.length === 0 || name.length > NAME_BYTES_MAX) throw new FsError("ERANGE", op);
    return name as Name;
  }

  async listxattr(path: string): Promise<string[]> {
    const names = await this.fileSystem.listxattr(this.ctx, (await this.#node("listxattr", path)).id);
    return names.toString("latin1").split("\0").slice(0, -1);
  }

  async setxattr(path: string, name: string, value: Buffer, flags = 0): Promise<void> {
    const checked = this.#xattrName("setxattr", name);
    await this.fileSystem.setxattr(this.ctx, (await this.#node("setxattr", path)).id, checked, value, flags);
  }

  async lsetxattr(path: string, name: string, value: Buffer, flags = 0): Promise<void> {
    const checked = this.#xattrName("lsetxattr", name);
    const { id } = await this.#node("lsetxattr", path, false);
    await this.fileSystem.setxattr(this.ctx, id, checked, value, flags);
  }

  async removexattr(path: string, name: string): Promise<void> {
    const checked = this.#xattrName("removexattr", name);
    await this.fileSystem.removexattr(this.ctx, (await this.#node("removexattr", path)).id, checked);
  }
}
