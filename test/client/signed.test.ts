/** Signed channels, client and server, with somebody on the line: what may be used, what is noticed, and that nothing is lost or wrong by it. */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { CloseCode, ConnectionError, ProtocolError } from "../../src/base/errors.ts";
import { createLog } from "../../src/base/log.ts";
import { connectRemote } from "../../src/client/remote.ts";
import { startServer } from "../../src/server/server.ts";
import { partsOfKey } from "../../src/server/state/records.ts";
import type { FaultyLink } from "../../src/transport/memory-link.ts";
import { type FileSystem, OpenFlag } from "../../src/vfs/file-system.ts";
import { messages } from "../../src/wire/codec.ts";
import { HEADER_BYTES } from "../../src/wire/limits.ts";
import type { ChannelSecurity } from "../../src/wire/messages.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { fakeDrive } from "../support/fake-server.ts";
import { HARMS, type HarmedStream, type HarmPlan, harmedWay, harmLink, harmProof } from "../support/harmed-line.ts";
import { ctx, linkDrive, named, TOKEN } from "../support/link-drive.ts";
import { MemoryStore } from "../support/memory-store.ts";
import { outcome } from "../support/outcome.ts";
import { returningDrive } from "../support/returning-drive.ts";

const NEW_FILE = { mode: 0o100644, umask: 0 };
const READ_WRITE = OpenFlag.READ | OpenFlag.WRITE;
const SIGNED: ChannelSecurity = { control: "signed", io: "signed" };
const CHANGED = /what .* sent was changed on its way/;
/** Where `security` is in a hello. */
const SECURITY_AT = HEADER_BYTES + 15;

const DATA = Buffer.from(Array.from({ length: 300_001 }, (_, at) => (at * 31 + (at >> 8)) & 255));

/** Uses a file that stays open over everything that happens; what it reads must be what was written. */
async function scenario(fileSystem: FileSystem): Promise<void> {
  const { id: root } = await fileSystem.root(ctx);
  const { entry, opened } = await fileSystem.create(ctx, root, named("f"), READ_WRITE, NEW_FILE);
  const { handle } = opened;
  for (let round = 0; round < 3; round += 1) {
    assert.equal(await fileSystem.write(ctx, handle, round * 1000, DATA), DATA.length);
    const copy = Buffer.alloc(DATA.length);
    assert.equal(await fileSystem.read(ctx, handle, round * 1000, copy), DATA.length);
    assert.ok(copy.equals(DATA));
    await fileSystem.mkdir(ctx, root, named(`d${round}`), { mode: 0o755, umask: 0 });
    assert.equal((await fileSystem.getattr(ctx, entry.id, handle)).sizeBytes, DATA.length + round * 1000);
  }
  await fileSystem.release(ctx, handle);
}

test("frames are signed in both directions: whoever signs nothing is not understood", async () => {
  const drive = linkDrive({ security: SIGNED });
  const peer = drive.peer();
  peer.isUnsigned = true;
  // What the server says behind its welcome is no frame to who does not know of records.
  await peer.setUp({ security: 1 });
  peer.send("ping", { echo: 7 });
  await settle();
  assert.ok(!peer.frames.some((frame) => frame.startsWith("ping")));
  assert.match(drive.lines.join("\n"), CHANGED);
  assert.equal(drive.server.counters().refused, 1);
  const signing = drive.peer();
  await signing.setUp({ security: 1 });
  signing.send("ping", { echo: 7 });
  await settle();
  assert.equal(signing.frames.at(-1), "ping tag=0 echo=7");
});

test("a server that signs nothing is not believed, though it knows the token", async () => {
  const drive = fakeDrive({ security: SIGNED });
  const remote = await drive.connecting;
  const asked = outcome(remote.fileSystem.root(ctx));
  await settle();
  drive.server.send({ opcode: messages.ping.row.code }, messages.ping.request as never, { echo: 1 });
  await settle();
  assert.ok(asked.value instanceof ConnectionError);
  assert.match((await remote.closed)?.message ?? "", CHANGED);
});

test("what a hello says of the security cannot be changed on the way, in either direction", async () => {
  for (const [wished, said] of [
    [SIGNED, 0],
    [{ control: "plain", io: "plain" }, 1],
  ] as const) {
    const drive = linkDrive();
    const harm = ({ client }: { client: FaultyLink }) => {
      const write = client.write.bind(client);
      let isFirst = true;
      client.write = (chunks, sent) => {
        const bytes = Buffer.concat(chunks);
        if (isFirst) bytes.writeUInt8(said, SECURITY_AT);
        isFirst = false;
        write([bytes], sent);
      };
    };
    await assert.rejects(drive.connect({ security: wished, harm }), (error) => {
      const { cause } = error as Error;
      return cause instanceof ProtocolError && cause.closeCode === CloseCode.AUTHENTICATION;
    });
    assert.equal(drive.server.counters().sessions, 0);
  }
});

