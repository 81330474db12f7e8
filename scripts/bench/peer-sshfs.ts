/**
 * sshfs over an sshd of its own: a loopback port, host and user keys and configuration in the bench's directory. The system's sshd, its
 * configuration and the user's ~/.ssh are neither read nor written. Ciphers and all sshfs options are the defaults, as a user has them.
 */
import { existsSync } from "node:fs";
import { chmod, mkdir, readFile, rmdir, writeFile } from "node:fs/promises";
import { userInfo } from "node:os";
import { join } from "node:path";
import { Daemon, run } from "./child.ts";
import type { LinkTarget } from "./link-connection.ts";
import { MountedPeer, type Peer, type PeerOptions } from "./peer.ts";
import { freePort, type Workbench } from "./workbench.ts";

/** An sshd started as root insists on it; distributions make it when their sshd starts. */
const PRIVILEGE_SEPARATION_DIRECTORY = "/run/sshd";

export async function startSshfs(options: PeerOptions): Promise<Peer> {
  const { workbench, link, mountOptions = [] } = options;
  const { scope } = workbench;
  const name = ["sshfs", ...mountOptions].join(" ");
  const id = workbench.newName("ssh");
  const directory = join(workbench.directory, id);
  await mkdir(directory, { mode: 0o700 });
  const port = await freePort();
  const server = await startSshd(workbench, directory, port);
  const address = await workbench.route({ host: "127.0.0.1", port }, link);
  const config = await writeClientConfig(directory, address);
  const mountPoint = await workbench.mountPoint(id);
  const peer = new MountedPeer({
    name,
    description: `${name} ${await version()}, default ciphers: encrypted`,
    path: mountPoint,
    server,
    startClient: () =>
      new Daemon({
        scope,
        name: "sshfs",
        command: "sshfs",
        args: [
          "-f",
          "-F",
          config,
          ...mountOptions.flatMap((option) => ["-o", option]),
          `bench:${workbench.shared}`,
          mountPoint,
        ],
        logPath: join(directory, "sshfs.log"),
      }),
  });
  await peer.remount();
  return peer;
}

async function version(): Promise<string> {
  const output = await run("sshfs", ["-V"]);
  return /SSHFS version (\S+)/i.exec(output)?.[1] ?? "";
}

async function startSshd(workbench: Workbench, directory: string, port: number): Promise<Daemon> {
  const { scope } = workbench;
  for (const key of ["host_key", "user_key"])
    await run("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-C", "bench", "-f", join(directory, key)]);
  const authorized = join(directory, "authorized_keys");
  await writeFile(authorized, await readFile(join(directory, "user_key.pub")), { mode: 0o600 });
  const config = join(directory, "sshd_config");
  await writeFile(
    config,
    [
      `Port ${port}`,
      "ListenAddress 127.0.0.1",
      `HostKey ${join(directory, "host_key")}`,
      "PidFile none",
      `AuthorizedKeysFile ${authorized}`,
      // The temporary directory is writable for all, its own directory inside is not.
      "StrictModes no",
      "UsePAM no",
      "PasswordAuthentication no",
      "KbdInteractiveAuthentication no",
      "PermitRootLogin prohibit-password",
      "Subsystem sftp /usr/lib/openssh/sftp-server",
      "",
    ].join("\n"),
  );
  await chmod(config, 0o600);
  if (process.getuid?.() === 0 && !existsSync(PRIVILEGE_SEPARATION_DIRECTORY)) {
    await mkdir(PRIVILEGE_SEPARATION_DIRECTORY, { mode: 0o755 });
    scope.defer(`removing ${PRIVILEGE_SEPARATION_DIRECTORY}`, () => rmdir(PRIVILEGE_SEPARATION_DIRECTORY));
  }
  const sshd = new Daemon({
    scope,
    name: "sshd",
    command: "/usr/sbin/sshd",
    args: ["-D", "-e", "-f", config],
    logPath: join(directory, "sshd.log"),
  });
  await sshd.until("listening", () => sshd.output().includes("Server listening"));
  return sshd;
}

async function writeClientConfig(directory: string, address: LinkTarget): Promise<string> {
  const knownHosts = join(directory, "known_hosts");
  await writeFile(knownHosts, `bench ${await readFile(join(directory, "host_key.pub"), "utf8")}`);
  const config = join(directory, "ssh_config");
  await writeFile(
    config,
    [
      "Host bench",
      `  HostName ${address.host}`,
      `  Port ${address.port}`,
      `  User ${userInfo().username}`,
      "  HostKeyAlias bench",
      `  UserKnownHostsFile ${knownHosts}`,
      "  GlobalKnownHostsFile /dev/null",
      "  StrictHostKeyChecking yes",
      `  IdentityFile ${join(directory, "user_key")}`,
      "  IdentitiesOnly yes",
      "  IdentityAgent none",
      "  BatchMode yes",
      "  LogLevel ERROR",
      "",
    ].join("\n"),
  );
  return config;
}
