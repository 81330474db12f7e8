/**
 * Requests that were under way when the server before died: which of them were done, and the replies they would have had.
 *
 * Looked at one after the other, before anybody is listened to: what one of them is known to have made is not taken for another's. A request that
 * was done has its reply kept as if it had been known in time. One that was not is forgotten: its client sends it again, and it runs. Data that was being appended is
 * looked for when its client sends it again.
 */
import { type Attr, NO_ATTR } from "../../vfs/attr.ts";
import type { NodeId, RequestContext } from "../../vfs/file-system.ts";
import { messageOf } from "../../wire/codec.ts";
import { Open } from "../open.ts";
import type { Session } from "../session.ts";
import type { KeptReply, Slot } from "../slot-table.ts";
import type { ServerState } from "../state.ts";
import { type Intent, intentRecord, type Outcome, type Place, resolve } from "./intents.ts";
import type { SlotRecord } from "./records.ts";

const OWN_CONTEXT: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
const TURN_SHIFT = 16;

interface Request {
  readonly session: Session;
  readonly table: number;
  /** Its slot, and the slot's number. */
  readonly slot: Slot;
  readonly at: number;
  readonly record: SlotRecord;
  readonly intent: Intent;
}

type Done = Outcome & { t: "done" };

export class Unfinished {
  readonly #state: ServerState;
  readonly #requests: Request[] = [];
  readonly #claims = new Set<string>();

  constructor(state: ServerState) {
    this.#state = state;
  }

  /** A request whose reply is kept: what it did is its own. */
  finished(session: Session, record: SlotRecord, answer: Record<string, unknown>): void {
    const intent = intentRecord.decode(record.intent);
    if (intent !== undefined) this.#claim(session, intent, answer["id"] as NodeId | undefined);
  }

  /** A request without a reply. @returns false: nothing is known of it. */
  add(session: Session, table: number, at: number, slot: Slot, record: SlotRecord): boolean {
    const intent = intentRecord.decode(record.intent);
    if (intent !== undefined) this.#requests.push({ session, table, slot, at, record, intent });
    return intent !== undefined;
  }

  /**
   * Finds out what became of each, after all opens are there again.
   *
   * @returns how many were done; `forget` is told of those that were not.
   */
  async resolve(forget: (session: Session, table: number, at: number) => void): Promise<number> {
    let done = 0;
    for (const request of this.#requests) {
      const { session, intent, slot, record } = request;
      const isClaimed = (at: Place, id: NodeId) => this.#claims.has(claimOf(session, intent.kind, at, id));
      const outcome = await resolve(session.share.fileSystem, intent, isClaimed);
      if (outcome.t === "appended") {
        slot.turn = record.turn;
        slot.appended = outcome.region;
      } else if (outcome.t === "done" && (await this.#finish(request, outcome))) {
        done += 1;
      } else {
        forget(session, request.table, request.at);
      }
    }
    return done;
  }

  /** Keeps the reply of a request that was done. @returns false: it cannot be made; it is to run again. */
  async #finish(request: Request, outcome: Done): Promise<boolean> {
    const { session, table, slot, at, record, intent } = request;
    const { keeper } = this.#state;
    try {
      // The server that did it may not have come to that.
      await keeper?.effects?.sync(session.share.fileSystem, outcome.touched);
    } catch (error) {
      this.#state.log.error("what a request did before the server before died cannot be synced", error);
      return false;
    }
    const answer = await this.#answerOf(request, outcome);
    if (answer === undefined) return false;
    const { opcode, handle, section, turn } = record;
    const made = (answer["handle"] as number | undefined) ?? 0;
    const kept: KeptReply = { opcode, handle, section, made, status: 0, answer };
    slot.turn = turn;
    slot.kept = kept;
    keeper?.replied(session, table, (turn << TURN_SHIFT) | at, kept, record.intent);
    this.#claim(session, intent, outcome.entry?.id);
    return true;
  }

  async #answerOf({ session, record, intent }: Request, { entry, directory }: Done) {
    const { fileSystem } = session.share;
    const changed: Attr | undefined =
      directory === undefined ? undefined : await fileSystem.getattr(OWN_CONTEXT, directory).catch(() => NO_ATTR);
    const names = changed === undefined ? {} : { directory: changed };
    if (messageOf(record.opcode).name !== "create") return { ...entry, ...names } as Record<string, unknown>;
    if (entry === undefined) return undefined;
    const opened = await this.#open(session, entry.id, intent).catch(() => undefined);
    return opened === undefined ? undefined : ({ id: entry.id, ...names, ...opened } as Record<string, unknown>);
  }

  /** The open that a request would have made. */
  async #open(session: Session, node: NodeId, { flags, pid }: Intent): Promise<Record<string, unknown> | undefined> {
    const state = this.#state;
    const { recovery } = session.share.fileSystem;
    if (recovery === undefined) return undefined;
    session.reserveOpen();
    try {
      const { handle: inner, attr } = await recovery.reopen(OWN_CONTEXT, node, flags);
      const openedAtMs = state.clock.realtimeMs();
      const id = state.nextOpenId();
      const open = new Open({ id, owner: session, kind: "file", node, inner, flags, openedAtMs, pid });
      session.share.modes.add(open);
      return { handle: session.opened(open), attr, ...state.keysOf(open), lease: open.lease };
    } catch (error) {
      session.openFailed();
      throw error;
    }
  }

  #claim(session: Session, { kind, at }: Intent, made: NodeId | undefined): void {
    const id = kind === "make" ? made : at.found;
    if (id !== undefined) this.#claims.add(claimOf(session, kind, at, id));
  }
}

/** Who has given a name to a node has not taken it away. */
function claimOf(session: Session, kind: Intent["kind"], { parent, name }: Place, id: NodeId): string {
  return `${session.share.name}\0${kind === "make" ? "made" : "gone"}\0${parent}\0${name}\0${id}`;
}
