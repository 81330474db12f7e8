/**
 * Resume keys: what a server must know of an open to find it again, sealed so that only the server can read or make it.
 *
 *     0 format u8 (2)   1 start u32   5 initialisation vector, 12 bytes   17 ciphertext, PLAIN_BYTES   then the tag, 16 bytes
 *     plain: 0 open id u53   8 opened at, ms since 1970, u53   16 pid of the opener u32   20 epoch u32   24 server id, 16 bytes
 *
 * AES-256-GCM; the head is authenticated with it. Each start of a server has a key of its own, made from its lasting secret and the number of the
 * start, so that it opens what earlier starts have sealed. The vector is a random prefix of this object and a counter, so it does not repeat under a key.
 */
import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";

const FORMAT = 2;
const SECRET_BYTES = 32;
const IV_AT = 5;
const IV_BYTES = 12;
const HEAD_BYTES = IV_AT + IV_BYTES;
const PLAIN_BYTES = 40;
const TAG_BYTES = 16;
const KEY_BYTES = HEAD_BYTES + PLAIN_BYTES + TAG_BYTES;
const TWO_32 = 2 ** 32;
const SEAL_LABEL = "netdrive/1 seal\0";
const EARLIER_KEYS_MAX = 64;

/** What is inside a resume key. */
export interface KeyContent {
  openId: number;
  /** Realtime of the server. */
  openedAtMs: number;
  /** Process that opened, at the client. */
  pid: number;
  /** Counts take-overs of the share; 1 before the first. */
  epoch: number;
  /** 16 bytes. */
  serverId: Buffer;
}

/**
 * Seals `message` in place with AES-256-GCM: the first `headBytes` are authenticated and end with the nonce, what follows is encrypted, and the last
 * 16 bytes become the tag.
 */
export type MessageSeal = (message: Buffer, headBytes: number) => void;

/** The seal of a key of 32 bytes, by Node's own cipher objects: one object, one key schedule and five calls a message. */
export function nodeSeal(key: Buffer): MessageSeal {
  return (message, headBytes) => {
    const tagAt = message.length - TAG_BYTES;
    const cipher = createCipheriv("aes-256-gcm", key, message.subarray(headBytes - IV_BYTES, headBytes));
    cipher.setAAD(message.subarray(0, headBytes));
    cipher.update(message.subarray(headBytes, tagAt)).copy(message, headBytes);
    cipher.final();
    cipher.getAuthTag().copy(message, tagAt);
  };
}

export class KeySeal {
  readonly #secret: Buffer;
  readonly #start: number;
  readonly #key: Buffer;
  readonly #ivPrefix = randomBytes(6);
  /** Of earlier starts, as they are met. */
  readonly #earlierKeys = new Map<number, Buffer>();
  readonly #sealMessage: MessageSeal;
  #sealed = 0;

  /**
   * `secret`: 32 bytes; `start`: which start of the server this is, a number that never comes again with this secret; `sealOf`: a quicker way to seal, undefined
   * where there is none.
   */
  constructor(secret: Buffer, start: number, sealOf: (key: Buffer) => MessageSeal | undefined = nodeSeal) {
    this.#secret = secret;
    this.#start = start;
    this.#key = startKey(secret, start);
    this.#sealMessage = sealOf(this.#key) ?? nodeSeal(this.#key);
  }

  seal(content: KeyContent): Buffer {
    const sealed = Buffer.allocUnsafe(KEY_BYTES);
    sealed[0] = FORMAT;
    sealed.writeUInt32LE(this.#start, 1);
    this.#sealed += 1;
    this.#ivPrefix.copy(sealed, IV_AT);
    sealed.writeUIntLE(this.#sealed, IV_AT + 6, 6);
    writeU53(sealed, HEAD_BYTES, content.openId);
    writeU53(sealed, HEAD_BYTES + 8, content.openedAtMs);
    sealed.writeUInt32LE(content.pid, HEAD_BYTES + 16);
    sealed.writeUInt32LE(content.epoch, HEAD_BYTES + 20);
    content.serverId.copy(sealed, HEAD_BYTES + 24);
    this.#sealMessage(sealed, HEAD_BYTES);
    return sealed;
  }

  /** Opens a key; undefined if it is not one of ours. */
  unseal(sealed: Buffer): KeyContent | undefined {
    if (sealed.length !== KEY_BYTES || sealed[0] !== FORMAT) return undefined;
    const key = this.#keyOf(sealed.readUInt32LE(1));
    if (key === undefined) return undefined;
    const iv = sealed.subarray(IV_AT, HEAD_BYTES);
    const decipher = createDecipheriv("aes-256-gcm", key, iv, { authTagLength: TAG_BYTES });
    decipher.setAAD(sealed.subarray(0, HEAD_BYTES));
    decipher.setAuthTag(sealed.subarray(HEAD_BYTES + PLAIN_BYTES));
    const plain = decipher.update(sealed.subarray(HEAD_BYTES, HEAD_BYTES + PLAIN_BYTES));
    try {
      decipher.final();
    } catch {
      return undefined;
    }
    return {
      openId: readU53(plain, 0),
      openedAtMs: readU53(plain, 8),
      pid: plain.readUInt32LE(16),
      epoch: plain.readUInt32LE(20),
      serverId: Buffer.from(plain.subarray(24)),
    };
  }

  /** The key of a start up to this one. */
  #keyOf(start: number): Buffer | undefined {
    if (start === this.#start) return this.#key;
    if (start > this.#start) return undefined;
    let key = this.#earlierKeys.get(start);
    if (key === undefined) {
      // Who shows keys of starts that never were must not fill the memory.
      if (this.#earlierKeys.size >= EARLIER_KEYS_MAX) this.#earlierKeys.clear();
      key = startKey(this.#secret, start);
      this.#earlierKeys.set(start, key);
    }
    return key;
  }
}

function startKey(secret: Buffer, start: number): Buffer {
  const info = Buffer.alloc(SEAL_LABEL.length + 4);
  info.write(SEAL_LABEL, "latin1");
  info.writeUInt32LE(start, SEAL_LABEL.length);
  return Buffer.from(hkdfSync("sha256", secret, Buffer.alloc(0), info, SECRET_BYTES));
}

function writeU53(target: Buffer, at: number, value: number): void {
  target.writeUInt32LE(value >>> 0, at);
  target.writeUInt32LE(Math.floor(value / TWO_32), at + 4);
}

function readU53(source: Buffer, at: number): number {
  return source.readUInt32LE(at + 4) * TWO_32 + source.readUInt32LE(at);
}
