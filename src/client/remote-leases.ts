/**
 * Leases on the client: what comes with opens, what the server wants back, and when it has it.
 *
 * What is asked back is not believed any more from that moment on. It is given back when those who cache the file have sent what was unsent and forgotten the rest. A lease
 * that was asked back and not given when the link was lost is asked for again.
 */
import { CloseCode, ProtocolError } from "../base/errors.ts";
import type { NodeId } from "../vfs/file-system.ts";
import { Lease } from "../vfs/lease.ts";
import type { Request } from "../wire/messages.ts";
import type { RemoteOpen } from "./remote-open.ts";

/** What may be asked back and not given yet; more than a client has open is nonsense. */
const BREAKS_MAX = 65_536;

/** What is leased, by kind. */
export interface LeaseFigures {
  readonly read: number;
  readonly write: number;
}

export class RemoteLeases {
  readonly #all: () => Iterable<RemoteOpen>;
  readonly #giveBack: (breakId: number) => void;
  readonly #underWay = new Set<number>();

  /** `all` are the opens there are; `giveBack` tells the server. */
  constructor(all: () => Iterable<RemoteOpen>, giveBack: (breakId: number) => void) {
    this.#all = all;
    this.#giveBack = giveBack;
  }

  get figures(): LeaseFigures {
    const figures = { read: 0, write: 0 };
    for (const { lease } of this.#all()) {
      if (lease === Lease.READ) figures.read += 1;
      else if (lease === Lease.WRITE) figures.write += 1;
    }
    return figures;
  }

  /**
   * The server wants leases of a node back; `settle` makes that so.
   *
   * @throws ProtocolError it asks for more than there can be.
   */
  break({ breakId, id, lease }: Request<"leaseBreak">, settle: (node: NodeId, remains: Lease) => Promise<void>): void {
    for (const open of this.#all()) if (open.node === id && open.lease > lease) open.lease = lease;
    // It is told again, on another connection: it will be given back on that.
    if (this.#underWay.has(breakId)) return;
    if (this.#underWay.size >= BREAKS_MAX) throw new ProtocolError(CloseCode.STATE, "leaseBreak: of too many files");
    this.#underWay.add(breakId);
    const settled = () => {
      this.#underWay.delete(breakId);
      this.#giveBack(breakId);
    };
    settle(id, lease).then(settled, settled);
  }
}
