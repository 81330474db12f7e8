/** A server that does exactly what it is told: sets a channel up as a server would, or wrongly, and then leaves every answer to the test. */
import { randomBytes } from "node:crypto";
import type { ByteReader } from "../../src/base/byte-cursor.ts";
import { createLog } from "../../src/base/log.ts";
import { connectLink, type Remote } from "../../src/client/remote.ts";
import { serverProof, tokenKey, transcriptOf } from "../../src/resume/proof.ts";
import { Channel, type ChannelReceiver } from "../../src/transport/channel.ts";
import { type FaultyLink, memoryLinkPair } from "../../src/transport/memory-link.ts";
import { type BodyCodec, bodyBytes, describeFrame, messageOf, messages } from "../../src/wire/codec.ts";
import { emptyHeader, type FrameHeader } from "../../src/wire/frame.ts";
import { BODY_BYTES_MAX } from "../../src/wire/limits.ts";
import {
  type ChannelSecurity,
  FLAG_REPLY,
  type MessageName,
  type Reply,
  type Request,
} from "../../src/wire/messages.ts";
import { FakeClock, settle } from "./fake-clock.ts";
import { TOKEN } from "./link-drive.ts";

/** A request the client has sent. */
export interface Asked {
  readonly name: MessageName;
  readonly header: FrameHeader;
  readonly fields: Record<string, unknown>;
  readonly payload: Buffer | undefined;
}

/** Wrong answers during set-up. */
export interface SetUpFaults {
  challenge?: Partial<Reply<"hello">>;
  welcome?: Partial<Reply<"auth">>;
  /** What the server believes the token to be. */
  token?: Buffer;
  header?: Partial<FrameHeader>;
  /** Says nothing after this many answers. */
  answers?: number;
}

const NO_SALT = { salt: Buffer.alloc(0), iterations: 0 };

export class FakeServer implements ChannelReceiver {
  readonly link: FaultyLink;
  readonly channel: Channel;
  /** Calls that wait for an answer, oldest first. */
  readonly asked: Asked[] = [];
  /** Debug prints of all notices. */
  readonly notices: string[] = [];
  isClosed = false;
  readonly #faults: SetUpFaults;
  #answers = 0;
  #hello: Request<"hello"> | undefined;
  #challenge: Reply<"hello"> | undefined;
  #payload: Buffer | undefined;

  constructor(link: FaultyLink, clock: FakeClock, faults: SetUpFaults) {
    this.link = link;
    this.#faults = faults;
    this.channel = new Channel(link, { clock, sendBytesMax: 1 << 30 });
    this.channel.accept({ bodyBytesMax: BODY_BYTES_MAX, payloadBytesMax: 1 << 24 });
    this.channel.start(this);
  }

  frame(header: FrameHeader, body: ByteReader): void {
    const message = messageOf(header.opcode);
    if (message.row.reply === undefined) {
      this.notices.push(describeFrame(header, body));
      return;
    }
    const fields = (message.request as BodyCodec).read(body) as Record<string, unknown>;
    if (message.name === "hello") this.#answerHello(fields as unknown as Request<"hello">);
    else if (message.name === "auth") this.#answerAuth();
    else this.asked.push({ name: message.name, header: { ...header }, fields, payload: undefined });
  }

