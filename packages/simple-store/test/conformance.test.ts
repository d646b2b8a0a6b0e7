import { faultInjecting, l2AdapterSuite } from "@cache/conformance";
import { type L2Adapter, PERCENT_ENCODED_NAMES, URL_PATH_NAMES } from "@cache/contracts";
import { describe, expect, test } from "vitest";
import { createSimpleAdapter, type SimpleAdapterOptions, type SimpleStore } from "../src/index.ts";
import { batchedStore, fullStore, type Objects, OPTIONS, plainStore, rangeStore } from "./stores.ts";

interface Case {
  readonly make: (objects: Objects) => SimpleStore;
  readonly wrap?: (adapter: L2Adapter) => L2Adapter;
  readonly options?: Partial<SimpleAdapterOptions>;
  /** Capabilities that excuse laws, each exactly so often. */
  readonly excused: Readonly<Record<string, number>>;
}

const NO_QUARANTINE = { "quarantine: false": 1 };

const cases: Record<string, Case> = {
  "a store without delete and list, that tells no length and streams": {
    make(objects) {
      const { remove: _, list: __, ...store } = plainStore(objects);
      return store;
    },
    options: { names: URL_PATH_NAMES, maxBatchKeys: 64 },
    excused: { ...NO_QUARANTINE, "delete: false": 6, "listKeys: false": 2 },
  },
  "a full store behind the fault injector, three calls at a time": {
    make: fullStore,
    wrap: (adapter) => faultInjecting(adapter, {}),
    options: {
      maxBatchKeys: 64,
      concurrency: 3,
      names: PERCENT_ENCODED_NAMES,
      prefix: "some/prefix/",
      capacityBytes: 2 ** 30,
    },
    excused: NO_QUARANTINE,
  },
  "a store that reads ranges into L1, and puts without a copy": {
    make: (objects) => ({
      ...rangeStore(objects),
      put: async (name, bytes) => objects.set(name, Uint8Array.from(bytes)),
    }),
    options: { rangeBytes: 30_000, zeroCopyPut: true, maxBatchKeys: 64 },
    excused: NO_QUARANTINE,
  },
  "a batched store": {
    make: batchedStore,
    options: { batchKeys: 7, batchBytes: 100_000, maxBatchKeys: 64 },
    excused: NO_QUARANTINE,
  },
};

for (const [name, { make, wrap, options, excused }] of Object.entries(cases)) {
  describe(name, () => {
    const skipped: Record<string, number> = {};
    l2AdapterSuite({
      test,
      name: `simple store: ${name}`,
      lateWriteGraceMs: 10, // these stores end within some turns of the event loop
      report(line) {
        const excuse = /excused by (.*)\)/.exec(line)?.[1];
        if (excuse !== undefined) skipped[excuse] = (skipped[excuse] ?? 0) + 1;
      },
      factory: async () => {
        const objects: Objects = new Map();
        return {
          create() {
            const adapter = createSimpleAdapter(make(objects), { ...OPTIONS, ...options });
            return wrap?.(adapter) ?? adapter;
          },
          dispose: async () => {},
        };
      },
    });
    test("no law is excused but those of what the store lacks", () => expect(skipped).toEqual(excused));
  });
}
