import { abortedError } from "@cache/adapter-kit";
import {
  Bitmap,
  CacheError,
  isCacheError,
  type L2StoreResult,
  type MemoryObj,
  type ObjectKey,
} from "@cache/contracts";
import type { Accounting } from "./accounting.ts";
import type { BulkClient } from "./bulk-client.ts";
import { BulkRequest } from "./bulk-request.ts";
import type { Topology } from "./topology.ts";

/** Redis's own bound for a value (`proto-max-bulk-len`), in bytes. */
export const OBJECT_BYTES_MAX = 512 * 1024 ** 2;

/** What {@link storeObjects} works with. */
export interface WriterParts {
  readonly location: string;
  readonly ttlSeconds: number | null;
  readonly accounting: Accounting;
  readonly topology: Topology;
  readonly bulk: BulkClient;
  /** Called for each key that is taken by a value of another length. */
  readonly onMismatch: () => void;
}

/** Why an object can have no place here; null if it can. */
function refusal(byteLength: number, accounting: Accounting): CacheError | null {
  if (byteLength === 0) {
    return new CacheError(
      "INVALID_ARGUMENT",
      "an object of 0 bytes cannot be told from one that is not there",
    );
  }
  if (byteLength > OBJECT_BYTES_MAX) {
    return new CacheError(
      "INVALID_ARGUMENT",
      `an object of ${byteLength} bytes is larger than ${OBJECT_BYTES_MAX} bytes`,
    );
  }
  return accounting.reserve(byteLength);
}

/**
 * Stores objects under their names: `SET … NX`, so that one that is there stays untouched. Settles when nothing touches
 * the objects' bytes any more. No other change of these names may run meanwhile.
 */
export async function storeObjects(
  parts: WriterParts,
  keys: readonly ObjectKey[],
  names: readonly string[],
  objects: readonly MemoryObj[],
  ended: AbortSignal,
): Promise<L2StoreResult> {
  const { accounting, bulk } = parts;
  const stored = new Bitmap(keys.length);
  const failed = new Map<number, CacheError>();
  const requests = new Map<number, BulkRequest>();
  for (const [i, { bytes }] of objects.entries()) {
    const refused = refusal(bytes.byteLength, accounting);
    if (refused !== null) failed.set(i, refused);
    else requests.set(i, new BulkRequest("set", names[i] as string, bytes));
  }
  await bulk.run([...requests.values()], ended);
  let bytesTransferred = 0;
  const there = new Map<number, BulkRequest>();
  const written = (i: number, { name, bytes }: BulkRequest): void => {
    accounting.stored(name, (keys[i] as ObjectKey).cacheSalt, bytes.byteLength);
    bytesTransferred += bytes.byteLength;
    stored.set(i);
  };
  for (const [i, request] of requests) {
    accounting.release(request.bytes.byteLength);
    if (request.outcome === "done") written(i, request);
    else if (request.outcome === "exists") there.set(i, request);
    else failed.set(i, request.error ?? abortedError());
  }
  const errors = await lookAtExisting(parts, [...there.values()], ended);
  for (const [n, [i, request]] of [...there].entries()) {
    const error = errors[n];
    if (isCacheError(error)) failed.set(i, error);
    // Sent twice, as the connection broke before the first answer: what is there is what we wrote.
    else if (request.sent > 1 && !accounting.own.has(request.name)) written(i, request);
    else stored.set(i);
  }
  return { stored, failed, bytesTransferred };
}

/** For each key that was there: null if its value has the same length, else why it does not count as stored. */
async function lookAtExisting(
  parts: WriterParts,
  requests: readonly BulkRequest[],
  ended: AbortSignal,
): Promise<(CacheError | null)[]> {
  if (requests.length === 0) return [];
  const { topology, ttlSeconds } = parts;
  try {
    const lengths = await topology.run(
      requests.map(({ name }) => ["strlen", name]),
      ended,
    );
    // As if it had been written anew: it stays for as long as our own.
    const renewals =
      ttlSeconds === null ? [] : requests.map(({ name }) => ["expire", name, ttlSeconds] as const);
    await topology.run(renewals, ended);
    return requests.map((request, n) => verdict(parts, request, lengths[n]));
  } catch (error) {
    return requests.map(() => (isCacheError(error) ? error : abortedError()));
  }
}

function verdict(parts: WriterParts, { bytes }: BulkRequest, length: unknown): CacheError | null {
  if (length === bytes.byteLength) return null;
  if (isCacheError(length) && length.details["reply"] !== "WRONGTYPE") return length;
  if (length === 0) {
    const text = `a key went from ${parts.location} in the moment in which it was found there; store it again`;
    return new CacheError("CONFLICT", text, { details: { reason: "gone" } });
  }
  parts.onMismatch();
  const what = typeof length === "number" ? `${length} bytes` : "no string";
  return new CacheError(
    "CONFLICT",
    `${parts.location} has ${what} under a key for ${bytes.byteLength} bytes; it may be another node's: delete it first`,
    {
      details: {
        reason: "other-length",
        expectedBytes: bytes.byteLength,
        foundBytes: typeof length === "number" ? length : null,
      },
    },
  );
}
