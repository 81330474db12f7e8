/** Who a client's user is on the server. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { NOBODY, squashCaller } from "../../src/server/squash.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { linkDrive } from "../support/link-drive.ts";

const user = { uid: 1000, gid: 100, groups: [4, 24], pid: 9 };
const root = { uid: 0, gid: 0, groups: [0, 4], pid: 9 };
const nobody = { uid: NOBODY, gid: NOBODY, groups: [], pid: 9 };

test("none trusts the client", () => {
  assert.equal(squashCaller("none", root), root);
  assert.equal(squashCaller("none", user), user);
});

test("all makes everybody nobody, without groups", () => {
  assert.deepEqual(squashCaller("all", user), nobody);
  assert.deepEqual(squashCaller("all", root), nobody);
});

test("root makes uid 0 nobody, and takes group 0 from everybody else", () => {
  assert.deepEqual(squashCaller("root", root), nobody);
  assert.equal(squashCaller("root", user), user);
  assert.deepEqual(squashCaller("root", { ...user, gid: 0 }), { ...user, gid: NOBODY });
  assert.deepEqual(squashCaller("root", { ...user, groups: [5, 0] }), { ...user, groups: [5, NOBODY] });
});

test("the share's file system sees the mapped caller, whoever asked before on the same connection", async () => {
  const gate = new GatedFs(new MemoryFs());
  gate.gates.add("root");
  const { peer: newPeer } = linkDrive({ fileSystem: gate.fileSystem, squash: "root" });
  const peer = newPeer();
  await peer.setUp();
  for (const [slot, caller] of [root, user, root, user].entries()) peer.send("root", { caller }, { tag: slot });
  await settle();
  assert.deepEqual(
    gate.held.map(({ ctx }) => ctx.caller),
    [nobody, user, nobody, user],
  );
});
