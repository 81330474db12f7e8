/** Intents: whether a request was done before its server died is told from the disk, for every kind of request that must not run twice. */
import assert from "node:assert/strict";
import { linkSync, rmSync, symlinkSync, truncateSync, unlinkSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { silentLog } from "../../../src/base/log.ts";
import { createDisk, type Disk } from "../../../src/disk/disk.ts";
import { AppendedSearches } from "../../../src/server/state/appended.ts";
import {
  type Appended,
  type Intended,
  type Intent,
  type IsClaimed,
  intentOf,
  intentRecord,
  isIntended,
  type Outcome,
  type Place,
  resolve,
} from "../../../src/server/state/intents.ts";
import { S_IFDIR, S_IFIFO, S_IFREG } from "../../../src/vfs/attr.ts";
import { type HandleId, type NodeId, OpenFlag, RenameFlag, XattrFlag } from "../../../src/vfs/file-system.ts";
import type { CallName } from "../../../src/wire/messages.ts";
import { asRoot, mode, n, READ_WRITE, type ScratchDisk, scratchDisk } from "../../support/scratch-disk.ts";
import { seeded } from "../../support/seed.ts";

const CALLER = { uid: 1, gid: 2, groups: [], pid: 3 };

/** What there is before each case: two directories, d and e, with a file f, a link l and an empty directory empty in d. */
interface Scene {
  scratch: ScratchDisk;
  d: NodeId;
  e: NodeId;
  f: NodeId;
}

async function scene(): Promise<Scene & AsyncDisposable> {
  const scratch = await scratchDisk();
  const { disk } = scratch;
  const d = await scratch.directory("d", 0o777);
  const e = await scratch.directory("e", 0o777);
  const { entry, opened } = await disk.create(asRoot, d, n("f"), READ_WRITE, mode(0o644));
  await disk.write(asRoot, opened.handle, 0, Buffer.from("before"));
  await disk.release(asRoot, opened.handle);
  await disk.mkdir(asRoot, d, n("empty"), mode(0o755));
  await disk.symlink(asRoot, d, n("l"), Buffer.from("elsewhere"));
  return { scratch, d, e, f: entry.id, [Symbol.asyncDispose]: () => scratch[Symbol.asyncDispose]() };
}

interface Case {
  name: CallName;
  asked: (scene: Scene) => Record<string, unknown>;
  run: (disk: Disk, scene: Scene) => Promise<unknown>;
  /** Makes it be done, or undoes it, so that the answer must be "open" although something is there. */
  otherwise?: Record<string, (scene: Scene) => unknown>;
}

const named = (name: string) => (s: Scene) => ({ parent: s.d, name: n(name) });

const CASES: Record<string, Case> = {
  mkdir: {
    name: "mkdir",
    asked: named("new"),
    run: (disk, { d }) => disk.mkdir(asRoot, d, n("new"), mode(0o755)),
    otherwise: { "a file has the name": ({ scratch }) => writeFileSync(scratch.at("d", "new"), "") },
  },
  "mknod of a fifo": {
    name: "mknod",
    asked: (s) => ({ ...named("new")(s), mode: S_IFIFO | 0o644, rdevMajor: 0, rdevMinor: 0 }),
    run: (disk, { d }) => disk.mknod(asRoot, d, n("new"), { ...mode(S_IFIFO | 0o644), rdevMajor: 0, rdevMinor: 0 }),
    otherwise: { "a file has the name": ({ scratch }) => writeFileSync(scratch.at("d", "new"), "") },
  },
  "mknod of a file": {
    name: "mknod",
    asked: (s) => ({ ...named("new")(s), mode: 0o644, rdevMajor: 0, rdevMinor: 0 }),
    run: (disk, { d }) => disk.mknod(asRoot, d, n("new"), { ...mode(S_IFREG | 0o644), rdevMajor: 0, rdevMinor: 0 }),
  },
  symlink: {
    name: "symlink",
    asked: (s) => ({ ...named("new")(s), payload: Buffer.from("target") }),
    run: (disk, { d }) => disk.symlink(asRoot, d, n("new"), Buffer.from("target")),
    otherwise: { "another link has the name": ({ scratch }) => symlinkSync("other", scratch.at("d", "new")) },
  },
  create: {
    name: "create",
    asked: (s) => ({ ...named("new")(s), flags: READ_WRITE | OpenFlag.EXCL }),
    run: async (disk, { d }) => {
      const { opened } = await disk.create(asRoot, d, n("new"), READ_WRITE | OpenFlag.EXCL, mode(0o644));
      await disk.release(asRoot, opened.handle);
    },
  },
  link: {
    name: "link",
    asked: ({ f, e }) => ({ id: f, parent: e, name: n("new") }),
    run: (disk, { f, e }) => disk.link(asRoot, f, e, n("new")),
    otherwise: { "another file has the name": ({ scratch }) => writeFileSync(scratch.at("e", "new"), "") },
  },
  unlink: {
    name: "unlink",
    asked: named("f"),
    run: (disk, { d }) => disk.unlink(asRoot, d, n("f")),
  },
  "unlink of a link": {
    name: "unlink",
    asked: named("l"),
    run: (disk, { d }) => disk.unlink(asRoot, d, n("l")),
  },
  rmdir: {
    name: "rmdir",
    asked: named("empty"),
    run: (disk, { d }) => disk.rmdir(asRoot, d, n("empty")),
  },
  rename: {
    name: "rename",
    asked: (s) => ({ ...named("f")(s), newParent: s.e, newName: n("g"), flags: 0 }),
    run: (disk, { d, e }) => disk.rename(asRoot, d, n("f"), e, n("g"), 0),
    otherwise: {
      "another file has the new name": ({ scratch }) => writeFileSync(scratch.at("e", "g"), ""),
      "it has both names": ({ scratch }) => linkSync(scratch.at("d", "f"), scratch.at("e", "g")),
      "it is gone": ({ scratch }) => unlinkSync(scratch.at("d", "f")),
    },
  },
  "rename over another": {
    name: "rename",
    asked: (s) => ({ ...named("f")(s), newParent: s.d, newName: n("l"), flags: 0 }),
    run: (disk, { d }) => disk.rename(asRoot, d, n("f"), d, n("l"), 0),
  },
  "rename of a directory": {
    name: "rename",
    asked: (s) => ({ ...named("empty")(s), newParent: s.e, newName: n("moved"), flags: RenameFlag.NOREPLACE }),
    run: (disk, { d, e }) => disk.rename(asRoot, d, n("empty"), e, n("moved"), RenameFlag.NOREPLACE),
  },
  exchange: {
    name: "rename",
    asked: (s) => ({ ...named("f")(s), newParent: s.d, newName: n("l"), flags: RenameFlag.EXCHANGE }),
    run: (disk, { d }) => disk.rename(asRoot, d, n("f"), d, n("l"), RenameFlag.EXCHANGE),
    otherwise: { "one of them is gone": ({ scratch }) => unlinkSync(scratch.at("d", "l")) },
  },
  setxattr: {
    name: "setxattr",
    asked: ({ f }) => ({ id: f, name: n("user.x"), flags: XattrFlag.CREATE, payload: Buffer.from("1") }),
    run: (disk, { f }) => disk.setxattr(asRoot, f, n("user.x"), Buffer.from("1"), XattrFlag.CREATE),
  },
};

async function another(scratch: ScratchDisk): Promise<Disk & AsyncDisposable> {
  const disk = await createDisk({ directory: scratch.path, applyCredentials: true, log: silentLog });
  return Object.assign(disk, { [Symbol.asyncDispose]: () => disk.close() });
}

/** What the next process says of an intent, as it was stored. */
async function resolved(scratch: ScratchDisk, intent: Intent, isClaimed?: IsClaimed): Promise<Outcome> {
  await using disk = await another(scratch);
  const stored = intentRecord.decode(intentRecord.encode(intent));
  assert.deepEqual(stored, intent);
  return await resolve(disk, stored, isClaimed);
}

for (const [title, { name, asked, run, otherwise = {} }] of Object.entries(CASES)) {
  test(`${title}: not done before it ran, done after, and not taken for what others did`, async () => {
    await using s = await scene();
    const { disk } = s.scratch;
    const intended: Intended = { name, asked: asked(s), open: undefined, caller: CALLER };
    assert.ok(isIntended(intended.name, intended.asked, intended.open));
    const intent = await intentOf(disk, intended);
    assert.ok(intent !== undefined);
    assert.deepEqual(await resolved(s.scratch, intent), { t: "open" });
    await run(disk, s);
    const outcome = await resolved(s.scratch, intent);
    assert.equal(outcome.t, "done");
    // It is the name as it is now that is answered.
    const { entry, directory } = outcome as Outcome & { t: "done" };
    if (entry !== undefined) {
      assert.equal(entry.id, (await disk.lookup(asRoot, directory as NodeId, intent.at.name)).id);
      assert.deepEqual(await resolved(s.scratch, intent, (_at, id) => id === entry.id), { t: "open" });
    }
    if (name === "unlink" || name === "rmdir") {
      assert.deepEqual(await resolved(s.scratch, intent, (_at, id) => id === intent.at.found), { t: "open" });
      // The name was used again: what it was is gone all the same.
      await disk.mkdir(asRoot, s.d, intent.at.name, mode(0o755));
      assert.equal((await resolved(s.scratch, intent)).t, "done");
    }
    for (const [what, change] of Object.entries(otherwise)) {
      await using fresh = await scene();
      const before = await intentOf(fresh.scratch.disk, { name, asked: asked(fresh), open: undefined, caller: CALLER });
      await change(fresh);
      assert.deepEqual(await resolved(fresh.scratch, before as Intent), { t: "open" }, what);
    }
    // Its directory is gone: it may run and fail.
    await using gone = await scene();
    const last = await intentOf(gone.scratch.disk, { name, asked: asked(gone), open: undefined, caller: CALLER });
    if (name !== "setxattr") {
      for (const directory of ["d", "e"]) rmSync(gone.scratch.at(directory), { recursive: true });
      assert.deepEqual(await resolved(gone.scratch, last as Intent), { t: "open" });
    }
  });
}

test("a request that would fail or do nothing has no intent, and may run again", async () => {
  await using s = await scene();
  const { d, f } = s;
  const requests: [CallName, Record<string, unknown>][] = [
    ["mkdir", { parent: d, name: n("f") }],
    ["create", { parent: d, name: n("f"), flags: READ_WRITE }],
    ["link", { id: f, parent: d, name: n("l") }],
    ["unlink", { parent: d, name: n("none") }],
    ["rmdir", { parent: d, name: n("none") }],
    ["rename", { parent: d, name: n("none"), newParent: d, newName: n("x"), flags: 0 }],
    ["rename", { parent: d, name: n("f"), newParent: d, newName: n("f"), flags: 0 }],
    ["rename", { parent: d, name: n("f"), newParent: d, newName: n("x"), flags: RenameFlag.WHITEOUT }],
    ["removexattr", { id: f, name: n("user.none") }],
  ];
  for (const [name, asked] of requests) {
    assert.equal(await intentOf(s.scratch.disk, { name, asked, open: undefined, caller: CALLER }), undefined, name);
  }
  await s.scratch.disk.setxattr(asRoot, f, n("user.x"), Buffer.from("1"), 0);
  const create = { id: f, name: n("user.x"), flags: XattrFlag.CREATE, payload: Buffer.from("1") };
  assert.equal(
    await intentOf(s.scratch.disk, { name: "setxattr", asked: create, open: undefined, caller: CALLER }),
    undefined,
  );
  for (const name of ["open", "setattr", "fallocate", "release", "tmpfile", "read"] as const) {
    assert.equal(isIntended(name, {}, undefined), false, name);
  }
  assert.equal(isIntended("setxattr", { flags: 0 }, undefined), false);
  const open = { inner: 1 as HandleId, node: f, flags: READ_WRITE };
  assert.equal(isIntended("write", {}, open), false);
  const unknown = "no such node 16." as NodeId;
  await assert.rejects(
    async () =>
      intentOf(s.scratch.disk, {
        name: "mkdir",
        asked: { parent: unknown, name: n("x") },
        open: undefined,
        caller: CALLER,
      }),
    /ESTALE/,
  );
});

test("removexattr: not done before it ran, done after", async () => {
  await using s = await scene();
  const { disk } = s.scratch;
  await disk.setxattr(asRoot, s.f, n("user.x"), Buffer.from("1"), 0);
  const asked = { id: s.f, name: n("user.x") };
  const intent = (await intentOf(disk, { name: "removexattr", asked, open: undefined, caller: CALLER })) as Intent;
  assert.deepEqual(await resolved(s.scratch, intent), { t: "open" });
  await disk.removexattr(asRoot, s.f, n("user.x"));
  assert.equal((await resolved(s.scratch, intent)).t, "done");
});

test("a file system that cannot find nodes again has no intents", async () => {
  await using s = await scene();
  const blind = Object.create(s.scratch.disk, { recovery: { value: undefined } }) as Disk;
  const intended: Intended = { name: "mkdir", asked: { parent: s.d, name: n("x") }, open: undefined, caller: CALLER };
  assert.equal(await intentOf(blind, intended), undefined);
  const intent = (await intentOf(s.scratch.disk, intended)) as Intent;
  assert.deepEqual(await resolve(blind, intent), { t: "open" });
});

function regionOf(outcome: Outcome): Appended {
  assert.equal(outcome.t, "appended");
  return (outcome as Outcome & { t: "appended" }).region;
}

test("append: what is in the file already is found there, whole, in part or not at all", async (t) => {
  const appends = new AppendedSearches();
  const piece = fc.string({ unit: "binary-ascii", minLength: 1, maxLength: 20 });
  await using s = await scene();
  const { scratch, d } = s;
  const { disk } = scratch;
  const made = await disk.create(asRoot, d, n("log"), OpenFlag.WRITE | OpenFlag.APPEND, mode(0o200));
  const { handle } = made.opened;
  const open = { inner: handle, node: made.entry.id, flags: OpenFlag.WRITE | OpenFlag.APPEND };
  await fc.assert(
    fc.asyncProperty(piece, piece, fc.nat(), fc.boolean(), async (before, data, cut, isWhole) => {
      truncateSync(scratch.at("d", "log"), 0);
      await disk.write(asRoot, handle, 0, Buffer.from(before));
      const intended: Intended = { name: "write", asked: {}, open, caller: CALLER };
      assert.ok(isIntended(intended.name, intended.asked, intended.open));
      const intent = (await intentOf(disk, intended)) as Intent;
      assert.deepEqual(await resolved(scratch, intent), { t: "open" });
      const bytes = Buffer.from(data);
      const done = isWhole ? bytes.length : cut % bytes.length;
      if (done > 0) await disk.write(asRoot, handle, 0, bytes.subarray(0, done));
      const outcome = await resolved(scratch, intent);
      if (done === 0) assert.deepEqual(outcome, { t: "open" });
      else assert.equal(await appends.find(disk, open.node, bytes, regionOf(outcome)), done);
    }),
    seeded(t, 60),
  );
  // Others have appended as well: only the whole is believed.
  truncateSync(scratch.at("d", "log"), 0);
  const intent = (await intentOf(disk, { name: "write", asked: {}, open, caller: CALLER })) as Intent;
  await disk.write(asRoot, handle, 0, Buffer.from("theirs, ours, theirs"));
  const region = regionOf(await resolved(scratch, intent));
  assert.equal(await appends.find(disk, open.node, Buffer.from("ours"), region), 4);
  assert.equal(await appends.find(disk, open.node, Buffer.from("ourselves"), region), 0);
  await disk.release(asRoot, handle);
});

test("bytes that are no intent decode to nothing", (t) => {
  const nowhere: Place = { parent: "" as NodeId, directory: Buffer.alloc(0), name: n(""), found: undefined };
  const make = { kind: "make", at: nowhere, to: nowhere, mode: S_IFDIR, rdevMajor: 0, rdevMinor: 0 } as const;
  const encoded = intentRecord.encode({
    ...make,
    target: Buffer.alloc(0),
    node: undefined,
    sizeBytes: 0,
    flags: 0,
    pid: 0,
  });
  fc.assert(
    fc.property(fc.nat(), fc.nat({ max: 255 }), fc.uint8Array({ maxLength: 60 }), (at, to, noise) => {
      const mutated = Buffer.from(encoded);
      mutated[at % mutated.length] = to;
      for (const bytes of [mutated, Buffer.from(noise)]) {
        const intent = intentRecord.decode(bytes);
        if (intent !== undefined) intentRecord.encode(intent);
      }
    }),
    seeded(t, 2000),
  );
});
