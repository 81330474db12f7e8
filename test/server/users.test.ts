/** Logging in with a password, and channel binding, against a real server in memory: who gets in, to what, and who does not. */
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { test } from "node:test";
import { CloseCode, ProtocolError } from "../../src/base/errors.ts";
import { keySecret, tokenKey } from "../../src/resume/proof.ts";
import { ITERATIONS_MIN, scramKeys, scramProver } from "../../src/resume/scram.ts";
import { accessOf, challengeUser, noUsers, type User } from "../../src/server/users.ts";
import { settle } from "../support/fake-clock.ts";
import { fakeDrive } from "../support/fake-server.ts";
import { KnownUsers, knownUser } from "../support/known-users.ts";
import { ctx, linkDrive, named, type Peer, TOKEN } from "../support/link-drive.ts";

/** What two ends of a TLS connection know. */
const binding = randomBytes(32);
const anna = await knownUser("anna", "secret");
const bert = await knownUser("bert", "other", { share: "ro", films: "rw" });
const carl = await knownUser("carl", "third", { films: "rw" });
const users = new KnownUsers(anna, bert, carl);

/** Logs a peer in as a client would. @returns its last frame. */
function logIn(peer: Peer, user: string, password: string, change: Parameters<Peer["hello"]>[0] = {}): Promise<string> {
  return peer.prove({ user, ...change }, async ({ salt, iterations }) =>
    scramProver(await scramKeys(password, salt, iterations)),
  );
}

test("a user gets in with the password, and both sides have the same session key", async () => {
  const drive = linkDrive({ users });
  const peer = drive.peer(binding);
  assert.match(await logIn(peer, "anna", "secret"), /^auth reply .*readOnly=false/);
  const io = drive.peer(binding);
  const joined = await io.setUp({ channelKind: 2, sessionId: peer.sessionId }, peer.sessionKey);
  assert.match(joined, /^auth reply/);
  assert.ok(drive.lines.some((line) => /anna at memory client opened share 'share'/.test(line)));
});

test("the client's own login works, and nothing else of it changes", async () => {
  const drive = linkDrive({ users });
  const { remote } = await drive.connect({ user: "anna", password: "secret", binding });
  await remote.fileSystem.root(ctx);
  await remote.close();
});

test("a wrong password, a user there is not, and another user's password are refused alike", async () => {
  const { peer: newPeer } = linkDrive({ users });
  const ends = [
    await logIn(newPeer(binding), "anna", "Secret"),
    await logIn(newPeer(binding), "nobody", "secret"),
    await logIn(newPeer(binding), "anna", "other"),
  ];
  assert.deepEqual(new Set(ends), new Set(['goodbye tag=0 code=5 reason="wrong user or password"']));
});

test("a user there is not has a salt that stays, as real ones have", async () => {
  const { peer: newPeer } = linkDrive({ users });
  const challenges = [];
  for (const name of ["nobody", "nobody", "anna", "anna"]) {
    const peer = newPeer(binding);
    let salt = "";
    await peer.prove({ user: name }, async (challenge) => {
      salt = challenge.salt.toString("hex");
      return keySecret(Buffer.alloc(32), "open");
    });
    challenges.push(salt);
  }
  const [first, second, third, fourth] = challenges;
  assert.equal(first, second);
  assert.equal(third, fourth);
  assert.notEqual(first, third);
  assert.equal(first?.length, third?.length);
});

test("a server without users refuses every user as one with users does", () => {
  const { user, salt, iterations, verifier } = challengeUser(noUsers(), "anna");
  assert.equal(user, undefined);
  assert.equal(salt.length, anna.salt.length);
  assert.ok(iterations >= ITERATIONS_MIN);
  assert.equal(verifier.check(Buffer.alloc(32), Buffer.alloc(32)), undefined);
});

test("each user sees the shares that are given to it, and changes those it may change", async () => {
  const drive = linkDrive({ users });
  const { remote } = await drive.connect({ user: "bert", password: "other", binding });
  assert.equal(remote.share.readOnly, true);
  await remote.close();
  // The client believes the welcome; a client that does not is refused by the server.
  const peer = drive.peer(binding);
  assert.match(await logIn(peer, "bert", "other"), /readOnly=true/);
  const { caller } = ctx;
  peer.send("root", { caller }, { tag: 1 });
  await settle();
  const parent = Buffer.from(/id=([0-9a-f]+)/.exec(peer.frames.at(-1) ?? "")?.[1] ?? "", "hex").toString("latin1");
  peer.send("mkdir", { caller, parent: parent as never, name: named("d"), mode: 0o755, umask: 0 }, { tag: 1 });
  await settle();
  assert.match(peer.frames.at(-1) ?? "", /^mkdir reply .*EROFS/);
  const none = await logIn(drive.peer(binding), "carl", "third");
  const unknown = await logIn(drive.peer(binding), "carl", "third", { share: "shore" });
  assert.equal(none, `goodbye tag=0 code=6 reason="no share 'share' here"`);
  assert.equal(unknown, `goodbye tag=0 code=6 reason="no share 'shore' here"`);
});

