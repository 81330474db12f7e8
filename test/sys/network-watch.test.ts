/** What the kernel says of a network that changes, in a namespace of its own. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { command } from "../support/child.ts";

const WORKER = fileURLToPath(new URL("../support/network-worker.js", import.meta.url));

const SAID = [
  /^link added: \d interfaces$/,
  /^nothing: 0$/,
  // The kernel says a little more of it later.
  /^link up, with an address: [12] interfaces routes$/,
  // No more often than the socket is emptied, however many there are; those that were lost are of every kind.
  /^more than there is room for: \d interfaces routes$/,
  /^after that: 1 routes$/,
  /^all routes gone: \d interfaces routes$/,
  /^link down: \d interfaces routes$/,
  /^link up: \d interfaces routes$/,
  /^closed: 0$/,
  /^end$/,
];

test("links, addresses and routes that change at once are told once, also when words were lost", async () => {
  const { stdout } = await command("unshare", ["--net", process.execPath, WORKER], { timeoutMs: 30_000 });
  const lines = stdout.trim().split("\n");
  assert.equal(lines.length, SAID.length, stdout);
  for (const [index, pattern] of SAID.entries()) assert.match(lines[index] ?? "", pattern);
});
