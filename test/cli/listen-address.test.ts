/** Where `serve` listens, from text. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { isLoopback, parseListenAddress } from "../../src/cli/listen-address.ts";

test("HOST:PORT is read, with IPv6 in brackets", () => {
  assert.deepEqual(parseListenAddress("127.0.0.1:7378"), { host: "127.0.0.1", port: 7378 });
  assert.deepEqual(parseListenAddress("localhost:0"), { host: "localhost", port: 0 });
  assert.deepEqual(parseListenAddress("[::1]:65535"), { host: "::1", port: 65_535 });
});

test("anything else is refused with an example of what is right", () => {
  const bad = [
    "",
    "7378",
    ":7378",
    "host",
    "host:",
    "host:x",
    "host:65536",
    "host:-1",
    "::1:5",
    "[1.2.3.4]:5",
    "a b:5",
  ];
  for (const text of [...bad, "host:123456", "user@host:5", "http://host:5"]) {
    assert.throws(() => parseListenAddress(text), { exitCode: 2, message: /write it as 127\.0\.0\.1:7378/ }, text);
  }
});

test("only addresses of this machine count as loopback", () => {
  for (const host of ["127.0.0.1", "127.9.8.7", "::1", "localhost", "LOCALHOST"]) assert.ok(isLoopback(host), host);
  for (const host of ["0.0.0.0", "::", "10.0.0.1", "127.evil.example", "localhost.example", "1270.0.0.1"]) {
    assert.ok(!isLoopback(host), host);
  }
});
