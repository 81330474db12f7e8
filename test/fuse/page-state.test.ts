import assert from "node:assert/strict";
import { test } from "node:test";
import { ADOPT_BYTES_MIN, PageState } from "../../src/fuse/page-state.ts";
import type { Attr } from "../../src/vfs/attr.ts";
import { SAMPLE_ATTR } from "./recording-fs.ts";

const MUCH = ADOPT_BYTES_MIN;
const attr = (sizeBytes: number, mtimeNsec: number, ctimeNsec = mtimeNsec): Attr => ({
  ...SAMPLE_ATTR,
  sizeBytes,
  mtimeNsec,
  ctimeNsec,
});

/** A state whose pages are those of a file of `sizeBytes` at time 1. */
function known(sizeBytes: number): PageState {
  const state = new PageState();
  state.opened(attr(sizeBytes, 1));
  return state;
}

test("pages stay at an open exactly if size, mtime and ctime are those they belong to", () => {
  assert.equal(new PageState().opened(attr(10, 1)), false);
  assert.equal(known(10).opened(attr(10, 1)), true);
  assert.equal(known(10).opened(attr(11, 1)), false);
  assert.equal(known(10).opened(attr(10, 2, 1)), false);
  assert.equal(known(10).opened(attr(10, 1, 2)), false);
  assert.equal(known(10).opened({ ...attr(10, 1), mtimeSec: 3 }), false);
});

test("after a small write of our own they go, whatever the attributes are", () => {
  const state = known(10);
  state.writeStarts();
  state.writeEnds(0, 10, false);
  assert.equal(state.adoptable(), undefined);
  assert.equal(state.opened(attr(10, 1)), false);
});

test("after a large write of our own they stay if the attributes at the close are still there at the open", () => {
  const state = known(10);
  state.writeStarts();
  state.writeEnds(0, MUCH, false);
  const token = state.adoptable();
  assert.ok(token !== undefined);
  state.adopt(token, attr(MUCH, 2));
  assert.equal(state.opened(attr(MUCH, 2)), true);
  assert.equal(state.opened(attr(MUCH, 3)), false, "somebody else has written since");
});

test("attributes at the close are not adopted if the size shows that somebody else wrote as well", () => {
  const state = known(10);
  state.writeStarts();
  state.writeEnds(10, MUCH, true);
  state.adopt(state.adoptable() as number, attr(10 + MUCH + 1, 2));
  assert.equal(state.opened(attr(10 + MUCH + 1, 2)), false);
});

test("appended bytes count from the end, written ones from their place", () => {
  const state = known(MUCH);
  state.writeStarts();
  state.writeEnds(0, 100, true);
  state.writeStarts();
  state.writeEnds(50, MUCH, false);
  state.adopt(state.adoptable() as number, attr(MUCH + 100, 2));
  assert.equal(state.opened(attr(MUCH + 100, 2)), true);
});

test("a write between the question and the answer makes the answer void", () => {
  for (const disturb of [(state: PageState) => state.writeStarts(), (state: PageState) => state.truncated(MUCH)]) {
    const state = known(0);
    state.writeStarts();
    state.writeEnds(0, MUCH, false);
    const token = state.adoptable() as number;
    disturb(state);
    state.adopt(token, attr(MUCH, 2));
    assert.equal(state.opened(attr(MUCH, 2)), false);
  }
});

test("while a write is under way nothing is certain", () => {
  const state = known(10);
  state.writeStarts();
  assert.equal(state.adoptable(), undefined);
  assert.equal(state.opened(attr(10, 1)), false, "the attributes may be of before the write");
  state.writeEnds(0, MUCH, false);
  assert.equal(state.adoptable(), undefined, "what the second open saw may be of before or after");
  assert.equal(state.opened(attr(MUCH, 1)), false);
});

test("a change of unknown extent, or a reply that did not arrive, makes the pages unknown until the next open", () => {
  const failed = known(10);
  failed.writeStarts();
  failed.writeEnds(0, -1, false);
  const lost = known(10);
  lost.lost();
  for (const state of [failed, lost]) {
    assert.equal(state.opened(attr(10, 1)), false);
    assert.equal(state.opened(attr(10, 1)), true);
  }
});

test("a truncation of our own is taken into account", () => {
  const state = known(10);
  state.truncated(0);
  state.writeStarts();
  state.writeEnds(0, MUCH, false);
  state.adopt(state.adoptable() as number, attr(MUCH, 2));
  assert.equal(state.opened(attr(MUCH, 2)), true);
});
