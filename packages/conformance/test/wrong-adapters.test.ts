import {
  type L2Adapter,
  type MemoryObj,
  Bitmap,
  CacheError,
  keyString,
  type SizedKey,
} from "@cache/contracts";
import { closeSync, openSync } from "node:fs";
import { afterEach, describe, expect, test } from "vitest";
import { l2AdapterSuite } from "../src/index.ts";
import { LAWS } from "../src/laws/index.ts";
import { createMapAdapter, type MapAdapter } from "./map-adapter.ts";

/** Which laws failed, with their messages. */
async function failedLaws(
  make: () => L2Adapter,
  options: { lawDeadlineMs?: number; only?: readonly string[] } = {},
): Promise<{ failed: Map<string, string>; lines: string[] }> {
  const failed = new Map<string, string>();
  const lines: string[] = [];
  const laws: { name: string; run: () => Promise<void> }[] = [];
  l2AdapterSuite({
    test: (name, run) => laws.push({ name, run }),
    factory: async () => ({ create: make, dispose: async () => {} }),
    seed: 1,
    lateWriteGraceMs: 25,
    lawDeadlineMs: options.lawDeadlineMs ?? 5000,
    report: (line) => lines.push(line),
  });
  for (const { name, run } of laws) {
    const id = name.slice(0, name.indexOf(":"));
    if (options.only !== undefined && !options.only.includes(id)) continue;
    await run().catch((error: Error) => failed.set(id, error.message));
  }
  return { failed, lines };
}

/** A correct adapter with some operations replaced. */
function broken(change: (good: MapAdapter) => Partial<L2Adapter>): () => L2Adapter {
  return () => {
    const good = createMapAdapter();
    return Object.assign(good, change({ ...good }));
  };
}

/** What the leaking adapters left behind. */
const leakedTimers: NodeJS.Timeout[] = [];
const leakedFiles: number[] = [];
afterEach(() => {
  for (const timer of leakedTimers.splice(0)) clearInterval(timer);
  for (const file of leakedFiles.splice(0)) closeSync(file);
});

