/** The C relay (relay.c): one file through FUSE and loopback TCP with nothing in between, the floor of what any drive could reach. Needs root. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { Daemon } from "./child.ts";
import { MountedPeer, type Peer } from "./peer.ts";
import { freePort, type Workbench } from "./workbench.ts";

const THREADS = 4;
/** The kernel's own default is 128 KiB, at which the relay is a third slower; measured best on a 2-core machine with relay.c. */
const READ_AHEAD_KIB = 4096;

/** `backing` is the file that appears as `f` in the relay's mount; it must exist. */
export async function startRelay(workbench: Workbench, backing: string): Promise<Peer> {
  const port = await freePort();
  const id = workbench.newName("relay");
  const mountPoint = await workbench.mountPoint(id);
  const peer = new MountedPeer({
    name: "relay",
    description: `C relay, ${THREADS} threads, kernel read-ahead ${READ_AHEAD_KIB / 1024} MiB, no protocol, not encrypted`,
    path: mountPoint,
    startClient: () =>
      new Daemon({
        scope: workbench.scope,
        name: "relay",
        command: workbench.relayPath,
        args: [backing, mountPoint, String(THREADS), String(port)],
        logPath: join(workbench.directory, `${id}.log`),
      }),
    onMounted: (device) => writeFile(`/sys/class/bdi/${device}/read_ahead_kb`, String(READ_AHEAD_KIB)),
  });
  await peer.remount();
  return peer;
}
