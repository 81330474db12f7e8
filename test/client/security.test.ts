/** Drives over real sockets, protected in every way there is: what both sides agree to works, and nothing else does. */
import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { test } from "node:test";
import { systemClock } from "../../src/base/clock.ts";
import { CloseCode, ConnectionError, ProtocolError } from "../../src/base/errors.ts";
import { silentLog } from "../../src/base/log.ts";
import { connectRemote, type Remote, type RemoteOptions } from "../../src/client/remote.ts";
import { type ServerOptions, startServer } from "../../src/server/server.ts";
import { makeIdentity } from "../../src/transport/self-signed.ts";
import { fingerprintOf } from "../../src/transport/tls-settings.ts";
import { S_IFREG } from "../../src/vfs/attr.ts";
import { OpenFlag, type RequestContext } from "../../src/vfs/file-system.ts";
import type { ChannelSecurity } from "../../src/wire/messages.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { KnownUsers, knownUser } from "../support/known-users.ts";

const HOST = "127.0.0.1";
const ctx: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 77 } };
const token = Buffer.from("a token of this test");
const identity = makeIdentity([HOST]);
const trust = { fingerprint: fingerprintOf(new X509Certificate(identity.certificate)) };
const users = new KnownUsers(await knownUser("anna", "secret"));

interface Served extends AsyncDisposable {
  connect(options?: Partial<Pick<RemoteOptions, "trust" | "security" | "password">>, user?: string): Promise<Remote>;
}

async function serve(options: Pick<Partial<ServerOptions>, "security"> = {}, hasTls = true): Promise<Served> {
  const server = await startServer({
    shares: new Map([["share", { fileSystem: new MemoryFs(), readOnly: false }]]),
    ...{ token, users, squash: "none", log: silentLog, clock: systemClock },
    listen: { host: HOST, port: 0 },
    ...(hasTls ? { identity } : {}),
    ...options,
  });
  const place = { host: HOST, port: server.address.port, share: "share" };
  return {
    connect: (wish = { trust }, user) =>
      connectRemote({
        url: user === undefined ? { token, ...place } : { token: Buffer.alloc(0), user, ...place },
        log: silentLog,
        clock: systemClock,
        ...wish,
      }),
    [Symbol.asyncDispose]: () => server.close(),
  };
}

/** Writes a file of several sections and reads it back. */
async function use({ fileSystem }: Remote): Promise<void> {
  const { id: root } = await fileSystem.root(ctx);
  const flags = OpenFlag.READ | OpenFlag.WRITE;
  const created = await fileSystem.create(ctx, root, "f" as never, flags, { mode: S_IFREG | 0o644, umask: 0 });
  const { handle } = created.opened;
  const data = Buffer.alloc(3_000_001, "netdrive");
  assert.equal(await fileSystem.write(ctx, handle, 0, data, { killSuidgid: false }), data.length);
  const copy = Buffer.alloc(data.length);
  assert.equal(await fileSystem.read(ctx, handle, 0, copy), data.length);
  assert.ok(copy.equals(data));
  await fileSystem.release(ctx, handle);
}

const LEVELS = ["plain", "signed", "tls"] as const;

for (const control of LEVELS) {
  for (const io of LEVELS) {
    test(`a drive works with control ${control} and io ${io}, where the server allows it`, async () => {
      await using served = await serve();
      const remote = await served.connect({ trust, security: { control, io } });
      await use(remote);
      await remote.close();
    });
  }
}

test("a user works over TLS, also with data in clear", async () => {
  await using served = await serve({ security: { control: "tls", io: "plain" } });
  const security: ChannelSecurity = { control: "tls", io: "plain" };
  const remote = await served.connect({ trust, security, password: "secret" }, "anna");
  await use(remote);
  await remote.close();
  await assert.rejects(served.connect({ trust, password: "guess" }, "anna"), /wrong user or password/);
});

test("a client that asks for less than the server demands is told so, for each kind of channel", async () => {
  await using served = await serve({ security: { control: "tls", io: "tls" } });
  for (const security of [
    { control: "plain", io: "plain" },
    { control: "tls", io: "plain" },
    { control: "signed", io: "signed" },
    { control: "tls", io: "signed" },
  ] as const) {
    await assert.rejects(served.connect({ trust, security }), (error) => {
      const { cause } = error as ConnectionError;
      assert.ok(error instanceof ConnectionError && !error.retryable);
      assert.ok(cause instanceof ProtocolError && cause.closeCode === CloseCode.SECURITY);
      return /(io|control) channels of this server are tls at least, not (plain|signed)/.test(error.message);
    });
  }
});

test("a client that wants TLS does not do with less, whatever the server would allow", async () => {
  await using served = await serve({}, false);
  await assert.rejects(served.connect({ trust }), /closed the connection|does not speak TLS 1\.3/);
});
