/** Where a server's key and certificate come from. */
import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { chooseIdentity } from "../../src/cli/identity.ts";
import { makeIdentity } from "../../src/transport/self-signed.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("identity");
after(() => temp.remove());
const at = (path: string) => join(temp.path, path);
const host = "127.0.0.1";

test("without a state folder it is another one at each start", () => {
  assert.notEqual(chooseIdentity({ host }).fingerprint, chooseIdentity({ host }).fingerprint);
});

test("a state folder keeps it, for its owner only", () => {
  const first = chooseIdentity({ host, stateFolder: at("state") });
  assert.deepEqual(chooseIdentity({ host: "0.0.0.0", stateFolder: at("state") }).fingerprint, first.fingerprint);
  assert.equal(statSync(at("state/identity.pem")).mode & 0o777, 0o600);
});

test("one that is given is taken, and a renewed certificate of the same key is the same server", () => {
  const { certificate, key } = makeIdentity([host]);
  writeFileSync(at("cert.pem"), certificate);
  writeFileSync(at("key.pem"), key);
  const chosen = chooseIdentity({ cert: at("cert.pem"), key: at("key.pem"), host, stateFolder: at("other") });
  assert.equal(chosen.key, key);
  assert.match(chosen.fingerprint, /^[\w-]{43}$/);
});

test("what is no identity is one line: which file, and what to do", () => {
  const wrong = (options: { cert?: string; key?: string; stateFolder?: string }, exitCode: number, message: RegExp) =>
    assert.throws(() => chooseIdentity({ host, ...options }), { exitCode, message });
  wrong({ cert: at("cert.pem") }, 2, /^--cert and --key belong together; /);
  wrong({ key: at("key.pem") }, 2, /^--cert and --key belong together; /);
  wrong({ cert: at("none"), key: at("key.pem") }, 5, /^--cert .*none cannot be read: /);
  wrong({ cert: at("cert.pem"), key: at("none") }, 5, /^--key .*none cannot be read: /);
  writeFileSync(at("other-key.pem"), makeIdentity([host]).key);
  wrong({ cert: at("cert.pem"), key: at("other-key.pem") }, 5, /they do not belong together; /);
  wrong({ cert: at("key.pem"), key: at("key.pem") }, 5, /^no certificate and key in /);
  wrong({ stateFolder: at("cert.pem") }, 5, /^--state .* cannot be used: /);
  const kept = at("state/identity.pem");
  writeFileSync(kept, readFileSync(kept).subarray(0, 300));
  wrong(
    { stateFolder: at("state") },
    5,
    /^no certificate and key in .*identity\.pem: .*; give others, or remove them$/,
  );
});
