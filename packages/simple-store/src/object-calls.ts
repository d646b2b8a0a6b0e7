import { abortedError, type OwnObjects } from "@cache/adapter-kit";
import { CacheError, isCacheError } from "@cache/contracts";
import type { Hold } from "./name-locks.ts";
import type { Settings } from "./options.ts";
import { LearntLengths } from "./learnt-lengths.ts";
import type { SimpleStore } from "./store.ts";
import type { StoreCalls } from "./store-calls.ts";
import type { StoreErrors } from "./store-errors.ts";

/** An object of one operation. */
export interface Item {
  /** Its name in the store. */
  readonly name: string;
  readonly cacheSalt: string;
  /** The whole object: what is stored, or where it goes. Empty where an operation has no bytes. */
  readonly bytes: Uint8Array;
}

/** How a read ended. */
export type ReadOutcome = "whole" | "absent" | "other-length";

/** Names that are held for a group of items, and what ends the work early. */
export interface Scope {
  readonly holds: readonly Hold[];
  readonly signal: AbortSignal;
}

/** What {@link ObjectCalls} works with. */
export interface ObjectCallsParts {
  readonly store: SimpleStore;
  readonly settings: Settings;
  readonly calls: StoreCalls;
  readonly errors: StoreErrors;
  readonly own: OwnObjects;
}

/**
 * The store's methods for groups of items: one call of the batched form where there is one, else a call an item.
 * Answers are in the order of the items; a failure is that item's answer, so nothing here rejects.
 */
export class ObjectCalls {
  readonly #parts: ObjectCallsParts;
  readonly #learnt = new LearntLengths();

  constructor(parts: ObjectCallsParts) {
    this.#parts = parts;
  }

