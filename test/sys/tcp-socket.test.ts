/** Sockets of Node, taken over by the addon: what lands, what leaves, and how it ends. */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Socket } from "node:net";
import { test } from "node:test";
import { descriptorOf, TcpSocket, type TcpSocketEvents } from "../../src/sys/tcp-socket.ts";
import { connected } from "../support/connected.ts";

const NO_EVENTS: TcpSocketEvents = { landed() {}, sent() {}, ended() {} };

/** Takes the socket over; `events` are told, and what happens settles the promises. */
function adopt(raw: Socket, events: Partial<TcpSocketEvents> = {}) {
  let sent: () => void = () => {};
  let ended: (error: Error | undefined) => void = () => {};
  const socket = new TcpSocket(descriptorOf(raw), {
    ...NO_EVENTS,
    sent: () => sent(),
    ended: (error) => ended(error),
    ...events,
  });
  raw.destroy();
  return {
    socket,
    sent: () => new Promise<void>((resolve) => (sent = resolve)),
    ended: new Promise<Error | undefined>((resolve) => (ended = resolve)),
  };
}

/** All that arrives at a socket of Node's, when it has `bytes` of it. */
async function heard(socket: Socket, bytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let total = 0;
  for await (const chunk of socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    chunks.push(chunk);
    total += chunk.length;
    if (total >= bytes) break;
  }
  return Buffer.concat(chunks);
}

test("bytes land at the place that was named last", async () => {
  await connected(async (ours, theirs) => {
    const places = [Buffer.alloc(3), Buffer.alloc(5), Buffer.alloc(10)];
    let at = 0;
    const landed: string[] = [];
    await new Promise<void>((resolve) => {
      const { socket } = adopt(ours, {
        landed(bytes) {
          landed.push((places[at++] as Buffer).toString("latin1", 0, bytes));
          const next = places[at];
          if (next === undefined || landed.join("").length === 12) {
            socket.close();
            resolve();
          } else socket.place(next);
        },
      });
      socket.place(places[0] as Buffer);
      socket.read(true);
      theirs.write("abcdefghijkl");
    });
    assert.deepEqual(landed, ["abc", "defgh", "ijkl"]);
  });
});

test("while it does not read, nothing lands, and the rest lands later", async () => {
  await connected(async (ours, theirs) => {
    const place = Buffer.alloc(4);
    let landings = 0;
    let landed = () => {};
    const { socket } = adopt(ours, {
      landed() {
        landings += 1;
        if (landings === 1) socket.read(false);
        landed();
      },
    });
    const next = () => new Promise<void>((resolve) => (landed = resolve));
    const first = next();
    socket.place(place);
    socket.read(true);
    theirs.write("onetwo");
    await first;
    await new Promise((resolve) => setImmediate(resolve));
    assert.equal(landings, 1);
    assert.equal(place.toString(), "onet");
    const second = next();
    socket.read(true);
    await second;
    assert.equal(place.toString(), "woet");
    socket.close();
  });
});

test("many buffers, empty ones among them, arrive in order", async () => {
  await connected(async (ours, theirs) => {
    const { socket } = adopt(ours);
    const chunks = Array.from({ length: 200 }, (_, index) => Buffer.from(index % 7 === 0 ? "" : `${index},`));
    const all = Buffer.concat(chunks);
    assert.equal(socket.send(chunks), true);
    assert.deepEqual(await heard(theirs, all.length), all);
    socket.close();
  });
});

test("what the socket cannot take at once leaves when the peer reads", async () => {
  await connected(async (ours, theirs) => {
    const { socket, sent } = adopt(ours);
    const chunks = Array.from({ length: 130 }, (_, index) => Buffer.alloc(300_000, index));
    const done = sent();
    assert.equal(socket.send(chunks), false);
    const [bytes] = await Promise.all([heard(theirs, 130 * 300_000), done]);
    assert.ok(bytes.equals(Buffer.concat(chunks)));
    assert.equal(socket.send([Buffer.from("more")]), true);
    assert.equal((await heard(theirs, 4)).toString(), "more");
    socket.close();
  });
});

test("the peer's end is told once, and we may still send", async () => {
  await connected(async (ours, theirs) => {
    const { socket, ended } = adopt(ours);
    socket.place(Buffer.alloc(10));
    socket.read(true);
    theirs.end();
    assert.equal(await ended, undefined);
    socket.send([Buffer.from("late")]);
    assert.equal((await heard(theirs, 4)).toString(), "late");
    socket.shutdown();
    await once(theirs, "close");
    socket.close();
  });
});

test("a broken connection is told to who reads, and thrown at who sends", async () => {
  await connected(async (ours, theirs) => {
    const { socket, ended } = adopt(ours);
    socket.place(Buffer.alloc(10));
    socket.read(true);
    theirs.resetAndDestroy();
    assert.equal(((await ended) as NodeJS.ErrnoException).code, "ECONNRESET");
    assert.throws(() => socket.send([Buffer.from("x")]), { code: "EPIPE" });
    socket.close();
    assert.throws(() => socket.send([Buffer.from("x")]), { code: "EPIPE" });
  });
});

test("a connection that breaks in the middle of a send is told", async () => {
  await connected(async (ours, theirs) => {
    const { socket, ended } = adopt(ours);
    assert.equal(socket.send([Buffer.alloc(30_000_000)]), false);
    theirs.resetAndDestroy();
    assert.match(String((await ended)?.message), /^the connection broke: (ECONNRESET|EPIPE)$/);
    socket.close();
  });
});

test("a closed socket tells nothing and gives its connection up", async () => {
  await connected(async (ours, theirs) => {
    let landings = 0;
    const { socket } = adopt(ours, {
      landed() {
        landings += 1;
        socket.close();
        socket.close();
      },
    });
    socket.place(Buffer.alloc(1));
    socket.read(true);
    // With bytes unread a connection is reset, not ended.
    const closed = new Promise((resolve) => theirs.once("close", resolve));
    theirs.write("several bytes");
    theirs.resume();
    await closed;
    assert.equal(landings, 1);
  });
});

test("a descriptor that is none, and arguments that make no sense, are refused", async () => {
  assert.throws(() => new TcpSocket(-1, NO_EVENTS), { errno: "EBADF" });
  await connected(async (ours) => {
    const { socket } = adopt(ours);
    assert.throws(() => socket.place(Buffer.alloc(0)), TypeError);
    assert.equal(socket.send([Buffer.alloc(30_000_000)]), false);
    assert.throws(() => socket.send([Buffer.alloc(1)]), RangeError);
    socket.close();
    assert.equal(descriptorOf(ours), -1);
  });
});
