/**
 * Proofs that a client knows the key of an open, without which its resume key is worth nothing.
 *
 * The key of an open is made of the session's key, so the client has it without it ever travelling, and can hand it on for this open alone.
 * A proof covers the transcript of the channel it is shown on, which has fresh nonces of both sides: on any other channel it is void. Pure.
 */
import { createHmac, hkdfSync } from "node:crypto";

const KEY_BYTES = 32;
const OPEN_LABEL = "netdrive/1 open key\0";
const RESUME_LABEL = "netdrive/1 resume\0";
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
