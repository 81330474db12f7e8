/**
 * The conformance suite over cached(remote(disk)) with a link in memory: nobody can tell write-behind and read-ahead except by time.
 */
import { startServedDisk } from "./served-disk.ts";
import { conformance } from "./suite.ts";

conformance("cached(remote(disk)) in memory", () => startServedDisk("memory", { isCached: true }));
