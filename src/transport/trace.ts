/** Frames of a channel as lines of text, for finding out what two peers say to each other. Not for use with data that matters: it costs per frame. */
import { ByteReader } from "../base/byte-cursor.ts";
import { describeFrame } from "../wire/codec.ts";
import type { FrameHeader } from "../wire/frame.ts";
import type { FrameReceiver } from "../wire/frame-decoder.ts";

/** Takes one line a frame: `<` received, `>` sent, then the debug print. */
export type Trace = (line: string) => void;

/** A receiver that traces what it passes on. */
export function tracedReceiver(receiver: FrameReceiver, trace: Trace): FrameReceiver {
  const note = (header: FrameHeader, body: ByteReader) => trace(`< ${describeFrame(header, body)}`);
  return {
    frame(header, body) {
      note(header, body);
      receiver.frame(header, body);
    },
    payloadBegin(header, body) {
      note(header, body);
      return receiver.payloadBegin(header, body);
    },
    payloadEnd: () => receiver.payloadEnd(),
  };
}

/** Traces a frame that was sent, whose body is at `start..end` of `buffer`. */
export function traceSent(
  trace: Trace,
  header: FrameHeader,
  buffer: Buffer,
  view: DataView,
  start: number,
  end: number,
): void {
  trace(`> ${describeFrame({ ...header, bodyBytes: end - start }, new ByteReader().reset(buffer, view, start, end))}`);
}
