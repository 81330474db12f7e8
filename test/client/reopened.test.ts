/** Directories that were opened again in an attempt to come back that was lost itself: their handles are on the server, and nobody else's. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, linkDrive } from "../support/link-drive.ts";
import { returningDrive } from "../support/returning-drive.ts";

test("a directory that was opened again before the connection was lost, and closed since, leaves no handle behind", async () => {
  const memory = new MemoryFs();
  const drive = await returningDrive({ fileSystem: memory });
  const { fileSystem } = drive.remote;
  const { id: root } = await fileSystem.root(ctx);
  const [first, second] = [await fileSystem.opendir(ctx, root), await fileSystem.opendir(ctx, root)];
  const gate = new GatedFs(memory);
  gate.gates.add("opendir");
  const { server } = linkDrive({ fileSystem: gate.fileSystem });
  drive.target = server;
  await drive.cut();
  await drive.pass(5000, () => gate.held.length === 2);
  gate.held[0]?.pass();
  await settle();
  drive.isDown = true;
  await drive.cut();
  await fileSystem.releasedir(ctx, first);
  gate.open();
  await settle();
  assert.equal(server.counters().handles, 2);
  drive.isDown = false;
  await drive.pass(5000, () => drive.remote.state === "connected");
  await drive.pass(1000);
  assert.equal(server.counters().handles, 1);
  assert.ok((await fileSystem.readdir(ctx, second, 0n, 4096, false)).length > 0);
  await drive.remote.close();
});
