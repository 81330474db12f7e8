/** The life of a session: every arrow of its states, and what callers see meanwhile. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError, FsError } from "../../src/base/errors.ts";
import { CancelSource } from "../../src/base/signals.ts";
import { OpenFlag } from "../../src/vfs/file-system.ts";
import { HEADER_BYTES } from "../../src/wire/limits.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, named } from "../support/link-drive.ts";
import { hasFailed, outcome } from "../support/outcome.ts";
import { fileOn, NEW_FILE, READ_WRITE, type ReturningDrive, returningDrive } from "../support/returning-drive.ts";

/** Follows what the session says of itself. */
function states({ remote }: ReturningDrive): string[] {
  const seen: string[] = [];
  remote.onState((state) => seen.push(state));
  return seen;
}

test("a session that is lost comes back, and who asked meanwhile is answered", async () => {
  const drive = await returningDrive();
  const seen = states(drive);
  const { root, handle } = await fileOn(drive);
  drive.isDown = true;
  await drive.cut();
  assert.equal(drive.remote.state, "away");
  const { fileSystem } = drive.remote;
  const made = outcome(fileSystem.mkdir(ctx, root, named("d"), { mode: 0o755, umask: 0 }));
  const written = outcome(fileSystem.write(ctx, handle, 0, Buffer.from("abc")));
  await drive.pass(30_000);
  assert.deepEqual([made.value, written.value], [undefined, undefined]);
  drive.isDown = false;
  await drive.pass(2000, () => made.value !== undefined && written.value !== undefined);
  assert.equal(written.value, 3);
  assert.equal((await fileSystem.lookup(ctx, root, named("d"))).attr.nlink, 2);
  assert.deepEqual(seen, ["away", "resuming", "connected"]);
  assert.equal(drive.remote.status().resumes, 1);
  await drive.remote.close();
});

test("a machine that refuses is asked for what a program waits for most often, and nobody floods it", async () => {
  for (const isAwaited of [true, false]) {
    const drive = await returningDrive({ client: { random: () => 0.5 } });
    const { handle } = await fileOn(drive);
    Object.assign(drive, { isDown: true, isRefusing: true });
    await drive.cut();
    const wish = outcome(
      isAwaited ? drive.remote.fileSystem.read(ctx, handle, 0, Buffer.alloc(1)) : new Promise(() => {}),
    );
    const dialsIn = async (ms: number) => {
      const before = drive.dials.length;
      for (let at = 0; at < ms; at += 1) {
        drive.clock.advance(1);
        await settle();
      }
      return drive.dials.length - before;
    };
    const counts = [await dialsIn(1000), (await dialsIn(3900)) / 3.9, (await dialsIn(5000)) / 5, await dialsIn(1500)];
    const most = isAwaited ? [290, 290, 95, 45] : [95, 95, 95, 45];
    for (const [at, count] of counts.entries()) {
      const limit = most[at] as number;
      assert.ok(count <= limit && count > limit / 2, `${counts} attempts`);
    }
    drive.isDown = false;
    await drive.pass(2000, () => drive.remote.state === "connected" && (wish.value !== undefined || !isAwaited));
    assert.equal(drive.remote.state, "connected");
    await drive.remote.close();
  }
});

test("an io connection that is lost alone is brought back alone", async () => {
  const drive = await returningDrive();
  const seen = states(drive);
  const { handle } = await fileOn(drive);
  const data = Buffer.alloc(300_000, 7);
  await drive.remote.fileSystem.write(ctx, handle, 0, data);
  const io = drive.connections[1];
  assert.ok(io !== undefined);
  io.server.faults.cutAtByte = 100_000;
  const target = Buffer.alloc(data.length);
  const read = outcome(drive.remote.fileSystem.read(ctx, handle, 0, target));
  await drive.pass(5000, () => read.value !== undefined);
  assert.equal(read.value, data.length);
  assert.ok(target.equals(data));
  assert.deepEqual(seen, []);
  assert.equal(drive.connections.length, 3);
  await drive.remote.close();
});

