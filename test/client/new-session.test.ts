/** A session that its server does not know any more, and the new one in its place. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { OpenFlag } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, linkDrive, named } from "../support/link-drive.ts";
import { hasFailed, outcome } from "../support/outcome.ts";
import { fileOn, returningDrive } from "../support/returning-drive.ts";

test("a server that has forgotten the session gives a new one: what was open is gone, the rest goes on", async () => {
  const memory = new MemoryFs();
  const gate = new GatedFs(memory);
  const drive = await returningDrive({ fileSystem: gate.fileSystem });
  const { root, id, handle } = await fileOn(drive);
  const gone: number[] = [];
  drive.remote.events = { changed: () => {}, gone: (open) => gone.push(open) };
  const { fileSystem } = drive.remote;
  const listing = await fileSystem.opendir(ctx, root);
  gate.gates.add("mkdir");
  gate.gates.add("getattr");
  const sent = outcome(fileSystem.mkdir(ctx, root, named("d"), { mode: 0o755, umask: 0 }));
  const asked = outcome(fileSystem.getattr(ctx, id));
  await gate.holding(2);
  drive.target = linkDrive({ fileSystem: memory }).server;
  await drive.cut();
  const later = outcome(fileSystem.mkdir(ctx, root, named("e"), { mode: 0o755, umask: 0 }));
  await drive.pass(5000, () => later.value !== undefined && asked.value !== undefined);
  assert.ok(hasFailed(sent.value, "EIO"), "nobody knows whether it was done");
  assert.ok(!(asked.value instanceof Error));
  assert.ok(!(later.value instanceof Error));
  assert.deepEqual(gone, [handle]);
  await assert.rejects(fileSystem.write(ctx, handle, 0, Buffer.from("x")), { errno: "ESTALE" });
  assert.ok((await fileSystem.readdir(ctx, listing, 0n, 4096, false)).length > 0);
  await fileSystem.release(ctx, handle);
  assert.equal((await fileSystem.open(ctx, id, OpenFlag.READ)).attr.sizeBytes, 0);
  await drive.remote.close();
});

test("a request of several sections through an open that is gone fails once, and takes nobody along", async () => {
  const memory = new MemoryFs();
  for (const kind of ["read", "write"] as const) {
    const gate = new GatedFs(memory);
    const drive = await returningDrive({ fileSystem: gate.fileSystem });
    const { id, handle } = await fileOn(drive);
    const { fileSystem } = drive.remote;
    gate.gates.add(kind);
    const asked = outcome(fileSystem[kind](ctx, handle, 0, Buffer.alloc(3 * 65_536)));
    await gate.holding(1);
    drive.target = linkDrive({ fileSystem: memory }).server;
    await drive.cut();
    await drive.pass(5000, () => asked.value !== undefined);
    assert.ok(hasFailed(asked.value, kind === "read" ? "ESTALE" : "EIO"), `${kind}: ${asked.value}`);
    await fileSystem.getattr(ctx, id);
    gate.open();
    await drive.remote.close();
  }
});

test("a connection lost while directories are opened again, in a new server, leaves none of them behind", async () => {
  const memory = new MemoryFs();
  const drive = await returningDrive({ fileSystem: memory });
  const { root } = await fileOn(drive);
  const { fileSystem } = drive.remote;
  const listings = [await fileSystem.opendir(ctx, root), await fileSystem.opendir(ctx, root)];
  const gate = new GatedFs(memory);
  gate.gates.add("opendir");
  const next = linkDrive({ fileSystem: gate.fileSystem });
  drive.target = next.server;
  await drive.cut();
  await drive.pass(5000, () => gate.held.length === 2);
  gate.held[0]?.pass();
  await settle();
  await drive.cut();
  gate.gates.clear();
  for (const call of gate.held) call.pass();
  await drive.pass(5000, () => drive.remote.state === "connected");
  for (const listing of listings) {
    assert.ok((await fileSystem.readdir(ctx, listing, 0n, 4096, false)).length > 0);
  }
  assert.ok(next.server.counters().handles <= 3, "what was opened again is not opened twice");
  await drive.remote.close();
});

test("a session comes back from two new servers, one after the other, also when every credit is held", async () => {
  const memory = new MemoryFs();
  const drive = await returningDrive({ fileSystem: memory, client: { credits: 8 } });
  const { root } = await fileOn(drive);
  const listing = await drive.remote.fileSystem.opendir(ctx, root);
  for (const { client } of drive.connections) client.faults.isDropping = true;
  const asked = Array.from({ length: 20 }, () => outcome(drive.remote.fileSystem.lookup(ctx, root, named("f"))));
  await settle();
  const gate = new GatedFs(memory);
  gate.gates.add("opendir");
  drive.target = linkDrive({ fileSystem: gate.fileSystem }).server;
  await drive.cut();
  await drive.pass(5000, () => gate.held.length === 1);
  drive.target = linkDrive({ fileSystem: memory }).server;
  await drive.cut();
  await drive.pass(10_000, () => asked.every(({ value }) => value !== undefined));
  for (const { value } of asked) assert.ok(value !== undefined && !(value instanceof Error));
  assert.ok((await drive.remote.fileSystem.readdir(ctx, listing, 0n, 4096, false)).length > 0);
  gate.open();
  await drive.remote.close();
});

test("a handle of a session that is over is not released in the next one, where it is another's", async () => {
  const memory = new MemoryFs();
  const drive = await returningDrive({ fileSystem: memory });
  const { fileSystem } = drive.remote;
  const { id: root } = await fileSystem.root(ctx);
  const [first, second] = [await fileSystem.opendir(ctx, root), await fileSystem.opendir(ctx, root)];
  drive.isDown = true;
  await drive.cut();
  await fileSystem.releasedir(ctx, first);
  drive.target = linkDrive({ fileSystem: memory }).server;
  drive.isDown = false;
  await drive.pass(5000, () => drive.remote.state === "connected");
  assert.ok((await fileSystem.readdir(ctx, second, 0n, 4096, false)).length > 0);
  await drive.remote.close();
});

test("a server that has forgotten the session and lets the client in no more is the end: it is not asked again", async () => {
  const drive = await returningDrive();
  const seen: string[] = [];
  drive.remote.onState((state) => seen.push(state));
  const { root } = await fileOn(drive);
  const { server: other } = linkDrive({ isTokenless: true });
  drive.target = other;
  const made = outcome(drive.remote.fileSystem.mkdir(ctx, root, named("d"), { mode: 0o755, umask: 0 }));
  await drive.cut();
  await drive.pass(5000, () => drive.remote.state === "over");
  assert.deepEqual(seen, ["away", "over"]);
  assert.match((await drive.remote.closed)?.message ?? "", /wrong token/);
  assert.ok(made.value instanceof Error);
  const { length } = drive.connections;
  await drive.pass(60_000);
  assert.equal(drive.connections.length, length);
  assert.equal(other.counters().failedLogins, 1);
  await drive.remote.close();
});
