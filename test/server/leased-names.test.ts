/** Leases of directories: what a client that knows all names asks for, and who ends that. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { LastKnownFileSystem } from "../../src/cache/last-known.ts";
import type { OpenEvents } from "../../src/client/open-table.ts";
import type { Remote } from "../../src/client/remote.ts";
import { LeasedNames } from "../../src/server/leased-names.ts";
import { type LeaseOpen, OUTSIDER } from "../../src/server/leases.ts";
import { type FileSystem, type NodeId, OpenFlag } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";

import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, linkDrive, named } from "../support/link-drive.ts";
import { WatchedFs } from "../support/watched-fs.ts";

const FOLDER = { mode: 0o755, umask: 0 };
const FILE = { mode: 0o100644, umask: 0 };
const WRITE = OpenFlag.WRITE;

/** A client as a mount is one. */
function mounted(remote: Remote, clock: ReturnType<typeof linkDrive>["clock"]): LastKnownFileSystem {
  const known = new LastKnownFileSystem(remote.fileSystem, clock);
  const events: OpenEvents = {
    changed: () => assert.fail("nobody was away"),
    gone: () => assert.fail("an open was lost"),
    leaseBroken: async (node, remains) => {
      if (remains === Lease.NONE) known.leaseLost(node);
    },
  };
  remote.events = events;
  return known;
}

/** A directory that one client knows all names of, with `there` in it, and another client. */
async function scene() {
  const memory = new WatchedFs();
  const gate = new GatedFs(memory);
  const drive = linkDrive({ fileSystem: gate.fileSystem });
  const { remote } = await drive.connect({ leases: true });
  const { remote: other } = await drive.connect({ leases: true });
  const fs = mounted(remote, drive.clock);
  const { id: root } = await fs.root(ctx);
  const { id } = await fs.mkdir(ctx, root, named("d"), FOLDER);
  const there = await fs.create(ctx, id, named("there"), WRITE, FILE);
  await fs.release(ctx, there.opened.handle);
  const isThere = (name: string) =>
    fs.lookup(ctx, id, named(name)).then(
      () => true,
      () => false,
    );
  for (const name of ["x1", "x2", "x3"]) assert.equal(await isThere(name), false);
  await settle();
  const lookups = () => gate.calls.filter((call) => call === "lookup").length;
  assert.equal(remote.status().leases.read, 1);
  const end = async () => {
    await Promise.all([fs.close(), other.close()]);
    await settle();
    assert.deepEqual([memory.openCount, memory.watchers.size], [0, 0]);
  };
  return { memory, gate, drive, remote, other, fs, root, id, isThere, lookups, end };
}

test("names that are not there are not asked for, and those that the client gives are there", async () => {
  const { fs, id, isThere, lookups, remote, end } = await scene();
  const before = lookups();
  for (let at = 0; at < 20; at += 1) assert.equal(await isThere(`new${at}`), false);
  assert.equal(lookups(), before);
  const made = await fs.create(ctx, id, named("new0"), WRITE, FILE);
  await fs.mkdir(ctx, id, named("new1"), FOLDER);
  await fs.symlink(ctx, id, named("new2"), Buffer.from("t"));
  await fs.link(ctx, made.entry.id, id, named("new3"));
  await fs.mknod(ctx, id, named("new4"), { ...FILE, rdevMajor: 0, rdevMinor: 0 });
  await fs.rename(ctx, id, named("new4"), id, named("new5"), 0);
  for (const name of ["new0", "new1", "new2", "new3", "new5", "there"]) assert.equal(await isThere(name), true, name);
  assert.equal(await isThere("new4"), false);
  await fs.release(ctx, made.opened.handle);
  await settle();
  assert.equal(remote.status().leases.read, 1, "what the client does itself ends nothing");
  await end();
});

const GIVES: Record<string, (fs: FileSystem, at: { root: NodeId; id: NodeId; file: NodeId }) => Promise<unknown>> = {
  "makes a file": async (fs, { id }) => {
    const { opened } = await fs.create(ctx, id, named("n"), WRITE, FILE);
    await fs.release(ctx, opened.handle);
  },
  "makes a directory": (fs, { id }) => fs.mkdir(ctx, id, named("n"), FOLDER),
  "makes a symbolic link": (fs, { id }) => fs.symlink(ctx, id, named("n"), Buffer.from("t")),
  "makes a node": (fs, { id }) => fs.mknod(ctx, id, named("n"), { ...FILE, rdevMajor: 0, rdevMinor: 0 }),
  "gives a file another name": (fs, { id, file }) => fs.link(ctx, file, id, named("n")),
  "moves a file there": (fs, { root, id }) => fs.rename(ctx, root, named("f"), id, named("n"), 0),
};

