/**
 * This machine's network, as far as it changes: what could not be reached may be now, and what could be may not.
 *
 * The only one who decides how that is noticed: by word of the kernel, and where it does not give any (in some sandboxes) by looking at the
 * interfaces now and then. A burst of changes is told once when an interface can be used, or not any more, and once at its end. Whether a peer is there, it does not know.
 */
import { networkInterfaces } from "node:os";
import type { Clock, Timer } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import { type NetworkChange, NetworkWatch } from "../sys/network-watch.ts";

export interface Network {
  /** Calls `changed`, which may not throw, after each change until it is stopped. */
  onChange(changed: () => void): Timer;
}

/** How the machine tells. For tests. */
export interface NetworkSource {
  /** What a look at the interfaces says; another text when an address has come or gone. */
  look(): string;
  /** @throws FsError it does not tell. */
  watch(changed: (change: NetworkChange) => void): { close(): void };
}

/** Between two looks, where the kernel does not tell. */
const LOOK_MS = 500;
/** Changes that follow each other sooner are told together. */
const BURST_MS = 100;

const machine: NetworkSource = {
  // Interfaces that are down or not in use yet are not among them.
  look: () =>
    Object.entries(networkInterfaces())
      .flatMap(([name, addresses]) => (addresses ?? []).map(({ address }) => `${name} ${address}`))
      .join("\n"),
  watch: (changed) => new NetworkWatch(changed),
};

/** The network of the machine; watched while anybody wants to know. */
export class SystemNetwork implements Network {
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #source: NetworkSource;
  readonly #listeners = new Set<() => void>();
  #watch: { close(): void } | undefined;
  #looking: Timer | undefined;
  #seen = "";
  /** Runs while a change that follows would belong to the same burst. */
  #burst: Timer | undefined;
  #isTold = false;
  #isDue = false;

  constructor(options: { clock: Clock; log: Log; source?: NetworkSource }) {
    this.#clock = options.clock;
    this.#log = options.log;
    this.#source = options.source ?? machine;
  }

  onChange(changed: () => void): Timer {
    // Of its own, so that one that is there twice is told twice.
    const listener = () => changed();
    this.#listeners.add(listener);
    if (this.#listeners.size === 1) this.#open();
    return {
      stop: () => {
        if (this.#listeners.delete(listener) && this.#listeners.size === 0) this.#close();
      },
    };
  }

  #open(): void {
    try {
      // Before the first look, so that nothing falls between them.
      this.#watch = this.#source.watch((change) => this.#told(change));
    } catch (error) {
      this.#log.debug(`the kernel does not tell of changes of the network, so it is looked at: ${error}`);
      this.#looking = this.#clock.every(LOOK_MS, () => this.#told({ hasInterfaces: true, hasRoutes: false }));
    }
    this.#seen = this.#source.look();
  }

  #close(): void {
    this.#watch?.close();
    this.#looking?.stop();
    this.#burst?.stop();
    this.#watch = this.#looking = this.#burst = undefined;
    this.#isTold = this.#isDue = false;
  }

  #told({ hasInterfaces, hasRoutes }: NetworkChange): void {
    const before = this.#seen;
    // The kernel says something of interfaces also when nothing has become of them: a scan for Wi-Fi, a lease that was prolonged.
    if (hasInterfaces) this.#seen = this.#source.look();
    const hasChanged = this.#seen !== before;
    if (!hasChanged && !hasRoutes) return;
    this.#burst ??= this.#clock.after(BURST_MS, () => this.#endBurst());
    // Routes come before their interface sends anything. What is tried as early is lost, and the kernel asks for a neighbour again only after a second.
    if (!hasChanged || this.#isTold) this.#isDue = true;
    else this.#tell();
  }

  #endBurst(): void {
    this.#burst = undefined;
    this.#isTold = false;
    if (!this.#isDue) return;
    this.#burst = this.#clock.after(BURST_MS, () => this.#endBurst());
    this.#tell();
  }

  #tell(): void {
    this.#isTold = true;
    this.#isDue = false;
    for (const listener of [...this.#listeners]) listener();
  }
}
