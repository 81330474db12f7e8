/** A ready channel on the server: credits, tags, cancelling, ends, and limits a client cannot pass. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import { type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { type LinkDrive, linkDrive, named, type Peer } from "../support/link-drive.ts";

const caller = { uid: 0, gid: 0, groups: [], pid: 7 };
const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;
const NEW_FILE = { lease: Lease.NONE, mode: 0o100644, umask: 0 };

interface Ready {
  drive: LinkDrive;
  peer: Peer;
  gate: GatedFs;
  memory: MemoryFs;
  root: NodeId;
}

/** A peer past set-up, at a share whose calls can be held up. */
async function ready(options: Parameters<typeof linkDrive>[0] = {}): Promise<Ready> {
  const memory = new MemoryFs();
  const gate = new GatedFs(memory);
  const drive = linkDrive({ ...options, fileSystem: gate.fileSystem });
  const peer = drive.peer();
  assert.match(await peer.setUp(), /^auth reply/);
  const { id: root } = await memory.root();
  return { drive, peer, gate, memory, root };
}

async function create({ peer, root }: Ready, name = "f"): Promise<number> {
  const fields = { caller, parent: root, name: named(name), flags: READ_WRITE, ...NEW_FILE };
  peer.send("create", fields, { tag: 0x00070000 });
  await settle();
  const header = peer.headers.at(-1);
  assert.equal(header?.status, 0);
  return header?.handle ?? 0;
}

const write = { caller, offsetBytes: 0, killSuidgid: false };

test("answers come as the requests end, each with its own tag", async () => {
  const { peer, gate, root } = await ready();
  gate.gates.add("getattr");
  for (const tag of [0x00010000, 0x00010001, 0x00010002]) peer.send("getattr", { caller, id: root }, { tag });
  await gate.holding(3);
  const [first, second, third] = gate.held;
  third?.pass();
  await settle();
  second?.fail(new FsError("EACCES", "getattr"));
  await settle();
  first?.pass();
  await settle();
  const tail = peer.frames.slice(-3).map((text) => text.replace(/ attr=.*/, ""));
  assert.deepEqual(tail, ["getattr reply tag=65538", "getattr reply tag=65537 EACCES", "getattr reply tag=65536"]);
});

test("a request beyond the credits, and a tag whose slot is in use, end the connection", async () => {
  for (const [tag, expected] of [
    [8, /code=2 .*beyond the credits/],
    [0xffff, /code=2 /],
    [0x00020000, /code=3 .*in use/],
    [0x00010000, /code=3 .*in use/],
  ] as const) {
    const { peer, gate, root, drive } = await ready();
    gate.gates.add("getattr");
    peer.send("getattr", { caller, id: root }, { tag: 0x00010000 });
    await gate.holding(1);
    peer.send("getattr", { caller, id: root }, { tag });
    await settle();
    assert.match(peer.frames.at(-1) ?? "", expected);
    gate.open();
    peer.channel.destroy();
    await settle();
    assert.equal(drive.server.counters().channels, 0);
  }
});

test("all slots can be used at once, and again", async () => {
  const { peer, gate, root } = await ready();
  for (const turn of [1, 2, 3]) {
    gate.gates.add("getattr");
    for (let slot = 0; slot < 8; slot += 1) peer.send("getattr", { caller, id: root }, { tag: turn * 65_536 + slot });
    await gate.holding(8);
    gate.open();
    await settle();
  }
  assert.equal(peer.headers.filter(({ opcode }) => opcode === 19).length, 24);
});

test("cancel aborts the request's signal; the answer comes once it has settled", async () => {
  const { peer, gate, root } = await ready();
  gate.gates.add("getattr");
  gate.heedsSignal = true;
  peer.send("getattr", { caller, id: root }, { tag: 5 });
  await gate.holding(1);
  peer.send("cancel", { canceledTag: 5 });
  await settle();
  assert.equal(peer.frames.at(-1), "getattr reply tag=5 EINTR");
});

