/**
 * A server of a share in memory, on a fake clock, and ways to reach it: a real client, or a peer that sends whatever a test wants.
 */
import { randomBytes } from "node:crypto";
import { createLog, type Log } from "../../src/base/log.ts";
import type { Name } from "../../src/base/name.ts";
import type { OpenTicket } from "../../src/client/attach.ts";
import { connectLink, type Remote } from "../../src/client/remote.ts";
import { frameKeys, keySecret, type Prover, tokenKey, transcriptOf } from "../../src/resume/proof.ts";
import type { ServerLimits } from "../../src/server/limits.ts";
import type { Locking } from "../../src/server/lock-requests.ts";
import { LinkServer, type ServerOptions } from "../../src/server/server.ts";
import type { Squash } from "../../src/server/squash.ts";
import { Channel, type ChannelReceiver } from "../../src/transport/channel.ts";
import { type FaultyLink, memoryLinkPair } from "../../src/transport/memory-link.ts";
import type { FileSystem, RequestContext } from "../../src/vfs/file-system.ts";
import { type BodyCodec, bodyBytes, describeFrame, messages } from "../../src/wire/codec.ts";
import { emptyHeader, type FrameHeader } from "../../src/wire/frame.ts";
import { BODY_BYTES_MAX } from "../../src/wire/limits.ts";
import { type ChannelSecurity, type Reply, type Request, SECURITY_NAMES } from "../../src/wire/messages.ts";
import { MemoryFs } from "../fuse/memory-fs.ts";
import { FakeClock, settle } from "./fake-clock.ts";

export const TOKEN = Buffer.from("the token of a test");
export const ctx: RequestContext = { caller: { uid: 0, gid: 0, groups: [], pid: 42 } };

export interface LinkDrive {
  readonly clock: FakeClock;
  readonly server: LinkServer;
  /** What the server logged. */
  readonly lines: string[];
  readonly log: Log;
  connect(options?: {
    token?: Buffer;
    user?: string;
    password?: string;
    ticket?: OpenTicket;
    share?: string;
    sectionBytes?: number;
    credits?: number;
    leases?: boolean;
    /** As if the link were encrypted, with this binding on both ends. */
    binding?: Buffer;
    /** Default: `tls` with a binding, else `plain`. */
    security?: ChannelSecurity;
    /** Is given the links before their first byte. */
    harm?: (links: { client: FaultyLink; server: FaultyLink }) => void;
  }): Promise<{
    remote: Remote;
    /** Knobs of what the client sends, and of what the server sends. */
    links: { client: FaultyLink; server: FaultyLink };
  }>;
  /** A peer before its first frame; with a binding, as if its link were encrypted. */
  peer<T extends Peer = Peer>(binding?: Buffer, kind?: new (link: FaultyLink, clock: FakeClock) => T): T;
}

/** Starts a server of one share, `share`. */
export function linkDrive(
  options: { fileSystem?: FileSystem; readOnly?: boolean; squash?: Squash; limits?: Partial<ServerLimits> } & Pick<
    Partial<ServerOptions>,
    "users" | "security" | "memory"
  > & { isTokenless?: boolean; locking?: Locking } = {},
): LinkDrive {
  const clock = new FakeClock();
  const lines: string[] = [];
  const log = createLog({ level: "debug", clock, sink: (line) => lines.push(line) });
  const { fileSystem = new MemoryFs(), readOnly = false, locking = "advisory" } = options;
  const share = { fileSystem, readOnly, locking };
  const { users, security, memory } = options;
  const server = new LinkServer({
    ...(users === undefined ? {} : { users }),
    ...(security === undefined ? {} : { security }),
    ...(memory === undefined ? {} : { memory }),
    shares: new Map([["share", share]]),
    token: options.isTokenless === true ? undefined : TOKEN,
    squash: options.squash ?? "none",
    log,
    clock,
    // Away clients are kept for a short time, and without courtesy, unless a test says otherwise.
    limits: { keepMsMax: 5000, courtesyMs: 0, ...options.limits },
  });
  return {
    clock,
    server,
    lines,
    log,
    async connect({ token = TOKEN, user, share: name = "share", binding, harm, ...wish } = {}) {
      const links = memoryLinkPair(clock);
      if (binding !== undefined) for (const link of [links.client, links.server]) link.binding = binding;
      harm?.(links);
      server.accept(links.server);
      const url = { token, share: name, ...(user === undefined ? {} : { user }) };
      const level = binding === undefined ? "plain" : "tls";
      const options = { url, log, clock, security: { control: level, io: level }, ...wish } as const;
      return { remote: await connectLink(links.client, options), links };
    },
    peer<T extends Peer>(binding?: Buffer, kind?: new (link: FaultyLink, clock: FakeClock) => T) {
      const links = memoryLinkPair(clock);
      if (binding !== undefined) for (const link of [links.client, links.server]) link.binding = binding;
      server.accept(links.server);
      return new (kind ?? Peer)(links.client, clock) as T;
    },
  };
}