test("only the sections without an answer travel again", async () => {
  const memory = new MemoryFs();
  const gate = new GatedFs(memory);
  const drive = await returningDrive({ fileSystem: gate.fileSystem });
  const { handle } = await fileOn(drive);
  gate.gates.add("write");
  const data = Buffer.alloc(4 * 65_536, 3);
  const written = outcome(drive.remote.fileSystem.write(ctx, handle, 0, data));
  await gate.holding(4);
  gate.held[0]?.pass();
  gate.held[0]?.pass();
  await settle();
  const before = gate.calls.filter((name) => name === "write").length;
  await drive.cut();
  gate.gates.clear();
  for (const call of [...gate.held]) call.pass();
  await drive.pass(5000, () => written.value !== undefined);
  assert.equal(written.value, data.length);
  assert.equal(before, 4);
  assert.equal(gate.calls.filter((name) => name === "write").length, 4, "what ran on was not run again");
  await drive.remote.close();
});

test("a call waits as long as its patience, then the host is down; others go on when it is back", async () => {
  const drive = await returningDrive({ client: { timeoutMs: 5000 } });
  const { root } = await fileOn(drive);
  drive.isDown = true;
  await drive.cut();
  const early = outcome(drive.remote.fileSystem.lookup(ctx, root, named("f")));
  await drive.pass(3000);
  const late = outcome(drive.remote.fileSystem.lookup(ctx, root, named("f")));
  await drive.pass(2600);
  assert.ok(early.value instanceof ConnectionError);
  assert.equal(late.value, undefined);
  drive.isDown = false;
  await drive.pass(2000, () => late.value !== undefined);
  assert.ok(!((late.value as unknown) instanceof Error));
  await drive.remote.close();
});

test("who is killed while the server is away leaves at once", async () => {
  const drive = await returningDrive();
  const { root, handle } = await fileOn(drive);
  drive.isDown = true;
  await drive.cut();
  const source = new CancelSource();
  const killed = { ...ctx, signal: source };
  const calls = [
    outcome(drive.remote.fileSystem.lookup(killed, root, named("f"))),
    outcome(drive.remote.fileSystem.write(killed, handle, 0, Buffer.alloc(300_000))),
    outcome(drive.remote.fileSystem.create(killed, root, named("g"), READ_WRITE, NEW_FILE)),
  ];
  source.abort();
  await settle();
  for (const { value } of calls) assert.ok(hasFailed(value, "EINTR"));
  drive.isDown = false;
  await drive.pass(2000, () => drive.remote.state === "connected");
  assert.equal((await drive.remote.fileSystem.lookup(ctx, root, named("f"))).attr.sizeBytes, 0);
  await assert.rejects(drive.remote.fileSystem.lookup(ctx, root, named("g")), { errno: "ENOENT" });
  await drive.remote.close();
});

test("an open that nobody waits for any more is closed again when the session is back", async () => {
  const memory = new MemoryFs();
  const gate = new GatedFs(memory);
  const drive = await returningDrive({ fileSystem: gate.fileSystem });
  const { id } = await fileOn(drive);
  gate.gates.add("open");
  const source = new CancelSource();
  const opened = outcome(drive.remote.fileSystem.open({ ...ctx, signal: source }, id, OpenFlag.READ));
  await gate.holding(1);
  drive.isDown = true;
  await drive.cut();
  source.abort();
  gate.open();
  await settle();
  assert.ok(opened.value instanceof FsError);
  assert.equal(memory.openCount, 2);
  drive.isDown = false;
  await drive.pass(2000, () => memory.openCount === 1);
  assert.equal(memory.openCount, 1);
  await drive.remote.close();
});

