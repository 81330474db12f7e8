/**
 * rclone mount over its own `rclone serve webdav` on loopback, both with empty configuration and cache directories in the bench's directory.
 *
 * For writing rclone needs its VFS cache on disk: close and fsync return when the data is in that cache, the upload follows. Its write figures
 * therefore say how fast the local disk is, and are given as such.
 */
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { Daemon, run } from "./child.ts";
import { MountedPeer, type Peer, type PeerOptions } from "./peer.ts";
import { freePort } from "./workbench.ts";

export async function startRclone(options: PeerOptions): Promise<Peer> {
  const { workbench, link, mountOptions = [] } = options;
  const { scope } = workbench;
  const port = await freePort();
  const id = workbench.newName("rclone");
  const directory = join(workbench.directory, id);
  await mkdir(directory);
  const common = ["--config", join(directory, "rclone.conf"), "--cache-dir", join(directory, "cache")];
  const server = new Daemon({
    scope,
    name: "rclone serve",
    command: "rclone",
    args: ["serve", "webdav", workbench.shared, "--addr", `127.0.0.1:${port}`, ...common],
    logPath: join(directory, "serve.log"),
  });
  await server.until("listening", () => server.output().includes("WebDav Server started"));
  const address = await workbench.route({ host: "127.0.0.1", port }, link);
  const mountPoint = await workbench.mountPoint(id);
  const url = `http://${address.host}:${address.port}`;
  const mount = [
    "mount",
    ":webdav:",
    mountPoint,
    "--webdav-url",
    url,
    "--webdav-vendor",
    "other",
    "--vfs-cache-mode",
    "writes",
  ];
  const peer = new MountedPeer({
    name: "rclone",
    description: `rclone ${/rclone v(\S+)/.exec(await run("rclone", ["version"]))?.[1]} over its webdav server, --vfs-cache-mode writes, not encrypted`,
    path: mountPoint,
    server,
    startClient: () =>
      new Daemon({
        scope,
        name: "rclone mount",
        command: "rclone",
        args: [...mount, ...mountOptions, ...common],
        logPath: join(directory, "mount.log"),
      }),
  });
  await peer.remount();
  return peer;
}
