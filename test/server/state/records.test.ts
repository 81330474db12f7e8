/** Records of the state store: what is encoded is decoded, and bytes of any other kind are no record. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import type { RecordCodec } from "../../../src/server/state/record-codec.ts";
import {
  attachedKeyOf,
  IDENTITY_KEY,
  type IdentityRecord,
  identityRecord,
  type LeftRecord,
  type LockRecord,
  leaseKeyOf,
  leaseRecord,
  leftKeyOf,
  leftRecord,
  locksKeyOf,
  locksRecord,
  type OpenRecord,
  openKeyOf,
  openRecord,
  partsOfKey,
  type SessionRecord,
  type SlotRecord,
  sessionKeyOf,
  sessionRecord,
  slotKeyOf,
  slotRecord,
} from "../../../src/server/state/records.ts";
import { KEY_BYTES_MAX } from "../../../src/server/state/state-store.ts";
import type { NodeId } from "../../../src/vfs/file-system.ts";
import { seeded } from "../../support/seed.ts";

function record<T>(model: { [K in keyof T]: fc.Arbitrary<T[K]> }): fc.Arbitrary<T> {
  return fc.record<T>(model, { noNullPrototype: true });
}
const bytes = (length: number) =>
  fc.uint8Array({ minLength: length, maxLength: length }).map((array) => Buffer.from(array));
const someBytes = fc.uint8Array({ maxLength: 200 }).map((array) => Buffer.from(array));
const u8 = fc.nat({ max: 255 });
const u16 = fc.nat({ max: 0xffff });
const u32 = fc.nat({ max: 0xffff_ffff });
const u53 = fc.maxSafeNat();
const text = fc.string({ unit: "grapheme", maxLength: 50 });

const identity: fc.Arbitrary<IdentityRecord> = record({
  serverId: bytes(16),
  sealSecret: bytes(32),
  epoch: u32,
  starts: u32,
  hostBootId: fc.string({ unit: "binary-ascii", maxLength: 64 }),
  areNamesSynced: fc.boolean(),
});
const session: fc.Arbitrary<SessionRecord> = record({
  id: bytes(16),
  key: bytes(32),
  clientId: bytes(16),
  user: text,
  loginMark: bytes(16),
  label: text,
  share: text,
  isReadOnly: fc.boolean(),
  guestOf: fc.option(u53, { nil: undefined }),
  mayHaveLostNames: fc.boolean(),
  sectionBytes: u32,
  keepMs: u32,
  slotTables: fc.array(record({ number: u16, credits: u16 }), { maxLength: 10 }),
});
const version = record({
  sizeBytes: u53,
  mtimeSec: fc.maxSafeInteger(),
  mtimeNsec: u32,
  ctimeSec: fc.maxSafeInteger(),
  ctimeNsec: u32,
});
const open: fc.Arbitrary<OpenRecord> = record({
  lease: fc.constantFrom(0, 1, 2),
  id: u53,
  session: bytes(16),
  handles: fc.array(u32, { maxLength: 5 }),
  kind: fc.constantFrom("file" as const, "directory" as const),
  node: someBytes.map((value) => value.subarray(0, 64).toString("latin1") as NodeId),
  nodeRecord: someBytes,
  flags: u32,
  openedAtMs: u53,
  pid: u32,
  version: fc.option(version, { nil: undefined }),
});
const left: fc.Arbitrary<LeftRecord> = record({ version: fc.option(version, { nil: undefined }) });
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const locks: fc.Arbitrary<LockRecord[]> = fc.array(
  record({
    kind: fc.constantFrom("posix" as const, "flock" as const),
    type: fc.constantFrom("read" as const, "write" as const),
    owner: u64,
    pid: u32,
    startBytes: u64,
    endBytes: u64,
    waitId: u32,
  }),
  { maxLength: 10 },
);
const slot: fc.Arbitrary<SlotRecord> = record({
  turn: u16,
  opcode: u8,
  handle: u32,
  section: u32,
  reply: fc.option(record({ status: u16, made: u32, body: someBytes }), { nil: undefined }),
  intent: someBytes,
});

const KINDS: [name: string, codec: RecordCodec<unknown>, values: fc.Arbitrary<unknown>][] = [
  ["identity", identityRecord as RecordCodec<unknown>, identity],
  ["session", sessionRecord as RecordCodec<unknown>, session],
  ["open", openRecord as RecordCodec<unknown>, open],
  ["locks", locksRecord as RecordCodec<unknown>, locks],
  ["left", leftRecord as RecordCodec<unknown>, left],
  ["lease", leaseRecord as RecordCodec<unknown>, fc.constantFrom(0, 1, 2)],
  ["slot", slotRecord as RecordCodec<unknown>, slot],
];

for (const [name, codec, values] of KINDS) {
  test(`${name}: what is encoded is decoded, and no part of it is, nor more than it`, (t) => {
    fc.assert(
      fc.property(values, (value) => {
        const encoded = codec.encode(value);
        assert.deepEqual(codec.decode(encoded), value);
        for (const length of [0, 1, encoded.length >> 1, encoded.length - 1]) {
          if (length < encoded.length) assert.equal(codec.decode(encoded.subarray(0, length)), undefined);
        }
        assert.equal(codec.decode(Buffer.concat([encoded, Buffer.alloc(1)])), undefined);
      }),
      seeded(t, 200),
    );
  });

  test(`${name}: bytes that were changed decode to something of the same kind, or to nothing`, (t) => {
    const change = record({ at: fc.nat(), to: fc.nat({ max: 255 }) });
    fc.assert(
      fc.property(values, fc.array(change, { minLength: 1, maxLength: 4 }), someBytes, (value, changes, noise) => {
        const encoded = codec.encode(value);
        for (const { at, to } of changes) encoded[at % encoded.length] = to;
        for (const mutated of [encoded, noise]) {
          const decoded = codec.decode(mutated);
          if (decoded !== undefined) codec.encode(decoded);
        }
      }),
      seeded(t, 2000),
    );
  });
}

test("a record that cannot be kept is the program's mistake", () => {
  const value = { turn: 1, opcode: 1, handle: 0, section: 0, reply: undefined, intent: Buffer.alloc(70_000) };
  assert.throws(() => slotRecord.encode(value), RangeError);
  const counts = { epoch: 1, starts: 1, hostBootId: "", areNamesSynced: false };
  const who = { serverId: Buffer.alloc(15), sealSecret: Buffer.alloc(32), ...counts };
  assert.throws(() => identityRecord.encode(who), RangeError);
});

test("a key says what it is of, and any other string says nothing", (t) => {
  fc.assert(
    fc.property(bytes(16), u53, u16, u16, (id, openId, table, place) => {
      const handle = table * 0x1_0000 + place;
      assert.deepEqual(partsOfKey(IDENTITY_KEY), { of: "identity" });
      assert.deepEqual(partsOfKey(sessionKeyOf(id)), { of: "session", id });
      assert.deepEqual(partsOfKey(openKeyOf(openId)), { of: "open", id: openId });
      assert.deepEqual(partsOfKey(leaseKeyOf(openId)), { of: "lease", id: openId });
      assert.deepEqual(partsOfKey(locksKeyOf(openId)), { of: "locks", id: openId });
      assert.deepEqual(partsOfKey(attachedKeyOf(id, handle)), { of: "attached", session: id, handle });
      assert.deepEqual(partsOfKey(leftKeyOf(id, openId)), { of: "left", session: id, id: openId });
      const key = slotKeyOf(id, table, place);
      assert.deepEqual(partsOfKey(key), { of: "slot", session: id, table, slot: place });
      assert.ok(key.length <= KEY_BYTES_MAX);
      assert.equal(partsOfKey(key.slice(0, -1)), undefined);
    }),
    seeded(t, 500),
  );
  for (const key of ["", "x", "ii", "s", "o1234567", "o\xff\xff\xff\xff\xff\xff\xff\xff"]) {
    assert.equal(partsOfKey(key), undefined, JSON.stringify(key));
  }
});
