/**
 * The calls of `walker.ts` that work on open files: what the kernel keeps for a descriptor, and checks before it asks a file system.
 */
import type { ErrnoName } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import { type Attr, S_IFDIR, S_IFMT, S_IFREG } from "../../src/vfs/attr.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import type { AttrChange, FileSystem, HandleId, NodeId, RequestContext } from "../../src/vfs/file-system.ts";
import { type DirectoryEntry, type Fd, type Identity, O, Seek, type SetTime } from "./posix.ts";

/** An open file description. */
export interface OpenFile {
  id: NodeId;
  flags: number;
  /** Absent for O_PATH. */
  handle: HandleId | undefined;
  mode: number;
  positionBytes: number;
}

/** The descriptors of all identities of one walker. */
export type FileTable = Map<Fd, OpenFile>;

const SIZE_BYTES_MAX = 2 ** 63;
const ONE_READ_BYTES_MAX = 1 << 20;

/** One identity's calls by descriptor. */
export abstract class OpenFileCalls {
  readonly identity: Identity;
  protected readonly fileSystem: FileSystem;
  protected readonly files: FileTable;
  protected readonly ctx: RequestContext;

  constructor(fileSystem: FileSystem, files: FileTable, identity: Identity) {
    this.identity = identity;
    this.fileSystem = fileSystem;
    this.files = files;
    const { uid, gid, groups = [] } = identity;
    this.ctx = { caller: { uid, gid, groups, pid: process.pid } };
  }

  async close(fd: Fd): Promise<void> {
    const file = this.files.get(fd);
    if (file === undefined) throw new FsError("EBADF", "close");
    this.files.delete(fd);
    if (file.handle === undefined) return;
    if ((file.mode & S_IFMT) === S_IFDIR) return this.fileSystem.releasedir(this.ctx, file.handle);
    try {
      await this.fileSystem.flush(this.ctx, file.handle);
    } finally {
      await this.fileSystem.release(this.ctx, file.handle);
    }
  }

  // --- Open files ---

  protected file(op: string, fd: Fd, need?: "read" | "write"): OpenFile & { handle: HandleId } {
    const file = this.files.get(fd);
    if (file?.handle === undefined) throw new FsError("EBADF", op);
    const access = file.flags & O.ACCMODE;
    if ((need === "read" && access === O.WRONLY) || (need === "write" && access === O.RDONLY)) {
      throw new FsError("EBADF", op);
    }
    return file as OpenFile & { handle: HandleId };
  }