/** A client that does exactly what it is told. */
export class Peer implements ChannelReceiver {
  readonly link: FaultyLink;
  readonly channel: Channel;
  /** Debug prints of all frames that came. */
  readonly frames: string[] = [];
  readonly headers: FrameHeader[] = [];
  readonly payloads: Buffer[] = [];
  isClosed = false;
  sessionId: Buffer = Buffer.alloc(0);
  sessionKey: Buffer = Buffer.alloc(0);
  /** What it believes the binding of the link to be, if that is not what it is. */
  binding: Buffer | undefined;
  /** Signs nothing, whatever it says in its hello. */
  isUnsigned = false;
  /** Of its set-up. */
  transcript: Buffer = Buffer.alloc(32);
  /** The proof it sent. */
  proof: Buffer = Buffer.alloc(32);
  #payload: Buffer = Buffer.alloc(0);
  #replies: ((reply: unknown) => void)[] = [];

  constructor(link: FaultyLink, clock: FakeClock) {
    this.link = link;
    this.channel = new Channel(link, { clock, sendBytesMax: 1 << 30 });
    this.channel.accept({ bodyBytesMax: BODY_BYTES_MAX, payloadBytesMax: 1 << 24 });
    this.channel.start(this);
  }

  frame(header: FrameHeader, body: Parameters<ChannelReceiver["frame"]>[1]): void {
    this.headers.push({ ...header });
    this.frames.push(describeFrame(header, body));
    if (this.#replies.length === 0 || header.status !== 0) return;
    const codec = header.opcode === 1 ? messages.hello.reply : header.opcode === 2 ? messages.auth.reply : undefined;
    if (codec !== undefined) this.#replies.shift()?.((codec as BodyCodec).read(body));
  }

  payloadBegin(header: FrameHeader, body: Parameters<ChannelReceiver["frame"]>[1]): Buffer {
    this.headers.push({ ...header });
    this.frames.push(describeFrame(header, body));
    this.#payload = Buffer.alloc(header.payloadBytes);
    return this.#payload;
  }

  payloadEnd(): void {
    this.payloads.push(this.#payload);
  }

  closed(): void {
    this.isClosed = true;
  }

  send<N extends keyof typeof messages>(
    name: N,
    fields: Request<N>,
    header: Partial<FrameHeader> = {},
    payload?: Buffer,
  ): void {
    const codec = messages[name].request as BodyCodec;
    this.channel.send({ ...emptyHeader(), opcode: messages[name].row.code, ...header }, codec, fields, payload);
  }

  /** Bytes as they are. */
  async sendRaw(bytes: Buffer): Promise<void> {
    await new Promise<void>((resolve) => this.link.write([bytes], resolve));
    await settle();
  }

  hello(change: Partial<Request<"hello">> = {}): Request<"hello"> {
    return {
      magic: "netdrive",
      versionMin: 1,
      versionMax: 1,
      features: 0,
      channelKind: 1,
      security: this.link.binding.length === 0 ? 0 : 2,
      clientId: Buffer.alloc(16, 1),
      clientNonce: randomBytes(32),
      sectionBytes: 65_536,
      credits: 8,
      sessionId: Buffer.alloc(0),
      slotTable: change.channelKind === 2 ? 1 : 0,
      keepMs: 60_000,
      share: "share",
      user: "",
      resumeKey: Buffer.alloc(0),
      ...change,
    };
  }

  /** Does the whole set-up with `key` (default: of the right token). @returns the last frame's debug print. */
  async setUp(change: Partial<Request<"hello">> = {}, key: Buffer = tokenKey(TOKEN)): Promise<string> {
    return this.prove(change, async () => keySecret(key, (change.sessionId ?? "").length === 0 ? "open" : "join"));
  }

  /** Does the whole set-up with what `proverFor` makes of the challenge. @returns the last frame's debug print. */
  async prove(
    change: Partial<Request<"hello">>,
    proverFor: (challenge: Reply<"hello">) => Promise<Prover>,
  ): Promise<string> {
    const hello = this.hello(change);
    const challenged = new Promise((resolve) => this.#replies.push(resolve));
    this.send("hello", hello);
    await settle();
    if (this.isClosed || this.frames.length === 0 || this.headers.at(-1)?.opcode !== 1) return this.frames.at(-1) ?? "";
    const challenge = (await challenged) as Reply<"hello">;
    const codec = messages.hello.reply as NonNullable<typeof messages.hello.reply>;
    const said = [bodyBytes(messages.hello.request, hello), bodyBytes(codec, challenge)] as const;
    const transcript = transcriptOf(this.binding ?? this.link.binding, ...said);
    const prover = await proverFor(challenge);
    this.transcript = transcript;
    this.#replies.push((welcome) => {
      this.sessionId = (welcome as Reply<"auth">).sessionId;
      this.sessionKey = prover.sessionKey(transcript);
      const isSigned = hello.security === SECURITY_NAMES.indexOf("signed");
      if (isSigned && !this.isUnsigned) this.channel.sign(frameKeys(this.sessionKey, transcript, "client"));
    });
    this.proof = prover.clientProof(transcript);
    this.send("auth", { proof: this.proof });
    await settle();
    return this.frames.at(-1) ?? "";
  }
}

/** Names of tests are latin1 already. */
export function named(name: string): Name {
  return name as Name;
}
