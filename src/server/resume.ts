/**
 * `resume`: a client that was away shows the keys of its opens, and learns what became of each.
 *
 * A key that is not one of this server's, is of another session, or comes with a proof that is not made with the open's key for this very channel, is
 * answered like an open that is gone, counted and logged: whoever asks learns nothing from it.
 */
import { proofsEqual } from "../resume/proof.ts";
import { resumeProof } from "../resume/resume-proof.ts";
import type { ResumeItem, ResumeResult } from "../wire/resume-fields.ts";
import type { Changes } from "./node-changes.ts";
import type { ServedRequest } from "./served-request.ts";
import type { Open } from "./session.ts";
import type { ServerState } from "./state.ts";

const CHALLENGE_BYTES = 16;
const GONE: ResumeResult = {
  verdict: "gone",
  handle: 0,
  challenge: Buffer.alloc(CHALLENGE_BYTES),
  changedBy: "",
  ranges: [],
};

/** The opens behind the keys, in the order of `items`. */
export async function resumeOpens(
  state: ServerState,
  ctx: ServedRequest,
  items: readonly ResumeItem[],
): Promise<ResumeResult[]> {
  await ctx.session.left();
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
  const changes = await changesOf(ctx, open);
  ctx.session.cameBack(open);
  return {
    verdict: changes === undefined ? "unchanged" : "changed",
    handle,
    challenge: state.challengeFor(open),
    changedBy: changes?.by ?? "",
    ranges: changes?.ranges ?? [],
  };
}

async function changesOf(ctx: ServedRequest, open: Open): Promise<Changes | undefined> {
  const absence = ctx.session.absenceOf(open);
  if (absence === undefined) return undefined;
  const attr = await ctx.fs.getattr(ctx, open.node, open.inner).catch(() => undefined);
  // What cannot be looked at is not known to be as it was.
  return attr === undefined ? { ranges: [], by: "" } : absence.changes(attr);
}
