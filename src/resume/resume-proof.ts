/**
 * Proofs that a client, or the server, knows the key of an open, without which its resume key is worth nothing.
 *
 * The key of an open is made of the session's key, so the client has it without it ever travelling, and can hand it on for this open alone.
 * A proof covers the transcript of the channel it is shown on, which has fresh nonces of both sides: on any other channel it is void. Pure.
 */
import { createHmac, hkdfSync } from "node:crypto";
import { mac } from "./proof.ts";

const KEY_BYTES = 32;
const OPEN_LABEL = "netdrive/1 open key\0";
const RESUME_LABEL = "netdrive/1 resume\0";
const ATTACH_LABEL = "netdrive/1 attach\0";
const ATTACHED_LABEL = "netdrive/1 attached\0";
const TICKET_LABEL = "netdrive/1 ticket\0";
const NO_SALT = Buffer.alloc(0);

/** The key of the open with this id, of the session with this key. */
export function openKey(sessionKey: Buffer, openId: number): Buffer {
  const info = Buffer.alloc(OPEN_LABEL.length + 8);
  info.write(OPEN_LABEL, "latin1");
  info.writeBigUInt64LE(BigInt(openId), OPEN_LABEL.length);
  return Buffer.from(hkdfSync("sha256", sessionKey, NO_SALT, info, KEY_BYTES));
}

/** The proof of `resume`; `transcript` is that of the channel's set-up. */
export function resumeProof(key: Buffer, transcript: Buffer, resumeKey: Buffer): Buffer {
  return createHmac("sha256", key).update(RESUME_LABEL).update(transcript).update(resumeKey).digest();
}

/** What a client says to attach to an open. */
export interface AttachClaim {
  /** Of the channel's set-up. */
  readonly transcript: Buffer;
  /** The one the server gave out last for this open; good once. */
  readonly challenge: Buffer;
  readonly clientNonce: Buffer;
  readonly resumeKey: Buffer;
}

/** The client's proof of `attach`. */
export function attachProof(key: Buffer, { transcript, challenge, clientNonce, resumeKey }: AttachClaim): Buffer {
  return mac(key, ATTACH_LABEL, transcript, challenge, clientNonce, resumeKey);
}

/** The server's proof of its reply. */
export function attachedProof(key: Buffer, transcript: Buffer, clientNonce: Buffer, nextChallenge: Buffer): Buffer {
  return mac(key, ATTACHED_LABEL, transcript, clientNonce, nextChallenge);
}

/** The key that opens a session which has one open and nothing else; worth nothing when the challenge has been used. */
export function ticketKey(key: Buffer, challenge: Buffer): Buffer {
  return mac(key, TICKET_LABEL, challenge);
}
