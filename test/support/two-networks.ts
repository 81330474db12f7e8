/**
 * Two network namespaces joined by a cable, for a server and a client that reach each other by nothing else. As root.
 *
 * They have no names: each is there as long as its keeper process, and the cable as long as both. So nothing can be left behind but processes, which
 * are ended as all that a test starts.
 */
import { systemClock } from "../../src/base/clock.ts";
import { command, type Service, startService } from "./child.ts";

export interface End {
  readonly address: string;
  /** What a program is started with to run there: the arguments of its command begin with it. */
  readonly inside: readonly string[];
  /** Runs ip(8) there. @returns what it prints. */
  ip(line: string): Promise<string>;
}

export interface TwoNetworks extends AsyncDisposable {
  readonly server: End;
  readonly client: End;
  close(): Promise<void>;
}

/** For documentation (RFC 5737), so nobody else's. */
const ADDRESSES = { server: "192.0.2.1", client: "192.0.2.2" };
const pause = (ms: number) => new Promise<void>((resolve) => void systemClock.after(ms, resolve, { keepAlive: true }));
const KEEP = "echo there; exec sleep infinity";

function endOf({ pid }: Service, address: string): End {
  const inside = ["nsenter", `--net=/proc/${pid}/ns/net`];
  const [program = "", ...rest] = inside;
  return {
    address,
    inside,
    ip: async (line) => (await command(program, [...rest, "ip", ...line.split(" ")])).stdout,
  };
}

/** The interface of each end is called `cable`. */
export async function twoNetworks(): Promise<TwoNetworks> {
  const keepers: Service[] = [];
  const close = async () => {
    await Promise.all(keepers.map((keeper) => keeper.end("SIGKILL")));
  };
  try {
    for (const address of Object.values(ADDRESSES)) {
      const keeper = startService("unshare", ["--net", "sh", "-c", KEEP]);
      keepers.push(keeper);
      await keeper.firstLine;
      await endOf(keeper, address).ip("link set lo up");
    }
    const [first, second] = keepers as [Service, Service];
    const server = endOf(first, ADDRESSES.server);
    const client = endOf(second, ADDRESSES.client);
    await server.ip(`link add cable type veth peer name cable netns ${second.pid}`);
    for (const end of [server, client]) {
      await end.ip(`address add ${end.address}/24 dev cable`);
      await end.ip("link set cable up");
    }
    // The kernel says a moment after a cable is in use that it is, and nothing of one that is gone by then.
    for (const end of [server, client]) while (!(await end.ip("link show cable")).includes("state UP")) await pause(20);
    return { server, client, close, [Symbol.asyncDispose]: close };
  } catch (error) {
    await close();
    throw error;
  }
}
