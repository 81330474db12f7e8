/** Holders of one open hear of what others change through it: once, before the one who changed it has his answer, and also when the notice was lost. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Remote } from "../../src/client/remote.ts";
import { ToldChanges } from "../../src/server/told-changes.ts";
import { type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { ctx, type LinkDrive, linkDrive, named } from "../support/link-drive.ts";
import { returningDrive } from "../support/returning-drive.ts";

const { READ, WRITE } = OpenFlag;
const NODE = "file" as NodeId;

/** What a client is told from now on. */
function toldTo(remote: Remote): NodeId[] {
  const told: NodeId[] = [];
  remote.events = {
    changed: () => assert.fail("nobody was away"),
    changedThroughOpen: (node) => told.push(node),
    gone: () => assert.fail("an open was lost"),
  };
  return told;
}

async function open(remote: Remote, name = "f"): Promise<{ id: NodeId; handle: HandleId }> {
  const { id: parent } = await remote.fileSystem.root(ctx);
  const flags = READ | WRITE;
  const made = await remote.fileSystem.create(ctx, parent, named(name), flags, { mode: 0o100600, umask: 0 });
  return { id: made.entry.id, handle: made.opened.handle };
}

/** A further client with a handle of that open. */
async function attached(drive: LinkDrive, owner: Remote, handle: HandleId) {
  const { remote } = await drive.connect();
  const open = await remote.attach(ctx, await owner.ticketFor(ctx, handle));
  return { remote, handle: open.handle, told: toldTo(remote) };
}

test("who holds an open is told once of many writes by another holder, before they are answered, and nobody else is", async () => {
  const drive = linkDrive();
  const { remote: owner } = await drive.connect();
  const { id, handle } = await open(owner);
  const other = await attached(drive, owner, handle);
  const third = await attached(drive, owner, handle);
  const { remote: stranger } = await drive.connect();
  await open(stranger);
  const [told, toldStranger] = [toldTo(owner), toldTo(stranger)];
  await other.remote.fileSystem.write(ctx, other.handle, 0, Buffer.from("a"));
  await settle();
  assert.deepEqual([told, third.told], [[id], [id]]);
  for (let at = 1; at < 50; at += 1) await other.remote.fileSystem.write(ctx, other.handle, at, Buffer.from("a"));
  await other.remote.fileSystem.fsync(ctx, other.handle, false);
  await settle();
  assert.deepEqual([told, third.told], [[id], [id]], "they have asked for nothing since");
  await owner.fileSystem.read(ctx, handle, 0, Buffer.alloc(10));
  await other.remote.fileSystem.write(ctx, other.handle, 0, Buffer.from("b"));
  await settle();
  assert.deepEqual([told, third.told], [[id, id], [id]], "one has read meanwhile");
  assert.deepEqual([other.told, toldStranger], [[], []]);
  await Promise.all([owner, stranger, other.remote, third.remote].map((remote) => remote.close()));
});

test("whatever changes the data through a shared open is told", async () => {
  const drive = linkDrive();
  const { remote: owner } = await drive.connect();
  const { id, handle } = await open(owner);
  const { remote, handle: there, told } = await attached(drive, owner, handle);
  const { fileSystem } = owner;
  const source = await open(owner, "source");
  await fileSystem.write(ctx, source.handle, 0, Buffer.from("source"));
  await settle();
  assert.deepEqual(told, [], "that open is nobody else's");
  const changes = [
    () => fileSystem.write(ctx, handle, 0, Buffer.from("x")),
    () => fileSystem.setattr(ctx, id, { sizeBytes: 3 }, handle),
    () => fileSystem.fallocate(ctx, handle, 0, 0, 100),
    () => fileSystem.copyFileRange(ctx, { handle: source.handle, offsetBytes: 0 }, { handle, offsetBytes: 0 }, 6),
  ];
  for (const [index, change] of changes.entries()) {
    await remote.fileSystem.read(ctx, there, 0, Buffer.alloc(10));
    await change();
    await settle();
    assert.equal(told.length, index + 1);
  }
  await fileSystem.setattr(ctx, id, { mode: 0o644 }, handle);
  await remote.close();
  await settle();
  await fileSystem.write(ctx, handle, 0, Buffer.from("y"));
  assert.equal(told.length, changes.length);
  await owner.close();
});

test("a notice that was lost with its connection comes on the next one", async () => {
  const drive = await returningDrive({ fileSystem: new MemoryFs(), client: { ioChannels: 0 } });
  const { remote: owner } = drive;
  const { id, handle } = await open(owner);
  const other = await attached(drive, owner, handle);
  const told: NodeId[] = [];
  owner.events = { changed: () => {}, changedThroughOpen: (node) => told.push(node), gone: () => assert.fail() };
  const [control] = drive.connections;
  if (control !== undefined) control.server.faults.isStalled = true;
  await other.remote.fileSystem.write(ctx, other.handle, 0, Buffer.from("x"));
  await settle();
  assert.deepEqual(told, []);
  control?.client.destroy();
  await drive.pass(5000, () => owner.state === "connected" && told.length > 0);
  assert.deepEqual(told, [id]);
  await Promise.all([owner.close(), other.remote.close()]);
});

test("a client that does not answer is sent a bounded number of notices, and one more when it does", () => {
  const sent: NodeId[] = [];
  const told = new ToldChanges((node) => sent.push(node));
  for (let at = 0; at < 100; at += 1) {
    told.changed(NODE);
    told.asked();
  }
  assert.equal(sent.length, 4);
  told.taken(NODE);
  assert.equal(sent.length, 5);
  for (let at = 0; at < 10; at += 1) told.taken(NODE);
  assert.equal(sent.length, 5);
  told.changed(NODE);
  told.tellAgain();
  assert.equal(sent.length, 7);
  told.closed(NODE, [{ node: NODE }]);
  told.tellAgain();
  assert.equal(sent.length, 8, "it has the file open still");
  told.closed(NODE, []);
  told.tellAgain();
  assert.equal(sent.length, 8);
});
