/**
 * One connection to the kernel: requests come in from the device, are served by the FileSystem, and are answered exactly once.
 *
 * Here are the loop, what is in flight, interrupts and the end. What an opcode means is in the handlers (serve-*.ts); how bytes get in
 * and out is the device's (sys/fuse-device.ts, or a fake one in tests). Nothing here ever touches the mounted path.
 */
import type { Clock, Timer } from "../base/clock.ts";
import { type ErrnoName, errnoNumber } from "../base/errno.ts";
import { FsError, toErrno } from "../base/errors.ts";
import type { Log } from "../base/log.ts";
import { type Name, nameFromBytes } from "../base/name.ts";
import type { FuseDevice } from "../sys/fuse-device.ts";
import type { Attr } from "../vfs/attr.ts";
import type { Entry, FileSystem, HandleId, NodeId } from "../vfs/file-system.ts";
import {
  ENTRY_OUT_BYTES,
  FUSE_MAJOR,
  FUSE_MINOR,
  IN_HEADER,
  IN_HEADER_BYTES,
  INIT_OUT_BYTES,
  InitFlag,
  OPCODES,
  Opcode,
  OUT_HEADER_BYTES,
  UNKNOWN_ROW,
} from "./abi.ts";
import { Callers, type StatusReader } from "./callers.ts";
import { DataRoom } from "./data-room.ts";
import type { DirHandle } from "./dir-handle.ts";
import { putEntry, type Validity, validityOf } from "./encode.ts";
import type { FileHandle } from "./file-handle.ts";
import { type InitOptions, negotiate, putInit } from "./init.ts";
import { Interrupts } from "./interrupts.ts";
import { FORGET_BATCH_MAX, type NodeRow, NodeTable } from "./node-table.ts";
import { KernelRequest } from "./request.ts";

const TWO_32 = 2 ** 32;
/** Requests in flight beyond which no more are read: the rest waits in the kernel, where a kill ends it. */
export const IN_FLIGHT_MAX = 8192;
/** Replies of so many bytes are sent by another thread: handing over and waking it costs about as much as copying 100 KiB. */
const LATER_BYTES_MIN = 256 * 1024;
/** Forgotten nodes are passed on together. */
const FORGET_DELAY_MS = 50;

export interface SessionOptions {
  device: FuseDevice;
  fileSystem: FileSystem;
  rootId: NodeId;
  log: Log;
  clock: Clock;
  /** Distinguishes this mount's node numbers from those of another. */
  generation: number;
  attrTimeoutMs: number;
  entryTimeoutMs: number;
  /** 0: names that are not there are asked for every time. */
  negativeTimeoutMs: number;
  posixAcl: boolean;
  backgroundMax: number;
  /** Reads /proc/TID/status. Groups of callers are forwarded only if `forwardGroups`. */
  readStatus: StatusReader;
  forwardGroups: boolean;
}

/** A handler reads the body before it first gives way, and answers once; what it throws becomes the answer. */
export type Handler = (session: Session, request: KernelRequest) => Promise<void> | void;

export interface SessionCounters {
  requests: number;
  errors: number;
  inFlight: number;
  nodes: number;
  opens: number;
  bytesRead: number;
  bytesWritten: number;
}

export class Session {
  readonly fileSystem: FileSystem;
  /** The kernel asks us for locks. */
  readonly hasLocks: boolean;
  readonly nodes: NodeTable;
  readonly log: Log;
  readonly device: FuseDevice;
  readonly room: DataRoom;
  readonly view: DataView;
  readonly attrTimeoutMs: number;
  readonly attrValid: Validity;
  readonly entryValid: Validity;
  readonly negativeValid: Validity | undefined;
  /** Where the body of a reply is put together. */
  readonly scratch: number;
  readonly files = new Map<number, FileHandle>();
  readonly dirs = new Map<number, DirHandle>();
  readonly generation: number;
  bytesRead = 0;
  bytesWritten = 0;
  /** The fixed part of a SETXATTR request, as negotiated. */
  setxattrBytes = 8;
  /** When this mount last changed how many names a node has, in the order of `nodes.now`. */
  linksChangedAt = 0;

