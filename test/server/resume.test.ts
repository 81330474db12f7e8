/** Coming back to opens: the verdicts, and keys that are none. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Remote } from "../../src/client/remote.ts";
import { openKey, resumeProof } from "../../src/resume/resume-proof.ts";
import { leftRecord, partsOfKey } from "../../src/server/state/records.ts";
import type { NodeId } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import type { Recovery } from "../../src/vfs/recovery.ts";
import { type BodyCodec, messageOf, messages } from "../../src/wire/codec.ts";
import type { Reply } from "../../src/wire/messages.ts";
import type { ResumeResult } from "../../src/wire/resume-fields.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, type LinkDrive, linkDrive, named, Peer } from "../support/link-drive.ts";
import { MemoryStore } from "../support/memory-store.ts";

const caller = { uid: 0, gid: 0, groups: [], pid: 1 };
const MADE = { mode: 0o100644, umask: 0 };
const BREAK_MS = 1000;

/** A peer that remembers the bodies of its replies. */
class Reader extends Peer {
  readonly replies: Record<string, unknown>[] = [];
  /** Numbers of the leases it is to give back, which it does not. */
  readonly breakIds: number[] = [];

  override frame(header: Parameters<Peer["frame"]>[0], body: Parameters<Peer["frame"]>[1]): void {
    const at = body.offset;
    if (header.opcode === messages.leaseBreak.row.code) {
      this.breakIds.push(messages.leaseBreak.request.read(body).breakId);
      body.offset = at;
    }
    if (header.flags === 1 && header.status === 0) {
      this.replies.push((messageOf(header.opcode).reply as BodyCodec).read(body) as Record<string, unknown>);
      body.offset = at;
    }
    super.frame(header, body);
  }
}

interface Opened {
  readonly drive: LinkDrive;
  readonly memory: MemoryFs;
  readonly peer: Reader;
  readonly handle: number;
  readonly keys: Reply<"create">;
  /** Reconnects and resumes with these keys; by default the right ones. */
  back(change?: {
    resumeKey?: Buffer;
    proof?: (transcript: Buffer) => Buffer;
  }): Promise<{ peer: Reader; result: ResumeResult }>;
}

function reader(drive: LinkDrive): Reader {
  return drive.peer(undefined, Reader);
}

async function opened(
  lease: Lease = Lease.NONE,
  memory = new MemoryFs(),
  options: Parameters<typeof linkDrive>[0] = {},
): Promise<Opened> {
  const limits = { keepMsMax: 60_000, courtesyMs: 60_000, leaseBreakMs: BREAK_MS };
  const drive = linkDrive({ fileSystem: memory, limits, ...options });
  const peer = reader(drive);
  await peer.setUp();
  const { id: parent } = await memory.root();
  peer.send("create", { caller, parent, name: named("f"), flags: 3, lease, ...MADE }, { tag: 1 });
  await settle();
  const handle = peer.headers.at(-1)?.handle ?? 0;
  const keys = peer.replies.at(-1) as unknown as Reply<"create">;
  peer.send("write", { caller, offsetBytes: 0, killSuidgid: false }, { tag: 2, handle }, Buffer.alloc(100, 1));
  await settle();
  const back: Opened["back"] = async (change = {}) => {
    const again = reader(drive);
    assert.match(await again.setUp({ sessionId: peer.sessionId }, peer.sessionKey), /^auth reply/);
    const resumeKey = change.resumeKey ?? keys.resumeKey;
    const right = resumeProof(openKey(peer.sessionKey, keys.openId), again.transcript, resumeKey);
    const proof = change.proof?.(again.transcript) ?? right;
    again.send("resume", { items: [{ resumeKey, proof }] }, { tag: 3 });
    await settle();
    const { results } = again.replies.at(-1) as unknown as Reply<"resume">;
    return { peer: again, result: results[0] as ResumeResult };
  };
  return { drive, memory, peer, handle, keys, back };
}

/** Another client, and the file as it knows it. */
async function another(drive: LinkDrive, memory: MemoryFs): Promise<{ remote: Remote; parent: NodeId; id: NodeId }> {
  const { remote } = await drive.connect();
  const { id: parent } = await memory.root();
  const { id } = await remote.fileSystem.lookup(ctx, parent, named("f"));
  return { remote, parent, id };
}

test("an open nobody has touched is unchanged, and its handle is good", async () => {
  const { peer, handle, back } = await opened();
  peer.link.destroy();
  await settle();
  const { peer: again, result } = await back();
  assert.equal(result.verdict, "unchanged");
  assert.equal(result.handle, handle);
  again.send("read", { caller, offsetBytes: 0, lengthBytes: 200 }, { tag: 4, handle });
  await settle();
  assert.equal(again.payloads.at(-1)?.length, 100);
});

