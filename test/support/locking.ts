/** Locks of one client of a server in memory, and what became of what was asked for. */
import assert from "node:assert/strict";
import type { CancelSource } from "../../src/base/signals.ts";
import type { Remote } from "../../src/client/remote.ts";
import type { Attr } from "../../src/vfs/attr.ts";
import { type FileSystem, type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { LOCK_END, type Lock, type LockKind, type LockOwner } from "../../src/vfs/lock.ts";
import { ctx, named } from "./link-drive.ts";

const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;

export function lock(type: Lock["type"], start = 0, end = -1, owner = 1, kind: LockKind = "posix"): Lock {
  const endBytes = end < 0 ? LOCK_END : BigInt(end);
  return { kind, type, startBytes: BigInt(start), endBytes, owner: BigInt(owner) as LockOwner, pid: 100 + owner };
}

/** One client's file: locks it through one open. */
export interface Locking {
  readonly fileSystem: FileSystem;
  readonly id: NodeId;
  readonly handle: HandleId;
  setlk(wish: Lock, wait?: boolean, signal?: CancelSource): Promise<Attr>;
  /** What somebody else's lock in a range is, as "type start-end". */
  find(wish: Lock): Promise<string | undefined>;
}

export async function open({ fileSystem }: Remote, id?: NodeId): Promise<Locking> {
  const root = await fileSystem.root(ctx);
  const found =
    id ?? (await fileSystem.create(ctx, root.id, named("f"), READ_WRITE, { mode: 0o644, umask: 0 })).entry.id;
  const { handle } = await fileSystem.open(ctx, found, READ_WRITE);
  assert.ok(fileSystem.setlk !== undefined && fileSystem.getlk !== undefined);
  const { setlk, getlk } = fileSystem;
  return {
    fileSystem,
    id: found,
    handle,
    setlk: (wish, wait = false, signal) =>
      setlk.call(fileSystem, signal === undefined ? ctx : { ...ctx, signal }, handle, wish, wait),
    async find(wish) {
      const other = await getlk.call(fileSystem, ctx, handle, wish);
      return other && `${other.type} ${other.startBytes}-${other.endBytes === LOCK_END ? "" : other.endBytes}`;
    },
  };
}

/** What has become of a request by now. */
export function outcome(promise: Promise<unknown>): { value: "pending" | "locked" | Error } {
  const seen: { value: "pending" | "locked" | Error } = { value: "pending" };
  promise.then(
    () => {
      seen.value = "locked";
    },
    (error: Error) => {
      seen.value = error;
    },
  );
  return seen;
}
