/**
 * SCRAM-SHA-256 (RFC 5802, RFC 7677): a password proven without being said, against a verifier that is not worth the password.
 *
 * The server keeps `StoredKey` and `ServerKey` only: who steals them can neither log in nor read the password, only guess at it, at the cost of
 * the iterations a guess. AuthMessage is our transcript, which has nonces, user, salt and the channel binding in it. Messages and encodings of the
 * RFC's own are not used. Pure.
 */
import { createHash, pbkdf2 } from "node:crypto";
import { promisify } from "node:util";
import { mac, PROOF_BYTES, type Prover, proofsEqual, serverProof, type Verifier } from "./proof.ts";

const SCRAM_LABEL = "netdrive/1 scram\0";
const SESSION_LABEL = "netdrive/1 session key\0";
const DECOY_LABEL = "netdrive/1 decoy salt\0";

export const SALT_BYTES = 16;
/** Of new verifiers: 0.12 s of one core for who logs in (2-core machine, 2026-11), and for each guess. */
export const ITERATIONS = 600_000;
/** What a client does for a server at least and at most: less is no protection, more is a waste of its time. */
export const ITERATIONS_MIN = 4096;
export const ITERATIONS_MAX = 10_000_000;

const derive = promisify(pbkdf2);

/** What a password makes with a salt; only who has the password has `clientKey`. */
export interface ScramKeys {
  readonly clientKey: Buffer;
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
}

/** The bytes of a password, equal for equal text however it is typed: RFC 8265, OpaqueString. */
function passwordBytes(password: string): Buffer {
  return Buffer.from(password.replace(/\p{Zs}/gu, " ").normalize("NFC"), "utf8");
}

/** Works in libuv's pool for as long as the iterations take. */
export async function scramKeys(password: string, salt: Buffer, iterations: number): Promise<ScramKeys> {
  const salted = await derive(passwordBytes(password), salt, iterations, PROOF_BYTES, "sha256");
  const clientKey = mac(salted, "Client Key");
  return { clientKey, storedKey: sha256(clientKey), serverKey: mac(salted, "Server Key") };
}

/** ClientProof of RFC 5802. */
export function scramProof({ clientKey, storedKey }: ScramKeys, authMessage: Buffer): Buffer {
  return xor(clientKey, mac(storedKey, authMessage));
}

/** The ClientKey that a proof holds if it is right, else undefined. */
export function provenClientKey(storedKey: Buffer, authMessage: Buffer, proof: Buffer): Buffer | undefined {
  if (proof.length !== PROOF_BYTES) return undefined;
  const clientKey = xor(proof, mac(storedKey, authMessage));
  return proofsEqual(sha256(clientKey), storedKey) ? clientKey : undefined;
}

/** A client that knows the password. */
export function scramProver(keys: ScramKeys): Prover {
  return {
    clientProof: (transcript) => scramProof(keys, authMessageOf(transcript)),
    serverProof: (transcript, welcome) => serverProof(keys.serverKey, transcript, welcome),
    sessionKey: (transcript) => scramSessionKey(keys.storedKey, keys.clientKey, transcript),
  };
}

/** A server that knows the verifier. */
export function scramVerifier({ storedKey, serverKey }: Omit<ScramKeys, "clientKey">): Verifier {
  return {
    check(transcript, proof) {
      const clientKey = provenClientKey(storedKey, authMessageOf(transcript), proof);
      return clientKey === undefined ? undefined : scramSessionKey(storedKey, clientKey, transcript);
    },
    serverProof: (transcript, welcome) => serverProof(serverKey, transcript, welcome),
  };
}

/** The salt a server shows for a user it does not have: always the same one, so that nobody learns who exists by asking twice. */
export function decoySalt(secret: Buffer, user: string): Buffer {
  return mac(secret, DECOY_LABEL, user).subarray(0, SALT_BYTES);
}

function authMessageOf(transcript: Buffer): Buffer {
  return Buffer.concat([Buffer.from(SCRAM_LABEL), transcript]);
}

/** Only who has the password can make it, or who has seen a right proof and has the verifier. */
function scramSessionKey(storedKey: Buffer, clientKey: Buffer, transcript: Buffer): Buffer {
  return mac(storedKey, SESSION_LABEL, clientKey, authMessageOf(transcript));
}

function sha256(bytes: Buffer): Buffer {
  return createHash("sha256").update(bytes).digest();
}

function xor(left: Buffer, right: Buffer): Buffer {
  return Buffer.from(left.map((byte, index) => byte ^ (right[index] as number)));
}