const wrongAdapters: Record<string, { law: string; make: () => L2Adapter }> = {
  "loses a lock": {
    law: "lock.prevents-delete",
    make: broken((good) => ({
      async lookupAndLock(requests, signal) {
        const found = await good.lookupAndLock(requests, signal);
        for (const { key } of found.gather(requests)) good.locks.set(keyString(key), 1);
        return found;
      },
    })),
  },
  "writes past the buffer": {
    law: "load.within-buffers",
    make: broken((good) => ({
      async load(requests, into, signal) {
        const loaded = await good.load(requests, into, signal);
        for (const { bytes } of loaded.gather(into))
          new Uint8Array(bytes.buffer)[bytes.byteOffset + bytes.length] = 0;
        return loaded;
      },
    })),
  },
  "writes before the buffer of a miss": {
    law: "load.within-buffers",
    make: broken((good) => ({
      async load(requests, into, signal) {
        const loaded = await good.load(requests, into, signal);
        into.forEach(({ bytes }, i) => {
          if (!loaded.has(i)) new Uint8Array(bytes.buffer)[bytes.byteOffset - 1] = 0;
        });
        return loaded;
      },
    })),
  },
  "reports a half-read object": {
    law: "roundtrip.sizes",
    make: broken((good) => ({
      async load(requests, into, signal) {
        const whole = into.map((obj) => ({ ...obj, bytes: new Uint8Array(obj.bytes.length) }));
        const loaded = await good.load(requests, whole, signal);
        whole.forEach(({ bytes }, i) => {
          (into[i] as MemoryObj).bytes.set(bytes.subarray(0, Math.min(bytes.length, 65_536)));
        });
        return loaded;
      },
    })),
  },
  "loads an object of another length": {
    law: "length.mismatch",
    make: broken((good) => ({
      async load(requests, into) {
        const loaded = new Bitmap(requests.length);
        requests.forEach(({ key }, i) => {
          const bytes = good.objects.get(keyString(key))?.bytes;
          if (bytes === undefined) return;
          (into[i] as MemoryObj).bytes.set(bytes.subarray(0, (into[i] as MemoryObj).bytes.length));
          loaded.set(i);
        });
        return loaded;
      },
    })),
  },
  "answers an abort early and writes later": {
    law: "abort.load-settles-last",
    make: broken((good) => ({
      load(requests, into, signal) {
        return new Promise((resolve, reject) => {
          const early = (): void => reject(new CacheError("ABORTED", "gave up"));
          if (signal.aborted) early();
          signal.addEventListener("abort", early, { once: true });
          setTimeout(
            () => void good.load(requests, into, new AbortController().signal).then(resolve, reject),
            5,
          );
        });
      },
    })),
  },
  "answers an aborted store early and reads later": {
    law: "abort.store-settles-last",
    make: broken((good) => ({
      store(keys, objects, signal) {
        return new Promise((resolve, reject) => {
          signal.addEventListener("abort", () => reject(new CacheError("ABORTED", "gave up")), {
            once: true,
          });
          setTimeout(
            () => void good.store(keys, objects, new AbortController().signal).then(resolve, reject),
            5,
          );
        });
      },
    })),
  },
  "keeps a reference to the stored buffer": {
    law: "store.no-reference",
    make: broken((good) => ({
      async store(keys, objects, signal) {
        const result = await good.store(keys, objects, signal);
        keys.forEach((key, i) => {
          const object = good.objects.get(keyString(key));
          if (object !== undefined) object.bytes = (objects[i] as MemoryObj).bytes;
        });
        return result;
      },
    })),
  },
  "swaps two keys of a batch": {
    law: "batch.equals-singles",
    make: broken((good) => ({
      load(requests, into, signal) {
        const [first, second, ...rest] = requests;
        if (first === undefined || second === undefined) return good.load(requests, into, signal);
        // The lengths go with the buffers, or it would be a miss.
        const swapped = [
          { key: second.key, byteLength: first.byteLength },
          { key: first.key, byteLength: second.byteLength },
        ];
        for (const [i, { key }] of swapped.entries()) {
          const bytes = good.objects.get(keyString(key))?.bytes;
          if (bytes !== undefined) into[i]?.bytes.set(bytes.subarray(0, into[i].bytes.length));
        }
        return good
          .load(rest, into.slice(2), signal)
          .then((loaded) => Bitmap.of(requests.length, [0, 1, ...[...loaded.positions()].map((i) => i + 2)]));
      },
    })),
  },
  "packs the bits of hits together": {
    law: "partial.positions",
    make: broken((good) => ({
      async lookupAndLock(requests, signal) {
        const found = await good.lookupAndLock(requests, signal);
        return Bitmap.of(
          requests.length,
          Array.from({ length: found.count() }, (_, i) => i),
        );
      },
    })),
  },
  "ignores the salt": {
    law: "keys.isolation",
    make: () => createMapAdapter((key) => keyString({ ...key, cacheSalt: "" })),
  },
  "folds slashes into names": {
    law: "keys.lookalikes",
    make: () =>
      createMapAdapter((key) => keyString({ ...key, modelName: key.modelName.replaceAll("/", "--") })),
  },
  "counts a key twice": {
    law: "store.twice",
    make: broken((good) => {
      let extra = 0;
      return {
        async store(keys, objects, signal) {
          const result = await good.store(keys, objects, signal);
          if (result.bytesTransferred === 0)
            extra += objects.reduce((sum, { bytes }) => sum + bytes.length, 0);
          return result;
        },
        usage() {
          const usage = good.usage();
          return { ...usage, totalBytesUsed: usage.totalBytesUsed + extra };
        },
      };
    }),
  },
  // The race of `bytes += await write()`: each write adds to what the sum was when it began.
  "loses bytes that others add meanwhile": {
    law: "batch.bytes-transferred",
    make: broken((good) => ({
      async store(keys, objects, signal) {
        const result = await good.store(keys, objects, signal);
        const last = objects.at(-1)?.bytes.length ?? 0;
        return { ...result, bytesTransferred: Math.min(result.bytesTransferred, last) };
      },
    })),
  },
  "counts whole disk blocks": {
    law: "batch.bytes-transferred",
    make: broken((good) => ({
      async store(keys, objects, signal) {
        const result = await good.store(keys, objects, signal);
        return { ...result, bytesTransferred: Math.ceil(result.bytesTransferred / 4096) * 4096 };
      },
    })),
  },
  "counts a harmless unlock": {
    law: "lock.unlock-harmless",
    make: broken((good) => ({
      unlock(keys) {
        for (const key of keys) good.locks.set(keyString(key), (good.locks.get(keyString(key)) ?? 0) - 1);
      },
    })),
  },
  "locks what it does not find": {
    law: "lock.miss-takes-none",
    make: broken((good) => ({
      async lookupAndLock(requests: readonly SizedKey[], signal) {
        const found = await good.lookupAndLock(requests, signal);
        for (const { key } of requests.filter((_, i) => !found.has(i))) good.locks.set(keyString(key), 1);
        return found;
      },
    })),
  },
  "closes while it still writes": {
    law: "close.drains",
    make: broken((good) => ({
      async load(requests, into, signal) {
        await new Promise((resolve) => setTimeout(resolve, 10));
        return good.load(requests, into, signal);
      },
    })),
  },
  "answers before it is open": {
    law: "lifecycle.before-open",
    make: broken((good) => (void good.open(), {})),
  },
  "accepts after close": {
    law: "lifecycle.after-close",
    make: broken((good) => ({ close: async () => void good.usage() })),
  },
  "leaks a handle": {
    law: "close.leaks-nothing",
    make: broken((good) => ({
      open: async () => {
        await good.open();
        leakedTimers.push(setInterval(() => {}, 60_000));
      },
    })),
  },
  "leaks a file descriptor": {
    law: "close.leaks-nothing",
    make: broken((good) => ({
      open: async () => {
        await good.open();
        leakedFiles.push(openSync(process.execPath, "r"));
      },
    })),
  },
  "throws a plain string": {
    law: "abort.before",
    make: broken((good) => ({
      async load(requests, into, signal) {
        // oxlint-disable-next-line no-throw-literal -- what JavaScript lets an adapter do
        if (signal.aborted) throw "aborted";
        return good.load(requests, into, signal);
      },
    })),
  },
  "rejects with a plain error": {
    law: "abort.before",
    make: broken((good) => ({
      async load(requests, into, signal) {
        if (signal.aborted) throw new Error("The operation was aborted");
        return good.load(requests, into, signal);
      },
    })),
  },
  "lists one key less": {
    law: "list.exact",
    make: broken((good) => ({
      async listKeys(page, signal) {
        const full = await good.listKeys(page, signal);
        return { ...full, entries: full.entries.slice(1) };
      },
    })),
  },
  "forgets after reopening, and claims to persist": {
    law: "reopen.keeps",
    make: broken((good) => ({ capabilities: Object.freeze({ ...good.capabilities, persistent: true }) })),
  },
  "lies in one capability: offers what its manifest denies": {
    law: "manifest.optional-operations",
    make: broken((good) => ({ capabilities: Object.freeze({ ...good.capabilities, listKeys: false }) })),
  },
  "has a manifest that can change": {
    law: "manifest.truthful",
    make: broken((good) => ({ capabilities: { ...good.capabilities } })),
  },
  "loads in two steps, without looking again": {
    law: "concurrent.delete-race",
    make: broken((good) => ({
      async load(requests, into, signal) {
        const there = requests.map(({ key }) => good.objects.has(keyString(key)));
        await new Promise((resolve) => setImmediate(resolve));
        for (const { bytes } of into) bytes.fill(0);
        await good.load(requests, into, signal);
        return Bitmap.of(
          requests.length,
          there.flatMap((yes, i) => (yes ? [i] : [])),
        );
      },
    })),
  },
  "hangs on a miss": {
    law: "miss.zero-bits",
    make: broken((good) => ({
      async lookupAndLock(requests, signal) {
        const found = await good.lookupAndLock(requests, signal);
        return found.count() > 0 ? found : new Promise<never>(() => {});
      },
    })),
  },
};

