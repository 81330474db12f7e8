/** Which requests wait for whose leases, whom nobody waits for, and what is true when they are answered. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CancelSource } from "../../src/base/signals.ts";
import type { Remote } from "../../src/client/remote.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import { type FileSystem, type HandleId, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, type LinkDrive, linkDrive, named } from "../support/link-drive.ts";

const { READ, WRITE, TRUNC } = OpenFlag;
const MADE = { mode: 0o100644, umask: 0 };
const BREAK_MS = 5000;

interface Scene {
  readonly drive: LinkDrive;
  readonly root: NodeId;
  readonly id: NodeId;
  /** Who has the lease, and his open. */
  readonly holder: Remote;
  readonly handle: HandleId;
  /** Somebody else. */
  readonly other: Remote;
  /** What the holder was told of leases, with what is left. */
  readonly told: Lease[];
  /** What it does before it gives a lease back; settles when it may. */
  onBreak: () => Promise<void>;
}

/** A file `f` that one client has open, and another that has not. */
async function scene(flags = READ | WRITE, fileSystem: FileSystem = new MemoryFs()): Promise<Scene> {
  const drive = linkDrive({ fileSystem, limits: { leaseBreakMs: BREAK_MS } });
  const { remote: holder } = await drive.connect({ leases: true });
  const { remote: other } = await drive.connect({ leases: true });
  const { id: root } = await holder.fileSystem.root(ctx);
  const made = await holder.fileSystem.create(ctx, root, named("f"), flags, MADE);
  const told: Lease[] = [];
  const state = { onBreak: async () => {} };
  holder.events = {
    changed: () => assert.fail("nobody was away"),
    gone: () => assert.fail("an open was lost"),
    leaseBroken: async (node, remains) => {
      assert.equal(node, made.entry.id);
      told.push(remains);
      await state.onBreak();
    },
  };
  assert.deepEqual(holder.status().leases, (flags & WRITE) === 0 ? { read: 1, write: 0 } : { read: 0, write: 1 });
  const { id } = made.entry;
  return Object.assign(state, { drive, root, id, holder, handle: made.opened.handle, other, told });
}

/** Time passes, in which connections are heard of. */
async function pass({ drive }: Scene, ms: number): Promise<void> {
  for (let at = 0; at < ms; at += 100) {
    drive.clock.advance(Math.min(100, ms - at));
    await settle();
  }
}

const CHANGES: Record<string, (at: Scene, fileSystem: FileSystem) => Promise<unknown>> = {
  "opens it for writing": ({ id }, fs) => fs.open(ctx, id, WRITE),
  "truncates it": ({ id }, fs) => fs.setattr(ctx, id, { sizeBytes: 0 }),
  "changes its mode": ({ id }, fs) => fs.setattr(ctx, id, { mode: 0o600 }),
  "sets an attribute": ({ id }, fs) => fs.setxattr(ctx, id, named("user.a"), Buffer.from("1"), 0),
  "gives it another name": ({ id, root }, fs) => fs.link(ctx, id, root, named("g")),
  "takes its name": ({ root }, fs) => fs.unlink(ctx, root, named("f")),
  "moves it": ({ root }, fs) => fs.rename(ctx, root, named("f"), root, named("g"), 0),
  "makes it anew": ({ root }, fs) => fs.create(ctx, root, named("f"), WRITE | TRUNC, MADE),
  "opens it by its name for writing": ({ root }, fs) => fs.create(ctx, root, named("f"), WRITE, MADE),
};
const LOOKS: typeof CHANGES = {
  "opens it": ({ id }, fs) => fs.open(ctx, id, READ),
  "looks at it": ({ id }, fs) => fs.getattr(ctx, id),
  "looks it up": ({ root }, fs) => fs.lookup(ctx, root, named("f")),
  "opens it by its name": ({ root }, fs) => fs.create(ctx, root, named("f"), READ, MADE),
};

/** Of whatever looks at the file. */
interface Result {
  readonly sizeBytes?: number;
  readonly attr?: { readonly sizeBytes: number };
  readonly opened?: { readonly attr: { readonly sizeBytes: number } };
}

