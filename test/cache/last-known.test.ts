/** What is answered while the server is away, and what waits. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { LastKnownFileSystem } from "../../src/cache/last-known.ts";
import { OpenFlag, RenameFlag, RequestPriority } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, named } from "../support/link-drive.ts";
import { type ReturningDrive, returningDrive } from "../support/returning-drive.ts";

const FOLDER = { mode: 0o755, umask: 0 };
const FILE = { mode: 0o100644, umask: 0 };
const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;

async function known(): Promise<{ drive: ReturningDrive; fs: LastKnownFileSystem }> {
  const drive = await returningDrive();
  return { drive, fs: new LastKnownFileSystem(drive.remote.fileSystem, drive.clock) };
}

async function leave(drive: ReturningDrive): Promise<void> {
  drive.isDown = true;
  await drive.cut();
}

/** Whether a promise is still open. */
async function isWaiting(promise: Promise<unknown>): Promise<boolean> {
  let isOpen = true;
  promise.then(
    () => {
      isOpen = false;
    },
    () => {
      isOpen = false;
    },
  );
  await settle();
  return isOpen;
}

test("names, attributes, permissions and space are answered as last known, and the rest waits", async () => {
  const { drive, fs } = await known();
  const root = await fs.root(ctx);
  const folder = await fs.mkdir(ctx, root.id, named("d"), FOLDER);
  await fs.lookup(ctx, root.id, named("d"));
  const space = await fs.statfs(ctx, root.id);
  await fs.access(ctx, folder.id, 5);
  await leave(drive);
  assert.equal((await fs.root(ctx)).id, root.id);
  assert.equal((await fs.lookup(ctx, root.id, named("d"))).id, folder.id);
  assert.deepEqual(await fs.getattr(ctx, folder.id), (await fs.lookup(ctx, root.id, named("d"))).attr);
  assert.deepEqual(await fs.statfs(ctx, root.id), space);
  await fs.access(ctx, folder.id, 5);
  const waiting = [
    fs.lookup(ctx, root.id, named("other")),
    fs.access(ctx, folder.id, 2),
    fs.mkdir(ctx, root.id, named("e"), FOLDER),
  ];
  for (const each of waiting) assert.equal(await isWaiting(each), true);
  drive.isDown = false;
  await drive.pass(2000, () => drive.remote.state === "connected");
  await assert.rejects(waiting[0] as Promise<unknown>, { errno: "ENOENT" });
  await Promise.all(waiting.slice(1));
  await fs.close();
});

test("a permission is not known any more when this mount has changed what it depends on", async () => {
  const { drive, fs } = await known();
  const root = await fs.root(ctx);
  const folder = await fs.mkdir(ctx, root.id, named("d"), FOLDER);
  await fs.access(ctx, folder.id, 5);
  await fs.setattr(ctx, folder.id, { mode: 0o000 });
  await leave(drive);
  assert.equal(await isWaiting(fs.access(ctx, folder.id, 5)), true);
  await fs.close();
});

test("a question under way when the server goes is answered from what is known", async () => {
  const { drive, fs } = await known();
  const root = await fs.root(ctx);
  const asking = fs.getattr(ctx, root.id);
  await leave(drive);
  assert.equal((await asking).mode, root.attr.mode);
  await fs.close();
});

test("what this mount has changed is known so", async () => {
  const { drive, fs } = await known();
  const root = await fs.root(ctx);
  for (const name of ["a", "b", "c"]) await fs.mkdir(ctx, root.id, named(name), FOLDER);
  const { id } = await fs.lookup(ctx, root.id, named("a"));
  await fs.rename(ctx, root.id, named("a"), root.id, named("z"), 0);
  await fs.rmdir(ctx, root.id, named("b"));
  await fs.setattr(ctx, id, { mode: 0o700 });
  await leave(drive);
  const moved = await fs.lookup(ctx, root.id, named("z"));
  assert.deepEqual([moved.id, moved.attr.mode & 0o777], [id, 0o700]);
  for (const name of ["a", "b"]) {
    const asking = fs.lookup(ctx, root.id, named(name));
    assert.equal(await isWaiting(asking), true, name);
    asking.catch(() => {});
  }
  await fs.close();
});

test("attributes of before a write, and of a directory before a name was made in it, are not known any more", async () => {
  const { drive, fs } = await known();
  const root = await fs.root(ctx);
  const { id: folder } = await fs.mkdir(ctx, root.id, named("d"), FOLDER);
  const file = { mode: 0o644, umask: 0 };
  const { entry, opened } = await fs.create(ctx, folder, named("f"), OpenFlag.READ | OpenFlag.WRITE, file);
  await fs.getattr(ctx, entry.id);
  const asking = fs.getattr(ctx, entry.id);
  const writing = fs.write(ctx, opened.handle, 0, Buffer.from("abc"));
  assert.equal((await asking).sizeBytes, 0);
  await writing;
  await leave(drive);
  const waiting = [fs.getattr(ctx, entry.id), fs.lookup(ctx, folder, named("f")), fs.getattr(ctx, folder)];
  for (const each of waiting) assert.equal(await isWaiting(each), true);
  drive.isDown = false;
  await drive.pass(2000, () => drive.remote.state === "connected");
  assert.equal(((await waiting[0]) as { sizeBytes: number }).sizeBytes, 3);
  await Promise.all(waiting);
  await leave(drive);
  assert.equal((await fs.getattr(ctx, entry.id)).sizeBytes, 3);
  await fs.close();
});

