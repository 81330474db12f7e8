/** netdrive itself, through its command: `serve` and a foreground `mount` of the build the bench belongs to. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Security } from "../../src/wire/messages.ts";
import { Daemon } from "./child.ts";
import { MountedPeer, type Peer, type PeerOptions } from "./peer.ts";
import { ROOT } from "./workbench.ts";

const COMMAND = join(ROOT, "dist/src/cli/main.js");

const SAYS: Record<Security, string> = {
  plain: "plain channel: not encrypted",
  signed: "signed channel: not encrypted",
  tls: "TLS 1.3: encrypted",
};

export async function startNetdrive(options: PeerOptions): Promise<Peer> {
  const { workbench, link, security = "plain", hasStore = true, mountOptions = [] } = options;
  const { scope } = workbench;
  const store = hasStore ? [] : ["without a store"];
  const name = ["netdrive", ...(security === "plain" ? [] : [security]), ...store, ...mountOptions].join(" ");
  const id = workbench.newName("netdrive");
  const serveLog = join(workbench.directory, `${id}-serve.log`);
  const state = join(workbench.lasting, `${id}-state`);
  // Mounts register themselves and logs are written below these; nothing of the user's is touched.
  const env = { XDG_RUNTIME_DIR: workbench.directory, XDG_STATE_HOME: state };
  const server = new Daemon({
    scope,
    name: "netdrive serve",
    command: process.execPath,
    args: [
      COMMAND,
      "serve",
      workbench.shared,
      "--name",
      "bench",
      "--listen",
      "127.0.0.1:0",
      "--squash",
      "none",
      ...(hasStore ? ["--state", state] : []),
      "--security",
      security,
    ],
    logPath: serveLog,
    env: { ...env, ...profiling("NETDRIVE_BENCH_SERVE_OPTIONS") },
  });
  const findUrl = () => /netdrive:\/\/\S+/.exec(server.output())?.[0];
  await server.until("a URL", () => findUrl() !== undefined);
  const url = new URL(findUrl() ?? "");
  const address = await workbench.route({ host: url.hostname, port: Number(url.port) }, link);
  url.host = `${address.host}:${address.port}`;
  const mountPoint = await workbench.mountPoint(id);
  const more = mountOptions.flatMap((option) => ["-o", option]);
  const peer = new MountedPeer({
    name,
    description: `${name} ${await version()}, Node ${process.versions.node}, ${SAYS[security]}`,
    path: mountPoint,
    server,
    startClient: () =>
      new Daemon({
        scope,
        name: "netdrive mount",
        command: process.execPath,
        args: [COMMAND, "mount", url.href, mountPoint, "--foreground", "--security", security, ...more],
        logPath: join(workbench.directory, `${id}-mount.log`),
        env: { ...env, ...profiling("NETDRIVE_BENCH_MOUNT_OPTIONS") },
      }),
  });
  await peer.remount();
  return peer;
}

/** Options for Node itself (`--cpu-prof`, ...) for one of the two sides, from the environment of the bench. */
function profiling(variable: string): NodeJS.ProcessEnv {
  const options = process.env[variable];
  return options === undefined ? {} : { NODE_OPTIONS: options };
}

async function version(): Promise<string> {
  const text = await readFile(join(ROOT, "package.json"), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}
