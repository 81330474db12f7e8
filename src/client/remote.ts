/**
 * A drive of a server: connects, sets a session up and gives its FileSystem.
 *
 * The session comes back by itself when its connections are lost (session.ts); what was asked meanwhile waits.
 */
import { strict as assert } from "node:assert";
import type { Clock } from "../base/clock.ts";
import type { Log } from "../base/log.ts";
import type { Name } from "../base/name.ts";
import { tokenKey } from "../resume/proof.ts";
import { openKey, ticketKey } from "../resume/resume-proof.ts";
import type { ByteLink } from "../transport/byte-link.ts";
import type { Trust } from "../transport/connect.ts";
import { dial } from "../transport/dial.ts";
import { type Network, SystemNetwork } from "../transport/network.ts";
import type { Trace } from "../transport/trace.ts";
import type { FileSystem, HandleId, NodeId, OpenFlags, RequestContext } from "../vfs/file-system.ts";
import type { ChannelSecurity, Security } from "../wire/messages.ts";
import { type Attached, attachOpen, type OpenTicket } from "./attach.ts";
import type { CallChannelFigures } from "./call-windows.ts";
import type { DialMore } from "./lane.ts";
import type { OpenEvents, RemoteOpens } from "./open-table.ts";
import { RemoteFileSystem } from "./remote-file-system.ts";
import type { LeaseFigures } from "./remote-leases.ts";
import type { OpenKeys } from "./remote-open.ts";
import { SectionWatch } from "./section-watch.ts";
import { ClientSession, type SessionOptions, type SessionState } from "./session.ts";
import type { Agreement } from "./set-up.ts";
import type { DriveUrl } from "./url.ts";

const DIAL_TIMEOUT_MS = 10_000;
const SET_UP_TIMEOUT_MS = 10_000;
const SECTION_BYTES = 1024 * 1024;
const CREDITS = 128;
const IO_CHANNELS = 1;
/** What is open is kept for so long for sure when the link is lost; after that, until somebody else needs it. */
const KEEP_MS = 120_000;
/** How long a section may go without an answer while the server answers others: disks that wake up or retry take their time. */
const ANSWER_TIMEOUT_MS = 300_000;

export interface RemoteOptions {
  url: DriveUrl;
  /** Of the URL's user, if it has one. */
  password?: string;
  /** Instead of token or password: comes in for one open and nothing else. */
  ticket?: OpenTicket;
  /** Refuses whatever changes the share here already. The server decides for itself as well. */
  readOnly?: boolean;
  log: Log;
  clock: Clock;
  /** This machine's, which tells when it has changed; default: the real one, where connections are. */
  network?: Network;
  /** Ends connecting; not the drive. */
  signal?: AbortSignal;
  dialTimeoutMs?: number;
  setUpTimeoutMs?: number;
  /** The largest section asked for. */
  sectionBytes?: number;
  /** Requests outstanding asked for. */
  credits?: number;
  /** Channels for sections beside the control channel, 0..IO_CHANNELS_MAX; 0: control carries them too. */
  ioChannels?: number;
  /** False: one section at a time, each waiting for the answer to the one before. For comparison. */
  isPipelined?: boolean;
  /** How long a call may wait while the server is away, before it fails with EHOSTDOWN; 0, and by default: for ever. */
  timeoutMs?: number;
  /** How long the server is asked to keep what is open while this client is away. */
  keepMs?: number;
  /** 0 up to, not including, 1; for pauses between attempts. */
  random?: () => number;
  /** How long a read or write may go without an answer while the server answers others; then it fails with ETIMEDOUT. 0: for ever. */
  answerTimeoutMs?: number;
  /** How the server shows that it is the one; without it no channel is encrypted. */
  trust?: Trust;
  /** How the channels of each kind are protected; default: `tls` with `trust`, else plain. */
  security?: ChannelSecurity;
  /** Files are opened with leases: whoever uses this FileSystem must tell `leaseBroken` when a lease is given back. Default: without. */
  leases?: boolean;
  /** Gets a line for every frame, to find out what peers say. */
  trace?: Trace;
}

export interface RemoteShare {
  readonly name: string;
  /** By the server's or this client's will. */
  readonly readOnly: boolean;
  /** What one open has locked, no other one may change. */
  readonly mandatoryLocks: boolean;
  readonly squash: Agreement["squash"];
  /** Of the server and of its present start, as hex. */
  readonly serverId: string;
  readonly bootId: string;
  readonly sectionBytes: number;
  readonly credits: number;
}

export interface ChannelStatus {
  readonly kind: "control" | "io";
  readonly state: "open" | "closed";
  /** How it is protected. */
  readonly security: Security;
  /** With `tls`, while it is there: what encrypts it, as RFC 8446 calls it. */
  readonly cipher: string | undefined;
  readonly peer: string;
  readonly receivedBytes: number;
  readonly sentBytes: number;
}