  payloadBegin(header: FrameHeader, body: ByteReader): Buffer {
    const message = messageOf(header.opcode);
    const fields = (message.request as BodyCodec).read(body) as Record<string, unknown>;
    this.#payload = Buffer.alloc(header.payloadBytes);
    this.asked.push({ name: message.name, header: { ...header }, fields, payload: this.#payload });
    return this.#payload;
  }

  payloadEnd(): void {
    // The request was noted when it began.
  }

  closed(): void {
    this.isClosed = true;
  }

  /** Answers a call; `header` overrides what the reply should have. */
  answer(asked: Asked, fields: object = {}, header: Partial<FrameHeader> = {}, payload?: Buffer): void {
    const index = this.asked.indexOf(asked);
    if (index >= 0) this.asked.splice(index, 1);
    const { opcode, tag, section, handle } = asked.header;
    const right = { ...emptyHeader(), opcode, flags: FLAG_REPLY, tag, section, handle };
    const codec = header.status === undefined ? (messages[asked.name].reply as BodyCodec | undefined) : undefined;
    this.channel.send({ ...right, ...header }, codec, fields, payload);
  }

  /** The oldest call of a kind that waits. */
  next(name: MessageName): Asked {
    const found = this.asked.find((asked) => asked.name === name);
    if (found === undefined) throw new Error(`no ${name} was asked`);
    return found;
  }

  /** Sends a frame of any kind. */
  send(header: Partial<FrameHeader>, codec?: BodyCodec, fields?: object, payload?: Buffer): void {
    this.channel.send({ ...emptyHeader(), ...header }, codec, fields, payload);
  }

  goodbye(code: number, reason: string): void {
    this.send({ opcode: messages.goodbye.row.code }, messages.goodbye.request as BodyCodec, { code, reason });
  }

  async sendRaw(bytes: Buffer): Promise<void> {
    await new Promise<void>((resolve) => this.link.write([bytes], resolve));
    await settle();
  }

  #answerHello(hello: Request<"hello">): void {
    this.#hello = hello;
    const { sectionBytes, credits } = hello;
    const right = { version: 1, features: 0, serverNonce: randomBytes(32), sectionBytes, credits, ...NO_SALT };
    this.#challenge = { ...right, ...this.#faults.challenge };
    this.#setUpAnswer(messages.hello.row.code, messages.hello.reply as unknown as BodyCodec, this.#challenge);
  }

  #answerAuth(): void {
    const hello = this.#hello as Request<"hello">;
    const codec = messages.hello.reply as NonNullable<typeof messages.hello.reply>;
    const challenge = bodyBytes(codec, this.#challenge as Reply<"hello">);
    const transcript = transcriptOf(this.link.binding, bodyBytes(messages.hello.request, hello), challenge);
    const welcome: Reply<"auth"> = {
      sessionId: Buffer.alloc(16, 1),
      serverId: Buffer.alloc(16, 2),
      bootId: Buffer.alloc(16, 3),
      bytesMax: 32 * 1024 * 1024,
      keepMs: hello.keepMs,
      readOnly: false,
      squash: 0,
      flushless: false,
      mandatoryLocks: false,
      share: hello.share,
      proof: Buffer.alloc(32),
      ...this.#faults.welcome,
    };
    const reply = messages.auth.reply as NonNullable<typeof messages.auth.reply>;
    const key = tokenKey(this.#faults.token ?? TOKEN);
    welcome.proof = serverProof(key, transcript, bodyBytes(reply, welcome).subarray(0, -32));
    this.#setUpAnswer(messages.auth.row.code, reply as unknown as BodyCodec, welcome);
  }

  #setUpAnswer(opcode: number, codec: BodyCodec, fields: object): void {
    this.#answers += 1;
    if (this.#answers > (this.#faults.answers ?? 2)) return;
    this.send({ opcode, flags: FLAG_REPLY, ...this.#faults.header }, codec, fields);
  }
}

export interface FakeDrive {
  readonly clock: FakeClock;
  readonly server: FakeServer;
  /** Knobs of what the client sends. */
  readonly clientLink: FaultyLink;
  readonly lines: string[];
  /** The connecting; rejects if it fails. */
  readonly connecting: Promise<Remote>;
}

/** A client that connects to a fake server. */
export function fakeDrive(
  options: {
    faults?: SetUpFaults;
    sectionBytes?: number;
    credits?: number;
    signal?: AbortSignal;
    readOnly?: boolean;
    /** Of a user, over a link as if it were encrypted; default: the token. */
    login?: { user: string; password: string };
    security?: ChannelSecurity;
  } = {},
): FakeDrive {
  const { faults = {}, login, ...wish } = options;
  const clock = new FakeClock();
  const lines: string[] = [];
  const log = createLog({ level: "debug", clock, sink: (line) => lines.push(line) });
  const links = memoryLinkPair(clock);
  const server = new FakeServer(links.server, clock, faults);
  if (login !== undefined) for (const link of [links.client, links.server]) link.binding = Buffer.alloc(32, 9);
  const level = login === undefined ? "plain" : "tls";
  const url = { token: TOKEN, share: "share", ...(login === undefined ? {} : { user: login.user }) };
  const connecting = connectLink(links.client, {
    ...{ url, log, clock, security: { control: level, io: level }, password: login?.password ?? "" },
    ...wish,
  });
  return { clock, server, clientLink: links.client, lines, connecting };
}

/** The same, connected. */
export async function connectedDrive(
  options: Parameters<typeof fakeDrive>[0] = {},
): Promise<FakeDrive & { remote: Remote }> {
  const drive = fakeDrive(options);
  return { ...drive, remote: await drive.connecting };
}
