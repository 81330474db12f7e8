/**
 * AES-256-GCM for small messages under one key, sealed in place: the addon keeps the cipher with its key, so that a message takes 1 us where Node's objects
 * take 20 (2026-11).
 */
import { loadAddon } from "./addon.ts";

interface SealAddon {
  createSeal(key: Buffer): ((message: Buffer, headBytes: number) => void) | undefined;
}

/** The seal of a key of 32 bytes, see MessageSeal in resume/key-seal.ts; undefined where Node has no OpenSSL that the addon knows. */
export function addonSeal(key: Buffer): ((message: Buffer, headBytes: number) => void) | undefined {
  return loadAddon<SealAddon>().createSeal(key);
}
