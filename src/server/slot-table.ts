/**
 * The slots of one channel of a session: which request is in each, and the reply to the last one that must not run twice.
 *
 * It outlives the connections that carry the channel, as the slot table of an NFSv4.1 session does. A client that comes back sends again what it has
 * no answer to, under the same tags: a request that has ended is answered with the reply kept, one that still runs is answered on the new
 * connection, anything else is new. What is kept is bounded by the slots: the next request in a slot says that its last reply has arrived.
 *
 * INVARIANT: a slot holds at most one request; a kept reply is of the slot's latest turn and of a request with replay "once".
 */
import { CloseCode, ProtocolError } from "../base/errors.ts";
import type { NodeId } from "../vfs/file-system.ts";
import type { FrameHeader } from "../wire/frame.ts";
import type { Request } from "../wire/messages.ts";
import type { ServedRequest } from "./served-request.ts";
import type { Appended } from "./state/intents.ts";

const SLOT_MASK = 0xffff;
const TURN_SHIFT = 16;
const NO_TURN = -1;

/** The reply to a request that changes something, without payload. */
export interface KeptReply {
  readonly opcode: number;
  /** Of the request; 0 with a handle made. */
  readonly handle: number;
  readonly section: number;
  /** The handle made, 0 if none was. */
  readonly made: number;
  /** 0, or an errno number. */
  readonly status: number;
  /** Fields of the reply; undefined with a status. */
  readonly answer: Record<string, unknown> | undefined;
}

export interface Slot {
  /** Of the last request that came whole; NO_TURN before the first. */
  turn: number;
  /** The request being received or run. */
  request: ServedRequest | undefined;
  kept: KeptReply | undefined;
  /** The state store has a record of it. */
  isStored: boolean;
  /** Where the data may be already that the request of this turn was appending when the server before died. */
  appended: Appended | undefined;
}

/** Something of a session that ends with it. */
export interface SessionChannel {
  /** Ends the channel; it leaves the session by `removeChannel`. */
  close(code: number, text: string): void;
}

/** About a lock it waits for, a file that another holder of one of its opens has changed, a lease that is to be given back. */
export type ServerNotice = "lockReady" | "changed" | "leaseBreak";

/** The connection that carries the channel at the moment. */
export interface Carrier {
  /** Tells the client what is no reply. */
  notify<N extends ServerNotice>(name: N, notice: Request<N>): void;
  /** Ends it at once: another one has taken its place. */
  supersede(): void;
}

export class SlotTable {
  /** 0: the control channel's. */
  readonly number: number;
  readonly #slots: readonly Slot[];
  carrier: Carrier | undefined;
  /** Requests that run, also those no slot knows any more. */
  running = 0;
  /** INVARIANT: slots with a write in them. */
  #writeCount = 0;

  constructor(number: number, credits: number) {
    this.number = number;
    this.#slots = Array.from({ length: credits }, () => ({
      turn: NO_TURN,
      request: undefined,
      kept: undefined,
      isStored: false,
      appended: undefined,
    }));
  }

  get credits(): number {
    return this.#slots.length;
  }

  get slots(): readonly Slot[] {
    return this.#slots;
  }

  /** @throws ProtocolError LIMIT beyond the credits. */
  slotOf(tag: number): Slot {
    const slot = this.#slots[tag & SLOT_MASK];
    if (slot === undefined) throw new ProtocolError(CloseCode.LIMIT, `tag ${tag}: beyond the credits`);
    return slot;
  }

  /** The request with this tag, if it runs. */
  find(tag: number): ServedRequest | undefined {
    const request = this.#slots[tag & SLOT_MASK]?.request;
    return request?.tag === tag ? request : undefined;
  }

  /** Whether the last request of the slot had this tag. */
  isLast(slot: Slot, tag: number): boolean {
    return slot.turn === tag >>> TURN_SHIFT;
  }

  /** Writes to `node` that came and have not ended. */
  writesTo(node: NodeId): ServedRequest[] {
    const writes: ServedRequest[] = [];
    if (this.#writeCount === 0) return writes;
    for (const { request } of this.#slots) {
      if (request !== undefined && isWrite(request) && request.open?.node === node) writes.push(request);
    }
    return writes;
  }

  /** A request is being received into its slot. */
  enter(slot: Slot, request: ServedRequest): void {
    slot.request = request;
    if (isWrite(request)) this.#writeCount += 1;
  }

  /** The request is here whole, and runs: what was kept in its slot is not needed any more. */
  begin(request: ServedRequest): void {
    const slot = this.slotOf(request.tag);
    if (this.isLast(slot, request.tag)) request.appended = slot.appended;
    slot.turn = request.tag >>> TURN_SHIFT;
    slot.kept = undefined;
    slot.appended = undefined;
    this.running += 1;
  }

  /** The request's reply is known. Only what must not run twice is kept. */
  keep(request: ServedRequest, reply: KeptReply): void {
    const slot = this.slotOf(request.tag);
    if (slot.request === request && request.message.row.replay === "once") slot.kept = reply;
  }

  /** The slot forgets its request, which is not wanted any more but may still run. */
  orphan(slot: Slot): void {
    if (slot.request === undefined) return;
    slot.request.isOrphan = true;
    this.#empty(slot, slot.request);
  }

  /** The request has left its slot. */
  leave(request: ServedRequest): void {
    const slot = this.#slots[request.tag & SLOT_MASK];
    if (slot?.request === request) this.#empty(slot, request);
  }

  #empty(slot: Slot, request: ServedRequest): void {
    slot.request = undefined;
    if (isWrite(request)) this.#writeCount -= 1;
  }
}

function isWrite(request: ServedRequest): boolean {
  return request.message.name === "write";
}

/** Whether a request sent again is the one the reply was kept for. */
export function isReplyTo(kept: KeptReply, header: FrameHeader): boolean {
  return kept.opcode === header.opcode && kept.handle === header.handle && kept.section === header.section;
}
