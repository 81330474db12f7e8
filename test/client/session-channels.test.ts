/** A session over several channels: sections go over io channels, everything else over control. */
import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { nameFromText } from "../../src/base/name.ts";
import { connectLink } from "../../src/client/remote.ts";
import { type FaultyLink, memoryLinkPair } from "../../src/transport/memory-link.ts";
import { OpenFlag, RequestPriority } from "../../src/vfs/file-system.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { settle } from "../support/fake-clock.ts";
import { GatedFs } from "../support/gated-fs.ts";
import { ctx, linkDrive, TOKEN } from "../support/link-drive.ts";
import { outcome } from "../support/outcome.ts";
import { returningDrive } from "../support/returning-drive.ts";

const SECTION = 64 * 1024;
const NEW_FILE = { mode: 0o644, umask: 0 };

async function connect(ioChannels: number, drive = linkDrive()) {
  const { clock, log, server } = drive;
  const clients: FaultyLink[] = [];
  const link = () => {
    const pair = memoryLinkPair(clock);
    server.accept(pair.server);
    clients.push(pair.client);
    return pair.client;
  };
  const options = { url: { token: TOKEN, share: "share" }, clock, log, sectionBytes: SECTION, ioChannels };
  const remote = await connectLink(link(), options, async () => link());
  return { remote, clients, drive };
}

