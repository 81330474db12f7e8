/** Requests sent again after a lost connection: what may run twice does, what may not is answered from what was kept. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Lease } from "../../src/vfs/lease.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { type LinkDrive, linkDrive, named, type Peer } from "../support/link-drive.ts";

const caller = { uid: 0, gid: 0, groups: [], pid: 1 };

interface Away {
  readonly drive: LinkDrive;
  readonly gate: GatedFs;
  readonly memory: MemoryFs;
  readonly peer: Peer;
  readonly parent: Awaited<ReturnType<MemoryFs["root"]>>["id"];
  /** A new connection of the same channel. */
  back(): Promise<Peer>;
}

async function start(): Promise<Away> {
  const memory = new MemoryFs();
  const gate = new GatedFs(memory);
  const drive = linkDrive({ fileSystem: gate.fileSystem });
  const peer = drive.peer();
  assert.match(await peer.setUp(), /^auth reply/);
  const { id: parent } = await memory.root();
  const back = async () => {
    const again = drive.peer();
    assert.match(await again.setUp({ sessionId: peer.sessionId }, peer.sessionKey), /^auth reply/);
    return again;
  };
  return { drive, gate, memory, peer, parent, back };
}

const mkdir = (away: Away, peer: Peer, tag: number, name = "d") =>
  peer.send("mkdir", { caller, parent: away.parent, name: named(name), mode: 0o755, umask: 0 }, { tag });

test("a request that had ended before the connection was lost is answered with the reply kept", async () => {
  const away = await start();
  mkdir(away, away.peer, 0x30002);
  await settle();
  const first = away.peer.frames.at(-1);
  away.peer.link.destroy();
  await settle();
  const again = await away.back();
  mkdir(away, again, 0x30002);
  await settle();
  assert.equal(again.frames.at(-1), first);
  assert.equal(away.gate.calls.filter((name) => name === "mkdir").length, 1);
  mkdir(away, again, 0x40002);
  await settle();
  assert.match(again.frames.at(-1) ?? "", /^mkdir reply tag=262146 EEXIST/);
});

test("a failure is kept like a success", async () => {
  const away = await start();
  mkdir(away, away.peer, 1);
  mkdir(away, away.peer, 2);
  await settle();
  away.peer.link.destroy();
  await away.memory.rmdir({ caller }, away.parent, named("d"));
  const again = await away.back();
  mkdir(away, again, 2);
  await settle();
  assert.match(again.frames.at(-1) ?? "", /^mkdir reply tag=2 EEXIST/);
});

test("a request that still runs is answered once, on the new connection", async () => {
  const away = await start();
  away.gate.gates.add("mkdir");
  mkdir(away, away.peer, 5);
  await away.gate.holding(1);
  away.peer.link.destroy();
  await settle();
  assert.equal(away.gate.held[0]?.ctx.signal?.aborted, false);
  const again = await away.back();
  mkdir(away, again, 5);
  await settle();
  away.gate.open();
  await settle();
  assert.deepEqual(
    again.frames.filter((frame) => frame.startsWith("mkdir")).map((frame) => frame.slice(0, 17)),
    ["mkdir reply tag=5"],
  );
  assert.equal(away.gate.calls.filter((name) => name === "mkdir").length, 1);
});

test("what may run again is aborted with its connection, and runs again", async () => {
  const away = await start();
  away.gate.gates.add("getattr");
  away.peer.send("getattr", { caller, id: away.parent }, { tag: 1 });
  await away.gate.holding(1);
  away.peer.link.destroy();
  await settle();
  assert.equal(away.gate.held[0]?.ctx.signal?.aborted, true);
  away.gate.gates.clear();
  const again = await away.back();
  again.send("getattr", { caller, id: away.parent }, { tag: 1 });
  await settle();
  assert.match(again.frames.at(-1) ?? "", /^getattr reply tag=1 attr/);
  away.gate.open();
  await settle();
  assert.equal(again.frames.filter((frame) => frame.startsWith("getattr")).length, 1);
});

