/** `netdrive user`, and logging in with a password, with real processes. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, test } from "node:test";
import { mountAt } from "../../src/sys/mount-table.ts";
import { command, startService } from "../support/child.ts";
import { detach, netdrive, type ServedShare, startServe } from "../support/drive.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("user");
const at = (path: string) => join(temp.path, path);
const state = at("state");
const PASSWORD = "correct horse, battery";
let server: ServedShare;
let count = 0;
let point = "";

before(async () => {
  mkdirSync(at("served"));
  writeFileSync(at("served/hello.txt"), "hello\n");
  writeFileSync(at("password"), `${PASSWORD}\n`);
  server = await startServe(at("served"), "--state", state, "--squash", "none");
});
after(async () => {
  await server.service.end();
  await temp.remove();
});
beforeEach(() => {
  point = at(`point-${++count}`);
  mkdirSync(point);
});
afterEach(() => detach(point));

const environment = { ...process.env, NETDRIVE_RUNTIME: at("runtime"), NETDRIVE_KNOWN_SERVERS: at("known") };
const urlOf = (user: string, url = server.url) => url.replace(/\/\/[^@]*@/, `//${user}:@`);

function run(args: string[], code = 0, more: { input?: string; env?: NodeJS.ProcessEnv } = {}) {
  const env = { ...environment, ...more.env };
  return command(process.execPath, netdrive(...args), { codes: [code], timeoutMs: 60_000, ...more, env });
}

const user = (args: string[], code = 0, input = `${PASSWORD}\n`) =>
  run(["user", ...args, "--state", state], code, { input });
const add = (name: string, ...more: string[]) => user(["add", name, "--password-file", "-", ...more]);

/** Runs the command on a terminal of its own, on which `typed` is typed. */
function onTerminal(args: string[], typed: string, code = 0) {
  const line = [process.execPath, ...netdrive(...args)].map((word) => `'${word}'`).join(" ");
  const options = { env: environment, input: typed, codes: [code], timeoutMs: 60_000 };
  return command("script", ["--quiet", "--return", "--echo=never", "--command", line, "/dev/null"], options);
}

test("a user who is added logs in to the running server, from everywhere a password may come from", async () => {
  await add("anna");
  assert.equal(statSync(join(state, "users.json")).mode & 0o777, 0o600);
  assert.ok(!readFileSync(join(state, "users.json"), "utf8").includes("horse"));
  const ways: [string[], { input?: string; env?: NodeJS.ProcessEnv }][] = [
    [["--password-file", at("password")], {}],
    [["--password-file", "-"], { input: `${PASSWORD}\r\nmore` }],
    [[], { env: { NETDRIVE_PASSWORD: PASSWORD } }],
  ];
  for (const [args, more] of ways) {
    const { stdout } = await run(["mount", urlOf("anna"), point, ...args], 0, more);
    assert.match(stdout, /^netdrive:\/\/127\.0\.0\.1:\d+\/served is at /);
    assert.equal((await command("cat", [join(point, "hello.txt")])).stdout, "hello\n");
    await run(["umount", point]);
  }
});

test("on a terminal the password is asked for, and not shown", async () => {
  const asked = await onTerminal(["user", "add", "tina", "--state", state], `${PASSWORD}\r${PASSWORD}\r`);
  assert.match(asked.stdout, /Password of tina: *\r\nThe same once more: *\r\n$/);
  const differs = await onTerminal(["user", "passwd", "tina", "--state", state], `${PASSWORD}\rother\r`, 2);
  assert.match(differs.stdout, /the two passwords differ; try again/);
  // A mistyped letter is taken back, and a whole line.
  const typed = `nonsense\u0015${PASSWORD}x\u007f\r`;
  const { stdout } = await onTerminal(["mount", urlOf("tina"), point], typed);
  assert.match(stdout, /^Password of tina: *\r\n.* is at /);
  assert.ok(!stdout.includes("horse"));
  await run(["umount", point]);
});

test("a wrong password and a user there is not are refused in one line", async () => {
  await add("carl");
  for (const name of ["carl", "nobody"]) {
    const { stderr } = await run(["mount", urlOf(name), point], 4, { env: { NETDRIVE_PASSWORD: "a guess" } });
    assert.match(stderr, /^netdrive: the server refuses the token, or user and password; [^\n]*\n$/);
    assert.equal(mountAt(point), undefined);
  }
});

test("each user sees what is given to it, and a read-only drive is one", async () => {
  await add("dora", "--share", "served=ro", "--share", "other=rw");
  await add("emil", "--share", "other=rw");
  const mounted = await run(["mount", urlOf("dora"), point, "--password-file", at("password"), "--json"]);
  assert.equal((JSON.parse(mounted.stdout) as { readOnly: boolean }).readOnly, true);
  const { stderr } = await command("touch", [join(point, "new")], { codes: [1] });
  assert.match(stderr, /Read-only file system/);
  await run(["umount", point]);
  const refused = await run(["mount", urlOf("emil"), point, "--password-file", at("password")], 4);
  assert.match(refused.stderr, /no share of this name/);
  const { stdout } = await user(["list", "--json"]);
  const listed = JSON.parse(stdout) as { name: string; shares: object }[];
  assert.deepEqual(
    listed.filter(({ name }) => name === "dora" || name === "emil"),
    [
      { name: "dora", shares: { served: "ro", other: "rw" } },
      { name: "emil", shares: { other: "rw" } },
    ],
  );
  assert.match((await user(["list"])).stdout, /^dora {2}served=ro other=rw$/m);
});

