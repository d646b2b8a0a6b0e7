import type { Core } from "../core.ts";
import { L2 } from "../state/ledger.ts";

/** Entries that one look at the queue passes over. */
const SKIPS_MAX = 8_192;
const COMPACT_FROM = 4_096;
const OVERDUE_MAX = 1_024;

/** One object to store, as it was when it was taken from the queue. */
export interface StoreItem {
  readonly key: number;
  readonly slot: number;
  readonly group: number;
  readonly layout: number;
  readonly offset: number;
  readonly length: number;
}

/** Objects of one kind go together: one model, rank, tenant and layout. */
export function kindOf({ group, layout }: StoreItem): string {
  return `${group}:${layout}`;
}

interface Attempts {
  count: number;
  readonly firstMs: number;
}

/**
 * What waits for one adapter, in order of arrival. An entry is only a hint: whether its object still waits is read
 * from the state, so that entries of objects that have left do no harm.
 */
export class StoreQueue {
  readonly #core: Core;
  readonly #adapter: number;
  #keys: number[] = [];
  #head = 0;
  /** Keys whose other store or delete is under way. */
  readonly #blocked = new Set<number>();
  readonly #attempts = new Map<number, Attempts>();
  /** When each waiting key came, oldest first. */
  readonly #sinceMs = new Map<number, number>();

  constructor(core: Core, adapter: number) {
    this.#core = core;
    this.#adapter = adapter;
  }

  get length(): number {
    return this.#keys.length - this.#head + this.#blocked.size;
  }

  push(key: number): void {
    if (!this.#sinceMs.has(key)) this.#sinceMs.set(key, this.#core.now());
    this.#keys.push(key);
  }

  pushAll(items: readonly StoreItem[]): void {
    for (const { key } of items) this.push(key);
  }

  /** True if the key's resident object is still to be stored in this adapter. */
  isAwaited(key: number): boolean {
    const { state } = this.#core;
    const slot = state.keys.resident.get(key) - 1;
    return slot >= 0 && (state.slots.awaiting.get(slot) & (1 << this.#adapter)) !== 0;
  }

  /** True if the item names the same object as when it was taken. */
  isStillWanted(item: StoreItem): boolean {
    const { state } = this.#core;
    return (
      state.keys.resident.get(item.key) === item.slot + 1 &&
      state.slots.layout.get(item.slot) === item.layout &&
      state.slotOffset(item.slot) === item.offset &&
      this.isAwaited(item.key)
    );
  }

  /** Of these items those that can be stored now; those that must wait once more go back into the queue. */
  ready(items: readonly StoreItem[]): StoreItem[] {
    const ledger = this.#core.state.ledger(this.#adapter);
    const wanted = items.filter((item) => this.isStillWanted(item));
    // Another object stands under the key by now and waits too: its entry may be this one.
    this.pushAll(items.filter((item) => !wanted.includes(item) && this.isAwaited(item.key)));
    const free = (item: StoreItem): boolean => {
      const under = ledger.state.get(item.key);
      return under === L2.none || under === L2.stored;
    };
    this.pushAll(wanted.filter((item) => !free(item)));
    return wanted.filter(free);
  }

  /** The next objects of one kind that wait; empty if there is nothing to do now. */
  next(): StoreItem[] {
    return this.#next(this.#core.options.storeBatchKeysMax, new Set());
  }

  /**
   * The next object alone, of a kind that is not among the `refused` if there is one: what the adapter does not take
   * must not hold up what it takes. The kinds begin anew when all have been tried.
   */
  probe(refused: Set<string>): StoreItem[] {
    const items = this.#next(1, refused);
    if (items.length > 0) return items;
    refused.clear();
    return this.#next(1, refused);
  }

  #next(most: number, refused: ReadonlySet<string>): StoreItem[] {
    const { state, options } = this.#core;
    const ledger = state.ledger(this.#adapter);
    const items: StoreItem[] = [];
    const taken = new Set<number>();
    let bytes = 0;
    let kind = "";
    // What is put back to the end is looked at once.
    const end = this.#keys.length;
    for (let skips = 0; this.#head < end && skips < SKIPS_MAX; ) {
      const key = this.#keys[this.#head] as number;
      if (!this.isAwaited(key) || taken.has(key)) {
        if (!taken.has(key)) this.forget([key]);
        this.#head++;
        skips++;
        continue;
      }
      const under = ledger.state.get(key);
      if (under === L2.storing || under === L2.deleting) {
        this.#blocked.add(key);
        this.#head++;
        skips++;
        continue;
      }
      const item = this.#item(key);
      if (refused.has(kindOf(item))) {
        this.#head++;
        skips++;
        this.#keys.push(key);
        continue;
      }
      const [first] = items;
      if (first !== undefined) {
        if (kindOf(item) !== kind) break;
        if (items.length >= most || bytes + item.length > options.storeBatchBytesMax) break;
      }
      this.#head++;
      kind = kindOf(item);
      bytes += item.length;
      taken.add(key);
      items.push(item);
    }
    this.#compact();
    return items;
  }

  #item(key: number): StoreItem {
    const { state } = this.#core;
    const slot = state.keys.resident.get(key) - 1;
    return {
      key,
      slot,
      group: state.keys.group.get(key),
      layout: state.slots.layout.get(slot),
      offset: state.slotOffset(slot),
      length: state.slotBytes(slot),
    };
  }

  #compact(): void {
    if (this.#head < COMPACT_FROM || this.#head * 2 < this.#keys.length) return;
    this.#keys = this.#keys.slice(this.#head);
    this.#head = 0;
  }

  /** These keys wait until what is under way for them has ended. */
  block(keys: readonly number[]): void {
    for (const key of keys) this.#blocked.add(key);
  }

  /** What was under way for these keys has ended; true if something waited behind it. */
  unblock(keys: readonly number[]): boolean {
    let some = false;
    for (const key of keys) {
      if (!this.#blocked.delete(key)) continue;
      this.#keys.push(key);
      some = true;
    }
    return some;
  }

  /** These keys wait no more. */
  forget(keys: readonly number[]): void {
    for (const key of keys) {
      this.#attempts.delete(key);
      this.#sinceMs.delete(key);
      this.#blocked.delete(key);
    }
  }

  /** Counts a failure of each key; answers those that have failed often and long enough. */
  failed(keys: readonly number[]): number[] {
    const now = this.#core.now();
    const over: number[] = [];
    for (const key of keys) {
      const attempts = this.#attempts.get(key) ?? { count: 0, firstMs: now };
      attempts.count++;
      this.#attempts.set(key, attempts);
      if (this.#isOver(attempts, now)) over.push(key);
    }
    return over;
  }

  #isOver({ count, firstMs }: Attempts, now: number): boolean {
    const { options } = this.#core;
    return count >= options.storeAttemptsMax && now - firstMs >= options.storeGiveUpMs;
  }

  /** Keys that have waited for `storeGiveUpMs`, queued or blocked; a bounded number, oldest first. */
  overdue(): number[] {
    const limit = this.#core.now() - this.#core.options.storeGiveUpMs;
    const keys: number[] = [];
    for (const [key, sinceMs] of this.#sinceMs) {
      if (sinceMs > limit || keys.length >= OVERDUE_MAX) break;
      if (this.isAwaited(key)) keys.push(key);
      else this.forget([key]);
    }
    return keys;
  }
}
