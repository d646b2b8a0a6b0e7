import { type CacheErrorCode, isCacheError, type L2Adapter, messageOf } from "@cache/contracts";
import { key, memory, pattern, sized, until } from "./fixtures.ts";

/** What came of a load. */
export interface LoadOutcome {
  readonly wrongBytes: number;
  readonly codes: ReadonlySet<CacheErrorCode>;
  readonly slowestMs: number;
}

/** Stores, lookups and loads that go on until they are stopped; every loaded byte is compared. */
export interface RunningLoad {
  readonly failures: number;
  /** Waits until that many further rounds went well. */
  untilGood(rounds: number): Promise<void>;
  stop(): Promise<LoadOutcome>;
}

/** Deadline of one operation, in milliseconds. */
const DEADLINE_MS = 1000;

/** Begins a load of four at a time on keys 0..count-1, whose bytes are a function of the key. */
export async function byteCheckedLoad(
  adapter: L2Adapter,
  count: number,
  byteLength: number,
): Promise<RunningLoad> {
  const patterns = Array.from({ length: count }, (_, n) => pattern(n, byteLength));
  const codes = new Set<CacheErrorCode>();
  let [good, failures, wrongBytes, slowestMs] = [0, 0, 0, 0];
  const stopping = new AbortController();
  const unexpected: unknown[] = [];

  const round = async (first: number): Promise<void> => {
    const numbers = Array.from({ length: 8 }, (_, i) => (first + i * 5) % count);
    const signal = AbortSignal.timeout(DEADLINE_MS);
    const sources = numbers.map((n) => memory(patterns[n] as Uint8Array));
    const { failed } = await adapter.store(
      numbers.map((n) => key(n)),
      sources,
      signal,
    );
    const [failure] = failed.values();
    if (failure !== undefined) throw failure;
    const requests = numbers.map((n) => sized(n, byteLength));
    const found = await adapter.lookupAndLock(requests, AbortSignal.timeout(DEADLINE_MS));
    adapter.unlock(found.gather(numbers).map((n) => key(n)));
    const into = numbers.map(() => memory(byteLength));
    const loaded = await adapter.load(requests, into, AbortSignal.timeout(DEADLINE_MS));
    for (const i of loaded.positions()) {
      const expected = patterns[numbers[i] as number] as Uint8Array;
      if (Buffer.compare(into[i]?.bytes ?? Buffer.alloc(0), expected) !== 0) wrongBytes++;
    }
  };
  const lane = async (start: number): Promise<void> => {
    for (let n = start; !stopping.signal.aborted; n++) {
      const begin = performance.now();
      try {
        await round(n % count);
        good++;
      } catch (error) {
        failures++;
        if (isCacheError(error)) codes.add(error.code);
        else unexpected.push(messageOf(error));
        await new Promise((resolve) => setTimeout(resolve, 2)); // no busy loop while nobody answers
      }
      slowestMs = Math.max(slowestMs, performance.now() - begin);
    }
  };
  const lanes = [0, 11, 22, 33].map(lane);
  const load: RunningLoad = {
    get failures() {
      return failures;
    },
    async untilGood(rounds) {
      const goal = good + rounds;
      await until(() => good >= goal);
    },
    async stop() {
      stopping.abort();
      await Promise.all(lanes);
      if (unexpected.length > 0) throw new Error(`not a CacheError: ${String(unexpected[0])}`);
      return { wrongBytes, codes, slowestMs };
    },
  };
  await load.untilGood(3);
  return load;
}
