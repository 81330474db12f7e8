/** Every wrong command line: one line that says what is wrong and what to do, and its exit code. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { command } from "../support/child.ts";
import { netdrive } from "../support/drive.ts";
import { makeTemp } from "../support/temp.ts";
import { asUser } from "./as-user.ts";

const temp = makeTemp("usage");
const at = (path: string) => join(temp.path, path);
const URL = "netdrive://token@127.0.0.1:1/share";

before(() => {
  for (const folder of ["empty", "full/sub", "a/same", "b/same"]) mkdirSync(at(folder), { recursive: true });
  writeFileSync(at("file"), "");
});
after(() => temp.remove());

/** Runs the command and asserts that it failed with `code` and one line that matches. */
async function fails(args: string[], code: number, message: RegExp, env: NodeJS.ProcessEnv = {}): Promise<void> {
  const result = await command(process.execPath, netdrive(...args), {
    codes: [0, 1, 2, 3, 4, 5, 6, 7, 8],
    env: { ...process.env, ...env },
    timeoutMs: 60_000,
  });
  const shown = `netdrive ${args.join(" ")}\n${result.stderr}`;
  assert.match(result.stderr, /^netdrive: [^\n]+\n$/, shown);
  assert.match(result.stderr, message, shown);
  assert.equal(result.code, code, shown);
  assert.equal(result.stdout, "", shown);
}

