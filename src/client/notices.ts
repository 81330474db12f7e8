/**
 * What the server says on a channel that is no reply to anything.
 */
import type { ByteReader } from "../base/byte-cursor.ts";
import { CloseCode, ProtocolError } from "../base/errors.ts";
import type { Channel } from "../transport/channel.ts";
import { checkRequest, type Message, messages } from "../wire/codec.ts";
import type { FrameHeader } from "../wire/frame.ts";
import { BODY_BYTES_MAX, payloadBytesMax } from "../wire/limits.ts";
import type { Request } from "../wire/messages.ts";
import type { ChannelEvents } from "./call.ts";
import type { Agreement } from "./set-up.ts";

/** What may wait for the server beside its calls, bytes: notices, and answers to its own. */
const UNSENT_MORE_BYTES_MAX = 1 << 20;

/** Who is told. */
export interface NoticeReceiver {
  /** The server closes the channel. */
  goodbye(notice: Request<"goodbye">): void;
  /** The write with this tag wrote all its bytes. */
  written(tag: number): void;
  /** For what concerns no call. */
  readonly events: Pick<ChannelEvents, "lockReady" | "changed" | "leaseBreak">;
  notify(name: "changed", notice: Request<"changed">): void;
  readonly agreement: Pick<Agreement, "credits" | "sectionBytes">;
  readonly channel: Pick<Channel, "unsentBytes"> | undefined;
}

/** Tells `receiver` what a notice says. @returns false: it is none. @throws ProtocolError. */
export function readNotice(message: Message, header: FrameHeader, body: ByteReader, receiver: NoticeReceiver): boolean {
  if (message.row.reply !== undefined) return false;
  if (message.name === "ping") {
    messages.ping.request.read(body);
    return true;
  }
  checkRequest(message, header, "server");
  if (message.name === "goodbye") receiver.goodbye(messages.goodbye.request.read(body));
  else if (message.name === "written")
    for (const tag of messages.written.request.read(body).tags) receiver.written(tag);
  else if (message.name === "lockReady") receiver.events.lockReady(messages.lockReady.request.read(body));
  else if (message.name === "changed") {
    const notice = messages.changed.request.read(body);
    receiver.events.changed(notice);
    checkTaken(message, receiver);
    receiver.notify("changed", notice);
  } else if (message.name === "leaseBreak") {
    checkTaken(message, receiver);
    receiver.events.leaseBreak(messages.leaseBreak.request.read(body));
  }
  return true;
}

/** @throws ProtocolError the server tells without end and takes no answers, which no credits bound. */
function checkTaken({ name }: Message, receiver: NoticeReceiver): void {
  const { credits, sectionBytes } = receiver.agreement;
  const callBytesMax = payloadBytesMax(sectionBytes) + BODY_BYTES_MAX;
  if ((receiver.channel?.unsentBytes ?? 0) > credits * callBytesMax + UNSENT_MORE_BYTES_MAX) {
    throw new ProtocolError(CloseCode.STATE, `${name}: told more than is taken back`);
  }
}
