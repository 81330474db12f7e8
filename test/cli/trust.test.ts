/** How `netdrive mount` knows the server, with real processes: keys that are known, new, changed or somebody else's; CAs; what may be in clear. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import type { AddressInfo, Socket } from "node:net";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { after, afterEach, before, beforeEach, type TestContext, test } from "node:test";
import { connect as connectTls, createServer as createTlsServer } from "node:tls";
import { mountAt } from "../../src/sys/mount-table.ts";
import { makeIdentity } from "../../src/transport/self-signed.ts";
import { command, startService } from "../support/child.ts";
import { detach, netdrive, type ServedShare, startServe } from "../support/drive.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("trust");
const at = (path: string) => join(temp.path, path);
const state = at("state");
let server: ServedShare;
let count = 0;
let point = "";
let known = "";

before(async () => {
  mkdirSync(at("served"));
  writeFileSync(at("served/hello.txt"), "hello\n");
  server = await startServe(at("served"), "--state", state);
});
after(async () => {
  await server.service.end();
  await temp.remove();
});
beforeEach(() => {
  point = at(`point-${++count}`);
  known = at(`known-${count}`);
  mkdirSync(point);
});
afterEach(() => detach(point));

const bare = (url: string) => url.replace(/\?fp=.*/, "");
const fingerprintOf = (url: string) => /\?fp=(.*)$/.exec(url)?.[1] ?? "";
const environment = () => ({ ...process.env, NETDRIVE_RUNTIME: at("runtime"), NETDRIVE_KNOWN_SERVERS: known });

const run = (args: string[], code = 0) =>
  command(process.execPath, netdrive(...args), { env: environment(), codes: [code], timeoutMs: 60_000 });

/** Mounts, reads and unmounts. */
async function works(...args: string[]): Promise<void> {
  await run(["mount", ...args, point]);
  assert.equal((await command("cat", [join(point, "hello.txt")])).stdout, "hello\n");
  await run(["umount", point]);
}

async function refused(args: string[], code: number, message: RegExp): Promise<void> {
  const { stderr } = await run(["mount", ...args, point], code);
  assert.match(stderr, /^netdrive: [^\n]+\n$/);
  assert.match(stderr, message);
  assert.equal(mountAt(point), undefined);
}

/** Runs the command on a terminal of its own, on which `typed` is typed. */
function onTerminal(args: string[], typed: string, code = 0) {
  const line = [process.execPath, ...netdrive(...args)].map((word) => `'${word}'`).join(" ");
  const options = { env: environment(), input: typed, codes: [code], timeoutMs: 60_000 };
  return command("script", ["--quiet", "--return", "--echo=never", "--command", line, "/dev/null"], options);
}

test("a URL with the fingerprint asks nothing and remembers nothing", async () => {
  await works(server.url);
  assert.ok(!existsSync(known));
});

test("without a terminal a server that is not known is refused, and how to accept it is said", async () => {
  await refused([bare(server.url)], 8, /is not known here, and its key is [\w-]{43}; .* add \?fp=[\w-]{43} to the URL/);
  const { stderr } = await run(["mount", bare(server.url), point], 8);
  assert.ok(stderr.includes(`add ?fp=${fingerprintOf(server.url)} to the URL`));
});

test("on a terminal it asks once, and remembers a yes", async () => {
  const no = await onTerminal(["mount", bare(server.url), point], "n\r", 8);
  assert.match(no.stdout, /is not known here\. Its key is\r\n {2}[\w-]{43}\r\n.*\[y\/N\]/);
  assert.match(no.stdout, /is not trusted; take the URL/);
  assert.ok(!existsSync(known));
  const yes = await onTerminal(["mount", bare(server.url), point], "y\r");
  assert.match(yes.stdout, /\[y\/N\]/);
  assert.equal((await command("cat", [join(point, "hello.txt")])).stdout, "hello\n");
  await run(["umount", point]);
  assert.equal(readFileSync(known, "utf8"), `127.0.0.1:${server.port} ${fingerprintOf(server.url)}\n`);
  await works(bare(server.url));
});

test("SIGTERM ends a question, and with it the mount", { timeout: 60_000 }, async () => {
  const user = server.url.replace(/\/\/.*@/, "//somebody:@");
  const pidFile = at("pid");
  for (const [url, question] of [
    [bare(server.url), "[y/N]"],
    [user, "Password of somebody:"],
  ] as const) {
    const line = [process.execPath, ...netdrive("mount", url, point)].map((word) => `'${word}'`).join(" ");
    const args = ["--quiet", "--return", "--command", `echo $$ > '${pidFile}'; exec ${line}`, "/dev/null"];
    const asking = startService("script", args, { env: environment(), hasInput: true });
    let said = "";
    asking.process.stdout?.on("data", (chunk: string) => {
      said += chunk;
    });
    while (!said.includes(question))
      await Promise.race([once(asking.process.stdout as Readable, "data"), asking.crashed]);
    process.kill(Number(readFileSync(pidFile, "utf8")), "SIGTERM");
    assert.equal(await asking.exited, 1, said);
    await asking.line("netdrive: interrupted\r");
    assert.equal(mountAt(point), undefined);
  }
  assert.ok(!existsSync(known));
});