test("cancel of a request that succeeds all the same is answered with the truth", async () => {
  const { peer, gate, root } = await ready();
  gate.gates.add("mkdir");
  const fields = { caller, parent: root, name: named("d"), mode: 0o755, umask: 0 };
  peer.send("mkdir", fields, { tag: 5 });
  await gate.holding(1);
  peer.send("cancel", { canceledTag: 5 });
  await settle();
  assert.equal(gate.held.length, 1);
  assert.equal(gate.held[0]?.ctx.signal?.aborted, true);
  gate.open();
  await settle();
  assert.match(peer.frames.at(-1) ?? "", /^mkdir reply tag=5 id=/);
});

test("cancel of what is not there changes nothing", async () => {
  const { peer, gate, root } = await ready();
  gate.gates.add("getattr");
  peer.send("getattr", { caller, id: root }, { tag: 0x00010005 });
  await gate.holding(1);
  for (const canceledTag of [0x00010004, 0x00020005, 5, 0xffffffff]) peer.send("cancel", { canceledTag });
  await settle();
  assert.equal(gate.held[0]?.ctx.signal?.aborted, false);
  gate.open();
  await settle();
  peer.send("cancel", { canceledTag: 0x00010005 });
  await settle();
  assert.match(peer.frames.at(-1) ?? "", /^getattr reply tag=65541 attr=/);
  assert.equal(peer.isClosed, false);
});

test("a connection's death aborts what may run again; the rest goes on, and is kept for the client's time", async () => {
  const { peer, gate, root, memory, drive } = await ready();
  const handle = await create({ peer, gate, root, memory, drive });
  assert.notEqual(handle, 0);
  for (const name of ["open", "read"]) gate.gates.add(name);
  const { id } = await memory.lookup({ caller }, root, named("f"));
  peer.send("open", { caller, id, flags: READ_WRITE, contentBytesMax: 0, lease: Lease.NONE }, { tag: 1 });
  peer.send("read", { caller, offsetBytes: 0, lengthBytes: 10 }, { tag: 2, handle });
  await gate.holding(2);
  peer.link.destroy();
  await settle();
  assert.deepEqual(
    gate.held.map(({ name, ctx }) => [name, ctx.signal?.aborted]),
    [
      ["open", false],
      ["read", true],
    ],
  );
  gate.open();
  await settle();
  assert.equal(memory.openCount, 2);
  assert.equal(drive.server.counters().bufferBytes, 0);
  drive.clock.advance(10_000);
  await settle();
  assert.equal(memory.openCount, 0);
  assert.equal(drive.server.counters().sessions, 0);
  assert.equal(drive.clock.pendingCount, 0);
});

test("a session without channels is kept for its time, and joined in time it stays", async () => {
  const state = await ready({ limits: { keepMsMax: 500 } });
  const { peer, memory, drive } = state;
  const handle = await create(state);
  peer.channel.destroy();
  await settle();
  drive.clock.advance(499);
  await settle();
  assert.equal(memory.openCount, 1);
  const again = drive.peer();
  assert.match(await again.setUp({ sessionId: peer.sessionId }, peer.sessionKey), /^auth reply/);
  drive.clock.advance(10_000);
  await settle();
  assert.equal(memory.openCount, 1);
  again.send("write", write, { tag: 1, handle }, Buffer.from("still"));
  await settle();
  assert.match(again.frames.at(-1) ?? "", /writtenBytes=5/);
  again.channel.destroy();
  await settle();
  drive.clock.advance(500);
  await settle();
  assert.equal(memory.openCount, 0);
  const late = drive.peer();
  assert.match(await late.setUp({ sessionId: peer.sessionId }, peer.sessionKey), /^goodbye tag=0 code=5 /);
});

test("a goodbye as planned ends the session at once", async () => {
  const state = await ready();
  await create(state);
  state.peer.send("goodbye", { code: 0, reason: "" });
  await settle();
  assert.equal(state.memory.openCount, 0);
  assert.equal(state.drive.server.counters().sessions, 0);
});