test("an open is kept when its time is over, as long as nobody needs it", async () => {
  const { drive, peer, back } = await opened();
  peer.link.destroy();
  await settle();
  drive.clock.advance(60_001);
  await settle();
  assert.equal((await back()).result.verdict, "unchanged");
});

test("what another client has changed is told, with the ranges and who it was", async () => {
  const { drive, memory, peer, back } = await opened();
  const { remote, id } = await another(drive, memory);
  peer.link.destroy();
  await settle();
  const { handle } = await remote.fileSystem.open(ctx, id, 2);
  await remote.fileSystem.write(ctx, handle, 10, Buffer.from("new"));
  await remote.fileSystem.fallocate(ctx, handle, 0, 200, 50);
  const { result } = await back();
  assert.equal(result.verdict, "changed");
  assert.deepEqual(result.ranges, [
    { offsetBytes: 10, lengthBytes: 3 },
    { offsetBytes: 200, lengthBytes: 50 },
  ]);
  assert.equal(result.changedBy, "memory client");
  await remote.close();
});

test("what was written by another client's handle of the same open is told like any other change", async () => {
  const { drive, peer, keys, back } = await opened();
  const { openId, resumeKey, challenge } = keys;
  const ticket = { resumeKey, challenge, key: openKey(peer.sessionKey, openId) };
  const { remote } = await drive.connect({ ticket });
  const { handle } = await remote.attach(ctx, ticket);
  peer.link.destroy();
  await settle();
  await remote.fileSystem.write(ctx, handle, 10, Buffer.from("new"));
  const { result } = await back();
  assert.equal(result.verdict, "changed");
  assert.deepEqual(result.ranges, [{ offsetBytes: 10, lengthBytes: 3 }]);
  assert.equal(result.changedBy, "memory client");
  await remote.close();
});

test("many changes become one range that holds them all", async () => {
  const { drive, memory, peer, back } = await opened();
  const { remote, id } = await another(drive, memory);
  peer.link.destroy();
  await settle();
  const { handle } = await remote.fileSystem.open(ctx, id, 2);
  for (let at = 0; at < 9; at += 1) await remote.fileSystem.write(ctx, handle, at * 1000, Buffer.from("x"));
  assert.deepEqual((await back()).result.ranges, [{ offsetBytes: 0, lengthBytes: 8001 }]);
});

test("a change beside the server is told without ranges", async () => {
  const { memory, peer, back } = await opened();
  peer.link.destroy();
  await settle();
  const { id: parent } = await memory.root();
  const { id } = await memory.lookup(ctx, parent, named("f"));
  await memory.setattr(ctx, id, { sizeBytes: 5 });
  const { result } = await back();
  assert.equal(result.verdict, "changed");
  assert.deepEqual([result.ranges, result.changedBy], [[], ""]);
});

/** Another client gets to write to a file whose holder does not give its lease back. */
async function taken(
  held?: Opened,
): Promise<Opened & { write: (offsetBytes: number, text: string) => Promise<unknown> }> {
  const open = held ?? (await opened(Lease.WRITE));
  const { drive, memory } = open;
  const wait = another(drive, memory).then(async ({ remote, id }) => ({
    fileSystem: remote.fileSystem,
    handle: (await remote.fileSystem.open(ctx, id, 2)).handle,
  }));
  for (let ms = 0; ms < 2 * BREAK_MS; ms += 100) {
    await settle();
    drive.clock.advance(100);
  }
  const { fileSystem, handle } = await wait;
  return { ...open, write: (offsetBytes, text) => fileSystem.write(ctx, handle, offsetBytes, Buffer.from(text)) };
}

for (const how of ["before its old connection is missed", "after that"]) {
  test(`a client whose lease was taken away unheard is told what was changed since, when it comes back ${how}`, async () => {
    const { peer, write, back } = await taken();
    await write(10, "new");
    if (how === "after that") peer.link.destroy();
    await settle();
    const { result } = await back();
    assert.equal(result.verdict, "changed");
    assert.deepEqual(result.ranges, [{ offsetBytes: 10, lengthBytes: 3 }]);
    assert.equal(result.changedBy, "memory client");
    assert.equal(result.lease, Lease.NONE);
  });
}

