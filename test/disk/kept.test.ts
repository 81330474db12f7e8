/** Files that are open and have no name: kept for the next process, unseen by clients, and gone with their last open. */
import assert from "node:assert/strict";
import { chmodSync, chownSync, linkSync, mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import fc from "fast-check";
import { silentLog } from "../../src/base/log.ts";
import { createDisk, type Disk } from "../../src/disk/disk.ts";
import { S_IFIFO } from "../../src/vfs/attr.ts";
import { decodeDirents } from "../../src/vfs/dirent-page.ts";
import { type NodeId, type Opened, OpenFlag, RenameFlag } from "../../src/vfs/file-system.ts";
import type { Recovery } from "../../src/vfs/recovery.ts";
import { as, asRoot, mode, n, READ_WRITE, refused, type ScratchDisk, scratchDisk } from "../support/scratch-disk.ts";
import { seeded } from "../support/seed.ts";

const FOLDER = ".netdrive-kept";
const alice = as(1000);
const keeping = () => scratchDisk({ keepsUnlinked: true });
const recovery = (disk: Disk) => disk.recovery as Recovery;

/** The links in the folder; none if it is not there. */
function kept(scratch: ScratchDisk): string[] {
  try {
    return readdirSync(scratch.at(FOLDER));
  } catch {
    return [];
  }
}

async function opened(scratch: ScratchDisk, name: string, content: string): Promise<Opened & { id: NodeId }> {
  const { disk, root } = scratch;
  const made = await disk.create(alice, root, n(name), READ_WRITE, mode(0o640));
  await disk.write(alice, made.opened.handle, 0, Buffer.from(content));
  return { ...made.opened, id: made.entry.id };
}

async function text(disk: Disk, { handle }: Opened): Promise<string> {
  const target = Buffer.alloc(1000);
  return target.subarray(0, await disk.read(alice, handle, 0, target)).toString();
}

const dies = (scratch: ScratchDisk) => scratch.disk.close();

/** The disk of the next process. */
async function next(scratch: ScratchDisk): Promise<Disk & AsyncDisposable> {
  const disk = await createDisk({
    directory: scratch.path,
    applyCredentials: true,
    log: silentLog,
    keepsUnlinked: true,
  });
  return Object.assign(disk, { [Symbol.asyncDispose]: () => disk.close() });
}

/** Ways for an open file to lose its name. */
const WAYS: Record<string, (scratch: ScratchDisk, name: string) => Promise<unknown>> = {
  "it is unlinked": ({ disk, root }, name) => disk.unlink(alice, root, n(name)),
  "another is renamed over it": async ({ disk, root }, name) => {
    const other = await disk.create(alice, root, n("other"), READ_WRITE, mode(0o600));
    await disk.release(alice, other.opened.handle);
    await disk.rename(alice, root, n("other"), root, n(name), 0);
  },
  "the last of two names goes": async ({ disk, root }, name) => {
    const { id } = await disk.lookup(alice, root, n(name));
    await disk.link(alice, id, root, n("second"));
    await disk.unlink(alice, root, n(name));
    assert.equal((await disk.getattr(alice, id)).nlink, 1);
    await disk.unlink(alice, root, n("second"));
  },
};

for (const [way, lose] of Object.entries(WAYS)) {
  test(`an open file is there for the next process when ${way}`, async () => {
    await using scratch = await keeping();
    const { disk } = scratch;
    const file = await opened(scratch, "f", "kept");
    const record = recovery(disk).describe(file.handle);
    await lose(scratch, "f");
    assert.equal((await disk.getattr(alice, file.id)).nlink, 0);
    assert.equal((await disk.getattr(alice, file.id, file.handle)).nlink, 0);
    assert.equal((await disk.setattr(alice, file.id, { mode: 0o400 }, file.handle)).nlink, 0);
    assert.equal(kept(scratch).length, 1);
    await disk.write(alice, file.handle, 4, Buffer.from(", written after"));
    await dies(scratch);

    await using after = await next(scratch);
    const { id } = await recovery(after).recall(asRoot, record);
    assert.equal(id, file.id);
    const again = await recovery(after).reopen(alice, id, READ_WRITE);
    assert.equal(again.attr.nlink, 0);
    await recovery(after).sweep(asRoot);
    assert.equal(await text(after, again), "kept, written after");
    assert.equal((await after.getattr(alice, id)).nlink, 0);
    // It may be opened once more, and has no name to be found by.
    const second = await after.open(alice, id, OpenFlag.READ);
    assert.equal(second.attr.nlink, 0);
    await refused("ENOENT", after.link(alice, id, scratch.root, n("name")));
    for (const { handle } of [again, second]) {
      assert.equal(kept(scratch).length, 1);
      await after.release(alice, handle);
    }
    await refused("ESTALE", after.getattr(alice, id));
    await after.close();
    assert.ok(!readdirSync(scratch.path).includes(FOLDER));
  });
}

test("a file made without a name is there for the next process, and gets a name only if it may", async () => {
  await using scratch = await keeping();
  const { disk, root } = scratch;
  for (const exclusive of [0, OpenFlag.EXCL]) {
    const made = await disk.tmpfile(alice, root, READ_WRITE | exclusive, mode(0o600));
    assert.equal(made.opened.attr.nlink, 0);
    assert.equal((await disk.getattr(alice, made.entry.id)).nlink, 0);
    await disk.write(alice, made.opened.handle, 0, Buffer.from("nameless"));
  }
  const [free, bound] = [
    kept(scratch).find((name) => name.endsWith("t")),
    kept(scratch).find((name) => /n$/.test(name)),
  ];
  assert.ok(free !== undefined && bound !== undefined);
  const made = await disk.tmpfile(alice, root, READ_WRITE, mode(0o600));
  const record = recovery(disk).describe(made.opened.handle);
  const exclusive = await disk.tmpfile(alice, root, READ_WRITE | OpenFlag.EXCL, mode(0o600));
  const exclusiveRecord = recovery(disk).describe(exclusive.opened.handle);
  await refused("ENOENT", disk.link(alice, exclusive.entry.id, root, n("x")));
  await dies(scratch);

  await using after = await next(scratch);
  const { id } = await recovery(after).recall(asRoot, record);
  const again = await recovery(after).reopen(alice, id, READ_WRITE);
  const other = (await recovery(after).recall(asRoot, exclusiveRecord)).id;
  const otherAgain = await recovery(after).reopen(alice, other, READ_WRITE);
  await recovery(after).sweep(asRoot);
  assert.equal(kept(scratch).length, 2);
  await refused("ENOENT", after.link(alice, other, root, n("x")));
  assert.equal((await after.link(alice, id, root, n("named"))).attr.nlink, 1);
  assert.equal((await after.getattr(alice, id)).nlink, 1);
  assert.equal(kept(scratch).length, 1);
  await after.link(alice, id, root, n("twice"));
  for (const { handle } of [again, otherAgain]) await after.release(alice, handle);
  assert.equal(statSync(scratch.at("named")).nlink, 2);
});

test("what was not open, or is a directory, or has another name, is not kept", async () => {
  await using scratch = await keeping();
  const { disk, root } = scratch;
  await scratch.file("f");
  await disk.unlink(asRoot, root, n("f"));
  const directory = await scratch.directory("d");
  const handle = await disk.opendir(asRoot, directory);
  await disk.rmdir(asRoot, root, n("d"));
  await disk.releasedir(asRoot, handle);
  const file = await opened(scratch, "g", "");
  linkSync(scratch.at("g"), scratch.at("h"));
  await disk.unlink(alice, root, n("g"));
  const third = await opened(scratch, "i", "");
  const fourth = await opened(scratch, "j", "");
  await disk.rename(alice, root, n("i"), root, n("j"), RenameFlag.EXCHANGE);
  await refused("EEXIST", disk.rename(alice, root, n("i"), root, n("j"), RenameFlag.NOREPLACE));
  assert.deepEqual(readdirSync(scratch.path).sort(), ["h", "i", "j"]);
  for (const open of [file, third, fourth]) await disk.release(alice, open.handle);
});

test("the folder is not there for clients, whether anything is kept or not", async () => {
  await using scratch = await keeping();
  const { disk, root } = scratch;
  const file = await opened(scratch, "f", "");
  await disk.unlink(alice, root, n("f"));
  const other = await opened(scratch, "g", "");
  assert.equal(statSync(scratch.at(FOLDER)).mode & 0o777, 0o700);
  await using plain = Object.assign(
    await createDisk({ directory: scratch.path, applyCredentials: true, log: silentLog }),
    {
      async [Symbol.asyncDispose]() {
        await plain.close();
      },
    },
  );
  const name = n(FOLDER);
  for (const shown of [disk, plain]) {
    const { id: top } = await shown.root(asRoot);
    const g = (await shown.lookup(asRoot, top, n("g"))).id;
    await refused("ENOENT", shown.lookup(asRoot, top, name));
    await refused("ENOENT", shown.unlink(asRoot, top, name));
    await refused("ENOENT", shown.rmdir(asRoot, top, name));
    await refused("ENOENT", shown.rename(asRoot, top, name, top, n("mine"), 0));
    await refused("EACCES", shown.rename(asRoot, top, n("g"), top, name, 0));
    await refused("EACCES", shown.link(asRoot, g, top, name));
    await refused("EACCES", shown.mkdir(asRoot, top, name, mode(0o755)));
    await refused("EACCES", shown.symlink(asRoot, top, name, Buffer.from("x")));
    await refused("EACCES", shown.mknod(asRoot, top, name, { ...mode(S_IFIFO), rdevMajor: 0, rdevMinor: 0 }));
    await refused("EACCES", shown.create(asRoot, top, name, READ_WRITE, mode(0o644)));
    const handle = await shown.opendir(asRoot, top);
    for (const withEntries of [true, false]) {
      const page = await shown.readdir(asRoot, handle, 0n, 65_536, withEntries);
      assert.deepEqual([...decodeDirents(page)].map((dirent) => String(dirent.name)).sort(), [".", "..", "g"]);
    }
    await shown.releasedir(asRoot, handle);
  }
  // Elsewhere the name is like any other, and so is another name here.
  const { id } = await disk.mkdir(asRoot, root, n("d"), mode(0o755));
  await disk.mkdir(asRoot, id, name, mode(0o755));
  await disk.mkdir(asRoot, root, n(`${FOLDER}x`), mode(0o755));
  await disk.setxattr(asRoot, root, n("trusted.netdriv"), Buffer.from("x"), 0);
  for (const open of [file, other]) await disk.release(alice, open.handle);
});

test("no name leads to the folder that a directory which ignores case takes for it, nor makes one", async () => {
  await using scratch = await keeping();
  const { disk, root } = scratch;
  for (const text of [
    FOLDER.toUpperCase(),
    ".netDrive-kept",
    ".netdrive-\u{212a}ept",
    "\u{200b}.netdrive-kept",
    ".netdrive\u{ad}-KEPT\u{e0041}",
  ]) {
    await refused("EACCES", disk.mkdir(asRoot, root, n(text), mode(0o700)));
    mkdirSync(scratch.at(text));
    await refused("ENOENT", disk.lookup(asRoot, root, n(text)));
    await refused("ENOENT", disk.rename(asRoot, root, n(text), root, n("mine"), 0));
    await refused("ENOENT", disk.rmdir(asRoot, root, n(text)));
  }
  const handle = await disk.opendir(asRoot, root);
  const page = await disk.readdir(asRoot, handle, 0n, 65_536, true);
  assert.deepEqual([...decodeDirents(page)].map((dirent) => String(dirent.name)).sort(), [".", ".."]);
  await disk.releasedir(asRoot, handle);
  for (const text of [".netdrive-kep", ".netdrive-kep\u{e9}", ".netdrive-keptt", "netdrive-kept"]) {
    await disk.mkdir(asRoot, root, n(text), mode(0o700));
  }
});

test("who may not remove a file leaves no trace, and gets the kernel's own answer", async () => {
  await using scratch = await keeping();
  const { disk, root } = scratch;
  const bob = as(1001);
  const closed = await scratch.directory("closed", 0o755);
  const sticky = await scratch.directory("sticky");
  await disk.setattr(asRoot, sticky, { mode: 0o1777 });
  for (const [directory, errno] of [
    [closed, "EACCES"],
    [sticky, "EPERM"],
  ] as const) {
    const { entry, opened: open } = await disk.create(asRoot, directory, n("f"), READ_WRITE, mode(0o644));
    await refused(errno, disk.unlink(bob, directory, n("f")));
    await disk.mkdir(bob, root, n("mine"), mode(0o755)).catch(() => undefined);
    const mine = await disk.create(bob, root, n(`of bob ${errno}`), READ_WRITE, mode(0o644));
    await disk.release(bob, mine.opened.handle);
    await refused(errno, disk.rename(bob, root, n(`of bob ${errno}`), directory, n("f"), 0));
    await refused("EISDIR", disk.rename(asRoot, directory, n("f"), root, n("mine"), 0));
    assert.equal((await disk.getattr(asRoot, entry.id)).nlink, 1);
    assert.deepEqual(kept(scratch), []);
    await disk.release(asRoot, open.handle);
    assert.equal((await disk.lookup(asRoot, directory, n("f"))).id, entry.id);
  }
});

test("a folder that anybody may have put there is not used, and files go as they always did", async () => {
  for (const plant of [
    (path: string) => {
      mkdirSync(path, { mode: 0o700 });
      chownSync(path, 1000, 1000);
    },
    (path: string) => {
      mkdirSync(path);
      chmodSync(path, 0o755);
    },
    (path: string) => writeFileSync(path, ""),
  ]) {
    await using scratch = await keeping();
    const { disk, root } = scratch;
    plant(scratch.at(FOLDER));
    const file = await opened(scratch, "f", "x");
    await disk.unlink(alice, root, n("f"));
    assert.equal((await disk.getattr(alice, file.id)).nlink, 0);
    const made = await disk.tmpfile(alice, root, READ_WRITE | OpenFlag.EXCL, mode(0o600));
    await refused("ENOENT", disk.link(alice, made.entry.id, root, n("x")));
    assert.deepEqual(kept(scratch), []);
    await refused("ENOENT", disk.lookup(alice, root, n(FOLDER)));
    for (const { handle } of [file, made.opened]) await disk.release(alice, handle);
    rmSync(scratch.at(FOLDER), { recursive: true });
  }
});

test("what a death left over and nobody comes back to is swept, and nothing else", async () => {
  await using scratch = await keeping();
  const { disk, root } = scratch;
  const records: Buffer[] = [];
  for (let index = 0; index < 300; index += 1) {
    const file = await opened(scratch, `f${index}`, String(index));
    records.push(recovery(disk).describe(file.handle));
    await disk.unlink(alice, root, n(`f${index}`));
  }
  assert.equal(kept(scratch).length, 300);
  await dies(scratch);
  await using after = await next(scratch);
  await recovery(after).recall(asRoot, records[0] as Buffer);
  const { id } = await recovery(after).recall(asRoot, records[7] as Buffer);
  const again = await recovery(after).reopen(asRoot, id, OpenFlag.READ);
  writeFileSync(scratch.at(FOLDER, "stranger"), "");
  await recovery(after).sweep(asRoot);
  assert.equal(kept(scratch).length, 2);
  assert.equal(await text(after, again), "7");
  await refused("ESTALE", recovery(after).recall(asRoot, records[1] as Buffer));
  await after.release(asRoot, again.handle);
  rmSync(scratch.at(FOLDER, "stranger"));
});

test("two servers of one directory leave each other's files alone", async () => {
  await using scratch = await keeping();
  const { disk, root } = scratch;
  const first = await opened(scratch, "f", "first's");
  const record = recovery(disk).describe(first.handle);
  await disk.unlink(alice, root, n("f"));
  {
    await using other = await next(scratch);
    await recovery(other).sweep(asRoot);
    await refused("ESTALE", recovery(other).recall(asRoot, Buffer.concat([record.subarray(0, 17), Buffer.alloc(4)])));
    const { entry, opened: second } = await other.create(
      alice,
      (await other.root(asRoot)).id,
      n("g"),
      READ_WRITE,
      mode(0o600),
    );
    await other.unlink(alice, root, n("g"));
    assert.equal((await other.getattr(alice, entry.id)).nlink, 0);
    assert.equal(kept(scratch).length, 1);
    await other.release(alice, second.handle);
  }
  await dies(scratch);
  await using after = await next(scratch);
  assert.equal((await recovery(after).recall(asRoot, record)).id, first.id);
  await recovery(after).sweep(asRoot);
  assert.deepEqual(kept(scratch), []);
});

test("whatever opens, closes and removals come together, nothing stays behind and no open loses its file", async (t) => {
  const step = fc.constantFrom("unlink", "rename", "open", "release", "link", "tmpfile", "write");
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 5, maxLength: 60 }), async (steps) => {
      await using scratch = await keeping();
      const { disk, root } = scratch;
      const opens: Opened[] = [];
      const names = ["a", "b", "c"].map(n);
      const pick = (index: number) => names[index % 3] as (typeof names)[number];
      const acts = steps.map(async (name, index): Promise<unknown> => {
        if (name === "unlink") return disk.unlink(alice, root, pick(index));
        if (name === "rename") return disk.rename(alice, root, pick(index), root, pick(index + 1), 0);
        if (name === "link") {
          return disk.link(alice, (await disk.lookup(alice, root, pick(index))).id, root, pick(index + 1));
        }
        if (name === "tmpfile") return opens.push((await disk.tmpfile(alice, root, READ_WRITE, mode(0o600))).opened);
        if (name === "release") return Promise.all(opens.splice(0, 2).map(({ handle }) => disk.release(alice, handle)));
        if (name === "write" && opens[0] !== undefined) {
          return disk.write(alice, opens[0].handle, 0, Buffer.from("written"));
        }
        return opens.push((await disk.create(alice, root, pick(index), READ_WRITE, mode(0o600))).opened);
      });
      for (const result of await Promise.allSettled(acts)) {
        if (result.status === "rejected") assert.match(String(result.reason), /ENOENT|EEXIST|EBADF|ESTALE/);
      }
      for (const { handle } of opens) {
        await disk.write(alice, handle, 0, Buffer.from("still here"));
        await disk.release(alice, handle);
      }
      await disk.close();
      assert.deepEqual(kept(scratch), []);
      assert.ok(!readdirSync(scratch.path).includes(FOLDER));
    }),
    seeded(t, 60),
  );
});
