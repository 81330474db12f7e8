/**
 * Set-up of a channel on the client: one test an arrow of its states (hello -> auth -> done, and out of each), against servers that are wrong, rude
 * or silent.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CloseCode, ConnectionError, FsError, ProtocolError } from "../../src/base/errors.ts";
import { settle } from "../support/fake-clock.ts";
import { fakeDrive, type SetUpFaults } from "../support/fake-server.ts";
import { linkDrive } from "../support/link-drive.ts";

test("a right server is believed, and what was agreed is known", async () => {
  const { connecting, clock } = fakeDrive({ sectionBytes: 65_536, credits: 10 });
  const remote = await connecting;
  assert.deepEqual(remote.share, {
    name: "share",
    readOnly: false,
    mandatoryLocks: false,
    squash: "none",
    serverId: "02".repeat(16),
    bootId: "03".repeat(16),
    sectionBytes: 65_536,
    credits: 10,
  });
  assert.equal(clock.pendingCount, 1, "the session's look at itself");
  await remote.close();
  assert.equal(clock.pendingCount, 0);
});

test("a server that does not know the token is not believed, and nothing else it says is", async () => {
  const { connecting, server } = fakeDrive({ faults: { token: Buffer.from("another"), welcome: { squash: 200 } } });
  await assert.rejects(connecting, (error) => {
    return (
      error instanceof ProtocolError && error.closeCode === CloseCode.AUTHENTICATION && /token/.test(error.message)
    );
  });
  await settle();
  assert.match(server.notices.at(-1) ?? "", /^goodbye tag=0 code=5 /);
});

const NONSENSE: readonly [string, SetUpFaults, RegExp][] = [
  ["another version", { challenge: { version: 2 } }, /version 2/],
  ["features nobody asked for", { challenge: { features: 1 } }, /features 1/],
  ["sections larger than asked for", { challenge: { sectionBytes: 2 ** 21 } }, /sections of 2097152/],
  ["sections that are no multiple", { challenge: { sectionBytes: 5000 } }, /sections of 5000/],
  ["sections of nothing", { challenge: { sectionBytes: 0 } }, /sections of 0/],
  ["no credits", { challenge: { credits: 0 } }, /0 credits/],
  ["more credits than asked for", { challenge: { credits: 5000 } }, /5000 credits/],
  ["another share", { welcome: { share: "other" } }, /does not fit/],
  ["an unknown squash", { welcome: { squash: 3 } }, /does not fit/],
  ["less memory than a section", { welcome: { bytesMax: 4096 } }, /does not fit/],
  ["a reply with a tag", { header: { tag: 1 } }, /reply to nothing/],
  ["a reply with a handle", { header: { handle: 1 } }, /reply to nothing/],
  ["a reply that is none", { header: { flags: 0 } }, /flags 0/],
  ["a reply to something else", { header: { opcode: 16 } }, /not now|body/],
];

for (const [what, faults, expected] of NONSENSE) {
  test(`a server that offers ${what} is refused`, async () => {
    const { connecting, server, clock } = fakeDrive({ faults });
    await assert.rejects(connecting, (error) => error instanceof ProtocolError && expected.test(error.message));
    await settle();
    assert.match(server.notices.at(-1) ?? "", /^goodbye /);
    server.channel.destroy();
    await settle();
    assert.equal(clock.pendingCount, 0);
  });
}

test("a refusal is told with the server's reason; whether to try again follows from its code", async () => {
  for (const [code, retryable] of [
    [CloseCode.UNKNOWN_SHARE, false],
    [CloseCode.AUTHENTICATION, false],
    [CloseCode.BUSY, true],
    [CloseCode.SHUTDOWN, true],
  ] as const) {
    const { connecting, server } = fakeDrive({ faults: { answers: 0 } });
    server.goodbye(code, "because \u001b[31m");
    await assert.rejects(connecting, (error) => {
      return error instanceof ConnectionError && error.retryable === retryable && /because/.test(error.message);
    });
  }
});

test("a wrong token and an unknown share are refused by a real server in one line", async () => {
  const drive = linkDrive();
  await assert.rejects(drive.connect({ token: Buffer.from("wrong") }), /wrong token/);
  await assert.rejects(drive.connect({ share: "other" }), /no share 'other' here/);
});

test("silence at each step ends in time, and leaves nothing behind", async () => {
  for (const answers of [0, 1]) {
    const { connecting, clock, server } = fakeDrive({ faults: { answers } });
    const failed = assert.rejects(connecting, /said nothing for 10 s/);
    await settle();
    clock.advance(9999);
    await settle();
    assert.equal(server.isClosed, false);
    clock.advance(1);
    await failed;
    await settle();
    assert.equal(server.isClosed, true);
    assert.equal(clock.pendingCount, 0);
  }
});

test("an abort at each step ends it at once", async () => {
  for (const answers of [0, 1]) {
    const controller = new AbortController();
    const { connecting, clock, server } = fakeDrive({ faults: { answers }, signal: controller.signal });
    const failed = assert.rejects(connecting, (error) => error instanceof FsError && error.errno === "EINTR");
    await settle();
    controller.abort();
    await failed;
    await settle();
    assert.equal(server.isClosed, true);
    assert.equal(clock.pendingCount, 0);
  }
  await assert.rejects(fakeDrive({ signal: AbortSignal.abort() }).connecting, { errno: "EINTR" });
});

test("an abort after set-up does not concern the drive", async () => {
  const controller = new AbortController();
  const { connecting } = fakeDrive({ signal: controller.signal });
  const remote = await connecting;
  controller.abort();
  await settle();
  assert.equal(remote.status().channels[0]?.state, "open");
  await remote.close();
});

test("a link lost at any byte the server sends is a lost connection", async () => {
  for (let cut = 1; cut < 180; cut += 7) {
    const drive = fakeDrive();
    drive.server.link.faults.cutAtByte = cut;
    await assert.rejects(
      drive.connecting.then(async (remote) => {
        await settle();
        const reason = await remote.closed;
        assert.ok(reason instanceof ConnectionError);
        throw reason;
      }),
      ConnectionError,
    );
    await settle();
    assert.equal(drive.clock.pendingCount, 0);
  }
});

test("garbage at each step is refused", async () => {
  for (const answers of [0, 1]) {
    for (const bytes of [
      Buffer.alloc(24, 0xff),
      Buffer.alloc(24),
      Buffer.from("HTTP/1.1 200 OK\r\n\r\nwelcome to my web"),
    ]) {
      const { connecting, server } = fakeDrive({ faults: { answers } });
      const failed = assert.rejects(connecting, ProtocolError);
      await settle();
      await server.sendRaw(bytes);
      await failed;
    }
  }
});

test("a channel knows its line's round trip from the set-up, and presumes what such a line holds", async () => {
  const { clock, clientLink, server, connecting } = fakeDrive();
  clientLink.faults.delayMs = 30;
  server.link.faults.delayMs = 20;
  for (let ms = 0; ms < 100; ms++) {
    await settle();
    clock.advance(1);
  }
  const remote = await connecting;
  // A link in memory that has just delivered something delivers the next a little early.
  const roundTripMs = remote.lineBytes() / 125_000;
  assert.ok(roundTripMs >= 20 && roundTripMs <= 51, `${roundTripMs} ms`);
});
