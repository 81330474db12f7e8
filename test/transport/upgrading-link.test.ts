/** An upgrade that is asked for together with the first frame. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ProtocolError } from "../../src/base/errors.ts";
import type { LinkReceiver } from "../../src/transport/byte-link.ts";
import { memoryLinkPair } from "../../src/transport/memory-link.ts";
import { UpgradingLink } from "../../src/transport/upgrading-link.ts";
import { settle } from "../support/fake-clock.ts";

const YES = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: netdrive/1\r\n\r\n";

class Bytes implements LinkReceiver {
  text = "";
  end: Error | "none" | undefined;
  readonly #place = Buffer.alloc(7);
  data(chunk: Buffer): void {
    this.text += chunk.toString("latin1");
  }
  place(): Buffer {
    return this.#place;
  }
  landed(bytes: number): void {
    this.text += this.#place.toString("latin1", 0, bytes);
  }
  closed(error: Error | undefined): void {
    this.end = error ?? "none";
  }
}

function upgrading() {
  const { client, server } = memoryLinkPair();
  const heard = { client: new Bytes(), server: new Bytes() };
  const link = new UpgradingLink(client, "host:1");
  link.start(heard.client);
  server.start(heard.server);
  const say = async (text: string) => {
    await new Promise<void>((resolve) => server.write([Buffer.from(text)], resolve));
    await settle();
  };
  return { link, server, heard, say };
}

test("the request leaves with the first bytes, once, and the answer is nobody's data, wherever it is cut", async () => {
  for (const splitBytes of [0, 1, 3, 50, YES.length, YES.length + 1]) {
    const { link, server, heard, say } = upgrading();
    server.faults.splitBytes = splitBytes;
    for (const text of ["hello", " again"]) await new Promise<void>((sent) => link.write([Buffer.from(text)], sent));
    await say(`${YES}the challenge`);
    await say(" and more");
    assert.equal(
      heard.server.text.replace(/^GET \/netdrive\/1 HTTP\/1\.1\r\nHost: host:1\r\n(.+\r\n)+\r\n/, ""),
      "hello again",
    );
    assert.equal(heard.client.text, "the challenge and more");
    link.destroy();
    await settle();
    assert.equal(heard.client.end, "none");
  }
});

test("who does not upgrade is no netdrive server, whatever it says", async () => {
  const answers = [
    "HTTP/1.1 426 Upgrade Required\r\n\r\n",
    YES.replace("netdrive/1", "other"),
    "x".repeat(5000),
    "220 smtp\r\n\r\n",
  ];
  for (const answer of answers) {
    const { heard, say } = upgrading();
    await say(answer);
    assert.ok(heard.client.end instanceof ProtocolError, answer.slice(0, 40));
    assert.equal(heard.client.text, "");
  }
});

test("a server that goes without an answer has closed the connection", async () => {
  const { heard, server } = upgrading();
  server.end();
  await settle();
  server.destroy();
  await settle();
  assert.equal((heard.client.end as NodeJS.ErrnoException).code, "ECONNRESET");
});
