/** Sockets out of a real HTTP upgrade are taken over on both sides. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import { test } from "node:test";
import { Client } from "undici";
import { adoptSocket } from "../../src/transport/adopt-socket.ts";

const UPGRADED = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: netdrive/1\r\n\r\n";

/** Fills `target` from the start, then calls `full`. */
function fill(target: Buffer, full: () => void) {
  let filled = 0;
  return {
    place: () => target.subarray(filled),
    received(bytes: number) {
      filled += bytes;
      if (filled === target.length) {
        filled = 0;
        full();
      }
      return true;
    },
  };
}

test("bytes of an upgraded connection land in the receiver's buffer on both sides, and both servers and clients close", async () => {
  const sent = Buffer.alloc(3 << 20);
  for (let at = 0; at < sent.length; at += 4) sent.writeUInt32LE(at, at);
  const server = createServer();
  server.on("upgrade", (_request, socket: Socket, head: Buffer) => {
    assert.equal(head.length, 0);
    socket.write(UPGRADED);
    const landed = Buffer.alloc(sent.length);
    const adopted = adoptSocket(
      socket,
      fill(landed, () => adopted.end(landed)),
    );
    adopted.resume();
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const client = new Client(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, { allowH2: false });
  try {
    const { socket } = await client.upgrade({ path: "/", protocol: "netdrive/1" });
    const echoed = Buffer.alloc(sent.length);
    let full = () => {};
    const whole = new Promise<void>((resolve) => {
      full = resolve;
    });
    const adopted = adoptSocket(
      socket as Socket,
      fill(echoed, () => full()),
    );
    const closed = new Promise((resolve) => adopted.once("close", resolve));
    adopted.resume();
    adopted.write(sent);
    await whole;
    assert.ok(echoed.equals(sent));
    adopted.end();
    await closed;
  } finally {
    await client.destroy();
    server.close();
    await once(server, "close");
  }
});
