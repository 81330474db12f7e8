/** Proofs: known values, and that every input counts. */
import assert from "node:assert/strict";
import { createHash, createHmac, hkdfSync } from "node:crypto";
import { test } from "node:test";
import {
  channelKey,
  clientProof,
  frameKey,
  keySecret,
  proofsEqual,
  serverProof,
  sessionKey,
  tokenKey,
  transcriptOf,
} from "../../src/resume/proof.ts";

const binding = Buffer.from("binding");
const hello = Buffer.from("hello");
const challenge = Buffer.from("challenge");
const welcome = Buffer.from("welcome");

test("proofs are what PROTOCOL.md says", () => {
  const hmac = (key: Buffer, ...parts: string[]) => createHmac("sha256", key).update(parts.join(""), "latin1").digest();
  const length = (bytes: number) => `${String.fromCharCode(bytes)}\0\0\0`;
  const key = hmac(Buffer.from("token"), "netdrive/1 token\0");
  const said = `netdrive/1 transcript\0${length(7)}binding${length(5)}hello${length(9)}challenge`;
  const transcript = createHash("sha256").update(said, "latin1").digest();
  const text = transcript.toString("latin1");
  assert.deepEqual(tokenKey(Buffer.from("token")), key);
  assert.deepEqual(transcriptOf(binding, hello, challenge), transcript);
  assert.deepEqual(clientProof(key, transcript), hmac(key, "netdrive/1 client proof\0", text));
  assert.deepEqual(
    serverProof(key, transcript, welcome),
    hmac(key, "netdrive/1 server proof\0", text, length(7), "welcome"),
  );
  assert.deepEqual(sessionKey(key, transcript), hmac(key, "netdrive/1 session key\0", text));
  const ofChannel = Buffer.from(hkdfSync("sha256", key, transcript, "netdrive/1 channel key\0", 32));
  assert.deepEqual(channelKey(key, transcript), ofChannel);
  assert.deepEqual(frameKey(ofChannel, "client"), hmac(ofChannel, "netdrive/1 frames of the client\0").subarray(0, 16));
});

test("who opens a session with a key has a new key for it, who joins it has the session's", () => {
  const key = tokenKey(Buffer.from("token"));
  const transcript = transcriptOf(binding, hello, challenge);
  const right = clientProof(key, transcript);
  assert.deepEqual(keySecret(key, "open").check(transcript, right), sessionKey(key, transcript));
  assert.deepEqual(keySecret(key, "join").check(transcript, right), key);
  assert.deepEqual(keySecret(key, "join").sessionKey(transcript), key);
  assert.equal(keySecret(key, "open").check(transcript, serverProof(key, transcript, welcome)), undefined);
});

test("no two of the values are equal, and moving a byte between the messages changes the transcript", () => {
  const key = tokenKey(Buffer.from("token"));
  const transcript = transcriptOf(binding, hello, challenge);
  const values = [
    key,
    transcript,
    transcriptOf(binding, Buffer.from("helloc"), Buffer.from("hallenge")),
    transcriptOf(binding, challenge, hello),
    transcriptOf(Buffer.alloc(0), hello, challenge),
    transcriptOf(Buffer.from("bindingh"), Buffer.from("ello"), challenge),
    clientProof(key, transcript),
    clientProof(transcript, key),
    serverProof(key, transcript, welcome),
    serverProof(key, transcript, Buffer.from("welcomf")),
    sessionKey(key, transcript),
    channelKey(key, transcript),
    frameKey(channelKey(key, transcript), "client"),
    frameKey(channelKey(key, transcript), "server"),
    tokenKey(Buffer.from("tokem")),
  ].map((value) => value.toString("hex"));
  assert.equal(new Set(values).size, values.length);
});

test("proofs of another length are not equal to ours", () => {
  const proof = Buffer.alloc(32, 1);
  assert.equal(proofsEqual(proof, Buffer.alloc(32, 1)), true);
  assert.equal(proofsEqual(proof, Buffer.alloc(31, 1)), false);
  assert.equal(proofsEqual(proof, Buffer.alloc(32, 2)), false);
});
