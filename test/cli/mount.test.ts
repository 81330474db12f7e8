/** `netdrive mount`, `umount` and `list` with a real server and real mounts; this process never touches them, programs do. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { chmodSync, chownSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, type TestContext, test } from "node:test";
import { identify } from "../../src/cli/process-table.ts";
import { mountAt } from "../../src/sys/mount-table.ts";
import { type CommandResult, command, type Service, startService } from "../support/child.ts";
import { detach, netdrive, type ServedShare, startServe } from "../support/drive.ts";
import { makeTemp } from "../support/temp.ts";
import { scriptAsUser, USER } from "./as-user.ts";

const temp = makeTemp("mounts");
const runtime = join(temp.path, "runtime");
const served = join(temp.path, "served");
let server: ServedShare;
let count = 0;
/** A new mount point for each test. */
let point = "";

before(async () => {
  mkdirSync(served);
  writeFileSync(join(served, "hello.txt"), "hello\n");
  chmodSync(served, 0o777);
  server = await startServe(served, "--squash", "none");
});
after(async () => {
  await server.service.end();
  await temp.remove();
});
beforeEach(() => {
  point = join(temp.path, `point ${++count} ä`);
  mkdirSync(point);
});
afterEach(() => detach(point));

interface Listed {
  path: string;
  url: string;
  state: string;
  readOnly: boolean;
  pid: number;
  log: string;
}

const environment = { ...process.env, NETDRIVE_RUNTIME: runtime };

function run(
  args: string[],
  codes: number[] = [0],
  more: { uid?: number; gid?: number; env?: NodeJS.ProcessEnv } = {},
) {
  return command(process.execPath, netdrive(...args), { env: environment, codes, timeoutMs: 60_000, ...more });
}

async function list(): Promise<Listed[]> {
  const mounts = JSON.parse((await run(["list", "--json"])).stdout) as Listed[];
  return mounts.filter(({ path }) => path.startsWith(temp.path));
}

async function mountJson(...args: string[]): Promise<{ pid: number; log: string; url: string }> {
  const { stdout } = await run(["mount", server.url, point, "--json", ...args]);
  return JSON.parse(stdout) as { pid: number; log: string; url: string };
}

const cat = (path: string) => command("cat", [path]);
const oneLine = ({ stderr }: CommandResult, pattern: RegExp) => {
  assert.match(stderr, /^netdrive: [^\n]+\n$/);
  assert.match(stderr, pattern);
};

test("mount returns when the drive answers, list shows it, umount ends it and its process", async () => {
  const { stdout, stderr } = await run(["mount", server.url, point]);
  assert.match(stdout, /^netdrive:\/\/127\.0\.0\.1:\d+\/served is at .*point \d+ ä\n$/);
  assert.equal(stderr, "");
  assert.equal((await cat(join(point, "hello.txt"))).stdout, "hello\n");
  const [mounted, ...others] = await list();
  assert.ok(mounted !== undefined && others.length === 0);
  assert.deepEqual([mounted.path, mounted.state, mounted.readOnly], [point, "mounted", false]);
  assert.ok(existsSync(mounted.log) && !JSON.stringify(mounted).includes(server.url.split("@")[0] ?? "?"));
  const table = (await run(["list"])).stdout;
  assert.match(table, /^PATH +URL +STATE +PID +SINCE +LOG\n/);
  assert.ok(table.includes(point) && table.includes(String(mounted.pid)));
  const unmounted = await run(["umount", point]);
  assert.equal(unmounted.stdout + unmounted.stderr, "");
  assert.equal(mountAt(point), undefined);
  assert.equal(identify(mounted.pid), undefined);
  assert.deepEqual(readdirSync(runtime), []);
});

test("the token is in no argument list and no list of mounts", async () => {
  const { pid } = await mountJson();
  const token = /\/\/(.*)@/.exec(server.url)?.[1] ?? "?";
  assert.ok(!readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(token));
  assert.ok(!readFileSync("/proc/self/mountinfo", "utf8").includes(token));
  await run(["umount", point]);
});

test("the token may come from NETDRIVE_TOKEN", async () => {
  const [, token = "", rest = ""] = /\/\/(.*)@(.*)/.exec(server.url) ?? [];
  await run(["mount", `netdrive://${rest}`, point], [0], { env: { ...environment, NETDRIVE_TOKEN: token } });
  assert.equal((await cat(join(point, "hello.txt"))).stdout, "hello\n");
  await run(["umount", point]);
});

