/** A certificate made by ourselves, read by OpenSSL. */
import assert from "node:assert/strict";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { test } from "node:test";
import { makeIdentity } from "../../src/transport/self-signed.ts";
import { fingerprintOf, isFingerprint } from "../../src/transport/tls-settings.ts";

test("it is a certificate for its hosts, by its own key, that never expires", () => {
  const hosts = ["localhost", "a-b.example", "127.0.0.1", "::1", "fe80::1:2%eth0", "::ffff:10.0.0.1"];
  const { certificate, key } = makeIdentity(hosts);
  const read = new X509Certificate(certificate);
  assert.ok(read.verify(read.publicKey));
  assert.ok(read.checkPrivateKey(createPrivateKey(key)));
  assert.ok(read.checkIssued(read));
  assert.equal(read.validTo, "Dec 31 23:59:59 9999 GMT");
  assert.equal(
    read.subjectAltName,
    "DNS:localhost, DNS:a-b.example, IP Address:127.0.0.1, IP Address:0:0:0:0:0:0:0:1, " +
      "IP Address:FE80:0:0:0:0:0:1:2, IP Address:0:0:0:0:0:FFFF:A00:1",
  );
  assert.equal(read.checkHost("localhost"), "localhost");
  assert.equal(read.checkHost("elsewhere"), undefined);
  assert.match(certificate, /^-----BEGIN CERTIFICATE-----\n([\w+/=]{1,64}\n)+-----END CERTIFICATE-----\n$/);
});

test("many of them are all well-formed and all different", () => {
  const fingerprints = new Set<string>();
  for (let round = 0; round < 30; round += 1) {
    const hosts = Array.from({ length: round }, (_, index) => `host-${index}.example`);
    const read = new X509Certificate(makeIdentity(hosts).certificate);
    assert.ok(read.verify(read.publicKey));
    assert.match(read.serialNumber, /^[4-7][0-9A-F]{31}$/);
    const fingerprint = fingerprintOf(read);
    assert.ok(isFingerprint(fingerprint), fingerprint);
    fingerprints.add(fingerprint);
  }
  assert.equal(fingerprints.size, 30);
});