  async #one<T>(
    method: string,
    scope: Scope,
    run: (signal: AbortSignal) => Promise<T>,
    lendsMemory = false,
  ): Promise<T | CacheError> {
    try {
      return await this.#parts.calls.call({ method, lendsMemory, ...scope, run });
    } catch (error) {
      return this.#parts.errors.wrap(error, method);
    }
  }

  /** One call for all items; its failure is each item's. */
  async #many<T>(
    method: string,
    items: readonly Item[],
    scope: Scope,
    run: (signal: AbortSignal) => Promise<readonly T[]>,
    lendsMemory = false,
  ): Promise<readonly (T | CacheError)[]> {
    const answers = await this.#one(method, scope, run, lendsMemory);
    if (isCacheError(answers)) return items.map(() => answers);
    if (Array.isArray(answers) && answers.length === items.length) return answers;
    const error = this.#parts.errors.misbehaved(method, `no list of ${items.length} answers`);
    return items.map(() => error);
  }

  /** Each object's length, null for one that is not there. */
  async lengths(items: readonly Item[], scope: Scope): Promise<(number | null | CacheError)[]> {
    const { store } = this.#parts;
    const batched = store.batchedExists?.bind(store);
    const answers =
      batched !== undefined && items.length > 1
        ? await this.#many("batchedExists", items, scope, (signal) => batched(namesOf(items), signal))
        : await Promise.all(
            items.map(({ name }) => this.#one("exists", scope, (signal) => store.exists(name, signal))),
          );
    return Promise.all(items.map((item, i) => this.#length(item, answers[i], scope)));
  }

  async #length(item: Item, answer: unknown, scope: Scope): Promise<number | null | CacheError> {
    const { own, errors } = this.#parts;
    if (answer instanceof Error) return errors.wrap(answer, "exists");
    if (typeof answer === "number" && Number.isSafeInteger(answer) && answer >= 0) return answer;
    if (answer === true)
      return own.lengthOf(item.name) ?? this.#learnt.get(item.name) ?? this.#learn(item, scope);
    if (answer !== false && answer !== null) {
      return errors.misbehaved("exists", `${typeof answer} in place of a length, true, false or null`);
    }
    // Another process, or the store itself, has removed it.
    own.remove(item.name, item.cacheSalt);
    this.#learnt.forget(item.name);
    return null;
  }

  /** Reads an object whose length the store cannot tell. */
  async #learn({ name }: Item, scope: Scope): Promise<number | null | CacheError> {
    const length = await this.#one("get", scope, async (signal) => {
      const answer = await this.#parts.store.get(name, signal);
      if (answer === null || answer instanceof Uint8Array) return answer?.length ?? null;
      let total = 0;
      for await (const part of answer) {
        total += part.length;
        if (signal.aborted) break;
      }
      return total;
    });
    if (typeof length === "number") this.#learnt.set(name, length);
    return length;
  }

  /** Fills the bytes of each item. A buffer is written only if the answer is `whole`, or in vain before a failure. */
  async read(items: readonly Item[], scope: Scope): Promise<(ReadOutcome | CacheError)[]> {
    const { store } = this.#parts;
    const batched = store.batchedGet?.bind(store);
    const outcomes =
      batched !== undefined && items.length > 1
        ? await this.#many("batchedGet", items, scope, async (signal) => {
            const answers = await batched(namesOf(items), signal);
            if (!Array.isArray(answers) || answers.length !== items.length) return [];
            return Promise.all(
              items.map(({ bytes }, i) => this.#take("batchedGet", answers[i], bytes, signal)),
            );
          })
        : await Promise.all(items.map((item) => this.#readOne(item, scope)));
    items.forEach(({ name }, i) => {
      if (outcomes[i] !== "whole") this.#learnt.forget(name);
    });
    return [...outcomes];
  }

  async #readOne(item: Item, scope: Scope): Promise<ReadOutcome | CacheError> {
    const { store } = this.#parts;
    if (store.getInto !== undefined) return this.#readInto(item, store.getInto.bind(store), scope);
    return this.#one("get", scope, async (signal) => {
      const outcome = await this.#take("get", await store.get(item.name, signal), item.bytes, signal);
      if (isCacheError(outcome)) throw outcome;
      return outcome;
    });
  }

  /** Copies what the store returned. Never writes once the signal has fired: the buffer is its owner's again. */
  async #take(
    method: string,
    answer: unknown,
    into: Uint8Array,
    signal: AbortSignal,
  ): Promise<ReadOutcome | CacheError> {
    if (answer === null) return "absent";
    if (answer instanceof Error) return this.#parts.errors.wrap(answer, method);
    if (answer instanceof Uint8Array) {
      if (answer.length !== into.length) return "other-length";
      if (signal.aborted) return abortedError();
      into.set(answer);
      return "whole";
    }
    if (!isAsyncIterable(answer)) {
      return this.#parts.errors.misbehaved(
        method,
        `${typeof answer} in place of bytes, a stream of them or null`,
      );
    }
    let at = 0;
    for await (const part of answer) {
      if (signal.aborted) throw abortedError();
      if (!(part instanceof Uint8Array)) {
        return this.#parts.errors.misbehaved(method, `a stream of ${typeof part} in place of bytes`);
      }
      if (at + part.length > into.length) return "other-length";
      into.set(part, at);
      at += part.length;
    }
    return at === into.length ? "whole" : "other-length";
  }

  async #readInto(
    { name, bytes }: Item,
    getInto: NonNullable<SimpleStore["getInto"]>,
    scope: Scope,
  ): Promise<ReadOutcome | CacheError> {
    const { settings, errors } = this.#parts;
    const step = settings.rangeBytes ?? Math.max(1, bytes.length);
    const offsets = Array.from({ length: Math.max(1, Math.ceil(bytes.length / step)) }, (_, n) => n * step);
    const lengths = await Promise.all(
      offsets.map((offset) => {
        const part = bytes.subarray(offset, offset + step);
        return this.#one("getInto", scope, (signal) => getInto(name, part, offset, signal), true);
      }),
    );
    for (const length of lengths) {
      if (isCacheError(length)) return length;
      if (length === null) return "absent";
      if (typeof length !== "number")
        return errors.misbehaved("getInto", `${typeof length} in place of a length`);
      if (length !== bytes.length) return "other-length";
    }
    return "whole";
  }

  /** Writes each object: null, or why not. */
  async put(items: readonly Item[], scope: Scope): Promise<(null | CacheError)[]> {
    const { store, settings, own, errors } = this.#parts;
    const lends = settings.zeroCopyPut;
    // A copy is made when the call's turn has come: no more copies than calls.
    const given = (bytes: Uint8Array): Uint8Array => (lends ? bytes : new Uint8Array(bytes));
    const noteStored = ({ name, cacheSalt, bytes }: Item): void => own.add(name, cacheSalt, bytes.length);
    const batched = store.batchedPut?.bind(store);
    if (batched === undefined || items.length < 2) {
      const put = async (item: Item): Promise<null | CacheError> =>
        this.#one(
          "put",
          scope,
          async (signal) => {
            await store.put(item.name, given(item.bytes), signal);
            noteStored(item); // also if nobody waits for it any more: it is there
            return null;
          },
          lends,
        );
      return Promise.all(items.map(put));
    }
    const outcomes = await this.#many(
      "batchedPut",
      items,
      scope,
      async (signal) => {
        const objects = items.map(({ name, bytes }) => ({ name, bytes: given(bytes) }));
        const answer = outcomesOf(await batched(objects, signal), items.length);
        if (answer.length === items.length)
          items.forEach((item, i) => answer[i] === null && noteStored(item));
        return answer;
      },
      lends,
    );
    return outcomes.map((outcome) => (outcome === null ? null : errors.wrap(outcome, "batchedPut")));
  }

  /** Removes each object: null, or why not. */
  async remove(items: readonly Item[], scope: Scope): Promise<(null | CacheError)[]> {
    const { store, own, errors } = this.#parts;
    const noteGone = ({ name, cacheSalt }: Item): void => {
      own.remove(name, cacheSalt);
      this.#learnt.forget(name);
    };
    const remove = store.remove?.bind(store);
    const batched = store.batchedRemove?.bind(store);
    if (batched !== undefined && (items.length > 1 || remove === undefined)) {
      const outcomes = await this.#many("batchedRemove", items, scope, async (signal) => {
        const answer = outcomesOf(await batched(namesOf(items), signal), items.length);
        if (answer.length === items.length) items.forEach((item, i) => answer[i] === null && noteGone(item));
        return answer;
      });
      return outcomes.map((outcome) => (outcome === null ? null : errors.wrap(outcome, "batchedRemove")));
    }
    const removeOne = (item: Item): Promise<null | CacheError> =>
      this.#one("remove", scope, async (signal) => {
        await remove?.(item.name, signal);
        noteGone(item);
        return null;
      });
    return Promise.all(items.map(removeOne));
  }
}

function namesOf(items: readonly Item[]): string[] {
  return items.map(({ name }) => name);
}

/** What a batched put or remove answered, one outcome a key; nothing answered is success for all. */
function outcomesOf(answer: readonly (Error | null)[] | void, count: number): readonly (Error | null)[] {
  return answer === undefined ? Array.from({ length: count }, () => null) : answer;
}

function isAsyncIterable(value: unknown): value is AsyncIterable<unknown> {
  return typeof value === "object" && value !== null && Symbol.asyncIterator in value;
}
