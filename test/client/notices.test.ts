/** What the server says by itself: what is answered is bounded, whatever it says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ByteReader, viewOf } from "../../src/base/byte-cursor.ts";
import { CloseCode } from "../../src/base/errors.ts";
import { type NoticeReceiver, readNotice } from "../../src/client/notices.ts";
import type { NodeId } from "../../src/vfs/file-system.ts";
import { bodyBytes, messageOf, messages } from "../../src/wire/codec.ts";
import { emptyHeader } from "../../src/wire/frame.ts";

const ID = Buffer.alloc(16, 7).toString("latin1") as NodeId;

/** Tells of a change a client that has `unsentBytes` waiting; @returns what it does, in order. */
function tell(unsentBytes: number): string[] {
  const done: string[] = [];
  const receiver: NoticeReceiver = {
    agreement: { credits: 4, sectionBytes: 65_536 },
    channel: { unsentBytes },
    goodbye: () => assert.fail("no goodbye"),
    written: () => assert.fail("no write"),
    events: { lockReady: () => assert.fail("no lock"), changed: ({ id }) => done.push(`heard ${id === ID}`) },
    notify: (name, { id }) => done.push(`${name} ${id === ID}`),
  };
  const body = bodyBytes(messages.changed.request, { id: ID });
  const { code } = messages.changed.row;
  const reader = new ByteReader().reset(body, viewOf(body), 0, body.length);
  assert.equal(readNotice(messageOf(code), { ...emptyHeader(), opcode: code }, reader, receiver), true);
  return done;
}

test("a change is heard of, and then answered, also behind all that calls may have waiting", () => {
  for (const unsentBytes of [0, 4 * 65_536]) assert.deepEqual(tell(unsentBytes), ["heard true", "changed true"]);
});

test("a server that tells without end and takes no answers is left", () => {
  assert.throws(() => tell(4 << 20), { closeCode: CloseCode.STATE });
});
