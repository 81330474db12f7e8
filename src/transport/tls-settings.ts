/**
 * What both sides say about TLS: versions and ciphers, how a server's key is named, how a channel is bound to its connection.
 *
 * TLS 1.3 only: nothing older is needed, and it has no weak choice to be talked into.
 */
import { createHash, type X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import type { TcpSocket } from "../sys/tcp-socket.ts";

const BINDING_BYTES = 32;
const BINDING_LABEL = "EXPERIMENTAL netdrive/1 channel";

/** Those that cost least first: with AES instructions ChaCha20 takes a fifth more of the processor than the AES ciphers (2-core machine, 2026-11). */
const WITH_AES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";
const WITHOUT_AES = "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";

/** The ciphers to be spoken, as OpenSSL wants them. */
export function tlsCiphers(): string {
  return hasAes() ? WITH_AES : WITHOUT_AES;
}

function hasAes(): boolean {
  try {
    return /^(flags|Features)\s*:.*\baes\b/m.test(readFileSync("/proc/cpuinfo", "utf8"));
  } catch {
    return true;
  }
}

/**
 * The name of a server: SHA-256 of its public key (SubjectPublicKeyInfo, as in RFC 7469), base64url, 43 characters.
 *
 * Of the key and not of the certificate, so that a certificate may be renewed for the same key.
 */
export function fingerprintOf(certificate: X509Certificate): string {
  const key = certificate.publicKey.export({ type: "spki", format: "der" });
  return createHash("sha256").update(key).digest("base64url");
}

/** Whether `text` has the form of a fingerprint. */
export function isFingerprint(text: string): boolean {
  return text.length === 43 && Buffer.from(text, "base64url").toString("base64url") === text;
}

/** Bytes that only the two ends of this connection know; see PROTOCOL.md, "Set-up". */
export function bindingOf(socket: TcpSocket): Buffer {
  return socket.exportKeyingMaterial(BINDING_BYTES, BINDING_LABEL);
}
