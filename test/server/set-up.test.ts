/**
 * Set-up of a channel on the server: one test an arrow of its states (hello -> auth -> done, and out of each), and what a peer that has not proven
 * itself can and cannot do.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { tokenKey } from "../../src/resume/proof.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { settle } from "../support/fake-clock.ts";
import { linkDrive, type Peer, TOKEN } from "../support/link-drive.ts";

const caller = { uid: 0, gid: 0, groups: [], pid: 0 };

function lastGoodbye(peer: Peer): string {
  const last = peer.frames.at(-1) ?? "";
  assert.match(last, /^goodbye /);
  assert.equal(peer.isClosed || peer.channel.isOpen, true);
  return last;
}

test("hello is answered by a challenge and a right proof by a welcome: the channel is ready", async () => {
  const { peer: newPeer, server } = linkDrive();
  const peer = newPeer();
  const welcome = await peer.setUp();
  assert.match(
    welcome,
    /^auth reply tag=0 .*readOnly=false squash=0 flushless=false mandatoryLocks=false share="share" proof=/,
  );
  assert.match(
    peer.frames[0] ?? "",
    /^hello reply tag=0 version=1 features=0 .*sectionBytes=65536 credits=8 salt=<0 bytes> iterations=0$/,
  );
  peer.send("root", { caller }, { tag: 1 });
  await settle();
  assert.match(peer.frames.at(-1) ?? "", /^root reply tag=1 id=/);
  assert.equal(server.counters().sessions, 1);
  assert.equal(server.unproven.count, 0);
  assert.equal(peer.sessionId.length, 16);
});

test("two sessions of one client have different ids, keys and challenges", async () => {
  const { peer } = linkDrive();
  const [first, second] = [peer(), peer()];
  await first.setUp({ clientNonce: Buffer.alloc(32) });
  await second.setUp({ clientNonce: Buffer.alloc(32) });
  assert.ok(!first.sessionId.equals(second.sessionId));
  assert.ok(!first.sessionKey.equals(second.sessionKey));
  assert.notEqual(first.frames[0], second.frames[0]);
});

test("what was asked for is granted up to the server's limits, in whole multiples", async () => {
  const { peer } = linkDrive({ limits: { sectionBytesMax: 131_072, creditsMax: 16 } });
  const greedy = peer();
  await greedy.setUp({ sectionBytes: 16 * 1024 * 1024, credits: 4096 });
  assert.match(greedy.frames[0] ?? "", /sectionBytes=131072 credits=16 /);
  const odd = peer();
  await odd.setUp({ sectionBytes: 5000, credits: 4 });
  assert.match(odd.frames[0] ?? "", /sectionBytes=4096 credits=4 /);
});

test("a wrong token and an unknown session are refused alike; a share is only judged after the proof", async () => {
  const { peer, lines, server } = linkDrive();
  const wrong = peer();
  await wrong.setUp({}, tokenKey(Buffer.from("wrong")));
  const noSession = peer();
  await noSession.setUp({ sessionId: Buffer.alloc(16, 9) });
  const noShare = peer();
  await noShare.setUp({ share: "no" }, tokenKey(Buffer.from("wrong")));
  const texts = [wrong, noSession, noShare].map(lastGoodbye);
  assert.equal(new Set(texts).size, 1);
  assert.match(texts[0] ?? "", /code=5 /);
  const rightToken = peer();
  await rightToken.setUp({ share: "no" });
  assert.match(lastGoodbye(rightToken), /code=6 reason="no share 'no' here"/);
  assert.equal(server.counters().sessions, 0);
  assert.equal(lines.filter((line) => /refused/.test(line)).length, 4);
});

test("a hello that cannot be served is refused with the reason's code", async () => {
  const { peer } = linkDrive();
  const cases: [Parameters<Peer["hello"]>[0], RegExp][] = [
    [{ versionMin: 2, versionMax: 3 }, /code=4 .*version 1/],
    [{ versionMin: 0, versionMax: 0 }, /code=4 /],
    [{ channelKind: 2 }, /code=1 /],
    [{ channelKind: 3 }, /code=1 /],
    [{ sessionId: Buffer.alloc(5) }, /code=1 /],
    [{ sectionBytes: 4095 }, /code=2 /],
    [{ sectionBytes: 2 ** 25 }, /code=2 /],
    [{ credits: 3 }, /code=2 /],
    [{ user: "u", sessionId: Buffer.alloc(16) }, /code=1 /],
    [{ user: "u".repeat(65) }, /code=2 /],
    [{ user: "u" }, /code=9 reason="a password is taken on an encrypted connection only"/],
    [{ security: 2 }, /code=9 reason="the channel is not what its hello says"/],
    [{ security: 3 }, /code=9 reason="the channel is not what its hello says"/],
  ];
  for (const [change, expected] of cases) {
    const refused = peer();
    assert.match(await refused.setUp(change), expected);
    await settle();
    assert.ok(!refused.channel.isOpen || refused.frames.length === 1);
  }
});

test("silence at each step of set-up ends the connection in time", async () => {
  for (const steps of [0, 1]) {
    const { peer: newPeer, clock, server } = linkDrive();
    const peer = newPeer();
    if (steps === 1) peer.send("hello", peer.hello());
    await settle();
    clock.advance(4999);
    await settle();
    assert.equal(server.counters().channels, 1);
    clock.advance(1);
    await settle();
    assert.match(lastGoodbye(peer), /code=10 reason="too slow"/);
    peer.channel.destroy();
    await settle();
    assert.equal(server.counters().channels, 0);
    assert.equal(clock.pendingCount, 0);
  }
});

test("a message that is not due ends the connection at every step", async () => {
  const due: Record<string, (peer: Peer) => void> = {
    "auth before hello": (peer) => peer.send("auth", { proof: Buffer.alloc(32) }),
    "a call before hello": (peer) => peer.send("root", { caller }, { tag: 1 }),
    "a notice before hello": (peer) => peer.send("cancel", { canceledTag: 1 }),
    "hello twice": (peer) => {
      peer.send("hello", peer.hello());
      peer.send("hello", peer.hello());
    },
    "a call before auth": (peer) => {
      peer.send("hello", peer.hello());
      peer.send("root", { caller }, { tag: 1 });
    },
  };
  for (const [what, act] of Object.entries(due)) {
    const { peer: newPeer, server } = linkDrive();
    const peer = newPeer();
    act(peer);
    await settle();
    assert.match(lastGoodbye(peer), /code=3 .*not now/, what);
    peer.channel.destroy();
    await settle();
    assert.equal(server.counters().channels, 0, what);
  }
  const { peer: newPeer } = linkDrive();
  const ready = newPeer();
  await ready.setUp();
  ready.send("hello", ready.hello(), { tag: 1 });
  await settle();
  assert.match(lastGoodbye(ready), /code=3 .*set-up is over/);
});

test("garbage at each step of set-up ends that connection and no other", async () => {
  const { peer: newPeer, server } = linkDrive();
  const good = newPeer();
  await good.setUp();
  const garbage = [
    Buffer.from("GET / HTTP/1.1\r\nHost: somebody\r\n\r\n"),
    Buffer.alloc(24, 0xff),
    Buffer.alloc(24),
    Buffer.from("ffffffff0101000000000000000000000000000000000000", "hex"),
    Buffer.from("00040000010100000000000000000000000000000000" + "0104", "hex"),
    Buffer.from("10000000010100000000000000000000000000000000" + "0000", "hex"),
    Buffer.from("0000000001fa00000000000000000000000000000000" + "0000", "hex"),
    Buffer.concat([
      Buffer.from("0800000001010000000000000000000000000000000008006e6574647269", "hex"),
      Buffer.alloc(2),
    ]),
  ];
  for (const bytes of garbage) {
    for (const step of ["hello", "auth", "ready"]) {
      const peer = newPeer();
      if (step === "auth") peer.send("hello", peer.hello());
      if (step === "ready") await peer.setUp();
      await settle();
      await peer.sendRaw(bytes);
      assert.match(lastGoodbye(peer), /code=[1234] /, `${bytes.toString("hex")} at ${step}`);
      peer.channel.destroy();
    }
  }
  good.send("root", { caller }, { tag: 1 });
  await settle();
  assert.match(good.frames.at(-1) ?? "", /^root reply/);
  good.channel.destroy();
  await settle();
  assert.equal(server.counters().channels, 0);
});

test("a frame cut at any byte of set-up leaves nothing behind", async () => {
  const { peer: newPeer, server, clock } = linkDrive();
  for (let cut = 1; cut < 160; cut += 7) {
    const peer = newPeer();
    peer.link.faults.cutAtByte = cut;
    await peer.setUp();
    await settle();
  }
  await settle();
  const { channels, sessions } = server.counters();
  assert.equal(channels, 0);
  assert.equal(server.unproven.count, 0);
  clock.advance(60_000);
  await settle();
  assert.equal(server.counters().sessions, 0);
  assert.ok(sessions <= 2);
  assert.equal(clock.pendingCount, 0);
});

test("a hostile client cannot make a thousand log lines", async () => {
  const { peer: newPeer, lines, server, clock } = linkDrive();
  for (let index = 0; index < 100; index += 1) {
    const peer = newPeer();
    await peer.sendRaw(Buffer.alloc(24, 0xff));
    peer.channel.destroy();
  }
  await settle();
  assert.equal(server.counters().refused, 100);
  assert.ok(lines.length <= 21, `${lines.length} lines`);
  clock.advance(1000);
  const peer = newPeer();
  await peer.sendRaw(Buffer.alloc(24, 0xff));
  assert.match(lines.at(-1) ?? "", /lines like this not shown/);
});

test("a goodbye during set-up is taken as one", async () => {
  const { peer: newPeer, server, lines } = linkDrive();
  const peer = newPeer();
  peer.send("goodbye", { code: 0, reason: "" });
  await settle();
  peer.channel.destroy();
  await settle();
  assert.equal(server.counters().channels, 0);
  assert.deepEqual(lines, []);
});

test("connections that prove nothing are bounded: the oldest is closed", async () => {
  const { peer: newPeer, server } = linkDrive({ limits: { unprovenMax: 3 } });
  const peers = [newPeer(), newPeer(), newPeer()];
  const proven = peers[2] as Peer;
  await proven.setUp();
  const more = [newPeer(), newPeer()];
  await settle();
  assert.deepEqual(
    [...peers, ...more].map(({ isClosed }) => isClosed),
    [true, false, false, false, false],
  );
  assert.equal(server.unproven.count, 3);
  assert.equal(await more[1]?.setUp().then((text) => /^auth reply/.test(text)), true);
});

test("who is refused and stays counts among those that prove nothing, until it is gone", async () => {
  const { peer: newPeer, server, clock, lines } = linkDrive({ limits: { unprovenMax: 3 } });
  for (let index = 0; index < 8; index += 1) {
    const peer = newPeer();
    // It takes nothing, and does not close its side.
    peer.link.pause();
    await peer.sendRaw(Buffer.alloc(24, 0xff));
  }
  await settle();
  assert.deepEqual([server.unproven.count, server.counters().channels], [3, 3]);
  assert.ok(!lines.some((line) => line.includes("too many connections")));
  assert.match(await newPeer().setUp(), /^auth reply/);
  assert.deepEqual([server.unproven.count, server.counters().channels], [2, 3]);
  clock.advance(2000);
  await settle();
  assert.deepEqual([server.unproven.count, server.counters().channels], [0, 1]);
});

test("sessions are bounded, and a place is free when one ends", async () => {
  const { peer: newPeer, clock } = linkDrive({ limits: { sessionsMax: 2 } });
  const [first, second, third] = [newPeer(), newPeer(), newPeer()];
  await first.setUp();
  await second.setUp();
  assert.match(await third.setUp(), /^goodbye tag=0 code=7 /);
  first.send("goodbye", { code: 0, reason: "" });
  await settle();
  assert.match(await newPeer().setUp(), /^auth reply/);
  second.channel.destroy();
  await settle();
  clock.advance(10_000);
  await settle();
  assert.match(await newPeer().setUp(), /^auth reply/);
});

test("a channel joins a session with the session's key, and sees its opens", async () => {
  const { peer: newPeer, server } = linkDrive();
  const control = newPeer();
  await control.setUp();
  control.send("root", { caller }, { tag: 1 });
  await settle();
  const root = /id=([0-9a-f]+)/.exec(control.frames.at(-1) ?? "")?.[1] ?? "";
  const parent = Buffer.from(root, "hex").toString("latin1") as never;
  const fields = { caller, parent, name: "f" as never, flags: 3, lease: Lease.NONE, mode: 0o100644, umask: 0 };
  control.send("create", fields, { tag: 1 });
  await settle();
  const handle = control.headers.at(-1)?.handle ?? 0;
  assert.notEqual(handle, 0);
  const io = newPeer();
  const welcome = await io.setUp({ channelKind: 2, sessionId: control.sessionId }, control.sessionKey);
  assert.match(welcome, /^auth reply/);
  assert.ok(io.sessionId.equals(control.sessionId));
  io.send("write", { caller, offsetBytes: 0, killSuidgid: false }, { tag: 1, handle, section: 3 }, Buffer.from("data"));
  await settle();
  assert.equal(io.frames.at(-1), `write reply tag=1 handle=${handle} section=3 writtenBytes=4`);
  io.send("root", { caller }, { tag: 2 });
  await settle();
  assert.match(lastGoodbye(io), /code=3 reason="root: not on an io channel"/);
  assert.equal(server.counters().sessions, 1);
  for (const key of [Buffer.alloc(32), tokenKey(TOKEN)]) {
    const wrong = newPeer();
    assert.match(await wrong.setUp({ channelKind: 2, sessionId: control.sessionId }, key), /^goodbye tag=0 code=5 /);
  }
  const otherShare = newPeer();
  const hello = { channelKind: 2, sessionId: control.sessionId, share: "other" };
  assert.match(await otherShare.setUp(hello, control.sessionKey), /^goodbye tag=0 code=5 /);
});

test("channels of a session are bounded", async () => {
  const { peer: newPeer } = linkDrive({ limits: { channelsPerSessionMax: 2 } });
  const control = newPeer();
  await control.setUp();
  const join = (slotTable: number) =>
    newPeer().setUp({ channelKind: 2, slotTable, sessionId: control.sessionId }, control.sessionKey);
  assert.match(await join(1), /^auth reply/);
  assert.match(await join(2), /^goodbye tag=0 code=7 /);
  assert.match(await join(0), /^goodbye tag=0 code=1 reason="slot table 0"/);
});

test("a proof made for another channel is worth nothing", async () => {
  const { peer: newPeer } = linkDrive();
  const first = newPeer();
  const nonce = Buffer.alloc(32, 7);
  assert.match(await first.setUp({ clientNonce: nonce }), /^auth reply/);
  // Somebody has seen the first channel's frames and sends them again.
  const replayed = newPeer();
  replayed.send("hello", replayed.hello({ clientNonce: nonce }));
  await settle();
  replayed.send("auth", { proof: first.proof });
  await settle();
  assert.match(lastGoodbye(replayed), /code=5 /);
});
