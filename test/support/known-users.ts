/** Users kept in memory, with cheap verifiers, for tests of logging in. */
import { createHash } from "node:crypto";
import { ITERATIONS_MIN, SALT_BYTES, scramKeys } from "../../src/resume/scram.ts";
import type { Access, User, UserDirectory } from "../../src/server/users.ts";

/** A user; `shares` by name, `*` for all others. */
export async function knownUser(
  name: string,
  password: string,
  shares: Readonly<Record<string, Access>> = { "*": "rw" },
): Promise<User> {
  const salt = createHash("sha256").update(name).digest().subarray(0, SALT_BYTES);
  const { storedKey, serverKey } = await scramKeys(password, salt, ITERATIONS_MIN);
  return { name, salt, iterations: ITERATIONS_MIN, storedKey, serverKey, shares: new Map(Object.entries(shares)) };
}

/** A directory of users that a test may change. */
export class KnownUsers implements UserDirectory {
  readonly decoySecret = Buffer.alloc(32, 3);
  onChange: (() => void) | undefined;
  readonly users: Map<string, User>;

  constructor(...users: User[]) {
    this.users = new Map(users.map((user) => [user.name, user]));
  }

  find(name: string): User | undefined {
    return this.users.get(name);
  }
}
