/**
 * The conformance suite over remote(disk) through a loopback socket.
 */
import { startServedDisk } from "./served-disk.ts";
import { conformance } from "./suite.ts";

conformance("remote(disk) over a socket", () => startServedDisk("socket"));
