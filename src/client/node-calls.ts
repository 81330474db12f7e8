/**
 * Calls about nodes: what they are refused for without asking, and what is done when the server does not know a node any more.
 */

import { FsError } from "../base/errors.ts";
import type { NodeId, RequestContext } from "../vfs/file-system.ts";
import { type Message, messages } from "../wire/codec.ts";
import type { CallName, Request } from "../wire/messages.ts";
import { checkId } from "./argument-checks.ts";
import type { CallParts, Result } from "./call.ts";
import { ATTEMPTS_MAX, type NodeNames } from "./node-names.ts";
import type { RemoteOpen } from "./remote-open.ts";
import { asEntry, nothing, tellingDirectory } from "./results.ts";
import type { SessionChannels } from "./session-channels.ts";

/** Parts that are this room's to change: a copy of them for each call costs more than the rest of making it. */
interface OwnParts extends CallParts {
  recover: CallParts["recover"];
}

export class NodeCalls {
  readonly #channels: SessionChannels;
  readonly #names: NodeNames;
  readonly #readOnly: boolean;
  readonly #answerMs: number;

  /** `readOnly`: refuses changes without asking the server. `answerMs`: as for sections, of what waits in line with them. */
  constructor(channels: SessionChannels, names: NodeNames, options: { readOnly: boolean; answerMs: number }) {
    this.#channels = channels;
    this.#names = names;
    this.#readOnly = options.readOnly;
    this.#answerMs = options.answerMs;
  }

  /** One call. @throws FsError EROFS, ESTALE, and the server's; ConnectionError. */
  call<N extends CallName, T>(
    ctx: RequestContext,
    name: N,
    fields: Request<N>,
    result: Result<T>,
    open?: RemoteOpen,
    payload?: Buffer,
  ): Promise<T> {
    const { id, parent, newParent } = fields as { id?: NodeId; parent?: NodeId; newParent?: NodeId };
    for (const node of [id, parent, newParent]) if (node !== undefined) checkId(name, node);
    const message = messages[name] as unknown as Message<CallName>;
    if (this.#readOnly && message.row.changes === true) return Promise.reject(new FsError("EROFS", name));
    const { signal, priority, followsWrites, isImpatient } = ctx;
    const recover = undefined;
    const patienceMs = this.#answerMs;
    const parts = { message, fields, open, payload, signal, priority, followsWrites, isImpatient, recover, patienceMs };
    const told =
      parent === undefined || ctx.directoryChanged === undefined ? result : tellingDirectory(ctx, parent, result);
    return this.#recovering(ctx, parts, told);
  }

  /** A call that is made once more when the server did not know a node of it, and has been told where that is. */
  #recovering<T>(ctx: RequestContext, parts: OwnParts, result: Result<T>, attempts = ATTEMPTS_MAX): Promise<T> {
    const recover = async () => {
      if (!(await this.#findAgain(ctx, parts.fields))) throw new FsError("ESTALE", parts.message.name);
      return this.#recovering(ctx, parts, result, attempts - 1);
    };
    parts.recover = attempts === 0 ? undefined : recover;
    return this.#channels.call(parts, result);
  }

  /** Makes the server know the nodes of a request again. @returns false if one of them is stale indeed. */
  #findAgain({ caller, signal }: RequestContext, fields: object): Promise<boolean> {
    const { id, parent, newParent } = fields as { id?: NodeId; parent?: NodeId; newParent?: NodeId };
    const ask = (name: CallName, more: object) => {
      const message = messages[name] as unknown as Message<CallName>;
      return this.#channels.call({ message, fields: { caller, ...more }, signal }, asEntry);
    };
    const nodes = [id, parent, newParent].filter((node) => node !== undefined);
    return this.#names.find(nodes, {
      root: () => ask("root", {}),
      lookup: (directory, name) => ask("lookup", { parent: directory, name }),
    });
  }

  /** Gives a handle back. `isUnhurried`: nobody waits for that. @throws as `call`. */
  release({ caller }: RequestContext, open: RemoteOpen, isUnhurried: boolean): Promise<void> {
    const message = messages.release as unknown as Message<CallName>;
    return this.#channels.call({ message, fields: { caller }, open, isUnhurried }, nothing);
  }

  /** A call whose reply has a payload of its own. */
  fetch<N extends CallName, T>(
    ctx: RequestContext,
    name: N,
    fields: Request<N>,
    replyBytesMax: number,
    result: Result<T>,
    open?: RemoteOpen,
  ): Promise<T> {
    const message = messages[name] as unknown as Message<CallName>;
    const parts = { message, fields, open, replyBytesMax, signal: ctx.signal, recover: undefined };
    return this.#recovering(ctx, parts, result);
  }
}
