/** IP addresses as bytes, pure. */
import { isIP } from "node:net";

const IPV6_BYTES = 16;
/** What one customer usually has: whoever has one address of it has them all. */
const IPV6_NETWORK_BYTES = 8;
const MAPPED_PREFIX = Buffer.concat([Buffer.alloc(10), Buffer.alloc(2, 0xff)]);

/** The 4 or 16 bytes of an address that `isIP` knows as one; a zone is left out. */
export function addressBytes(address: string): Buffer {
  if (isIP(address) === 4) return Buffer.from(address.split(".").map(Number));
  const [head = "", tail = ""] = address.replace(/%.*/, "").split("::");
  const [first, last] = [groups(head), groups(tail)];
  return Buffer.from([...first, ...new Array<number>(IPV6_BYTES - first.length - last.length).fill(0), ...last]);
}

function groups(text: string): number[] {
  return text.split(":").flatMap((group) => {
    if (group === "") return [];
    if (group.includes(".")) return [...addressBytes(group)];
    const value = Number.parseInt(group, 16);
    return [value >> 8, value & 0xff];
  });
}

/** The same text for all addresses that are one source: an IPv4 address, however it is written, or the /64 of an IPv6 address. */
export function sourceOf(address: string): string {
  if (isIP(address) === 0) return address;
  const bytes = addressBytes(address);
  if (bytes.length === 4) return bytes.join(".");
  if (bytes.subarray(0, MAPPED_PREFIX.length).equals(MAPPED_PREFIX)) {
    return bytes.subarray(MAPPED_PREFIX.length).join(".");
  }
  return bytes.subarray(0, IPV6_NETWORK_BYTES).toString("hex");
}
