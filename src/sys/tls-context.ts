/**
 * What all TLS connections of one kind share, for the addon: who we are or whom we believe. What is spoken (TLS 1.3 and HTTP/1.1 behind it) is the addon's.
 */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { loadAddon } from "./addon.ts";

interface Native {
  tlsContext(ciphers: string, recordsPerKeyMax: number, certificates: Buffer, key: Buffer): object;
}

/**
 * Records after which a side changes its key: a third of what AES-GCM may protect with one (RFC 8446, 5.5: 2^24.5), which a busy channel has used up in
 * minutes.
 */
const RECORDS_PER_KEY_MAX = 2 ** 23;

const IS_CERTIFICATE = /-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----[^-]*-----END [^-]*-----/g;

interface Options {
  /** Names of OpenSSL, the best first. */
  readonly ciphers: string;
  readonly recordsPerKeyMax?: number;
}

export class TlsContext {
  /** For the addon. */
  readonly native: object;

  private constructor(native: object) {
    this.native = native;
  }

  /** `certificate`: PEM, the server's own first and then those up to a CA. @throws Error no certificate, or not of this key. */
  static ofServer(options: Options & { certificate: string; key: string }): TlsContext {
    const key = createPrivateKey(options.key).export({ type: "pkcs8", format: "der" });
    return TlsContext.#make(options, certificatesIn(options.certificate), key);
  }

  /** `ca`: PEM, whom to believe; without it nobody is. */
  static ofClient(options: Options & { ca?: string | undefined }): TlsContext {
    return TlsContext.#make(options, certificatesIn(options.ca ?? ""), Buffer.alloc(0));
  }

  static #make({ ciphers, recordsPerKeyMax = RECORDS_PER_KEY_MAX }: Options, certificates: Buffer, key: Buffer) {
    return new TlsContext(loadAddon<Native>().tlsContext(ciphers, recordsPerKeyMax, certificates, key));
  }
}

/** DER after DER. */
function certificatesIn(pem: string): Buffer {
  return Buffer.concat((pem.match(IS_CERTIFICATE) ?? []).map((text) => new X509Certificate(text).raw));
}
