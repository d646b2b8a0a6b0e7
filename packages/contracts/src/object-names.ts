import { CacheError } from "./errors.ts";
import { type ObjectKey, objectKey } from "./object-key.ts";

/**
 * How the keys of a store are written. Different keys have different names, and `decode` undoes `encode`.
 * LMCache 0.5.6 writes the same names, so its nodes and ours find each other's objects.
 */
export interface ObjectNames {
  /**
   * The name of a key.
   *
   * @throws CacheError `AMBIGUOUS_NAME` for a key that can have no name of its own in this form.
   */
  encode(key: ObjectKey): string;
  /** The key of a name; null for a foreign name that {@link ObjectNames.encode} never gives. */
  decode(name: string): ObjectKey | null;
}

function wireName(key: ObjectKey): string {
  const { chunkHash, modelName, kvRank, objectGroupId, cacheSalt } = key;
  const hash = Buffer.from(chunkHash.buffer, chunkHash.byteOffset, chunkHash.byteLength).toString("hex");
  const salt = cacheSalt === "" ? "" : `@${cacheSalt}`;
  return `${modelName}@${kvRank.toString(16).padStart(8, "0")}@${objectGroupId.toString(16)}@${hash}${salt}`;
}

function parseWireName(name: string): ObjectKey | null {
  const fields = name.split("@", 6);
  const [modelName, rank, group, hash, cacheSalt = ""] = fields;
  if (fields.length > 5 || modelName === undefined || rank === undefined || group === undefined) return null;
  if (hash === undefined || !/^[0-9a-f]{8}$/.test(rank) || !/^[0-9a-f]{1,8}$/.test(group)) return null;
  if (!/^(?:[0-9a-f]{2})+$/.test(hash)) return null;
  try {
    const key = objectKey({
      chunkHash: Buffer.from(hash, "hex"),
      modelName,
      kvRank: Number.parseInt(rank, 16),
      objectGroupId: Number.parseInt(group, 16),
      cacheSalt,
    });
    return wireName(key) === name ? key : null;
  } catch {
    return null; // a foreign name that breaks a rule of keys
  }
}

/** RFC 3986: `encodeURIComponent` leaves `!'()*` as they are, Python's `quote` does not. */
function percentEncode(text: string): string {
  return encodeURIComponent(text).replaceAll(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function decodePercent(text: string): string | null {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

/** A codec that accepts only what it would have written itself. */
function namesOf(encode: (key: ObjectKey) => string, plain: (name: string) => string | null): ObjectNames {
  return Object.freeze({
    encode,
    decode(name: string) {
      const wire = plain(name);
      const key = wire === null ? null : parseWireName(wire);
      if (key === null) return null;
      try {
        return encode(key) === name ? key : null;
      } catch {
        return null;
      }
    },
  });
}

/**
 * `MODEL@RANK@GROUP@HASH[@SALT]`, hexadecimal, the rank with 8 digits: LMCache's wire name, as `resp`, `valkey` and
 * native connectors use it, and the object key of its `s3` adapter. For stores that take any text as a key.
 */
export const WIRE_NAMES: ObjectNames = namesOf(wireName, (name) => name);

/**
 * The wire name with all but `A-Z a-z 0-9 _ . - ~` percent-encoded: LMCache's `hfbucket`. One path segment without
 * special characters, for buckets, URLs and file names; never `.` or `..`.
 */
export const PERCENT_ENCODED_NAMES: ObjectNames = namesOf(
  (key) => percentEncode(wireName(key)),
  decodePercent,
);

/**
 * Percent-encoded but for `/`: the path of LMCache's `s3` requests without the leading slash. For stores that are
 * addressed by URL. Model names with an empty, `.` or `..` segment are refused: URL parsers fold these.
 */
export const URL_PATH_NAMES: ObjectNames = namesOf((key) => {
  const segments = key.modelName.split("/");
  // The last segment goes on with `@RANK…`: it can be neither.
  if (segments.slice(0, -1).some((segment) => segment === "" || segment === "." || segment === "..")) {
    throw new CacheError(
      "AMBIGUOUS_NAME",
      `model name ${JSON.stringify(key.modelName)} has an empty, '.' or '..' segment, which paths fold; serve the model under another name`,
      { details: { modelName: key.modelName } },
    );
  }
  return wireName(key).split("/").map(percentEncode).join("/");
}, decodePercent);