test("what a share is called decides before what is for all others", async () => {
  const user = await knownUser("u", "p", { a: "ro", "*": "rw" });
  assert.deepEqual([accessOf(user, "a"), accessOf(user, "b")], ["ro", "rw"]);
  assert.equal(accessOf(bert, "b"), undefined);
});

test("the token still gets in beside users, and without one only users do", async () => {
  const drive = linkDrive({ users });
  assert.match(await drive.peer(binding).setUp(), /^auth reply/);
  const tokenless = linkDrive({ users, isTokenless: true });
  for (const token of [TOKEN, Buffer.alloc(0), Buffer.from("undefined")]) {
    assert.match(await tokenless.peer(binding).setUp({}, tokenKey(token)), /^goodbye tag=0 code=5 /);
  }
  assert.match(await logIn(tokenless.peer(binding), "anna", "secret"), /^auth reply/);
});

test("a password is never used on a connection that is not encrypted, by either side", async () => {
  const drive = linkDrive({ users });
  await assert.rejects(
    drive.connect({ user: "anna", password: "secret" }),
    (error) => error instanceof ProtocolError && error.closeCode === CloseCode.SECURITY,
  );
  const peer = drive.peer();
  const said = await logIn(peer, "anna", "secret");
  assert.equal(said, 'goodbye tag=0 code=9 reason="a password is taken on an encrypted connection only"');
  assert.ok(!peer.frames.some((frame) => /salt/.test(frame)));
});

test("a proof made for another connection is worth nothing: somebody in the middle has two", async () => {
  for (const login of ["token", "password"]) {
    const drive = linkDrive({ users });
    const peer = drive.peer(binding);
    // What the client sees is its connection to whoever is in the middle.
    peer.binding = randomBytes(32);
    const said = login === "token" ? await peer.setUp() : await logIn(peer, "anna", "secret");
    assert.match(said, /^goodbye tag=0 code=5 /);
  }
});

test("a server that is reached over another connection than it believes is not believed", async () => {
  const drive = linkDrive({ users });
  const peer = drive.peer(binding);
  await peer.setUp();
  const joined = drive.peer(binding);
  joined.binding = Buffer.alloc(0);
  assert.match(await joined.setUp({ channelKind: 2, sessionId: peer.sessionId }, peer.sessionKey), /code=5/);
});

