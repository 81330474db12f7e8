/** Drive URLs, good and bad. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { DriveUrlError, formatDriveUrl, isShareName, parseDriveUrl } from "../../src/client/url.ts";
import { seeded } from "../support/seed.ts";

const FP = Buffer.alloc(32, 0xfe).toString("base64url");

test("a URL is read into its parts", () => {
  assert.deepEqual(parseDriveUrl("netdrive://tok%2Fen@host.example:7378/my%20share"), {
    token: Buffer.from("tok/en"),
    host: "host.example",
    port: 7378,
    share: "my share",
  });
  assert.equal(parseDriveUrl("netdrive://t@[::1]:1/s").host, "::1");
  assert.equal(parseDriveUrl("netdrive://t@[fe80::1%25eth0]:1/s").host, "fe80::1%eth0");
  assert.equal(parseDriveUrl("NETDRIVE://t@127.0.0.1:65535/s/").port, 65_535);
  assert.equal(parseDriveUrl("netdrive://a@b@h:1/s").token.toString(), "a@b");
  assert.equal(parseDriveUrl("netdrive://a%3Ab@h:1/s").token.toString(), "a:b");
});

test("a ':' before the '@' makes it a user, and ?fp= names the server's key", () => {
  const place = { host: "h", port: 1, share: "s" };
  const token = Buffer.alloc(0);
  assert.deepEqual(parseDriveUrl("netdrive://anna.b:@h:1/s"), { token, user: "anna.b", ...place });
  assert.deepEqual(parseDriveUrl(`netdrive://anna:@h:1/s/?fp=${FP}`), {
    ...{ token, user: "anna", ...place },
    fingerprint: FP,
  });
});

const BAD: readonly [string, RegExp][] = [
  ["", /does not begin with netdrive:/],
  ["http://t@h:1/s", /does not begin with netdrive:/],
  ["netdrive:t@h:1/s", /does not begin with netdrive:/],
  ["netdrive://h:1/s", /no token or user/],
  ["netdrive://anna:secret@h:1/s", /a password has no place in a URL/],
  ["netdrive://:@h:1/s", /user has no possible name/],
  ["netdrive://an%20na:@h:1/s", /user has no possible name/],
  [`netdrive://${"x".repeat(65)}:@h:1/s`, /user has no possible name/],
  ["netdrive://t@h:1/s?fp=", /not a whole fingerprint/],
  [`netdrive://t@h:1/s?fp=${FP.slice(1)}`, /not a whole fingerprint/],
  [`netdrive://t@h:1/s?fp=${FP.slice(0, -1)}_`, /not a whole fingerprint/],
  ["netdrive://t@h:1/s?", /something else than fp=/],
  ["netdrive://@h:1/s", /empty token/],
  [`netdrive://${"x".repeat(1025)}@h:1/s`, /longer than 1024 bytes/],
  ["netdrive://%zz@h:1/s", /'%' that encodes nothing/],
  ["netdrive://t@h/s", /no port/],
  ["netdrive://t@[::1]/s", /no port/],
  ["netdrive://t@h:/s", /'' is not a port/],
  ["netdrive://t@h:0/s", /'0' is not a port/],
  ["netdrive://t@h:65536/s", /'65536' is not a port/],
  ["netdrive://t@h:1x/s", /'1x' is not a port/],
  ["netdrive://t@:1/s", /no host/],
  ["netdrive://t@h!:1/s", /'h!' is not a host/],
  ["netdrive://t@::1:1/s", /is not a host/],
  ["netdrive://t@-h:1/s", /is not a host/],
  ["netdrive://t@h:1", /names no share/],
  ["netdrive://t@h:1/", /names no share/],
  ["netdrive://t@h:1/a/b", /more than a share's name/],
  ["netdrive://t@h:1/a%2Fb", /no possible name/],
  ["netdrive://t@h:1/%2e%2e", /no possible name/],
  ["netdrive://t@h:1/a%00", /no possible name/],
  [`netdrive://t@h:1/${"x".repeat(256)}`, /no possible name/],
  ["netdrive://t@h:1/s?x=1", /something else than fp=/],
  ["netdrive://t@h:1/s#x", /'#', which means nothing/],
  [`netdrive://t@h:1/s?fp=${FP}#x`, /'#', which means nothing/],
  ["netdrive://t@h:1/a b", /space or a control character/],
  ["netdrive://t@h:1/a\n", /space or a control character/],
];

for (const [text, expected] of BAD) {
  test(`the URL ${JSON.stringify(text.slice(0, 60))} is refused in one line that does not hold the token`, () => {
    assert.throws(
      () => parseDriveUrl(text),
      (error: Error) => {
        assert.ok(error instanceof DriveUrlError);
        assert.match(error.message, expected);
        assert.doesNotMatch(error.message, /\n|xxxx|secret/);
        return true;
      },
    );
  });
}

test("what is formatted is parsed back", (t) => {
  const share = fc.string({ minLength: 1, maxLength: 60, unit: "binary" }).filter(isShareName);
  const token = fc.string({ minLength: 1, maxLength: 60, unit: "grapheme" });
  const host = fc.constantFrom("localhost", "10.0.0.1", "::1", "fe80::1%eth0", "a-b.example");
  fc.assert(
    fc.property(token, host, fc.integer({ min: 1, max: 65_535 }), share, (text, name, port, shareName) => {
      const url = { token: Buffer.from(text), host: name, port, share: shareName };
      assert.deepEqual(parseDriveUrl(formatDriveUrl(url)), url);
      const other = { ...url, token: Buffer.alloc(0), user: `u${port}`, fingerprint: FP };
      assert.deepEqual(parseDriveUrl(formatDriveUrl(other)), other);
    }),
    seeded(t, 300),
  );
});
