/**
 * Connections whose client says nothing any more, not even that it is there: their clients are gone, whatever TCP believes, and count as away from then on.
 */
import type { Channel } from "../transport/channel.ts";

export class Silence {
  readonly #silenceMs: number;
  readonly #heard = new Map<Channel, { bytes: number; atMs: number }>();

  /** `silenceMs`: how long a client may say nothing. */
  constructor(silenceMs: number) {
    this.#silenceMs = silenceMs;
  }

  /** To be called a few times in `silenceMs`, with all channels there are. @returns those to be cut. */
  look(channels: Iterable<Channel>, nowMs: number): Channel[] {
    const silent: Channel[] = [];
    const present = new Set(channels);
    for (const channel of this.#heard.keys()) if (!present.has(channel)) this.#heard.delete(channel);
    for (const channel of present) {
      const heard = this.#heard.get(channel);
      if (heard === undefined || heard.bytes !== channel.receivedBytes) {
        this.#heard.set(channel, { bytes: channel.receivedBytes, atMs: nowMs });
      } else if (nowMs - heard.atMs >= this.#silenceMs) silent.push(channel);
    }
    return silent;
  }
}
