/** Sections that stay without an answer: tried once more on another channel where that is safe, then ETIMEDOUT; a real server, whose disk is held up. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { connectLink, type Remote } from "../../src/client/remote.ts";
import { type FaultyLink, memoryLinkPair } from "../../src/transport/memory-link.ts";
import { type HandleId, OpenFlag } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, linkDrive, named, TOKEN } from "../support/link-drive.ts";
import { outcome } from "../support/outcome.ts";

const SECTION = 64 * 1024;
const TIMEOUT_MS = 60_000;
const isTimeout = (error: unknown) => error instanceof FsError && error.errno === "ETIMEDOUT";

/** The data of the file: each section has a byte of its own. */
const CONTENT = Buffer.concat(Array.from({ length: 8 }, (_, index) => Buffer.alloc(SECTION, index + 1)));

async function heldDrive(options: { ioChannels?: number; answerTimeoutMs?: number; credits?: number } = {}) {
  const gate = new GatedFs(new MemoryFs());
  gate.heedsSignal = true;
  const drive = linkDrive({ fileSystem: gate.fileSystem, limits: { keepMsMax: 600_000 } });
  const { clock, log, server } = drive;
  const links: FaultyLink[] = [];
  const link = () => {
    const pair = memoryLinkPair(clock);
    // A server that hangs does so on every connection.
    pair.client.faults.isStalled = links.some(({ faults }) => faults.isStalled);
    server.accept(pair.server);
    links.push(pair.client);
    return pair.client;
  };
  const url = { token: TOKEN, share: "share" };
  const wish = { sectionBytes: SECTION, ioChannels: 2, answerTimeoutMs: TIMEOUT_MS, ...options };
  const remote = await connectLink(link(), { url, clock, log, ...wish }, async () => link());
  const { id: root } = await remote.fileSystem.root(ctx);
  const flags = OpenFlag.READ | OpenFlag.WRITE;
  const made = await remote.fileSystem.create(ctx, root, named("f"), flags, { mode: 0o100644, umask: 0 });
  assert.equal(await remote.fileSystem.write(ctx, made.opened.handle, 0, CONTENT), CONTENT.length);
  gate.calls.length = 0;
  return { ...drive, gate, remote, root, links, handle: made.opened.handle };
}

type Held = Awaited<ReturnType<typeof heldDrive>>;

/** Lets time pass; the server answers others all the while. */
async function pass({ clock, remote, root }: Held, ms: number): Promise<void> {
  for (let at = 0; at < ms; at += 1000) {
    await remote.fileSystem.getattr(ctx, root);
    clock.advance(1000);
    await settle();
  }
}

function sentBytes(remote: Remote): number[] {
  return remote.status().channels.map((channel) => channel.sentBytes);
}

test("a read without an answer is withdrawn and asked for again on another channel, whose answer counts", async () => {
  for (const ioChannels of [1, 2]) {
    const held = await heldDrive({ ioChannels });
    const { gate, remote } = held;
    gate.gates.add("read");
    const target = Buffer.alloc(SECTION);
    const before = sentBytes(remote);
    const reading = remote.fileSystem.read(ctx, held.handle, SECTION, target);
    await gate.holding(1);
    const used = sentBytes(remote).findIndex((bytes, index) => index > 0 && bytes > (before[index] ?? 0));
    await pass(held, TIMEOUT_MS / 2 - 1000);
    assert.equal(gate.calls.filter((name) => name === "read").length, 1);
    await pass(held, 4000);
    assert.equal(gate.calls.filter((name) => name === "read").length, 2);
    assert.equal(gate.held.length, 1, "the first attempt was stopped");
    const quiet = sentBytes(remote);
    gate.open();
    assert.equal(await reading, SECTION);
    assert.ok(target.equals(CONTENT.subarray(SECTION, 2 * SECTION)));
    assert.equal(quiet[used], sentBytes(remote)[used], "nothing more went over the first channel");
    assert.equal(remote.status().requestsOutstanding, 0);
    assert.ok(held.lines.some((line) => /warn client: sections without an answer for 30 s/.test(line)));
    await remote.close();
  }
});

