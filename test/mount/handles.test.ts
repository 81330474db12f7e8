/** One open file handed to another client: `netdrive handle` with a server, a mount, a program that holds the file, and whoever has the ticket. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { join } from "node:path";
import { after, before, test } from "node:test";
import type { DriveStatus } from "../../src/cli/status-socket.ts";
import { type CommandResult, command, type Service, startService } from "../support/child.ts";
import { type Drive, netdrive, startDrive } from "../support/drive.ts";
import { settle } from "../support/fake-clock.ts";
import { smallTmpfs } from "../support/small-disk.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("handles");
process.env["NETDRIVE_RUNTIME"] = join(temp.path, "runtime");
let drive: Drive;
before(async () => {
  drive = await startDrive();
});
after(async () => {
  await drive.close();
  await temp.remove();
});

const NOT_GOOD =
  "netdrive: the ticket is not good, or not any more: it was used, a newer one was made, or the file is closed\n";

/** Who has nothing but a ticket. */
function handle(args: string[], codes = [0], input = ""): Promise<CommandResult> {
  return command(process.execPath, netdrive("handle", ...args), { codes, input, timeoutMs: 60_000 });
}

async function ticketFor(path: string): Promise<string> {
  const { stdout } = await handle(["export", path]);
  assert.match(stdout, /^netdrive-ticket-1\.[\w-]+\n$/);
  return stdout.trim();
}

/** The same ticket with something changed. */
function altered(ticket: string, change: (inside: Record<string, string | number>) => object): string {
  const [name, encoded = ""] = ticket.split(".");
  const inside = JSON.parse(Buffer.from(encoded, "base64url").toString()) as Record<string, string | number>;
  return `${name}.${Buffer.from(JSON.stringify({ ...inside, ...change(inside) })).toString("base64url")}`;
}

/** A program that opens a file of the drive as fopen(3) has it, writes `text`, perhaps removes the name, and holds it until it is ended. */
async function hold(
  name: string,
  flags: string,
  text: string,
  isUnlinked = false,
): Promise<{ fd: string; program: Service }> {
  const script = `const fs = require("fs"); const [, path, flags, text, unlinked] = process.argv;
    const fd = fs.openSync(path, flags); if (text) fs.writeSync(fd, text); if (unlinked) fs.unlinkSync(path);
    console.log("/proc/" + process.pid + "/fd/" + fd); process.stdin.resume();`;
  const args = ["-e", script, join(drive.path, name), flags, text, isUnlinked ? "unlinked" : ""];
  const program = startService(process.execPath, args, { cwd: "/", hasInput: true });
  return { fd: await program.firstLine, program };
}

/** Files that are open on the drive. */
async function openCount(): Promise<number> {
  const { stdout } = await command(process.execPath, netdrive("status", drive.path, "--json"), { timeoutMs: 60_000 });
  return (JSON.parse(stdout) as [DriveStatus])[0].remote.opens;
}

test("a file that is open to append and has no name is read and appended to by a ticket", async () => {
  const { fd, program } = await hold("gone", "a+", "first ", true);
  try {
    assert.ok(!existsSync(join(drive.directory, "gone")));
    await handle(["write", await ticketFor(fd)], [0], "second ");
    assert.equal((await handle(["cat", await ticketFor(fd)])).stdout, "first second ");
  } finally {
    await program.end();
  }
});

test("what is handed on stays open when the program that made it has closed it", async () => {
  const { fd, program } = await hold("log", "a", "one ");
  const writer = startService(process.execPath, netdrive("handle", "write", await ticketFor(fd)), { hasInput: true });
  try {
    writer.tell("two ");
    while (readFileSync(join(drive.directory, "log"), "utf8") !== "one two ") await settle();
    await program.end();
    writer.process.stdin?.end("three");
    assert.equal(await writer.exited, 0, writer.errors());
    assert.equal(readFileSync(join(drive.directory, "log"), "utf8"), "one two three");
  } finally {
    await writer.end();
    await program.end();
  }
});

test("a program that has read the file it holds open reads what is written by a ticket, by the same descriptor", async () => {
  writeFileSync(join(drive.directory, "held"), "old,".repeat(16_384).slice(0, -1));
  // It prints how the file ends whenever that has changed.
  const script = `const fs = require("fs"); const fd = fs.openSync(process.argv[1], "r+"); const buffer = Buffer.alloc(100_000);
    console.log("/proc/" + process.pid + "/fd/" + fd);
    for (let last = ""; ; Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5)) {
      const bytes = fs.readSync(fd, buffer, 0, buffer.length, 0);
      const end = buffer.toString("latin1", bytes - 7, bytes) + " " + bytes;
      if (end !== last) console.log(end);
      last = end;
    }`;
  const args = ["-e", script, join(drive.path, "held")];
  const program = startService(process.execPath, args, { cwd: "/" });
  try {
    const fd = await program.firstLine;
    await program.line("old,old 65535");
    await handle(["write", await ticketFor(fd), "--offset", "65532"], [0], "new");
    await program.line("old,new 65535");
    await handle(["write", await ticketFor(fd), "--offset", "65535"], [0], ",more");
    await program.line("ew,more 65540");
  } finally {
    await program.end();
  }
});

