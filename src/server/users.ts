/**
 * Who may log in with a password, and to what. Where they are kept is not known here.
 *
 * A server that has no users, or not the one it is asked for, says so to nobody: it shows a salt as for any other and refuses the proof.
 */
import { createHash, randomBytes } from "node:crypto";
import { PROOF_BYTES, type Verifier } from "../resume/proof.ts";
import { decoySalt, ITERATIONS, scramVerifier } from "../resume/scram.ts";

/** Read-only or read-write. */
export type Access = "ro" | "rw";

/** In `User.shares`: every share that is not named there. */
export const OTHER_SHARES = "*";

export interface User {
  readonly name: string;
  readonly salt: Buffer;
  readonly iterations: number;
  /** The verifier of the password; see scram.ts. */
  readonly storedKey: Buffer;
  readonly serverKey: Buffer;
  /** By the share's name, or OTHER_SHARES. A share that is not there does not exist for the user. */
  readonly shares: ReadonlyMap<string, Access>;
}

export interface UserDirectory {
  find(name: string): User | undefined;
  /** What salts are made with for users there are not; it stays the same as long as real salts do. */
  readonly decoySecret: Buffer;
  /** To be called when users were changed; set by the server. */
  onChange?: (() => void) | undefined;
}

/** Bytes of a login's mark. */
export const MARK_BYTES = 16;

/** What a login was made with, as a digest: the secret it was checked with, and what it gave access to. */
export function loginMark(secret: Buffer, access: Access): Buffer {
  return createHash("sha256").update(secret).update(access).digest().subarray(0, MARK_BYTES);
}

/** What a user may do to a share; undefined: nothing. */
export function accessOf({ shares }: User, share: string): Access | undefined {
  return shares.get(share) ?? shares.get(OTHER_SHARES);
}

/** Nobody. */
export function noUsers(): UserDirectory {
  return { find: () => undefined, decoySecret: randomBytes(PROOF_BYTES) };
}

/** What the server says and checks for a name that a client gives. `user` is undefined if there is no such user: then no proof is right. */
export function challengeUser(
  users: UserDirectory,
  name: string,
): { user: User | undefined; salt: Buffer; iterations: number; verifier: Verifier } {
  const user = users.find(name);
  if (user !== undefined) {
    return { user, salt: user.salt, iterations: user.iterations, verifier: scramVerifier(user) };
  }
  const [storedKey, serverKey] = [randomBytes(PROOF_BYTES), randomBytes(PROOF_BYTES)];
  return {
    user,
    salt: decoySalt(users.decoySecret, name),
    iterations: ITERATIONS,
    verifier: scramVerifier({ storedKey, serverKey }),
  };
}
