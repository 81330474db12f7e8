/** SCRAM-SHA-256: the RFC's own vector, what the proof is bound to, and what a stolen verifier is worth. */
import assert from "node:assert/strict";
import { createHash, createHmac } from "node:crypto";
import { test } from "node:test";
import {
  decoySalt,
  provenClientKey,
  scramKeys,
  scramProof,
  scramProver,
  scramVerifier,
} from "../../src/resume/scram.ts";

const salt = Buffer.from("W22ZaJ0SNY7soEsUEjb6gQ==", "base64");
const ITERATIONS = 4096;

test("the exchange of RFC 7677 section 3 comes out to the byte", async () => {
  const nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
  const first = "n=user,r=rOprNGfwEbeRWgbNEkqO";
  const authMessage = `${first},r=${nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=${nonce}`;
  const keys = await scramKeys("pencil", salt, ITERATIONS);
  const proof = scramProof(keys, Buffer.from(authMessage));
  assert.equal(proof.toString("base64"), "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
  const signature = createHmac("sha256", keys.serverKey).update(authMessage).digest("base64");
  assert.equal(signature, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
  assert.deepEqual(provenClientKey(keys.storedKey, Buffer.from(authMessage), proof), keys.clientKey);
});

test("what both sides make of a right proof is what PROTOCOL.md says", async () => {
  const keys = await scramKeys("secret", salt, ITERATIONS);
  const transcript = Buffer.alloc(32, 7);
  const authMessage = Buffer.concat([Buffer.from("netdrive/1 scram\0"), transcript]);
  const [client, server] = [scramProver(keys), scramVerifier(keys)];
  assert.deepEqual(client.clientProof(transcript), scramProof(keys, authMessage));
  const key = createHmac("sha256", keys.storedKey).update("netdrive/1 session key\0").update(keys.clientKey);
  const expected = key.update(authMessage).digest();
  assert.deepEqual(client.sessionKey(transcript), expected);
  assert.deepEqual(server.check(transcript, client.clientProof(transcript)), expected);
  const welcome = Buffer.from("welcome");
  assert.deepEqual(client.serverProof(transcript, welcome), server.serverProof(transcript, welcome));
});

test("a wrong password, another salt, another transcript and a proof of another length are refused", async () => {
  const keys = await scramKeys("secret", salt, ITERATIONS);
  const transcript = Buffer.alloc(32, 7);
  const server = scramVerifier(keys);
  const proofs = [
    scramProver(await scramKeys("Secret", salt, ITERATIONS)).clientProof(transcript),
    scramProver(await scramKeys("secret", Buffer.alloc(16), ITERATIONS)).clientProof(transcript),
    scramProver(await scramKeys("secret", salt, ITERATIONS + 1)).clientProof(transcript),
    scramProver(keys).clientProof(Buffer.alloc(32, 8)),
    scramProver(keys).clientProof(transcript).subarray(1),
    Buffer.alloc(32),
    Buffer.alloc(0),
  ];
  for (const proof of proofs) assert.equal(server.check(transcript, proof), undefined);
});

test("a stolen verifier makes no proof", async () => {
  const { storedKey, serverKey } = await scramKeys("secret", salt, ITERATIONS);
  const transcript = Buffer.alloc(32, 7);
  const server = scramVerifier({ storedKey, serverKey });
  for (const clientKey of [storedKey, serverKey, Buffer.alloc(32)]) {
    const proof = scramProver({ clientKey, storedKey, serverKey }).clientProof(transcript);
    assert.equal(server.check(transcript, proof), undefined);
  }
});

test("a password is the same however it is typed, and no other", async () => {
  const stored = async (password: string) => (await scramKeys(password, salt, ITERATIONS)).storedKey.toString("hex");
  assert.equal(await stored("Z\u00fcrich 1"), await stored("Zu\u0308rich\u00a01"));
  assert.notEqual(await stored("Zürich"), await stored("Zurich"));
  assert.notEqual(await stored("\ufb01"), await stored("fi"));
});

test("a user that does not exist always has the same salt, which only the server can tell from a real one", () => {
  const secret = createHash("sha256").update("the server's").digest();
  assert.deepEqual(decoySalt(secret, "nobody"), decoySalt(secret, "nobody"));
  assert.equal(decoySalt(secret, "nobody").length, 16);
  assert.notDeepEqual(decoySalt(secret, "nobody"), decoySalt(secret, "somebody"));
  assert.notDeepEqual(decoySalt(Buffer.alloc(32), "nobody"), decoySalt(secret, "nobody"));
});