test("what others changed is told again until the client shows by a request that it has heard of it", async () => {
  const { drive, memory, peer, handle, back } = await opened();
  const { remote, id } = await another(drive, memory);
  peer.link.destroy();
  await settle();
  const { handle: other } = await remote.fileSystem.open(ctx, id, 2);
  await remote.fileSystem.write(ctx, other, 10, Buffer.from("new"));
  for (const superseded of [false, true, false]) {
    const { peer: again, result } = await back();
    assert.equal(result.verdict, "changed");
    assert.deepEqual(result.ranges, [{ offsetBytes: 10, lengthBytes: 3 }]);
    // What may be asked before it has the verdict says nothing.
    again.send("write", { caller, offsetBytes: 0, killSuidgid: false }, { tag: 5, handle }, Buffer.from("mine"));
    again.send("flush", { caller }, { tag: 6, handle });
    await settle();
    if (!superseded) again.link.destroy();
    await settle();
  }
  const { peer: last } = await back();
  last.send("fallocate", { caller, mode: 0, offsetBytes: 0, lengthBytes: 10 }, { tag: 7, handle });
  await settle();
  await remote.fileSystem.write(ctx, other, 10, Buffer.from("new"));
  last.link.destroy();
  await settle();
  assert.equal((await back()).result.verdict, "unchanged", "what was done while it was there is no news");
});

test("what was changed after a lease was taken away unheard is told also if the verdict before was heard of later", async () => {
  for (const isReturned of [false, true]) {
    const held = await opened(Lease.WRITE);
    const { memory, handle, back } = held;
    held.peer.link.destroy();
    await settle();
    const { id: parent } = await memory.root();
    const { id } = await memory.lookup(ctx, parent, named("f"));
    await memory.setattr(ctx, id, { sizeBytes: 5 });
    const { peer, result } = await back();
    assert.deepEqual([result.verdict, result.ranges, result.lease], ["changed", [], Lease.WRITE]);
    const { write } = await taken(held);
    await write(10, "new");
    if (isReturned) peer.send("returnLease", { breakId: peer.breakIds.at(-1) ?? 0 });
    peer.send("fallocate", { caller, mode: 0, offsetBytes: 0, lengthBytes: 5 }, { tag: 7, handle });
    await settle();
    peer.link.destroy();
    await settle();
    const { result: last } = await back();
    assert.equal(last.verdict, isReturned ? "unchanged" : "changed");
    assert.deepEqual(last.ranges, isReturned ? [] : [{ offsetBytes: 10, lengthBytes: 3 }]);
  }
});

/** Finds files by the ids that they have as long as they are in memory. */
class RecoveringFs extends MemoryFs {
  readonly recovery: Recovery = {
    describe: () => Buffer.from("open"),
    describeNode: (id) => Buffer.from(id),
    peek: () => undefined,
    recall: () => assert.fail("the server goes on"),
    reopen: () => assert.fail("the server goes on"),
    syncNode: async () => {},
    sweep: async () => {},
  };
}

test("that others changed a file is written down until its client has heard of it, though it was lost once more with a request that runs on", async () => {
  const store = new MemoryStore();
  const left = () => [...store.records].filter(([key]) => partsOfKey(key)?.of === "left").map(([, value]) => value);
  const files = new RecoveringFs();
  const gated = new GatedFs(files);
  const { drive, memory, peer, handle, back } = await opened(Lease.NONE, files, {
    fileSystem: gated.fileSystem,
    memory: { store, records: new Map(), life: undefined, hostBootId: "" },
  });
  const { remote, id } = await another(drive, memory);
  peer.link.destroy();
  await settle();
  const { handle: other } = await remote.fileSystem.open(ctx, id, 2);
  await remote.fileSystem.write(ctx, other, 10, Buffer.from("new"));
  assert.deepEqual(left().map(leftRecord.decode), [{ version: undefined }]);

  const { peer: again } = await back();
  gated.gates.add("read");
  again.send("read", { caller, offsetBytes: 0, lengthBytes: 10 }, { tag: 4, handle });
  await settle();
  again.link.destroy();
  await settle();
  assert.equal(gated.held.length, 1);
  const { peer: last, result } = await back();
  assert.equal(result.verdict, "changed");
  gated.open();
  await settle();
  assert.equal(left().length, 1, "it may not have heard of it");
  last.send("fallocate", { caller, mode: 0, offsetBytes: 0, lengthBytes: 10 }, { tag: 7, handle });
  await settle();
  assert.equal(left().length, 0);
  await remote.close();
});

test("a lease that was taken away is no change, as long as nobody changes the file", async () => {
  const { drive, memory, back } = await taken();
  const { remote, id } = await another(drive, memory);
  await remote.fileSystem.setattr(ctx, id, { mode: 0o600 });
  const { result } = await back();
  assert.deepEqual([result.verdict, result.lease], ["unchanged", Lease.NONE]);
});

