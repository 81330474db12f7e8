/** Node ids that are not used any more, told to the server together: those of one turn of the event loop in as few notices as hold them. */
import type { NodeId } from "../vfs/file-system.ts";
import { FORGET_IDS_MAX } from "../wire/limits.ts";

export class ForgetQueue {
  readonly #send: (ids: NodeId[]) => void;
  #ids: NodeId[] = [];
  #isDue = false;

  /** `send`: one notice, of 1..FORGET_IDS_MAX ids. */
  constructor(send: (ids: NodeId[]) => void) {
    this.#send = send;
  }

  add(ids: readonly NodeId[]): void {
    this.#ids.push(...ids);
    if (this.#ids.length >= FORGET_IDS_MAX) this.#flush();
    else if (!this.#isDue) {
      this.#isDue = true;
      process.nextTick(this.#flush);
    }
  }

  readonly #flush = (): void => {
    this.#isDue = false;
    const ids = this.#ids;
    this.#ids = [];
    for (let at = 0; at < ids.length; at += FORGET_IDS_MAX) this.#send(ids.slice(at, at + FORGET_IDS_MAX));
  };
}
