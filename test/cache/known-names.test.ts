/** When all names of a directory are known, for whom, and when no more. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { KnownNames } from "../../src/cache/known-names.ts";
import type { HandleId, NodeId, RequestContext } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { FakeClock, settle } from "../support/fake-clock.ts";
import { ctx, named } from "../support/link-drive.ts";

const FOLDER = { mode: 0o755, umask: 0 };
const OTHER: RequestContext = { caller: { uid: 1, gid: 1, groups: [], pid: 7 } };

class LeasingFs extends MemoryFs {
  lease: Lease = Lease.READ;
  asked = 0;
  /** What is done while a directory is read. */
  whileReading: () => void = () => {};

  async opendirLeased(who: RequestContext, id: NodeId): Promise<{ handle: HandleId; lease: Lease }> {
    this.asked += 1;
    return { handle: await this.opendir(who, id), lease: this.lease };
  }

  override readdir(...args: Parameters<MemoryFs["readdir"]>): Promise<Buffer> {
    this.whileReading();
    return super.readdir(...args);
  }
}

async function scene(names: readonly string[] = ["a", "b"]) {
  const fs = new LeasingFs();
  const clock = new FakeClock();
  const { id: root } = await fs.root();
  for (const name of names) await fs.mkdir(ctx, root, named(name), FOLDER);
  const known = new KnownNames(fs, clock);
  const miss = async (count: number, who = ctx) => {
    for (let at = 0; at < count; at += 1) known.missed(who, root);
    await settle();
  };
  return {
    fs,
    clock,
    root,
    known,
    miss,
    isAbsent: (name: string, who = ctx) => known.isAbsent(who, root, named(name)),
  };
}

test("where three names are missed shortly after each other, the others are known", async () => {
  const { fs, clock, known, miss, isAbsent } = await scene();
  await miss(2);
  clock.advance(5000);
  await miss(2);
  assert.deepEqual([isAbsent("c"), fs.asked], [false, 0]);
  await miss(1);
  assert.deepEqual([isAbsent("c"), isAbsent("a"), isAbsent(".."), fs.asked], [true, false, false, 1]);
  assert.equal(isAbsent("c", OTHER), false, "somebody else may not be allowed to look");
  assert.equal(isAbsent("c".repeat(256)), false, "it has an error of its own");
  assert.equal(known.count, 1);
  known.close();
  await settle();
  assert.deepEqual([isAbsent("c"), fs.openCount], [false, 0]);
});

test("names that are given are not absent, be it before, while or after the directory is read", async () => {
  const { fs, root, known, miss, isAbsent } = await scene();
  fs.whileReading = () => known.named(root, named("c"));
  await miss(3);
  known.named(root, named("d"));
  assert.deepEqual([isAbsent("c"), isAbsent("d"), isAbsent("e")], [false, false, true]);
  known.close();
});

test("a lease that is lost ends it, also while the directory is read, and it pauses twice as long each time", async () => {
  const { fs, clock, root, known, miss, isAbsent } = await scene();
  await miss(3);
  known.forget(root);
  await settle();
  assert.deepEqual([isAbsent("c"), fs.openCount], [false, 0]);
  await miss(3);
  assert.equal(fs.asked, 1);
  clock.advance(1000);
  fs.whileReading = () => known.forget(root);
  await miss(3);
  assert.deepEqual([isAbsent("c"), fs.asked, fs.openCount], [false, 2, 0]);
  fs.whileReading = () => {};
  clock.advance(1000);
  await miss(3);
  assert.equal(fs.asked, 2);
  clock.advance(1000);
  await miss(3);
  assert.deepEqual([isAbsent("c"), fs.asked], [true, 3]);
  known.forgetAll();
  await settle();
  assert.deepEqual([isAbsent("c"), fs.openCount], [false, 0]);
});

test("without a lease, or with too many names, nothing is known", async () => {
  const { fs, root, known, miss, isAbsent } = await scene();
  fs.lease = Lease.NONE;
  await miss(3);
  assert.deepEqual([isAbsent("c"), fs.asked, fs.openCount], [false, 1, 0]);
  known.close();
  const other = await scene();
  await other.miss(3);
  for (let at = 0; at <= 16_384; at += 1) other.known.named(other.root, named(`n${at}`));
  await settle();
  assert.deepEqual([other.isAbsent("c"), other.fs.openCount], [false, 0]);
  assert.equal(known.isAbsent(ctx, root, named("c")), false);
});

test("all names together are bounded", async () => {
  const names = Array.from({ length: 10 }, (_value, at) => `d${at}`);
  const { fs, root, known } = await scene(names);
  for (const name of names) {
    const { id } = await fs.lookup(ctx, root, named(name));
    for (let at = 0; at < 3; at += 1) known.missed(ctx, id);
    await settle();
    for (let at = 0; at < 16_000; at += 1) known.named(id, named(`n${at}`));
  }
  known.missed(ctx, root);
  assert.equal(known.count, 8);
  known.close();
  await settle();
  assert.equal(fs.openCount, 0);
});

test("what nobody asks for is given back, and directories are bounded", async () => {
  const { fs, clock, known, miss, isAbsent } = await scene();
  await miss(3);
  clock.advance(9999);
  assert.equal(isAbsent("c"), true);
  clock.advance(10_001);
  clock.advance(10_000);
  await settle();
  assert.deepEqual([known.count, fs.openCount], [0, 0]);
  const names = Array.from({ length: 70 }, (_value, at) => `d${at}`);
  const many = await scene(names);
  for (const name of names) {
    const { id } = await many.fs.lookup(ctx, many.root, named(name));
    for (let at = 0; at < 3; at += 1) many.known.missed(ctx, id);
    await settle();
    const { id: first } = await many.fs.lookup(ctx, many.root, named("d0"));
    assert.equal(many.known.isAbsent(ctx, first, named("x")), true, "what is used is kept");
  }
  assert.deepEqual([many.known.count, many.fs.openCount], [64, 64]);
  many.known.close();
  await settle();
  assert.equal(many.fs.openCount, 0);
});
