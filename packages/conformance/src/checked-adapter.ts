import { strict as assert } from "node:assert";
import {
  type Bitmap,
  CACHE_ERROR_CODES,
  isCacheError,
  type L2Adapter,
  type L2StoreResult,
  messageOf,
} from "@cache/contracts";

const KNOWN_CODES: ReadonlySet<string> = new Set(CACHE_ERROR_CODES);

function assertTyped(operation: string, error: unknown, secrets: readonly string[]): void {
  assert.ok(
    isCacheError(error),
    `${operation} rejected with something else than a CacheError: ${messageOf(error)}`,
  );
  assert.ok(KNOWN_CODES.has(error.code), `${operation} rejected with the unknown code ${error.code}`);
  assert.ok(error.message.length > 0, `${operation} rejected with an empty message`);
  for (const secret of secrets) {
    assert.ok(!error.message.includes(secret), `${operation} rejected with a secret in its message`);
  }
}

function assertBitmap(operation: string, bitmap: Bitmap, size: number): void {
  assert.equal(bitmap.size, size, `${operation} answered ${bitmap.size} bits for ${size} keys`);
}

function assertStoreResult(result: L2StoreResult, size: number, secrets: readonly string[]): void {
  assertBitmap("store", result.stored, size);
  for (let i = 0; i < size; i++) {
    const error = result.failed.get(i);
    if (result.stored.has(i)) {
      assert.equal(error, undefined, `store answered bit ${i} and a failure for it`);
    } else {
      assert.ok(error !== undefined, `store left bit ${i} clear and gives no reason in \`failed\``);
      assertTyped("store (failed)", error, secrets);
    }
  }
  for (const position of result.failed.keys()) {
    assert.ok(
      position >= 0 && position < size,
      `store reports a failure for position ${position} of ${size}`,
    );
  }
  assert.ok(
    Number.isSafeInteger(result.bytesTransferred) && result.bytesTransferred >= 0,
    `store answered bytesTransferred ${result.bytesTransferred}`,
  );
}

function absent(operation: string): Promise<never> {
  return Promise.reject(new Error(`${operation} went away after the adapter was made`));
}

/**
 * The adapter behind checks that hold for every call: one bit a key, a reason for each clear bit of a store,
 * rejections that are `CacheError`s with known codes and without secrets.
 */
export function checkedAdapter(adapter: L2Adapter, secrets: readonly string[]): L2Adapter {
  const typed = async <T>(operation: string, promise: Promise<T>): Promise<T> => {
    try {
      return await promise;
    } catch (error) {
      assertTyped(operation, error, secrets);
      throw error;
    }
  };
  return {
    capabilities: adapter.capabilities,
    location: adapter.location,
    open: (context) => typed("open", adapter.open(context)),
    async store(keys, objects, signal) {
      const result = await typed("store", adapter.store(keys, objects, signal));
      assertStoreResult(result, keys.length, secrets);
      return result;
    },
    async lookupAndLock(requests, signal) {
      const found = await typed("lookupAndLock", adapter.lookupAndLock(requests, signal));
      assertBitmap("lookupAndLock", found, requests.length);
      return found;
    },
    unlock: (keys) => adapter.unlock(keys),
    async load(requests, into, signal) {
      const loaded = await typed("load", adapter.load(requests, into, signal));
      assertBitmap("load", loaded, requests.length);
      return loaded;
    },
    ...(adapter.delete && {
      async delete(keys, signal) {
        const gone = await typed("delete", adapter.delete?.(keys, signal) ?? absent("delete"));
        assertBitmap("delete", gone, keys.length);
        return gone;
      },
    }),
    ...(adapter.listKeys && {
      listKeys: (page, signal) => typed("listKeys", adapter.listKeys?.(page, signal) ?? absent("listKeys")),
    }),
    ...(adapter.quarantine && {
      quarantine: (keys, reason, signal) =>
        typed("quarantine", adapter.quarantine?.(keys, reason, signal) ?? absent("quarantine")),
    }),
    usage: () => adapter.usage(),
    status: () => adapter.status(),
    close: () => typed("close", adapter.close()),
  } satisfies L2Adapter;
}
