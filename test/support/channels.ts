/** Channels joined in memory, and a receiver that writes down what happens, for tests of transport, server and client. */
import type { ByteReader } from "../../src/base/byte-cursor.ts";
import { Channel, type ChannelReceiver } from "../../src/transport/channel.ts";
import { type FaultyLink, memoryLinkPair } from "../../src/transport/memory-link.ts";
import { describeFrame } from "../../src/wire/codec.ts";
import type { FrameHeader } from "../../src/wire/frame.ts";
import { BODY_BYTES_MAX } from "../../src/wire/limits.ts";
import { FakeClock } from "./fake-clock.ts";

/** Writes down every frame by its debug print, payloads, and the end. */
export class Recorder implements ChannelReceiver {
  readonly frames: string[] = [];
  readonly payloads: Buffer[] = [];
  /** The errors `closed` was called with, in order: one at most. */
  readonly ends: (Error | undefined)[] = [];
  /** Where the next payload goes; undefined makes the channel wait. */
  target: ((bytes: number) => Buffer | undefined) | undefined;
  onFrame: ((header: FrameHeader) => void) | undefined;
  #payload: Buffer | undefined;

  frame(header: FrameHeader, body: ByteReader): void {
    this.frames.push(describeFrame(header, body));
    this.onFrame?.(header);
  }

  payloadBegin(header: FrameHeader, body: ByteReader): Buffer | undefined {
    this.frames.push(describeFrame(header, body));
    this.#payload = this.target === undefined ? Buffer.alloc(header.payloadBytes) : this.target(header.payloadBytes);
    return this.#payload;
  }

  payloadEnd(): void {
    if (this.#payload !== undefined) this.payloads.push(this.#payload);
  }

  closed(error: Error | undefined): void {
    this.ends.push(error);
  }
}

/** Counts what a link is asked to do. */
export class CountingLink {
  readonly link: FaultyLink;
  /** Bytes of each write. */
  readonly writes: number[] = [];

  constructor(link: FaultyLink) {
    this.link = link;
    const write = link.write.bind(link);
    link.write = (chunks, sent) => {
      this.writes.push(chunks.reduce((sum, chunk) => sum + chunk.length, 0));
      write(chunks, sent);
    };
  }
}

export interface ChannelPair {
  readonly clock: FakeClock;
  readonly client: Channel;
  readonly server: Channel;
  readonly clientLink: FaultyLink;
  readonly serverLink: FaultyLink;
  readonly clientWrites: readonly number[];
}

/** Two channels past their set-up, which accept everything; not started. */
export function channelPair(options: { sendBytesMax?: number; ownBytesMax?: number } = {}): ChannelPair {
  const clock = new FakeClock();
  const links = memoryLinkPair(clock);
  const counting = new CountingLink(links.client);
  const channelOptions = { clock, ...options, sendBytesMax: options.sendBytesMax ?? 1024 * 1024 };
  const client = new Channel(links.client, channelOptions);
  const server = new Channel(links.server, channelOptions);
  for (const channel of [client, server]) {
    channel.accept({ bodyBytesMax: BODY_BYTES_MAX, payloadBytesMax: 16 * 1024 * 1024 });
  }
  return { clock, client, server, clientLink: links.client, serverLink: links.server, clientWrites: counting.writes };
}
