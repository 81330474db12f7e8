/** What a session that comes back sends ahead, before it knows what became of its opens, and how soon it is answered. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { OpenFlag, type OpenFlags } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, named } from "../support/link-drive.ts";
import { outcome } from "../support/outcome.ts";
import { fileOn, READ_WRITE, returningDrive } from "../support/returning-drive.ts";

test("what waited for the server is answered two round trips after a connection is there, also what changes a file", async () => {
  const drive = await returningDrive();
  const { root, handle } = await fileOn(drive);
  const { fileSystem } = drive.remote;
  const told: unknown[] = [];
  drive.remote.events = { changed: () => told.push("changed"), gone: () => told.push("gone") };
  await fileSystem.write(ctx, handle, 0, Buffer.from("abc"));
  drive.isDown = true;
  await drive.cut();
  drive.onConnection = (connection) => {
    connection.client.faults.delayMs = 25;
    connection.server.faults.delayMs = 25;
  };
  const waiting = {
    found: outcome(fileSystem.lookup(ctx, root, named("f"))),
    read: outcome(fileSystem.read(ctx, handle, 0, Buffer.alloc(3))),
    written: outcome(fileSystem.write(ctx, handle, 3, Buffer.from("def"))),
    made: outcome(fileSystem.mkdir(ctx, root, named("d"), { mode: 0o755, umask: 0 })),
  };
  await settle();
  drive.isDown = false;
  const { length } = drive.connections;
  while (drive.connections.length < length + 2) {
    drive.clock.advance(1);
    await settle();
  }
  const beganMs = drive.clock.monotonicMs();
  const afterMs = new Map<string, number>();
  while (afterMs.size < 4) {
    drive.clock.advance(5);
    await settle();
    const tookMs = drive.clock.monotonicMs() - beganMs;
    for (const [name, { value }] of Object.entries(waiting)) {
      if (value !== undefined && !afterMs.has(name)) afterMs.set(name, tookMs);
    }
    assert.ok(tookMs < 1000, JSON.stringify([...afterMs]));
  }
  // This line passes one packet in each 25 ms.
  const roundTripMs = 50;
  for (const name of ["found", "read", "written"]) {
    const tookMs = afterMs.get(name) ?? 0;
    assert.ok(tookMs <= 2 * roundTripMs + 30, `${name}: ${tookMs} ms`);
  }
  assert.ok((afterMs.get("made") ?? 0) <= 3 * roundTripMs + 20, `made: ${afterMs.get("made")} ms`);
  assert.deepEqual([waiting.read.value, waiting.written.value], [3, 3]);
  assert.deepEqual(told, [], "what it wrote itself, before it heard what became of the file, is not another's change");
  const closing = drive.remote.close();
  await drive.pass(3000);
  await closing;
});

test("what another has changed is told also when the client writes before it hears of it", async () => {
  const drive = await returningDrive();
  const { id, handle } = await fileOn(drive);
  const { fileSystem } = drive.remote;
  const told: unknown[] = [];
  drive.remote.events = { changed: (_node, { ranges }) => told.push(ranges), gone: () => told.push("gone") };
  const { remote: other } = await drive.connect();
  drive.isDown = true;
  await drive.cut();
  const { handle: theirs } = await other.fileSystem.open(ctx, id, OpenFlag.WRITE);
  await other.fileSystem.write(ctx, theirs, 100, Buffer.from("theirs"));
  const written = outcome(fileSystem.write(ctx, handle, 0, Buffer.from("mine")));
  drive.isDown = false;
  await drive.pass(2000, () => written.value !== undefined && drive.remote.state === "connected");
  assert.equal(written.value, 4);
  assert.deepEqual(told, [[{ offsetBytes: 100, lengthBytes: 6 }]]);
  await drive.remote.close();
  await other.close();
});

test("what went ahead on an open that is gone fails as all that is asked of it", async () => {
  const drive = await returningDrive({ limits: { keepMsMax: 1000, courtesyMs: 600_000 } });
  const { id, handle: shared } = await fileOn(drive);
  const { fileSystem } = drive.remote;
  const { remote: other } = await drive.connect();
  await fileSystem.release(ctx, shared);
  const { handle } = await fileSystem.open(ctx, id, (READ_WRITE | OpenFlag.DENY_WRITE) as OpenFlags);
  drive.isDown = true;
  for (const { client } of drive.connections) client.destroy();
  await drive.pass(3000);
  await other.fileSystem.open(ctx, id, READ_WRITE);
  const asked = [
    outcome(fileSystem.read(ctx, handle, 0, Buffer.alloc(4))),
    outcome(fileSystem.write(ctx, handle, 0, Buffer.from("mine"))),
  ];
  drive.isDown = false;
  await drive.pass(3000, () => asked.every(({ value }) => value !== undefined));
  for (const { value } of asked) assert.ok(value instanceof FsError && value.errno === "ESTALE", String(value));
  await drive.remote.close();
  await other.close();
});

/**
 * The server looks at a file when its client has left, and again before the first write of the client that is back. A client that leaves once more, before it heard
 * of the file, comes back with another write: that has to wait for the look at what it left, or it would count as somebody else's change.
 *
 * Method: at both returns control is slow, so that a write is there before it. The first one ends there; at the second one the look is held up.
 */
test("a client that is lost twice before it heard of a file has not changed it for itself", async () => {
  const memory = new MemoryFs();
  const gate = new GatedFs(memory);
  const drive = await returningDrive({ fileSystem: gate.fileSystem });
  const { id, handle } = await fileOn(drive);
  const { fileSystem } = drive.remote;
  const told: unknown[] = [];
  drive.remote.events = { changed: (_node, changes) => told.push(changes), gone: () => told.push("gone") };
  await fileSystem.write(ctx, handle, 0, Buffer.from("abc"));
  gate.isHeld = ({ caller }) => caller.pid !== ctx.caller.pid;
  gate.gates.add("getattr");
  const leave = async () => {
    drive.isDown = true;
    await drive.cut();
    await gate.holding(1);
  };
  const comeBack = async () => {
    const { length } = drive.connections;
    drive.onConnection = ({ kind, client }) => {
      client.faults.delayMs = kind === "control" ? 50 : 0;
    };
    drive.isDown = false;
    while (drive.connections.length < length + 2) {
      drive.clock.advance(1);
      await settle();
    }
  };
  await leave();
  const first = outcome(fileSystem.write(ctx, handle, 3, Buffer.from("def")));
  gate.held[0]?.pass();
  await comeBack();
  gate.held[0]?.pass();
  await settle();
  assert.equal(first.value, 3);
  await leave();
  const left = await memory.getattr(ctx, id);
  const second = outcome(fileSystem.write(ctx, handle, 6, Buffer.from("ghi")));
  await comeBack();
  assert.deepEqual([gate.held.length, second.value], [1, undefined], "the write waits for the look at what was left");
  gate.held[0]?.answer(left);
  await settle();
  gate.open();
  await drive.pass(2000, () => drive.remote.status().resumes === 1 && second.value !== undefined);
  assert.equal(second.value, 3);
  assert.deepEqual(told, [], "nobody else has changed it");
  const closing = drive.remote.close();
  await drive.pass(3000);
  await closing;
});
