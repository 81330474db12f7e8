/**
 * The channels of one session, as one place to make calls: control for everything short, io for sections.
 *
 * So a lookup never waits behind megabytes. Sections of one request may go over several io channels; each leaves by the one with the least on its way.
 * A session without io channels uses control for both. What becomes of them is the session's (session.ts).
 */
import assert from "node:assert/strict";
import type { ChannelSecurity } from "../wire/messages.ts";
import { type Call, type CallParts, isDataCall, PromisedCall, type Result } from "./call.ts";
import type { CallChannel } from "./call-channel.ts";
import type { CallChannelFigures } from "./call-windows.ts";
import type { Agreement } from "./set-up.ts";

export class SessionChannels {
  readonly #control: CallChannel;
  readonly #io: readonly CallChannel[];
  /** Whether sections may go by control, where there is none of io: they go by nothing less safe. */
  readonly mayUseControl: boolean;

  constructor(control: CallChannel, io: readonly CallChannel[], security: ChannelSecurity) {
    this.#control = control;
    this.#io = io;
    this.mayUseControl = io.length === 0 || security.control === security.io;
  }

  get agreement(): Agreement {
    return this.#control.agreement;
  }

  /** Control first. */
  get figures(): readonly CallChannelFigures[] {
    return [this.#control, ...this.#io].map((channel) => channel.figures);
  }

  /** How many ways there are for a section. */
  get wayCount(): number {
    return this.#io.length + (this.mayUseControl ? 1 : 0);
  }

  /** Bytes received on all channels: another number whenever the server has said anything. */
  get receivedBytes(): number {
    return this.figures.reduce((sum, { receivedBytes }) => sum + receivedBytes, 0);
  }

  /** What fills the line, bytes, as measured by all channels that carry sections. */
  get lineBytes(): number {
    if (this.#io.length === 0) return this.#control.lineBytes;
    let bytes = 0;
    for (const channel of this.#io) bytes += channel.lineBytes;
    return bytes;
  }

  /** Whether all sections leave by one channel, in the order they were begun. */
  get isOneLine(): boolean {
    return this.#io.length <= 1;
  }

  /** Calls and awaits the result. @throws FsError, ConnectionError, ProtocolError. */
  call<T>(parts: CallParts, result: Result<T>): Promise<T> {
    return new Promise((resolve, reject) => this.begin(new PromisedCall(parts, result, resolve, reject)));
  }

  /** Starts a call, which is told how it ends. */
  begin(call: Call): void {
    const channel = isDataCall(call) ? this.#leastLoaded(call.avoids) : this.#control;
    call.channel = channel;
    channel.begin(call);
  }

  /** The caller has lost interest: the call settles with `error` as soon as what it borrowed is free. */
  abandon(call: Call, error: Error): void {
    assert(call.channel !== undefined, "a call that was begun");
    call.channel.abandon(call, error);
  }

  /** Sends a notice. */
  notify(...notice: Parameters<CallChannel["notify"]>): void {
    this.#control.notify(...notice);
  }

  #leastLoaded(avoided: CallChannel | undefined): CallChannel {
    let least: CallChannel | undefined;
    for (const channel of this.#io) {
      // A second attempt is not to wait for a connection.
      if (channel === avoided || (avoided !== undefined && !channel.isOpen)) continue;
      if (least === undefined || channel.sectionBytesOutstanding < least.sectionBytesOutstanding) least = channel;
    }
    return least ?? (this.mayUseControl ? this.#control : (this.#io[0] as CallChannel));
  }
}