  readonly clock: Clock;
  readonly #handlers: readonly (Handler | undefined)[];
  readonly #callers: Callers;
  readonly #interrupts: Interrupts;
  readonly #init: InitOptions;
  readonly #inFlight = new Map<number, KernelRequest>();
  /** By slot: requests whose reply another thread is sending. */
  readonly #sending: (KernelRequest | undefined)[] = [];
  /** Slots of requests beyond IN_FLIGHT_MAX, not yet given back. */
  readonly #withheld: number[] = [];
  #requests = 0;
  #errors = 0;
  #forgetTimer: Timer | undefined;
  #ended = false;
  readonly #onInit: (error?: Error) => void;
  readonly #onEnd: (errno: number) => void;
  readonly initialized: Promise<void>;
  readonly ended: Promise<number>;

  constructor(options: SessionOptions, handlers: readonly (Handler | undefined)[]) {
    const { device, clock, readStatus } = options;
    this.device = device;
    this.room = new DataRoom(device);
    this.fileSystem = options.fileSystem;
    this.hasLocks = options.fileSystem.setlk !== undefined;
    this.log = options.log;
    this.nodes = new NodeTable(options.rootId);
    this.generation = options.generation;
    this.view = new DataView(device.pool.buffer, device.pool.byteOffset, device.pool.length);
    this.scratch = device.dataOffset(device.slotCount);
    this.attrTimeoutMs = options.attrTimeoutMs;
    this.attrValid = validityOf(options.attrTimeoutMs);
    this.entryValid = validityOf(options.entryTimeoutMs);
    this.negativeValid = options.negativeTimeoutMs > 0 ? validityOf(options.negativeTimeoutMs) : undefined;
    this.clock = clock;
    this.#handlers = handlers;
    this.#callers = new Callers(clock, options.forwardGroups ? readStatus : undefined);
    this.#interrupts = new Interrupts(clock, readStatus, this.#inFlight);
    this.#init = {
      maxWriteBytes: device.dataBytesMax,
      backgroundMax: options.backgroundMax,
      posixAcl: options.posixAcl,
      locks: this.hasLocks,
    };
    let onInit: (error?: Error) => void = () => {};
    let onEnd: (errno: number) => void = () => {};
    this.initialized = new Promise((resolve, reject) => {
      onInit = (error) => (error === undefined ? resolve() : reject(error));
    });
    // Whoever mounts waits for it; if nobody does, the end of the session says the same.
    this.initialized.catch(() => {});
    this.ended = new Promise((resolve) => {
      onEnd = resolve;
    });
    this.#onInit = onInit;
    this.#onEnd = onEnd;
  }

  start(): void {
    this.device.start({
      request: (slot, bytes) => {
        try {
          return this.#onRequest(slot, bytes);
        } catch (cause) {
          // A bug; what the kernel waits for is lost, everything else goes on.
          this.log.error("a request was not served", cause);
          return true;
        }
      },
      sent: (slot, refusal) => {
        const request = this.#sending[slot];
        if (request !== undefined) this.#sentLater(request, refusal);
      },
      end: (errno) => this.#finish(errno),
    });
  }

  counters(): SessionCounters {
    return {
      requests: this.#requests,
      errors: this.#errors,
      inFlight: this.#inFlight.size,
      nodes: this.nodes.size,
      opens: this.files.size + this.dirs.size,
      bytesRead: this.bytesRead,
      bytesWritten: this.bytesWritten,
    };
  }

  // Reading bodies. Handlers use these only before they first give way.

  u32(at: number): number {
    return this.view.getUint32(at, true);
  }

  /** A u64 that is a number of ours or the kernel's counting; beyond 2^53 it is none of these. */
  u53(at: number): number {
    return this.view.getUint32(at + 4, true) * TWO_32 + this.view.getUint32(at, true);
  }

  /** A u64 offset or length. @throws FsError `beyond` where a double cannot hold it exactly. */
  size(at: number, beyond: ErrnoName): number {
    const value = this.u53(at);
    if (value > Number.MAX_SAFE_INTEGER) throw new FsError(beyond, "offset beyond 2^53");
    return value;
  }

  /** The NUL-terminated string at `at`, without NUL. */
  name(request: KernelRequest, at: number): Name {
    const { pool } = this.device;
    let end = at;
    while (end < request.end && pool[end] !== 0) end++;
    if (end >= request.end) throw this.malformed(request);
    return nameFromBytes(pool.subarray(at, end));
  }

  malformed(request: KernelRequest): FsError {
    return new FsError("EIO", `malformed ${request.row.name} request of ${request.end - request.body} bytes`);
  }

  /** The row of another node named in a body. */
  nodeOf(nodeid: number): NodeRow {
    const row = this.nodes.get(nodeid);
    if (row === undefined) throw new FsError("ESTALE", `node ${nodeid}`);
    return row;
  }

  fileOf(at: number): FileHandle {
    const file = this.files.get(this.u53(at));
    if (file === undefined) throw new FsError("EBADF", "file handle");
    return file;
  }

  dirOf(at: number): DirHandle {
    const dir = this.dirs.get(this.u53(at));
    if (dir === undefined) throw new FsError("EBADF", "directory handle");
    return dir;
  }

  // Answering.

  /** Sends the `bytes` of body that are in the scratch slot. Returns whether the kernel took the reply. */
  send(request: KernelRequest, bytes: number): boolean {
    this.#putHeader(this.scratch - OUT_HEADER_BYTES, request, bytes, 0);
    return this.#sent(
      request,
      this.device.reply(this.scratch - OUT_HEADER_BYTES, bytes + OUT_HEADER_BYTES, this.room.unclaim(request)),
    );
  }

  /** Sends the first `bytes` of the data room of the request's own slot. */
  sendSlot(request: KernelRequest, bytes: number): void {
    const start = this.device.dataOffset(request.slot) - OUT_HEADER_BYTES;
    this.#putHeader(start, request, bytes, 0);
    if (bytes < LATER_BYTES_MIN || this.device.replyLater(start, bytes + OUT_HEADER_BYTES, request.slot) !== 0) {
      this.#sent(request, this.device.reply(start, bytes + OUT_HEADER_BYTES, this.room.unclaim(request)));
    } else {
      this.#sending[request.slot] = request;
    }
  }

  /** A large reply has gone out, or not; nothing depends on which. */
  #sentLater(request: KernelRequest, refusal: number): void {
    this.#sending[request.slot] = undefined;
    const slot = this.room.unclaim(request);
    if (slot >= 0) this.device.returnSlot(slot);
    this.#sent(request, refusal);
  }

  sendBuffer(request: KernelRequest, payload: Buffer): boolean {
    const start = this.scratch - OUT_HEADER_BYTES;
    this.#putHeader(start, request, payload.length, 0);
    return this.#sent(request, this.device.replyWith(start, OUT_HEADER_BYTES, payload));
  }

  sendErrno(request: KernelRequest, errno: ErrnoName): void {
    const start = this.scratch - OUT_HEADER_BYTES;
    this.#putHeader(start, request, 0, errnoNumber(errno));
    this.#sent(request, this.device.reply(start, OUT_HEADER_BYTES, this.room.unclaim(request)));
  }

  /** Sends an entry, followed by `extraBytes` that are already in place behind it; it counts as looked up only if it arrives. */
  sendEntry(request: KernelRequest, entry: Entry, extraBytes = 0): boolean {
    const row = this.nodes.enter(entry.id);
    this.putEntry(this.scratch, row, entry.attr);
    if (this.send(request, ENTRY_OUT_BYTES + extraBytes)) return true;
    this.forget(row.nodeid, 1);
    return false;
  }

  putEntry(at: number, row: NodeRow, attr: Attr): void {
    const node = { nodeid: row.nodeid, generation: this.generation };
    putEntry(this.view, at, node, attr, this.entryValid, this.attrValid);
  }

  #putHeader(at: number, request: KernelRequest, bodyBytes: number, errno: number): void {
    const { view } = this;
    view.setUint32(at, OUT_HEADER_BYTES + bodyBytes, true);
    view.setInt32(at + 4, -errno, true);
    view.setUint32(at + 8, request.unique >>> 0, true);
    view.setUint32(at + 12, Math.floor(request.unique / TWO_32), true);
    if (request.replied) throw new Error(`second reply to ${request.row.name}`);
    request.replied = true;
  }

  #sent(request: KernelRequest, refusal: number): boolean {
    this.#inFlight.delete(request.unique);
    request.grace?.stop();
    const withheld = this.#withheld;
    while (withheld.length > 0 && this.#inFlight.size < IN_FLIGHT_MAX) this.device.returnSlot(withheld.pop() as number);
    if (refusal === 0) return true;
    // Nobody waits any more (interrupted, aborted, unmounted), which is normal. Anything else is a reply the kernel cannot read.
    if (refusal !== errnoNumber("ENOENT") && refusal !== errnoNumber("ENODEV") && !this.#ended) {
      this.log.error(`the kernel refused the reply to ${request.row.name} with errno ${refusal}`);
      this.#errors++;
    }
    return false;
  }

  // Nodes.

  /** The kernel, or a reply that did not arrive, gives back references of a node. */
  forget(nodeid: number, count: number): void {
    if (!this.nodes.forget(nodeid, count)) this.log.warn(`the kernel forgot node ${nodeid} more often than it knew it`);
    if (this.nodes.forgottenCount >= FORGET_BATCH_MAX) this.#flushForgotten();
    else if (this.#forgetTimer === undefined && this.nodes.forgottenCount > 0) {
      this.#forgetTimer = this.clock.after(FORGET_DELAY_MS, () => this.#flushForgotten());
    }
  }

  #flushForgotten(): void {
    this.#forgetTimer?.stop();
    this.#forgetTimer = undefined;
    const ids = this.nodes.takeForgotten();
    if (ids.length > 0 && !this.#ended) this.fileSystem.forget(ids);
  }

  /** Names of a directory, and thereby the link count of some node, were changed by this mount. */
  namesChanged(directory: NodeRow): void {
    this.nodes.changed(directory);
    this.linksChangedAt = this.nodes.now;
  }

  /** Data of a node is being changed by this mount. */
  writeStarts(node: NodeRow): void {
    this.nodes.changed(node);
    node.pages?.writeStarts();
  }

  writeEnds(node: NodeRow, offsetBytes: number, lengthBytes: number, append: boolean): void {
    this.nodes.changed(node);
    node.pages?.writeEnds(offsetBytes, lengthBytes, append);
  }

  // The loop.

  /** Serves what is in a slot; returns whether the slot is free again. */
  #onRequest(slot: number, bytes: number): boolean {
    this.#requests++;
    const start = this.device.requestOffset(slot);
    const length = bytes >= IN_HEADER_BYTES ? this.u32(start + IN_HEADER.LENGTH) : 0;
    const end = start + length - (length > 0 ? this.view.getUint16(start + IN_HEADER.EXTENSIONS, true) * 8 : 0);
    if (length !== bytes || end < start + IN_HEADER_BYTES) {
      this.log.error(`the kernel sent ${bytes} bytes that are no request`);
      return true;
    }
    const opcode = this.u32(start + IN_HEADER.OPCODE);
    const body = start + IN_HEADER_BYTES;
    const row = OPCODES[opcode] ?? UNKNOWN_ROW;
    const nodeid = this.u53(start + IN_HEADER.NODE);
    const caller = this.#callers.get(
      this.u32(start + IN_HEADER.UID),
      this.u32(start + IN_HEADER.GID),
      this.u32(start + IN_HEADER.PID),
    );
    const node = this.nodes.get(nodeid);
    const unique = this.u53(start + IN_HEADER.UNIQUE);
    const parts = { row, unique, node: node ?? this.nodes.root, startedAt: this.nodes.now, caller, slot, body, end };
    const request = new KernelRequest(parts);
    if (end - body < row.bodyBytes + 2 * row.names) {
      this.log.error(this.malformed(request).message);
      if (row.answered) this.sendErrno(request, "EIO");
      return true;
    }
    if (!row.answered || opcode === Opcode.INIT || opcode === Opcode.DESTROY) {
      this.#control(request, nodeid);
      return true;
    }
    const handler = this.#handlers[opcode];
    if (handler === undefined) this.sendErrno(request, "ENOSYS");
    else if (node === undefined) this.sendErrno(request, "ESTALE");
    else this.#serve(handler, request);
    if (request.keptSlot) return false;
    if (this.#inFlight.size < IN_FLIGHT_MAX) return true;
    this.#withheld.push(slot);
    return false;
  }

  #serve(handler: Handler, request: KernelRequest): void {
    this.#inFlight.set(request.unique, request);
    this.#interrupts.watch();
    try {
      // A rejection is the answer of the request.
      handler(this, request)?.catch((thrown: unknown) => this.#fail(request, thrown));
    } catch (thrown) {
      this.#fail(request, thrown);
    }
  }

  #fail(request: KernelRequest, thrown: unknown): void {
    this.#errors++;
    const errno = toErrno(thrown, (cause) => this.log.error(`${request.row.name} failed unexpectedly`, cause));
    if (!request.replied) this.sendErrno(request, errno);
  }

  /** Requests about the connection, not about a file. */
  #control(request: KernelRequest, nodeid: number): void {
    const { body } = request;
    switch (request.row.opcode) {
      case Opcode.FORGET:
        this.forget(nodeid, this.u53(body));
        break;
      case Opcode.BATCH_FORGET: {
        const count = this.u32(body);
        if (request.end - body - 8 < count * 16) this.log.error(this.malformed(request).message);
        else for (let at = body + 8, i = 0; i < count; i++, at += 16) this.forget(this.u53(at), this.u53(at + 8));
        break;
      }
      case Opcode.INTERRUPT:
        this.#interrupt(request, this.u53(body));
        break;
      case Opcode.INIT:
        this.#initialize(request);
        break;
      case Opcode.DESTROY:
        this.send(request, 0);
        break;
      default:
    }
  }

  #interrupt(interrupt: KernelRequest, unique: number): void {
    const target = this.#inFlight.get(unique);
    if (target !== undefined) this.#interrupts.request(target);
    // Either it is answered already, then the kernel says ENOENT; or another thread has read it and it is not here yet, then
    // EAGAIN makes the kernel send the interrupt again.
    else this.sendErrno(interrupt, "EAGAIN");
  }

  #initialize(request: KernelRequest): void {
    const { body } = request;
    const reply = negotiate(
      {
        major: this.u32(body),
        minor: this.u32(body + 4),
        maxReadAheadBytes: this.u32(body + 8),
        flags: this.u32(body + 12),
      },
      this.#init,
    );
    if (reply === "again") {
      this.view.setUint32(this.scratch, FUSE_MAJOR, true);
      this.view.setUint32(this.scratch + 4, FUSE_MINOR, true);
      this.send(request, 8);
    } else if ("tooOld" in reply) {
      this.sendErrno(request, "EPROTO");
      this.#onInit(new FsError("EPROTO", reply.tooOld));
    } else {
      putInit(this.view, this.scratch, reply);
      this.setxattrBytes = (reply.flags & InitFlag.SETXATTR_EXT) !== 0 ? 16 : 8;
      if (this.send(request, INIT_OUT_BYTES)) this.#onInit();
    }
  }

  /** The connection is gone: nothing can be answered any more, everything the kernel held is let go. */
  #finish(errno: number): void {
    this.#ended = true;
    this.#forgetTimer?.stop();
    this.#interrupts.stop();
    this.#onInit(new FsError("ENOTCONN", "the connection to the kernel ended before it was set up"));
    // Of replies under way nothing more is heard.
    for (const request of this.#sending) if (request !== undefined) this.#inFlight.delete(request.unique);
    for (const request of [...this.#inFlight.values()]) {
      request.grace?.stop();
      request.abort();
    }
    const nobody = { caller: { uid: 0, gid: 0, groups: [], pid: 0 } };
    const drop = (handle: HandleId, what: "release" | "releasedir") => {
      // The FileSystem itself says when it cannot; there is nobody left to tell.
      this.fileSystem[what](nobody, handle).catch((cause: unknown) => this.log.debug(`${what} at the end: ${cause}`));
    };
    for (const file of this.files.values()) for (const handle of file.handles()) drop(handle, "release");
    for (const dir of this.dirs.values()) drop(dir.handle, "releasedir");
    this.files.clear();
    this.dirs.clear();
    this.#onEnd(errno);
  }
}
