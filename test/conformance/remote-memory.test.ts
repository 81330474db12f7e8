/**
 * The conformance suite over remote(disk) with a link in memory: what the wire, the server and the client add.
 */
import { startServedDisk } from "./served-disk.ts";
import { conformance } from "./suite.ts";

conformance("remote(disk) in memory", () => startServedDisk("memory"));
