/**
 * Guests: sessions that a ticket let in, each for one open and nothing else.
 *
 * A challenge lets in one: who comes in by it once more, because the welcome did not reach him, takes the place of the first. It cannot have attached, as
 * that would have used the challenge up. A guest is over when its open is closed.
 */
import { CloseCode } from "../base/errors.ts";
import type { Open } from "./open.ts";
import type { Session } from "./session.ts";

/** What of a guest matters here. */
export type Guest = Pick<Session, "guestOf" | "endSoon" | "endIdle">;

export class Guests {
  /** Each with the challenge it came in by; of the server before: empty. */
  readonly #challenges = new Map<Guest, string>();

  add(guest: Guest, challenge: string): void {
    this.#challenges.set(guest, challenge);
  }

  delete(guest: Guest): void {
    this.#challenges.delete(guest);
  }

  /** Somebody comes in by this challenge of the open. */
  takePlace(open: Open, challenge: string): void {
    for (const [guest, before] of [...this.#challenges]) {
      if (guest.guestOf === open.id && before === challenge) {
        guest.endSoon(CloseCode.AUTHENTICATION, "the ticket was used again");
      }
    }
  }

  /** The open has no handle any more. A guest that is being answered, which may be that it has released the last one, leaves by itself. */
  closed(openId: number): void {
    for (const guest of [...this.#challenges.keys()]) {
      if (guest.guestOf === openId) guest.endIdle(CloseCode.AUTHENTICATION, "the file of the ticket is closed");
    }
  }
}
