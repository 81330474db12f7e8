import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { NodeTable } from "../../src/fuse/node-table.ts";
import type { NodeId } from "../../src/vfs/file-system.ts";
import { SAMPLE_ATTR } from "./recording-fs.ts";

const id = (name: string | number) => `id-${name}` as NodeId;

test("an id has one number while it is known, and another one afterwards", () => {
  const table = new NodeTable(id("root"));
  const first = table.enter(id("a"));
  assert.equal(table.enter(id("a")), first);
  assert.equal(first.lookups, 2);
  assert.equal(table.forget(first.nodeid, 1), true);
  assert.equal(table.get(first.nodeid), first);
  assert.equal(table.forget(first.nodeid, 1), true);
  assert.equal(table.get(first.nodeid), undefined);
  assert.notEqual(table.enter(id("a")).nodeid, first.nodeid);
  table.checkInvariants();
});

test("the root is never forgotten", () => {
  const table = new NodeTable(id("root"));
  assert.equal(table.forget(1, 1_000_000), true);
  assert.equal(table.get(1), table.root);
  assert.equal(table.enter(id("root")), table.root);
});

test("forgetting what is not known, or too often, is said and harms nothing", () => {
  const table = new NodeTable(id("root"));
  assert.equal(table.forget(5, 1), false);
  const { nodeid } = table.enter(id("a"));
  assert.equal(table.forget(nodeid, 9), false);
  assert.equal(table.get(nodeid), undefined);
  table.checkInvariants();
});

test("an id that comes back before it was passed on is not passed on as forgotten", () => {
  const table = new NodeTable(id("root"));
  for (const name of ["a", "b"]) table.forget(table.enter(id(name)).nodeid, 1);
  table.enter(id("a"));
  assert.deepEqual(table.takeForgotten(), [id("b")]);
  assert.deepEqual(table.takeForgotten(), []);
});

test("attributes fetched before a change by this mount are out of date, also if the node was forgotten since", () => {
  const table = new NodeTable(id("root"));
  const row = table.enter(id("a"));
  const before = table.now;
  assert.equal(table.isUnchangedSince(id("a"), before), true);
  table.changed(row);
  assert.equal(table.isUnchangedSince(id("a"), before), false);
  assert.equal(table.isUnchangedSince(id("never seen"), before), true);
  table.forget(row.nodeid, 1);
  assert.equal(table.isUnchangedSince(id("a"), before), false);
  assert.equal(table.isUnchangedSince(id("a"), table.now), true);
});

test("whatever the kernel looks up and forgets, counts agree with a naive model", () => {
  const step = fc.record({
    name: fc.integer({ min: 0, max: 5 }),
    count: fc.integer({ min: 1, max: 3 }),
    enter: fc.boolean(),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const table = new NodeTable(id("root"));
      const model = new Map<number, { nodeid: number; lookups: number }>();
      for (const { name, count, enter } of steps) {
        const known = model.get(name);
        if (enter) {
          const { nodeid } = table.enter(id(name));
          if (known === undefined) model.set(name, { nodeid, lookups: 1 });
          else known.lookups++;
        } else if (known !== undefined) {
          known.lookups -= count;
          assert.equal(table.forget(known.nodeid, count), known.lookups >= 0);
          if (known.lookups <= 0) model.delete(name);
        }
        table.checkInvariants();
        assert.equal(table.size, model.size + 1);
        for (const [each, { nodeid, lookups }] of model) {
          assert.equal(table.get(nodeid)?.id, id(each));
          assert.equal(table.get(nodeid)?.lookups, lookups);
        }
      }
    }),
  );
});

test("attributes that came along with a change are kept once, for their time, and only if nothing else changed the directory", () => {
  const table = new NodeTable(id("root"));
  const row = table.enter(id("directory"));
  const attr = { ...SAMPLE_ATTR, mode: 0o40755 };
  table.namesChanged(row, table.now, attr, 1000);
  assert.deepEqual(table.takeAttr(row, 400), { attr, validMs: 600 });
  assert.equal(table.takeAttr(row, 400), undefined, "taken");
  table.namesChanged(row, table.now, attr, 1000);
  assert.equal(table.takeAttr(row, 1000), undefined, "too old");
  table.namesChanged(row, table.now, attr, 1000);
  table.changed(row);
  assert.equal(table.takeAttr(row, 0), undefined, "changed since");
  const [first, second] = [table.now, table.now];
  table.namesChanged(row, second, attr, 1000);
  table.namesChanged(row, first, attr, 1000);
  assert.equal(table.takeAttr(row, 0), undefined, "the answers of two changes may have come in either order");
  table.namesChanged(row, table.now, attr, 1000);
  table.namesChanged(row, table.now, undefined, 1000);
  assert.equal(table.takeAttr(row, 0), undefined, "nothing came along");
  const other = table.enter(id("other"));
  const before = table.now;
  table.changed(other);
  table.namesChanged(row, before, attr, 1000);
  assert.deepEqual(table.takeAttr(row, 999)?.attr, attr, "a change of another node is no matter");
  table.keepAttr(table.root, attr, 1000);
  assert.deepEqual(table.takeAttr(table.root, 1), { attr, validMs: 999 }, "kept for the kernel's first question");
  table.keepAttr(table.root, attr, 1000);
  table.changed(table.root);
  assert.equal(table.takeAttr(table.root, 1), undefined, "and not if it was changed since");
});
