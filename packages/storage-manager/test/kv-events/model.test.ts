import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { mockAdapter, startEngine, temporaryDisk, type TestEngine } from "../support/engine.ts";
import { FLOAT16, Prompt } from "../support/prompts.ts";
import { residentChunks, Subscriber, withTokens } from "./subscriber.ts";

const SEED = Number(process.env["CACHE_TEST_SEED"] ?? Date.now() % 2 ** 31);
const RUNS = Number(process.env["CACHE_TEST_RUNS"] ?? 80);

type Step =
  | {
      readonly do: "store";
      readonly text: number;
      readonly from: number;
      readonly to: number;
      readonly who: number;
    }
  | { readonly do: "fetch"; readonly text: number }
  | { readonly do: "clear" | "cut" | "kill" | "catch up" }
  | { readonly do: "take"; readonly batches: number }
  | { readonly do: "evict"; readonly count: number };

const steps: fc.Arbitrary<Step[]> = fc.array(
  fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        do: fc.constant("store" as const),
        text: fc.nat(5),
        from: fc.nat(2),
        to: fc.integer({ min: 3, max: 6 }),
        who: fc.nat(4),
      }),
    },
    { weight: 2, arbitrary: fc.record({ do: fc.constant("fetch" as const), text: fc.nat(5) }) },
    {
      weight: 4,
      arbitrary: fc.record({ do: fc.constant("take" as const), batches: fc.integer({ min: 1, max: 3 }) }),
    },
    {
      weight: 3,
      arbitrary: fc.record({ do: fc.constant("evict" as const), count: fc.integer({ min: 1, max: 9 }) }),
    },
    {
      weight: 3,
      arbitrary: fc.record({ do: fc.constantFrom("clear" as const, "cut", "kill", "catch up", "catch up") }),
    },
  ),
  { minLength: 1, maxLength: 40 },
);

/** Prompts that share beginnings, so that chunks have several successors. */
const texts = [0, 1, 2, 3, 4, 5].map(
  (n) => new Prompt(Array.from({ length: 6 }, (_, chunk) => (chunk < n ? "shared" : `own ${n}`))),
);

class Run {
  engine!: TestEngine;
  readonly subscriber = new Subscriber();
  readonly #disk = temporaryDisk();
  readonly #logSize: number;
  readonly #adapters: Record<string, ReturnType<typeof mockAdapter>>;
  #request = 0;

  constructor(logSize: number, withL2: boolean) {
    this.#logSize = logSize;
    this.#adapters = withL2 ? { mock: mockAdapter() } : {};
  }

  async start(): Promise<void> {
    this.engine = await startEngine({
      disk: this.#disk,
      slots: 24,
      adapters: this.#adapters,
      options: { kvEventLogSize: this.#logSize, storeWaitMs: 0 },
    });
    this.engine.register(1n);
    this.engine.register(2n, undefined, 2);
    this.subscriber.subscribe(this.engine, 3);
  }

  async do(step: Step): Promise<void> {
    const { engine, subscriber } = this;
    if (step.do === "store") await this.#store(step);
    else if (step.do === "fetch") await this.#fetch(step.text);
    else if (step.do === "take") for (let i = 0; i < step.batches; i++) await subscriber.take();
    else if (step.do === "evict") this.#evict(step.count);
    else if (step.do === "cut") subscriber.subscribe(engine, 1 + (this.#request % 5));
    else if (step.do === "catch up") await this.catchUp();
    else if (step.do === "clear") {
      await engine.manager.clear(true);
      engine.manager.commit();
    } else {
      subscriber.cut();
      await engine.crash();
      await this.start();
    }
  }

  async #store({ text, from, to, who }: Extract<Step, { do: "store" }>): Promise<void> {
    const requestId = `r${this.#request++}`;
    const range = { first: from, end: to, requestId };
    const prompt = texts[text] as Prompt;
    if (who === 4) this.engine.register(3n, FLOAT16);
    if (who < 2)
      await this.engine.store(1n, withTokens(prompt, { ...range, salt: who === 1 ? "tenant" : "" }));
    else if (who === 4) await this.engine.store(3n, withTokens(prompt, range));
    else await this.engine.store(2n, withTokens(prompt, { ...range, rank: who - 2, worldSize: 2 }));
    await this.engine.settle();
  }

  async #fetch(text: number): Promise<void> {
    const request = {
      ...withTokens(texts[text] as Prompt, { requestId: `r${this.#request++}` }),
      workerId: null,
    };
    await this.engine.lookup(request);
    this.engine.freeLocks(request);
    this.engine.endSession(request.requestId);
    await this.engine.settle();
  }

  #evict(count: number): void {
    const { slots } = this.engine.state;
    const victims = [...slots.order.fromOldest(slots.orderEnds)].slice(0, count);
    if (victims.length > 0)
      this.engine.turn((manager) => manager.room.evictSlots(victims, victims.length * 4_096, "clear"));
  }

  async catchUp(): Promise<void> {
    await this.engine.settle();
    await this.subscriber.drain();
    expect([...this.subscriber.announced].sort()).toEqual(residentChunks(this.engine));
  }
}

describe(`what a subscriber folds is what is resident (CACHE_TEST_SEED=${SEED})`, () => {
  it.each([
    ["a log that is overrun all the time", 3, false],
    ["a log of some records", 20, false],
    ["a long log, and L2", 1_000, true],
  ])("%s", { timeout: 60_000 }, async (_, logSize, withL2) => {
    await fc.assert(
      fc.asyncProperty(steps, async (list) => {
        const run = new Run(logSize, withL2);
        await run.start();
        for (const step of list) await run.do(step);
        await run.catchUp();
        run.subscriber.cut();
        await run.engine.crash();
      }),
      { seed: SEED, numRuns: RUNS },
    );
  });
});
