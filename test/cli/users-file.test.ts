/** The file of users: what it holds, how it is changed, and what becomes of a damaged one. */
import assert from "node:assert/strict";
import { closeSync, mkdirSync, openSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, beforeEach, test } from "node:test";
import { createLog } from "../../src/base/log.ts";
import { changeUsers, readUsers, WatchedUsers } from "../../src/cli/users-file.ts";
import { command } from "../support/child.ts";
import { FakeClock } from "../support/fake-clock.ts";
import { knownUser } from "../support/known-users.ts";
import { smallTmpfs } from "../support/small-disk.ts";
import { makeTemp } from "../support/temp.ts";

const temp = makeTemp("users");
after(() => temp.remove());
const anna = await knownUser("anna", "secret", { "*": "rw", films: "ro" });
const bert = await knownUser("bert", "other", {});
let folder = "";
let count = 0;
const file = () => join(folder, "users.json");

beforeEach(() => {
  folder = join(temp.path, `state-${++count}`);
});

const add = (...users: (typeof anna)[]) =>
  changeUsers(folder, async (list) => {
    for (const user of users) list.set(user.name, user);
  });

test("what is written is read back, is for its owner only, and holds no password", async () => {
  assert.equal(readUsers(folder).users.size, 0);
  await add(anna, bert);
  const { users, decoySecret } = readUsers(folder);
  assert.deepEqual([...users.values()], [anna, bert]);
  assert.equal(decoySecret.length, 32);
  assert.equal(statSync(file()).mode & 0o777, 0o600);
  assert.doesNotMatch(readFileSync(file(), "utf8"), /secret"|other/);
  await changeUsers(folder, async (list) => void list.delete("anna"));
  const left = readUsers(folder);
  assert.deepEqual([...left.users.keys()], ["bert"]);
  assert.deepEqual(left.decoySecret, decoySecret);
  assert.deepEqual(readdirSync(folder), ["users.json"]);
});

test("a change that fails leaves the file as it was, and nothing beside it", async () => {
  await add(anna);
  const before = readFileSync(file());
  await assert.rejects(
    changeUsers(folder, async (users) => {
      users.clear();
      throw new Error("no");
    }),
    /^Error: no$/,
  );
  assert.deepEqual(readFileSync(file()), before);
  assert.deepEqual(readdirSync(folder), ["users.json"]);
});

test("two changes at once: the second is told to wait, and none is lost", async () => {
  let finish: () => void = () => {};
  const first = changeUsers(folder, async (users) => {
    users.set("anna", anna);
    await new Promise<void>((resolve) => {
      finish = resolve;
    });
  });
  await assert.rejects(add(bert), { exitCode: 5, message: /another command changes the users .*; try again when/ });
  finish();
  await first;
  await add(bert);
  assert.deepEqual([...readUsers(folder).users.keys()], ["anna", "bert"]);
});

test("a damaged file is one line that names it, wherever the damage is", async () => {
  await add(anna);
  const good = readFileSync(file(), "utf8");
  const parsed = JSON.parse(good) as { users: Record<string, unknown>[] };
  const withUser = (change: object) => JSON.stringify({ ...parsed, users: [{ ...parsed.users[0], ...change }] });
  const damages = [
    "",
    good.slice(0, -20),
    "null",
    "[]",
    "{}",
    JSON.stringify({ ...parsed, format: 2 }),
    JSON.stringify({ ...parsed, users: {} }),
    JSON.stringify({ ...parsed, users: [null] }),
    JSON.stringify({ ...parsed, decoySecret: "" }),
    withUser({ name: "a b" }),
    withUser({ name: 5 }),
    withUser({ salt: "AAAA" }),
    withUser({ storedKey: undefined }),
    withUser({ serverKey: "x" }),
    withUser({ iterations: 1 }),
    withUser({ iterations: "4096" }),
    withUser({ shares: { films: "all" } }),
    withUser({ shares: { "a/b": "ro" } }),
  ];
  for (const damage of damages) {
    writeFileSync(file(), damage);
    const isLine = { exitCode: 5, message: /^[^\n]*users\.json is damaged: [^\n]+; restore it, or remove it and add/ };
    assert.throws(() => readUsers(folder), isLine, damage);
    await assert.rejects(add(bert), isLine);
    assert.equal(readFileSync(file(), "utf8"), damage);
  }
  mkdirSync(join(temp.path, "folder/users.json"), { recursive: true });
  assert.throws(() => readUsers(join(temp.path, "folder")), { exitCode: 5, message: /--state .* cannot be used: / });
});

test("a running server sees a change at the next login, or soon, and tells it once", async () => {
  const clock = new FakeClock();
  const lines: string[] = [];
  const users = new WatchedUsers(folder, {
    clock,
    log: createLog({ level: "info", clock, sink: (line) => lines.push(line) }),
  });
  let changes = 0;
  users.onChange = () => {
    changes += 1;
  };
  assert.deepEqual([users.count, users.find("anna")], [0, undefined]);
  await add(anna);
  assert.deepEqual(users.find("anna"), anna);
  assert.equal(changes, 1);
  users.find("anna");
  assert.equal(changes, 1);
  const { decoySecret } = users;
  await changeUsers(folder, async (list) => list.clear());
  clock.advance(2000);
  assert.deepEqual([changes, users.count], [2, 0]);
  assert.deepEqual(users.decoySecret, decoySecret);
  users.close();
  assert.equal(clock.pendingCount, 0);
});

test("damage while the server runs changes nothing, and is logged once", async () => {
  await add(anna);
  const clock = new FakeClock();
  const lines: string[] = [];
  const users = new WatchedUsers(folder, {
    clock,
    log: createLog({ level: "info", clock, sink: (line) => lines.push(line) }),
  });
  writeFileSync(file(), "garbage");
  clock.advance(2000);
  clock.advance(2000);
  assert.deepEqual(users.find("anna"), anna);
  assert.equal(lines.length, 1);
  assert.match(lines[0] ?? "", /error .*users stay as they were: .*users\.json is damaged/);
  users.close();
});

/** Does something while this process has no descriptor left. */
async function withoutDescriptors(act: () => void): Promise<void> {
  const limit = (soft: string) => command("prlimit", ["--pid", String(process.pid), `--nofile=${soft}:`]);
  const before = /Max open files\s+(\d+)/.exec(readFileSync("/proc/self/limits", "utf8"))?.[1] ?? "1024";
  await limit("100");
  const taken: number[] = [];
  try {
    assert.throws(
      () => {
        for (;;) taken.push(openSync("/dev/null", "r"));
      },
      { code: "EMFILE" },
    );
    act();
  } finally {
    for (const descriptor of taken) closeSync(descriptor);
    await limit(before);
  }
}

test("a change that cannot be read at once, for want of descriptors, is logged once and seen when it can", async () => {
  await add(anna, bert);
  const clock = new FakeClock();
  const lines: string[] = [];
  const users = new WatchedUsers(folder, {
    clock,
    log: createLog({ level: "error", clock, sink: (line) => lines.push(line) }),
  });
  let changes = 0;
  users.onChange = () => {
    changes += 1;
  };
  await changeUsers(folder, async (list) => void list.delete("anna"));
  await withoutDescriptors(() => {
    clock.advance(2000);
    assert.deepEqual(users.find("anna"), anna);
  });
  assert.equal(changes, 0);
  assert.equal(lines.length, 1);
  assert.match(lines[0] ?? "", /users stay as they were: .*EMFILE/);
  clock.advance(2000);
  assert.deepEqual([changes, users.find("anna")], [1, undefined]);
  users.close();
});

test("on a disk without room for all users a change fails, and the users stay as they were", async () => {
  await using disk = await smallTmpfs(32_768);
  folder = disk.path;
  await add(anna);
  const many = Array.from({ length: 200 }, (_, index) => ({ ...bert, name: `bert${index}` }));
  await assert.rejects(add(...many), { code: "ENOSPC" });
  assert.deepEqual([...readUsers(folder).users.values()], [anna]);
  assert.deepEqual(readdirSync(folder), ["users.json"]);
});
