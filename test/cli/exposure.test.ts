/** Whom a server may let in, decided before it starts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { checkExposure, chooseSquash } from "../../src/cli/exposure.ts";

const STRONG = { text: "x".repeat(16), isGiven: true };
const WEAK = { text: "x".repeat(15), isGiven: true };
const at = (host: string) => ({ host, port: 1 });

test("on loopback any token will do, and a weak one is remarked on", () => {
  assert.equal(checkExposure(at("127.0.0.1"), STRONG), undefined);
  assert.equal(checkExposure(at("::1"), { ...STRONG, isGiven: false }), undefined);
  assert.match(checkExposure(at("localhost"), WEAK) ?? "", /short and can be guessed/);
});

test("beyond loopback the token must be chosen and strong, and the lack of encryption is said", () => {
  for (const host of ["0.0.0.0", "::", "192.0.2.1", "files.example"]) {
    assert.throws(() => checkExposure(at(host), { ...STRONG, isGiven: false }), {
      exitCode: 2,
      message: /choose the token/,
    });
    assert.throws(() => checkExposure(at(host), WEAK), { exitCode: 2, message: /16 characters or more/ });
    assert.match(checkExposure(at(host), STRONG) ?? "", /not encrypted yet/);
  }
});

test("root trusts all but root unless told otherwise", () => {
  assert.equal(process.getuid?.(), 0, "tests run as root");
  assert.equal(chooseSquash(undefined), "root");
  for (const squash of ["root", "all", "none"] as const) assert.equal(chooseSquash(squash), squash);
});
