/**
 * Listing: large pages are fetched and handed on in small pieces, and nothing old is handed on as new.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Opcode } from "../../src/fuse/abi.ts";
import type { Session } from "../../src/fuse/session.ts";
import type { FileSystem, NodeId } from "../../src/vfs/file-system.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { type FakeDevice, requestBytes } from "./fake-device.ts";
import { startSession } from "./fixture.ts";
import { MemoryFs } from "./memory-fs.ts";

interface Listed {
  name: string;
  nodeid: number;
  sizeBytes: number;
  cookie: bigint;
}

async function listing(files: number) {
  const memory = new MemoryFs();
  const ctx = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
  const { id: root } = await memory.root();
  for (let i = 0; i < files; i++) {
    const { opened } = await memory.create(ctx, root, `f${i}` as never, 2, { mode: 0o644, umask: 0 });
    await memory.release(ctx, opened.handle);
  }
  let fetches = 0;
  const counted = new Proxy(memory as FileSystem, {
    get(target, method) {
      if (method === "readdir") fetches++;
      const value = Reflect.get(target, method);
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
  const clock = new FakeClock();
  const fixture = await startSession(counted, { clock });
  const { body } = await fixture.device.ask(requestBytes(Opcode.OPENDIR, Buffer.alloc(8)));
  return { ...fixture, memory, clock, fh: body.readBigUInt64LE(0), fetches: () => fetches };
}

function readBody(fh: bigint, cookie: bigint, bytes: number): Buffer {
  const body = Buffer.alloc(40);
  body.writeBigUInt64LE(fh, 0);
  body.writeBigUInt64LE(cookie, 8);
  body.writeUInt32LE(bytes, 16);
  return body;
}

/** READDIRPLUS once. */
async function plus(device: FakeDevice, fh: bigint, cookie: bigint, bytes = 1024): Promise<Listed[]> {
  const { errno, body } = await device.ask(requestBytes(Opcode.READDIRPLUS, readBody(fh, cookie, bytes)));
  assert.equal(errno, 0);
  assert.ok(body.length <= bytes);
  const listed: Listed[] = [];
  for (let at = 0; at < body.length; ) {
    const nameBytes = body.readUInt32LE(at + 144);
    listed.push({
      name: body.toString("latin1", at + 152, at + 152 + nameBytes),
      nodeid: Number(body.readBigUInt64LE(at)),
      sizeBytes: Number(body.readBigUInt64LE(at + 48)),
      cookie: body.readBigUInt64LE(at + 136),
    });
    at += (152 + nameBytes + 7) & ~7;
  }
  return listed;
}

async function all(device: FakeDevice, fh: bigint): Promise<Listed[]> {
  const listed: Listed[] = [];
  for (let cookie = 0n; ; cookie = listed.at(-1)?.cookie as bigint) {
    const more = await plus(device, fh, cookie);
    if (more.length === 0) return listed;
    listed.push(...more);
  }
}

function forgetAll(device: FakeDevice, session: Session, listed: Listed[]): void {
  for (const { nodeid } of listed) {
    if (nodeid !== 0)
      device.inject(requestBytes(Opcode.FORGET, Buffer.from([1, 0, 0, 0, 0, 0, 0, 0]), { node: nodeid }));
  }
  session.nodes.checkInvariants();
}

test("every entry comes once, '.' and '..' without a node, and one fetch serves many requests", async () => {
  const { device, session, fh, fetches } = await listing(300);
  const listed = await all(device, fh);
  assert.deepEqual(
    listed.map(({ name }) => name),
    [".", "..", ...Array.from({ length: 300 }, (_, i) => `f${i}`)],
  );
  assert.deepEqual(
    listed.slice(0, 2).map(({ nodeid }) => nodeid),
    [0, 0],
  );
  assert.equal(new Set(listed.slice(2).map(({ nodeid }) => nodeid)).size, 300);
  assert.ok(fetches() <= 3, `${fetches()} fetches`);
  assert.equal(session.nodes.size, 301);
  forgetAll(device, session, listed);
  assert.equal(session.nodes.size, 1);
});

test("a file that was removed, made or written here since the fetch comes without its old attributes", async () => {
  const { device, fh } = await listing(100);
  const [, , first] = await plus(device, fh, 0n, 520);
  assert.ok(first !== undefined && first.nodeid > 0);
  await device.ask(requestBytes(Opcode.UNLINK, Buffer.from("f50\0")));
  const rest = await plus(device, fh, first.cookie, 60_000);
  const f50 = rest.find(({ name }) => name === "f50");
  assert.equal(f50?.nodeid, 0, "the name may come, the node may not");
  assert.ok(rest.every(({ nodeid }) => nodeid === 0));
});

test("a write here since the fetch keeps back the attributes of that file alone", async () => {
  const { device, fh } = await listing(100);
  const lookup = await device.ask(requestBytes(Opcode.LOOKUP, Buffer.from("f70\0")));
  const nodeid = Number(lookup.body.readBigUInt64LE(0));
  const open = await device.ask(requestBytes(Opcode.OPEN, Buffer.from([2, 0, 0, 0, 0, 0, 0, 0]), { node: nodeid }));
  const first = (await plus(device, fh, 0n, 520)).at(-1) as Listed;
  const write = Buffer.alloc(45, "x");
  write.fill(0, 0, 40);
  open.body.copy(write, 0, 0, 8);
  write.writeUInt32LE(5, 16);
  await device.ask(requestBytes(Opcode.WRITE, write, { node: nodeid }));
  const rest = await plus(device, fh, first.cookie, 60_000);
  assert.deepEqual(
    rest.filter((each) => each.nodeid === 0).map(({ name }) => name),
    ["f70"],
  );
  const again = await plus(device, fh, 0n, 60_000);
  assert.equal(again.find(({ name }) => name === "f70")?.sizeBytes, 5, "what is fetched anew is new");
});

test("going back fetches again; nodes of a page that is dropped are forgotten if nobody knows them", async () => {
  const { device, memory, fh, fetches } = await listing(100);
  const first = await plus(device, fh, 0n, 520);
  const before = fetches();
  await plus(device, fh, 0n, 520);
  assert.equal(fetches(), before + 1);
  const known = new Set(first.filter(({ nodeid }) => nodeid > 0).map(({ name }) => name));
  assert.equal(memory.forgotten.length, 100 - known.size);
  assert.ok(!memory.forgotten.includes("m2" as NodeId), "f0 is known to the kernel");
});

test("entries of a reply that does not arrive are not counted", async () => {
  const { device, session, fh } = await listing(50);
  device.refuse = 2;
  device.inject(requestBytes(Opcode.READDIRPLUS, readBody(fh, 0n, 4096)));
  await new Promise((resolve) => setImmediate(resolve));
  assert.equal(session.nodes.size, 1);
  session.nodes.checkInvariants();
});

test("READDIR gives names and types alone", async () => {
  const { device, session, fh } = await listing(3);
  const { body } = await device.ask(requestBytes(Opcode.READDIR, readBody(fh, 0n, 4096)));
  const names: [string, number][] = [];
  for (let at = 0; at < body.length; ) {
    const nameBytes = body.readUInt32LE(at + 16);
    names.push([body.toString("latin1", at + 24, at + 24 + nameBytes), body.readUInt32LE(at + 20)]);
    at += (24 + nameBytes + 7) & ~7;
  }
  assert.deepEqual(names, [
    [".", 4],
    ["..", 4],
    ["f0", 8],
    ["f1", 8],
    ["f2", 8],
  ]);
  assert.equal(session.nodes.size, 1);
});
