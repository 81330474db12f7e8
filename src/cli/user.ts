/**
 * `netdrive user add|remove|list|passwd|access`: who may log in to a server with a password.
 */
import { randomBytes } from "node:crypto";
import type { Command } from "commander";
import { printable } from "../base/log.ts";
import { isShareName, isUserName } from "../client/url.ts";
import { ITERATIONS, SALT_BYTES, scramKeys } from "../resume/scram.ts";
import { type Access, OTHER_SHARES, type User } from "../server/users.ts";
import { Exit, failure } from "./failure.ts";
import { readNewPassword } from "./password.ts";
import { changeUsers, readUsers } from "./users-file.ts";

const EXAMPLES = `
A user logs in with 'netdrive mount netdrive://NAME:@HOST:PORT/SHARE ...'. A running server takes changes at once: sessions of a user who was
removed, or whose password or access was changed, end.

Examples:
  netdrive user add anna --state /var/lib/netdrive
  netdrive user add bert --state /var/lib/netdrive --share films=ro --share music=rw
  netdrive user access anna --state /var/lib/netdrive --share '*=ro'
  netdrive user passwd anna --state /var/lib/netdrive < password.txt --password-file -
  netdrive user list --state /var/lib/netdrive`;

interface UserOptions {
  state: string;
  share?: string[];
  passwordFile?: string;
  json?: boolean;
}

export function addUser(program: Command): void {
  const user = program
    .command("user")
    .description("Say who may log in to a server with a password.")
    .addHelpText("after", EXAMPLES)
    .action(() => {
      throw failure(
        Exit.USAGE,
        "no command given; there are add, remove, list, passwd, access: see 'netdrive user --help'",
      );
    });
  const command = (name: string, description: string) =>
    user
      .command(name)
      .description(description)
      .requiredOption("--state <dir>", "the server's folder, as 'netdrive serve' has it")
      .allowExcessArguments(false)
      .addHelpText("after", EXAMPLES);
  const shareOption = [
    "--share <name=ro|rw>",
    "a share the user sees, read-only or read-write; '*' for all others",
  ] as const;
  const passwordOption = [
    "--password-file <file>",
    "where the password is; -: standard input (else it is asked for)",
  ] as const;
  command("add", "Add a user; without --share for all shares, read-write.")
    .argument("<name>", "letters, digits, '_', '.' and '-'")
    .option(...shareOption, collect)
    .option(...passwordOption)
    .action((name: string, options: UserOptions) => add(name, options));
  command("passwd", "Change a user's password.")
    .argument("<name>")
    .option(...passwordOption)
    .action((name: string, options: UserOptions) => passwd(name, options));
  command("access", "Change what a user sees; what is not named is taken away.")
    .argument("<name>")
    .requiredOption(...shareOption, collect)
    .action((name: string, options: UserOptions) => access(name, options));
  command("remove", "Remove a user.")
    .argument("<name>")
    .action((name: string, options: UserOptions) => remove(name, options));
  command("list", "List the users and what they see.")
    .option("--json", "as JSON, one object a user")
    .action((options: UserOptions) => list(options));
}

const collect = (value: string, before: string[] = []) => [...before, value];

async function add(name: string, { state, share, passwordFile }: UserOptions): Promise<void> {
  if (!isUserName(name)) {
    throw failure(
      Exit.USAGE,
      `'${printable(name)}' cannot name a user; take letters, digits, '_', '.' and '-', 64 at most`,
    );
  }
  const shares = share === undefined ? new Map<string, Access>([[OTHER_SHARES, "rw"]]) : parseShares(share);
  if (readUsers(state).users.has(name)) throw exists(name);
  const verifier = await makeVerifier(name, passwordFile);
  await changeUsers(state, async (users) => {
    if (users.has(name)) throw exists(name);
    users.set(name, { name, ...verifier, shares });
  });
}

const exists = (name: string) =>
  failure(Exit.USAGE, `there is a user ${name} already; see 'netdrive user passwd' and 'netdrive user access'`);

async function passwd(name: string, { state, passwordFile }: UserOptions): Promise<void> {
  known(readUsers(state).users, name);
  const verifier = await makeVerifier(name, passwordFile);
  await changeUsers(state, async (users) => void users.set(name, { ...known(users, name), ...verifier }));
}

async function access(name: string, { state, share = [] }: UserOptions): Promise<void> {
  const shares = parseShares(share);
  await changeUsers(state, async (users) => void users.set(name, { ...known(users, name), shares }));
}

async function remove(name: string, { state }: UserOptions): Promise<void> {
  await changeUsers(state, async (users) => {
    known(users, name);
    users.delete(name);
  });
}

function list({ state, json }: UserOptions): void {
  const users = [...readUsers(state).users.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  const rows = users.map(({ name, shares }) => ({ name, shares: Object.fromEntries(shares) }));
  if (json === true) {
    process.stdout.write(`${JSON.stringify(rows)}\n`);
    return;
  }
  const width = Math.max(...rows.map(({ name }) => name.length), 0);
  for (const { name, shares } of rows) {
    const text = Object.entries(shares).map(([share, level]) => `${printable(share)}=${level}`);
    process.stdout.write(`${name.padEnd(width)}  ${text.join(" ")}\n`);
  }
  if (rows.length === 0) process.stdout.write("there are no users\n");
}

function known(users: ReadonlyMap<string, User>, name: string): User {
  const user = users.get(name);
  if (user !== undefined) return user;
  throw failure(Exit.USAGE, `there is no user '${printable(name)}' here; see 'netdrive user list'`);
}

async function makeVerifier(name: string, file: string | undefined) {
  const password = await readNewPassword(name, file);
  const salt = randomBytes(SALT_BYTES);
  const { storedKey, serverKey } = await scramKeys(password, salt, ITERATIONS);
  return { salt, iterations: ITERATIONS, storedKey, serverKey };
}

function parseShares(texts: readonly string[]): Map<string, Access> {
  const shares = new Map<string, Access>();
  for (const text of texts) {
    const [, name = "", level] = /^(.+)=(ro|rw)$/s.exec(text) ?? [];
    if (name !== OTHER_SHARES && !isShareName(name)) {
      throw failure(Exit.USAGE, `--share '${printable(text)}' is no NAME=ro or NAME=rw; write it as --share films=ro`);
    }
    shares.set(name, level as Access);
  }
  return shares;
}