for (const [what, act] of Object.entries({ ...CHANGES, ...LOOKS })) {
  const left = what in CHANGES ? Lease.NONE : Lease.READ;
  test(`who ${what} waits until the lease is given back, and sees what was sent before`, async () => {
    const at = await scene();
    let isSent = false;
    at.onBreak = async () => {
      await settle();
      assert.equal(await at.holder.fileSystem.write(ctx, at.handle, 0, Buffer.from("unsent")), 6);
      isSent = true;
    };
    const result = (await act(at, at.other.fileSystem)) as Result | undefined;
    assert.equal(isSent, true);
    assert.deepEqual(at.told, [left]);
    if (left === Lease.READ) assert.equal((result?.attr ?? result?.opened?.attr ?? result)?.sizeBytes, 6);
    await act(at, at.other.fileSystem).catch(() => undefined);
    assert.deepEqual(at.told, [left], "there is nothing left to give back");
    assert.deepEqual(at.holder.status().leases, { read: left, write: 0 });
    await Promise.all([at.holder.close(), at.other.close()]);
  });
}

test("the same session's requests break nothing, nor do others' through opens that they have", async () => {
  const at = await scene(READ);
  const there = await at.other.fileSystem.open(ctx, at.id, READ);
  assert.equal(there.lease, Lease.READ, "it is shared");
  await at.other.fileSystem.read(ctx, there.handle, 0, Buffer.alloc(4));
  await at.other.fileSystem.getattr(ctx, at.id, there.handle);
  await at.other.fileSystem.getattr(ctx, at.id);
  assert.deepEqual(at.told, []);
  for (const act of Object.values({ ...LOOKS, ...CHANGES })) {
    const alone = await scene();
    await act(alone, alone.holder.fileSystem);
    assert.deepEqual(alone.told, []);
    await Promise.all([alone.holder.close(), alone.other.close()]);
  }
  await Promise.all([at.holder.close(), at.other.close()]);
});

test("a file that may have unsent data is listed without its attributes", async () => {
  const at = await scene();
  const { fileSystem } = at.other;
  await fileSystem.create(ctx, at.root, named("mine"), WRITE, MADE);
  const listing = await fileSystem.opendir(ctx, at.root);
  const entries = async (by: FileSystem, handle: HandleId) =>
    [...decodeDirents(await by.readdir(ctx, handle, 0n, 4096, true))]
      .filter(({ name }) => !name.startsWith("."))
      .map(({ name, entry }) => [name, entry !== undefined]);
  assert.deepEqual(await entries(fileSystem, listing), [
    ["f", false],
    ["mine", true],
  ]);
  const own = await at.holder.fileSystem.opendir(ctx, at.root);
  assert.deepEqual(await entries(at.holder.fileSystem, own), [
    ["f", true],
    ["mine", false],
  ]);
  assert.deepEqual(at.told, []);
  await Promise.all([at.holder.close(), at.other.close()]);
});

test("a holder that does not answer is waited for so long, and others meanwhile for nothing", async () => {
  const at = await scene();
  let giveBack = () => {};
  at.onBreak = () =>
    new Promise((resolve) => {
      giveBack = resolve;
    });
  const writing = at.other.fileSystem.open(ctx, at.id, WRITE);
  let isOpen = false;
  void writing.then(() => {
    isOpen = true;
  });
  await settle();
  assert.deepEqual(at.told, [Lease.NONE]);
  await at.holder.fileSystem.write(ctx, at.handle, 0, Buffer.from("x"));
  await at.holder.fileSystem.getattr(ctx, at.id);
  await at.other.fileSystem.create(ctx, at.root, named("g"), WRITE, MADE);
  const { remote: third } = await at.drive.connect();
  await third.fileSystem.lookup(ctx, at.root, named("g"));
  await pass(at, BREAK_MS);
  await pass(at, BREAK_MS - 1);
  assert.equal(isOpen, false, "it has written once, and so has its time anew");
  await pass(at, 1);
  assert.equal((await writing).lease, Lease.NONE, "the other one has it open for writing, too");
  assert.match(at.drive.lines.at(-1) ?? "", /has not given back the lease/);
  giveBack();
  await at.holder.fileSystem.getattr(ctx, at.id);
  assert.equal((await at.holder.fileSystem.open(ctx, at.id, READ)).lease, Lease.NONE);
  await Promise.all([at.holder.close(), at.other.close(), third.close()]);
});