test("attributes of before a change by others are not known any more", async () => {
  const { drive, fs } = await known();
  const root = await fs.root(ctx);
  const folder = await fs.mkdir(ctx, root.id, named("d"), FOLDER);
  fs.changedByOthers(folder.id);
  await leave(drive);
  assert.equal(await isWaiting(fs.getattr(ctx, folder.id)), true);
  await fs.close();
});

test("an error of the server is no absence", async () => {
  const { fs } = await known();
  const root = await fs.root(ctx);
  await assert.rejects(fs.lookup(ctx, root.id, named("none")), (error) => error instanceof FsError);
  await fs.close();
});

test("attributes that follow writes are the server's, behind the writes, also when others are known", async () => {
  const { drive, fs } = await known();
  const root = await fs.root(ctx);
  const node = { mode: 0o644, umask: 0 };
  const { entry, opened } = await fs.create(ctx, root.id, named("f"), OpenFlag.READ | OpenFlag.WRITE, node);
  const behind = { ...ctx, priority: RequestPriority.WRITE_BEHIND };
  const writing = fs.write(behind, opened.handle, 0, Buffer.alloc(1000));
  const asking = fs.getattr({ ...behind, followsWrites: true }, entry.id);
  assert.equal((await asking).sizeBytes, 1000);
  await writing;
  await leave(drive);
  const away = fs.getattr({ ...behind, followsWrites: true }, entry.id);
  assert.equal(await isWaiting(away), true);
  drive.isDown = false;
  await drive.pass(2000, () => drive.remote.state === "connected");
  assert.equal((await away).sizeBytes, 1000);
  await fs.close();
});

/** A drive whose files are opened with leases, with all that its client asks the server for. */
async function leased(): Promise<{ drive: ReturningDrive; gate: GatedFs; fs: LastKnownFileSystem; asked(): number }> {
  const gate = new GatedFs(new MemoryFs());
  const drive = await returningDrive({ fileSystem: gate.fileSystem, client: { leases: true, ioChannels: 0 } });
  const fs = new LastKnownFileSystem(drive.remote.fileSystem, drive.clock);
  return { drive, gate, fs, asked: () => gate.calls.filter((name) => name === "getattr").length };
}

test("attributes of a file that is open with a lease are asked for once after each change, and no more after it is closed", async () => {
  const { drive, fs, asked } = await leased();
  const root = await fs.root(ctx);
  const { entry, opened } = await fs.create(ctx, root.id, named("f"), READ_WRITE, FILE);
  const before = asked();
  const look = async (size: number, count: number) => {
    for (let at = 0; at < 3; at += 1) assert.equal((await fs.getattr(ctx, entry.id)).sizeBytes, size);
    assert.equal(asked() - before, count);
  };
  await look(0, 0);
  await fs.write(ctx, opened.handle, 0, Buffer.from("12345"));
  await look(5, 1);
  assert.equal((await fs.setattr(ctx, entry.id, { sizeBytes: 3 })).sizeBytes, 3);
  await look(3, 1);
  fs.changedByOthers(entry.id);
  await look(3, 2);
  const again = await fs.open(ctx, entry.id, OpenFlag.READ);
  await look(3, 2);
  await fs.fsync(ctx, opened.handle, false);
  await look(3, 3);
  await fs.release(ctx, opened.handle);
  await look(3, 3);
  await fs.release(ctx, again.handle);
  await fs.getattr(ctx, entry.id);
  await look(3, 7);
  await fs.close();
  assert.equal(drive.remote.state, "over");
});

test("attributes are asked for again when the lease is over, and those asked for before it are not believed", async () => {
  const { drive, gate, fs, asked } = await leased();
  const root = await fs.root(ctx);
  const { entry, opened } = await fs.create(ctx, root.id, named("f"), READ_WRITE, FILE);
  fs.leaseLost(entry.id);
  const before = asked();
  for (let at = 0; at < 2; at += 1) await fs.getattr(ctx, entry.id);
  assert.equal(asked() - before, 2);
  gate.gates.add("getattr");
  const looking = fs.getattr(ctx, entry.id);
  await gate.holding(1);
  const again = await fs.open(ctx, entry.id, OpenFlag.READ);
  gate.held[0]?.answer({ ...entry.attr, sizeBytes: 99 });
  assert.equal((await looking).sizeBytes, 99);
  assert.equal((await fs.getattr(ctx, entry.id)).sizeBytes, 0);
  gate.gates.clear();
  for (const { handle } of [opened, again]) await fs.release(ctx, handle);
  await fs.close();
  assert.equal(drive.remote.state, "over");
});

