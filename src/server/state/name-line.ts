/**
 * A line for each name: requests that must not run twice and are about the same name, or append to the same file, run one after the other, each from its look at
 * what is there until its reply is kept.
 *
 * So what one of them finds there is what others have been answered for, or what was there before the server; never the half of another request, of which
 * nobody could tell after a crash whose it was. Whoever comes waits for all before him, in the order they came: nobody waits in a circle.
 */
import type { ServedRequest } from "../served-request.ts";

export class NameLine {
  /** The last request in each line. */
  readonly #last = new Map<string, ServedRequest>();

  /** Lines with somebody in them. */
  get size(): number {
    return this.#last.size;
  }

  /** Lines up in all lines of the keys until the request ends. @returns when it is its turn; undefined: now. */
  enter(request: ServedRequest, keys: readonly string[]): Promise<unknown> | undefined {
    const before: Promise<void>[] = [];
    for (const key of keys) {
      const last = this.#last.get(key);
      if (last !== undefined && last !== request) before.push(last.ended());
      this.#last.set(key, request);
    }
    request.whenEnded(() => {
      for (const key of keys) if (this.#last.get(key) === request) this.#last.delete(key);
    });
    return before.length === 0 ? undefined : Promise.all(before);
  }
}

/** What a request that must not run twice is about. */
export function linesOf({ message, asked, open }: ServedRequest): string[] {
  const { id, parent, name, newParent, newName } = asked as Record<string, string>;
  if (message.name === "write") return open === undefined ? [] : [open.node];
  if (message.name === "rename") return [`${parent}/${name}`, `${newParent}/${newName}`];
  return message.name === "setxattr" || message.name === "removexattr" ? [`${id}=${name}`] : [`${parent}/${name}`];
}
