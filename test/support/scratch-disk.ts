/**
 * A disk over a temporary directory, and what tests of it need at hand.
 *
 * Leaving its scope closes it and checks that no descriptor below the directory is left open in this process.
 */
import assert from "node:assert/strict";
import { chmodSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import type { ErrnoName } from "../../src/base/errno.ts";
import { FsError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import { type Name, nameFromText } from "../../src/base/name.ts";
import { createDisk, type Disk, type DiskOptions } from "../../src/disk/disk.ts";
import type { HandleId, NewNode, NodeId, RequestContext } from "../../src/vfs/file-system.ts";
import { OpenFlag } from "../../src/vfs/file-system.ts";
import { makeTemp } from "./temp.ts";

/** A request of this user; `groups` are the supplementary ones. */
export function as(uid: number, gid = uid, groups: readonly number[] = []): RequestContext {
  return { caller: { uid, gid, groups, pid: 0 } };
}

export const asRoot = as(0);
export const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;

/** Permission bits for a new node, with no umask. */
export function mode(bits: number, umask = 0): NewNode {
  return { mode: bits, umask };
}

export async function refused(errno: ErrnoName, promise: Promise<unknown>): Promise<void> {
  await assert.rejects(promise, (error) => {
    assert.ok(error instanceof FsError, String(error));
    assert.equal(error.errno, errno);
    return true;
  });
}

export interface ScratchDisk extends AsyncDisposable {
  readonly path: string;
  readonly disk: Disk;
  readonly root: NodeId;
  /** The path of a name below the directory, for looking at it beside the disk. */
  at(...names: string[]): string;
  /** Makes a file with this content as root and releases it. */
  file(name: string, content?: string | Buffer, bits?: number): Promise<NodeId>;
  directory(name: string, bits?: number): Promise<NodeId>;
  /** The whole of an open file. */
  content(handle: HandleId): Promise<Buffer>;
}

/** Makes one that everybody may write to. */
export async function scratchDisk(options: Partial<Omit<DiskOptions, "directory">> = {}): Promise<ScratchDisk> {
  const temp = makeTemp("disk");
  chmodSync(temp.path, 0o777);
  const disk = await createDisk({ directory: temp.path, applyCredentials: true, log: silentLog, ...options });
  const root = (await disk.root(asRoot)).id;
  return {
    path: temp.path,
    disk,
    root,
    at: (...names) => join(temp.path, ...names),
    async file(name, content = "", bits = 0o644) {
      const { entry, opened } = await disk.create(asRoot, root, n(name), READ_WRITE | OpenFlag.TRUNC, mode(bits));
      if (content.length > 0) await disk.write(asRoot, opened.handle, 0, Buffer.from(content));
      await disk.release(asRoot, opened.handle);
      return entry.id;
    },
    async directory(name, bits = 0o755) {
      return (await disk.mkdir(asRoot, root, n(name), mode(bits))).id;
    },
    async content(handle) {
      const { sizeBytes } = await disk.getattr(asRoot, root, handle);
      const target = Buffer.alloc(sizeBytes);
      return target.subarray(0, await disk.read(asRoot, handle, 0, target));
    },
    async [Symbol.asyncDispose]() {
      await disk.close();
      assert.deepEqual(descriptorsBelow(temp.path), []);
      await temp.remove();
    },
  };
}

/** A name from text. */
export function n(text: string): Name {
  return nameFromText(text);
}

/** What this process's descriptors below `directory` point to. */
export function descriptorsBelow(directory: string): string[] {
  const links = readdirSync("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      // The listing's own descriptor is closed by now.
      return "";
    }
  });
  return links.filter((link) => link === directory || link.startsWith(`${directory}/`));
}
