/** What a look at this machine's network interfaces says; another text when an address has come or gone. */
import { networkInterfaces } from "node:os";

export function networkState(): string {
  return Object.entries(networkInterfaces())
    .flatMap(([name, addresses]) => (addresses ?? []).map(({ address }) => `${name} ${address}`))
    .join("\n");
}
