/** What replies mean to callers: the plain ones, which need nothing but the reply. */
import { CloseCode, ProtocolError } from "../base/errors.ts";
import { type Attr, S_IFDIR, S_IFMT } from "../vfs/attr.ts";
import type { Entry, NodeId, RequestContext } from "../vfs/file-system.ts";
import type { Reply } from "../wire/messages.ts";
import type { Fields, Result } from "./call.ts";

export function nothing(): void {
  // The reply says all by its status.
}

export function asEntry(reply: Fields): Entry {
  const { id, attr } = reply as unknown as Reply<"lookup">;
  return { id, attr };
}

export function asAttr(reply: Fields): Attr {
  return reply["attr"] as Attr;
}

export function asPayload(_reply: Fields, payload: Buffer): Buffer {
  return payload;
}

/** A result that also says what became of the directory whose names were changed, where the reply does. */
export function tellingDirectory<T>(ctx: RequestContext, parent: NodeId, result: Result<T>): Result<T> {
  return (reply, content, handle) => {
    const directory = reply["directory"] as Attr | undefined;
    if (directory !== undefined && (directory.mode & S_IFMT) === S_IFDIR) ctx.directoryChanged?.(parent, directory);
    return result(reply, content, handle);
  };
}

export function nonsense(what: string): ProtocolError {
  return new ProtocolError(CloseCode.MALFORMED, what);
}
