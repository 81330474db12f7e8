/**
 * Proofs that both sides of a channel know the same secret, without saying it.
 *
 * The secret is the token for a channel that opens a session and the session's key for one that joins it. A proof is a MAC over a transcript of
 * what both sides said before, nonces included, so that it is worth nothing on another channel. Pure: who sends what when is in PROTOCOL.md.
 */
import { createHash, createHmac, timingSafeEqual } from "node:crypto";

/** Bytes of nonces, proofs and keys. */
export const PROOF_BYTES = 32;

const TOKEN_LABEL = "netdrive/1 token\0";
const TRANSCRIPT_LABEL = "netdrive/1 transcript\0";
const CLIENT_LABEL = "netdrive/1 client proof\0";
const SERVER_LABEL = "netdrive/1 server proof\0";
const SESSION_LABEL = "netdrive/1 session key\0";

function mac(key: Buffer, ...parts: (string | Buffer)[]): Buffer {
  const hmac = createHmac("sha256", key);
  for (const part of parts) hmac.update(part);
  return hmac.digest();
}

function lengthOf(bytes: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32LE(bytes.length);
  return length;
}

/** The key that stands for a token; the token itself is not used further. */
export function tokenKey(token: Buffer): Buffer {
  return mac(token, TOKEN_LABEL);
}

/** What both sides said: the bodies of `hello` and of its reply. */
export function transcriptOf(hello: Buffer, challenge: Buffer): Buffer {
  const hash = createHash("sha256").update(TRANSCRIPT_LABEL);
  for (const body of [hello, challenge]) hash.update(lengthOf(body)).update(body);
  return hash.digest();
}

/** The client's proof, of `auth`. */
export function clientProof(key: Buffer, transcript: Buffer): Buffer {
  return mac(key, CLIENT_LABEL, transcript);
}

/** The server's proof, of the reply to `auth`; `welcome` is that reply's body without the proof, which is its last field. */
export function serverProof(key: Buffer, transcript: Buffer, welcome: Buffer): Buffer {
  return mac(key, SERVER_LABEL, transcript, lengthOf(welcome), welcome);
}

/** The key of a session opened with `key`. */
export function sessionKey(key: Buffer, transcript: Buffer): Buffer {
  return mac(key, SESSION_LABEL, transcript);
}

/** Whether two proofs are equal, in constant time. */
export function proofsEqual(ours: Buffer, theirs: Buffer): boolean {
  return ours.length === theirs.length && timingSafeEqual(ours, theirs);
}
