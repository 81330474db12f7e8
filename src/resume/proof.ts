/**
 * Proofs that both sides of a channel know the same secret, without saying it.
 *
 * The secret is the token for a channel that opens a session, a password's keys (scram.ts) where users have one, and the session's key for a channel
 * that joins. A proof is a MAC over a transcript of what both sides said before, nonces included, and of the connection itself where it is encrypted:
 * so it is worth nothing on another channel, nor behind somebody in the middle. Pure: who sends what when is in PROTOCOL.md.
 */
import { createHash, createHmac, hkdfSync, timingSafeEqual } from "node:crypto";

/** Bytes of nonces, proofs and keys. */
export const PROOF_BYTES = 32;
/** Bytes of the key of the frames of one direction: AES-128. */
const FRAME_KEY_BYTES = 16;

const TOKEN_LABEL = "netdrive/1 token\0";
const TRANSCRIPT_LABEL = "netdrive/1 transcript\0";
const CLIENT_LABEL = "netdrive/1 client proof\0";
const SERVER_LABEL = "netdrive/1 server proof\0";
const SESSION_LABEL = "netdrive/1 session key\0";

/** What a client proves itself with. */
export interface Prover {
  clientProof(transcript: Buffer): Buffer;
  /** The proof the server must give; `welcome` is the body of its reply to `auth` without the proof, which is its last field. */
  serverProof(transcript: Buffer, welcome: Buffer): Buffer;
  /** The key of the session that the channel belongs to. */
  sessionKey(transcript: Buffer): Buffer;
}

/** What a server knows of a client's secret. */
export interface Verifier {
  /** The session's key if the client's proof is right, else undefined. Takes the same time either way. */
  check(transcript: Buffer, proof: Buffer): Buffer | undefined;
  /** As `Prover.serverProof`. */
  serverProof(transcript: Buffer, welcome: Buffer): Buffer;
}

/** The HMAC-SHA256 of the parts, one after the other. */
export function mac(key: Buffer, ...parts: (string | Buffer)[]): Buffer {
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

/** What both sides said, and over which connection: the channel binding (empty if it is not encrypted), the bodies of `hello` and of its reply. */
export function transcriptOf(binding: Buffer, hello: Buffer, challenge: Buffer): Buffer {
  const hash = createHash("sha256").update(TRANSCRIPT_LABEL);
  for (const body of [binding, hello, challenge]) hash.update(lengthOf(body)).update(body);
  return hash.digest();
}

/** The client's proof, of `auth`, where both sides know the same key. */
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

/** Both sides of a proof by a key that both know: of the token, which opens a session, or of the session itself, which joins it. */
export function keySecret(key: Buffer, use: "open" | "join"): Prover & Verifier {
  const keyOf = (transcript: Buffer) => (use === "open" ? sessionKey(key, transcript) : key);
  return {
    clientProof: (transcript) => clientProof(key, transcript),
    serverProof: (transcript, welcome) => serverProof(key, transcript, welcome),
    sessionKey: keyOf,
    check: (transcript, proof) => (proofsEqual(clientProof(key, transcript), proof) ? keyOf(transcript) : undefined),
  };
}

/** The key of one channel of a session; no two channels have the same. */
export function channelKey(key: Buffer, transcript: Buffer): Buffer {
  return Buffer.from(hkdfSync("sha256", key, transcript, "netdrive/1 channel key\0", PROOF_BYTES));
}

/** The key that the frames of one side of a channel are signed with. */
export function frameKey(ofChannel: Buffer, sender: "client" | "server"): Buffer {
  return mac(ofChannel, `netdrive/1 frames of the ${sender}\0`).subarray(0, FRAME_KEY_BYTES);
}

/** What one side of a channel signs its frames with, and what the other side does. */
export function frameKeys(
  key: Buffer,
  transcript: Buffer,
  side: "client" | "server",
): { ours: Buffer; theirs: Buffer } {
  const ofChannel = channelKey(key, transcript);
  const other = side === "client" ? "server" : "client";
  return { ours: frameKey(ofChannel, side), theirs: frameKey(ofChannel, other) };
}

/** Whether two proofs are equal, in constant time. */
export function proofsEqual(ours: Buffer, theirs: Buffer): boolean {
  return ours.length === theirs.length && timingSafeEqual(ours, theirs);
}