test("what another has changed meanwhile is told, with where", async () => {
  const drive = await returningDrive();
  const { id, handle } = await fileOn(drive);
  const told: unknown[] = [];
  drive.remote.events = {
    changed: (node, { ranges, changedBy }) => told.push([node === id, ranges, changedBy]),
    gone: () => told.push("gone"),
  };
  const { remote: other } = await drive.connect();
  drive.isDown = true;
  await drive.cut();
  const { handle: theirs } = await other.fileSystem.open(ctx, id, OpenFlag.WRITE);
  await other.fileSystem.write(ctx, theirs, 100, Buffer.from("theirs"));
  drive.isDown = false;
  await drive.pass(2000, () => drive.remote.state === "connected");
  assert.deepEqual(told, [[true, [{ offsetBytes: 100, lengthBytes: 6 }], "memory client"]]);
  assert.equal(await drive.remote.fileSystem.read(ctx, handle, 100, Buffer.alloc(6)), 6);
  await drive.remote.close();
  await other.close();
});

test("a write whose program was killed while the session came back does not take what else its memory is used for", async () => {
  const memory = new MemoryFs();
  const gate = new GatedFs(memory);
  const drive = await returningDrive({ fileSystem: gate.fileSystem, client: { ioChannels: 0 } });
  const { id, handle } = await fileOn(drive);
  const { fileSystem } = drive.remote;
  for (const { client } of drive.connections) client.faults.isDropping = true;
  const source = new CancelSource();
  const data = Buffer.from("mine");
  const written = outcome(fileSystem.write({ ...ctx, signal: source }, handle, 0, data));
  await settle();
  gate.gates.add("getattr");
  await drive.cut();
  await drive.pass(5000, () => gate.held.length > 1);
  assert.equal(drive.remote.state, "resuming");
  source.abort();
  await settle();
  assert.ok(hasFailed(written.value, "EINTR"));
  data.write("next");
  gate.open();
  await drive.pass(5000, () => drive.remote.state === "connected");
  assert.equal((await fileSystem.getattr(ctx, id)).sizeBytes, 0);
  await drive.remote.close();
});

test("a session comes back also when every credit is held by what has no answer", async () => {
  const drive = await returningDrive({ client: { credits: 8 } });
  const { root } = await fileOn(drive);
  for (const { client } of drive.connections) client.faults.isDropping = true;
  const asked = Array.from({ length: 20 }, () => outcome(drive.remote.fileSystem.lookup(ctx, root, named("f"))));
  await settle();
  await drive.cut();
  await drive.pass(10_000, () => asked.every(({ value }) => value !== undefined));
  for (const { value } of asked) assert.ok(value !== undefined && !(value instanceof Error));
  await drive.remote.close();
});

test("data that is sent again is not taken for another's changes", async () => {
  const drive = await returningDrive();
  const { handle } = await fileOn(drive);
  const told: unknown[] = [];
  drive.remote.events = { changed: () => told.push("changed"), gone: () => told.push("gone") };
  const [control, io] = drive.connections;
  assert.ok(control !== undefined && io !== undefined);
  io.client.faults.isDropping = true;
  const written = outcome(drive.remote.fileSystem.write(ctx, handle, 0, Buffer.from("abc")));
  await settle();
  // The io connection is back before the session knows that control is lost as well.
  io.client.destroy();
  control.server.faults.isDropping = true;
  control.client.destroy();
  await drive.pass(5000, () => written.value !== undefined);
  assert.equal(written.value, 3);
  assert.deepEqual(told, []);
  await drive.remote.close();
});

test("a connection that is dead without a word is noticed within 5 s, and replaced", async () => {
  const drive = await returningDrive();
  const { root } = await fileOn(drive);
  const seen = states(drive);
  for (const { client, server } of drive.connections) {
    client.faults.isDropping = true;
    server.faults.isDropping = true;
  }
  const found = outcome(drive.remote.fileSystem.lookup(ctx, root, named("f")));
  await drive.pass(5000, () => seen.length > 0);
  assert.deepEqual(seen.slice(0, 1), ["away"]);
  await drive.pass(2000, () => found.value !== undefined);
  assert.ok(!(found.value instanceof Error));
  await drive.remote.close();
});

test("an idle session stays as it is for an hour", async () => {
  const drive = await returningDrive();
  await fileOn(drive);
  const before = drive.server.counters().receivedBytes;
  for (let at = 0; at < 3_600_000; at += 2000) {
    drive.clock.advance(2000);
    for (let round = 0; round < 10; round += 1) await Promise.resolve();
    await new Promise<void>((resolve) => setImmediate(resolve));
  }
  assert.ok(drive.server.counters().receivedBytes - before < 2 * 3600 * 10, "it says little");
  assert.equal(drive.connections.length, 2);
  await drive.remote.close();
});

