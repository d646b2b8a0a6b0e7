import {
  Bitmap,
  type CacheError,
  type KeyListEntry,
  type KeyListPage,
  type L2StoreResult,
} from "@cache/contracts";
import { asCacheError, type GateOperation, malformedAnswer } from "./failures.ts";

type Fields = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is Fields {
  return typeof value === "object" && value !== null;
}

/**
 * A bitmap of our own with the bits of an adapter's answer. Its class may come from another copy of the
 * contracts package, so its shape is looked at, not its prototype.
 *
 * @throws CacheError `BACKEND_UNAVAILABLE` unless it is a bitmap of exactly `size` positions.
 */
export function checkBitmap(id: string, operation: GateOperation, size: number, answer: unknown): Bitmap {
  if (!isObject(answer) || typeof answer["has"] !== "function") {
    throw malformedAnswer(id, operation, "no bitmap");
  }
  if (answer["size"] !== size) {
    throw malformedAnswer(id, operation, `a bitmap of ${String(answer["size"])} positions for ${size} keys`);
  }
  const foreign = answer as unknown as Bitmap;
  const bitmap = new Bitmap(size);
  for (let i = 0; i < size; i++) if (foreign.has(i)) bitmap.set(i);
  return bitmap;
}

/**
 * A store result of our own. A key that is neither stored nor in `failed`, or in both, counts as failed: it is
 * never taken for stored on an unclear answer.
 *
 * @throws CacheError `BACKEND_UNAVAILABLE` for any other breach of the contract.
 */
export function checkStoreResult(id: string, size: number, maxBytes: number, answer: unknown): L2StoreResult {
  if (!isObject(answer)) throw malformedAnswer(id, "store", "no result");
  const stored = checkBitmap(id, "store", size, answer["stored"]);
  const foreign = answer["failed"];
  if (!isObject(foreign) || typeof foreign["forEach"] !== "function") {
    throw malformedAnswer(id, "store", "no map of failed keys");
  }
  const bytesTransferred = answer["bytesTransferred"];
  if (
    typeof bytesTransferred !== "number" ||
    !Number.isSafeInteger(bytesTransferred) ||
    bytesTransferred < 0 ||
    bytesTransferred > maxBytes
  ) {
    throw malformedAnswer(
      id,
      "store",
      `bytesTransferred ${String(bytesTransferred)}, which is not in 0..${maxBytes}`,
    );
  }
  const failed = new Map<number, CacheError>();
  (foreign as unknown as ReadonlyMap<unknown, unknown>).forEach((error, position) => {
    if (typeof position !== "number" || !Number.isInteger(position) || position < 0 || position >= size) {
      throw malformedAnswer(id, "store", `failed position ${String(position)} for ${size} keys`);
    }
    failed.set(position, asCacheError(id, "store", error));
    stored.clear(position);
  });
  for (let i = 0; i < size; i++) {
    if (stored.has(i) || failed.has(i)) continue;
    failed.set(i, malformedAnswer(id, "store", `key ${i} is neither stored nor failed`));
  }
  return { stored, failed, bytesTransferred };
}

function isListEntry(entry: unknown): entry is KeyListEntry {
  if (!isObject(entry) || !isObject(entry["key"])) return false;
  const { key, size_bytes: size, modified_ms: modified } = entry as { key: Fields } & Fields;
  return (
    typeof key["chunk_hash_hex"] === "string" &&
    typeof key["model_name"] === "string" &&
    typeof key["kv_rank"] === "number" &&
    typeof key["object_group_id"] === "number" &&
    typeof key["cache_salt"] === "string" &&
    Number.isSafeInteger(size) &&
    (size as number) >= 0 &&
    (modified === undefined || typeof modified === "number")
  );
}

/**
 * The page, if it has the shape of one. Whether its keys keep their invariants is the reader's to check.
 *
 * @throws CacheError `BACKEND_UNAVAILABLE` naming what is wrong.
 */
export function checkKeyListPage(id: string, pageSize: number, answer: unknown): KeyListPage {
  const entries = isObject(answer) ? answer["entries"] : undefined;
  if (!isObject(answer) || !Array.isArray(entries))
    throw malformedAnswer(id, "listKeys", "no list of entries");
  if (entries.length > pageSize) {
    throw malformedAnswer(id, "listKeys", `${entries.length} entries for a page of ${pageSize}`);
  }
  const token = answer["nextPageToken"];
  if (token !== null && typeof token !== "string") {
    throw malformedAnswer(id, "listKeys", "a nextPageToken that is neither text nor null");
  }
  const checked = entries.map((entry: unknown, i) => {
    if (!isListEntry(entry)) throw malformedAnswer(id, "listKeys", `entry ${i} is no key with a size`);
    return entry;
  });
  return { entries: checked, nextPageToken: token };
}