const cases: [name: string, args: () => string[], code: number, message: RegExp][] = [
  ["no command", () => [], 2, /no command given; see 'netdrive --help'/],
  ["an unknown command", () => ["frobnicate"], 2, /unknown command 'frobnicate'; see/],
  ["an unknown option", () => ["list", "--frob"], 2, /unknown option '--frob'; see 'netdrive list --help'/],
  ["a missing argument", () => ["umount"], 2, /missing required argument 'path'; see 'netdrive umount --help'/],
  ["one argument too many", () => ["umount", "a", "b"], 2, /too many arguments/],
  ["a bad log level", () => ["--log-level", "loud", "list"], 2, /Allowed choices are error, warn, info, debug; see/],
  ["serve: a missing directory", () => ["serve", at("missing")], 5, /missing' does not exist; give a directory/],
  ["serve: a file", () => ["serve", at("file")], 5, /file' is not a directory; give a directory/],
  ["serve: two shares of one name", () => ["serve", at("a/same"), at("b/same")], 2, /both be the share 'same'/],
  ["serve: more names than directories", () => ["serve", at("empty"), "--name=a", "--name=b"], 2, /2 names for 1/],
  ["serve: an impossible name", () => ["serve", at("empty"), "--name", "a/b"], 2, /'a\/b' cannot name a share/],
  ["serve: a bad --listen", () => ["serve", at("empty"), "--listen", "7378"], 2, /'7378' is no HOST:PORT; write it as/],
  ["serve: a port out of range", () => ["serve", at("empty"), "--listen", "127.0.0.1:70000"], 2, /is no HOST:PORT/],
  [
    "serve: an address elsewhere",
    () => ["serve", at("empty"), "--listen", "192.0.2.1:0", "--token", "t".repeat(20)],
    7,
    /192\.0\.2\.1 is no address of this machine/,
  ],
  [
    "serve: beyond loopback with a token nobody chose",
    () => ["serve", at("empty"), "--listen", "0.0.0.0:0"],
    2,
    /lets other machines connect; choose the token/,
  ],
  [
    "serve: beyond loopback with a weak token",
    () => ["serve", at("empty"), "--listen", "0.0.0.0:0", "--token", "short"],
    2,
    /take a token of 16 characters or more/,
  ],
  ["serve: an empty token", () => ["serve", at("empty"), "--token", ""], 2, /a token is 1 to 256 printable/],
  [
    "serve: a bad squash",
    () => ["serve", at("empty"), "--squash", "some"],
    2,
    /Allowed choices are root, all, none; see/,
  ],
  [
    "serve: a state folder that is a file",
    () => ["serve", at("empty"), "--state", at("file")],
    5,
    /--state .* cannot be used/,
  ],
  [
    "mount: no URL",
    () => ["mount", "photos", at("empty")],
    2,
    /URL does not begin with netdrive:\/\/; a drive URL is netdrive/,
  ],
  [
    "mount: another scheme",
    () => ["mount", "http://token@127.0.0.1:1/share", at("empty")],
    2,
    /URL does not begin with netdrive/,
  ],
  [
    "mount: no share",
    () => ["mount", "netdrive://token@127.0.0.1:1", at("empty")],
    2,
    /names no share; a drive URL is/,
  ],
  [
    "mount: no token",
    () => ["mount", "netdrive://127.0.0.1:1/share", at("empty")],
    2,
    /no token or user; .*NETDRIVE_TOKEN/,
  ],
  [
    "mount: a bad port",
    () => ["mount", "netdrive://token@127.0.0.1:99999/share", at("empty")],
    2,
    /'99999' is not a port/,
  ],
  [
    "mount: a password in the URL",
    () => ["mount", "netdrive://anna:secret@127.0.0.1:1/share", at("empty")],
    2,
    /a password has no place in a URL, where others see it: leave it out; a drive URL is/,
  ],
  ["mount: half a fingerprint", () => ["mount", `${URL}?fp=abc`, at("empty")], 2, /not a whole fingerprint; a drive/],
  [
    "mount: a user over a connection in clear",
    () => ["mount", "netdrive://anna:@127.0.0.1:1/share", at("empty"), "--security", "plain"],
    2,
    /a password is said on an encrypted connection only; leave out security, or use a token/,
  ],
  [
    "mount: a user without a password, and nobody to ask",
    () => ["mount", `netdrive://anna:@127.0.0.1:1/share?fp=${"A".repeat(43)}`, at("empty")],
    2,
    /the password of anna is needed and there is no terminal; give it with/,
  ],
  [
    "mount: a bad --security",
    () => ["mount", URL, at("empty"), "--security", "ssl"],
    2,
    /--security is tls, .*; write/,
  ],
  ["serve: a bad --security", () => ["serve", at("empty"), "--security", "ssl"], 2, /--security is tls, .*; write/],
  ["serve: a bad --io-security", () => ["serve", at("empty"), "--io-security", ""], 2, /--io-security is tls, /],
  ["serve: half an identity", () => ["serve", at("empty"), "--cert", at("file")], 2, /belong together; give both/],
  [
    "serve: no certificate",
    () => ["serve", at("empty"), "--cert", at("file"), "--key", at("file")],
    5,
    /no certificate and key in .*; give others, or remove them/,
  ],
  ["mount: a bad option", () => ["mount", URL, at("empty"), "-o", "ro,frob"], 2, /-o frob is no option of netdrive/],
  ["mount: a bad time", () => ["mount", URL, at("empty"), "--timeout", "1m"], 2, /timeout needs seconds/],
  ["mount: a bad value", () => ["mount", URL, at("empty"), "-o", "attr_timeout=x"], 2, /attr_timeout needs seconds/],
  ["mount: a missing path", () => ["mount", URL, at("missing")], 5, /missing' does not exist; make it with mkdir/],
  ["mount: a file", () => ["mount", URL, at("file")], 5, /file' is not a directory; mount at an empty directory/],
  ["mount: a path that is not empty", () => ["mount", URL, at("full")], 5, /full' is not empty; .*-o nonempty/],
  ["mount: nobody listens", () => ["mount", URL, at("empty")], 3, /127\.0\.0\.1:1/],
  ["mount --foreground: nobody listens", () => ["mount", URL, at("empty"), "--foreground"], 3, /127\.0\.0\.1:1/],
  ["umount: a missing path", () => ["umount", at("missing")], 5, /missing' does not exist/],
  [
    "umount: nothing is mounted",
    () => ["umount", at("empty")],
    5,
    /nothing is mounted at .*empty'; see 'netdrive list'/,
  ],
  ["umount: a mount of somebody else", () => ["umount", "/proc"], 5, /is a mount of proc, not of netdrive/],
  ["up: half of the arguments", () => ["up", at("empty")], 2, /give DIR and PATH, or neither/],
  ["up: a missing directory", () => ["up", at("missing"), at("empty")], 5, /missing' does not exist/],
  ["up: a path that is not empty", () => ["up", at("empty"), at("full")], 5, /full' is not empty/],
  ["up: a path within the directory", () => ["up", at("."), at("empty")], 5, /lies in the directory that is served/],
  ["up: a path that cannot be made", () => ["up", at("empty"), at("no/such/place")], 5, /cannot be made/],
];

for (const [name, args, code, message] of cases) test(name, () => fails(args(), code, message));

test("help and version are on standard output, with exit code 0", async () => {
  const help = await command(process.execPath, netdrive("--help"));
  for (const word of ["serve", "mount", "umount", "up", "list", "Exit codes"])
    assert.ok(help.stdout.includes(word), word);
  assert.ok(!help.stdout.includes("daemon"));
  for (const name of ["serve", "mount", "umount", "up", "list"]) {
    const { stdout, stderr } = await command(process.execPath, netdrive(name, "--help"));
    assert.match(stdout, /Examples?:\n {2}(\w+=\S+ )?netdrive /, name);
    assert.equal(stderr, "");
  }
  const { version } = JSON.parse(readFileSync("package.json", "utf8")) as { version: string };
  assert.equal((await command(process.execPath, netdrive("--version"))).stdout, `${version}\n`);
});

test("without /dev/fuse, or the right to open it, mounting says so", async () => {
  // A mount namespace of its own, with another /dev.
  const device = "mknod -m 666 /dev/fuse c 10 229";
  const machines: [script: string, message: RegExp][] = [
    ["mount -t tmpfs none /dev", /^netdrive: there is no \/dev\/fuse; load the module .*modprobe fuse.*\n$/],
    [`mount -t tmpfs -o nodev none /dev; ${device}`, /^netdrive: this user may not open \/dev\/fuse \(EACCES\); .*\n$/],
  ];
  for (const [script, message] of machines) {
    const shell = ["--mount", "--propagation", "private", "bash", "-c", `${script}; exec "$@"`, "-"];
    const line = [...shell, process.execPath, ...netdrive("mount", URL, at("empty"))];
    assert.match((await command("unshare", line, { codes: [6] })).stderr, message);
  }
});

test("a user cannot mount at somebody else's directory, nor for others, nor squash less than all", async () => {
  const env = { ...process.env, NETDRIVE_RUNTIME: at("runtime") };
  const run = (code: number, ...args: string[]) =>
    command("unshare", asUser(...netdrive(...args)), { codes: [code], env });
  const elsewhere = await run(6, "mount", URL, at("empty"));
  assert.match(
    elsewhere.stderr,
    /^netdrive: '.*empty' is not this user's to mount at; take a directory of your own\n$/,
  );
  const forOthers = await run(6, "mount", URL, at("empty"), "-o", "allow_other");
  assert.match(
    forOthers.stderr,
    /^netdrive: allow_other needs the line 'user_allow_other' in \/etc\/fuse.conf; add it as root\n$/,
  );
  const withDevices = await run(6, "mount", URL, at("empty"), "-o", "dev");
  assert.match(withDevices.stderr, /^netdrive: only root may mount with -o suid or -o dev; leave them out\n$/);
  for (const squash of ["root", "none"]) {
    const { stderr } = await run(2, "serve", at("empty"), "--squash", squash);
    assert.match(stderr, /^netdrive: --squash (root|none) needs a server that runs as root; leave it out/);
  }
});
