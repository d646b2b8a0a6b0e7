import {
  type AdapterStatus,
  type AdapterUsage,
  Bitmap,
  type KeyListPage,
  keyString,
  type L2Adapter,
  type L2Capabilities,
  type L2StoreResult,
  type MemoryObj,
  type ObjectKey,
  objectKey,
  type OpenContext,
  type SizedKey,
} from "@cache/contracts";
import { type GateOptions, type GuardedAdapter, guardAdapter } from "../../src/l2-gate/index.ts";
import { VirtualClock } from "./virtual-clock.ts";

/** The n-th test key. */
export function key(n: number): ObjectKey {
  const chunkHash = new Uint8Array(32);
  new DataView(chunkHash.buffer).setUint32(0, n);
  return objectKey({ chunkHash, modelName: "m", kvRank: 0 });
}

/** An object of `byteLength` bytes, each with the given value. */
export function object(byteLength: number, fill = 0): MemoryObj {
  return { bytes: new Uint8Array(byteLength).fill(fill), poolOffset: null };
}

/** Keys `from` … `from + count - 1` with a length. */
export function sized(count: number, byteLength = 8, from = 0): SizedKey[] {
  return Array.from({ length: count }, (_, i) => ({ key: key(from + i), byteLength }));
}

export function keys(count: number, from = 0): ObjectKey[] {
  return Array.from({ length: count }, (_, i) => key(from + i));
}

export function objects(count: number, byteLength = 8): MemoryObj[] {
  return Array.from({ length: count }, (_, i) => object(byteLength, i));
}

/** One call that reached the adapter. */
export interface SeenCall {
  readonly operation: string;
  readonly count: number;
  readonly signal: AbortSignal | null;
}

/** What a call does in place of its work: returns anything, throws, hangs. `work` does the real thing. */
export type Script = (call: SeenCall, work: () => unknown) => unknown;

const ALL: L2Capabilities = {
  persistent: false,
  shared: false,
  delete: true,
  listKeys: true,
  quarantine: true,
  globalEviction: false,
  l1Registration: "none",
  needsStateDir: false,
  writesOnlyFromEngineProcess: true,
  maxBatchKeys: 1000,
  maxObjectBytes: 1 << 20,
};

/** An adapter over a Map that counts its locks and does what its script says. */
export class ScriptedAdapter implements L2Adapter {
  readonly capabilities: L2Capabilities;
  readonly location = "scripted:";
  readonly seen: SeenCall[] = [];
  readonly held = new Map<string, Uint8Array>();
  readonly locks = new Map<string, number>();
  script: Script = (_, work) => work();

  constructor(capabilities: Partial<L2Capabilities> = {}) {
    this.capabilities = { ...ALL, ...capabilities };
  }

  calls(operation: string): SeenCall[] {
    return this.seen.filter((call) => call.operation === operation);
  }

  /** Lock references that somebody holds. */
  get lockCount(): number {
    return [...this.locks.values()].reduce((sum, n) => sum + n, 0);
  }

