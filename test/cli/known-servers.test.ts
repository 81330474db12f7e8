/** The file of servers that the user has said yes to. */
import assert from "node:assert/strict";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, test } from "node:test";
import { addKnownServer, findKnownServer, knownServersFile } from "../../src/cli/known-servers.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("known");
after(() => temp.remove());
const file = join(temp.path, "config/netdrive/known_servers");
const FP = Buffer.alloc(32, 1).toString("base64url");
const OTHER = Buffer.alloc(32, 2).toString("base64url");

test("it is where the environment says, else in the user's configuration", () => {
  assert.equal(knownServersFile({ NETDRIVE_KNOWN_SERVERS: "/x", XDG_CONFIG_HOME: "/y" }), "/x");
  assert.equal(knownServersFile({ XDG_CONFIG_HOME: "/y" }), "/y/netdrive/known_servers");
  assert.match(knownServersFile({}), /\/\.config\/netdrive\/known_servers$/);
});

test("what was added is found by host and port, and by nothing else", () => {
  const place = { host: "Files.example", port: 7378 };
  assert.equal(findKnownServer(place, file), undefined);
  addKnownServer(place, FP, file);
  addKnownServer({ host: "::1", port: 1 }, OTHER, file);
  assert.equal(findKnownServer({ host: "files.EXAMPLE", port: 7378 }, file), FP);
  assert.equal(findKnownServer({ host: "::1", port: 1 }, file), OTHER);
  assert.equal(findKnownServer({ host: "files.example", port: 737 }, file), undefined);
  assert.equal(readFileSync(file, "utf8"), `files.example:7378 ${FP}\n[::1]:1 ${OTHER}\n`);
  assert.equal(statSync(file).mode & 0o777, 0o600);
});

test("comments and empty lines mean nothing, a damaged line is named", () => {
  writeFileSync(file, `# mine\n\n  h:1   ${FP}  a note\nh:2 ${FP.slice(1)}\n`);
  assert.equal(findKnownServer({ host: "h", port: 1 }, file), FP);
  assert.throws(() => findKnownServer({ host: "h", port: 2 }, file), {
    exitCode: 5,
    message: /^line 4 of .*; remove it/,
  });
});

test("what is added is a line of its own also where the last one has no end", () => {
  writeFileSync(file, `h:1 ${FP}`);
  addKnownServer({ host: "h", port: 2 }, OTHER, file);
  addKnownServer({ host: "h", port: 3 }, FP, file);
  assert.equal(readFileSync(file, "utf8"), `h:1 ${FP}\nh:2 ${OTHER}\nh:3 ${FP}\n`);
});

test("a file that cannot be read or written is one line", () => {
  const bad = join(file, "below-a-file");
  assert.throws(() => findKnownServer({ host: "h", port: 1 }, bad), { exitCode: 5, message: /cannot be read: / });
  assert.throws(() => addKnownServer({ host: "h", port: 1 }, FP, bad), { exitCode: 5, message: /cannot be written: / });
});