test("who waits for a lease can be interrupted, and what he wanted is not done", async () => {
  const at = await scene();
  at.onBreak = () => new Promise(() => {});
  for (const act of [CHANGES["truncates it"], CHANGES["opens it for writing"], LOOKS["looks at it"]]) {
    const signal = new CancelSource();
    const asking = (fields: FileSystem) => act?.({ ...at }, bound(fields, signal)) as Promise<unknown>;
    const waiting = asking(at.other.fileSystem);
    await settle();
    signal.abort();
    await assert.rejects(waiting);
  }
  assert.equal(at.drive.server.counters().handles, 1);
  await Promise.all([at.holder.close(), at.other.close()]);
});

/** The file system with another signal in each context. */
function bound(fileSystem: FileSystem, signal: CancelSource): FileSystem {
  return new Proxy(fileSystem, {
    get:
      (target, name: keyof FileSystem) =>
      (own: object, ...more: unknown[]) =>
        (target[name] as (...args: unknown[]) => unknown).call(target, { ...own, signal }, ...more),
  });
}

test("two who want the file both get it when the holder closes it, or its session ends", async () => {
  for (const way of ["closes", "ends"] as const) {
    const at = await scene();
    at.onBreak = () => new Promise(() => {});
    const { remote: third } = await at.drive.connect({ leases: true });
    const waiting = [at.other, third].map(({ fileSystem }) => fileSystem.open(ctx, at.id, READ));
    await settle();
    assert.deepEqual(at.told, [Lease.READ], "told once");
    if (way === "closes") await at.holder.fileSystem.release(ctx, at.handle);
    else await at.holder.close();
    await pass(at, 10);
    const opened = await Promise.all(waiting);
    assert.deepEqual(
      opened.map(({ lease }) => lease),
      [Lease.READ, Lease.READ],
    );
    await Promise.all([at.holder.close(), at.other.close(), third.close()]);
  }
});

test("a holder whose session ends has its lease as long as a write of its is under way", async () => {
  const gate = new GatedFs(new MemoryFs());
  const at = await scene(READ | WRITE, gate.fileSystem);
  at.onBreak = () => new Promise(() => {});
  gate.gates.add("write");
  const write = at.holder.fileSystem.write(ctx, at.handle, 0, Buffer.from("late")).catch(() => undefined);
  await gate.holding(1);
  const opening = at.other.fileSystem.open(ctx, at.id, READ);
  let isOpen = false;
  void opening.then(() => {
    isOpen = true;
  });
  await settle();
  await at.holder.close();
  await pass(at, 10);
  assert.equal(isOpen, false, "what it has begun is not in the file yet");
  gate.open();
  await pass(at, 10);
  const { attr, lease } = await opening;
  assert.deepEqual([attr.sizeBytes, lease], [4, Lease.READ]);
  await Promise.all([write, at.other.close()]);
});

test("who attaches to an open breaks its lease, and it has none as long as it is shared", async () => {
  const at = await scene();
  const { handle } = await at.other.attach(ctx, await at.holder.ticketFor(ctx, at.handle));
  assert.deepEqual(at.told, [Lease.NONE]);
  assert.equal((await at.holder.fileSystem.open(ctx, at.id, READ)).lease, Lease.NONE);
  await at.other.fileSystem.release(ctx, handle);
  await pass(at, 10);
  assert.equal((await at.holder.fileSystem.open(ctx, at.id, READ)).lease, Lease.READ);
  await Promise.all([at.holder.close(), at.other.close()]);
});

test("a client that asks for no lease gets none, and a lease that is none of the three ends its channel", async () => {
  const drive = linkDrive();
  const { remote } = await drive.connect();
  const { id: root } = await remote.fileSystem.root(ctx);
  const { opened } = await remote.fileSystem.create(ctx, root, named("f"), WRITE, MADE);
  assert.equal(opened.lease, Lease.NONE);
  await remote.close();
  const peer = drive.peer();
  await peer.setUp();
  const { caller } = ctx;
  peer.send("create", { caller, parent: root, name: named("g"), flags: WRITE, ...MADE, lease: 3 as Lease }, { tag: 1 });
  await settle();
  assert.equal(peer.isClosed, true);
});