test("who says, late, that it has given its lease back has heard of what was changed before, and nothing else says so", async () => {
  const { peer, handle, write, back } = await taken();
  await write(10, "new");
  assert.equal(peer.breakIds.length, 2, "of what it had unsent, and of what it knew");
  peer.send("returnLease", { breakId: peer.breakIds[0] ?? 0 });
  peer.send("flush", { caller }, { tag: 9, handle });
  await settle();
  const { peer: again, result } = await back();
  assert.equal(result.verdict, "changed");
  again.link.destroy();
  await settle();

  const late = await taken();
  await late.write(10, "new");
  late.peer.send("returnLease", { breakId: late.peer.breakIds[1] ?? 0 });
  await settle();
  late.peer.link.destroy();
  await settle();
  assert.equal((await late.back()).result.verdict, "unchanged");
});

test("another name and other permissions are no change of the data", async () => {
  const { drive, memory, peer, back } = await opened();
  const { remote, parent, id } = await another(drive, memory);
  peer.link.destroy();
  await settle();
  await remote.fileSystem.setattr(ctx, id, { mode: 0o600 });
  await remote.fileSystem.link(ctx, id, parent, named("other"));
  await remote.fileSystem.rename(ctx, parent, named("f"), parent, named("g"), 0);
  await remote.fileSystem.unlink(ctx, parent, named("other"));
  assert.equal((await back()).result.verdict, "unchanged");
});

test("what the client itself did last, and never heard of, is not another's change", async () => {
  const { peer, handle, back } = await opened();
  peer.send("write", { caller, offsetBytes: 50, killSuidgid: false }, { tag: 4, handle }, Buffer.alloc(500, 2));
  await settle();
  peer.link.destroy();
  await settle();
  assert.equal((await back()).result.verdict, "unchanged");
});

test("an open that was closed is gone", async () => {
  const { peer, handle, back } = await opened();
  peer.send("release", { caller }, { tag: 5, handle });
  await settle();
  peer.link.destroy();
  await settle();
  assert.equal((await back()).result.verdict, "gone");
});

test("keys and proofs that are not right are answered like an open that is gone, and counted", async () => {
  const { drive, peer, keys, back } = await opened();
  peer.link.destroy();
  await settle();
  const before = drive.server.counters().refused;
  const flipped = Buffer.from(keys.resumeKey);
  flipped[20] = (flipped[20] ?? 0) ^ 1;
  const key = openKey(peer.sessionKey, keys.openId);
  const wrong = [
    { resumeKey: flipped },
    { resumeKey: keys.resumeKey.subarray(0, -1) },
    { proof: () => Buffer.alloc(32) },
    {
      proof: (transcript: Buffer) => resumeProof(openKey(peer.sessionKey, keys.openId + 1), transcript, keys.resumeKey),
    },
    { proof: () => resumeProof(key, peer.transcript, keys.resumeKey) },
  ];
  for (const change of wrong) assert.equal((await back(change)).result.verdict, "gone");
  assert.equal(drive.server.counters().refused, before + wrong.length);
  assert.equal((await back()).result.verdict, "unchanged", "the open itself is unharmed");
});

test("the key of another session opens nothing", async () => {
  const { drive, keys } = await opened();
  const other = reader(drive);
  await other.setUp();
  const proof = resumeProof(openKey(other.sessionKey, keys.openId), other.transcript, keys.resumeKey);
  other.send("resume", { items: [{ resumeKey: keys.resumeKey, proof }] }, { tag: 3 });
  await settle();
  assert.equal((other.replies.at(-1) as unknown as Reply<"resume">).results[0]?.verdict, "gone");
});

test("a client that came too late for the room there is finds its session ended", async () => {
  const drive = linkDrive({
    limits: { keepMsMax: 1000, courtesyMs: 1_000_000, sessionsMax: 2, bytesMax: 2 << 20, sessionBytesMax: 1 << 20 },
  });
  const peers = [drive.peer(), drive.peer()];
  for (const peer of peers) await peer.setUp();
  assert.match(await drive.peer().setUp(), /^goodbye tag=0 code=7 /);
  peers[0]?.link.destroy();
  await settle();
  assert.match(await drive.peer().setUp(), /^goodbye tag=0 code=7 /, "its time is not over");
  drive.clock.advance(1001);
  await settle();
  assert.match(await drive.peer().setUp(), /^auth reply/);
  const { sessionId, sessionKey } = peers[0] as Peer;
  assert.match(await drive.peer().setUp({ sessionId }, sessionKey), /^goodbye tag=0 code=5 /);
});
