/**
 * A line in which work is done one after the other, in the order it was handed in.
 */
export class Turns {
  #last: Promise<unknown> = Promise.resolve();
  #count = 0;

  /** Nothing is done, and nothing waits. */
  get isIdle(): boolean {
    return this.#count === 0;
  }

  /** Does `act` when all that was handed in before is done; settles as it does. Queue: as long as the requests there are. */
  async take<T>(act: () => Promise<T>): Promise<T> {
    this.#count += 1;
    const turn = this.#last.then(act);
    this.#last = turn.catch(() => {}); // Whoever handed it in hears of it.
    try {
      return await turn;
    } finally {
      this.#count -= 1;
    }
  }
}
