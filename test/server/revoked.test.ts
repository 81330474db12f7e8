/** Sessions whose logins are not good any more: whom the server remembers, and how long. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { RevokedSessions } from "../../src/server/revoked.ts";
import { FakeClock } from "../support/fake-clock.ts";

const session = (number: number, keepMs = 1000) => ({
  id: Buffer.alloc(16, number),
  key: Buffer.alloc(32, number),
  share: "share",
  readOnly: false,
  keepMs,
});

test("a session is remembered as long as it would have been kept, and of too many the oldest is not", () => {
  const clock = new FakeClock();
  const revoked = new RevokedSessions(clock, 2);
  revoked.add(session(1));
  revoked.add(session(2, 5000));
  assert.deepEqual(revoked.find(Buffer.alloc(16, 1))?.key, Buffer.alloc(32, 1));
  clock.advance(1000);
  assert.equal(revoked.find(Buffer.alloc(16, 1)), undefined);
  assert.equal(revoked.find(Buffer.alloc(16, 2))?.share, "share");
  for (const number of [3, 4]) revoked.add(session(number, 5000));
  assert.deepEqual(
    [2, 3, 4].map((number) => revoked.find(Buffer.alloc(16, number)) !== undefined),
    [false, true, true],
  );
});
