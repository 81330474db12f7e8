/** The sockets by which a drive answers other commands: what they make of silence and nonsense. */
import assert from "node:assert/strict";
import type { Server, Socket } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { askSocket, onLine, QUESTION_CHARS_MAX, sayLine, serveSocket } from "../../src/cli/drive-socket.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { makeTemp } from "../support/temp.ts";

/** Asks a drive that does `connected` with who asks. */
async function asked(
  connected: (socket: Socket, clock: FakeClock) => void,
  question?: object,
): Promise<{ answer: unknown }> {
  await using temp = makeTemp("socket");
  const file = join(temp.path, "s");
  const clock = new FakeClock();
  const sockets: Socket[] = [];
  const server: Server = await serveSocket(file, 1, (socket) => {
    sockets.push(socket);
    connected(socket, clock);
  });
  try {
    return {
      answer: await askSocket(file, { clock, timeoutMs: 1000, ...(question === undefined ? {} : { question }) }),
    };
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
}

test("a line each way, or one alone", async () => {
  assert.deepEqual(await asked((socket) => sayLine(socket, { a: 1 })), { answer: { a: 1 } });
  const echo = (socket: Socket) => onLine(socket, QUESTION_CHARS_MAX, (value) => sayLine(socket, { value }));
  assert.deepEqual(await asked(echo, { b: "\n" }), { answer: { value: { b: "\n" } } });
  assert.equal(
    JSON.stringify((await asked(echo, { b: "x".repeat(QUESTION_CHARS_MAX) })).answer),
    "{}",
    "too much to ask",
  );
  const names = Array.from({ length: 65_536 }, (_, index) => `/some/where/recovered-${index}`);
  assert.deepEqual(await asked((socket) => sayLine(socket, names)), { answer: names });
});

test("silence, half a line, nonsense and too much are no answer", async () => {
  assert.deepEqual(await asked((_socket, clock) => clock.advance(1000)), { answer: undefined });
  assert.deepEqual(await asked((socket) => socket.end('{"a":1}')), { answer: undefined });
  assert.deepEqual(await asked((socket) => socket.end("nonsense\n")), { answer: undefined });
  assert.deepEqual(await asked((socket) => socket.write("x".repeat(17 << 20))), { answer: undefined });
});

test("where nobody listens there is no answer, and a question that is none is heard as nothing", async () => {
  const file = join("/nonexistent", "s");
  assert.equal(await askSocket(file, { clock: new FakeClock(), timeoutMs: 1000 }), undefined);
  const heard: unknown[] = [];
  await asked((socket) => {
    socket.unshift("nonsense\n");
    onLine(socket, QUESTION_CHARS_MAX, (value) => {
      heard.push(value);
      socket.destroy();
    });
  });
  assert.deepEqual(heard, [undefined]);
});
