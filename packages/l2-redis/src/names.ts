import { type ObjectKey, WIRE_NAMES } from "@cache/contracts";

/**
 * The key of an object in Redis: `M@R8@G@H[@S]`, with `prefix@` before it if there is one (LMCache 0.5.6, `resp` and
 * `valkey`). Different keys have different names: no part can hold `@`.
 */
export function encodeWireKey(key: ObjectKey, prefix: string): string {
  const name = WIRE_NAMES.encode(key);
  return prefix === "" ? name : `${prefix}@${name}`;
}

/** The object of a Redis key; null for one that {@link encodeWireKey} would not have named so. */
export function decodeWireKey(name: string, prefix: string): ObjectKey | null {
  if (prefix === "") return WIRE_NAMES.decode(name);
  return name.startsWith(`${prefix}@`) ? WIRE_NAMES.decode(name.slice(prefix.length + 1)) : null;
}

function escapeGlob(text: string): string {
  return text.replaceAll(/[\\*?[\]^-]/g, "\\$&");
}

/** Pattern for `SCAN … MATCH` that every key of ours fits (and some foreign ones may). */
export function scanPattern(prefix: string, modelName?: string): string {
  const head = prefix === "" ? "" : `${escapeGlob(prefix)}@`;
  return `${head}${modelName === undefined ? "*" : escapeGlob(modelName)}@????????@*@*`;
}

const SLOTS = 16_384;

/** CRC16 as Redis Cluster uses it (XMODEM: polynomial 0x1021, begins with 0). */
const CRC_TABLE = Uint16Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 8;
  for (let bit = 0; bit < 8; bit++) crc = (crc & 0x8000) === 0 ? crc << 1 : (crc << 1) ^ 0x1021;
  return crc & 0xffff;
});

/** The cluster slot of a Redis key: of what stands between its first `{` and the next `}` if that is not empty. */
export function clusterSlot(name: string): number {
  let hashed = name;
  const open = name.indexOf("{");
  if (open >= 0) {
    const close = name.indexOf("}", open + 1);
    if (close > open + 1) hashed = name.slice(open + 1, close);
  }
  let crc = 0;
  for (const byte of Buffer.from(hashed, "utf8")) {
    crc = ((crc << 8) & 0xffff) ^ (CRC_TABLE[(crc >>> 8) ^ byte] ?? 0);
  }
  return crc % SLOTS;
}
