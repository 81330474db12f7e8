/**
 * A program for a network namespace of its own (unshare --net): changes its network, and prints what the kernel said, a word for each thing done.
 *
 * It ends by itself while it still watches: that keeps no process alive.
 */
import { execFileSync } from "node:child_process";
import { systemClock } from "../../src/base/clock.ts";
import { type NetworkChange, NetworkWatch } from "../../src/sys/network-watch.ts";

/** After this nothing more is said of what was done. */
const SILENCE_MS = 200;
/** More than the kernel keeps for a socket that is not read. */
const FLOOD = 5000;

let changes: NetworkChange[] = [];
const watch = new NetworkWatch((change) => void changes.push(change));

const ip = (line: string, input = "") => void execFileSync("ip", line.split(" "), { input });

/** Does it, while the watch cannot hear, and prints how often it was told, and of what. */
async function say(what: string, change: () => void): Promise<void> {
  changes = [];
  change();
  await new Promise<void>((resolve) => void systemClock.after(SILENCE_MS, resolve, { keepAlive: true }));
  const interfaces = changes.some(({ hasInterfaces }) => hasInterfaces) ? " interfaces" : "";
  const routes = changes.some(({ hasRoutes }) => hasRoutes) ? " routes" : "";
  process.stdout.write(`${what}: ${changes.length}${interfaces}${routes}\n`);
}

const flood = Array.from({ length: FLOOD }, (_, n) => `route add 198.18.${n >> 8}.${n & 255} dev d0`).join("\n");

await say("link added", () => ip("link add d0 type veth peer name d1"));
await say("nothing", () => {});
await say("link up, with an address", () => {
  ip("link set d1 up");
  ip("link set d0 up");
  ip("address add 192.0.2.1/24 dev d0");
});
await say("more than there is room for", () => ip("-batch -", flood));
await say("after that", () => ip("route del 198.18.0.0 dev d0"));
await say("all routes gone", () => ip("route flush dev d0"));
await say("link down", () => ip("link set d0 down"));
const other = new NetworkWatch(() => process.stdout.write("told after it was closed\n"));
other.close();
await say("link up", () => ip("link set d0 up"));
watch.close();
await say("closed", () => ip("link set d0 down"));
new NetworkWatch(() => {});
process.stdout.write("end\n");
