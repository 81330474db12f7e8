/** IP addresses as bytes, and which of them are one source. */
import assert from "node:assert/strict";
import { isIP } from "node:net";
import { test } from "node:test";
import fc from "fast-check";
import { addressBytes, sourceOf } from "../../src/base/ip-address.ts";
import { seeded } from "../support/seed.ts";

test("addresses are read in every way they are written", () => {
  const hex = (address: string) => addressBytes(address).toString("hex");
  assert.equal(hex("127.0.0.1"), "7f000001");
  assert.equal(hex("::"), "0".repeat(32));
  assert.equal(hex("::1"), `${"0".repeat(31)}1`);
  assert.equal(hex("fe80::1:2%eth0"), "fe800000000000000000000000010002");
  assert.equal(hex("1:2:3:4:5:6:7:8"), "00010002000300040005000600070008");
  assert.equal(hex("1:2:3:4:5:6:7::"), "00010002000300040005000600070000");
  assert.equal(hex("::ffff:10.0.0.1"), "00000000000000000000ffff0a000001");
});

test("every address that is one has its 4 or 16 bytes", (t) => {
  fc.assert(
    fc.property(fc.oneof(fc.ipV4(), fc.ipV6()), (address) => {
      assert.equal(addressBytes(address).length, isIP(address) === 4 ? 4 : 16);
    }),
    seeded(t, 500),
  );
});

test("one source: an IPv4 address, or the network of an IPv6 address", () => {
  assert.equal(sourceOf("::ffff:10.0.0.1"), sourceOf("10.0.0.1"));
  assert.notEqual(sourceOf("10.0.0.1"), sourceOf("10.0.0.2"));
  assert.equal(sourceOf("2001:db8::1"), sourceOf("2001:db8::ffff:ffff:ffff:ffff"));
  assert.notEqual(sourceOf("2001:db8::1"), sourceOf("2001:db8:0:1::1"));
  assert.equal(sourceOf("memory"), "memory");
});
