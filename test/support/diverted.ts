/** A payload that is given up by who receives it, over a real link. */
import type { ByteLink } from "../../src/transport/byte-link.ts";
import type { Channel } from "../../src/transport/channel.ts";
import { messages } from "../../src/wire/codec.ts";

/** Sends a frame whose payload, 1 MB, the other side does not want any more after 100,000 bytes of 1; the rest are 2, and a `cancel` of tag 9 follows. */
export async function sendDiverted(server: ByteLink, client: Channel, begun: Promise<void>): Promise<void> {
  const write = (chunk: Buffer) => new Promise<void>((resolve) => server.write([chunk], resolve));
  const frame = Buffer.alloc(24);
  frame.writeUInt32LE(1_000_000, 0);
  frame.set([1, messages.read.row.code, 1], 4);
  await write(Buffer.concat([frame, Buffer.alloc(100_000, 1)]));
  await begun;
  while (client.receivedBytes < 100_024) await new Promise((resolve) => setImmediate(resolve));
  client.divert();
  await write(Buffer.alloc(900_000, 2));
  await write(Buffer.from("040000000104000000000000000000000000000000000400" + "09000000", "hex"));
}
