/**
 * How the command fails: one line `netdrive: what is wrong; what to do` on standard error, and an exit code.
 *
 * Commands throw a CommanderError, the class the option parser throws too, made by `failure`; anything else thrown is
 * explained by `explain`. Nothing here prints.
 */
import { CommanderError } from "commander";
import { CloseCode, ConnectionError, FsError, ProtocolError, toErrno } from "../base/errors.ts";
import { printable } from "../base/log.ts";

/** Exit codes; README "Exit codes" explains them. Append only: scripts test for them. */
export const Exit = {
  OK: 0,
  /** Anything without a code of its own, bugs included. */
  FAILED: 1,
  /** The command line, a URL or an option is wrong. */
  USAGE: 2,
  /** The server cannot be reached. */
  UNREACHABLE: 3,
  /** The server was reached and refused: token, user, share, a channel that is not protected. */
  REFUSED: 4,
  /** A local path is not what it must be: missing, no directory, not empty, already mounted, not mounted, in use. */
  PATH: 5,
  /** This system or user cannot do it: no /dev/fuse, no permission, no fusermount3. */
  SYSTEM: 6,
  /** The address to listen on cannot be had. */
  ADDRESS: 7,
  /** Who answers is not known to be the server: another key, no key yet, or a certificate that is not good. */
  UNTRUSTED: 8,
} as const;
export type Exit = (typeof Exit)[keyof typeof Exit];

/** The error that ends the command with `exit` and `text`: "what is wrong; what to do", without full stop. */
export function failure(exit: Exit, text: string): CommanderError {
  return new CommanderError(exit, "netdrive.failure", text);
}

/** The end of a mount that is not wanted any more. */
export const interruptedMount = () => failure(Exit.FAILED, "interrupted; nothing is mounted");

const byCloseCode: Partial<Record<CloseCode, { exit: Exit; text: string }>> = {
  [CloseCode.AUTHENTICATION]: {
    exit: Exit.REFUSED,
    text: "the server refuses the token, or user and password; use the URL that 'netdrive serve' printed",
  },
  [CloseCode.UNKNOWN_SHARE]: {
    exit: Exit.REFUSED,
    text: "the server has no share of this name; 'netdrive serve' prints a URL for each share it has",
  },
  [CloseCode.BUSY]: { exit: Exit.REFUSED, text: "the server takes no more sessions; try again later" },
  [CloseCode.TOO_SLOW]: { exit: Exit.UNREACHABLE, text: "the line to the server is too slow; try again later" },
  [CloseCode.SHUTDOWN]: { exit: Exit.UNREACHABLE, text: "the server is going down; try again later" },
  [CloseCode.VERSION]: {
    exit: Exit.REFUSED,
    text: "client and server speak no common version; bring both to the same version of netdrive",
  },
};

/** What to do about a server that is not the one its key or certificate says. */
const REPLACED =
  "somebody may be in between; if the server has a new key, take the URL it prints now and remove it from the known servers";

/** Line and exit code for anything thrown; total. A bug's stack is in the line's cause, shown with --log-level debug. */
export function explain(thrown: unknown): { exit: Exit; text: string } {
  if (thrown instanceof CommanderError) return { exit: thrown.exitCode as Exit, text: thrown.message };
  if (thrown instanceof ProtocolError) {
    const known = byCloseCode[thrown.closeCode];
    if (known !== undefined) return known;
    if (thrown.closeCode === CloseCode.SECURITY) return { exit: Exit.UNTRUSTED, text: `${line(thrown)}; ${REPLACED}` };
    return { exit: Exit.UNREACHABLE, text: `what answers is no netdrive server, or a broken one: ${line(thrown)}` };
  }
  if (thrown instanceof ConnectionError) {
    if (thrown.cause instanceof ProtocolError && thrown.cause.closeCode === CloseCode.SECURITY) {
      const said = printable(thrown.cause.message);
      return { exit: Exit.REFUSED, text: `the server refuses: ${said}; see --security of mount and serve` };
    }
    // The server said why it closed.
    if (thrown.cause instanceof ProtocolError && byCloseCode[thrown.cause.closeCode]) return explain(thrown.cause);
    const advice = "check host and port, and that 'netdrive serve' runs there";
    return { exit: Exit.UNREACHABLE, text: `${line(thrown)}; ${advice}` };
  }
  if (thrown instanceof FsError) {
    const isDenied = thrown.errno === "EPERM" || thrown.errno === "EACCES";
    return { exit: isDenied ? Exit.SYSTEM : Exit.FAILED, text: line(thrown) };
  }
  if (thrown instanceof Error) {
    const errno = toErrno(thrown);
    return { exit: errno === "EACCES" || errno === "EPERM" ? Exit.SYSTEM : Exit.FAILED, text: line(thrown) };
  }
  return { exit: Exit.FAILED, text: printable(String(thrown)) };
}

const line = (error: Error) => printable(error.message.split("\n", 1)[0] ?? "");
