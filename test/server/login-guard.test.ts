/** Guessing at passwords, as slow as it is meant to be, and what it costs others. Time is an argument here. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { tokenKey } from "../../src/resume/proof.ts";
import { LoginGuard, WAIT_MS_MAX } from "../../src/server/login-guard.ts";
import { settle } from "../support/fake-clock.ts";
import { linkDrive, TOKEN } from "../support/link-drive.ts";

const DAY_MS = 86_400_000;

/** Guesses as fast as the guard lets `address` for `durationMs`. @returns how many guesses were looked at. */
function guess(guard: LoginGuard, address: string, durationMs: number, startMs = 0): number {
  let looked = 0;
  for (let nowMs = startMs; nowMs < startMs + durationMs; ) {
    const waitMs = guard.admit(address, nowMs);
    if (waitMs !== undefined) looked += 1;
    nowMs += Math.max(1, waitMs ?? 100);
  }
  return looked;
}

test("the first failures wait for nothing, the next ones twice as long each, up to a bound", () => {
  const guard = new LoginGuard();
  const waits = Array.from({ length: 12 }, () => guard.admit("192.0.2.1", 0));
  // One after the other: each waits for those before it as well.
  assert.deepEqual(waits, [0, 0, 0, 0, 0, 250, 750, 1750, 3750, undefined, undefined, undefined]);
});

test("one source guesses some tens of thousands of times a day at most", () => {
  const looked = guess(new LoginGuard(), "192.0.2.1", DAY_MS);
  assert.ok(looked < 22_000, `${looked} guesses`);
});

test("many sources together are bounded as well", () => {
  const guard = new LoginGuard();
  let looked = 0;
  for (let nowMs = 0; nowMs < 3_600_000; nowMs += 100) {
    if (guard.admit(`10.${nowMs % 251}.${(nowMs / 100) % 241}.${(nowMs / 100) % 199}`, nowMs) !== undefined)
      looked += 1;
  }
  assert.ok(looked < 50 + 2 * 3600 + 10, `${looked} guesses in an hour`);
});

test("an attack from elsewhere does not slow a source that has logged in before", () => {
  const guard = new LoginGuard();
  assert.equal(guard.admit("198.51.100.7", 0), 0);
  guard.succeeded("198.51.100.7", 0);
  for (let nowMs = 0; nowMs < 600_000; nowMs += 50) guard.admit(`10.0.${nowMs % 256}.${nowMs % 199}`, nowMs);
  assert.equal(guard.admit("198.51.100.7", 600_000), 0);
});

test("when an attack ends, whoever comes waits some seconds at most", () => {
  const guard = new LoginGuard();
  guess(guard, "192.0.2.1", 3_600_000);
  const waitMs = guard.admit("192.0.2.1", 3_600_000 + WAIT_MS_MAX) ?? Number.POSITIVE_INFINITY;
  assert.ok(waitMs <= WAIT_MS_MAX);
  for (let nowMs = 0; nowMs < 600_000; nowMs += 50) guard.admit(`10.0.${nowMs % 256}.${nowMs % 199}`, nowMs);
  assert.ok((guard.admit("203.0.113.9", 600_000 + WAIT_MS_MAX) ?? Number.POSITIVE_INFINITY) <= WAIT_MS_MAX);
});

test("mistyping some times and then getting it right costs nothing, and is forgotten", () => {
  const guard = new LoginGuard();
  let nowMs = 0;
  for (let day = 0; day < 100; day += 1) {
    for (let attempt = 0; attempt < 3; attempt += 1) assert.equal(guard.admit("192.0.2.1", nowMs), 0);
    assert.equal(guard.admit("192.0.2.1", nowMs), 0);
    guard.succeeded("192.0.2.1", nowMs);
    nowMs += 120_000;
  }
});

test("logging in does not buy guesses at other passwords", () => {
  const guard = new LoginGuard();
  let looked = 0;
  for (let nowMs = 0; nowMs < 3_600_000; nowMs += 100) {
    if (guard.admit("192.0.2.1", nowMs) === 0) guard.succeeded("192.0.2.1", nowMs);
    if (guard.admit("192.0.2.1", nowMs) !== undefined) looked += 1;
  }
  assert.ok(looked < 2500, `${looked} guesses in an hour`);
});

test("all addresses of an IPv6 network are one source", () => {
  const guard = new LoginGuard();
  for (let index = 0; index < 5; index += 1) assert.equal(guard.admit(`2001:db8::${index}`, 0), 0);
  assert.equal(guard.admit("2001:db8::ffff", 0), 250);
  assert.equal(guard.admit("2001:db8:0:1::1", 0), 0);
});

test("a server makes guesses wait, refuses those beyond, counts them, and joins are not concerned", async () => {
  const drive = linkDrive();
  const wrong = tokenKey(Buffer.from("a guess"));
  const good = drive.peer();
  await good.setUp();
  for (let index = 0; index < 5; index += 1)
    assert.match(await drive.peer().setUp({}, wrong), /code=5 reason="wrong token/);
  const slowed = drive.peer();
  await slowed.setUp({}, wrong);
  assert.match(slowed.frames.at(-1) ?? "", /^hello reply/);
  drive.clock.advance(249);
  await settle();
  assert.match(slowed.frames.at(-1) ?? "", /^hello reply/);
  drive.clock.advance(1);
  await settle();
  assert.match(slowed.frames.at(-1) ?? "", /code=5 reason="wrong token/);
  const many = Array.from({ length: 20 }, () => drive.peer());
  for (const peer of many) await peer.setUp({}, wrong);
  assert.ok(
    many.some(({ frames }) => /code=7 reason="too many failed logins; try again later"/.test(frames.at(-1) ?? "")),
  );
  const io = drive.peer();
  assert.match(
    await io.setUp({ channelKind: 2, sessionId: good.sessionId, slotTable: 1 }, good.sessionKey),
    /^auth reply/,
  );
  const { failedLogins, deferredLogins } = drive.server.counters();
  assert.ok(failedLogins >= 6 && deferredLogins > 10, `${failedLogins} failed, ${deferredLogins} deferred`);
  // The right token waits as well, and then gets in.
  drive.clock.advance(WAIT_MS_MAX);
  await settle();
  const late = drive.peer();
  await late.setUp({}, tokenKey(TOKEN));
  drive.clock.advance(WAIT_MS_MAX);
  await settle();
  assert.match(late.frames.at(-1) ?? "", /^auth reply/);
  assert.ok(drive.lines.filter((line) => /refused/.test(line)).length < 40);
});

test("a client that goes while it waits leaves nothing behind", async () => {
  const drive = linkDrive();
  const wrong = tokenKey(Buffer.from("a guess"));
  for (let index = 0; index < 6; index += 1) {
    const peer = drive.peer();
    await peer.setUp({}, wrong);
    peer.channel.destroy();
  }
  await settle();
  assert.equal(drive.server.counters().channels, 0);
  assert.equal(drive.clock.pendingCount, 0);
});

test("a client that speaks while it waits is refused", async () => {
  const drive = linkDrive();
  const wrong = tokenKey(Buffer.from("a guess"));
  for (let index = 0; index < 5; index += 1) await drive.peer().setUp({}, wrong);
  const peer = drive.peer();
  await peer.setUp({}, wrong);
  peer.send("auth", { proof: Buffer.alloc(32) });
  await settle();
  assert.match(peer.frames.at(-1) ?? "", /code=3 reason="auth: not now"/);
});
