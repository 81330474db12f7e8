/** What the server says by itself: what is answered is bounded, whatever it says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ByteReader, viewOf } from "../../src/base/byte-cursor.ts";
import { CloseCode } from "../../src/base/errors.ts";
import { type NoticeReceiver, readNotice } from "../../src/client/notices.ts";
import type { NodeId } from "../../src/vfs/file-system.ts";
import { Lease } from "../../src/vfs/lease.ts";
import { bodyBytes, messageOf, messages } from "../../src/wire/codec.ts";
import { emptyHeader } from "../../src/wire/frame.ts";

const ID = Buffer.alloc(16, 7).toString("latin1") as NodeId;

/** Says `name` to a client that has `unsentBytes` waiting; @returns what it does, in order. */
function tell(name: "changed" | "leaseBreak", unsentBytes: number): string[] {
  const done: string[] = [];
  const receiver: NoticeReceiver = {
    agreement: { credits: 4, sectionBytes: 65_536 },
    channel: { unsentBytes },
    goodbye: () => assert.fail("no goodbye"),
    written: () => assert.fail("no write"),
    events: {
      lockReady: () => assert.fail("no lock"),
      changed: ({ id }) => done.push(`heard ${id === ID}`),
      leaseBreak: ({ breakId, id, lease }) => done.push(`break ${breakId} ${id === ID} ${lease}`),
    },
    notify: (notice, { id }) => done.push(`${notice} ${id === ID}`),
  };
  const body =
    name === "changed"
      ? bodyBytes(messages.changed.request, { id: ID })
      : bodyBytes(messages.leaseBreak.request, { breakId: 5, id: ID, lease: Lease.READ });
  const { code } = messages[name].row;
  const reader = new ByteReader().reset(body, viewOf(body), 0, body.length);
  assert.equal(readNotice(messageOf(code), { ...emptyHeader(), opcode: code }, reader, receiver), true);
  return done;
}

test("a change is heard of, and then answered, also behind all that calls may have waiting", () => {
  for (const unsentBytes of [0, 4 * 65_536])
    assert.deepEqual(tell("changed", unsentBytes), ["heard true", "changed true"]);
});

test("who is told to give a lease back hears what is left of it", () => {
  assert.deepEqual(tell("leaseBreak", 0), ["break 5 true 1"]);
});

test("a server that tells without end and takes no answers is left", () => {
  for (const name of ["changed", "leaseBreak"] as const) {
    assert.throws(() => tell(name, 4 << 20), { closeCode: CloseCode.STATE });
  }
});
