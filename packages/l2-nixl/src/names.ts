import { OWNER_PATTERN, ownerOf, ownerText, type TemporaryOwner } from "@cache/adapter-kit";
import { CacheError, type ObjectKey, objectKey } from "@cache/contracts";

/** Longest file name of the filesystems that we run on, in bytes. */
export const NAME_BYTES_MAX = 255;
/** Ending of every object file (LMCache 0.5.6, `nixl_store_dynamic`). */
export const OBJECT_SUFFIX = ".bin";

const SLASH = "--";

/**
 * The model's part of a file name: each `/` becomes `--` (LMCache 0.5.6).
 *
 * @throws CacheError `AMBIGUOUS_NAME` if another model name has the same part, e.g. `a/b` and `a--b`: LMCache serves
 *   one for the other there.
 */
export function encodeModelName(modelName: string): string {
  const encoded = modelName.replaceAll("/", SLASH);
  const decoded = encoded.replaceAll(SLASH, "/");
  if (decoded !== modelName) {
    throw new CacheError(
      "AMBIGUOUS_NAME",
      `model name ${JSON.stringify(modelName)} would share its file names with ${JSON.stringify(decoded)}: '${SLASH}' stands for '/'; serve the model under a name without '${SLASH}'`,
      { details: { modelName } },
    );
  }
  return encoded;
}

function hashHex({ chunkHash }: ObjectKey): string {
  return Buffer.from(chunkHash.buffer, chunkHash.byteOffset, chunkHash.byteLength).toString("hex");
}

/**
 * File name of an object: `M''_R8_G_H[@S].bin` (LMCache 0.5.6, `nixl_store_dynamic`). Different keys have different
 * names: a model name has no `@`, and the three fields before it are hexadecimal.
 *
 * @throws CacheError `AMBIGUOUS_NAME` if another key has the same name, `INVALID_KEY` if the name is longer than
 *   {@link NAME_BYTES_MAX} bytes.
 */
export function encodeFileName(key: ObjectKey): string {
  const { kvRank, objectGroupId, cacheSalt } = key;
  const rank = kvRank.toString(16).padStart(8, "0");
  const salt = cacheSalt === "" ? "" : `@${cacheSalt}`;
  const name = `${encodeModelName(key.modelName)}_${rank}_${objectGroupId.toString(16)}_${hashHex(key)}${salt}${OBJECT_SUFFIX}`;
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

const NAME =
  /^(?<model>[^@]+)_(?<rank>[0-9a-f]{8})_(?<group>[0-9a-f]{1,8})_(?<hash>(?:[0-9a-f]{2})+)(?:@(?<salt>[^@]+))?$/s;

/** The key of a file name; null for a file that {@link encodeFileName} would not have named so. */
export function decodeFileName(name: string): ObjectKey | null {
  if (!name.endsWith(OBJECT_SUFFIX)) return null;
  const {
    model,
    rank,
    group,
    hash,
    salt = "",
  } = NAME.exec(name.slice(0, -OBJECT_SUFFIX.length))?.groups ?? {};
  if (model === undefined || rank === undefined || group === undefined || hash === undefined) return null;
  try {
    const key = objectKey({
      chunkHash: Buffer.from(hash, "hex"),
      modelName: model.replaceAll(SLASH, "/"),
      kvRank: Number.parseInt(rank, 16),
      objectGroupId: Number.parseInt(group, 16),
      cacheSalt: salt,
    });
    return encodeFileName(key) === name ? key : null;
  } catch {
    return null; // a foreign file whose name breaks a rule of keys
  }
}

/**
 * Where a file lies below `file_path`, without its name: `""`, or two levels by the chunk hash where files are spread
 * (LMCache's `shard_dirs`).
 */
export function shardOf(key: ObjectKey, isSharded: boolean): string {
  if (!isSharded) return "";
  const hash = hashHex(key);
  return [hash.slice(0, 2), hash.slice(2, 4)].filter((part) => part !== "").join("/");
}

/** A name of a shard's directory. */
export const SHARD = /^[0-9a-f]{2}$/;

const TEMPORARY = new RegExp(String.raw`^\.cache-nixl\.${OWNER_PATTERN}\.[0-9a-z]+\.tmp$`);

/**
 * The name of a file that is being written. LMCache opens exact names only, and removes on close whatever holds
 * `.tmp.`, also of others: no name of ours does.
 */
export function temporaryName(owner: TemporaryOwner, count: number): string {
  return `.cache-nixl.${ownerText(owner)}.${count.toString(36)}.tmp`;
}

/** The owner of one of our temporaries, null for any other file. */
export function parseTemporaryName(name: string): TemporaryOwner | null {
  return ownerOf(TEMPORARY.exec(name));
}