test("a lease that is asked back in the same breath as it is given with an open is not believed, and a later one is", async () => {
  for (const name of ["open", "create"]) {
    const memory = new MemoryFs();
    const gate = new GatedFs(memory);
    const fs = new LastKnownFileSystem(gate.fileSystem, new FakeClock());
    const { id: root } = await fs.root(ctx);
    const { entry, opened } = await memory.create(ctx, root, named("f"), READ_WRITE, FILE);
    const asks = async () => {
      const before = gate.calls.length;
      for (let at = 0; at < 3; at += 1) await fs.getattr(ctx, entry.id);
      return gate.calls.length - before;
    };
    gate.gates.add(name);
    const leased = { ...opened, lease: Lease.READ };
    const opening =
      name === "open" ? fs.open(ctx, entry.id, OpenFlag.READ) : fs.create(ctx, root, named("g"), READ_WRITE, FILE);
    gate.held[0]?.answer(name === "open" ? leased : { entry, opened: leased });
    fs.leaseLost(entry.id);
    await opening;
    assert.equal(await asks(), 3, name);
    gate.gates.add("open");
    const again = fs.open(ctx, entry.id, OpenFlag.READ);
    gate.held[0]?.answer({ ...leased, handle: 77 });
    await again;
    assert.equal(await asks(), 0, name);
    await fs.close();
  }
});

test("a file that is open with a lease has as many names as this mount leaves it, whether it knew them or not", async () => {
  const { gate, fs, asked } = await leased();
  const root = await fs.root(ctx);
  const made = await gate.fileSystem.create(ctx, root.id, named("a"), READ_WRITE, FILE);
  for (const name of ["b", "c"]) await gate.fileSystem.link(ctx, made.entry.id, root.id, named(name));
  const { id } = await fs.lookup(ctx, root.id, named("a"));
  const { handle } = await fs.open(ctx, id, OpenFlag.READ);
  const { opened } = await fs.create(ctx, root.id, named("f"), READ_WRITE, FILE);
  const look = async (count: number) => {
    assert.equal((await fs.getattr(ctx, id)).nlink, count);
    const before = asked();
    assert.equal((await fs.getattr(ctx, id)).nlink, count);
    assert.equal(asked(), before, "it is known again");
  };
  await look(3);
  const linked = await fs.link(ctx, id, root.id, named("d"));
  assert.equal((await fs.getattr(ctx, id)).ctimeNsec, linked.attr.ctimeNsec);
  await look(4);
  await fs.unlink(ctx, root.id, named("b"));
  await look(3);
  await fs.rename(ctx, root.id, named("f"), root.id, named("c"), 0);
  await look(2);
  for (const each of [handle, opened.handle]) await fs.release(ctx, each);
  await fs.close();
});

test("a file that gets a name nobody had leaves what is known of others, and so does a directory that goes", async () => {
  const { gate, fs, asked } = await leased();
  const root = await fs.root(ctx);
  await gate.fileSystem.create(ctx, root.id, named("a"), READ_WRITE, FILE);
  await gate.fileSystem.mkdir(ctx, root.id, named("d"), { mode: 0o755, umask: 0 });
  const { id } = await fs.lookup(ctx, root.id, named("a"));
  const { handle } = await fs.open(ctx, id, OpenFlag.READ);
  const { opened } = await fs.create(ctx, root.id, named("new"), READ_WRITE, FILE);
  const look = async () => {
    const before = asked();
    await fs.getattr(ctx, id);
    return asked() - before;
  };
  // As the kernel does it.
  await assert.rejects(fs.lookup(ctx, root.id, named("b")));
  await fs.rename(ctx, root.id, named("new"), root.id, named("b"), 0);
  assert.equal(await look(), 0);
  await fs.rename(ctx, root.id, named("b"), root.id, named("c"), RenameFlag.NOREPLACE);
  assert.equal(await look(), 0);
  await fs.rmdir(ctx, root.id, named("d"));
  assert.equal(await look(), 0);
  await fs.rename(ctx, root.id, named("c"), root.id, named("e"), 0);
  assert.equal(await look(), 1, "a name that nobody looked for may have been this file's");
  for (const each of [handle, opened.handle]) await fs.release(ctx, each);
  await fs.close();
});

test("attributes that were asked for before a name was taken away are not believed after it", async () => {
  const { gate, fs } = await leased();
  const root = await fs.root(ctx);
  const made = await gate.fileSystem.create(ctx, root.id, named("a"), READ_WRITE, FILE);
  await gate.fileSystem.link(ctx, made.entry.id, root.id, named("b"));
  const { id, attr } = await fs.lookup(ctx, root.id, named("a"));
  const { handle } = await fs.open(ctx, id, OpenFlag.READ);
  fs.changedByOthers(id);
  gate.gates.add("getattr");
  const looking = fs.getattr(ctx, id);
  await gate.holding(1);
  gate.gates.clear();
  await fs.unlink(ctx, root.id, named("b"));
  gate.held[0]?.answer(attr);
  assert.equal((await looking).nlink, 2);
  assert.equal((await fs.getattr(ctx, id)).nlink, 1);
  await fs.release(ctx, handle);
  await fs.close();
});
