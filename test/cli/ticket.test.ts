/** Tickets as text. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { formatTicket, parseTicket, type Ticket } from "../../src/cli/ticket.ts";

const TICKET: Ticket = {
  place: { host: "::1", port: 7378, share: "h\u00e9", fingerprint: "oI8xNJkHwWcTfSExGbqrJwrLNJm3DRYFxSaLoxxFY1Y" },
  security: { control: "tls", io: "plain" },
  open: { resumeKey: Buffer.alloc(73, 1), key: Buffer.alloc(32, 2), challenge: Buffer.alloc(16, 3) },
};

test("a ticket is one word that says the same when it is read", () => {
  const text = formatTicket(TICKET);
  assert.match(text, /^[\w.-]+$/);
  assert.deepEqual(parseTicket(text), TICKET);
  const { fingerprint: _, ...place } = TICKET.place;
  const plain: Ticket = { ...TICKET, place, security: { control: "plain", io: "plain" } };
  assert.deepEqual(parseTicket(formatTicket(plain)), plain);
});

test("what is no whole ticket is refused, whatever it is", () => {
  const text = formatTicket(TICKET);
  const [head, body = ""] = text.split(".");
  const said = JSON.parse(Buffer.from(body, "base64url").toString()) as Record<string, unknown>;
  const encoded = (value: unknown) => `${head}.${Buffer.from(JSON.stringify(value)).toString("base64url")}`;
  const wrong = [
    ...["", "netdrive-ticket-1.", body, `netdrive-ticket-2.${body}`, text.slice(0, -1), text.slice(0, 40)],
    ...[null, 1, "x", [], {}].map(encoded),
    ...Object.keys(said).flatMap((key) => [
      encoded({ ...said, [key]: 7.5 }),
      encoded({ ...said, [key]: "" }),
      encoded({ ...said, [key]: null }),
    ]),
    encoded({ ...said, p: 65_536 }),
    encoded({ ...said, k: "AAAA" }),
    encoded({ ...said, r: Buffer.alloc(129).toString("base64url") }),
  ];
  for (const ticket of wrong) assert.throws(() => parseTicket(ticket), /this is no whole ticket; /, ticket);
});