test("release makes the handle invalid at once and closes after the requests before it", async () => {
  const state = await ready();
  const { peer, gate, memory } = state;
  const handle = await create(state);
  gate.gates.add("write");
  peer.send("write", write, { tag: 1, handle }, Buffer.from("data"));
  await gate.holding(1);
  peer.send("release", { caller }, { tag: 2, handle });
  peer.send("read", { caller, offsetBytes: 0, lengthBytes: 1 }, { tag: 3, handle });
  await settle();
  assert.equal(peer.frames.at(-1), `read reply tag=3 handle=${handle} EBADF`);
  assert.equal(memory.openCount, 1);
  gate.open();
  await settle();
  assert.equal(memory.openCount, 0);
  // Nobody waits for it.
  state.drive.clock.advance(2);
  await settle();
  assert.deepEqual(peer.frames.slice(-2), [
    `write reply tag=1 handle=${handle} writtenBytes=4`,
    `release reply tag=2 handle=${handle}`,
  ]);
  peer.send("release", { caller }, { tag: 4, handle });
  await settle();
  assert.equal(peer.frames.at(-1), `release reply tag=4 handle=${handle} EBADF`);
});

test("the answer to a release that nobody waits for leaves with the next one", async () => {
  const state = await ready();
  const { peer, memory } = state;
  const handle = await create(state);
  const opened = memory.openCount;
  const before = peer.frames.length;
  peer.send("release", { caller }, { tag: 1, handle });
  peer.send("statfs", { caller, id: state.root }, { tag: 2 });
  await settle();
  assert.match(peer.frames.at(-1) as string, /^statfs reply tag=2/);
  assert.equal(peer.frames.length, before + 1);
  assert.equal(memory.openCount, opened - 1);
  peer.send("statfs", { caller, id: state.root }, { tag: 3 });
  await settle();
  assert.deepEqual(
    peer.frames.slice(before + 1).map((frame) => frame.split(" ").slice(0, 3).join(" ")),
    ["release reply tag=1", "statfs reply tag=3"],
  );
});

test("handles of directories and files are not taken for each other", async () => {
  const state = await ready();
  const { peer, root } = state;
  const file = await create(state);
  peer.send("opendir", { caller, id: root, lease: 0 }, { tag: 1 });
  await settle();
  const directory = peer.headers.at(-1)?.handle ?? 0;
  peer.send("read", { caller, offsetBytes: 0, lengthBytes: 1 }, { tag: 1, handle: directory });
  peer.send("readdir", { caller, cookie: 0n, bytesMax: 4096, withEntries: true }, { tag: 2, handle: file });
  peer.send("fsync", { caller, dataOnly: true }, { tag: 3, handle: 12_345 });
  await settle();
  assert.deepEqual(
    peer.frames.slice(-3).map((text) => text.split(" ").at(-1)),
    ["EISDIR", "ENOTDIR", "EBADF"],
  );
});

test("opens are bounded, also those that are being made", async () => {
  const state = await ready({ limits: { opensPerSessionMax: 2 } });
  const { peer, gate, root, memory } = state;
  await create(state, "a");
  gate.gates.add("opendir");
  peer.send("opendir", { caller, id: root, lease: 0 }, { tag: 1 });
  await gate.holding(1);
  peer.send("opendir", { caller, id: root, lease: 0 }, { tag: 2 });
  await settle();
  assert.equal(peer.frames.at(-1), "opendir reply tag=2 EMFILE");
  gate.held[0]?.fail(new FsError("EACCES", "opendir"));
  await settle();
  gate.gates.clear();
  peer.send("opendir", { caller, id: root, lease: 0 }, { tag: 3 });
  await settle();
  assert.match(peer.frames.at(-1) ?? "", /^opendir reply tag=3 handle=\d+ lease=none$/);
  assert.equal(memory.openCount, 2);
});

