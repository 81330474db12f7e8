import assert from "node:assert/strict";
import { test } from "node:test";
import { openKey, resumeProof } from "../../src/resume/resume-proof.ts";

const session = Buffer.alloc(32, 1);

test("the key of an open depends on the session's key and on the open, and does not change", () => {
  const key = openKey(session, 7);
  assert.equal(key.toString("hex"), "69613491bfabf580e8e694643b65c712548c5c02a7957130bcb4a90b1ec6e563");
  assert.notDeepEqual(openKey(session, 8), key);
  assert.notDeepEqual(openKey(session, 2 ** 40 + 7), key);
  assert.notDeepEqual(openKey(Buffer.alloc(32, 2), 7), key);
});

test("a proof is good for one open, one channel and one resume key", () => {
  const key = openKey(session, 7);
  const transcript = Buffer.alloc(32, 3);
  const resumeKey = Buffer.from("sealed");
  const proof = resumeProof(key, transcript, resumeKey);
  assert.equal(proof.length, 32);
  assert.deepEqual(resumeProof(key, transcript, resumeKey), proof);
  for (const other of [
    resumeProof(openKey(session, 8), transcript, resumeKey),
    resumeProof(key, Buffer.alloc(32, 4), resumeKey),
    resumeProof(key, transcript, Buffer.from("sealee")),
  ]) {
    assert.notDeepEqual(other, proof);
  }
});
