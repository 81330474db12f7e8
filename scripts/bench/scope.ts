/**
 * What must be undone when a bench ends, in the opposite order of how it was done, also after a failure or Ctrl-C.
 *
 * INVARIANT: every step registered is run exactly once; a failing one does not keep the others from running.
 */

type Undo = () => void | Promise<void>;

export class Scope {
  #steps: { what: string; undo: Undo }[] = [];
  #closing: Promise<void> | undefined;

  /** Registers `undo`. Once the scope closes, it runs at once. @returns runs the step early, at most once. */
  defer(what: string, undo: Undo): () => Promise<void> {
    const step = { what, undo };
    this.#steps.push(step);
    const early = async () => {
      const index = this.#steps.indexOf(step);
      if (index < 0) return;
      this.#steps.splice(index, 1);
      await undo();
    };
    // Nothing may be started while everything is being ended.
    if (this.#closing !== undefined) void early().catch((error) => report(what, error));
    return early;
  }

  get closed(): boolean {
    return this.#closing !== undefined;
  }

  /** Undoes everything; a second call waits for the first. */
  close(): Promise<void> {
    this.#closing ??= this.#undoAll();
    return this.#closing;
  }

  async #undoAll(): Promise<void> {
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step.undo();
      } catch (error) {
        report(step.what, error);
      }
    }
  }
}

function report(what: string, error: unknown): void {
  process.stderr.write(`bench: ${what}: ${error instanceof Error ? error.message : String(error)}\n`);
}
