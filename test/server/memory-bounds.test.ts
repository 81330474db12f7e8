/** Memory of the server: pooled buffers, slow clients, and many of them. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { OpenFlag } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { linkDrive, named, type Peer } from "../support/link-drive.ts";

const caller = { uid: 0, gid: 0, groups: [], pid: 7 };
const SECTION = 65_536;
const LIMITS = {
  sectionBytesMax: SECTION,
  sessionBytesReserved: SECTION,
  sessionBytesMax: 4 * SECTION,
  bytesMax: 8 * SECTION,
  sessionsMax: 4,
};

async function drive() {
  const memory = new MemoryFs();
  const gate = new GatedFs(memory);
  const linked = linkDrive({ fileSystem: gate.fileSystem, limits: LIMITS });
  const { id: root } = await memory.root();
  const ready = async (): Promise<{ peer: Peer; handle: number }> => {
    const peer = linked.peer();
    await peer.setUp({ credits: 64 });
    const fields = { caller, parent: root, name: named("f"), flags: 3, lease: Lease.NONE, mode: 0o100644, umask: 0 };
    peer.send("create", fields, { tag: 63 });
    await settle();
    return { peer, handle: peer.headers.at(-1)?.handle ?? 0 };
  };
  const { handle } = await gate.fileSystem
    .create({ caller }, root, named("f"), OpenFlag.WRITE, { mode: 0o100644, umask: 0 })
    .then(({ opened }) => opened);
  await memory.write({ caller }, handle, 0, Buffer.alloc(64 * SECTION, 0x5a));
  await memory.release({ caller }, handle);
  return { ...linked, gate, memory, ready };
}

test("a client that takes no answers holds no more than its share, others read on, and its own go on when it does", async () => {
  const { ready, server } = await drive();
  const slow = await ready();
  const quick = await ready();
  slow.peer.link.pause();
  for (let tag = 0; tag < 40; tag += 1) {
    slow.peer.send("read", { caller, offsetBytes: tag * SECTION, lengthBytes: SECTION }, { tag, handle: slow.handle });
  }
  for (let round = 0; round < 5; round += 1) await settle();
  assert.ok(server.counters().bufferBytes <= LIMITS.sessionBytesMax);
  for (let tag = 0; tag < 40; tag += 1) {
    quick.peer.send(
      "read",
      { caller, offsetBytes: tag * SECTION, lengthBytes: SECTION },
      { tag, handle: quick.handle },
    );
    await settle();
    assert.ok(server.counters().bufferBytes <= LIMITS.bytesMax);
  }
  assert.equal(quick.peer.payloads.length, 40);
  slow.peer.link.resume();
  for (let round = 0; round < 30; round += 1) await settle();
  assert.equal(slow.peer.payloads.length, 40);
  assert.ok(
    slow.peer.payloads.every((payload) => payload.length === SECTION && payload.every((byte) => byte === 0x5a)),
  );
  assert.equal(server.counters().bufferBytes, 0);
});

test("writes beyond a session's memory wait in the socket, and none is lost", async () => {
  const { ready, gate, server, memory } = await drive();
  const { peer, handle } = await ready();
  gate.gates.add("write");
  for (let tag = 0; tag < 20; tag += 1) {
    const fields = { caller, offsetBytes: tag * SECTION, killSuidgid: false };
    peer.send("write", fields, { tag, handle }, Buffer.alloc(SECTION, tag + 1));
  }
  for (let round = 0; round < 5; round += 1) await settle();
  assert.equal(gate.held.length, 4);
  assert.equal(server.counters().bufferBytes, LIMITS.sessionBytesMax);
  while (gate.held.length > 0) {
    gate.held[0]?.pass();
    await settle();
    assert.ok(server.counters().bufferBytes <= LIMITS.sessionBytesMax);
  }
  assert.equal(peer.headers.filter(({ opcode, status }) => opcode === 36 && status === 0).length, 20);
  const inner = await memory.lookup({ caller }, (await memory.root()).id, named("f"));
  const { handle: check } = await memory.open({ caller }, inner.id, OpenFlag.READ);
  const target = Buffer.alloc(20 * SECTION);
  await memory.read({ caller }, check, 0, target);
  for (let at = 0; at < 20; at += 1) assert.equal(target[at * SECTION + 5], at + 1);
  assert.equal(server.counters().bufferBytes, 0);
});

test("a client that dies while its write waits for memory, or is half there, leaves none behind", async () => {
  const { ready, gate, server, clock } = await drive();
  const { peer, handle } = await ready();
  gate.gates.add("write");
  for (let tag = 0; tag < 6; tag += 1) {
    const fields = { caller, offsetBytes: 0, killSuidgid: false };
    peer.send("write", fields, { tag, handle }, Buffer.alloc(SECTION));
  }
  await settle();
  peer.channel.destroy();
  await settle();
  gate.open();
  await settle();
  assert.equal(server.counters().bufferBytes, 0);
  const half = await ready();
  half.peer.link.faults.cutAtByte = half.peer.channel.sentBytes + 1000;
  half.peer.send(
    "write",
    { caller, offsetBytes: 0, killSuidgid: false },
    { tag: 1, handle: half.handle },
    Buffer.alloc(SECTION),
  );
  await settle();
  assert.equal(server.counters().bufferBytes, 0);
  clock.advance(60_000);
  await settle();
  assert.equal(server.counters().sessions, 0);
});

test("a canceled read that waits for memory ends at once", async () => {
  const { ready, gate } = await drive();
  const { peer, handle } = await ready();
  gate.gates.add("read");
  for (let tag = 0; tag < 5; tag += 1) {
    peer.send("read", { caller, offsetBytes: 0, lengthBytes: SECTION }, { tag, handle });
  }
  await gate.holding(4);
  peer.send("cancel", { canceledTag: 4 });
  await settle();
  assert.equal(peer.frames.at(-1), `read reply tag=4 handle=${handle} EINTR`);
  gate.open();
  await settle();
  assert.equal(peer.payloads.length, 4);
});

test("a client that asks without end and takes no answer does not make the server hold them", async () => {
  const { ready, server, gate } = await drive();
  const { peer, handle } = await ready();
  peer.link.pause();
  const before = gate.calls.length;
  let tag = 0;
  for (let round = 0; round < 400; round += 1) {
    for (let slot = 0; slot < 60; slot += 1) {
      tag += 1;
      const turn = (tag % 65_536) * 65_536 + slot;
      peer.send("read", { caller, offsetBytes: 0, lengthBytes: 8000 }, { tag: turn, handle });
    }
    await settle();
  }
  const answered = gate.calls.length - before;
  assert.ok(answered < 200, `${answered} answers of 8000 bytes are held for a bound of 256 KiB`);
  assert.ok(server.counters().receivedBytes < 1024 * 1024);
  const other = await ready();
  assert.equal(other.peer.isClosed, false);
  peer.channel.destroy();
  await settle();
  assert.equal(server.counters().bufferBytes, 0);
});

test("a client that pings without end and takes no echo is not read from any more, until it does", async () => {
  const { ready, server } = await drive();
  const { peer } = await ready();
  const before = server.counters().receivedBytes;
  peer.link.pause();
  for (let echo = 0; echo < 60_000; echo += 1) peer.send("ping", { echo });
  for (let round = 0; round < 100; round += 1) await settle();
  // Of the echoes up to 256 KiB are in the link, and hardly more wait for it.
  const received = server.counters().receivedBytes - before;
  assert.ok(received < 768 * 1024, `${received} bytes`);
  const other = await ready();
  assert.equal(other.peer.isClosed, false);
  peer.link.resume();
  for (let round = 0; round < 100; round += 1) await settle();
  assert.equal(peer.frames.filter((text) => text.startsWith("ping ")).length, 60_000);
});

test("pages and attributes count as a session's memory, from before they are made", async () => {
  const { ready, gate, server } = await drive();
  const { peer } = await ready();
  const { id } = await gate.fileSystem.root({ caller });
  gate.gates.add("getxattr");
  for (let tag = 0; tag < 6; tag += 1) peer.send("getxattr", { caller, id, name: named("user.a") }, { tag });
  await settle();
  assert.equal(gate.held.length, 4);
  assert.equal(server.counters().bufferBytes, LIMITS.sessionBytesMax);
  while (gate.held.length > 0) {
    gate.held[0]?.pass();
    await settle();
  }
  assert.equal(server.counters().bufferBytes, 0);
  assert.equal(peer.frames.filter((text) => text.endsWith("ENODATA")).length, 6);
});
