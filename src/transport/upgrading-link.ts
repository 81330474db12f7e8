/**
 * A byte link whose HTTP upgrade is still to be said: the request leaves with the first bytes that are written, and the server's answer to it is taken out
 * of what comes. So the upgrade costs no round trip of its own.
 *
 * HTTP libraries do not do this: they wait for the answer. A server that does not upgrade sees what is behind the request as another request, which is none;
 * so this is for servers that were there before.
 */
import { CloseCode, ProtocolError } from "../base/errors.ts";
import type { ByteLink, LinkReceiver } from "./byte-link.ts";
import { UPGRADE_PATH, UPGRADE_PROTOCOL } from "./listen.ts";

/** Line and headers of an answer. */
const ANSWER_BYTES_MAX = 4096;
const ANSWER_END = "\r\n\r\n";
const IS_ANSWER = /^HTTP\/1\.1 101 /;
const HAS_PROTOCOL = new RegExp(`\r\nupgrade: *${UPGRADE_PROTOCOL} *(\r\n|$)`, "i");

export class UpgradingLink implements ByteLink {
  readonly #link: ByteLink;
  #request: Buffer | undefined;

  /** `host`: as the request names the server. */
  constructor(link: ByteLink, host: string) {
    this.#link = link;
    const lines = [
      `GET ${UPGRADE_PATH} HTTP/1.1`,
      `Host: ${host}`,
      "Connection: Upgrade",
      `Upgrade: ${UPGRADE_PROTOCOL}`,
    ];
    this.#request = Buffer.from(`${lines.join("\r\n")}\r\n\r\n`);
  }

  get peer(): string {
    return this.#link.peer;
  }

  get address(): string {
    return this.#link.address;
  }

  get binding(): Buffer {
    return this.#link.binding;
  }

  get cipher(): string {
    return this.#link.cipher;
  }

  start(receiver: LinkReceiver): void {
    this.#link.start(new AnswerReceiver(receiver, this.#link));
  }

  write(chunks: readonly Buffer[], sent: () => void): void {
    const request = this.#request;
    this.#request = undefined;
    this.#link.write(request === undefined ? chunks : [request, ...chunks], sent);
  }

  withdraw(): void {
    this.#link.withdraw();
  }

  pause(): void {
    this.#link.pause();
  }

  resume(): void {
    this.#link.resume();
  }

  end(): void {
    this.#link.end();
  }

  destroy(): void {
    this.#link.destroy();
  }
}

/** Takes the answer out, and hands on what follows. */
class AnswerReceiver implements LinkReceiver {
  readonly #receiver: LinkReceiver;
  readonly #link: ByteLink;
  /** Where the answer lands; undefined once it is whole. */
  #answer: Buffer | undefined = Buffer.allocUnsafe(ANSWER_BYTES_MAX);
  #answerBytes = 0;
  #error: Error | undefined;

  constructor(receiver: LinkReceiver, link: ByteLink) {
    this.#receiver = receiver;
    this.#link = link;
  }

  data(chunk: Buffer): void {
    if (this.#answer === undefined) {
      this.#receiver.data(chunk);
      return;
    }
    const bytes = Math.min(chunk.length, ANSWER_BYTES_MAX - this.#answerBytes);
    chunk.copy(this.#answer, this.#answerBytes, 0, bytes);
    this.#read(bytes, chunk.subarray(bytes));
  }

  place(): Buffer {
    return this.#answer === undefined ? this.#receiver.place() : this.#answer.subarray(this.#answerBytes);
  }

  landed(bytes: number): void {
    if (this.#answer === undefined) this.#receiver.landed(bytes);
    else this.#read(bytes, undefined);
  }

  closed(error: Error | undefined): void {
    const isEarly = this.#answer !== undefined && this.#error === undefined;
    // As a kernel says it where nobody listens: a forwarder without a server behind it may end the connection instead.
    const early = Object.assign(new Error(`${this.#link.peer} closed the connection`), { code: "ECONNRESET" });
    this.#receiver.closed(this.#error ?? error ?? (isEarly ? early : undefined));
  }

  /** `bytes` more are in `#answer`, and `rest` behind them. */
  #read(bytes: number, rest: Buffer | undefined): void {
    const answer = this.#answer as Buffer;
    if (this.#error !== undefined) {
      this.#answerBytes = 0;
      return;
    }
    this.#answerBytes += bytes;
    const text = answer.toString("latin1", 0, this.#answerBytes);
    const end = text.indexOf(ANSWER_END);
    if (
      end < 0
        ? this.#answerBytes === ANSWER_BYTES_MAX
        : !IS_ANSWER.test(text) || !HAS_PROTOCOL.test(text.slice(0, end + 2))
    ) {
      this.#answerBytes = 0;
      this.#error = new ProtocolError(CloseCode.MALFORMED, `${this.#link.peer} is not a netdrive server`);
      this.#link.destroy();
      return;
    }
    if (end < 0) return;
    this.#answer = undefined;
    const first = answer.subarray(end + ANSWER_END.length, this.#answerBytes);
    const all = rest === undefined || rest.length === 0 ? first : Buffer.concat([first, rest]);
    if (all.length > 0) this.#receiver.data(all);
  }
}
