/** Connections that end in the breath they begin in: they have brought nothing back, and what is known of the server's absence stays. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectionError } from "../../src/base/errors.ts";
import type { FaultyLink } from "../../src/transport/memory-link.ts";
import { messages } from "../../src/wire/codec.ts";
import type { ChannelSecurity } from "../../src/wire/messages.ts";
import { settle } from "../support/fake-clock.ts";
import { harmProof } from "../support/harmed-line.ts";
import { ctx, linkDrive } from "../support/link-drive.ts";
import { MemoryStore } from "../support/memory-store.ts";
import { outcome } from "../support/outcome.ts";
import { fileOn, type ReturningDrive, returningDrive } from "../support/returning-drive.ts";

const SIGNED: ChannelSecurity = { control: "signed", io: "signed" };
/** No record begins like this. Anybody on the line can say it. */
const NO_RECORD = Buffer.alloc(4);
const OPCODE_AT = 5;

/** Says what is behind the welcome, `more` or what the server says next, in one chunk with it. */
function joinWelcome(server: FaultyLink, more?: Buffer): void {
  const write = server.write.bind(server);
  let held: Buffer[] = [];
  server.write = (chunks, sent) => {
    const bytes = Buffer.concat([...held, ...chunks]);
    const isWelcome = held.length === 0 && bytes[OPCODE_AT] === messages.auth.row.code;
    held = isWelcome && more === undefined ? [bytes] : [];
    if (held.length > 0) queueMicrotask(sent);
    else write([isWelcome && more !== undefined ? Buffer.concat([bytes, more]) : bytes], sent);
  };
}

/** What is dialled without a pause is dialled for ever: the clock stands still meanwhile. */
function harmEach(drive: ReturningDrive, harm: (server: FaultyLink) => void): void {
  const most = drive.connections.length + 100;
  drive.onConnection = ({ server }) => {
    harm(server);
    if (drive.connections.length > most) drive.isDown = true;
  };
}

/** How often each kind is dialled in this time. */
async function dialsIn(drive: ReturningDrive, ms: number) {
  const before = drive.dials.length;
  await drive.pass(ms);
  const later = drive.dials.slice(before).map(({ kind }) => kind);
  return {
    control: later.filter((kind) => kind === "control").length,
    io: later.filter((kind) => kind === "io").length,
  };
}

test("an io connection that is lost as soon as it has joined is dialled with pauses, and so is control", async () => {
  const drive = await returningDrive({ client: { security: SIGNED } });
  const { handle } = await fileOn(drive);
  drive.isDown = "control";
  harmEach(drive, (server) => joinWelcome(server, NO_RECORD));
  await drive.cut();
  const written = outcome(drive.remote.fileSystem.write(ctx, handle, 0, Buffer.from("abc")));
  await drive.pass(5000);
  const { control, io } = await dialsIn(drive, 10_000);
  // About 1 s and 0.3 s apart.
  assert.ok(io >= 9 && io <= 11, `io was dialled ${io} times`);
  assert.ok(control >= 30 && control <= 40, `control was dialled ${control} times`);
  assert.equal(drive.remote.state, "away");
  drive.isDown = false;
  drive.onConnection = () => {};
  await drive.pass(5000, () => written.value !== undefined);
  assert.equal(written.value, 3);
  await drive.remote.close();
});

test("an io connection that is told that the session is over joins it no more, and the next one when control has it", async () => {
  const store = new MemoryStore();
  const memory = { store, records: new Map(), life: undefined, hostBootId: "one" };
  const drive = await returningDrive({ client: { security: SIGNED }, memory });
  await fileOn(drive);
  store.die();
  const records = new Map(store.records);
  const next = linkDrive({ isTokenless: true, memory: { ...memory, store: new MemoryStore(records), records } });
  await next.server.restore();
  drive.target = next.server;
  drive.isDown = "control";
  harmEach(drive, (server) => joinWelcome(server));
  await drive.cut();
  const { control, io } = await dialsIn(drive, 10_000);
  assert.equal(io, 0, "it was told at its first");
  assert.equal(drive.connections.length, 3);
  assert.ok(control >= 30 && control <= 40, `control was dialled ${control} times`);
  // Control need not ask for the old session any more.
  drive.target = linkDrive().server;
  drive.isDown = false;
  drive.onConnection = () => {};
  const { length } = drive.connections;
  await drive.pass(5000, () => drive.connections.length === length + 2);
  await settle();
  assert.equal(drive.remote.state, "connected");
  await drive.remote.fileSystem.root(ctx);
  assert.deepEqual(
    drive.connections.slice(length).map(({ kind }) => kind),
    ["control", "io"],
  );
  await drive.remote.close();
});

test("a control connection that is lost as soon as it has joined leaves the server away: calls time out, and no forged refusal ends the drive", async () => {
  const options = { security: SIGNED, ioChannels: 0, keepMs: 60_000, timeoutMs: 5000 };
  for (const isForged of [false, true]) {
    const drive = await returningDrive({ client: options });
    const seen: string[] = [];
    drive.remote.onState((state) => seen.push(state));
    const { fileSystem } = drive.remote;
    // Longer than the server keeps a session.
    await drive.pass(61_000);
    drive.onConnection = ({ server }) => {
      drive.onConnection = (next) => (isForged ? harmProof(next.client) : undefined);
      joinWelcome(server, NO_RECORD);
      drive.isDown = !isForged;
    };
    await drive.cut();
    assert.deepEqual(seen, ["away"]);
    assert.equal(drive.remote.status().resumes, 0);
    const asked = outcome(fileSystem.root(ctx));
    await drive.pass(4000);
    assert.equal(asked.value, undefined);
    await drive.pass(2000);
    assert.ok((asked.value as unknown) instanceof ConnectionError);
    assert.deepEqual(seen, ["away"]);
    drive.isDown = false;
    drive.onConnection = () => {};
    await drive.pass(2000, () => drive.remote.state === "connected");
    await settle();
    assert.equal(drive.remote.state, "connected");
    assert.equal(drive.server.counters().sessions, 1);
    await drive.remote.close();
  }
});
