/** Share modes between opens of one file: who excludes whom, and who yields when his time is over. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Remote } from "../../src/client/remote.ts";
import { ShareModes } from "../../src/server/share-modes.ts";
import { type FileSystem, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, type LinkDrive, linkDrive, named } from "../support/link-drive.ts";

const { READ, WRITE, TRUNC, DENY_READ, DENY_WRITE } = OpenFlag;
const BUSY = { errno: "EBUSY" };

async function withFile(
  memory: FileSystem = new MemoryFs(),
): Promise<{ drive: LinkDrive; id: NodeId; connect(): Promise<Remote> }> {
  const drive = linkDrive({ fileSystem: memory, limits: { keepMsMax: 5000, courtesyMs: 60_000 } });
  const { id: parent } = await memory.root(ctx);
  const { entry, opened } = await memory.create(ctx, parent, named("f"), WRITE, { mode: 0o100644, umask: 0 });
  await memory.release(ctx, opened.handle);
  return { drive, id: entry.id, connect: async () => (await drive.connect()).remote };
}

test("an open excludes another if one denies what the other is for, whichever comes first", () => {
  const cases: [first: number, second: number, isExcluded: boolean][] = [
    [READ, WRITE, false],
    [READ | DENY_WRITE, READ, false],
    [READ | DENY_WRITE, READ | DENY_WRITE, false],
    [READ | DENY_WRITE, WRITE, true],
    [READ | DENY_WRITE, READ | TRUNC, true],
    [WRITE | DENY_WRITE, READ, false],
    [WRITE | DENY_READ, WRITE, false],
    [WRITE | DENY_READ, READ, true],
    [WRITE | DENY_READ | DENY_WRITE, READ, true],
    [WRITE | DENY_WRITE, WRITE | DENY_WRITE, true],
  ];
  const owner = { giveUp: () => false };
  const node = "n" as NodeId;
  for (const [first, second, isExcluded] of cases) {
    for (const [there, coming] of [
      [first, second],
      [second, first],
    ] as const) {
      const modes = new ShareModes();
      modes.add({ node, flags: there, isIdle: true, owner });
      const enter = () => modes.enter({ node, flags: coming, isIdle: true, owner }, "somebody");
      if (isExcluded) assert.throws(enter, BUSY);
      else enter();
      modes.enter({ node: "other" as NodeId, flags: coming, isIdle: true, owner }, "somebody");
    }
  }
});

test("what an open denies holds between clients, until it is closed", async () => {
  const { id, connect } = await withFile();
  const [a, b] = [await connect(), await connect()];
  const parent = (await a.fileSystem.root(ctx)).id;
  const { handle } = await a.fileSystem.open(ctx, id, READ | DENY_WRITE);
  await assert.rejects(b.fileSystem.open(ctx, id, WRITE), BUSY);
  await assert.rejects(a.fileSystem.open(ctx, id, WRITE), BUSY, "the client's own other opens, too");
  await assert.rejects(b.fileSystem.create(ctx, parent, named("f"), WRITE | TRUNC, { mode: 0o644, umask: 0 }), BUSY);
  await assert.rejects(b.fileSystem.setattr(ctx, id, { sizeBytes: 0 }), BUSY);
  await b.fileSystem.release(ctx, (await b.fileSystem.open(ctx, id, READ)).handle);
  await a.fileSystem.release(ctx, handle);
  await settle();
  await b.fileSystem.open(ctx, id, WRITE);
  await Promise.all([a.close(), b.close()]);
});

test("who only reads a share keeps nobody out", async () => {
  const memory = new MemoryFs();
  const drive = linkDrive({ fileSystem: memory, readOnly: true });
  const { id: parent } = await memory.root();
  const { entry } = await memory.create(ctx, parent, named("f"), WRITE, { mode: 0o100644, umask: 0 });
  const { remote } = await drive.connect();
  await assert.rejects(remote.fileSystem.open(ctx, entry.id, READ | DENY_WRITE), { errno: "EROFS" });
  await remote.close();
});

test("an open whose client is away denies until its time is over, and then yields to whoever comes", async () => {
  const { drive, id, connect } = await withFile();
  const a = await drive.connect();
  await a.remote.fileSystem.open(ctx, id, READ | DENY_WRITE);
  const b = await connect();
  a.links.client.destroy();
  await settle();
  await assert.rejects(b.fileSystem.open(ctx, id, WRITE), BUSY);
  drive.clock.advance(5001);
  await settle();
  const { handle } = await b.fileSystem.open(ctx, id, WRITE);
  assert.ok(
    drive.lines.some((line) => /given up: memory client asks for the file/.test(line)),
    drive.lines.join("\n"),
  );
  assert.equal(drive.server.counters().handles, 1, "the open that yielded is closed");
  await b.fileSystem.release(ctx, handle);
  await b.close();
});

test("who leaves for good has the file as long as a write of his is under way", async () => {
  const gate = new GatedFs(new MemoryFs());
  const { id, connect } = await withFile(gate.fileSystem);
  const [a, b] = [await connect(), await connect()];
  const { handle } = await a.fileSystem.open(ctx, id, WRITE);
  gate.gates.add("write");
  const write = a.fileSystem.write(ctx, handle, 0, Buffer.from("late")).catch(() => undefined);
  await gate.holding(1);
  await a.close();
  await settle();
  await assert.rejects(b.fileSystem.open(ctx, id, READ | DENY_WRITE), BUSY);
  gate.open();
  await settle();
  assert.equal((await b.fileSystem.open(ctx, id, READ | DENY_WRITE)).attr.sizeBytes, 4);
  await Promise.all([write, b.close()]);
});
