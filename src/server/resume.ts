/**
 * `resume`: a client that was away shows the keys of its opens, and learns what became of each.
 *
 * A key that is not one of this server's, is of another session, or comes with a proof that is not made with the open's key for this very channel, is
 * answered like an open that is gone, counted and logged: whoever asks learns nothing from it.
 */
import { proofsEqual } from "../resume/proof.ts";
import { resumeProof } from "../resume/resume-proof.ts";
import { Lease } from "../vfs/lease.ts";
import type { ResumeItem, ResumeResult } from "../wire/resume-fields.ts";
import type { ServedRequest } from "./served-request.ts";
import type { ServerState } from "./state.ts";

const CHALLENGE_BYTES = 16;
const GONE: ResumeResult = {
  verdict: "gone",
  handle: 0,
  lease: Lease.NONE,
  challenge: Buffer.alloc(CHALLENGE_BYTES),
  changedBy: "",
  ranges: [],
};

/** The opens behind the keys, in the order of `items`. */
export function resumeOpens(
  state: ServerState,
  ctx: ServedRequest,
  items: readonly ResumeItem[],
): Promise<ResumeResult[]> {
  return Promise.all(items.map((item) => resumeOpen(state, ctx, item)));
}

async function resumeOpen(state: ServerState, ctx: ServedRequest, item: ResumeItem): Promise<ResumeResult> {
  const content = state.unseal(item.resumeKey);
  const found = content === undefined ? undefined : ctx.session.findOpen(content.openId);
  if (found === undefined) {
    // Closed meanwhile, or never of this session.
    if (content === undefined) state.blame(`${ctx.channel.peer}: a resume key that is none`);
    return GONE;
  }
  const { open, handle } = found;
  if (!proofsEqual(resumeProof(open.key, ctx.connection.transcript, item.resumeKey), item.proof)) {
    state.blame(`${ctx.channel.peer}: a wrong proof for a resume key`);
    return GONE;
  }
  await ctx.session.absences.compare(open);
  const changes = ctx.session.absences.verdict(open);
  return {
    verdict: changes === undefined ? "unchanged" : "changed",
    handle,
    lease: open.owner === ctx.session ? ctx.session.share.leases.toldOf(open) : Lease.NONE,
    challenge: state.challengeFor(open),
    changedBy: changes?.by ?? "",
    ranges: changes?.ranges ?? [],
  };
}
