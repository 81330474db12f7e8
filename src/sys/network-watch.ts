/**
 * Word from the kernel that this machine's network has changed.
 *
 * What has changed is not told in detail: see native/network-watch.cc. Nothing of it keeps the process alive.
 */
import { errnoName } from "../base/errno.ts";
import { FsError } from "../base/errors.ts";
import { loadAddon } from "./addon.ts";

/** Bits of the addon. */
const INTERFACES = 1;
const ROUTES = 2;

interface Native {
  networkWatch(receiver: object, onChange: (kinds: number) => void): object | number;
  networkUnwatch(watch: object): void;
}

/** Of what was said at once. */
export interface NetworkChange {
  /** Something about links or their addresses, perhaps nothing that matters. */
  readonly hasInterfaces: boolean;
  /** A route has come or gone. */
  readonly hasRoutes: boolean;
}

export class NetworkWatch {
  readonly #native = loadAddon<Native>();
  readonly #watch: object;

  /** `changed` may not throw. @throws FsError the kernel does not tell this process. */
  constructor(changed: (change: NetworkChange) => void) {
    const watch = this.#native.networkWatch(this, (kinds) =>
      changed({ hasInterfaces: (kinds & INTERFACES) !== 0, hasRoutes: (kinds & ROUTES) !== 0 }),
    );
    if (typeof watch === "number") throw new FsError(errnoName(-watch), "netlink");
    this.#watch = watch;
  }

  /** Nothing is told from now on. */
  close(): void {
    this.#native.networkUnwatch(this.#watch);
  }
}