test("a server that demands signed frames refuses plain ones, and takes TLS", async () => {
  const drive = linkDrive({ security: SIGNED });
  await assert.rejects(drive.connect(), /control channels of this server are signed at least, not plain/);
  const control = drive.peer();
  await control.setUp({ security: 1 });
  const io = { channelKind: 2, sessionId: control.sessionId } as const;
  assert.match(
    await drive.peer().setUp(io, control.sessionKey),
    /code=9 reason="io channels of this server are signed/,
  );
  assert.match(await drive.peer().setUp({ ...io, security: 1 }, control.sessionKey), /^auth reply/);
  const { remote } = await drive.connect({ binding: Buffer.alloc(32, 5) });
  await remote.close();
});

/** One run over links in memory, of which one is harmed once. @returns whether it was. */
async function harmed(lane: number, direction: "client" | "server", plan: HarmPlan): Promise<boolean> {
  let stream: HarmedStream | undefined;
  const drive = await returningDrive({
    client: { security: SIGNED, sectionBytes: 65_536 },
    onConnection: (connection, index) => {
      if (index === lane) stream = harmLink(connection[direction], plan);
    },
  });
  drive.remote.events = { changed: () => {}, gone: () => assert.fail("an open was lost") };
  const done = outcome(scenario(drive.remote.fileSystem).then(() => true));
  await drive.pass(60_000, () => done.value !== undefined);
  const what = `${plan.harm} record ${plan.record} of ${direction}, lane ${lane}`;
  assert.equal(done.value, true, what);
  const isDone = stream?.isDone === true;
  const isSeen = drive.lines.some((line) => CHANGED.test(line));
  // What was taken away at the very end is missed by nobody.
  if (isDone && plan.harm !== "drop" && plan.harm !== "swap") assert.ok(isSeen, what);
  if (isSeen) assert.ok(drive.connections.length > 2, what);
  if (isSeen && direction === "client") assert.equal(drive.server.counters().refused, 1, what);
  if (!isDone) assert.ok(!isSeen, what);
  await drive.remote.close();
  return isDone;
}

test("a record that is flipped, dropped, repeated, moved or played again costs a connection, and no more", async () => {
  let count = 0;
  for (const harm of HARMS) {
    for (const lane of [0, 1]) {
      for (const direction of ["client", "server"] as const) {
        for (const record of [0, 1, 2, 5]) if (await harmed(lane, direction, { harm, record })) count += 1;
      }
    }
  }
  assert.ok(count > 60, `${count} records were harmed`);
});

