/** What users are told of an error, and with which exit code. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CommanderError } from "commander";
import { CloseCode, ConnectionError, FsError, ProtocolError } from "../../src/base/errors.ts";
import { Exit, explain, failure } from "../../src/cli/failure.ts";

const lost = (cause: unknown) => new ConnectionError("h:1 closed the connection: no", { retryable: false, cause });

const cases: [name: string, thrown: unknown, exit: number, text: RegExp][] = [
  ["a failure of a command", failure(Exit.PATH, "that; do this"), 5, /^that; do this$/],
  ["the option parser's", new CommanderError(1, "commander.unknownOption", "no"), 1, /^no$/],
  [
    "a wrong token",
    new ProtocolError(CloseCode.AUTHENTICATION, "x"),
    4,
    /refuses the token, or user and password; use the URL/,
  ],
  [
    "a wrong token, as told by a goodbye",
    lost(new ProtocolError(CloseCode.AUTHENTICATION, "x")),
    4,
    /refuses the token, or/,
  ],
  ["an unknown share", lost(new ProtocolError(CloseCode.UNKNOWN_SHARE, "x")), 4, /no share of this name; /],
  ["a full server", lost(new ProtocolError(CloseCode.BUSY, "x")), 4, /takes no more sessions; try again/],
  [
    "a channel the server does not take",
    lost(new ProtocolError(CloseCode.SECURITY, "tls")),
    4,
    /: tls; see --security/,
  ],
  [
    "a server with another key",
    new ProtocolError(CloseCode.SECURITY, "the key is x"),
    8,
    /^the key is x; somebody may/,
  ],
  ["a server that ends", lost(new ProtocolError(CloseCode.SHUTDOWN, "x")), 3, /going down; try again/],
  ["another version", lost(new ProtocolError(CloseCode.VERSION, "x")), 4, /no common version; /],
  ["a peer that breaks the rules", new ProtocolError(CloseCode.MALFORMED, "odd"), 3, /no netdrive server.*: odd$/],
  ["a lost connection", lost(new Error("x")), 3, /closed the connection: no; check host and port/],
  ["a missing right", new FsError("EACCES", "mount", "/x"), 6, /^EACCES: mount '\/x'$/],
  ["another error of the file system", new FsError("EIO", "mount"), 1, /^EIO: mount$/],
  ["a missing right of Node", Object.assign(new Error("EPERM: no"), { code: "EPERM" }), 6, /^EPERM: no$/],
  ["a bug", new TypeError("x is not a function\n    at y"), 1, /^x is not a function$/],
  ["something that is no error", "odd\n\x1b[31m", 1, /^odd\\u000a\\u001b\[31m$/],
];

for (const [name, thrown, exit, text] of cases) {
  test(`${name} is one line and a code`, () => {
    const explained = explain(thrown);
    assert.equal(explained.exit, exit);
    assert.match(explained.text, text);
  });
}
