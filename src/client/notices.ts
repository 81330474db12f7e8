/**
 * What the server says on a channel that is no reply to anything.
 */
import type { ByteReader } from "../base/byte-cursor.ts";
import { checkRequest, type Message, messages } from "../wire/codec.ts";
import type { FrameHeader } from "../wire/frame.ts";
import type { Request } from "../wire/messages.ts";
import type { ChannelEvents } from "./call.ts";

/** Who is told. */
export interface NoticeReceiver {
  /** The server closes the channel. */
  goodbye(notice: Request<"goodbye">): void;
  /** The write with this tag wrote all its bytes. */
  written(tag: number): void;
  /** For what concerns no call. */
  readonly events: Pick<ChannelEvents, "lockReady" | "changed">;
  notify(name: "changed", notice: Request<"changed">): void;
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
    receiver.notify("changed", notice);
  }
  return true;
}