export interface RemoteStatus {
  readonly channels: readonly ChannelStatus[];
  /** Requests sent and not answered, sections included. */
  readonly requestsOutstanding: number;
  readonly sectionsOutstanding: number;
  /** Bytes of sections on their way, and how many may be. */
  readonly inFlightBytes: number;
  readonly windowBytes: number;
  /** Largest recent rate at which sections were answered. */
  readonly bytesPerSecond: number;
  /** Smallest recent one; undefined before the first answer. */
  readonly roundTripMs: number | undefined;
  readonly opens: number;
  /** Opens with a lease of each kind. */
  readonly leases: LeaseFigures;
  /** How often the session was lost and came back. */
  readonly resumes: number;
}

/** A file that is open on the drive. */
export interface OpenFile {
  readonly handle: HandleId;
  readonly node: NodeId;
  readonly flags: OpenFlags;
}

export interface Remote {
  readonly fileSystem: FileSystem;
  /** In the order of opening. */
  readonly openFiles: Iterable<OpenFile>;
  readonly share: RemoteShare;
  /** Settles, never rejects, when the drive is over: with the reason, or undefined after `close`. */
  readonly closed: Promise<Error | undefined>;
  /** Whether the server is there. */
  readonly state: SessionState;
  /** `listener` is told of every change of the state, with the reason why the server is away. One at a time. */
  onState(listener: (state: SessionState, reason: Error | undefined) => void): void;
  /** Who is told what others did to open files. */
  set events(events: OpenEvents | undefined);
  /** What a node is called, as far as this client has met it. */
  nameOf(id: NodeId): Name | undefined;
  status(): RemoteStatus;
  /** What fills the line, bytes: its bandwidth times its round trip as measured so far. */
  lineBytes(): number;
  /** Asks for the resume key of an open file once more. @throws FsError EBADF, EISDIR. */
  queryKey(ctx: RequestContext, handle: HandleId): Promise<OpenKeys>;
  /**
   * What another client needs to attach to an open file; what was given before is void.
   *
   * @throws FsError EBADF, EISDIR.
   */
  ticketFor(ctx: RequestContext, handle: HandleId): Promise<OpenTicket>;
  /** A handle to an open that somebody else has. @throws FsError ESTALE the ticket is not good, or not any more. */
  attach(ctx: RequestContext, ticket: OpenTicket): Promise<Attached>;
  /** Releases all opens and says goodbye; bounded in time. */
  close(): Promise<void>;
}

/**
 * Connects to the share of a URL.
 *
 * @throws ConnectionError nobody there, refused, too slow; ProtocolError not a netdrive server, or not the one with this token; FsError EINTR aborted.
 */
export async function connectRemote(options: RemoteOptions): Promise<Remote> {
  const { url, clock, trust, dialTimeoutMs = DIAL_TIMEOUT_MS } = options;
  const level = trust === undefined ? "plain" : "tls";
  const { security = { control: level, io: level } } = options;
  const { host, port } = url;
  const network = options.network ?? new SystemNetwork({ clock, log: options.log.room("network") });
  let isConnected = false;
  const dialMore: DialMore = (kind, { timeoutMs, isEager } = { timeoutMs: dialTimeoutMs, isEager: false }) => {
    assert(security[kind] !== "tls" || trust !== undefined, "who encrypts knows whom it trusts");
    const signal = isConnected ? undefined : options.signal;
    const trusted = security[kind] === "tls" ? { trust } : {};
    return dial({ host, port, timeoutMs, isEager, clock, network, signal, ...trusted });
  };
  const remote = await connectLink(await dialMore("control"), { ...options, security, network }, dialMore);
  isConnected = true;
  return remote;
}

/** What is needed of a URL where there is a link already. */
type LinkOptions = Omit<RemoteOptions, "url"> & { url: Pick<DriveUrl, "token" | "user" | "share"> };

