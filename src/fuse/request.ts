/**
 * One request of the kernel while it is served; also the RequestContext the FileSystem gets.
 *
 * Bodies are read straight from the pool, before the handler gives way for the first time: afterwards the slot may hold another
 * request, unless the handler has claimed it.
 */
import type { Timer } from "../base/clock.ts";
import { type CancelSignal, CancelSource } from "../base/signals.ts";
import type { Attr } from "../vfs/attr.ts";
import type { Caller, NodeId, RequestContext } from "../vfs/file-system.ts";
import type { OpcodeRow } from "./abi.ts";
import type { NodeRow } from "./node-table.ts";

export class KernelRequest implements RequestContext {
  readonly row: OpcodeRow;
  /** The kernel's number, even; exact, as it counts up from 2. */
  readonly unique: number;
  readonly node: NodeRow;
  readonly caller: Caller;
  readonly slot: number;
  /** First byte of the body in the pool, and the byte after its end. */
  readonly body: number;
  readonly end: number;
  /** The handler keeps the slot until its reply. */
  claimed = false;
  /** How many were lent its slot, and have not given it back. */
  loans = 0;
  /** It was claimed at some time: it is given back by the reply, or behind it by who was lent it, or was. */
  keptSlot = false;
  replied = false;
  /** Aborts it, if it was interrupted and is not answered before. */
  grace: Timer | undefined;
  /** The present moment in the order of changes when it came. */
  readonly startedAt: number;
  /** Of the directory whose names it has changed, where they came along. */
  directoryAttr: Attr | undefined;
  #aborted = false;
  #source: CancelSource | undefined;

  constructor(parts: {
    row: OpcodeRow;
    unique: number;
    node: NodeRow;
    caller: Caller;
    slot: number;
    body: number;
    end: number;
    startedAt: number;
  }) {
    this.row = parts.row;
    this.unique = parts.unique;
    this.node = parts.node;
    this.caller = parts.caller;
    this.slot = parts.slot;
    this.body = parts.body;
    this.end = parts.end;
    this.startedAt = parts.startedAt;
  }

  get aborted(): boolean {
    return this.#aborted;
  }

  /** Made when first asked for: most requests are answered before anybody does. */
  get signal(): CancelSignal {
    if (this.#source === undefined) {
      this.#source = new CancelSource();
      if (this.#aborted) this.#source.abort();
    }
    return this.#source;
  }

  directoryChanged(id: NodeId, attr: Attr): void {
    if (id === this.node.id) this.directoryAttr = attr;
  }

  /** Nobody wants the answer any more. */
  abort(): void {
    this.#aborted = true;
    this.#source?.abort();
  }
}
