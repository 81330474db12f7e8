/** A network that changes when a test says so. */
import type { Timer } from "../../src/base/clock.ts";
import type { Network } from "../../src/transport/network.ts";

export class FakeNetwork implements Network {
  readonly #listeners = new Set<() => void>();

  /** Who wants to know: 0 at the end of a test that leaves nothing behind. */
  get listenerCount(): number {
    return this.#listeners.size;
  }

  onChange(changed: () => void): Timer {
    const listener = () => changed();
    this.#listeners.add(listener);
    return { stop: () => void this.#listeners.delete(listener) };
  }

  change(): void {
    for (const listener of [...this.#listeners]) listener();
  }
}
