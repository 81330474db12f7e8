/** Where the server's secret comes from. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, beforeEach, test } from "node:test";
import { chooseToken } from "../../src/cli/token.ts";

const folder = mkdtempSync(join(tmpdir(), "netdrive-token-"));
after(() => rmSync(folder, { recursive: true }));
beforeEach(() => {
  delete process.env["NETDRIVE_TOKEN"];
});

test("the option wins over the environment, and both over a new token", () => {
  assert.deepEqual(chooseToken({ option: "option-token" }), { text: "option-token", isGiven: true });
  process.env["NETDRIVE_TOKEN"] = "environment-token";
  assert.equal(chooseToken({}).text, "environment-token");
  assert.equal(chooseToken({ option: "option-token" }).text, "option-token");
});

test("a new token has at least 128 random bits, fit for a URL, and is another each time", () => {
  const tokens = Array.from({ length: 100 }, () => chooseToken({}));
  assert.equal(new Set(tokens.map(({ text }) => text)).size, 100);
  for (const { text, isGiven } of tokens) {
    assert.match(text, /^[\w-]{24}$/);
    assert.equal(isGiven, false);
  }
});

test("a state folder keeps the token from one start to the next, for its owner only", () => {
  const stateFolder = join(folder, "state");
  const first = chooseToken({ stateFolder });
  assert.deepEqual(chooseToken({ stateFolder }), first);
  assert.equal(statSync(join(stateFolder, "token")).mode & 0o777, 0o600);
  assert.equal(chooseToken({ option: "other-token", stateFolder }).text, "other-token");
});

test("tokens that cannot be typed or kept are refused", () => {
  for (const option of ["", "with space", "näh", "line\nbreak", "x".repeat(257)]) {
    assert.throws(() => chooseToken({ option }), { exitCode: 2, message: /printable ASCII/ });
  }
  const stateFolder = join(folder, "damaged");
  chooseToken({ stateFolder });
  writeFileSync(join(stateFolder, "token"), "");
  assert.throws(() => chooseToken({ stateFolder }), { exitCode: 2 });
  assert.throws(() => chooseToken({ stateFolder: join(folder, "damaged/token") }), { exitCode: 5, message: /--state/ });
});