test("a path that is mounted already is refused", async () => {
  await mountJson();
  oneLine(await run(["mount", server.url, point], [5]), /is already mounted; unmount it first with 'netdrive umount/);
  await run(["umount", point]);
});

test("-o ro and --read-only make the drive read-only", async () => {
  for (const args of [["-o", "ro"], ["--read-only"]]) {
    await mountJson(...args);
    assert.equal((await list())[0]?.readOnly, true);
    const { stderr } = await command("touch", [join(point, "new")], { codes: [1] });
    assert.match(stderr, /Read-only file system/);
    await run(["umount", point]);
  }
});

test("flags of mount(8) reach the kernel, and without them nothing on the drive gives rights", async () => {
  const flags = async () => (await command("findmnt", ["-no", "OPTIONS", point])).stdout;
  await mountJson();
  assert.match(await flags(), /nosuid,nodev/);
  await run(["umount", point]);
  await mountJson("-o", "suid,dev,noexec,noatime");
  assert.match(await flags(), /^rw,noexec,noatime/);
  await run(["umount", point]);
});

test("-o nonempty mounts over what is there", async () => {
  writeFileSync(join(point, "below"), "");
  await run(["mount", server.url, point], [5]);
  await mountJson("-o", "nonempty");
  await cat(join(point, "hello.txt"));
  await run(["umount", point]);
  assert.ok(existsSync(join(point, "below")));
});

/** Somebody who uses the drive. */
async function sleeperInside(): Promise<Service> {
  const user = startService("sleep", ["60"], { cwd: point });
  // It is there once it is itself: what starts it enters the directory first.
  await command("bash", ["-c", `until grep -qsx sleep /proc/${user.pid}/comm; do sleep 0.05; done`]);
  return user;
}

test("a drive in use is not unmounted: who uses it is said, and --lazy detaches it", async () => {
  const { pid } = await mountJson();
  const user = await sleeperInside();
  oneLine(await run(["umount", point], [5]), new RegExp(`is in use by sleep \\(${user.pid}\\); end them, or .*--lazy`));
  assert.equal((await cat(join(point, "hello.txt"))).stdout, "hello\n");
  await run(["umount", "--lazy", point]);
  assert.equal(mountAt(point), undefined);
  assert.ok(identify(pid) !== undefined);
  await user.end("SIGKILL");
  await command("bash", ["-c", `while test -d /proc/${pid}; do sleep 0.05; done`], { timeoutMs: 20_000 });
});

test("a drive that was detached while in use leaves the next one at its path alone, whether it ends or is told to", async () => {
  for (const isTold of [false, true]) {
    const old = await mountJson();
    const user = await sleeperInside();
    await run(["umount", "--lazy", point]);
    const next = await mountJson();
    assert.ok(identify(old.pid) !== undefined && existsSync(old.log) && existsSync(next.log));
    if (isTold) process.kill(old.pid, "SIGTERM");
    else await user.end("SIGKILL");
    await command("bash", ["-c", `while test -d /proc/${old.pid}; do sleep 0.05; done`], { timeoutMs: 20_000 });
    assert.deepEqual([existsSync(old.log), existsSync(next.log)], [false, true]);
    assert.deepEqual(
      (await list()).map(({ pid, state, log }) => ({ pid, state, log })),
      [{ pid: next.pid, state: "mounted", log: next.log }],
    );
    assert.match((await run(["status", point])).stdout, /connected; channels/);
    assert.match((await run(["handle", "export", join(point, "hello.txt")])).stdout, /^\S+\n$/);
    assert.equal((await cat(join(point, "hello.txt"))).stdout, "hello\n");
    await run(["umount", point]);
    await user.end("SIGKILL");
  }
});

test("after kill -9 of its process a drive is listed as dead, is unmounted and can be mounted again", async () => {
  const { pid } = await mountJson();
  process.kill(pid, "SIGKILL");
  await command("bash", ["-c", `while grep -qs '^State:.[^Z]' /proc/${pid}/status; do sleep 0.05; done`]);
  assert.equal((await list())[0]?.state, "dead");
  oneLine(await run(["mount", server.url, point], [5]), /is already mounted/);
  await run(["umount", point]);
  assert.deepEqual(await list(), []);
  await mountJson();
  await run(["umount", point]);
});

test("a dead drive that is still in use is detached, and that is said", async () => {
  const { pid } = await mountJson();
  const user = await sleeperInside();
  process.kill(pid, "SIGKILL");
  await command("bash", ["-c", `while grep -qs '^State:.[^Z]' /proc/${pid}/status; do sleep 0.05; done`]);
  oneLine(await run(["umount", point]), /nobody served .* in use by sleep \(\d+\): it was detached/);
  assert.equal(mountAt(point), undefined);
  await user.end("SIGKILL");
});

test("--force ends a drive whose process hangs, and what waits in it", async () => {
  const { pid } = await mountJson();
  process.kill(pid, "SIGSTOP");
  const waiting = startService("ls", [join(point, "never-asked-before")]);
  await command(
    "bash",
    ["-c", `until grep -qs fuse /proc/${waiting.pid}/wchan /proc/${waiting.pid}/stack; do sleep 0.05; done`],
    { timeoutMs: 20_000 },
  );
  await run(["umount", "--force", point]);
  assert.equal(mountAt(point), undefined);
  assert.equal(identify(pid), undefined);
  assert.notEqual(await waiting.exited, 0);
});

test("SIGTERM to its process unmounts a drive", async () => {
  const { pid } = await mountJson();
  process.kill(pid, "SIGTERM");
  await command("bash", ["-c", `while test -d /proc/${pid}; do sleep 0.05; done`], { timeoutMs: 20_000 });
  assert.equal(mountAt(point), undefined);
});

test("in the foreground the drive ends with its process, and the process with its drive", async () => {
  const start = () =>
    startService(process.execPath, netdrive("mount", server.url, point, "--foreground"), { env: environment });
  const first = start();
  await first.firstLine;
  await cat(join(point, "hello.txt"));
  assert.equal(await first.end("SIGINT"), 0);
  assert.equal(mountAt(point), undefined);
  const second = start();
  await second.firstLine;
  assert.equal((await list())[0]?.pid, second.pid);
  await command("umount", [point]);
  assert.equal(await second.exited, 0);
  assert.deepEqual(await list(), []);
});

test("umount works when the server is gone, and requests fail when their time is over", async () => {
  const other = await startServe(served);
  const { stderr: remark } = await run(["mount", other.url, point, "--timeout", "1"]);
  assert.equal(remark, "netdrive: for this server root is nobody (serve --squash root), other users are themselves\n");
  await cat(join(point, "hello.txt"));
  await other.service.end("SIGKILL");
  const { stderr } = await command("ls", [join(point, "never-asked-before")], { codes: [1, 2], timeoutMs: 30_000 });
  assert.match(stderr, /Host is down/);
  await run(["umount", point]);
  assert.equal(mountAt(point), undefined);
});

/** Something that takes connections on loopback and is no netdrive server. */
async function startListener(t: TestContext, onConnection: (socket: Socket) => void) {
  const sockets = new Set<Socket>();
  const listener = createServer((socket) => {
    sockets.add(socket.on("error", () => {}));
    onConnection(socket);
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  t.after(() => {
    listener.close();
    for (const socket of sockets) socket.destroy();
  });
  const address = listener.address();
  assert.ok(address !== null && typeof address === "object");
  return { listener, sockets, url: `netdrive://token@127.0.0.1:${address.port}/x` };
}

test("what answers nonsense leaves no mount and one line", async (t) => {
  const answers = [
    "SSH-2.0-OpenSSH_9.2\r\n",
    "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: nonsense\r\n\r\n",
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: netdrive/1\r\n\r\n\0\x01\x02garbage\xff\xff\xff\xff",
  ];
  for (const answer of answers) {
    const { url } = await startListener(t, (socket) => socket.once("data", () => socket.end(answer, "latin1")));
    for (const security of ["tls", "plain"]) {
      oneLine(await run(["mount", url, point, "--security", security], [3]), /; check|; [a-z]|no netdrive server/);
      assert.equal(mountAt(point), undefined);
    }
  }
});

test("a mount that is interrupted while it waits for the server leaves nothing", async (t) => {
  const { listener, sockets, url } = await startListener(t, () => {});
  for (const signal of ["SIGINT", "SIGKILL"] as const) {
    const connected = once(listener, "connection");
    const args = signal === "SIGINT" ? [url] : [url, "--security", "plain"];
    const mounting = startService(process.execPath, netdrive("mount", ...args, point), { env: environment });
    await connected;
    const closed = [...sockets].map((socket) => once(socket.resume(), "close"));
    assert.equal(await mounting.end(signal), signal === "SIGKILL" ? "SIGKILL" : 1);
    if (signal === "SIGINT") assert.equal(mounting.errors(), "netdrive: interrupted; nothing is mounted\n");
    await Promise.all(closed);
    sockets.clear();
    assert.equal(mountAt(point), undefined);
  }
});

test("a user without privileges mounts, lists and unmounts through fusermount3", async () => {
  const folder = join(temp.path, "user");
  mkdirSync(folder);
  for (const path of [point, folder]) chownSync(path, USER, USER);
  const script = `
    netdrive mount '${server.url}' '${point}' > /dev/null
    cat '${point}/hello.txt'
    netdrive list --json
    (cd '${point}' && ! netdrive umount '${point}' 2>&1)
    netdrive umount '${point}'
    netdrive list --json`;
  const [main = ""] = netdrive();
  const env = { ...environment, NETDRIVE_RUNTIME: folder };
  const { stdout } = await command("unshare", scriptAsUser(main, script), { env });
  const [content, mounted = "", busy = "", unmounted = ""] = stdout.split("\n");
  assert.equal(content, "hello");
  const here = (text: string) => (JSON.parse(text) as Listed[]).filter(({ path }) => path === point);
  assert.deepEqual(
    here(mounted).map(({ state }) => state),
    ["mounted"],
  );
  assert.match(busy, /^netdrive: .* is in use by bash \(\d+\).*; end them/);
  assert.deepEqual(here(unmounted), []);
  assert.deepEqual(readdirSync(folder), []);
});