test("a connection lost while the session is resumed is lost once more, and nothing of it", async () => {
  const drive = await returningDrive();
  const { handle } = await fileOn(drive);
  let harmed = 0;
  drive.onConnection = ({ server }) => {
    harmed += 1;
    // In the middle of the set-up, of the welcome, of the answer to resume.
    if (harmed < 12) server.faults.cutAtByte = 40 * harmed;
  };
  await drive.cut();
  const written = outcome(drive.remote.fileSystem.write(ctx, handle, 0, Buffer.from("abc")));
  await drive.pass(60_000, () => written.value !== undefined);
  assert.equal(written.value, 3);
  assert.ok(harmed >= 6, `${harmed} connections`);
  await drive.remote.close();
});

test("a thousand opens come back in a few requests, each as it was", async () => {
  const drive = await returningDrive({ client: { credits: 64 } });
  const { root } = await drive.remote.fileSystem.root(ctx).then(({ id }) => ({ root: id }));
  const handles: number[] = [];
  for (let index = 0; index < 1000; index += 1) {
    const { opened } = await drive.remote.fileSystem.create(ctx, root, named(`f${index}`), READ_WRITE, NEW_FILE);
    handles.push(opened.handle);
  }
  const before = drive.server.counters().requests;
  await drive.cut();
  await drive.pass(2000, () => drive.remote.state === "connected");
  assert.ok(drive.server.counters().requests - before < 10);
  for (const handle of handles) {
    assert.equal(await drive.remote.fileSystem.write(ctx, handle as never, 0, Buffer.from("x")), 1);
  }
  await drive.remote.close();
});

test("close ends a session that is away at once, and everybody who waits", async () => {
  const drive = await returningDrive();
  const { root } = await fileOn(drive);
  drive.isDown = true;
  await drive.cut();
  const waiting = outcome(drive.remote.fileSystem.lookup(ctx, root, named("f")));
  await drive.remote.close();
  assert.equal(await drive.remote.closed, undefined);
  await settle();
  assert.ok(waiting.value instanceof ConnectionError);
  drive.clock.advance(10_000);
  await settle();
  assert.equal(drive.remote.state, "over");
});

test("a session that is closed while it comes back stays closed", async () => {
  const drive = await returningDrive();
  await fileOn(drive);
  drive.onConnection = ({ server }) => {
    server.faults.delayMs = 100;
  };
  await drive.cut();
  drive.clock.advance(150);
  await settle();
  const closing = outcome(drive.remote.close().then(() => "closed"));
  await drive.pass(30_000);
  assert.equal(closing.value, "closed");
  assert.equal(drive.remote.state, "over");
  drive.clock.advance(2_000_000);
  await settle();
  assert.deepEqual([drive.clock.pendingCount, drive.server.counters().channels], [0, 0]);
});

test("a server that breaks the rules again and again is not asked the same for ever", async () => {
  const drive = await returningDrive();
  const { root } = await fileOn(drive);
  const garble = () => {
    for (const { server } of drive.connections.slice(-2)) {
      const write = server.write.bind(server);
      server.write = (chunks, sent) => {
        const text = Buffer.concat(chunks);
        // A reply to a lookup with another opcode than it should have.
        for (let at = 0; at < text.length; at += HEADER_BYTES + text.readUInt32LE(at)) {
          if (text[at + 5] === 17 && text[at + 6] === 1) text[at + 5] = 200;
        }
        write([text], sent);
      };
    }
  };
  drive.onConnection = () => queueMicrotask(garble);
  garble();
  const found = outcome(drive.remote.fileSystem.lookup(ctx, root, named("f")));
  await drive.pass(60_000, () => found.value !== undefined);
  assert.equal((found.value as Error | undefined)?.name, "ProtocolError");
  await drive.remote.close();
});