for (const [what, give] of Object.entries(GIVES)) {
  test(`when another client ${what}, it is there for all before that is answered`, async () => {
    const { memory, other, root, id, isThere, remote, end } = await scene();
    const { entry, opened } = await memory.create(ctx, root, named("f"), WRITE, FILE);
    await memory.release(ctx, opened.handle);
    assert.equal(await isThere("n"), false);
    await other.fileSystem.lookup(ctx, root, named("f"));
    await give(other.fileSystem, { root, id, file: entry.id });
    assert.equal(remote.status().leases.read, 0);
    assert.equal(await isThere("n"), true);
    await end();
  });

  test(`when somebody beside the server ${what}, the client hears of it`, async () => {
    const { memory, root, id, isThere, remote, end } = await scene();
    const { entry, opened } = await memory.create(ctx, root, named("f"), WRITE, FILE);
    await memory.release(ctx, opened.handle);
    assert.equal(await isThere("n"), false);
    await give(memory, { root, id, file: entry.id });
    await settle();
    assert.equal(remote.status().leases.read, 0);
    assert.equal(await isThere("n"), true);
    await end();
  });
}

test("another client that changes the directory, moves it or takes it away ends the lease; one that reads it does not", async () => {
  for (const change of ["mode", "move", "remove"]) {
    const { memory, other, root, id, remote, end } = await scene();
    const handle = await other.fileSystem.opendir(ctx, id);
    await other.fileSystem.readdir(ctx, handle, 0n, 4096, true);
    await other.fileSystem.releasedir(ctx, handle);
    await other.fileSystem.lookup(ctx, id, named("nothing")).catch(() => undefined);
    assert.equal(remote.status().leases.read, 1);
    if (change === "mode") await other.fileSystem.setattr(ctx, id, { mode: 0o700 });
    else if (change === "move") await other.fileSystem.rename(ctx, root, named("d"), root, named("e"), 0);
    else {
      await memory.unlink(ctx, id, named("there"));
      await other.fileSystem.rmdir(ctx, root, named("d"));
    }
    await settle();
    assert.equal(remote.status().leases.read, 0, change);
    await end();
  }
});

test("a name that is being given when the directory is leased does not end the lease", async () => {
  const { gate, fs, id, remote, end } = await scene();
  fs.leaseLost(id);
  await settle();
  assert.equal(remote.status().leases.read, 0);
  gate.gates.add("mkdir");
  const making = fs.mkdir(ctx, id, named("late"), FOLDER);
  await gate.holding(1);
  const leased = await remote.fileSystem.opendirLeased?.(ctx, id);
  assert.equal(leased?.lease, Lease.READ);
  gate.open();
  await making;
  await settle();
  assert.equal(remote.status().leases.read, 1);
  await fs.releasedir(ctx, leased.handle);
  await end();
});

test("what is remembered of names is bounded, in one directory and in all: with more the lease ends", () => {
  const broken: NodeId[] = [];
  const fileSystem = { watchNames: () => ({ close() {} }) } as unknown as FileSystem;
  const names = new LeasedNames(fileSystem, () => ({
    break(_session, node) {
      broken.push(node);
      return undefined;
    },
  }));
  const open = (node: string) => {
    const made = { kind: "directory", node, inner: 1, owner: OUTSIDER } as unknown as LeaseOpen;
    assert.equal(names.begin(made), true);
    return made;
  };
  const name = (node: string, count: number) => {
    for (let at = 0; at < count; at += 1) names.named(OUTSIDER, node as NodeId, named(`n${at}`));
  };
  const opens = Array.from({ length: 17 }, (_value, at) => open(`d${at}`));
  name("d0", 16_384);
  name("d0", 16_384);
  assert.deepEqual(broken, []);
  names.named(OUTSIDER, "d0" as NodeId, named("more"));
  assert.deepEqual(broken, ["d0"]);
  for (let at = 1; at < 16; at += 1) name(`d${at}`, 16_384);
  name("d16", 1);
  assert.deepEqual(broken, ["d0", "d16"]);
  names.end(opens[0] as LeaseOpen);
  name("d16", 1);
  assert.deepEqual(broken, ["d0", "d16"], "there is room again");
});
