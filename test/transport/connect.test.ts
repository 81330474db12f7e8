/** How a connection is begun over a line that may come back at any moment. */
import assert from "node:assert/strict";
import { Socket } from "node:net";
import { test } from "node:test";
import { Attempts } from "../../src/transport/connect.ts";

function attempts() {
  const sockets: Socket[] = [];
  const results: (Socket | Error)[] = [];
  const begin = () => {
    const socket = new Socket();
    sockets.push(socket);
    return socket;
  };
  return { sockets, results, tries: new Attempts(begin, (result) => results.push(result)) };
}

const lives = (sockets: readonly Socket[]) => sockets.map(({ destroyed }) => !destroyed);

test("the first connection that is answered is it, whenever it was begun", () => {
  const { sockets, results, tries } = attempts();
  for (let count = 0; count < 3; count += 1) tries.add();
  sockets[1]?.emit("connect");
  assert.deepEqual(results, [sockets[1]]);
  assert.deepEqual(lives(sockets), [false, true, false]);
  sockets[0]?.emit("error", new Error("too late to matter"));
  sockets[2]?.emit("connect");
  assert.equal(results.length, 1);
});

test("an error of one is the end of all", () => {
  const { sockets, results, tries } = attempts();
  tries.add();
  tries.add();
  const refused = new Error("refused");
  sockets[1]?.emit("error", refused);
  assert.deepEqual(results, [refused]);
  assert.deepEqual(lives(sockets), [false, false]);
});

test("of many without an answer the first stays, for slow lines, and the last few", () => {
  const { sockets, results, tries } = attempts();
  for (let count = 0; count < 20; count += 1) tries.add();
  const living = [...sockets.keys()].filter((index) => sockets[index]?.destroyed === false);
  assert.deepEqual(living, [0, 13, 14, 15, 16, 17, 18, 19]);
  sockets[0]?.emit("connect");
  assert.deepEqual(results, [sockets[0]]);
  assert.equal(lives(sockets).filter(Boolean).length, 1);
});
