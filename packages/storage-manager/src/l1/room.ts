import type { Core } from "../core.ts";

/** Why an object leaves L1; stands in `l1.keys.evicted`. */
export type EvictionReason = "demand" | "watermark" | "quota" | "clear" | "skip_l1" | "deleted";

/** Objects that one look at an order passes over because I/O reads them. */
const PINNED_SKIPS_MAX = 1_024;
/** Objects evicted in one event. */
const EVICTION_BATCH_MAX = 1_024;

/** Evicts by bytes: on demand, by watermark, and for a tenant's quota. */
export class Room {
  readonly #core: Core;
  evictedObjects = 0;
  evictedBytes = 0;
  /** How often the watermark was looked at, and how often it had been passed. */
  watermarkChecks = 0;
  watermarkPassed = 0;

  constructor(core: Core) {
    this.#core = core;
    core.roomListeners.push(() => this.keepWatermark());
  }

  /** Evicts up to `bytes`, the oldest first; only `salt`'s objects if given. Answers the bytes that left. */
  evict(bytes: number, reason: EvictionReason, salt?: string): number {
    const { state, space } = this.#core;
    const order = salt === undefined ? state.slots.order : state.slots.tenantOrder;
    const ends = salt === undefined ? state.slots.orderEnds : state.tenantOrder(salt);
    const victims: number[] = [];
    let freed = 0;
    let skipped = 0;
    for (const slot of order.fromOldest(ends)) {
      if (freed >= bytes || victims.length >= EVICTION_BATCH_MAX || skipped >= PINNED_SKIPS_MAX) break;
      if (space.isPinned(state.slotOffset(slot))) {
        skipped++;
        continue;
      }
      victims.push(slot);
      freed += state.occupied(slot);
    }
    if (victims.length > 0) this.evictSlots(victims, freed, reason);
    return freed;
  }

  evictSlots(slots: readonly number[], bytes: number, reason: EvictionReason): void {
    this.#core.record({ type: "l1.keys.evicted", slots, reason });
    this.evictedObjects += slots.length;
    this.evictedBytes += bytes;
  }

  /** One range of L1, evicting on demand; -1 if everything left is needed. */
  allocate(length: number): number {
    const { space, options } = this.#core;
    for (;;) {
      const offset = space.allocator.allocate(length);
      if (offset >= 0 || options.evictionPolicy === "noop") return offset;
      if (this.evict(space.allocator.roundUp(length), "demand") === 0) return -1;
    }
  }

  /** Ranges for as many objects of equal length as fit, at most `count`. */
  allocateMany(length: number, count: number): number[] {
    const { space, options } = this.#core;
    const offsets: number[] = [];
    while (offsets.length < count) {
      const offset = space.allocator.allocate(length);
      if (offset >= 0) {
        offsets.push(offset);
        continue;
      }
      if (options.evictionPolicy === "noop") break;
      const wanted = space.allocator.roundUp(length) * (count - offsets.length);
      if (this.evict(wanted, "demand") === 0) break;
    }
    return offsets;
  }

  /** Gives ranges back that no event names. */
  giveBack(offsets: readonly number[], length: number): void {
    for (const offset of offsets) this.#core.space.allocator.free(offset, length);
  }

  /**
   * How many objects of `length` bytes a tenant may add now, at most `count`. Evicts the tenant's own oldest
   * objects to make it so.
   */
  admit(salt: string, length: number, count: number): number {
    const { state, space } = this.#core;
    const limit = state.quotas.get(salt);
    if (limit === undefined) return count;
    const each = space.allocator.roundUp(length);
    const held = (): number => this.#heldBytes(salt);
    const wanted = Math.min(count, Math.floor(limit / each)) * each;
    for (let over = held() + wanted - limit; over > 0; over = held() + wanted - limit) {
      if (this.evict(over, "quota", salt) === 0) break;
    }
    return Math.max(0, Math.min(count, Math.floor((limit - held()) / each)));
  }

  /** Whether a tenant's limit leaves no room for one more object of `length` bytes. */
  atQuota(salt: string, length: number): boolean {
    const limit = this.#core.state.quotas.get(salt);
    return limit !== undefined && limit - this.#heldBytes(salt) < this.#core.space.allocator.roundUp(length);
  }

  #heldBytes(salt: string): number {
    return (this.#core.state.tenants.get(salt)?.bytes ?? 0) + this.#stagedBytes(salt);
  }

  #stagedBytes(salt: string): number {
    const { state } = this.#core;
    let bytes = 0;
    for (const transfer of state.transfers.values()) {
      if (transfer.kind !== "write") continue;
      const first = transfer.slots[0];
      if (first === undefined || state.saltOf(first) !== salt) continue;
      bytes += transfer.slots.length * state.occupied(first);
    }
    return bytes;
  }

  /** Above the watermark: frees the configured part of L1, a slice a turn. */
  keepWatermark(): void {
    const { space, options } = this.#core;
    this.watermarkChecks++;
    if (options.evictionPolicy === "noop" || space.capacityBytes === 0) return;
    if (space.usedBytes < space.capacityBytes * options.evictionWatermark) return;
    this.watermarkPassed++;
    const goal = space.capacityBytes * Math.max(0, options.evictionWatermark - options.evictionRatio);
    this.#evictDownTo(goal);
  }

  #evicting = false;

  #evictDownTo(goal: number): void {
    if (this.#evicting) return;
    this.#evicting = true;
    const slice = (): void => {
      const over = this.#core.space.usedBytes - goal;
      const freed = over > 0 && this.#core.healthy ? this.evict(over, "watermark") : 0;
      if (freed > 0) this.#core.commit();
      if (freed > 0 && freed < over) {
        setImmediate(slice);
        return;
      }
      this.#evicting = false;
    };
    slice();
  }
}