  // Not async, so that a script can throw synchronously or answer what is no promise.
  #play<T>(operation: string, count: number, signal: AbortSignal | null, work: () => T): Promise<T> {
    const call = { operation, count, signal };
    this.seen.push(call);
    return this.script(call, work) as Promise<T>;
  }

  open(context: OpenContext): Promise<void> {
    return this.#play("open", 0, context.signal, () => {});
  }

  store(
    storeKeys: readonly ObjectKey[],
    from: readonly MemoryObj[],
    signal: AbortSignal,
  ): Promise<L2StoreResult> {
    return this.#play("store", storeKeys.length, signal, () => {
      let bytesTransferred = 0;
      storeKeys.forEach((item, i) => {
        const bytes = Uint8Array.from(from[i]?.bytes ?? []);
        if (!this.held.has(keyString(item))) bytesTransferred += bytes.byteLength;
        this.held.set(keyString(item), bytes);
      });
      return { stored: Bitmap.full(storeKeys.length), failed: new Map(), bytesTransferred };
    });
  }

  lookupAndLock(requests: readonly SizedKey[], signal: AbortSignal): Promise<Bitmap> {
    return this.#play("lookupAndLock", requests.length, signal, () => {
      const found = new Bitmap(requests.length);
      requests.forEach((request, i) => {
        const name = keyString(request.key);
        if (this.held.get(name)?.byteLength !== request.byteLength) return;
        found.set(i);
        this.locks.set(name, (this.locks.get(name) ?? 0) + 1);
      });
      return found;
    });
  }

  unlock(unlockKeys: readonly ObjectKey[]): void {
    // Returned although it is typed void: adapters in JavaScript do that.
    return this.#play("unlock", unlockKeys.length, null, () => {
      for (const item of unlockKeys) {
        const name = keyString(item);
        this.locks.set(name, (this.locks.get(name) ?? 0) - 1);
      }
    }) as unknown as void;
  }

  load(requests: readonly SizedKey[], into: readonly MemoryObj[], signal: AbortSignal): Promise<Bitmap> {
    return this.#play("load", requests.length, signal, () => {
      const loaded = new Bitmap(requests.length);
      requests.forEach((request, i) => {
        const bytes = this.held.get(keyString(request.key));
        if (bytes === undefined || bytes.byteLength !== request.byteLength) return;
        into[i]?.bytes.set(bytes);
        loaded.set(i);
      });
      return loaded;
    });
  }

  delete(deleteKeys: readonly ObjectKey[], signal: AbortSignal): Promise<Bitmap> {
    return this.#play("delete", deleteKeys.length, signal, () => {
      for (const item of deleteKeys) this.held.delete(keyString(item));
      return Bitmap.full(deleteKeys.length);
    });
  }

  quarantine(badKeys: readonly ObjectKey[], _reason: string, signal: AbortSignal): Promise<void> {
    return this.#play("quarantine", badKeys.length, signal, () => {
      for (const item of badKeys) this.held.delete(keyString(item));
    });
  }

  listKeys(_page: unknown, signal: AbortSignal): Promise<KeyListPage> {
    return this.#play("listKeys", 1, signal, () => ({ entries: [], nextPageToken: null }));
  }

  usage(): AdapterUsage {
    return { totalBytesUsed: 0, capacityBytes: "unbounded", bytesByCacheSalt: new Map() };
  }

  status(): AdapterStatus {
    return { isHealthy: true, type: "scripted" };
  }

  close(): Promise<void> {
    return this.#play("close", 0, null, () => {});
  }
}

/** A promise with its handles outside. */
export function deferred<T>(): {
  readonly promise: Promise<T>;
  resolve(value: T): void;
  reject(reason: unknown): void;
} {
  let resolve: (value: T) => void = () => {};
  let reject: (reason: unknown) => void = () => {};
  const promise = new Promise<T>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve: (value) => resolve(value), reject: (reason) => reject(reason) };
}

/** True once the promise has resolved or rejected. */
export function watch(promise: Promise<unknown>): { readonly done: boolean } {
  const seen = { done: false };
  const mark = (): void => {
    seen.done = true;
  };
  promise.then(mark, mark);
  return seen;
}

const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };
export const CONTEXT = { id: "scripted.1", stateDir: null, log: quiet };

/** An open gate around a scripted adapter, in virtual time. */
export async function openGate(
  options: Partial<GateOptions> = {},
  capabilities: Partial<L2Capabilities> = {},
): Promise<{ gate: GuardedAdapter; adapter: ScriptedAdapter; clock: VirtualClock }> {
  const clock = new VirtualClock();
  const adapter = new ScriptedAdapter(capabilities);
  const gate = guardAdapter("scripted.1", adapter, { clock, ...options });
  await gate.open(CONTEXT);
  return { gate, adapter, clock };
}

/** The error that a promise rejects with. */
export async function errorOf(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  try {
    await promise;
  } catch (error) {
    return error as Error;
  }
  throw new Error("it did not reject");
}
