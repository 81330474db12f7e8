/** Locks through the cache: who has a lock sees what was written under it before, and what is written under it is seen by the next. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLog } from "../../src/base/log.ts";
import { CancelSource } from "../../src/base/signals.ts";
import { CachedFileSystem } from "../../src/cache/cached.ts";
import type { Attr } from "../../src/vfs/attr.ts";
import { type FileSystem, type HandleId, OpenFlag, type RequestContext } from "../../src/vfs/file-system.ts";
import { type Lock, type LockOwner, WHOLE_FILE } from "../../src/vfs/lock.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { attrOf, CTX, HeldFile } from "./held-file.ts";

const SECTION = 1024;
const OWNER = 7n as LockOwner;

/** A held file with locks, which are always to be had. */
class LockedFile extends HeldFile {
  override readonly setlk = async (
    _ctx: RequestContext,
    _handle: HandleId,
    { type }: Lock,
    wait: boolean,
  ): Promise<Attr> => {
    this.log.push(wait ? `${type} wait` : type);
    return attrOf(this.content.length);
  };

  override async flush(_ctx?: RequestContext, _handle?: HandleId, closer?: LockOwner): Promise<void> {
    this.log.push(`flush ${closer}`);
  }
}

function setUp() {
  const file = new LockedFile();
  const clock = new FakeClock();
  const limits = {
    attrTimeoutMs: 1000,
    sectionBytes: SECTION,
    writeBehindBytesMax: 8 * SECTION,
    readAheadBytesMax: 64 * SECTION,
  };
  const options = { ...limits, kernelReadAheadBytes: () => 0, clock, log: silentLog, lineBytes: () => 1 << 30 };
  const cached = new CachedFileSystem(file, options);
  const lock = (handle: HandleId, type: Lock["type"], wait = false, ctx = CTX) =>
    (cached.setlk as NonNullable<FileSystem["setlk"]>)(
      ctx,
      handle,
      { ...WHOLE_FILE, kind: "posix", type, owner: OWNER, pid: 1 },
      wait,
    );
  return { file, cached, lock };
}

test("a FileSystem without locks has none behind a cache either", () => {
  const { cached } = setUp();
  const options = {
    attrTimeoutMs: 1000,
    sectionBytes: SECTION,
    writeBehindBytesMax: 0,
    readAheadBytesMax: 0,
    kernelReadAheadBytes: () => 0,
  };
  const bare = new CachedFileSystem(new HeldFile(), {
    ...options,
    clock: new FakeClock(),
    log: silentLog,
    lineBytes: () => 0,
  });
  assert.equal(bare.setlk, undefined);
  assert.notEqual(cached.setlk, undefined);
});

test("what was written is on the server before a lock is given up, or changed", async () => {
  const { file, cached, lock } = setUp();
  const { handle } = await cached.open(CTX, file.id, OpenFlag.READ | OpenFlag.WRITE);
  await cached.write(CTX, handle, 0, Buffer.from("abc"));
  const unlocked = lock(handle, "unlock");
  await settle();
  assert.deepEqual(file.log, ["open", "write"]);
  await file.releaseAll();
  await unlocked;
  assert.deepEqual(file.log, ["open", "write", "unlock"]);
  assert.equal((await lock(handle, "read", true)).sizeBytes, 3);
  assert.equal(file.log.at(-1), "read wait");
});

test("what was read ahead before a lock was had is not used after", async () => {
  const { file, cached, lock } = setUp();
  file.content = Buffer.alloc(64 * SECTION, 1);
  const { handle } = await cached.open(CTX, file.id, OpenFlag.READ);
  const target = Buffer.alloc(SECTION);
  for (let at = 0; at < 4; at += 1) {
    const read = cached.read(CTX, handle, at * SECTION, target);
    await settle();
    await file.releaseAll();
    await read;
  }
  const ahead = file.log.length;
  file.content.fill(2);
  await lock(handle, "write");
  const read = cached.read(CTX, handle, 4 * SECTION, target);
  await settle();
  assert.ok(file.log.length > ahead, "it is asked for again");
  await file.releaseAll();
  await read;
  assert.equal(target[0], 2);
});

test("a close gives up its owner's locks after what he has written, also when it reports an error or does not wait", async () => {
  const { file, cached } = setUp();
  const { handle } = await cached.open(CTX, file.id, OpenFlag.READ | OpenFlag.WRITE);
  await cached.write(CTX, handle, 0, Buffer.from("abc"));
  const closed = cached.flush(CTX, handle, OWNER);
  await settle();
  file.held[0]?.go("ENOSPC");
  await assert.rejects(closed, /ENOSPC/);
  assert.deepEqual(file.log, ["open", "write", "flush 7"]);
  await cached.write(CTX, handle, 0, Buffer.from("abc"));
  const signal = new CancelSource();
  const interrupted = cached.flush({ ...CTX, signal }, handle, OWNER);
  await settle();
  signal.abort();
  await assert.rejects(interrupted);
  assert.deepEqual(file.log.slice(3), ["write"]);
  await file.releaseAll();
  await settle();
  assert.deepEqual(file.log.slice(3), ["write", "flush 7"]);
});