test("the server's configuration is the least that each kind of channel must have", async () => {
  const cases = [
    [{ control: "tls", io: "tls" }, false, false],
    [{ control: "plain", io: "tls" }, true, false],
    [{ control: "tls", io: "plain" }, false, true],
    [{ control: "signed", io: "plain" }, false, true],
  ] as const;
  for (const [security, isControlPlain, isIoPlain] of cases) {
    const drive = linkDrive({ security });
    const encrypted = drive.peer(binding);
    assert.match(await encrypted.setUp(), /^auth reply/);
    const control = await drive.peer().setUp();
    assert.match(
      control,
      isControlPlain ? /^auth reply/ : /^goodbye tag=0 code=9 reason="control channels .* at least/,
    );
    const hello = { channelKind: 2, sessionId: encrypted.sessionId };
    const io = await drive.peer().setUp(hello, encrypted.sessionKey);
    assert.match(io, isIoPlain ? /^auth reply/ : /^goodbye tag=0 code=9 reason="io channels .* at least/);
  }
});

test("a server that asks for too little or too much work is not worked for", async () => {
  const work = [
    { salt: Buffer.alloc(16), iterations: 4095 },
    { salt: Buffer.alloc(16), iterations: 4_000_000_000 },
    { salt: Buffer.alloc(15), iterations: 4096 },
  ];
  for (const challenge of work) {
    const drive = fakeDrive({ faults: { challenge }, login: { user: "anna", password: "secret" } });
    await assert.rejects(drive.connecting, /the server chose a salt of \d+ bytes and \d+ iterations for the password/);
  }
});

/** By each of which Bert is not who he was. */
const CHANGES: [what: string, change: (known: Map<string, User>) => void][] = [
  ["removed", (known) => known.delete("bert")],
  ["another password", (known) => known.set("bert", { ...bert, storedKey: anna.storedKey })],
  ["another access", (known) => known.set("bert", { ...bert, shares: new Map([["share", "rw"]]) })],
  ["no access", (known) => known.set("bert", { ...bert, shares: new Map() })],
];

test("a user who is removed, or whose password or access is changed, loses the sessions and no other does", async () => {
  for (const [what, change] of CHANGES) {
    const directory = new KnownUsers(anna, bert);
    const drive = linkDrive({ users: directory });
    const [first, second, byToken] = [drive.peer(binding), drive.peer(binding), drive.peer(binding)];
    await logIn(first, "anna", "secret");
    await logIn(second, "bert", "other");
    await byToken.setUp();
    change(directory.users);
    // Before the server has noticed, no channel joins any more.
    const joining = drive.peer(binding);
    const joined = await joining.setUp(
      { channelKind: 2, sessionId: second.sessionId, slotTable: 1 },
      second.sessionKey,
    );
    assert.match(joined, /code=5/, what);
    directory.onChange?.();
    await settle();
    assert.match(second.frames.at(-1) ?? "", /code=5 reason="the user was changed or removed"/, what);
    assert.ok(first.channel.isOpen && byToken.channel.isOpen, what);
    assert.equal(drive.server.counters().sessions, 2, what);
  }
});

test("a change that does not concern a session leaves it alone", async () => {
  const directory = new KnownUsers(anna, bert);
  const drive = linkDrive({ users: directory });
  const peer = drive.peer(binding);
  await logIn(peer, "bert", "other");
  directory.users.delete("anna");
  directory.users.set("bert", { ...bert, shares: new Map([...bert.shares, ["music", "rw"]]) });
  directory.onChange?.();
  await settle();
  assert.ok(peer.channel.isOpen);
});

test("a user who is removed or changed between the challenge and the proof does not get in", async () => {
  for (const [what, change] of CHANGES) {
    const directory = new KnownUsers(anna, bert);
    const drive = linkDrive({ users: directory });
    const said = await drive.peer(binding).prove({ user: "bert" }, async ({ salt, iterations }) => {
      const prover = scramProver(await scramKeys("other", salt, iterations));
      change(directory.users);
      directory.onChange?.();
      return prover;
    });
    assert.equal(said, 'goodbye tag=0 code=5 reason="wrong user or password"', what);
    assert.equal(drive.server.counters().sessions, 0, what);
  }
});

test("a user has half of the sessions at most, and loses none that is away within its time", async () => {
  const drive = linkDrive({ users, limits: { sessionsMax: 4, courtesyMs: 60_000 } });
  const first = drive.peer(binding);
  const leave = async (peer: Peer, user: string, password: string) => {
    const said = await logIn(peer, user, password, { keepMs: 3_600_000 });
    peer.channel.destroy();
    await settle();
    return said;
  };
  assert.match(await leave(first, "anna", "secret"), /^auth reply/);
  drive.clock.advance(1000);
  assert.match(await leave(drive.peer(binding), "anna", "secret"), /^auth reply/);
  assert.equal(await leave(drive.peer(binding), "anna", "secret"), 'goodbye tag=0 code=7 reason="too many clients"');
  assert.match(await drive.peer(binding).setUp(), /^auth reply/);
  assert.match(await leave(drive.peer(binding), "bert", "other"), /^auth reply/);
  assert.match(await drive.peer(binding).setUp(), /^goodbye tag=0 code=7 /, "nobody's time is over");
  const back = await drive.peer(binding).setUp({ sessionId: first.sessionId }, first.sessionKey);
  assert.match(back, /^auth reply/, "it is kept");
  drive.clock.advance(5000);
  await settle();
  assert.match(await leave(drive.peer(binding), "anna", "secret"), /^auth reply/, "her own late one makes room");
  assert.match(await drive.peer(binding).setUp(), /^auth reply/, "and bert's for anybody");
  assert.equal(drive.server.counters().sessions, 4);
});

test("who has the token has all sessions that are free", async () => {
  const drive = linkDrive({ users, limits: { sessionsMax: 4 } });
  for (let count = 0; count < 4; count += 1) assert.match(await drive.peer(binding).setUp(), /^auth reply/);
});