test("sizes beyond what was agreed end the connection", async () => {
  const big = Buffer.alloc(65_537);
  const cases: [string, (state: Ready, handle: number) => void][] = [
    [
      "read",
      ({ peer }, handle) => peer.send("read", { caller, offsetBytes: 0, lengthBytes: 65_537 }, { tag: 1, handle }),
    ],
    ["payload", ({ peer }, handle) => peer.send("write", write, { tag: 1, handle }, big)],
    [
      "readdir",
      ({ peer }, handle) => {
        peer.send("readdir", { caller, cookie: 0n, bytesMax: 2 ** 31, withEntries: true }, { tag: 1, handle });
      },
    ],
    [
      "open",
      ({ peer, root }) =>
        peer.send("open", { caller, id: root, flags: 1, contentBytesMax: 2 ** 24, lease: Lease.NONE }, { tag: 1 }),
    ],
    [
      "symlink",
      ({ peer, root }) =>
        peer.send("symlink", { caller, parent: root, name: named("l") }, { tag: 1 }, big.subarray(0, 4096)),
    ],
    ["symlink", ({ peer, root }) => peer.send("symlink", { caller, parent: root, name: named("l") }, { tag: 1 })],
  ];
  for (const [what, act] of cases) {
    const state = await ready();
    const handle = await create(state);
    act(state, handle);
    await settle();
    assert.match(state.peer.frames.at(-1) ?? "", new RegExp(`^goodbye tag=0 code=2 reason="${what}`));
    assert.equal(state.drive.server.counters().bufferBytes, 0);
  }
});

test("values a file system must not see are refused with EINVAL", async () => {
  const state = await ready();
  const { peer, root, gate } = state;
  const handle = await create(state);
  peer.send("open", { caller, id: root, flags: 1 << 20, contentBytesMax: 0, lease: Lease.NONE }, { tag: 1 });
  peer.send("access", { caller, id: root, mask: 8 }, { tag: 2 });
  peer.send("symlink", { caller, parent: root, name: named("l") }, { tag: 3 }, Buffer.from("a\0b"));
  await settle();
  assert.deepEqual(
    peer.frames.slice(-3).map((text) => text.split(" ").at(-1)),
    ["EINVAL", "EINVAL", "EINVAL"],
  );
  assert.deepEqual(gate.calls.slice(-2), ["create", "getattr"], "nothing came through");
  peer.send(
    "copyFileRange",
    { caller, offsetBytes: 0, targetHandle: 99, targetOffsetBytes: 0, lengthBytes: 1 },
    { tag: 4, handle },
  );
  await settle();
  assert.match(peer.frames.at(-1) ?? "", /EBADF$/);
});

test("an unexpected error of the file system is EIO for the client and a line with a stack in the log", async () => {
  const { peer, gate, root, drive } = await ready();
  gate.gates.add("getattr");
  peer.send("getattr", { caller, id: root }, { tag: 1 });
  await gate.holding(1);
  gate.held[0]?.fail(new TypeError("a bug"));
  await settle();
  assert.equal(peer.frames.at(-1), "getattr reply tag=1 EIO");
  assert.match(drive.lines.at(-1) ?? "", /getattr: unexpected error: TypeError: a bug/);
});

test("what a file system returns and the protocol cannot say is EIO, and an open made of it is closed", async () => {
  const { peer, gate, root, memory } = await ready();
  gate.gates.add("create");
  const fields = { caller, parent: root, name: named("f"), flags: READ_WRITE, ...NEW_FILE };
  peer.send("create", fields, { tag: 1 });
  await gate.holding(1);
  const { entry, opened } = await memory.create({ caller }, root, named("f"), READ_WRITE, { mode: 0o100644, umask: 0 });
  gate.held[0]?.answer({ entry: { ...entry, id: "x".repeat(65) as NodeId }, opened });
  await settle();
  assert.equal(peer.frames.at(-1), "create reply tag=1 EIO");
  assert.equal(memory.openCount, 0);
  assert.equal(peer.isClosed, false);
});

test("resume keys differ for each open, and can be asked for again", async () => {
  const state = await ready();
  const { peer } = state;
  const handle = await create(state);
  const bodies = new Set<string>();
  for (const tag of [1, 2]) peer.send("queryKey", {}, { tag, handle });
  await settle();
  for (const text of peer.frames.slice(-2)) {
    assert.match(text, /resumeKey=<73 bytes> serviceBlob=<18 bytes> challenge=<16 bytes>$/);
    bodies.add(text);
  }
  assert.equal(bodies.size, 2);
});

test("forget reaches the file system", async () => {
  const { peer, memory, root } = await ready();
  peer.send("forget", { ids: [root, "x" as NodeId] });
  await settle();
  assert.deepEqual(memory.forgotten, [root, "x"]);
});

