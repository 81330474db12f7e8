/** Lines for names: who is about the same name waits for those before, and nobody else does. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { ServedRequest } from "../../../src/server/served-request.ts";
import { NameLine } from "../../../src/server/state/name-line.ts";
import { settle } from "../../support/fake-clock.ts";

/** As much of a request as a line knows. */
function requestOf(): { request: ServedRequest; end(): void } {
  const tells: (() => void)[] = [];
  const ended = new Promise<void>((resolve) => tells.push(resolve));
  const request = { ended: () => ended, whenEnded: (tell: () => void) => tells.push(tell) };
  return { request: request as unknown as ServedRequest, end: () => tells.forEach((tell) => void tell()) };
}

test("who comes first to a name goes at once, the others in their order when those before have ended", async () => {
  const line = new NameLine();
  const all = [requestOf(), requestOf(), requestOf(), requestOf()];
  const [a, b, c, d] = all as [(typeof all)[0], (typeof all)[0], (typeof all)[0], (typeof all)[0]];
  const went: string[] = [];
  assert.equal(line.enter(a.request, ["x"]), undefined);
  void line.enter(b.request, ["x", "y"])?.then(() => went.push("b"));
  void line.enter(c.request, ["y"])?.then(() => went.push("c"));
  assert.equal(line.enter(d.request, ["z"]), undefined);
  await settle();
  assert.deepEqual(went, []);
  a.end();
  await settle();
  assert.deepEqual(went, ["b"]);
  b.end();
  await settle();
  assert.deepEqual(went, ["b", "c"]);
  for (const { end } of [c, d]) end();
  assert.equal(line.size, 0);
});

test("a name that stands twice in one request is waited for by others only", () => {
  const line = new NameLine();
  const { request, end } = requestOf();
  assert.equal(line.enter(request, ["x", "x"]), undefined);
  end();
  assert.equal(line.size, 0);
});