test("changes reach the running server: password, access, and the end of a user", async () => {
  await add("fred");
  const mount = (password: string, code: number) =>
    run(["mount", urlOf("fred"), point], code, { env: { NETDRIVE_PASSWORD: password } });
  await user(["passwd", "fred", "--password-file", "-"], 0, "another one\n");
  await mount(PASSWORD, 4);
  await mount("another one", 0);
  await user(["remove", "fred"]);
  const gone = `until ! cat '${join(point, "hello.txt")}'; do sleep 0.1; done`;
  await command("bash", ["-c", gone], { timeoutMs: 20_000 });
  await run(["umount", point]);
  await mount("another one", 4);
  await add("fred", "--share", "served=ro");
  await user(["access", "fred", "--share", "served=rw"]);
  await mount(PASSWORD, 0);
  await command("touch", [join(point, "new")]);
  await run(["umount", point]);
});

test("with --no-token only users get in, and the printed URL has a place for the user", async (t) => {
  await add("gina");
  const service = startService(
    process.execPath,
    netdrive("serve", at("served"), "--state", at("other-state"), "--no-token", "--listen", "127.0.0.1:0"),
  );
  assert.equal(await service.exited, 2);
  assert.match(service.errors(), /^netdrive: with --no-token and no users nobody gets in; add one with 'netdrive user/);
  await run(["user", "add", "gina", "--state", at("other-state"), "--password-file", at("password")]);
  const served = await startServe(at("served"), "--state", at("other-state"), "--no-token");
  t.after(() => served.service.end("SIGKILL"));
  assert.match(served.url, /^netdrive:\/\/USER:@127\.0\.0\.1:\d+\/served\?fp=/);
  await run(["mount", urlOf("gina", served.url), point, "--password-file", at("password")]);
  await run(["umount", point]);
  for (const token of ["undefined", "false", "USER"]) {
    await run(["mount", served.url.replace("USER:", token), point], 4);
  }
  await served.service.end();
});

test("users are enough to listen beyond loopback", async (t) => {
  await add("hans");
  const args = ["serve", at("served"), "--state", state, "--listen", "0.0.0.0:0", "--no-token"];
  const service = startService(process.execPath, netdrive(...args), { env: environment });
  t.after(() => service.end("SIGKILL"));
  // The folder is the running server's.
  assert.equal(await service.exited, 5);
  const copy = at("copied-state");
  await run(["user", "add", "hans", "--state", copy, "--password-file", at("password")]);
  const second = startService(process.execPath, netdrive(...args.map((arg) => (arg === state ? copy : arg))));
  t.after(() => second.end("SIGKILL"));
  assert.match(await second.firstLine, /^netdrive:\/\/USER:@[^:]+:\d+\/served\?fp=/);
  assert.equal(second.errors(), "");
  await second.end();
});

test("wrong uses are one line each", async () => {
  await add("ida");
  const cases: [args: string[], code: number, message: RegExp][] = [
    [["add", "ida", "--password-file", "-"], 2, /there is a user ida already; see 'netdrive user passwd'/],
    [["add", "i da", "--password-file", "-"], 2, /'i da' cannot name a user; take letters/],
    [["add", "jan", "--password-file", at("none")], 5, /--password-file .*none cannot be read/],
    [["add", "jan"], 2, /the password of jan is needed and there is no terminal/],
    [["add", "jan", "--password-file", "-", "--share", "films"], 2, /'films' is no NAME=ro or NAME=rw; write it as/],
    [["add", "jan", "--password-file", "-", "--share", "a/b=ro"], 2, /'a\/b=ro' is no NAME=ro/],
    [["remove", "jan"], 2, /there is no user 'jan' here; see 'netdrive user list'/],
    [["passwd", "jan", "--password-file", "-"], 2, /there is no user 'jan' here/],
    [["access", "jan", "--share", "films=ro"], 2, /there is no user 'jan' here/],
    [["access", "ida"], 2, /--share/],
    [["frob", "ida"], 2, /; see 'netdrive user --help'/],
  ];
  for (const [args, code, message] of cases) {
    const { stderr } = await user(args, code);
    assert.match(stderr, /^netdrive: [^\n]+\n$/, args.join(" "));
    assert.match(stderr, message);
  }
  const { stderr } = await user(["add", "jan", "--password-file", "-"], 2, "\n");
  assert.match(stderr, /a password has 1 to 1024 characters; give another/);
  const damaged = at("damaged");
  mkdirSync(damaged);
  writeFileSync(join(damaged, "users.json"), "garbage");
  for (const args of [
    ["user", "list"],
    ["serve", at("served"), "--listen", "127.0.0.1:0"],
  ]) {
    const failed = await run([...args, "--state", damaged], 5);
    assert.match(failed.stderr, /^netdrive: [^\n]*users\.json is damaged: [^\n]+\n$/);
  }
});