/** The same over a link that exists; `dialMore` gives all further ones: without it there are no io channels, and a lost link is the end. */
export async function connectLink(link: ByteLink, options: LinkOptions, dialMore?: DialMore): Promise<Remote> {
  const { clock, log } = options;
  const room = log.room("client");
  const session = new ClientSession(sessionOptions(options, room, dialMore));
  await session.connect(link);
  const { channels } = session;
  const answerMs = options.answerTimeoutMs === 0 ? Infinity : (options.answerTimeoutMs ?? ANSWER_TIMEOUT_MS);
  const heardBytes = () => channels.receivedBytes;
  const watch = new SectionWatch({ clock, log: room, heardBytes, patienceMs: answerMs });
  const close = () => {
    watch.stop();
    return session.close();
  };
  const fileSystem = new RemoteFileSystem(
    { channels, watch, answerMs },
    { readOnly: options.readOnly === true, leases: options.leases === true, close },
  );
  session.opens = fileSystem.opens;
  session.locks = fileSystem.locks;
  fileSystem.locks.onLost = (node) => {
    room.warn(`a lock of node ${Buffer.from(node, "latin1").toString("hex")} is lost to others`);
  };
  return {
    fileSystem,
    share: shareOf(channels.agreement, options.readOnly === true),
    closed: session.over.then((reason) => {
      if (reason !== undefined) room.warn(`${link.peer}: ${reason.message}`);
      watch.stop();
      return reason;
    }),
    get state() {
      return session.state;
    },
    onState(listener) {
      session.onState = listener;
    },
    set events(events: OpenEvents | undefined) {
      fileSystem.opens.events = events;
    },
    nameOf: (id) => fileSystem.names.nameOf(id),
    status: () => statusOf(link.peer, session, { opens: fileSystem.opens, security: securityOf(options) }),
    lineBytes: () => channels.lineBytes,
    queryKey: (ctx, handle) => fileSystem.queryKey(ctx, handle),
    async ticketFor(ctx, handle) {
      const { openId, resumeKey, challenge } = await fileSystem.queryKey(ctx, handle);
      const { attachedBy } = fileSystem.opens.find("queryKey", handle);
      return { resumeKey, challenge, key: attachedBy ?? openKey(channels.agreement.sessionKey, openId) };
    },
    get openFiles() {
      const files = [...fileSystem.opens.all].filter(({ kind, isGone }) => kind === "file" && !isGone);
      return files.map(({ id: handle, node, flags }) => ({ handle, node, flags }));
    },
    attach: (ctx, ticket) => attachOpen(channels, fileSystem.opens, ctx, ticket),
    close,
  };
}

function sessionOptions(options: LinkOptions, log: Log, dial: DialMore | undefined): SessionOptions {
  const { url, clock, timeoutMs = 0 } = options;
  return {
    login: loginOf(options),
    share: url.share,
    security: securityOf(options),
    sectionBytes: options.sectionBytes ?? SECTION_BYTES,
    credits: options.credits ?? CREDITS,
    ioChannels: options.ioChannels ?? IO_CHANNELS,
    isPipelined: options.isPipelined ?? true,
    keepMs: options.keepMs ?? KEEP_MS,
    setUpTimeoutMs: options.setUpTimeoutMs ?? SET_UP_TIMEOUT_MS,
    patienceMs: timeoutMs === 0 ? Number.POSITIVE_INFINITY : timeoutMs,
    dial,
    clock,
    network: options.network,
    log,
    trace: options.trace,
    signal: options.signal,
    random: options.random ?? Math.random,
  };
}

function loginOf({ url, password = "", ticket }: LinkOptions): SessionOptions["login"] {
  if (ticket !== undefined) {
    const { resumeKey, key, challenge } = ticket;
    return { t: "ticket", key: ticketKey(key, challenge), resumeKey };
  }
  return url.user === undefined
    ? { t: "token", key: tokenKey(url.token) }
    : { t: "password", user: url.user, password };
}

function shareOf(agreement: Agreement, readOnly: boolean): RemoteShare {
  return {
    name: agreement.share,
    readOnly: readOnly || agreement.readOnly,
    mandatoryLocks: agreement.mandatoryLocks,
    squash: agreement.squash,
    serverId: agreement.serverId.toString("hex"),
    bootId: agreement.bootId.toString("hex"),
    sectionBytes: agreement.sectionBytes,
    credits: agreement.credits,
  };
}

function securityOf({ security = { control: "plain", io: "plain" } }: LinkOptions): ChannelSecurity {
  return security;
}

function statusOf(
  peer: string,
  session: ClientSession,
  { opens, security }: { opens: RemoteOpens; security: ChannelSecurity },
): RemoteStatus {
  const channels: readonly CallChannelFigures[] = session.channels.figures;
  const status = {
    requestsOutstanding: 0,
    sectionsOutstanding: 0,
    inFlightBytes: 0,
    windowBytes: 0,
    bytesPerSecond: 0,
  };
  const roundTrips: number[] = [];
  for (const [index, { calls, sections }] of channels.entries()) {
    status.requestsOutstanding += calls.creditsHeld + sections.creditsHeld;
    status.sectionsOutstanding += sections.creditsHeld;
    status.inFlightBytes += sections.inFlightBytes;
    // Where there are io channels, control carries no sections.
    if (index > 0 || channels.length === 1) status.windowBytes += sections.windowBytes;
    status.bytesPerSecond += sections.bytesPerSecond;
    for (const { roundTripMs } of [calls, sections]) if (roundTripMs !== undefined) roundTrips.push(roundTripMs);
  }
  return {
    channels: channels.map(({ isOpen, cipher, receivedBytes, sentBytes }, index) => ({
      kind: index === 0 ? "control" : "io",
      security: index === 0 ? security.control : security.io,
      cipher: cipher === "" ? undefined : cipher,
      state: isOpen ? "open" : "closed",
      peer,
      receivedBytes,
      sentBytes,
    })),
    ...status,
    roundTripMs: roundTrips.length === 0 ? undefined : Math.min(...roundTrips),
    opens: opens.size,
    leases: opens.leases.figures,
    resumes: session.resumes,
  };
}