test("a read that is not answered on any channel fails with ETIMEDOUT, and late answers are harmless", async () => {
  const held = await heldDrive();
  const { gate, remote } = held;
  gate.gates.add("read");
  gate.heedsSignal = false;
  const target = Buffer.alloc(SECTION, 0xee);
  const seen = outcome(remote.fileSystem.read(ctx, held.handle, 0, target));
  await pass(held, TIMEOUT_MS);
  assert.equal(seen.value, undefined);
  await pass(held, 4000);
  assert.ok(isTimeout(seen.value), String(seen.value));
  assert.equal(gate.held.length, 2);
  assert.ok(
    gate.held.every((call) => call.ctx.signal?.aborted),
    "the server was told that nobody wants them",
  );
  assert.equal(remote.status().sectionsOutstanding, 2, "the slots stay taken until the server answers");
  gate.open();
  await settle();
  assert.equal(remote.status().sectionsOutstanding, 0);
  assert.ok(target.every((byte) => byte === 0xee));
  assert.equal(await remote.fileSystem.read(ctx, held.handle, 0, target), SECTION);
  assert.ok(target.equals(CONTENT.subarray(0, SECTION)));
});

test("a write without an answer is stopped and fails with ETIMEDOUT; it is never sent twice", async () => {
  for (const bytes of [100, SECTION, 5 * SECTION]) {
    const held = await heldDrive();
    const { gate, remote } = held;
    const data = Buffer.alloc(bytes, 0x77);
    gate.gates.add("write");
    gate.gates.add("writev");
    const seen = outcome(remote.fileSystem.write(ctx, held.handle, 0, data));
    await gate.holding(1);
    await settle();
    const stuck = gate.held[0];
    // All but one section are answered.
    for (const call of gate.held.slice(1)) call.pass();
    const calls = gate.calls.filter((name) => name.startsWith("write")).length;
    await pass(held, TIMEOUT_MS);
    assert.equal(seen.value, undefined);
    await pass(held, 3000);
    assert.ok(isTimeout(seen.value), `${bytes} bytes: ${seen.value}`);
    assert.equal(gate.calls.filter((name) => name.startsWith("write")).length, calls);
    assert.equal(stuck?.ctx.signal?.aborted, true);
    assert.equal(remote.status().sectionsOutstanding, 0);
    gate.open();
    assert.equal(await remote.fileSystem.write(ctx, held.handle, 0, data), bytes);
  }
});

test("of a large read only the section without an answer goes again, and all of it arrives", async () => {
  const held = await heldDrive();
  const { gate, remote } = held;
  const target = Buffer.alloc(CONTENT.length);
  gate.gates.add("read");
  const reading = remote.fileSystem.read(ctx, held.handle, 0, target);
  await gate.holding(4);
  const stuck = gate.held[1];
  for (let round = 0; round < 10; round += 1) {
    for (const call of [...gate.held]) if (call !== stuck) call.pass();
    await settle();
  }
  assert.deepEqual(gate.held, [stuck]);
  await pass(held, TIMEOUT_MS / 2 + 2000);
  assert.equal(gate.calls.filter((name) => name === "read").length, 9);
  gate.open();
  assert.equal(await reading, CONTENT.length);
  assert.ok(target.equals(CONTENT));
});

test("a large read one section of which is never answered fails as a whole", async () => {
  const held = await heldDrive();
  const { gate, remote } = held;
  gate.gates.add("read");
  const seen = outcome(remote.fileSystem.read(ctx, held.handle, 0, Buffer.alloc(CONTENT.length)));
  const place = 3 * SECTION;
  for (let at = 0; at < TIMEOUT_MS + 6000; at += 1000) {
    for (const call of [...gate.held]) if (call.args[2] !== place) call.pass();
    await pass(held, 1000);
  }
  assert.ok(isTimeout(seen.value), String(seen.value));
  assert.equal(remote.status().sectionsOutstanding, 0);
});

/** A drive all slots of whose io channel are held by writes of `f` that hang in the disk, and were given up. */
async function heldUpDrive(how: "overdue" | "killed") {
  const held = await heldDrive({ ioChannels: 1, credits: 8 });
  const { gate, remote, root, handle } = held;
  gate.heedsSignal = false;
  const flags = OpenFlag.READ | OpenFlag.WRITE;
  const made = await remote.fileSystem.create(ctx, root, named("g"), flags, { mode: 0o100644, umask: 0 });
  const other = made.opened.handle;
  assert.equal(await remote.fileSystem.write(ctx, other, 0, CONTENT), CONTENT.length);
  gate.gates.add("write");
  gate.isHeld = () => gate.held.length < 4;
  const controller = new AbortController();
  const ofKilled = how === "killed" ? { ...ctx, signal: controller.signal } : ctx;
  const writes = Array.from({ length: 6 }, (_, index) =>
    outcome(remote.fileSystem.write(ofKilled, handle, index * 2 * SECTION, Buffer.alloc(SECTION, 0x77))),
  );
  await gate.holding(4);
  if (how === "killed") controller.abort();
  return { held, writes, other };
}

