/**
 * `attach`: another handle to an open, for whoever was handed its keys; and what a client may do that has come in by a ticket.
 *
 * The proof is over the challenge that was given out last for the open, which is good once, and over the channel. A resume key that is none, an open that is closed or of another
 * share, a challenge that was used and a wrong proof are answered alike, counted and logged: whoever asks learns nothing from it.
 */
import { FsError } from "../base/errors.ts";
import { raceSignal } from "../base/signals.ts";
import { proofsEqual } from "../resume/proof.ts";
import { attachedProof, attachProof } from "../resume/resume-proof.ts";
import { Lease } from "../vfs/lease.ts";
import type { Answer, Asked, CallName } from "../wire/messages.ts";
import type { Open } from "./open.ts";
import type { ServedRequest } from "./served-request.ts";
import type { ServerState } from "./state.ts";

/** What needs no more than a handle of the open. */
const GUEST_CALLS: ReadonlySet<CallName> = new Set([
  ...(["attach", "resume", "queryKey", "release"] as const),
  ...(["read", "write", "flush", "fsync", "lseek", "getattr"] as const),
]);

/** Refuses whatever goes beyond the open that a guest was let in for. @throws FsError EACCES. */
export function checkGuest({ session, message, open, asked }: ServedRequest): void {
  if (session.guestOf === undefined) return;
  const isElsewhere = message.name === "getattr" && (open === undefined || asked["id"] !== open.node);
  if (!GUEST_CALLS.has(message.name) || isElsewhere) throw new FsError("EACCES", message.name);
}

/** @throws FsError ESTALE refused, for whatever reason; EMFILE. */
export async function attachOpen(
  state: ServerState,
  ctx: ServedRequest,
  claim: Asked<"attach">,
): Promise<Answer<"attach">> {
  const { session } = ctx;
  const { transcript } = ctx.connection;
  const open = state.findOpen(claim.resumeKey);
  if (open === undefined || !isAllowed(ctx, open) || !isProven(open, transcript, claim)) {
    state.blame(`${ctx.channel.peer}: refused to attach to an open`);
    throw new FsError("ESTALE", "attach");
  }
  const handle = session.attach(open);
  const challenge = state.challengeFor(open);
  const { key, flags, id: openId, node: id } = open;
  open.beginRequest();
  try {
    // What several clients have open nobody believes anything of.
    const broken = session.share.leases.break(session, id, Lease.NONE);
    if (broken !== undefined) await raceSignal(broken, ctx.signal);
    const attr = await ctx.fs.getattr(ctx, id, open.inner);
    const proof = attachedProof(key, transcript, claim.clientNonce, challenge);
    return { handle, id, attr, flags, openId, challenge, proof };
  } catch (error) {
    session.dropHandle(ctx, handle);
    throw error;
  } finally {
    open.endRequest();
  }
}

function isAllowed({ session }: ServedRequest, open: Open): boolean {
  const isOurs = open.kind === "file" && open.owner.share === session.share;
  return isOurs && (session.guestOf === undefined || session.guestOf === open.id);
}

function isProven(open: Open, transcript: Buffer, { resumeKey, clientNonce, proof }: Asked<"attach">): boolean {
  if (open.challenge === "") return false;
  const challenge = Buffer.from(open.challenge, "latin1");
  return proofsEqual(attachProof(open.key, { transcript, challenge, clientNonce, resumeKey }), proof);
}
