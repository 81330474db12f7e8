/** Drive URLs as people give them. */
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { readDriveUrl, withoutToken } from "../../src/cli/drive-url.ts";

beforeEach(() => {
  delete process.env["NETDRIVE_TOKEN"];
});

test("a URL with a token is taken as it is, whatever the environment says", () => {
  process.env["NETDRIVE_TOKEN"] = "other";
  assert.equal(readDriveUrl("netdrive://t@h:1/s"), "netdrive://t@h:1/s");
});

test("the token comes from NETDRIVE_TOKEN if the URL has none, escaped where needed", () => {
  process.env["NETDRIVE_TOKEN"] = "a/b@$&";
  assert.equal(readDriveUrl("netdrive://[::1]:1/s%20t"), "netdrive://a%2Fb%40%24%26@[::1]:1/s%20t");
});

test("a bad URL is a wrong usage, and its token is not repeated", () => {
  assert.throws(() => readDriveUrl("netdrive://h:1/s"), { exitCode: 2, message: /no token or user;.*NETDRIVE_TOKEN/ });
  for (const url of [
    "",
    "photos",
    "http://t@h:1/s",
    "netdrive://secret@h/s",
    "netdrive://secret@h:1",
    "netdrive://secret@h:0/s",
  ]) {
    assert.throws(
      () => readDriveUrl(url),
      (error: Error & { exitCode: number }) => error.exitCode === 2 && !error.message.includes("secret"),
      url,
    );
  }
});

test("what is shown has no token", () => {
  assert.equal(withoutToken("netdrive://a%40b@h:1/s"), "netdrive://h:1/s");
  assert.equal(withoutToken(`netdrive://anna:@h:1/s?fp=${"x".repeat(43)}`), "netdrive://h:1/s");
  assert.equal(withoutToken("netdrive://h:1/s@t"), "netdrive://h:1/s@t");
});
