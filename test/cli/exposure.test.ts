/** Whom a server may let in, decided before it starts. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { checkExposure, chooseSquash } from "../../src/cli/exposure.ts";

const ENCRYPTED = { control: "tls", io: "tls" } as const;
const admission = (length: number, isGiven: boolean, hasUsers = false) => ({
  token: { text: "x".repeat(length), isGiven },
  hasUsers,
  security: ENCRYPTED,
});
const STRONG = admission(16, true);
const WEAK = admission(15, true);
const MADE = admission(24, false);
const at = (host: string) => ({ host, port: 1 });

test("on loopback any token will do, and a weak one is remarked on", () => {
  assert.equal(checkExposure(at("127.0.0.1"), STRONG), undefined);
  assert.equal(checkExposure(at("::1"), MADE), undefined);
  assert.match(checkExposure(at("localhost"), WEAK) ?? "", /short and can be guessed/);
});

test("beyond loopback there are users, or the token is chosen and strong; a lack of encryption is said", () => {
  for (const host of ["0.0.0.0", "::", "192.0.2.1", "files.example"]) {
    assert.throws(() => checkExposure(at(host), MADE), { exitCode: 2, message: /choose the token .* or add users/ });
    assert.throws(() => checkExposure(at(host), WEAK), { exitCode: 2, message: /16 characters or more/ });
    assert.equal(checkExposure(at(host), STRONG), undefined);
    assert.equal(checkExposure(at(host), admission(24, false, true)), undefined);
    assert.equal(checkExposure(at(host), { ...STRONG, token: undefined, hasUsers: true }), undefined);
    assert.throws(() => checkExposure(at(host), admission(15, true, true)), { exitCode: 2 });
    for (const security of [
      { ...ENCRYPTED, control: "plain" },
      { ...ENCRYPTED, io: "plain" },
      { ...ENCRYPTED, io: "signed" },
    ] as const) {
      assert.match(checkExposure(at(host), { ...STRONG, security }) ?? "", /clients may go without encryption/);
    }
  }
});

test("root trusts all but root unless told otherwise", () => {
  assert.equal(process.getuid?.(), 0, "tests run as root");
  assert.equal(chooseSquash(undefined), "root");
  for (const squash of ["root", "all", "none"] as const) assert.equal(chooseSquash(squash), squash);
});