  #regular(op: string, fd: Fd, need: "read" | "write"): OpenFile & { handle: HandleId } {
    const file = this.file(op, fd, need);
    if ((file.mode & S_IFMT) === S_IFDIR) throw new FsError("EISDIR", op);
    return file;
  }

  async read(fd: Fd, lengthBytes: number): Promise<Buffer> {
    const file = this.#regular("read", fd, "read");
    const data = await this.pread(fd, lengthBytes, file.positionBytes);
    file.positionBytes += data.length;
    return data;
  }

  async write(fd: Fd, data: Buffer): Promise<number> {
    const file = this.#regular("write", fd, "write");
    const written = await this.pwrite(fd, data, file.positionBytes);
    if (file.flags & O.APPEND) file.positionBytes = (await this.fstat(fd)).sizeBytes;
    else file.positionBytes += written;
    return written;
  }

  async pread(fd: Fd, lengthBytes: number, offsetBytes: number): Promise<Buffer> {
    const file = this.#regular("pread", fd, "read");
    if (offsetBytes < 0) throw new FsError("EINVAL", "pread");
    const data = Buffer.alloc(lengthBytes);
    let done = 0;
    while (done < lengthBytes) {
      const part = data.subarray(done, done + ONE_READ_BYTES_MAX);
      const count = await this.fileSystem.read(this.ctx, file.handle, offsetBytes + done, part);
      done += count;
      if (count < part.length) break;
    }
    return data.subarray(0, done);
  }

  async pwrite(fd: Fd, data: Buffer, offsetBytes: number): Promise<number> {
    const file = this.#regular("pwrite", fd, "write");
    if (offsetBytes < 0) throw new FsError("EINVAL", "pwrite");
    if (data.length === 0) return 0;
    const options = { killSuidgid: this.identity.uid !== 0 };
    let done = 0;
    while (done < data.length) {
      const part = data.subarray(done, done + ONE_READ_BYTES_MAX);
      const count = await this.fileSystem.write(this.ctx, file.handle, offsetBytes + done, part, options);
      done += count;
      if (count < part.length) break;
    }
    return done;
  }

  async lseek(fd: Fd, offsetBytes: number, whence: number): Promise<number> {
    const file = this.file("lseek", fd);
    let target = offsetBytes;
    if (whence === Seek.CUR) target += file.positionBytes;
    else if (whence === Seek.END) target += (await this.fstat(fd)).sizeBytes;
    else if (whence === Seek.DATA || whence === Seek.HOLE) {
      const kind = whence === Seek.DATA ? "data" : "hole";
      if (offsetBytes < 0) throw new FsError("ENXIO", "lseek");
      target = await this.fileSystem.lseek(this.ctx, file.handle, offsetBytes, kind);
    } else if (whence !== Seek.SET) throw new FsError("EINVAL", "lseek");
    if (target < 0) throw new FsError("EINVAL", "lseek");
    file.positionBytes = target;
    return target;
  }

  async fsync(fd: Fd): Promise<void> {
    return this.#sync(fd, false);
  }

  async fdatasync(fd: Fd): Promise<void> {
    return this.#sync(fd, true);
  }

  async #sync(fd: Fd, dataOnly: boolean): Promise<void> {
    const file = this.file("fsync", fd);
    if ((file.mode & S_IFMT) === S_IFDIR) return this.fileSystem.fsyncdir(this.ctx, file.handle, dataOnly);
    return this.fileSystem.fsync(this.ctx, file.handle, dataOnly);
  }

  async ftruncate(fd: Fd, sizeBytes: number): Promise<void> {
    const file = this.file("ftruncate", fd);
    const readOnly = (file.flags & O.ACCMODE) === O.RDONLY;
    if (sizeBytes < 0 || readOnly || (file.mode & S_IFMT) !== S_IFREG) throw new FsError("EINVAL", "ftruncate");
    await this.setattr(file.id, { sizeBytes, killSuidgid: this.identity.uid !== 0 }, file.handle);
  }

  async fallocate(fd: Fd, mode: number, offsetBytes: number, lengthBytes: number): Promise<void> {
    if (offsetBytes < 0 || lengthBytes <= 0) throw new FsError("EINVAL", "fallocate");
    const file = this.file("fallocate", fd, "write");
    if (offsetBytes + lengthBytes > SIZE_BYTES_MAX) throw new FsError("EFBIG", "fallocate");
    await this.fileSystem.fallocate(this.ctx, file.handle, mode, offsetBytes, lengthBytes);
  }

  async copyFileRange(
    from: { fd: Fd; offsetBytes: number },
    to: { fd: Fd; offsetBytes: number },
    lengthBytes: number,
  ): Promise<number> {
    const fail = (errno: ErrnoName) => new FsError(errno, "copy_file_range");
    const [source, target] = [this.files.get(from.fd), this.files.get(to.fd)];
    if (source?.handle === undefined || target?.handle === undefined) throw fail("EBADF");
    for (const file of [source, target]) {
      if ((file.mode & S_IFMT) === S_IFDIR) throw fail("EISDIR");
    }
    if ((source.flags & O.ACCMODE) === O.WRONLY || (target.flags & O.ACCMODE) === O.RDONLY) throw fail("EBADF");
    if (target.flags & O.APPEND) throw fail("EBADF");
    return this.fileSystem.copyFileRange(
      this.ctx,
      { handle: source.handle, offsetBytes: from.offsetBytes },
      { handle: target.handle, offsetBytes: to.offsetBytes },
      lengthBytes,
    );
  }

  async getdents(fd: Fd, cookie: bigint, maxBytes: number): Promise<DirectoryEntry[]> {
    const file = this.file("getdents", fd);
    if ((file.mode & S_IFMT) !== S_IFDIR) throw new FsError("ENOTDIR", "getdents");
    const page = await this.fileSystem.readdir(this.ctx, file.handle, cookie, maxBytes, true);
    return [...decodeDirents(page)].map((dirent) => ({
      name: dirent.name,
      type: dirent.type,
      cookie: dirent.cookie,
      ino: (BigInt(dirent.inoHigh) << 32n) | BigInt(dirent.inoLow),
    }));
  }

  async fstat(fd: Fd): Promise<Attr> {
    const file = this.files.get(fd);
    if (file === undefined) throw new FsError("EBADF", "fstat");
    return this.fileSystem.getattr(this.ctx, file.id, file.handle);
  }

  protected async setattr(id: NodeId, change: AttrChange, handle?: HandleId): Promise<void> {
    await this.fileSystem.setattr(this.ctx, id, change, handle);
  }

  async fchmod(fd: Fd, mode: number): Promise<void> {
    const file = this.file("fchmod", fd);
    await this.setattr(file.id, { mode: mode & 0o7777 }, file.handle);
  }

  protected owner(entry: { mode: number }, uid: number, gid: number): AttrChange {
    const change: AttrChange = { killSuidgid: (entry.mode & S_IFMT) !== S_IFDIR };
    if (uid !== -1) change.uid = uid;
    if (gid !== -1) change.gid = gid;
    return change;
  }

  async fchown(fd: Fd, uid: number, gid: number): Promise<void> {
    const file = this.file("fchown", fd);
    await this.setattr(file.id, this.owner(file, uid, gid), file.handle);
  }

  protected async setTimes(id: NodeId, atime: SetTime, mtime: SetTime, handle?: HandleId): Promise<void> {
    for (const time of [atime, mtime]) {
      if (typeof time === "object" && (time.nsec < 0 || time.nsec > 999_999_999)) {
        throw new FsError("EINVAL", "utimensat");
      }
    }
    const change: AttrChange = {};
    if (atime !== "omit") change.atime = atime;
    if (mtime !== "omit") change.mtime = mtime;
    if (atime === "omit" && mtime === "omit") return;
    await this.setattr(id, change, handle);
  }

  async futimens(fd: Fd, atime: SetTime, mtime: SetTime): Promise<void> {
    const file = this.file("futimens", fd);
    await this.setTimes(file.id, atime, mtime, file.handle);
  }
}
