/** Leases as a client has them: asked back, lost while it was away, and what it is told of that. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CloseCode } from "../../src/base/errors.ts";
import type { Remote } from "../../src/client/remote.ts";
import { RemoteLeases } from "../../src/client/remote-leases.ts";
import { RemoteOpen } from "../../src/client/remote-open.ts";
import { type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { ctx, named } from "../support/link-drive.ts";
import { type ReturningDrive, returningDrive } from "../support/returning-drive.ts";

const { READ, WRITE } = OpenFlag;
const MADE = { mode: 0o100644, umask: 0 };
const BREAK_MS = 3000;

function openOf(node: string, lease: Lease): RemoteOpen {
  const parts = { id: 1 as HandleId, kind: "file", node: node as NodeId, handle: 1, flags: READ } as const;
  return new RemoteOpen({ ...parts, caller: ctx.caller, lease });
}

test("what is asked back is given back when it is settled, and not believed from the first moment on", async () => {
  const opens = [openOf("a", Lease.WRITE), openOf("a", Lease.READ), openOf("b", Lease.WRITE)];
  const given: number[] = [];
  const leases = new RemoteLeases(
    () => opens,
    (breakId) => given.push(breakId),
  );
  assert.deepEqual(leases.figures, { read: 1, write: 2 });
  let settled = () => {};
  let count = 0;
  const settling = () => {
    count += 1;
    return new Promise<void>((resolve) => {
      settled = resolve;
    });
  };
  const notice = { breakId: 4, id: "a" as NodeId, lease: Lease.READ };
  leases.break(notice, settling);
  leases.break(notice, settling);
  assert.deepEqual([leases.figures, given, count], [{ read: 2, write: 1 }, [], 1]);
  settled();
  await settle();
  assert.deepEqual(given, [4]);
  leases.break({ ...notice, breakId: 5, lease: Lease.NONE }, () => Promise.reject(new Error("not sent")));
  await settle();
  assert.deepEqual([leases.figures, given], [{ read: 0, write: 1 }, [4, 5]]);
});

test("a server that asks back more than there can be is left", () => {
  const leases = new RemoteLeases(
    () => [],
    () => {},
  );
  const never = () => new Promise<void>(() => {});
  const ask = (breakId: number) => leases.break({ breakId, id: "a" as NodeId, lease: Lease.NONE }, never);
  for (let at = 0; at < 65_536; at += 1) ask(at);
  assert.throws(() => ask(65_536), { closeCode: CloseCode.STATE });
});

interface Holder {
  readonly drive: ReturningDrive;
  readonly other: Remote;
  readonly id: NodeId;
  readonly handle: HandleId;
  /** What it heard of its leases. */
  readonly heard: string[];
}

/** A client that comes back, with a write lease, and another one. */
async function holder(): Promise<Holder> {
  const limits = { leaseBreakMs: BREAK_MS };
  const drive = await returningDrive({ fileSystem: new MemoryFs(), limits, client: { ioChannels: 0, leases: true } });
  const { remote: other } = await drive.connect();
  const { fileSystem } = drive.remote;
  const { id: root } = await fileSystem.root(ctx);
  const made = await fileSystem.create(ctx, root, named("f"), READ | WRITE, MADE);
  const heard: string[] = [];
  drive.remote.events = {
    changed: () => heard.push("changed"),
    gone: () => heard.push("gone"),
    leaseLost: (_node, remains) => heard.push(`lost to ${remains}`),
    leaseBroken: async (_node, remains) => void heard.push(`broken to ${remains}`),
  };
  return { drive, other, id: made.entry.id, handle: made.opened.handle, heard };
}

test("a client that comes back in time is asked again, and the other one waits until then", async () => {
  const { drive, other, id, heard } = await holder();
  drive.isDown = true;
  await drive.cut();
  const looking = other.fileSystem.getattr(ctx, id);
  await drive.pass(BREAK_MS / 2);
  assert.deepEqual(heard, []);
  drive.isDown = false;
  await Promise.all([looking, drive.pass(2000, () => heard.length > 0)]);
  assert.deepEqual(heard, ["broken to 1"], "the verdict has nothing to add");
  assert.deepEqual(drive.remote.status().leases, { read: 1, write: 0 });
  await Promise.all([drive.remote.close(), other.close()]);
});

test("a client that comes back late has lost its lease, is told so, and keeps its open", async () => {
  const { drive, other, id, handle, heard } = await holder();
  drive.isDown = true;
  await drive.cut();
  const opening = other.fileSystem.open(ctx, id, WRITE);
  await drive.pass(BREAK_MS);
  const { handle: there } = await opening;
  await other.fileSystem.write(ctx, there, 0, Buffer.from("theirs"));
  drive.isDown = false;
  await drive.pass(2000, () => drive.remote.state === "connected");
  assert.deepEqual(heard, ["lost to 0", "changed"]);
  assert.deepEqual(drive.remote.status().leases, { read: 0, write: 0 });
  const target = Buffer.alloc(6);
  assert.equal(await drive.remote.fileSystem.read(ctx, handle, 0, target), 6);
  assert.equal(String(target), "theirs");
  await Promise.all([drive.remote.close(), other.close()]);
});

test("a lease that nobody asked for is there when the client is back", async () => {
  const { drive, other, heard } = await holder();
  await drive.cut();
  await drive.pass(2000, () => drive.remote.state === "connected");
  assert.deepEqual([heard, drive.remote.status().leases], [[], { read: 0, write: 1 }]);
  await Promise.all([drive.remote.close(), other.close()]);
});

test("a reply that comes after its lease was asked back does not bring it", async () => {
  const { drive, other, id } = await holder();
  const [control] = drive.connections;
  assert.ok(control !== undefined);
  control.server.faults.isStalled = true;
  const opening = drive.remote.fileSystem.open(ctx, id, READ);
  await settle();
  const writing = other.fileSystem.open(ctx, id, WRITE);
  await settle();
  control.client.destroy();
  await drive.pass(4000, () => drive.remote.state === "connected");
  await writing;
  assert.equal((await opening).lease, Lease.NONE);
  assert.deepEqual(drive.remote.status().leases, { read: 0, write: 0 });
  await Promise.all([drive.remote.close(), other.close()]);
});