test("a refusal that is not the server's does not cost the session, nor what is open", async () => {
  // Of the joining connection only, and of all of them.
  for (const isAlways of [false, true]) {
    const drive = await returningDrive({ client: { security: SIGNED, ioChannels: 0 } });
    drive.remote.events = { changed: () => {}, gone: () => assert.fail("an open was lost") };
    const { fileSystem } = drive.remote;
    const { id: root } = await fileSystem.root(ctx);
    const { opened } = await fileSystem.create(ctx, root, named("f"), READ_WRITE, NEW_FILE);
    const before = drive.connections.length;
    drive.onConnection = ({ client }) => {
      if (isAlways || (drive.connections.length - before) % 2 === 1) harmProof(client);
    };
    await drive.cut();
    const written = outcome(fileSystem.write(ctx, opened.handle, 0, DATA));
    await drive.pass(30_000);
    assert.equal(drive.remote.state, "away");
    assert.equal(written.value, undefined);
    assert.ok(drive.server.counters().sessions <= 2);
    drive.onConnection = () => {};
    await drive.pass(10_000, () => written.value !== undefined);
    assert.equal(written.value, DATA.length);
    if (!isAlways) assert.match(drive.lines.join("\n"), /somebody refuses this session in the server's name/);
    assert.equal(drive.server.counters().sessions, 1);
    await drive.remote.close();
  }
});

test("a server that was started anew, and one whose no lasts longer than it keeps a session, are believed", async () => {
  const drive = await returningDrive({ client: { security: SIGNED, keepMs: 60_000 } });
  const gone: number[] = [];
  drive.remote.events = { changed: () => {}, gone: (handle) => gone.push(handle) };
  const { fileSystem } = drive.remote;
  const { id: root } = await fileSystem.root(ctx);
  const { opened } = await fileSystem.create(ctx, root, named("f"), READ_WRITE, NEW_FILE);
  drive.target = linkDrive().server;
  await drive.cut();
  await drive.pass(2000, () => drive.remote.state === "connected");
  assert.deepEqual(gone, [opened.handle]);
  // Nobody knows the token there. It keeps sessions for 5 s.
  const other = linkDrive({ isTokenless: true });
  const pass = async (ms: number) => {
    for (let at = 0; at < ms; at += 200) {
      other.clock.advance(200);
      await drive.pass(200);
    }
  };
  drive.target = other.server;
  await drive.cut();
  await pass(4000);
  assert.equal(drive.remote.state, "away");
  await pass(20_000);
  assert.equal(drive.remote.state, "over");
});

test("a server that was started anew with another token is believed at once, where it knows the session still", async () => {
  const store = new MemoryStore();
  const memory = { store, records: new Map(), life: undefined, hostBootId: "one" };
  const drive = await returningDrive({ client: { security: SIGNED, keepMs: 60_000 }, memory });
  const { fileSystem } = drive.remote;
  const gone: number[] = [];
  drive.remote.events = { changed: () => {}, gone: (handle) => gone.push(handle) };
  const { id: root } = await fileSystem.root(ctx);
  await fileSystem.create(ctx, root, named("f"), READ_WRITE, NEW_FILE);
  store.die();
  const records = new Map(store.records);
  const next = linkDrive({ isTokenless: true, memory: { ...memory, store: new MemoryStore(records), records } });
  await next.server.restore();
  assert.equal(next.server.counters().sessions, 0);
  drive.target = next.server;
  await drive.cut();
  const waiting = outcome(fileSystem.lookup(ctx, root, named("f")));
  await drive.pass(3000, () => drive.remote.state === "over");
  assert.equal(drive.remote.state, "over");
  assert.match((await drive.remote.closed)?.message ?? "", /wrong token/);
  await settle();
  assert.ok(waiting.value instanceof Error);
  // Over any other channel, and by another key, it is refused as one that never was.
  const io = [...store.records.keys()].map((key) => partsOfKey(key)).find((parts) => parts?.of === "session");
  assert.ok(io?.of === "session");
  for (const security of [0, 1]) {
    const peer = next.peer();
    const said = await peer.setUp({ sessionId: io.id, security }, Buffer.alloc(32, 9));
    assert.equal(said, 'goodbye tag=0 code=5 reason="wrong token, or no such session"');
  }
});

/** A server and a client of it over sockets, with somebody on the line. */
async function socketDrive(t: TestContext, plansOf: Parameters<typeof harmedWay>[1]) {
  const lines: string[] = [];
  const log = createLog({ level: "debug", clock: systemClock, sink: (line) => lines.push(line) });
  const server = await startServer({
    shares: new Map([["share", { fileSystem: new MemoryFs(), readOnly: false }]]),
    ...{ token: TOKEN, squash: "none", log, clock: systemClock, security: SIGNED },
    listen: { host: "127.0.0.1", port: 0 },
  });
  t.after(() => server.close());
  const way = await harmedWay(server.address.port, plansOf);
  t.after(() => way[Symbol.asyncDispose]());
  const url = { token: TOKEN, host: "127.0.0.1", port: way.port, share: "share" };
  const remote = await connectRemote({ url, log, clock: systemClock, security: SIGNED, sectionBytes: 65_536 });
  t.after(() => remote.close());
  return { lines, server, way, remote };
}

test("the same over sockets: nothing wrong is delivered, and what is open stays open", async (t) => {
  for (const harm of HARMS) {
    await t.test(harm, async (part) => {
      const drive = await socketDrive(part, (index) => {
        if (index < 2) return { up: { harm, record: 4 } };
        return index < 4 ? { down: { harm, record: 3 } } : {};
      });
      drive.remote.events = { changed: () => {}, gone: () => assert.fail("an open was lost") };
      await scenario(drive.remote.fileSystem);
      assert.ok(drive.way.connections.length > 2);
      assert.ok(drive.lines.filter((line) => CHANGED.test(line)).length >= 2);
      assert.ok(drive.server.counters().refused >= 1);
      assert.equal(drive.remote.state, "connected");
    });
  }
});
