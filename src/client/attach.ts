/**
 * Attaching to an open that somebody else has: by its resume key, its key and its challenge, which he handed over.
 *
 * Nothing of it is kept in a cache here: he may write to it at any time.
 */
import { randomBytes } from "node:crypto";
import { CloseCode, FsError, ProtocolError } from "../base/errors.ts";
import { PROOF_BYTES, proofsEqual } from "../resume/proof.ts";
import { attachedProof, attachProof } from "../resume/resume-proof.ts";
import type { Attr } from "../vfs/attr.ts";
import type { HandleId, NodeId, OpenFlags, RequestContext } from "../vfs/file-system.ts";
import { type Message, messages } from "../wire/codec.ts";
import type { CallName, Reply, Request } from "../wire/messages.ts";
import type { RemoteOpens } from "./open-table.ts";
import type { SessionChannels } from "./session-channels.ts";

/** What is handed over for one open. */
export interface OpenTicket {
  readonly resumeKey: Buffer;
  /** Of the open. */
  readonly key: Buffer;
  readonly challenge: Buffer;
}

export interface Attached {
  readonly handle: HandleId;
  readonly id: NodeId;
  readonly attr: Attr;
  /** As it was opened. */
  readonly flags: OpenFlags;
}

/** @throws FsError ESTALE the ticket is not good, or not any more. */
export async function attachOpen(
  channels: SessionChannels,
  opens: RemoteOpens,
  ctx: RequestContext,
  ticket: OpenTicket,
): Promise<Attached> {
  for (;;) {
    const { transcript } = channels.agreement;
    try {
      return await attachBy(channels, opens, ctx, ticket);
    } catch (error) {
      // A proof is worth nothing on a connection that took the place of the one it was made for.
      const isMoved = channels.agreement.transcript !== transcript;
      if (!isMoved || !(error instanceof FsError) || error.errno !== "ESTALE") throw error;
    }
  }
}

function attachBy(
  channels: SessionChannels,
  opens: RemoteOpens,
  ctx: RequestContext,
  { resumeKey, key, challenge }: OpenTicket,
): Promise<Attached> {
  const { transcript } = channels.agreement;
  const clientNonce = randomBytes(PROOF_BYTES);
  const proof = attachProof(key, { transcript, challenge, clientNonce, resumeKey });
  const fields: Request<"attach"> = { resumeKey, clientNonce, proof };
  const message = messages.attach as unknown as Message<CallName>;
  return channels.call({ message, fields, signal: ctx.signal }, (reply, _payload, handle) => {
    const { id, attr, flags, openId, challenge: next, proof: theirs } = reply as unknown as Reply<"attach">;
    if (!proofsEqual(attachedProof(key, transcript, clientNonce, next), theirs)) {
      throw new ProtocolError(CloseCode.AUTHENTICATION, "attach: the server does not know the open's key");
    }
    const keys = { openId, resumeKey, serviceBlob: Buffer.alloc(0), challenge: next };
    const open = opens.add({ kind: "file", node: id, handle, flags, caller: ctx.caller, keys, attachedBy: key });
    return { handle: open.id, id, attr, flags };
  });
}