test("a changed key is refused, whoever it was known by", async () => {
  const other = Buffer.alloc(32, 1).toString("base64url");
  writeFileSync(known, `127.0.0.1:${server.port} ${other}\n`);
  const changed = new RegExp(
    `the key of 127.* is ${fingerprintOf(server.url)} and should be ${other}; somebody may be`,
  );
  await refused([bare(server.url)], 8, changed);
  await refused([`${bare(server.url)}?fp=${other}`], 8, changed);
  // What the URL says counts more than what was remembered.
  await works(server.url);
});

test("somebody in the middle with a key of their own gets nothing, not even the question", async (t) => {
  const { port, heard } = await startMiddle(t, server.port);
  const through = (url: string) => url.replace(`:${server.port}/`, `:${port}/`);
  await refused([through(server.url)], 8, /and should be .*; somebody may be in between/);
  writeFileSync(known, `127.0.0.1:${port} ${fingerprintOf(server.url)}\n`);
  await refused([through(bare(server.url))], 8, /somebody may be in between/);
  await refused([through(server.url), "--ca", join(state, "identity.pem")], 8, /the certificate of .* is not good: /);
  assert.equal(heard(), 0);
  // Who says yes to the wrong key still does not let them in: the proof of the token is bound to the connection.
  writeFileSync(known, "");
  const { stderr } = await run(["mount", through(bare(server.url)), point], 8);
  const fooled = `${through(bare(server.url))}?fp=${/its key is ([\w-]{43});/.exec(stderr)?.[1]}`;
  await refused([fooled], 4, /the server refuses the token/);
  assert.ok(heard() > 0);
});

test("a CA vouches for a server in its name", async () => {
  const ca = join(state, "identity.pem");
  await works(bare(server.url), "--ca", ca);
  await works(bare(server.url).replace("127.0.0.1", "localhost"), "--ca", ca);
  writeFileSync(at("other.pem"), makeIdentity(["127.0.0.1"]).certificate);
  await refused([bare(server.url), "--ca", at("other.pem")], 8, /the certificate of .* is not good: self-signed/);
  await refused([server.url, "--ca", at("none.pem")], 5, /--ca .*none\.pem cannot be read: /);
  await refused([server.url, "--ca", at("served/hello.txt")], 5, /holds no certificate; give a file in PEM form/);
});

test("a certificate that is given is the one that is shown", async (t) => {
  const { certificate, key } = makeIdentity(["files.example"]);
  writeFileSync(at("cert.pem"), certificate);
  writeFileSync(at("key.pem"), key);
  const served = await startServe(at("served"), "--cert", at("cert.pem"), "--key", at("key.pem"));
  t.after(() => served.service.end("SIGKILL"));
  await works(served.url);
  await refused([served.url, "--ca", at("cert.pem")], 8, /the certificate of .* is not good: .*IP: 127\.0\.0\.1/);
  await served.service.end();
});

test("plain is for both sides to ask for, and for each kind of connection", async (t) => {
  for (const args of [
    ["--security", "plain"],
    ["-o", "io_security=plain"],
    ["-o", "control_security=plain"],
  ]) {
    await refused(
      [server.url, ...args],
      4,
      /the server refuses: (io|control) channels of this server are tls at least/,
    );
  }
  const served = await startServe(at("served"), "--io-security", "plain");
  t.after(() => served.service.end("SIGKILL"));
  await works(served.url);
  await works(served.url, "-o", "io_security=plain");
  await refused([served.url, "--security", "plain"], 4, /control channels of this server are tls at least, not plain/);
  await served.service.end();
  const lax = await startServe(at("served"), "--security", "plain");
  t.after(() => lax.service.end("SIGKILL"));
  await works(bare(lax.url), "--security", "plain");
  await works(lax.url, "-o", "control_security=plain");
  await works(lax.url);
  await lax.service.end();
});

test("signed is more than plain and less than TLS, for each kind of connection, and asks for no key of the server", async (t) => {
  const served = await startServe(at("served"), "--security", "signed");
  t.after(() => served.service.end("SIGKILL"));
  await works(bare(served.url), "--security", "signed");
  await works(served.url, "-o", "io_security=signed");
  await works(served.url);
  for (const args of [
    ["--security", "plain"],
    ["-o", "io_security=plain"],
  ]) {
    await refused([served.url, ...args], 4, /(io|control) channels of this server are signed at least, not plain/);
  }
  await refused(
    [server.url, "--security", "signed"],
    4,
    /control channels of this server are tls at least, not signed/,
  );
  await served.service.end();
});

/** Decrypts what clients say and passes it on to the server at `target`. */
async function startMiddle(t: TestContext, target: number): Promise<{ port: number; heard: () => number }> {
  const { certificate: cert, key } = makeIdentity(["127.0.0.1"]);
  const sockets: Socket[] = [];
  let bytes = 0;
  const middle = createTlsServer({ cert, key }, (inner) => {
    const outer = connectTls({ host: "127.0.0.1", port: target, rejectUnauthorized: false });
    sockets.push(inner, outer);
    for (const socket of [inner, outer]) socket.on("error", () => {});
    inner.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
    });
    inner.pipe(outer).pipe(inner);
  });
  middle.on("tlsClientError", () => {});
  middle.listen(0, "127.0.0.1");
  await once(middle, "listening");
  t.after(() => {
    middle.close();
    for (const socket of sockets) socket.destroy();
  });
  return { port: (middle.address() as AddressInfo).port, heard: () => bytes };
}