test("a ticket that was used, is old, altered, or of a closed file is one clear line", async () => {
  const before = await openCount();
  const { fd, program } = await hold("f", "w+", "content");
  try {
    const used = await ticketFor(fd);
    assert.equal((await handle(["cat", used])).stdout, "content");
    assert.equal((await handle(["cat", used], [4])).stderr, NOT_GOOD);
    const old = await ticketFor(fd);
    const closed = await ticketFor(fd);
    assert.equal((await handle(["write", old], [4])).stderr, NOT_GOOD);
    const withOtherKey = altered(closed, ({ k }) => {
      const key = Buffer.from(String(k), "base64url");
      key[0] = (key[0] ?? 0) ^ 1;
      return { k: key.toString("base64url") };
    });
    assert.equal((await handle(["cat", withOtherKey], [4])).stderr, NOT_GOOD);
    assert.match(
      (await handle(["cat", closed.slice(0, -30)], [2])).stderr,
      /^netdrive: this is no whole ticket; [^\n]+\n$/,
    );
    await program.end();
    // The close of a file travels behind the end of the program.
    while ((await openCount()) > before) await settle();
    assert.equal((await handle(["cat", closed], [4])).stderr, NOT_GOOD);
  } finally {
    await program.end();
  }
});

test("a ticket gives the access of the open, and a file that nobody holds is opened for it", async () => {
  writeFileSync(join(drive.directory, "read"), "to be read");
  const { fd, program } = await hold("read", "r", "");
  try {
    const { stderr } = await handle(["write", await ticketFor(fd)], [4], "x");
    assert.match(stderr, /^netdrive: whoever made the ticket has not opened the file for this\n$/);
  } finally {
    await program.end();
  }
  writeFileSync(join(drive.directory, "free"), "0123456789");
  await handle(["write", await ticketFor(join(drive.path, "free")), "--offset", "4"], [0], "xy");
  assert.equal(readFileSync(join(drive.directory, "free"), "utf8"), "0123xy6789");
});

test("a copy that is not whole is a failure: of a disk that is full before its end or from its beginning, of a reader who goes", async () => {
  await using disk = await smallTmpfs(1 << 20);
  const big = join(drive.path, "big");
  writeFileSync(join(drive.directory, "big"), Buffer.alloc(3 << 19, "b"));
  const copies = [
    [`"$@" > "${join(disk.path, "copy")}"`, /^netdrive: standard output cannot be written: ENOSPC: [^\n]+\n$/],
    ['"$@" > /dev/full', /^netdrive: standard output cannot be written: ENOSPC: [^\n]+\n$/],
    ['"$@" | head --bytes 1 > /dev/null', /^netdrive: standard output cannot be written: [^\n]*EPIPE[^\n]*\n$/],
  ] as const;
  for (const [script, message] of copies) {
    const cat = [process.execPath, ...netdrive("handle", "cat", await ticketFor(big))];
    const args = ["--norc", "-euo", "pipefail", "-c", script, "-", ...cat];
    assert.match((await command("bash", args, { codes: [1], timeoutMs: 60_000 })).stderr, message);
  }
});

test("a signal ends who waits for what is to be written, and who waits for a reader", async (t) => {
  const input = join(drive.directory, "input");
  writeFileSync(input, "");
  const write = netdrive("handle", "write", await ticketFor(join(drive.path, "input")));
  const writer = startService(process.execPath, write, { hasInput: true });
  t.after(() => writer.end("SIGKILL"));
  writer.tell("so far");
  while (readFileSync(input, "utf8") !== "so far") await Promise.race([settle(), writer.crashed]);
  const closed = once(writer.process, "close");
  assert.equal(await writer.end("SIGINT"), 1);
  await closed;
  assert.equal(writer.errors(), "netdrive: interrupted\n");

  writeFileSync(join(drive.directory, "output"), `first\n${"x".repeat(8 << 20)}`);
  const cat = netdrive("handle", "cat", await ticketFor(join(drive.path, "output")));
  const reader = startService(process.execPath, cat);
  t.after(() => reader.end("SIGKILL"));
  assert.equal(await reader.firstLine, "first");
  reader.process.stdout?.pause();
  assert.equal(await reader.end("SIGTERM"), 1);
});

test("a ticket is not in the argument list others can read", async (t) => {
  const silent = createServer().listen(0, "127.0.0.1");
  t.after(() => silent.close());
  await once(silent, "listening");
  const { port } = silent.address() as AddressInfo;
  writeFileSync(join(drive.directory, "secret"), "");
  const ticket = altered(await ticketFor(join(drive.path, "secret")), () => ({ p: port }));
  const cat = startService(process.execPath, netdrive("handle", "cat", ticket));
  t.after(() => cat.end("SIGKILL"));
  await Promise.race([once(silent, "connection"), cat.crashed]);
  assert.match(readFileSync(`/proc/${cat.pid}/cmdline`, "utf8"), /^netdrive handle cat\0*$/);
});

test("who uses a ticket may learn how the connection is protected, on standard error", async () => {
  writeFileSync(join(drive.directory, "told"), "told");
  const path = join(drive.path, "told");
  const quiet = await handle(["cat", await ticketFor(path)]);
  assert.deepEqual([quiet.stdout, quiet.stderr], ["told", ""]);
  const said = await handle(["cat", await ticketFor(path), "--log-level", "info"]);
  assert.equal(said.stdout, "told");
  assert.match(said.stderr, / info \w+: connected to \S+; channels: control \(tls \w+\), io \(tls \w+\)\n/);
});

test("what is on no drive, is no file, or no ticket at all is one clear line", async () => {
  assert.match((await handle(["export", "/"], [5])).stderr, /^netdrive: '\/' is on no drive of yours; [^\n]+\n$/);
  assert.match((await handle(["export", drive.path], [1])).stderr, /^netdrive: no ticket for [^\n]+\n$/);
  assert.match((await handle(["cat"], [2])).stderr, /^netdrive: no ticket given; [^\n]+\n$/);
  assert.match((await handle(["cat", "nonsense"], [2])).stderr, /^netdrive: this is no whole ticket; [^\n]+\n$/);
  assert.match((await handle(["copy"], [2])).stderr, /^netdrive: [^\n]+\n$/);
});
