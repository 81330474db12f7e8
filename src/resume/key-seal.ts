/**
 * Resume keys: what a server must know of an open to find it again, sealed so that only the server can read or make it.
 *
 *     0 format u8 (1)   1 key number u8   2 initialisation vector, 12 bytes   14 ciphertext, PLAIN_BYTES   then the tag, 16 bytes
 *     plain: 0 open id u53   8 opened at, ms since 1970, u53   16 pid of the opener u32   20 epoch u32   24 server id, 16 bytes
 *
 * AES-256-GCM under a key of the server; the head is authenticated with it. The vector is a random prefix of this object and a counter, so it
 * does not repeat under a key: a key that outlives the process must be given a new number, or rotate.
 */
import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";

const FORMAT = 1;
const IV_BYTES = 12;
const HEAD_BYTES = 2 + IV_BYTES;
const PLAIN_BYTES = 40;
const TAG_BYTES = 16;
const KEY_BYTES = HEAD_BYTES + PLAIN_BYTES + TAG_BYTES;
const TWO_32 = 2 ** 32;

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

export class KeySeal {
  readonly #key: Buffer;
  readonly #keyNumber: number;
  readonly #ivPrefix = randomBytes(6);
  #sealed = 0;

  /** `key`: 32 secret bytes; `keyNumber` says which, when keys rotate. */
  constructor(key: Buffer, keyNumber: number) {
    this.#key = key;
    this.#keyNumber = keyNumber;
  }

  seal(content: KeyContent): Buffer {
    const sealed = Buffer.allocUnsafe(KEY_BYTES);
    sealed[0] = FORMAT;
    sealed[1] = this.#keyNumber;
    this.#sealed += 1;
    this.#ivPrefix.copy(sealed, 2);
    sealed.writeUIntLE(this.#sealed, 8, 6);
    const plain = Buffer.allocUnsafe(PLAIN_BYTES);
    writeU53(plain, 0, content.openId);
    writeU53(plain, 8, content.openedAtMs);
    plain.writeUInt32LE(content.pid, 16);
    plain.writeUInt32LE(content.epoch, 20);
    content.serverId.copy(plain, 24);
    const cipher = createCipheriv("aes-256-gcm", this.#key, sealed.subarray(2, HEAD_BYTES));
    cipher.setAAD(sealed.subarray(0, HEAD_BYTES));
    cipher.update(plain).copy(sealed, HEAD_BYTES);
    cipher.final();
    cipher.getAuthTag().copy(sealed, HEAD_BYTES + PLAIN_BYTES);
    return sealed;
  }

  /** Opens a key; undefined if it is not one of ours. */
  unseal(sealed: Buffer): KeyContent | undefined {
    if (sealed.length !== KEY_BYTES || sealed[0] !== FORMAT || sealed[1] !== this.#keyNumber) return undefined;
    const iv = sealed.subarray(2, HEAD_BYTES);
    const decipher = createDecipheriv("aes-256-gcm", this.#key, iv, { authTagLength: TAG_BYTES });
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
}

function writeU53(target: Buffer, at: number, value: number): void {
  target.writeUInt32LE(value >>> 0, at);
  target.writeUInt32LE(Math.floor(value / TWO_32), at + 4);
}

function readU53(source: Buffer, at: number): number {
  return source.readUInt32LE(at + 4) * TWO_32 + source.readUInt32LE(at);
}
