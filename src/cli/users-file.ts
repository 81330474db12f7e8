/**
 * The users of a server, in its state folder: names, verifiers of their passwords, and what they may do. No password is in it.
 *
 * One JSON file, for the server's user only, which is replaced as a whole: whoever reads it finds the old or the new one. Who changes it holds a lock file
 * meanwhile, so that no change is lost. A running server sees a change within CHECK_PERIOD_MS, and at the next login.
 */
import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import type { Clock, Timer } from "../base/clock.ts";
import { type Log, printable } from "../base/log.ts";
import { isShareName, isUserName } from "../client/url.ts";
import { PROOF_BYTES } from "../resume/proof.ts";
import { ITERATIONS_MAX, ITERATIONS_MIN, SALT_BYTES } from "../resume/scram.ts";
import { type Access, OTHER_SHARES, type User, type UserDirectory } from "../server/users.ts";
import { syncFolder } from "../sys/sync-folder.ts";
import { Exit, failure } from "./failure.ts";

const FILE = "users.json";
const FORMAT = 1;
const CHECK_PERIOD_MS = 2000;

/** What the file holds. */
export interface UserList {
  readonly users: ReadonlyMap<string, User>;
  /** See UserDirectory. */
  readonly decoySecret: Buffer;
}

const fileIn = (stateFolder: string) => join(stateFolder, FILE);

/** The users of a state folder; none if there is no file. @throws CommanderError PATH. */
export function readUsers(stateFolder: string): UserList {
  return usersIn(readText(stateFolder), stateFolder);
}

/** The file's text; undefined if there is no file. @throws CommanderError PATH if it cannot be read. */
function readText(stateFolder: string): string | undefined {
  try {
    return readFileSync(fileIn(stateFolder), "utf8");
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === "ENOENT") return undefined;
    throw failure(Exit.PATH, `--state ${printable(stateFolder)} cannot be used: ${printable(message)}`);
  }
}

/** @throws CommanderError PATH if the text is damaged. */
function usersIn(text: string | undefined, stateFolder: string): UserList {
  if (text === undefined) return { users: new Map(), decoySecret: randomBytes(PROOF_BYTES) };
  try {
    return parseUsers(text);
  } catch (cause) {
    const why = printable((cause as Error).message.split("\n", 1)[0] ?? "");
    throw failure(
      Exit.PATH,
      `${printable(fileIn(stateFolder))} is damaged: ${why}; restore it, or remove it and add the users anew`,
    );
  }
}

/** Replaces the users of a state folder by what `change` makes of them. @throws CommanderError PATH, and what `change` throws. */
export async function changeUsers(
  stateFolder: string,
  change: (users: Map<string, User>) => Promise<void>,
): Promise<void> {
  const file = fileIn(stateFolder);
  const lock = `${file}.new`;
  const descriptor = lockFile(stateFolder, lock);
  let isHeld = true;
  try {
    const { users, decoySecret } = readUsers(stateFolder);
    const changed = new Map(users);
    await change(changed);
    writeFileSync(descriptor, formatUsers({ users: changed, decoySecret }));
    fsyncSync(descriptor);
    renameSync(lock, file);
    isHeld = false;
    // Who was removed stays removed, also after a power cut.
    await syncFolder(stateFolder);
  } finally {
    closeSync(descriptor);
    // Once renamed, a file of this name is somebody else's lock.
    if (isHeld) rmSync(lock, { force: true });
  }
}

function lockFile(stateFolder: string, lock: string): number {
  try {
    mkdirSync(stateFolder, { recursive: true, mode: 0o700 });
    return openSync(lock, "wx", 0o600);
  } catch (cause) {
    const { code, message } = cause as NodeJS.ErrnoException;
    const shown = printable(stateFolder);
    if (code !== "EEXIST" || !existsSync(lock)) {
      throw failure(Exit.PATH, `--state ${shown} cannot be used: ${printable(message)}`);
    }
    const advice = `try again when it is done, or remove ${printable(lock)} if it died`;
    throw failure(Exit.PATH, `another command changes the users of ${shown}; ${advice}`);
  }
}

/**
 * The users of a running server: those of the file, as it is now. A file that is damaged changes nothing, and is logged; nor does one that cannot be read, but
 * that is tried again until it can.
 */
export class WatchedUsers implements UserDirectory {
  onChange: (() => void) | undefined;
  readonly #stateFolder: string;
  readonly #log: Log;
  readonly #timer: Timer;
  #list: UserList;
  /** Of the file that was read last. */
  #stamp: string;
  /** Of the one that could not be used last, which is logged. */
  #unreadStamp: string | undefined;