test("a correct adapter passes every law", async () => {
  const { failed, lines } = await failedLaws(() => createMapAdapter());
  expect([...failed]).toEqual([]);
  expect(lines.at(-1)).toMatch(/laws held, 2 skipped, 0 failed/);
  expect(lines).toContain("  skipped shared.visible (excused by shared: false)");
  expect(lines).toContain("  skipped quarantine.out-of-service (excused by quarantine: false)");
});

describe("an adapter that", () => {
  for (const [name, { law, make }] of Object.entries(wrongAdapters)) {
    test(`${name} fails at ${law}`, async () => {
      expect(LAWS.map((one) => one.id)).toContain(law);
      const { failed } = await failedLaws(make, {
        lawDeadlineMs: law === "close.leaks-nothing" ? 5000 : 500,
        only: [law],
      });
      expect([...failed.keys()]).toEqual([law]);
      expect(failed.get(law)).toMatch(new RegExp(`^${law.replace(".", "\\.")} \\[seed 1\\]: `));
    });
  }
});

test.each(["loses bytes that others add meanwhile", "counts whole disk blocks"])(
  "an adapter that %s fails at nothing else",
  async (name) => {
    const { law, make } = wrongAdapters[name]!;
    // That a mandatory law did not hold is told once more at the end.
    expect([...(await failedLaws(make)).failed.keys()]).toEqual([law, "suite.complete"]);
  },
);

test("a law that hangs is named and ends at its deadline", async () => {
  const hanging = broken(() => ({ store: () => new Promise<never>(() => {}) }));
  const { failed } = await failedLaws(hanging, { lawDeadlineMs: 50, only: ["roundtrip.sizes"] });
  expect(failed.get("roundtrip.sizes")).toMatch(/law roundtrip\.sizes did not end within 50 ms/);
});

test("the suite fails when a mandatory law did not run", async () => {
  const { failed } = await failedLaws(() => createMapAdapter(), {
    only: ["miss.zero-bits", "suite.complete"],
  });
  expect([...failed.keys()]).toEqual(["suite.complete"]);
});

test("law names are unique", () => {
  const ids = LAWS.map((law) => law.id);
  expect(new Set(ids).size).toBe(ids.length);
});

test("an adapter cannot excuse itself from the mandatory laws", async () => {
  const denying = broken((good) => ({
    capabilities: Object.freeze({
      ...good.capabilities,
      delete: false,
      listKeys: false,
    }),
  }));
  const { failed, lines } = await failedLaws(denying);
  expect([...failed.keys()]).toEqual(["manifest.optional-operations", "suite.complete"]);
  const skipped = lines.filter((line) => line.includes("skipped ") && line.includes("excused"));
  const excusable = LAWS.filter((law) => law.excuse !== undefined);
  expect(skipped.length).toBeLessThanOrEqual(excusable.length);
  expect(LAWS.length - excusable.length).toBeGreaterThanOrEqual(30);
});
