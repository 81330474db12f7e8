/** The client's part of attaching: the server must prove the open's key, and a proof is made anew for another connection. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { CloseCode, FsError, ProtocolError } from "../../src/base/errors.ts";
import { attachOpen } from "../../src/client/attach.ts";
import type { CallParts, Result } from "../../src/client/call.ts";
import { NodeNames } from "../../src/client/node-names.ts";
import { RemoteOpens } from "../../src/client/open-table.ts";
import type { SessionChannels } from "../../src/client/session-channels.ts";
import { attachedProof, attachProof } from "../../src/resume/resume-proof.ts";
import type { NodeId } from "../../src/vfs/file-system.ts";
import type { Request } from "../../src/wire/messages.ts";
import { attrOf } from "../support/attr.ts";

const ctx = { caller: { uid: 0, gid: 0, groups: [], pid: 1 } };
const ticket = { resumeKey: Buffer.alloc(73, 1), key: Buffer.alloc(32, 2), challenge: Buffer.alloc(16, 3) };
const next = Buffer.alloc(16, 4);

/** Channels whose server answers by `answer`, on the connections with these transcripts, one after the other. */
function channels(
  transcripts: Buffer[],
  answer: (asked: Request<"attach">, transcript: Buffer) => Buffer,
): SessionChannels {
  let at = 0;
  return {
    get agreement() {
      return { transcript: transcripts[at] };
    },
    async call<T>({ fields }: CallParts, result: Result<T>): Promise<T> {
      if (at < transcripts.length - 1) at += 1;
      const proof = answer(fields as Request<"attach">, transcripts[at] as Buffer);
      return result({ id: "n", attr: attrOf({}), flags: 3, openId: 9, challenge: next, proof }, Buffer.alloc(0), 5);
    },
  } as unknown as SessionChannels;
}

test("a server that does not know the open's key is not believed", async () => {
  const opens = new RemoteOpens(
    new NodeNames(),
    () => assert.fail(),
    () => {},
    () => assert.fail(),
  );
  const transcript = Buffer.alloc(32, 5);
  const liar = channels([transcript], ({ clientNonce }) =>
    attachedProof(Buffer.alloc(32), transcript, clientNonce, next),
  );
  await assert.rejects(attachOpen(liar, opens, ctx, ticket), (error) => {
    return error instanceof ProtocolError && error.closeCode === CloseCode.AUTHENTICATION;
  });
  assert.equal(opens.size, 0);
});

test("a proof that was refused on another connection than it was made for is made anew, once", async () => {
  const opens = new RemoteOpens(
    new NodeNames(),
    () => assert.fail(),
    () => {},
    () => assert.fail(),
  );
  let asked = 0;
  const moving = channels([Buffer.alloc(32, 5), Buffer.alloc(32, 6)], (claim, transcript) => {
    asked += 1;
    const { clientNonce, resumeKey, proof } = claim;
    const { key, challenge } = ticket;
    if (!attachProof(key, { transcript, challenge, clientNonce, resumeKey }).equals(proof)) {
      throw new FsError("ESTALE", "attach");
    }
    return attachedProof(key, transcript, clientNonce, next);
  });
  const { id, handle, flags } = await attachOpen(moving, opens, ctx, ticket);
  assert.deepEqual([id, flags, asked], ["n" as NodeId, 3, 2]);
  assert.equal(opens.find("read", handle).handle, 5);
  await assert.rejects(attachOpen(moving, opens, ctx, { ...ticket, key: Buffer.alloc(32, 9) }), { errno: "ESTALE" });
  assert.equal(asked, 3, "on the connection it was made for it is not tried again");
});