describe("a session of several channels", () => {
  for (const ioChannels of [0, 1, 3]) {
    it(`reads back what it wrote in sections over ${ioChannels} io channels`, async () => {
      const { remote } = await connect(ioChannels);
      const { fileSystem } = remote;
      const root = await fileSystem.root(ctx);
      const { entry, opened } = await fileSystem.create(
        ctx,
        root.id,
        nameFromText("f"),
        OpenFlag.READ | OpenFlag.WRITE,
        NEW_FILE,
      );
      const data = Buffer.alloc(20 * SECTION + 17);
      for (let at = 0; at + 4 <= data.length; at += 4) data.writeUInt32LE(at, at);
      const before = remote.status().channels.map(({ sentBytes }) => sentBytes);
      assert.equal(await fileSystem.write(ctx, opened.handle, 5, data), data.length);
      const target = Buffer.alloc(data.length);
      assert.equal(await fileSystem.read(ctx, opened.handle, 5, target), data.length);
      assert.ok(target.equals(data));
      const sent = remote.status().channels.map(({ sentBytes }, index) => sentBytes - (before[index] as number));
      assert.equal(sent.length, ioChannels + 1);
      if (ioChannels > 0) {
        assert.equal(sent[0], 0, "control carries no section");
        for (const bytes of sent.slice(1)) assert.ok(bytes >= SECTION, "every io channel has its part");
      }
      assert.equal((await fileSystem.getattr(ctx, entry.id)).sizeBytes, data.length + 5);
      await remote.close();
    });
  }

  it("answers a lookup, and what is asked of the same open, while the io channel is full of data that does not move", async () => {
    const { remote, clients } = await connect(1);
    const { fileSystem } = remote;
    const root = await fileSystem.root(ctx);
    const { entry, opened } = await fileSystem.create(
      ctx,
      root.id,
      nameFromText("f"),
      OpenFlag.READ | OpenFlag.WRITE,
      NEW_FILE,
    );
    const io = clients[1] as FaultyLink;
    io.faults.isStalled = true;
    const writing = fileSystem.write(ctx, opened.handle, 0, Buffer.alloc(8 * SECTION));
    assert.equal((await fileSystem.lookup(ctx, root.id, nameFromText("f"))).attr.sizeBytes, 0);
    assert.equal((await fileSystem.getattr(ctx, entry.id, opened.handle)).sizeBytes, 0);
    io.faults.isStalled = false;
    io.kick();
    assert.equal(await writing, 8 * SECTION);
    await remote.close();
  });

  it("sends what follows writes behind them, on their channel, where there is one", async () => {
    for (const ioChannels of [0, 1, 2]) {
      const gate = new GatedFs(new MemoryFs());
      const { remote } = await connect(ioChannels, linkDrive({ fileSystem: gate.fileSystem }));
      const { fileSystem } = remote;
      assert.equal(fileSystem.canFollowWrites, ioChannels < 2);
      if (ioChannels === 2) continue;
      const root = await fileSystem.root(ctx);
      const flags = OpenFlag.READ | OpenFlag.WRITE;
      const { entry, opened } = await fileSystem.create(ctx, root.id, nameFromText("f"), flags, NEW_FILE);
      gate.calls.length = 0;
      gate.gates.add("write");
      const behind = { ...ctx, priority: RequestPriority.WRITE_BEHIND };
      const following = { ...behind, followsWrites: true };
      // More than the window lets through at once.
      const writes = Array.from({ length: 8 }, (_, at) =>
        fileSystem.write(behind, opened.handle, at * 2 * SECTION, Buffer.alloc(SECTION, 1)),
      );
      const synced = fileSystem.fsync(following, opened.handle, true);
      const attr = fileSystem.getattr(following, entry.id, opened.handle);
      while (gate.calls.filter((name) => name === "write").length < 8) {
        await gate.holding(1);
        gate.held[0]?.pass();
        await settle();
      }
      await settle();
      for (const held of [...gate.held]) held.pass();
      await Promise.all([...writes, synced]);
      assert.equal((await attr).sizeBytes, 15 * SECTION);
      assert.deepEqual(gate.calls.slice(-2).sort(), ["fsync", "getattr"], `${gate.calls}`);
      await remote.close();
    }
  });

  it("reads by control while io channels cannot come back, and by them when they can, also a moment later", async () => {
    for (const ioChannels of [1, 2]) {
      const drive = await returningDrive({ client: { ioChannels } });
      const { remote, connections, clock } = drive;
      const { fileSystem } = remote;
      const root = await fileSystem.root(ctx);
      const flags = OpenFlag.READ | OpenFlag.WRITE;
      const { opened } = await fileSystem.create(ctx, root.id, nameFromText("f"), flags, NEW_FILE);
      await fileSystem.write(ctx, opened.handle, 0, Buffer.alloc(4 * SECTION, 7));
      const byControl = () => remote.status().channels[0]?.receivedBytes ?? 0;
      const read = (bytes: number) => outcome(fileSystem.read(ctx, opened.handle, 0, Buffer.alloc(bytes)));
      const lose = async () => {
        drive.isDown = "io";
        for (const { kind, client } of connections) if (kind === "io") client.destroy();
        await settle();
      };
      await lose();
      const before = byControl();
      const short = read(SECTION);
      await drive.pass(1000);
      drive.isDown = false;
      await drive.pass(2000);
      assert.equal(short.value, SECTION);
      assert.ok(byControl() < before + SECTION, "a short loss is waited for");
      await lose();
      const [lone, large] = [read(SECTION), read(4 * SECTION)];
      await drive.pass(4000);
      assert.equal(lone.value, undefined);
      await drive.pass(2000);
      assert.deepEqual([lone.value, large.value], [SECTION, 4 * SECTION]);
      const later = read(SECTION);
      const write = outcome(fileSystem.write(ctx, opened.handle, 0, Buffer.alloc(SECTION)));
      await drive.pass(1000);
      assert.deepEqual([later.value, write.value], [SECTION, undefined]);
      drive.isDown = false;
      await drive.pass(10_000, () => write.value !== undefined);
      assert.equal(write.value, SECTION);
      await remote.close();
      assert.ok(clock.monotonicMs() < 30_000);
    }
  });

  it("reads by nothing less safe: where control is, a read waits for the io channel", async () => {
    const drive = await returningDrive({ client: { security: { control: "plain", io: "signed" } } });
    const { fileSystem } = drive.remote;
    const root = await fileSystem.root(ctx);
    const flags = OpenFlag.READ | OpenFlag.WRITE;
    const { opened } = await fileSystem.create(ctx, root.id, nameFromText("f"), flags, NEW_FILE);
    await fileSystem.write(ctx, opened.handle, 0, Buffer.alloc(4 * SECTION, 7));
    drive.isDown = "io";
    for (const { kind, client } of drive.connections) if (kind === "io") client.destroy();
    await settle();
    const before = drive.remote.status().channels[0]?.receivedBytes ?? 0;
    const reads = [SECTION, 4 * SECTION].map((bytes) =>
      outcome(fileSystem.read(ctx, opened.handle, 0, Buffer.alloc(bytes))),
    );
    // Longer than a first attempt, shorter than all of them.
    await drive.pass(200_000);
    drive.isDown = false;
    await drive.pass(20_000, () => reads.every(({ value }) => value !== undefined));
    assert.deepEqual(
      reads.map(({ value }) => value),
      [SECTION, 4 * SECTION],
    );
    const bytes = (drive.remote.status().channels[0]?.receivedBytes ?? 0) - before;
    assert.ok(bytes < SECTION, `${bytes} bytes came by control`);
    await drive.remote.close();
  });

  it("says so when an io channel cannot be had, and leaves no session behind", async () => {
    const drive = linkDrive({ limits: { channelsPerSessionMax: 2 } });
    await assert.rejects(connect(2, drive), { name: "ConnectionError", message: /channel/ });
    await settle();
    drive.clock.advance(60_000);
    await settle();
    assert.equal(drive.server.counters().sessions, 0);
  });
});