test("the payload of a write sent again is thrown away, cut as it may be", async () => {
  const away = await start();
  const made = { caller, parent: away.parent, name: named("f"), flags: 7, lease: Lease.NONE, mode: 0o100644, umask: 0 };
  away.peer.send("create", made, { tag: 1 });
  await settle();
  const handle = away.peer.headers.at(-1)?.handle ?? 0;
  const append = (peer: Peer, tag: number) =>
    peer.send("write", { caller, offsetBytes: 0, killSuidgid: false }, { tag, handle }, Buffer.alloc(20_000, 7));
  append(away.peer, 2);
  await settle();
  away.peer.link.destroy();
  await settle();
  const again = await away.back();
  again.link.faults.splitBytes = 999;
  append(again, 2);
  append(again, 3);
  await settle();
  assert.deepEqual(
    again.frames.slice(-2).map((frame) => frame.replace(/handle=\d+ /, "")),
    ["write reply tag=2 writtenBytes=20000", "write reply tag=3 writtenBytes=20000"],
  );
  const { attr } = await away.memory.lookup({ caller }, away.parent, named("f"));
  assert.equal(attr.sizeBytes, 40_000);
  assert.equal(away.drive.server.counters().bufferBytes, 0);
});

test("a write cut off in its payload never ran, and runs when it comes whole", async () => {
  const away = await start();
  const made = { caller, parent: away.parent, name: named("f"), flags: 3, lease: Lease.NONE, mode: 0o100644, umask: 0 };
  away.peer.send("create", made, { tag: 1 });
  await settle();
  const handle = away.peer.headers.at(-1)?.handle ?? 0;
  const write = (peer: Peer) =>
    peer.send("write", { caller, offsetBytes: 0, killSuidgid: false }, { tag: 2, handle }, Buffer.alloc(50_000, 7));
  away.peer.link.faults.splitBytes = 1000;
  away.peer.link.faults.cutAtByte = 10_000;
  write(away.peer);
  await settle();
  const again = await away.back();
  write(again);
  await settle();
  assert.match(again.frames.at(-1) ?? "", /^write reply tag=2 .*writtenBytes=50000/);
  assert.equal(away.gate.calls.filter((name) => name === "write").length, 1);
  assert.equal(away.drive.server.counters().bufferBytes, 0);
});

test("another request in the slot of one that runs means that nobody wants that any more", async () => {
  const away = await start();
  away.gate.gates.add("create");
  const made = { caller, parent: away.parent, name: named("f"), flags: 3, lease: Lease.NONE, mode: 0o100644, umask: 0 };
  away.peer.send("create", made, { tag: 1 });
  await away.gate.holding(1);
  away.peer.link.destroy();
  await settle();
  const again = await away.back();
  again.send("getattr", { caller, id: away.parent }, { tag: 0x10001 });
  await settle();
  assert.match(again.frames.at(-1) ?? "", /^getattr reply/);
  away.gate.open();
  await settle();
  assert.equal(away.memory.openCount, 0, "the open made for nobody is closed");
  assert.equal(away.drive.server.counters().handles, 0);
});

test("a connection takes the place of one that nobody has missed yet", async () => {
  const away = await start();
  away.gate.gates.add("mkdir");
  mkdir(away, away.peer, 5);
  await away.gate.holding(1);
  const again = await away.back();
  await settle();
  assert.equal(away.peer.isClosed, true);
  mkdir(away, again, 5);
  away.gate.open();
  await settle();
  assert.match(again.frames.at(-1) ?? "", /^mkdir reply tag=5 id/);
});

test("a tag used again for something else ends the connection", async () => {
  const away = await start();
  mkdir(away, away.peer, 5);
  await settle();
  away.peer.send("rmdir", { caller, parent: away.parent, name: named("d") }, { tag: 5 });
  await settle();
  assert.match(away.peer.frames.at(-1) ?? "", /^goodbye tag=0 code=3 /);
});
