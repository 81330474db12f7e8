/** A server that runs out of file descriptors: whoever comes meanwhile is turned away, and nothing else happens. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, readdirSync, readlinkSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { createLog } from "../../src/base/log.ts";
import { connectRemote } from "../../src/client/remote.ts";
import { parseDriveUrl } from "../../src/client/url.ts";
import { command } from "../support/child.ts";
import { type ServedShare, startServe } from "../support/drive.ts";
import { ctx, named } from "../support/link-drive.ts";
import { makeTemp } from "../support/temp.ts";

const UPGRADE = "GET /netdrive/1 HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: netdrive/1\r\n\r\n";
/** How a connection of TLS begins; no more of it is needed to be taken for one. */
const CLIENT_HELLO = Buffer.from("16030100050100000100", "hex");

const temp = makeTemp("few-descriptors");
before(() => mkdirSync(join(temp.path, "served")));
after(() => temp.remove());

function descriptorsOf({ service }: ServedShare): number[] {
  return readdirSync(`/proc/${service.pid}/fd`).map(Number);
}

function sockets(served: ServedShare): number {
  return descriptorsOf(served).filter((fd) => targetOf(served, fd).startsWith("socket:")).length;
}

/** What a descriptor refers to; empty if it was closed meanwhile. */
function targetOf({ service }: ServedShare, fd: number): string {
  try {
    return readlinkSync(`/proc/${service.pid}/fd/${fd}`);
  } catch {
    return "";
  }
}

/** From now on the server may have descriptors below `bound` only. */
async function limit({ service }: ServedShare, bound: number): Promise<void> {
  await command("prlimit", ["--pid", String(service.pid), `--nofile=${bound}:`]);
}

/** The limit that leaves the server so many descriptors beside those it has. */
function limitFor(served: ServedShare, left: number): number {
  const taken = new Set(descriptorsOf(served));
  let bound = 0;
  for (let free = 0; free < left; bound += 1) free += taken.has(bound) ? 0 : 1;
  return bound;
}

/** Says something and waits until the server has closed. @returns what it said. */
async function turnedAway({ port }: ServedShare, text: string | Buffer): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  let said = "";
  socket.on("error", () => {});
  socket.on("data", (chunk) => {
    said += chunk.toString("latin1");
  });
  socket.write(text);
  await once(socket, "close");
  return said;
}

/** A client makes a folder. */
async function serves({ url }: ServedShare, name: string): Promise<void> {
  const { fingerprint = "", ...place } = parseDriveUrl(url);
  const log = createLog({ level: "error", clock: systemClock });
  const remote = await connectRemote({ url: place, trust: { fingerprint }, log, clock: systemClock });
  const { id: root } = await remote.fileSystem.root(ctx);
  await remote.fileSystem.mkdir(ctx, root, named(name), { mode: 0o755, umask: 0 });
  await remote.close();
}

test("a server without descriptors turns away who comes, lives on, and serves again with some", async (t) => {
  const served = await startServe(join(temp.path, "served"), "--squash", "none");
  t.after(() => served.service.end("SIGKILL"));
  const atRest = sockets(served);
  const rests = async () => {
    while (sockets(served) !== atRest) await Promise.race([new Promise(setImmediate), served.service.crashed]);
  };
  // What is opened once is open.
  await serves(served, "first");
  await turnedAway(served, "GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  await rests();
  const count = descriptorsOf(served).length;
  for (const [said, expected] of [
    [UPGRADE, /^HTTP\/1\.1 101 /],
    [CLIENT_HELLO, /^$/],
  ] as const) {
    for (let round = 0; round < 5; round += 1) {
      // One for the connection, none for what becomes of it.
      await limit(served, limitFor(served, 1));
      assert.match(await turnedAway(served, said), expected);
      await limit(served, 1024);
      await rests();
      assert.equal(descriptorsOf(served).length, count);
    }
  }
  // Not even one to take the connection: it waits until there is, or is closed.
  await limit(served, 0);
  const waiting = turnedAway(served, UPGRADE);
  await limit(served, 1024);
  await serves(served, "second");
  assert.deepEqual(readdirSync(join(temp.path, "served")).sort(), ["first", "second"]);
  assert.equal(await served.service.end("SIGTERM"), 0);
  await waiting;
  assert.equal(served.service.errors(), "");
});
