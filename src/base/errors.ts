/**
 * The three error classes of netdrive, and the one mapping of anything thrown to an errno.
 *
 * There are no others: a programmer's mistake is an assertion. Layers let errors pass; `toErrno` is called once, at a boundary
 * (fuse dispatch, server dispatch, cli).
 */
import { type ErrnoName, errnoName, isErrnoName } from "./errno.ts";

/**
 * One request failed in an expected way; the file system goes on.
 *
 * `op` is the system call or operation, `path` a printable name if one is known. It has no stack: that would take four fifths of the time of
 * a failed look-up, and tell less than these. A `cause` keeps its own.
 */
export class FsError extends Error {
  override readonly name = "FsError";
  readonly errno: ErrnoName;
  readonly op: string;
  readonly path: string | undefined;

  constructor(errno: ErrnoName, op: string, path?: string, options?: { cause?: unknown }) {
    const { stackTraceLimit } = Error;
    Error.stackTraceLimit = 0;
    super(path === undefined ? `${errno}: ${op}` : `${errno}: ${op} '${path}'`, options);
    Error.stackTraceLimit = stackTraceLimit;
    this.errno = errno;
    this.op = op;
    this.path = path;
  }
}

/** Why a connection is closed by the side that found the peer breaking the rules. Numbers cross the wire: append only. */
export const CloseCode = {
  /** A frame or message does not have the shape the protocol gives it. */
  MALFORMED: 1,
  /** A length, count or id is beyond the limit that was agreed. */
  LIMIT: 2,
  /** A message that is not allowed in the present state of the channel, or by this side. */
  STATE: 3,
  /** No common version. */
  VERSION: 4,
  /** The proof of identity was wrong. */
  AUTHENTICATION: 5,
  /** The share asked for is not served here. */
  UNKNOWN_SHARE: 6,
  /** The server has no room for this session, channel or open. */
  BUSY: 7,
  /** The server is going down as planned. */
  SHUTDOWN: 8,
  /** The channel is not protected as this side demands, its bytes were harmed, or the other side cannot show that it is who it should be. */
  SECURITY: 9,
  /** The set-up took too long; says nothing about who the peer is. */
  TOO_SLOW: 10,
} as const;
export type CloseCode = (typeof CloseCode)[keyof typeof CloseCode];

/** The peer broke the rules of the protocol: the connection is closed with `closeCode`, others are unharmed. */
export class ProtocolError extends Error {
  override readonly name = "ProtocolError";
  readonly closeCode: CloseCode;

  constructor(closeCode: CloseCode, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.closeCode = closeCode;
  }
}

/** The transport died or never came up. `retryable`: trying again may help, without anyone changing anything. */
export class ConnectionError extends Error {
  override readonly name = "ConnectionError";
  readonly retryable: boolean;

  constructor(message: string, options: { retryable: boolean; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.retryable = options.retryable;
  }
}

/**
 * The errno for anything thrown; total.
 *
 * FsError: its own. An abort: EINTR. ConnectionError: EHOSTDOWN (README "When the link is down"). ProtocolError: EPROTO. An error of Node with a `code`
 * we know: that code. Anything else is a bug and becomes EIO; `onUnexpected` is told, so that it is logged with its stack.
 */
export function toErrno(thrown: unknown, onUnexpected?: (thrown: unknown) => void): ErrnoName {
  if (thrown instanceof FsError) return thrown.errno;
  if (thrown instanceof ConnectionError) return "EHOSTDOWN";
  if (thrown instanceof ProtocolError) return "EPROTO";
  if (thrown instanceof Error) {
    if (thrown.name === "AbortError") return "EINTR";
    const { code, errno } = thrown as NodeJS.ErrnoException;
    if (isErrnoName(code)) return code;
    if (typeof errno === "number" && errno < 0 && code !== undefined) return errnoName(-errno);
  }
  onUnexpected?.(thrown);
  return "EIO";
}
