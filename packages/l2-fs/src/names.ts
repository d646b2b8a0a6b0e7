import { OWNER_PATTERN, ownerOf, ownerText, type TemporaryOwner } from "@cache/adapter-kit";
import { CacheError, type ObjectKey, objectKey } from "@cache/contracts";

/** Longest file name of the filesystems that we run on, in bytes. */
export const NAME_BYTES_MAX = 255;
/** Ending of every object file (LMCache 0.5.6, `fs`). */
export const OBJECT_SUFFIX = ".data";
/** Directory below the base path where damaged objects are kept. */
export const QUARANTINE_DIR = ".quarantine";

const SLASH = "-SEP-";

/** Keys come in runs of one model. */
let lastModel = { name: "", encoded: "" };

/**
 * The model's part of a file name: each `/` becomes `-SEP-` (LMCache 0.5.6).
 *
 * @throws CacheError `AMBIGUOUS_NAME` if another model name has the same part, e.g. `a/b` and `a-SEP-b`: LMCache
 *   serves one for the other there.
 */
export function encodeModelName(modelName: string): string {
  if (modelName === lastModel.name) return lastModel.encoded;
  const encoded = modelName.replaceAll("/", SLASH);
  if (encoded.replaceAll(SLASH, "/") !== modelName) {
    throw new CacheError(
      "AMBIGUOUS_NAME",
      `model name ${JSON.stringify(modelName)} would share its file names with ` +
        `${JSON.stringify(encoded.replaceAll(SLASH, "/"))}: '${SLASH}' stands for '/'; serve the model under a name without '${SLASH}'`,
      { details: { modelName } },
    );
  }
  lastModel = { name: modelName, encoded };
  return encoded;
}

/**
 * File name of an object: `M'@0xR8@G@H[@S].data` (LMCache 0.5.6, `fs` and `fs_native`). Different keys have
 * different names.
 *
 * @throws CacheError `AMBIGUOUS_NAME` if another key has the same name, `INVALID_KEY` if the name is longer than
 *   {@link NAME_BYTES_MAX} bytes.
 */
export function encodeFileName(key: ObjectKey): string {
  const { chunkHash, kvRank, objectGroupId, cacheSalt } = key;
  const hash = Buffer.from(chunkHash.buffer, chunkHash.byteOffset, chunkHash.byteLength).toString("hex");
  const rank = kvRank.toString(16).padStart(8, "0");
  const salt = cacheSalt === "" ? "" : `@${cacheSalt}`;
  const name = `${encodeModelName(key.modelName)}@0x${rank}@${objectGroupId.toString(16)}@${hash}${salt}${OBJECT_SUFFIX}`;
  const nameBytes = Buffer.byteLength(name);
  if (nameBytes > NAME_BYTES_MAX) {
    throw new CacheError(
      "INVALID_KEY",
      `the file name of this key would have ${nameBytes} bytes, a file system takes ${NAME_BYTES_MAX}; shorten model name or cache_salt`,
      { details: { nameBytes, modelName: key.modelName } },
    );
  }
  return name;
}

/** The key of a file name; null for a file that {@link encodeFileName} would not have named so. */
export function decodeFileName(name: string): ObjectKey | null {
  if (!name.endsWith(OBJECT_SUFFIX)) return null;
  const fields = name.slice(0, -OBJECT_SUFFIX.length).split("@");
  const [model, rank, group, hash, salt = ""] = fields;
  if (fields.length > 5 || model === undefined || rank === undefined || group === undefined) return null;
  if (hash === undefined || !/^0x[0-9a-f]{8}$/.test(rank) || !/^[0-9a-f]{1,8}$/.test(group)) return null;
  if (!/^(?:[0-9a-f]{2})+$/.test(hash)) return null;
  try {
    const key = objectKey({
      chunkHash: Buffer.from(hash, "hex"),
      modelName: model.replaceAll(SLASH, "/"),
      kvRank: Number.parseInt(rank.slice(2), 16),
      objectGroupId: Number.parseInt(group, 16),
      cacheSalt: salt,
    });
    return encodeFileName(key) === name ? key : null;
  } catch {
    return null; // a foreign file whose name breaks a rule of keys
  }
}

const TEMPORARY = new RegExp(
  String.raw`^\.cache-engine\.[A-Za-z0-9_-]{1,32}\.${OWNER_PATTERN}\.[0-9a-z]+\.tmp$`,
);

/**
 * Start of the names of one open adapter's temporaries; a counter and `.tmp` follow. LMCache opens exact names
 * only, so it never takes one for an object.
 */
export function temporaryPrefix(adapterId: string, owner: TemporaryOwner): string {
  const id = adapterId.replaceAll(/[^A-Za-z0-9_-]/g, "_").slice(0, 32) || "_";
  return `.cache-engine.${id}.${ownerText(owner)}.`;
}

/** The owner of one of our temporaries, null for any other file. */
export function parseTemporaryName(name: string): TemporaryOwner | null {
  return ownerOf(TEMPORARY.exec(name));
}
