/**
 * Brings opens back after their channel was lost: shows their keys in batches, and says what became of each.
 */
import { ConnectionError, FsError } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { openKey, resumeProof } from "../resume/resume-proof.ts";
import type { NodeId } from "../vfs/file-system.ts";
import { type Message, messages } from "../wire/codec.ts";
import { RESUME_ITEMS_MAX } from "../wire/limits.ts";
import type { CallName, Reply, Request } from "../wire/messages.ts";
import type { ResumeResult } from "../wire/resume-fields.ts";
import { PromisedCall, type Result } from "./call.ts";
import type { CallChannel } from "./call-channel.ts";
import type { Walker } from "./node-names.ts";
import type { RemoteOpen } from "./remote-open.ts";
import { asEntry } from "./results.ts";
import type { Agreement } from "./set-up.ts";

/** Who keeps the opens. */
export interface OpenTable {
  /** Everything that is open. */
  readonly all: Iterable<RemoteOpen>;
  /** A file is as it was, or was changed by others. */
  resumed(open: RemoteOpen, result: ResumeResult): void;
  /** Somebody else has changed a file through an open that he has a handle of, too. */
  changed(node: NodeId): void;
  /** Others need a file, and the server wants its leases back. */
  leaseBreak(notice: Request<"leaseBreak">): void;
  /** The server has it no more. */
  gone(open: RemoteOpen): void;
  /** Makes the server know the node again, without waiting for any call that waits for the session. @returns false: it is not where it was. */
  findNode(node: NodeId, walker: Walker): Promise<boolean>;
  /**
   * The server has no handle of this kind any more but those that were made in `present`, and may give their numbers to others: nothing is to be released
   * under them.
   */
  handlesLost(kind: RemoteOpen["kind"], present: string): void;
  /** A handle came for a caller who had given up, in the session and start of the server `place`. */
  drop(handle: number, kind: RemoteOpen["kind"], place: string): void;
}

/** Shows the keys of all files that are open. Settles when each is resumed, or known to be gone. @throws ConnectionError the connection was lost again. */
export async function showOpens(control: CallChannel, opens: OpenTable, agreement: Agreement): Promise<void> {
  const files = [...opens.all].filter(({ kind, isGone }) => kind === "file" && !isGone);
  const batches: RemoteOpen[][] = [];
  for (let at = 0; at < files.length; at += RESUME_ITEMS_MAX) batches.push(files.slice(at, at + RESUME_ITEMS_MAX));
  await Promise.all(batches.map((batch) => resumeBatch(control, opens, batch, agreement)));
}

/**
 * Settles when everything that is open is resumed, or known to be gone.
 *
 * @param session.shown  of `showOpens`; undefined: the server has forgotten the old session, and files are gone.
 * @param session.before  session and start of the server that everything was resumed in last; another one than `present` has no open directory any more.
 * @throws ConnectionError the connection was lost again.
 */
export async function resumeOpens(
  control: CallChannel,
  opens: OpenTable,
  session: { shown: Promise<void> | undefined; before: string; present: string; log: Log },
): Promise<void> {
  const { shown, before, present, log } = session;
  const isNewSession = shown === undefined;
  const all = [...opens.all].filter(({ isGone }) => !isGone);
  const files = all.filter(({ kind }) => kind === "file");
  const directories = all.filter(({ kind }) => kind === "directory");
  if (before !== present) opens.handlesLost("directory", present);
  if (isNewSession) opens.handlesLost("file", present);
  if (isNewSession) for (const open of files) opens.gone(open);
  else await shown;
  const lost = directories.filter(({ reopenedIn = before }) => reopenedIn !== present);
  await Promise.all(lost.map((open) => openAgain(control, opens, open, present)));
  const gone = files.filter(({ isGone }) => isGone).length;
  if (gone > 0) log.error(`${gone} of ${files.length} open files are gone: the server has given them up`);
}

async function resumeBatch(
  control: CallChannel,
  opens: OpenTable,
  batch: readonly RemoteOpen[],
  { sessionKey, transcript }: Agreement,
): Promise<void> {
  const shown = batch.filter(({ keys }) => keys !== undefined);
  if (shown.length === 0) return;
  const items = shown.map(({ keys, attachedBy }) => {
    const { openId, resumeKey } = keys as NonNullable<typeof keys>;
    return { resumeKey, proof: resumeProof(attachedBy ?? openKey(sessionKey, openId), transcript, resumeKey) };
  });
  const { results } = await call(control, "resume", { items }, (reply) => reply as unknown as Reply<"resume">);
  for (const [index, open] of shown.entries()) {
    const result = results[index];
    if (result === undefined || result.verdict === "gone") opens.gone(open);
    else opens.resumed(open, result);
  }
}

/** A directory stays where it was read to: its cookies are the disk's. */
async function openAgain(control: CallChannel, opens: OpenTable, open: RemoteOpen, present: string): Promise<void> {
  const { caller, node } = open;
  const opendir = () => call(control, "opendir", { caller, id: node }, (_reply, _payload, handle) => handle);
  const walker: Walker = {
    root: () => call(control, "root", { caller }, asEntry),
    lookup: (parent, name) => call(control, "lookup", { caller, parent, name }, asEntry),
  };
  try {
    open.handle = await opendir().catch(async (error: unknown) => {
      // A server that has just started knows no nodes.
      const isStale = error instanceof FsError && error.errno === "ESTALE";
      if (!isStale || !(await opens.findNode(node, walker))) throw error;
      return opendir();
    });
    open.reopenedIn = present;
  } catch (error) {
    if (error instanceof ConnectionError) throw error;
    opens.gone(open);
  }
}

/** A call that is sent before all others, and fails with the connection. */
function call<T>(control: CallChannel, name: CallName, fields: object, result: Result<T>): Promise<T> {
  const message = messages[name] as unknown as Message<CallName>;
  const parts = { message, fields: fields as Record<string, unknown>, isImpatient: true, isOfResuming: true };
  return new Promise((resolve, reject) => control.begin(new PromisedCall(parts, result, resolve, reject)));
}
