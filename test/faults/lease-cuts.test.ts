/**
 * A link that breaks at every place while leases are granted, asked back and given back, between a client that comes back and its server.
 *
 * The holder has data that it sends only when its lease is asked back. Wherever its link is cut, whoever looks at the file meanwhile sees that data, whoever changes it is let
 * through, and the holder is told of that. The server has nothing left in the end.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { ctx, named } from "../support/link-drive.ts";
import { type ReturningDrive, returningDrive } from "../support/returning-drive.ts";

const { READ, WRITE } = OpenFlag;
const MADE = { mode: 0o100644, umask: 0 };
/** A prime, so that it meets every place of a frame. */
const STEP = 7;

interface Cut {
  readonly from: "client" | "server";
  readonly atByte: number;
}

/** Waits while time passes. */
async function finish<T>(drive: ReturningDrive, act: Promise<T>): Promise<T> {
  let isOver = false;
  const over = () => {
    isOver = true;
  };
  act.then(over, over);
  await drive.pass(60_000, () => isOver);
  assert.ok(isOver, "it hangs");
  return act;
}

/** What the holder does as the caches of a mount do: sends what is unsent, and believes nothing that it has no lease for. */
function keepUnsent({ remote }: ReturningDrive) {
  const unsent = new Map<NodeId, HandleId>();
  const heard: string[] = [];
  remote.events = {
    changed: () => heard.push("changed"),
    gone: () => assert.fail("an open was lost"),
    leaseLost: (_node, remains) => heard.push(`lost to ${remains}`),
    async leaseBroken(node, remains) {
      const handle = unsent.get(node);
      unsent.delete(node);
      if (handle !== undefined) await remote.fileSystem.write(ctx, handle, 0, Buffer.from("unsent"));
      heard.push(`broken to ${remains}`);
    },
  };
  return { unsent, heard };
}

/** @returns bytes of the first connection in each direction, as set-up was over and at the end. */
async function run(cut?: Cut): Promise<{ begin: Record<Cut["from"], number>; end: Record<Cut["from"], number> }> {
  const share = new MemoryFs();
  const client = { ioChannels: 0, leases: true };
  const drive = await returningDrive({ fileSystem: share, client });
  const { fileSystem } = drive.remote;
  const bytes = () => {
    const [channel] = drive.remote.status().channels;
    return { client: channel?.sentBytes ?? 0, server: channel?.receivedBytes ?? 0 };
  };
  const begin = bytes();
  const [connection] = drive.connections;
  if (cut !== undefined && connection !== undefined) connection[cut.from].faults.cutAtByte = cut.atByte;
  const { remote: other } = await drive.connect();
  const { unsent } = keepUnsent(drive);
  const { id: root } = await finish(drive, fileSystem.root(ctx));
  const { entry, opened } = await finish(drive, fileSystem.create(ctx, root, named("f"), READ | WRITE, MADE));
  const { id } = entry;
  if (opened.lease === Lease.WRITE) unsent.set(id, opened.handle);
  const seen = await finish(drive, other.fileSystem.getattr(ctx, id));
  assert.equal(seen.sizeBytes, 6, "what was unsent is seen");
  const theirs = await finish(drive, other.fileSystem.open(ctx, id, READ | WRITE));
  assert.equal(await finish(drive, other.fileSystem.write(ctx, theirs.handle, 0, Buffer.from("theirs"))), 6);
  const target = Buffer.alloc(6);
  assert.equal(await finish(drive, fileSystem.read(ctx, opened.handle, 0, target)), 6);
  assert.equal(String(target), "theirs");
  assert.deepEqual(drive.remote.status().leases, { read: 0, write: 0 });
  const end = bytes();
  await finish(drive, Promise.all([drive.remote.close(), other.close()]));
  drive.clock.advance(2_000_000);
  const { sessions, handles } = drive.server.counters();
  assert.deepEqual({ sessions, handles, opens: share.openCount }, { sessions: 0, handles: 0, opens: 0 });
  return { begin, end };
}

for (const from of ["client", "server"] as const) {
  test(`a link cut after any byte the ${from} sends neither hides unsent data nor leaves a lease behind`, async (t) => {
    const { begin, end } = await run();
    let cuts = 0;
    for (let atByte = begin[from]; atByte <= end[from]; atByte += STEP) {
      cuts += 1;
      await run({ from, atByte });
    }
    t.diagnostic(`${cuts} cuts`);
    assert.ok(cuts > 20);
  });
}
