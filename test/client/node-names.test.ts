import assert from "node:assert/strict";
import { test } from "node:test";
import { FsError } from "../../src/base/errors.ts";
import type { Name } from "../../src/base/name.ts";
import { FORGOTTEN_MAX, NodeNames, type Walker } from "../../src/client/node-names.ts";
import { NO_ATTR } from "../../src/vfs/attr.ts";
import type { NodeId } from "../../src/vfs/file-system.ts";

const id = (text: string) => text as NodeId;
const name = (text: string) => text as Name;

/** A server that knows the nodes it was asked for, in a tree of paths: `a/b` is the node `A/B`. */
class Server implements Walker {
  readonly known = new Set<string>();
  readonly asked: string[] = [];
  /** Names that lead elsewhere than they did. */
  readonly changed = new Map<string, string>();

  async root() {
    this.asked.push("root");
    this.known.add("R");
    return { id: id("R"), attr: NO_ATTR };
  }

  async lookup(parent: NodeId, entry: Name) {
    this.asked.push(`${parent}/${entry}`);
    if (!this.known.has(parent)) throw new FsError("ESTALE", "lookup");
    const found = this.changed.get(`${parent}/${entry}`) ?? `${parent}/${entry}`;
    if (found === "") throw new FsError("ENOENT", "lookup");
    this.known.add(found);
    return { id: id(found), attr: NO_ATTR };
  }
}

function met(): NodeNames {
  const names = new NodeNames();
  names.met(id("R/a"), id("R"), name("a"));
  names.met(id("R/a/b"), id("R/a"), name("b"));
  names.met(id("R/a/b/c"), id("R/a/b"), name("c"));
  return names;
}

test("a node is found by its name where the server still knows the directory", async () => {
  const server = new Server();
  server.known.add("R/a/b");
  assert.equal(await met().find([id("R/a/b/c")], server), true);
  assert.deepEqual(server.asked, ["R/a/b/c"]);
});

test("the way is walked from the root where the server knows nothing, each part once for many nodes", async () => {
  const server = new Server();
  const names = met();
  names.met(id("R/a/b/d"), id("R/a/b"), name("d"));
  const found = await Promise.all([names.find([id("R/a/b/c")], server), names.find([id("R/a/b/d")], server)]);
  assert.deepEqual(found, [true, true]);
  assert.equal(server.asked.filter((text) => text === "root").length, 1);
  assert.ok(server.known.has("R/a/b/c") && server.known.has("R/a/b/d"));
});

test("what is not where it was, or is another node, is stale", async () => {
  for (const [at, leads] of [
    ["R/a", "X"],
    ["R/a/b", ""],
    ["R/a/b/c", "X"],
  ] as const) {
    const server = new Server();
    server.changed.set(at, leads);
    assert.equal(await met().find([id("R/a/b/c")], server), false, at);
  }
  assert.equal(await met().find([id("never met")], new Server()), false);
});

test("a node that had a name before is forgotten without the one that has it now", async () => {
  const names = met();
  names.met(id("R/a/new"), id("R/a"), name("b"));
  names.forget([id("R/a/b")]);
  for (let count = 0; count < FORGOTTEN_MAX; count += 1) {
    names.met(id(`R/${count}`), id("R"), name(`${count}`));
    names.forget([id(`R/${count}`)]);
  }
  names.moved({ parent: id("R/a"), name: name("b") }, { parent: id("R"), name: name("new") }, false);
  const server = new Server();
  server.changed.set("R/new", "R/a/new");
  assert.equal(await names.find([id("R/a/new")], server), true);
});

test("a node that this client has moved is found where it is now", async () => {
  const server = new Server();
  server.changed.set("R/z", "R/a/b/c");
  const names = met();
  names.moved({ parent: id("R/a/b"), name: name("c") }, { parent: id("R"), name: name("z") }, false);
  assert.equal(await names.find([id("R/a/b/c")], server), true);
  assert.deepEqual(server.asked, ["R/z", "root", "R/z"]);
  names.moved({ parent: id("R"), name: name("z") }, { parent: id("R"), name: name("a") }, true);
  server.changed.set("R/z", "R/a").set("R/a", "R/a/b/c");
  assert.equal(await names.find([id("R/a"), id("R/a/b/c")], server), true);
});

test("what was forgotten is found for a while, then it is not, and nothing else is lost with it", async () => {
  const names = met();
  names.forget([id("R/a/b/c"), id("unknown")]);
  assert.equal(await names.find([id("R/a/b/c")], new Server()), true);
  for (let count = 0; count < FORGOTTEN_MAX; count += 1) {
    names.met(id(`R/${count}`), id("R"), name(`${count}`));
    names.forget([id(`R/${count}`)]);
  }
  assert.equal(await names.find([id("R/a/b/c")], new Server()), false);
  assert.equal(await names.find([id("R/a/b")], new Server()), true);
});

test("a connection that is lost on the way is no verdict", async () => {
  const server = new Server();
  server.root = () => Promise.reject(new Error("lost"));
  await assert.rejects(met().find([id("R/a/b/c")], server), /lost/);
});