test("closing lets requests end, says why, and releases everything", async () => {
  const state = await ready();
  const { peer, gate, root, drive, memory } = state;
  await create(state);
  gate.gates.add("getattr");
  peer.send("getattr", { caller, id: root }, { tag: 1 });
  await gate.holding(1);
  const idle = drive.peer();
  await idle.setUp();
  const unproven = drive.peer();
  const closing = drive.server.close();
  await settle();
  assert.match(idle.frames.at(-1) ?? "", /^goodbye tag=0 code=8 /);
  assert.match(unproven.frames.at(-1) ?? "", /^goodbye tag=0 code=8 /);
  assert.doesNotMatch(peer.frames.at(-1) ?? "", /goodbye/);
  gate.open();
  await settle();
  assert.match(peer.frames.at(-2) ?? "", /^getattr reply/);
  assert.match(peer.frames.at(-1) ?? "", /^goodbye tag=0 code=8 /);
  for (const one of [peer, idle, unproven]) one.channel.destroy();
  await closing;
  assert.equal(memory.openCount, 0);
  assert.equal(drive.server.counters().sessions, 0);
  const late = drive.peer();
  await settle();
  assert.equal(late.isClosed, true);
});

test("closing does not wait for a file system that never answers, nor for a client that takes nothing", async () => {
  const { peer, gate, root, drive } = await ready();
  gate.gates.add("getattr");
  peer.send("getattr", { caller, id: root }, { tag: 1 });
  await gate.holding(1);
  peer.link.faults.isStalled = true;
  let isClosed = false;
  const closing = drive.server.close().then(() => {
    isClosed = true;
  });
  await settle();
  assert.equal(isClosed, false);
  drive.clock.advance(2000);
  await settle();
  drive.clock.advance(2000);
  await closing;
  assert.equal(drive.clock.pendingCount, 0);
});

test("writes that end together are answered together, as many as one notice may have; others by themselves", async () => {
  const state = await ready({ limits: { creditsMax: 512, sessionBytesMax: 1 << 26 } });
  const peer = state.drive.peer();
  await peer.setUp({ credits: 512, sessionId: state.peer.sessionId, channelKind: 2 }, state.peer.sessionKey);
  const handle = await create(state);
  const put = (tag: number, payload: Buffer) => peer.send("write", write, { tag, handle }, payload);
  put(0, Buffer.from("alone"));
  await settle();
  assert.equal(peer.frames.at(-1), `write reply tag=0 handle=${handle} writtenBytes=5`);
  const before = peer.frames.length;
  state.gate.gates.add("write");
  for (let tag = 0; tag < 300; tag += 1) put(65_536 + tag, Buffer.alloc(3));
  peer.send("write", write, { tag: 400, handle });
  await state.gate.holding(301);
  state.gate.held[7]?.fail(new FsError("ENOSPC", "write"));
  state.gate.open();
  await settle();
  const tags = Array.from({ length: 300 }, (_, tag) => 65_536 + tag).filter((tag) => tag !== 65_543);
  assert.deepEqual(peer.frames.slice(before).toSorted(), [
    `write reply tag=400 handle=${handle} writtenBytes=0`,
    `write reply tag=65543 handle=${handle} ENOSPC`,
    `written tag=0 tags=[${tags.slice(0, 256).join(" ")}]`,
    `written tag=0 tags=[${tags.slice(256).join(" ")}]`,
  ]);
  assert.equal(peer.isClosed, false);
  assert.equal(state.drive.server.counters().bufferBytes, 0);
});

test("a drain waits for the answers of writes that have just ended", async () => {
  const state = await ready();
  const { peer, gate, drive } = state;
  const handle = await create(state);
  gate.gates.add("write");
  for (const tag of [1, 2]) peer.send("write", write, { tag, handle }, Buffer.from("data"));
  await gate.holding(2);
  const closing = drive.server.close();
  await settle();
  gate.open();
  await settle();
  assert.deepEqual(
    peer.frames.slice(-2).map((text) => text.replace(/ code=.*/, "")),
    ["written tag=0 tags=[1 2]", "goodbye tag=0"],
  );
  await closing;
});

test("a client may not say that something is written", async () => {
  const { peer } = await ready();
  peer.send("written", { tags: [1] });
  await settle();
  assert.match(peer.frames.at(-1) ?? "", /^goodbye tag=0 code=3 .*not for a client/);
});
