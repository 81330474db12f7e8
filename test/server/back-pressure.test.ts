/**
 * Who is slow slows only itself: a disk that does not answer, clients that take nothing, clients that stop in the middle of a write. Beside them, on the
 * same server and share, another session reads and writes on, and the memory lent stays within the server's bounds.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Remote } from "../../src/client/remote.ts";
import { type HandleId, OpenFlag, type RequestContext } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { linkDrive, named, type Peer } from "../support/link-drive.ts";

const SECTION = 65_536;
const LIMITS = {
  sectionBytesMax: SECTION,
  sessionBytesReserved: 2 * SECTION,
  sessionBytesMax: 6 * SECTION,
  bytesMax: 24 * SECTION,
  sessionsMax: 8,
};
const NEW_FILE = { mode: 0o100644, umask: 0 };
/** Whose requests the disk does not answer. */
const SLOW: RequestContext = { caller: { uid: 7, gid: 7, groups: [], pid: 1 } };
const QUICK: RequestContext = { caller: { uid: 8, gid: 8, groups: [], pid: 2 } };

function slowDisk() {
  const gate = new GatedFs(new MemoryFs());
  gate.isHeld = ({ caller }) => caller.uid === SLOW.caller.uid;
  return { gate, ...linkDrive({ fileSystem: gate.fileSystem, limits: LIMITS }) };
}

type Drive = ReturnType<typeof slowDisk>;

async function openFile({ fileSystem }: Remote, ctx: RequestContext, name: string): Promise<HandleId> {
  const { id } = await fileSystem.root(ctx);
  const flags = OpenFlag.READ | OpenFlag.WRITE;
  return (await fileSystem.create(ctx, id, named(name), flags, NEW_FILE)).opened.handle;
}

/** Another session writes and reads 200 sections, while memory stays within the bounds. */
async function goesOn(drive: Drive): Promise<void> {
  const { remote } = await drive.connect({ sectionBytes: SECTION });
  const handle = await openFile(remote, QUICK, "quick");
  for (let round = 0; round < 25; round += 1) {
    const data = Buffer.alloc(4 * SECTION, round + 1);
    assert.equal(await remote.fileSystem.write(QUICK, handle, 0, data), data.length);
    const target = Buffer.alloc(data.length);
    assert.equal(await remote.fileSystem.read(QUICK, handle, 0, target), data.length);
    assert.ok(target.equals(data));
    assert.ok(drive.server.counters().bufferBytes <= LIMITS.bytesMax);
  }
  await remote.close();
}

test("a disk that answers some requests only: their session waits, within its share of memory, and another one goes on", async () => {
  const drive = slowDisk();
  const { gate, server } = drive;
  const { remote } = await drive.connect({ sectionBytes: SECTION });
  const handle = await openFile(remote, SLOW, "slow");
  const data = Buffer.alloc(64 * SECTION, 0x55);
  for (const name of ["write", "read"]) gate.gates.add(name);
  const writing = remote.fileSystem.write(SLOW, handle, 0, data);
  await gate.holding(4);
  await settle();
  assert.ok(server.counters().bufferBytes <= LIMITS.sessionBytesMax);
  await goesOn(drive);
  const reading = remote.fileSystem.read(SLOW, handle, 0, Buffer.alloc(32 * SECTION));
  await settle();
  await goesOn(drive);
  gate.open();
  assert.equal(await writing, data.length);
  await reading;
  const target = Buffer.alloc(data.length);
  assert.equal(await remote.fileSystem.read(SLOW, handle, 0, target), data.length);
  assert.ok(target.equals(data));
  assert.equal(server.counters().bufferBytes, 0);
  await remote.close();
});

const { caller } = SLOW;

/** Seven clients that hold all the memory they can get, each in its way, from the moment on that the disk does not answer `gate`. */
async function greedy(
  drive: Drive,
  gate: string | undefined,
  hold: (peer: Peer, handle: number) => void,
): Promise<Peer[]> {
  const peers: Peer[] = [];
  const handles: number[] = [];
  for (let index = 0; index < LIMITS.sessionsMax - 1; index += 1) {
    const peer = drive.peer();
    await peer.setUp({ credits: 64 });
    const { id: parent } = await drive.gate.fileSystem.root(SLOW);
    peer.send(
      "create",
      { caller, parent, name: named(`f${index}`), flags: 3, lease: Lease.NONE, ...NEW_FILE },
      { tag: 63 },
    );
    await settle();
    const handle = peer.headers.at(-1)?.handle ?? 0;
    peer.send("write", { caller, offsetBytes: 0, killSuidgid: false }, { tag: 62, handle }, Buffer.alloc(SECTION));
    await settle();
    peers.push(peer);
    handles.push(handle);
  }
  if (gate !== undefined) drive.gate.gates.add(gate);
  for (const [index, peer] of peers.entries()) hold(peer, handles[index] as number);
  for (let round = 0; round < 10; round += 1) await settle();
  return peers;
}

const WAYS: Record<string, { gate?: string; hold: (peer: Peer, handle: number) => void }> = {
  "take no answers": {
    hold: (peer, handle) => {
      peer.link.pause();
      for (let tag = 0; tag < 40; tag += 1) {
        peer.send("read", { caller, offsetBytes: 0, lengthBytes: SECTION }, { tag, handle });
      }
    },
  },
  "stop in the middle of a write": {
    hold: (peer, handle) => {
      peer.link.faults.stallAtByte = peer.channel.sentBytes + SECTION + 5000;
      for (let tag = 0; tag < 2; tag += 1) {
        peer.send("write", { caller, offsetBytes: 0, killSuidgid: false }, { tag, handle }, Buffer.alloc(SECTION));
      }
    },
  },
  "write to a disk that does not answer": {
    gate: "write",
    hold: (peer, handle) => {
      for (let tag = 0; tag < 20; tag += 1) {
        const fields = { caller, offsetBytes: tag * SECTION, killSuidgid: false };
        peer.send("write", fields, { tag, handle }, Buffer.alloc(SECTION));
      }
    },
  },
};

for (const [what, { gate, hold }] of Object.entries(WAYS)) {
  test(`however many clients ${what}, one more session goes on, and theirs do when they can`, async () => {
    const drive = slowDisk();
    const peers = await greedy(drive, gate, hold);
    const { bufferBytes } = drive.server.counters();
    assert.ok(bufferBytes >= SECTION * peers.length && bufferBytes <= LIMITS.bytesMax, `${bufferBytes} bytes lent`);
    await goesOn(drive);
    drive.gate.open();
    for (const peer of peers) {
      peer.link.resume();
      peer.link.faults.stallAtByte = Number.POSITIVE_INFINITY;
      peer.link.kick();
    }
    for (let round = 0; round < 60; round += 1) await settle();
    assert.equal(drive.server.counters().bufferBytes, 0);
    for (const peer of peers) assert.equal(peer.isClosed, false);
  });
}
