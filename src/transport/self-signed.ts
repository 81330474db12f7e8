/**
 * A certificate that a server makes for itself: X.509 written out by hand, an ECDSA key on P-256, signed by that key.
 *
 * Who connects knows the key by its fingerprint, not by who signed it: so the certificate never expires and says nothing but the names it was made
 * for, which count only for those who were given it as a CA. Written here, in a hundred lines, because the library for it
 * (with twenty others) takes 0.3 s to load, which every start of a server would pay.
 */
import { generateKeyPairSync, type KeyObject, randomBytes, sign } from "node:crypto";
import { isIP } from "node:net";
import { addressBytes } from "../base/ip-address.ts";

/** A certificate and its private key, PEM. */
export interface Identity {
  readonly certificate: string;
  readonly key: string;
}

const SEQUENCE = 0x30;
const SET = 0x31;
const INTEGER = 0x02;
const BIT_STRING = 0x03;
const OCTET_STRING = 0x04;
const UTF8_STRING = 0x0c;
const UTC_TIME = 0x17;
const GENERALIZED_TIME = 0x18;
const DNS_NAME = 0x82;
const IP_ADDRESS = 0x87;
const SERIAL_BYTES = 16;

/** ecdsa-with-SHA256, 1.2.840.10045.4.3.2 */
const SIGNATURE_ALGORITHM = der(SEQUENCE, Buffer.from("06082a8648ce3d040302", "hex"));
/** id-at-commonName, 2.5.4.3 */
const COMMON_NAME = Buffer.from("0603550403", "hex");
/** id-ce-subjectAltName, 2.5.29.17 */
const SUBJECT_ALT_NAME = Buffer.from("0603551d11", "hex");
/** From 2000 on, without an end: RFC 5280, 4.1.2.5 */
const VALIDITY = der(
  SEQUENCE,
  der(UTC_TIME, Buffer.from("000101000000Z")),
  der(GENERALIZED_TIME, Buffer.from("99991231235959Z")),
);

/** Makes a key and a certificate for it. `hosts`: names and addresses, for who checks them. */
export function makeIdentity(hosts: readonly string[]): Identity {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const toBeSigned = certificateBody(publicKey, hosts);
  const signature = sign("sha256", toBeSigned, privateKey);
  const whole = der(SEQUENCE, toBeSigned, SIGNATURE_ALGORITHM, der(BIT_STRING, Buffer.from([0]), signature));
  const lines = whole.toString("base64").replace(/.{64}(?=.)/g, "$&\n");
  return {
    certificate: `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`,
    key: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
  };
}

function certificateBody(publicKey: KeyObject, hosts: readonly string[]): Buffer {
  const version3 = der(0xa0, der(INTEGER, Buffer.from([2])));
  const serial = randomBytes(SERIAL_BYTES);
  // Positive and without a leading zero, as DER wants it.
  serial[0] = 0x40 | ((serial[0] as number) & 0x3f);
  const name = der(SEQUENCE, der(SET, der(SEQUENCE, COMMON_NAME, der(UTF8_STRING, Buffer.from("netdrive")))));
  const names = der(SEQUENCE, ...hosts.map(generalName));
  const extensions = der(0xa3, der(SEQUENCE, der(SEQUENCE, SUBJECT_ALT_NAME, der(OCTET_STRING, names))));
  return der(
    SEQUENCE,
    ...[version3, der(INTEGER, serial), SIGNATURE_ALGORITHM, name, VALIDITY, name],
    publicKey.export({ type: "spki", format: "der" }),
    extensions,
  );
}

function generalName(host: string): Buffer {
  if (isIP(host) === 0) return der(DNS_NAME, Buffer.from(host, "latin1"));
  return der(IP_ADDRESS, addressBytes(host));
}

/** One DER value: its type, length and content. */
function der(tag: number, ...parts: readonly Buffer[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  const lengthBytes = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...lengthBytes]), content]);
}