  /** @throws CommanderError PATH if the file is damaged now. */
  constructor(stateFolder: string, { clock, log }: { clock: Clock; log: Log }) {
    this.#stateFolder = stateFolder;
    this.#log = log;
    this.#stamp = stampOf(stateFolder);
    this.#list = readUsers(stateFolder);
    this.#timer = clock.every(CHECK_PERIOD_MS, () => this.#refresh());
  }

  get count(): number {
    return this.#list.users.size;
  }

  get decoySecret(): Buffer {
    return this.#list.decoySecret;
  }

  find(name: string): User | undefined {
    this.#refresh();
    return this.#list.users.get(name);
  }

  close(): void {
    this.#timer.stop();
  }

  #refresh(): void {
    const stamp = stampOf(this.#stateFolder);
    if (stamp === this.#stamp) return;
    try {
      const text = readText(this.#stateFolder);
      // What is in it does not change before the file does; whether it can be read may.
      this.#stamp = stamp;
      const { users, decoySecret } = usersIn(text, this.#stateFolder);
      // Salts of users there are not stay the same while this server runs, also when the last user is removed.
      this.#list = { users, decoySecret: users.size === 0 ? this.#list.decoySecret : decoySecret };
    } catch (cause) {
      if (stamp !== this.#unreadStamp) this.#log.error(`users stay as they were: ${(cause as Error).message}`);
      this.#unreadStamp = stamp;
      return;
    }
    this.#log.info(`${this.#list.users.size} users now`);
    this.onChange?.();
  }
}

/** Differs whenever the file was replaced. */
function stampOf(stateFolder: string): string {
  try {
    const { ino, size, mtimeMs, ctimeMs } = statSync(fileIn(stateFolder));
    return `${ino} ${size} ${mtimeMs} ${ctimeMs}`;
  } catch {
    return "";
  }
}

function formatUsers({ users, decoySecret }: UserList): string {
  const list = [...users.values()].map(({ name, salt, iterations, storedKey, serverKey, shares }) => ({
    name,
    salt: salt.toString("base64"),
    iterations,
    storedKey: storedKey.toString("base64"),
    serverKey: serverKey.toString("base64"),
    shares: Object.fromEntries(shares),
  }));
  const file = { format: FORMAT, decoySecret: decoySecret.toString("base64"), users: list };
  return `${JSON.stringify(file, undefined, 2)}\n`;
}

/** @throws Error that says what is wrong. */
function parseUsers(text: string): UserList {
  const { format, decoySecret, users } = JSON.parse(text) as Record<string, unknown>;
  if (format !== FORMAT) throw new Error(`its format is ${JSON.stringify(format)}`);
  if (!Array.isArray(users)) throw new Error("it has no list of users");
  const parsed = users.map((user: unknown) => parseUser(user as Record<string, unknown> | null));
  return { users: new Map(parsed.map((user) => [user.name, user])), decoySecret: bytesOf(decoySecret, "secret") };
}

function parseUser(user: Record<string, unknown> | null): User {
  const { name, salt, iterations, storedKey, serverKey, shares } = user ?? {};
  if (typeof name !== "string" || !isUserName(name)) throw new Error("a user has no possible name");
  if (typeof iterations !== "number" || !(iterations >= ITERATIONS_MIN && iterations <= ITERATIONS_MAX)) {
    throw new Error(`the iterations of ${name} are not a number in bounds`);
  }
  return {
    name,
    salt: bytesOf(salt, `salt of ${name}`, SALT_BYTES),
    iterations,
    storedKey: bytesOf(storedKey, `verifier of ${name}`),
    serverKey: bytesOf(serverKey, `verifier of ${name}`),
    shares: sharesOf(shares, name),
  };
}

function sharesOf(shares: unknown, name: string): Map<string, Access> {
  const entries = typeof shares === "object" && shares !== null ? Object.entries(shares) : [];
  for (const [share, access] of entries) {
    const isNamed = share === OTHER_SHARES || isShareName(share);
    if (!isNamed || (access !== "ro" && access !== "rw"))
      throw new Error(`the shares of ${name} are not what they must be`);
  }
  return new Map(entries as [string, Access][]);
}

function bytesOf(value: unknown, what: string, bytes: number = PROOF_BYTES): Buffer {
  const buffer = Buffer.from(typeof value === "string" ? value : "", "base64");
  if (buffer.length !== bytes) throw new Error(`the ${what} is not whole`);
  return buffer;
}
