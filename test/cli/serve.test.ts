/** `netdrive serve`: what it prints, who gets in, how it ends. */
import assert from "node:assert/strict";
import { closeSync, constants, existsSync, mkdirSync, openSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { after, before, type TestContext, test } from "node:test";
import { identify, isAlive } from "../../src/cli/process-table.ts";
import { command, startService } from "../support/child.ts";
import { netdrive, startServe } from "../support/drive.ts";
import { settle } from "../support/fake-clock.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("serve");
const at = (path: string) => join(temp.path, path);
before(() => {
  for (const folder of ["photos", "a b", "mount"]) mkdirSync(at(folder));
});
after(() => temp.remove());

/** Waits until `look` sees something, or the test is over. */
async function until<Seen>(t: TestContext, look: () => Seen | false | undefined): Promise<Seen> {
  for (;;) {
    const seen = look();
    if (seen !== undefined && seen !== false) return seen;
    t.signal.throwIfAborted();
    await settle();
  }
}

interface Announced {
  url: string;
  urls: string[];
  host: string;
  port: number;
  pid: number;
  shares: { name: string; directory: string; url: string; readOnly: boolean }[];
}

test("it prints one URL a share and nothing else, and SIGTERM ends it cleanly", async (t) => {
  const args = netdrive("serve", at("photos"), at("a b"), "--listen", "127.0.0.1:0");
  const service = startService(process.execPath, args);
  t.after(() => service.end("SIGKILL"));
  let printed = "";
  service.process.stdout?.on("data", (chunk: string) => {
    printed += chunk;
  });
  await service.firstLine;
  assert.equal(await service.end("SIGTERM"), 0);
  assert.match(
    printed,
    /^netdrive:\/\/[\w-]{24}@127\.0\.0\.1:\d+\/photos\?fp=[\w-]{43}\nnetdrive:\/\/[\w-]{24}@127\.0\.0\.1:\d+\/a%20b\?fp=[\w-]{43}\n$/,
  );
  assert.equal(service.errors(), "");
});

test("--json prints one object, and SIGINT ends it as well", async (t) => {
  const args = netdrive("serve", at("photos"), "--name", "x", "--read-only", "--listen", "localhost:0", "--json");
  const service = startService(process.execPath, args);
  t.after(() => service.end("SIGKILL"));
  const line = JSON.parse(await service.firstLine) as Announced;
  assert.equal(line.pid, service.pid);
  assert.ok(line.port > 0 && line.url.includes(`:${line.port}/x?fp=`) && line.urls[0] === line.url);
  assert.deepEqual(line.shares, [{ name: "x", directory: at("photos"), url: line.url, readOnly: true }]);
  assert.equal(await service.end("SIGINT"), 0);
});

test("at a terminal it ends when that is closed, started with nohup it does not", { timeout: 60_000 }, async (t) => {
  const closeTerminalOf = async (nohup: string) => {
    const announced = at(`announced${nohup}`);
    const words = [process.execPath, ...netdrive("serve", at("photos"), "--listen", "127.0.0.1:0", "--json")];
    // Standard error is the terminal, which nohup takes away.
    const line = `exec ${nohup} ${words.map((word) => `'${word}'`).join(" ")} > '${announced}'`;
    const terminal = startService("script", ["--quiet", "--command", line, "/dev/null"], { hasInput: true });
    t.after(() => terminal.end("SIGKILL"));
    await until(t, () => existsSync(announced) && readFileSync(announced, "utf8").endsWith("\n"));
    const { pid, port } = JSON.parse(readFileSync(announced, "utf8")) as Announced;
    const server = identify(pid);
    t.after(() => {
      if (server !== undefined && isAlive(server)) process.kill(pid, "SIGKILL");
    });
    assert.ok(server !== undefined);
    // Its end of the terminal is closed by the system.
    await terminal.end("SIGKILL");
    return { server, port };
  };
  const { server } = await closeTerminalOf("");
  await until(t, () => !isAlive(server));
  const { port } = await closeTerminalOf("nohup");
  // It hears of signals before it takes the second connection.
  for (let count = 0; count < 2; count += 1) {
    await (await fetch(`http://127.0.0.1:${port}/`, { headers: { connection: "close" } })).text();
  }
});

test("the token is the one given, and is not in the argument list others can read", async (t) => {
  const { url, service } = await startServe(at("photos"), "--token", "correct-horse-battery");
  t.after(() => service.end("SIGKILL"));
  assert.match(url, /^netdrive:\/\/correct-horse-battery@/);
  assert.ok(!readFileSync(`/proc/${service.pid}/cmdline`, "utf8").includes("correct-horse"));
  await service.end();
});

test("--state keeps token and key over a restart", async () => {
  const first = await startServe(at("photos"), "--state", at("state"));
  await first.service.end();
  const second = await startServe(at("photos"), "--state", at("state"));
  await second.service.end();
  const withoutPort = (url: string) => url.replace(/:\d+\//, "/");
  assert.equal(withoutPort(second.url), withoutPort(first.url));
  assert.equal(statSync(at("state/identity.pem")).mode & 0o777, 0o600);
});

test("a signal ends it also while it reads what it remembers, from a disk that does not answer", {
  timeout: 60_000,
}, async (t) => {
  mkdirSync(at("hanging/state/level"), { recursive: true });
  const file = at("hanging/state/level/CURRENT");
  await command("mkfifo", [file]);
  const service = startService(process.execPath, netdrive("serve", at("photos"), "--state", at("hanging")));
  t.after(() => service.end("SIGKILL"));
  const disk = await until(t, () => writerOf(file));
  t.after(() => closeSync(disk));
  service.process.kill("SIGTERM");
  await until(t, () => service.errors().includes("\n"));
  assert.equal(service.errors(), "netdrive: interrupted; nothing was served\n");
  // The disk may hold up its end, until a second one.
  assert.notEqual(await service.end("SIGTERM"), "SIGKILL");
});

/** A descriptor to write to the pipe; undefined if nobody opens it to read. */
function writerOf(pipe: string): number | undefined {
  try {
    return openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK);
  } catch (error) {
    assert.equal((error as NodeJS.ErrnoException).code, "ENXIO");
    return undefined;
  }
}

test("a port in use is said", async (t) => {
  const { port, service } = await startServe(at("photos"));
  t.after(() => service.end("SIGKILL"));
  const args = netdrive("serve", at("photos"), "--listen", `127.0.0.1:${port}`);
  const { stderr } = await command(process.execPath, args, { codes: [7] });
  assert.match(
    stderr,
    /^netdrive: 127\.0\.0\.1:\d+ is in use by another program; take another port with --listen .*\n$/,
  );
  await service.end();
});

test("listening beyond loopback warns if clients may go without encryption", async (t) => {
  for (const [more, warning] of [
    [[], /^$/],
    [["--io-security", "plain"], /^netdrive: .*clients may go without encryption.*\n$/],
  ] as const) {
    const args = ["serve", at("photos"), "--listen", "0.0.0.0:0", "--token", "a-token-long-enough", ...more];
    const service = startService(process.execPath, netdrive(...args));
    t.after(() => service.end("SIGKILL"));
    assert.match(await service.firstLine, /^netdrive:\/\/a-token-long-enough@[^:]+:\d+\/photos\?fp=[\w-]{43}$/);
    assert.match(service.errors(), warning);
    await service.end();
  }
});

test("a wrong token and an unknown share are refused with one line each", async (t) => {
  const { url, service } = await startServe(at("photos"));
  t.after(() => service.end("SIGKILL"));
  const wrongToken = url.replace(/\/\/[^@]+@/, "//not-the-token-it-has@");
  const refused = await command(process.execPath, netdrive("mount", wrongToken, at("mount")), { codes: [4] });
  assert.match(refused.stderr, /^netdrive: the server refuses the token, or user and password; .*\n$/);
  const unknown = await command(process.execPath, netdrive("mount", url.replace("photos", "films"), at("mount")), {
    codes: [4],
  });
  assert.match(unknown.stderr, /^netdrive: the server has no share of this name; .*\n$/);
  assert.ok(!readFileSync("/proc/self/mountinfo", "utf8").includes(at("mount")));
  await service.end();
});
