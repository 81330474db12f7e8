/**
 * The command tree: what there is, what each takes, and one way to fail.
 */
import { readFileSync } from "node:fs";
import { inspect } from "node:util";
import { Command, CommanderError, Option } from "commander";
import { LOG_LEVELS } from "../base/log.ts";
import { Exit, explain, failure } from "./failure.ts";
import { addHandle } from "./handle.ts";
import { addList } from "./list.ts";
import { addMount } from "./mount.ts";
import { addServe } from "./serve.ts";
import { addStatus } from "./status.ts";
import { addUmount } from "./umount.ts";
import { addUp } from "./up.ts";
import { addUser } from "./user.ts";

const EXAMPLES = `
Examples:
  netdrive up ~/photos ./drive           serve a directory and mount it here, until Ctrl-C
  netdrive serve ~/photos                serve it; prints the URL to mount
  netdrive mount netdrive://TOKEN@HOST:7378/photos ./drive
  netdrive user add anna --state DIR     let somebody log in with a password
  netdrive status                        what the drives are doing
  netdrive umount ./drive

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 server not reached, 4 server refused, 5 wrong path, 6 not possible on
this system or for this user, 7 address not to be had, 8 the server is not known to be the one.`;

function createProgram(): Command {
  const { version } = JSON.parse(readFileSync(new URL("../../../package.json", import.meta.url), "utf8")) as {
    version: string;
  };
  const program = new Command("netdrive")
    .description("A network drive: serve a directory on one machine, mount it on another.")
    .version(version)
    .addOption(new Option("--log-level <level>", "what is logged, on standard error").choices(LOG_LEVELS))
    .addHelpText("after", EXAMPLES)
    .exitOverride()
    // Errors are printed once, by runCommand.
    .configureOutput({ outputError: () => {} })
    .action((_options, command: Command) => {
      const [word] = command.args;
      throw failure(Exit.USAGE, word === undefined ? "no command given" : `unknown command '${word}'`);
    })
    .allowExcessArguments();
  for (const add of [addServe, addMount, addUmount, addUp, addList, addStatus, addHandle, addUser]) add(program);
  for (const command of program.commands) command.allowExcessArguments(false);
  return program;
}

/** Runs the command with `args` (without node and script) and returns its exit code. Prints a failure; never rejects. */
export async function runCommand(args: readonly string[]): Promise<number> {
  const program = createProgram();
  try {
    await program.parseAsync(args, { from: "user" });
    return process.exitCode === undefined ? Exit.OK : Number(process.exitCode);
  } catch (thrown) {
    // Help and version were asked for, and are printed.
    if (thrown instanceof CommanderError && thrown.exitCode === 0) return Exit.OK;
    const { exit, text } = explainUsage(thrown, args) ?? explain(thrown);
    process.stderr.write(`netdrive: ${text}\n`);
    if (program.opts<{ logLevel?: string }>().logLevel === "debug") process.stderr.write(`${inspect(thrown)}\n`);
    return exit;
  }
}

/** The option parser's own errors, with the help that says more. */
function explainUsage(thrown: unknown, args: readonly string[]): { exit: Exit; text: string } | undefined {
  if (!(thrown instanceof CommanderError)) return undefined;
  const isUsage = thrown.code.startsWith("commander.") || thrown.exitCode === Exit.USAGE;
  if (!isUsage) return undefined;
  const text =
    thrown.message
      .replace(/^error: /, "")
      .split("\n", 1)[0]
      ?.replace(/\.$/, "") ?? "";
  if (text.includes(";")) return { exit: Exit.USAGE, text };
  const command = args.find((arg) => /^(serve|mount|umount|up|list|status|handle|user)$/.test(arg));
  return { exit: Exit.USAGE, text: `${text}; see 'netdrive ${command === undefined ? "" : `${command} `}--help'` };
}