test("what waits behind writes that hang in the server ends: reads go another way, writes and what follows them with ETIMEDOUT", async () => {
  for (const how of ["overdue", "killed"] as const) {
    const { held, writes, other } = await heldUpDrive(how);
    const { gate, remote, lines } = held;
    // The stall of a window lets one more go each second, so long as there is a slot.
    await pass(held, 2 * TIMEOUT_MS);
    assert.equal(gate.held.length, 4);
    assert.equal(remote.status().sectionsOutstanding, 4);
    const errno = how === "killed" ? "EINTR" : "ETIMEDOUT";
    for (const { value } of writes.slice(0, 4)) assert.equal((value as FsError).errno, errno);
    const target = Buffer.alloc(SECTION);
    const read = outcome(remote.fileSystem.read(ctx, other, SECTION, target));
    const large = outcome(remote.fileSystem.read(ctx, other, 0, Buffer.alloc(CONTENT.length)));
    await pass(held, 1000);
    assert.deepEqual([read.value, large.value], [SECTION, CONTENT.length], how);
    assert.ok(target.equals(CONTENT.subarray(SECTION, 2 * SECTION)));
    const write = outcome(remote.fileSystem.write(ctx, other, 0, Buffer.alloc(2 * SECTION)));
    const fsync = outcome(remote.fileSystem.fsync({ ...ctx, followsWrites: true }, other, false));
    await pass(held, TIMEOUT_MS - 2000);
    assert.deepEqual([write.value, fsync.value], [undefined, undefined]);
    await pass(held, 4000);
    assert.ok(isTimeout(write.value) && isTimeout(fsync.value), `${write.value}, ${fsync.value}`);
    for (const { value } of writes) assert.equal((value as FsError).errno, errno);
    assert.ok(
      lines.some((line) => /warn client: requests given up, behind sections that hang in the server: \d/.test(line)),
    );
    gate.open();
    await settle();
    assert.equal(remote.status().sectionsOutstanding, 0);
    assert.equal(await remote.fileSystem.write(ctx, other, 0, CONTENT), CONTENT.length);
    await remote.close();
  }
});

test("while the server answers nobody, nothing times out, and a killed program still goes at once", async () => {
  const held = await heldDrive();
  const { gate, remote, links, clock } = held;
  const controller = new AbortController();
  const target = Buffer.alloc(SECTION);
  gate.gates.add("read");
  const seen = outcome(remote.fileSystem.read({ ...ctx, signal: controller.signal }, held.handle, 0, target));
  const other = outcome(remote.fileSystem.read(ctx, held.handle, 0, Buffer.alloc(2 * SECTION)));
  await gate.holding(1);
  for (const link of links) link.faults.isStalled = true;
  for (let at = 0; at < 10 * TIMEOUT_MS; at += 1000) clock.advance(1000);
  await settle();
  assert.deepEqual([seen.value, other.value], [undefined, undefined]);
  controller.abort();
  await settle();
  assert.ok(seen.value instanceof FsError && seen.value.errno === "EINTR");
  for (const link of links) {
    link.faults.isStalled = false;
    link.kick();
  }
  gate.open();
  for (let at = 0; at < 100 && other.value === undefined; at += 1) {
    clock.advance(500);
    await settle();
  }
  assert.equal(other.value, 2 * SECTION);
});

test("with a timeout of 0 it waits for ever, without a timer", async () => {
  const held = await heldDrive({ answerTimeoutMs: 0 });
  const { gate, remote, clock } = held;
  gate.gates.add("read");
  const timers = clock.pendingCount;
  const target = Buffer.alloc(SECTION);
  const reading = remote.fileSystem.read(ctx, held.handle, 0, target);
  await gate.holding(1);
  assert.equal(clock.pendingCount, timers);
  await pass(held, 3 * TIMEOUT_MS);
  assert.equal(gate.calls.filter((name) => name === "read").length, 1);
  gate.open();
  assert.equal(await reading, SECTION);
});

test("who closes the drive while sections are watched leaves no timer", async () => {
  const held = await heldDrive();
  held.gate.gates.add("read");
  const failed = assert.rejects(held.remote.fileSystem.read(ctx, held.handle as HandleId, 0, Buffer.alloc(10)));
  await held.gate.holding(1);
  await held.remote.close();
  await failed;
  held.gate.open();
  await settle();
  held.clock.advance(60_000);
  await settle();
  assert.equal(held.clock.pendingCount, 0);
  assert.equal(held.server.counters().sessions, 0);
});
