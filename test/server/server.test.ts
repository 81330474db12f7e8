/** A whole server on loopback: rude peers beside good ones, and its end. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { connectRemote } from "../../src/client/remote.ts";
import { type Server, startServer } from "../../src/server/server.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { ctx, named, TOKEN } from "../support/link-drive.ts";

const HOST = "127.0.0.1";
const UPGRADE = "GET /netdrive/1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: netdrive/1\r\n\r\n";

async function started(): Promise<{ server: Server; share: MemoryFs; lines: string[] }> {
  const share = new MemoryFs();
  const lines: string[] = [];
  const server = await startServer({
    shares: new Map([["share", { fileSystem: share, readOnly: false }]]),
    token: TOKEN,
    squash: "none",
    listen: { host: HOST, port: 0 },
    log: createLog({ level: "debug", clock: systemClock, sink: (line) => lines.push(line) }),
    clock: systemClock,
  });
  return { server, share, lines };
}

function drive({ address }: Server) {
  const url = { token: TOKEN, host: HOST, port: address.port, share: "share" };
  return connectRemote({ url, log: createLog({ level: "error", clock: systemClock }), clock: systemClock });
}

/** Sends bytes, perhaps behind an upgrade, and waits until the server has closed. @returns what it said. */
async function rude(server: Server, bytes: Buffer, isUpgraded: boolean): Promise<Buffer> {
  const socket: Socket = connect(server.address.port, HOST);
  const said: Buffer[] = [];
  socket.on("error", () => {});
  socket.on("data", (chunk: Buffer) => said.push(chunk));
  if (isUpgraded) {
    socket.write(UPGRADE);
    await once(socket, "data");
  }
  socket.write(bytes);
  await once(socket, "close");
  return Buffer.concat(said);
}

test("a server under garbage keeps serving the others, and says in few lines what it was", async () => {
  const { server, lines } = await started();
  try {
    const remote = await drive(server);
    const { id: root } = await remote.fileSystem.root(ctx);
    const garbage = [
      Buffer.alloc(200, 0xff),
      Buffer.from(`\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03${"x".repeat(20)}`, "latin1"),
      Buffer.from("SSH-2.0-a_client_of_another_kind\r\n"),
      Buffer.from("ffffffff0111000001000000000000000000000000000000", "hex"),
    ];
    for (let round = 0; round < 10; round += 1) {
      const rudeOnes = garbage.flatMap((bytes) => [
        rude(server, bytes, true),
        rude(server, Buffer.concat([bytes, Buffer.from("\r\n\r\n")]), false),
      ]);
      const { id } = await remote.fileSystem.mkdir(ctx, root, named(`d${round}`), { mode: 0o755, umask: 0 });
      assert.equal((await remote.fileSystem.getattr(ctx, id)).nlink, 2);
      const answers = await Promise.all(rudeOnes);
      assert.ok(answers.every((answer) => !answer.includes("share") && !answer.includes(TOKEN)));
    }
    assert.ok(lines.length <= 30, `${lines.length} lines`);
    assert.ok(server.counters().refused >= 40);
    assert.equal(server.counters().sessions, 1);
    await remote.close();
  } finally {
    await server.close();
  }
  assert.equal(server.counters().channels, 0);
});

test("a client that takes nothing for a while only slows itself", async () => {
  const { server } = await started();
  try {
    const [slow, quick] = [await drive(server), await drive(server)];
    const { id: root } = await slow.fileSystem.root(ctx);
    const file = { mode: 0o100644, umask: 0 };
    const { opened } = await slow.fileSystem.create(ctx, root, named("f"), 3, file);
    const data = Buffer.alloc(24 * 1024 * 1024, 0x33);
    await slow.fileSystem.write(ctx, opened.handle, 0, data);
    const targets = Array.from({ length: 4 }, () => Buffer.alloc(data.length));
    const readings = targets.map((target) => slow.fileSystem.read(ctx, opened.handle, 0, target));
    for (let round = 0; round < 50; round += 1) await quick.fileSystem.getattr(ctx, root);
    assert.ok(server.counters().bufferBytes <= 32 * 1024 * 1024);
    await Promise.all(readings);
    assert.ok(targets.every((target) => target.equals(data)));
    await slow.close();
    await quick.close();
  } finally {
    await server.close();
  }
  assert.equal(server.counters().bufferBytes, 0);
});

test("close ends every drive with a reason, and frees the port", async () => {
  const { server, share } = await started();
  const remote = await drive(server);
  const { id: root } = await remote.fileSystem.root(ctx);
  await remote.fileSystem.create(ctx, root, named("f"), 3, { mode: 0o100644, umask: 0 });
  const idle = connect(server.address.port, HOST);
  idle.on("error", () => {});
  await once(idle, "connect");
  const idleClosed = once(idle, "close");
  await Promise.all([server.close(), server.close()]);
  await idleClosed;
  assert.equal(remote.state, "away");
  assert.equal(share.openCount, 0);
  await remote.close();
  await assert.rejects(drive(server), /refuses the connection/);
  const again = await startServer({
    shares: new Map(),
    token: TOKEN,
    squash: "root",
    listen: { host: HOST, port: server.address.port },
    log: createLog({ level: "error", clock: systemClock }),
    clock: systemClock,
  });
  const { port } = again.address;
  const second = startServer({
    shares: new Map(),
    token: TOKEN,
    squash: "root",
    listen: { host: HOST, port },
    log: createLog({ level: "error", clock: systemClock }),
    clock: systemClock,
  });
  await assert.rejects(second, { code: "EADDRINUSE" });
  await again.close();
});
