/**
 * The bytes of an open: one request if they fit into a section, otherwise sections.
 */
import { CloseCode, ProtocolError } from "../base/errors.ts";
import { SectionPlan } from "../sections/section-plan.ts";
import { OpenFlag, type RequestContext } from "../vfs/file-system.ts";
import { messages } from "../wire/codec.ts";
import type { Request } from "../wire/messages.ts";
import type { Fields } from "./call.ts";
import type { RemoteOpen } from "./remote-open.ts";
import { runLoneSection, type SectionCarrier } from "./section-call.ts";
import { runSections } from "./section-run.ts";

/** Where the bytes are, and for whom. */
export interface DataPlace {
  readonly ctx: RequestContext;
  readonly open: RemoteOpen;
  readonly offsetBytes: number;
}

/** Reads into all of `target`, which is not empty; returns how much there was. */
export async function readData(carrier: SectionCarrier, place: DataPlace, target: Buffer): Promise<number> {
  const { ctx, open, offsetBytes } = place;
  const { caller } = ctx;
  const { sectionBytes } = carrier.channels.agreement;
  if (target.length <= sectionBytes) {
    const fields: Request<"read"> = { caller, offsetBytes, lengthBytes: target.length };
    const { signal, priority } = ctx;
    const replyBytesMax = target.length;
    const parts = { message: messages.read, fields, open, target, replyBytesMax, signal, priority };
    return runLoneSection(carrier, "read", parts, (_reply, payload) => payload.length);
  }
  const plan = new SectionPlan(offsetBytes, target.length, sectionBytes);
  return runSections(carrier, {
    kind: "read",
    plan,
    isOrdered: false,
    signal: ctx.signal,
    priority: ctx.priority,
    bytes: (_reply, payload) => payload.length,
    section: (index) => {
      const lengthBytes = plan.length(index);
      const fields: Request<"read"> = { caller, offsetBytes: plan.offset(index), lengthBytes };
      const part = target.subarray(plan.position(index), plan.position(index) + lengthBytes);
      return { message: messages.read, fields, open, target: part, replyBytesMax: lengthBytes };
    },
  });
}

/** Writes all of `data`, which is not empty; returns how much was. */
export async function writeData(
  carrier: SectionCarrier,
  place: DataPlace,
  data: Buffer,
  killSuidgid: boolean,
): Promise<number> {
  const { ctx, open, offsetBytes } = place;
  const { caller } = ctx;
  const { sectionBytes } = carrier.channels.agreement;
  if (data.length <= sectionBytes) {
    const fields: Request<"write"> = { caller, offsetBytes, killSuidgid };
    const { signal, priority } = ctx;
    const parts = { message: messages.write, fields, open, payload: data, signal, priority };
    return runLoneSection(carrier, "write", parts, (reply) => writtenBytes(reply, data.length));
  }
  const plan = new SectionPlan(offsetBytes, data.length, sectionBytes);
  return runSections(carrier, {
    kind: "write",
    plan,
    // The server places appended sections by their arrival at the file, not by their offset.
    isOrdered: (open.flags & OpenFlag.APPEND) !== 0,
    signal: ctx.signal,
    priority: ctx.priority,
    bytes: (reply) => reply["writtenBytes"] as number,
    section: (index) => {
      const fields: Request<"write"> = { caller, offsetBytes: plan.offset(index), killSuidgid };
      const position = plan.position(index);
      const payload = data.subarray(position, position + plan.length(index));
      return { message: messages.write, fields, open, payload };
    },
  });
}

function writtenBytes(reply: Fields, lengthBytes: number): number {
  const written = reply["writtenBytes"] as number;
  if (written === 0 || written > lengthBytes)
    throw new ProtocolError(CloseCode.MALFORMED, "write: an impossible number of bytes");
  return written;
}
