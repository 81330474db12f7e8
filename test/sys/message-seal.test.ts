/** Small sealed messages: the addon's and Node's are the same, and nothing outside of the message is touched. */
import assert from "node:assert/strict";
import { createDecipheriv } from "node:crypto";
import { test } from "node:test";
import fc from "fast-check";
import { type MessageSeal, nodeSeal } from "../../src/resume/key-seal.ts";
import { addonSeal } from "../../src/sys/message-seal.ts";
import { seeded } from "../support/seed.ts";

const key = Buffer.alloc(32, 7);

test("the addon seals as Node does, whatever the sizes, and Node opens it", (t) => {
  const [ours, nodes] = [addonSeal(key) as MessageSeal, nodeSeal(key)];
  const sizes = fc.tuple(fc.uint8Array({ minLength: 12, maxLength: 40 }), fc.uint8Array({ maxLength: 200 }));
  fc.assert(
    fc.property(sizes, ([head, plain]) => {
      const message = Buffer.concat([head, plain, Buffer.alloc(16)]);
      const other = Buffer.from(message);
      ours(message, head.length);
      nodes(other, head.length);
      assert.deepEqual(message, other);
      assert.deepEqual(message.subarray(0, head.length), Buffer.from(head));
      const decipher = createDecipheriv("aes-256-gcm", key, message.subarray(head.length - 12, head.length));
      decipher.setAAD(message.subarray(0, head.length));
      decipher.setAuthTag(message.subarray(message.length - 16));
      const opened = decipher.update(message.subarray(head.length, message.length - 16));
      decipher.final();
      assert.deepEqual(opened, Buffer.from(plain));
    }),
    seeded(t, 300),
  );
});

test("a message in the middle of a buffer is sealed, and not what is around it", () => {
  const whole = Buffer.alloc(100, 1);
  (addonSeal(key) as MessageSeal)(whole.subarray(10, 90), 20);
  assert.deepEqual(whole.subarray(0, 30), Buffer.alloc(30, 1));
  assert.deepEqual(whole.subarray(90), Buffer.alloc(10, 1));
});

test("a key of another length, and a message without room for what belongs in it, are the program's mistake", () => {
  const wrong = /wrong argument/;
  assert.throws(() => addonSeal(Buffer.alloc(16)), wrong);
  const seal = addonSeal(key) as MessageSeal;
  assert.throws(() => seal(Buffer.alloc(27), 12), wrong);
  assert.throws(() => seal(Buffer.alloc(100), 11), wrong);
  assert.throws(() => seal(Buffer.alloc((1 << 16) + 1), 12), wrong);
  seal(Buffer.alloc(28), 12);
});
