/** Requests that follow writes wait on the server for those to their node that came before them on the channel, and for nothing else. */
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
const write = { caller, offsetBytes: 0, killSuidgid: false };

interface Ready {
  drive: LinkDrive;
  peer: Peer;
  gate: GatedFs;
  memory: MemoryFs;
  root: NodeId;
}

async function ready(): Promise<Ready> {
  const memory = new MemoryFs();
  const gate = new GatedFs(memory);
  const drive = linkDrive({ fileSystem: gate.fileSystem });
  const peer = drive.peer();
  assert.match(await peer.setUp(), /^auth reply/);
  const { id: root } = await memory.root();
  return { drive, peer, gate, memory, root };
}

async function create({ peer, root }: Ready, name: string, tag: number): Promise<number> {
  const fields = {
    caller,
    parent: root,
    name: named(name),
    flags: OpenFlag.WRITE,
    lease: Lease.NONE,
    mode: 0o100644,
    umask: 0,
  };
  peer.send("create", fields, { tag });
  await settle();
  return peer.headers.at(-1)?.handle ?? 0;
}

test("fsync and getattr follow the writes to their node that came before them, also those under way", async () => {
  const made = await ready();
  const { peer, gate, root } = made;
  const handle = await create(made, "f", 0x00070000);
  const other = await create(made, "other", 0x00080000);
  gate.gates.add("write");
  peer.send("write", write, { tag: 1, handle }, Buffer.from("one"));
  peer.send("write", { ...write, offsetBytes: 100 }, { tag: 2, handle }, Buffer.from("two"));
  await gate.holding(2);
  gate.calls.length = 0;
  const id = (await made.memory.lookup({ caller }, root, named("f"))).id;
  peer.send("fsync", { caller, dataOnly: true }, { tag: 3, handle });
  peer.send("getattr", { caller, id }, { tag: 4 });
  peer.send("fsync", { caller, dataOnly: true }, { tag: 5, handle: other });
  await settle();
  assert.deepEqual(gate.calls, ["fsync"], "only that of the other file");
  gate.held[1]?.pass();
  await settle();
  assert.deepEqual(gate.calls, ["fsync"]);
  gate.held[0]?.fail(new FsError("ENOSPC", "write"));
  await settle();
  assert.deepEqual(gate.calls, ["fsync", "fsync", "getattr"]);
  const tail = peer.frames
    .slice(-4)
    .map((text) => text.replace(/ handle=\d+/, "").replace(/ (attr|writtenBytes)=.*/, ""));
  assert.deepEqual(tail, ["write reply tag=2", "write reply tag=1 ENOSPC", "fsync reply tag=3", "getattr reply tag=4"]);
});

test("a request that follows writes can be canceled meanwhile, and does not outlive its channel", async () => {
  const made = await ready();
  const { peer, gate, drive } = made;
  const handle = await create(made, "f", 0x00070000);
  gate.gates.add("write");
  peer.send("write", write, { tag: 1, handle }, Buffer.from("one"));
  await gate.holding(1);
  gate.calls.length = 0;
  peer.send("fsync", { caller, dataOnly: true }, { tag: 3, handle });
  peer.send("fsync", { caller, dataOnly: false }, { tag: 4, handle });
  peer.send("cancel", { canceledTag: 3 });
  await settle();
  peer.channel.destroy();
  await settle();
  gate.open();
  await settle();
  assert.ok(!gate.calls.includes("fsync"), `${gate.calls}`);
  drive.clock.advance(3_600_000);
  await settle();
  assert.equal(drive.server.counters().sessions, 0);
});
